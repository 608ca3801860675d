/*
 * commands.c
 *		create_counter, drop_counter, verify_counter, repair_counter, fold_counter,
 *		counter_value.
 *
 * Making a counter, and repairing one, is one transaction, over the nodes too:
 *
 *		1. check: an error here has changed nothing
 *		2. lock both tables against writers, here and on every node.  A transaction
 *		   that has committed here and is still only prepared on a node has released
 *		   its locks here; the lock on the node waits for it
 *		3. functions, triggers, and the table of deltas
 *		4. compute every value from the source's rows: with a snapshot that is newer
 *		   than the locks, hence READ COMMITTED only
 *
 * Writers wait from 2 to the end; what they then write, the triggers count.
 */
#include "counter/internal.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/timestamp.h"

DBSCALE_FUNCTION(dbscale_create_counter);
DBSCALE_FUNCTION(dbscale_drop_counter);
DBSCALE_FUNCTION(dbscale_verify_counter);
DBSCALE_FUNCTION(dbscale_repair_counter);
DBSCALE_FUNCTION(dbscale_fold_counter);
DBSCALE_FUNCTION(dbscale_counter_value);
DBSCALE_FUNCTION(dbscale_counter_pending);

/* What "_orphans_4095" leaves of a name. */
#define COUNTER_NAME_LENGTH 48

static void
check_owner(Oid relid)
{
	if (!dbscale_is_owner(relid))
		aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(get_rel_relkind(relid)), get_rel_name(relid));
}

static void
check_isolation(const char *command)
{
	if (!IsolationUsesXactSnapshot())
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s cannot be used in a transaction that is %s", command,
					IsolationIsSerializable() ? "serializable" : "repeatable read"),
			 errdetail("Rows that are newer than the transaction's snapshot would not be counted."),
			 errhint("Use a transaction that is read committed.")));
}

/* The tables here, in the order of their OIDs. */
static void
lock_tables(const Counter *counter)
{
	LockRelationOid(Min(counter->target, counter->source), ShareRowExclusiveLock);
	if (counter->target != counter->source)
		LockRelationOid(Max(counter->target, counter->source), ShareRowExclusiveLock);
}

/* Run as the extension's owner from here on; the user to go back to. */
static Oid
become_owner(int *context)
{
	Oid			user;

	GetUserIdAndSecContext(&user, context);
	SetUserIdAndSecContext(dbscale_extension_owner(), *context | SECURITY_LOCAL_USERID_CHANGE);
	return user;
}

/* ---- create ---- */

static List *
names_argument(FunctionCallInfo fcinfo, int n, const char *argument)
{
	Datum	   *elements;
	bool	   *nulls;
	int			count;
	List	   *names = NIL;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(n), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &elements, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			count = 0;
		else
			names = lappend(names, pstrdup(NameStr(*DatumGetName(elements[i]))));
	}
	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must name columns", argument),
				 errdetail("The array is empty or has a null in it."),
				 errhint("Give an array such as '{id}'.")));
	return names;
}

static void
require_arguments(FunctionCallInfo fcinfo)
{
	static const char *const names[] = {
		"target", "target_column", "source", "target_key", "source_key", "aggregate", NULL, NULL, "mode"
	};

	for (int i = 0; i < lengthof(names); i++)
		if (names[i] && PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument \"%s\" must not be null", names[i]),
					 errdetail("The function cannot do without it."),
					 errhint("Give a value.")));
}

static CounterAggregate
aggregate_argument(const char *name)
{
	for (CounterAggregate a = COUNTER_COUNT; a <= COUNTER_MAX; a++)
		if (strcmp(name, dbscale_counter_aggregate_name(a)) == 0)
			return a;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("a counter cannot keep \"%s\"", name),
			 errdetail("The aggregates are count, sum, min and max."),
			 errhint("An average is a sum divided by a count: make two counters.")));
}

static bool
mode_argument(const char *name)
{
	if (strcmp(name, "sync") != 0 && strcmp(name, "buffered") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a counter has no mode \"%s\"", name),
				 errdetail("The modes are sync and buffered."),
				 errhint("Use 'sync' unless many sessions write for one row of the target at the same time.")));
	return strcmp(name, "buffered") == 0;
}

static void
check_not_there(const Counter *counter)
{
	char	   *other = dbscale_counter_query(psprintf("SELECT counter FROM dbscale.counter WHERE target = %u AND target_column = %s",
													   counter->target, quote_literal_cstr(counter->column)));

	if (other)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("column \"%s\" of table \"%s\" is a counter already", counter->column, get_rel_name(counter->target)),
				 errdetail("Counter \"%s\" keeps it.", other),
				 errhint("Use another column, or dbscale.drop_counter('%s') first.", other)));
}

static char *
choose_name(const Counter *counter)
{
	char	   *base = psprintf("%s_%s", get_rel_name(counter->target), counter->column);
	char	   *name;

	base = pnstrdup(base, pg_mbcliplen(base, strlen(base), COUNTER_NAME_LENGTH - 3));
	name = base;
	for (int n = 2; dbscale_counter_query(psprintf("SELECT 1 FROM dbscale.counter WHERE counter = %s"
												   " UNION ALL SELECT 1 FROM pg_class WHERE relnamespace = 'dbscale_shards'::regnamespace"
												   " AND relname = %s UNION ALL SELECT 1 FROM dbscale.distributed_table WHERE stored_name = %s",
												   quote_literal_cstr(name), quote_literal_cstr(psprintf("%s_deltas", name)),
												   quote_literal_cstr(psprintf("%s_deltas", name)))); n++)
		name = psprintf("%s_%d", base, n);
	return name;
}

static void
lock_on_nodes(const Counter *counter, List *places)
{
	CounterBatch *batch = dbscale_counter_batch();
	ListCell   *lc;

	foreach(lc, places)
		dbscale_counter_send(batch, lfirst(lc), InvalidOid, dbscale_counter_lock_sql(lfirst(lc), counter));
	(void) dbscale_counter_finish(batch);
}

static uint64
compute(const Counter *counter, List *places)
{
	CounterBatch *batch = dbscale_counter_batch();
	ListCell   *lc;

	foreach(lc, places)
		dbscale_counter_send_all(batch, lfirst(lc), dbscale_counter_owner(counter->target),
								 dbscale_counter_repair_sql(lfirst(lc), counter));
	return dbscale_counter_finish(batch);
}

void
dbscale_counter_keep(Counter *counter)
{
	List	   *places = dbscale_counter_places(counter->target);

	if (counter->apart)
		dbscale_counter_lock_apart(counter);
	else
		lock_on_nodes(counter, places);
	dbscale_counter_find_out(counter);
	dbscale_counter_install_buffers(counter->source, counter->target);
	dbscale_counter_install_source(counter->source);
	dbscale_counter_install_target(counter->target);
	DEBUG_POINT("counter_triggers_made");
	/* nothing is pending, unless a table of deltas was there: a move's, that waited for its last reader */
	if (counter->apart)
		dbscale_counter_compute_apart(counter);
	else
		(void) compute(counter, places);
	dbscale_counter_set_fingerprint(counter->source, counter->target);
}

static void
create(Counter *counter)
{
	check_not_there(counter);
	dbscale_counter_check(counter);
	counter->name = choose_name(counter);
	dbscale_counter_insert(counter);
	dbscale_counter_keep(counter);
}

Datum
dbscale_create_counter(PG_FUNCTION_ARGS)
{
	Counter    *counter = palloc0(sizeof(Counter));
	Name		result;
	Oid			user;
	int			context;

	require_arguments(fcinfo);
	counter->target = PG_GETARG_OID(0);
	counter->column = pstrdup(NameStr(*PG_GETARG_NAME(1)));
	counter->source = PG_GETARG_OID(2);
	counter->target_key = names_argument(fcinfo, 3, "target_key");
	counter->source_key = names_argument(fcinfo, 4, "source_key");
	counter->aggregate = aggregate_argument(text_to_cstring(PG_GETARG_TEXT_PP(5)));
	counter->value = PG_ARGISNULL(6) ? NULL : pstrdup(NameStr(*PG_GETARG_NAME(6)));
	counter->filter = PG_ARGISNULL(7) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(7));
	counter->buffered = mode_argument(text_to_cstring(PG_GETARG_TEXT_PP(8)));
	check_isolation("create_counter");
	lock_tables(counter);
	check_owner(counter->target);
	check_owner(counter->source);

	user = become_owner(&context);
	create(counter);
	SetUserIdAndSecContext(user, context);

	result = palloc0(NAMEDATALEN);
	namestrcpy(result, counter->name);
	PG_RETURN_NAME(result);
}

/* ---- the others ---- */

/* Returns how many rows of the target have changed: the command's count of rows. */
static int64
fold_all(const Counter *counter, List *places)
{
	CounterBatch *batch = dbscale_counter_batch();
	ListCell   *lc;

	foreach(lc, places)
		dbscale_counter_send(batch, lfirst(lc), InvalidOid,
							 psprintf("SELECT FROM pg_catalog.generate_series(1, (SELECT %s))",
									  dbscale_counter_fold_call(lfirst(lc), counter)));
	return dbscale_counter_finish(batch);
}

/*
 * Before a sharded counter's places are looked up: a split, a merge or assign_key, which
 * wait for this lock, may not make other shards of them until the transaction's end.
 */
static void
lock_places(const Counter *counter)
{
	LockRelationOid(Min(counter->target, counter->source), AccessShareLock);
	if (counter->target != counter->source)
		LockRelationOid(Max(counter->target, counter->source), AccessShareLock);
}

/* The counter, for an owner of its target. */
static Counter *
own_counter(Name name)
{
	Counter    *counter = dbscale_counter_get(NameStr(*name), false);

	check_owner(counter->target);
	return counter;
}

/* The same where there must be something that keeps it. */
static void
check_kept(const Counter *counter)
{
	if (counter->suspended)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("counter \"%s\" is not kept at this moment", counter->name),
				 errdetail("One of its tables has been distributed, or undistributed, in this transaction, and the other has not."),
				 errhint("Do the same with the other table first.")));
}

Datum
dbscale_drop_counter(PG_FUNCTION_ARGS)
{
	Counter    *counter = own_counter(PG_GETARG_NAME(0));
	List	   *places;
	Oid			user;
	int			context;

	lock_tables(counter);
	user = become_owner(&context);
	counter = dbscale_counter_get(counter->name, false);
	places = counter->suspended ? NIL : dbscale_counter_places(counter->target);
	if (counter->apart)
	{
		dbscale_counter_lock_apart(counter);
		dbscale_counter_carry_all(counter, true);
		dbscale_counter_forget_stuck(counter);
	}
	else if (counter->buffered && !counter->suspended)
	{
		lock_on_nodes(counter, places);
		(void) fold_all(counter, places);
	}
	dbscale_counter_drop(counter, places, dbscale_counter_places(counter->source));
	SetUserIdAndSecContext(user, context);
	PG_RETURN_VOID();
}

static uint64
repair_apart(const Counter *counter)
{
	uint64		rows;

	dbscale_counter_lock_apart(counter);
	rows = list_length(dbscale_counter_verify_apart(counter));
	if (rows > 0)
		dbscale_counter_compute_apart(counter);
	return rows;
}

Datum
dbscale_repair_counter(PG_FUNCTION_ARGS)
{
	Counter    *counter = own_counter(PG_GETARG_NAME(0));
	List	   *places;
	uint64		rows;
	Oid			user;
	int			context;

	check_kept(counter);
	check_isolation("repair_counter");
	lock_tables(counter);
	user = become_owner(&context);
	if (counter->apart)
		rows = repair_apart(counter);
	else
	{
		places = dbscale_counter_places(counter->target);
		lock_on_nodes(counter, places);
		rows = compute(counter, places);
	}
	SetUserIdAndSecContext(user, context);
	PG_RETURN_INT64(rows);
}

Datum
dbscale_verify_counter(PG_FUNCTION_ARGS)
{
	Counter    *counter = own_counter(PG_GETARG_NAME(0));
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *rows;
	ListCell   *lc;
	Oid			user;
	int			context;

	check_kept(counter);
	if (counter->apart)
		check_isolation("verify_counter");
	InitMaterializedSRF(fcinfo, 0);
	lock_places(counter);
	user = become_owner(&context);
	rows = counter->apart ? dbscale_counter_verify_apart(counter) :
		dbscale_counter_query_places(dbscale_counter_places(counter->target), counter, dbscale_counter_verify_sql, 3);
	SetUserIdAndSecContext(user, context);
	foreach(lc, rows)
	{
		char	  **row = lfirst(lc);
		Datum		values[3];
		bool		nulls[3] = {false, row[1] == NULL, row[2] == NULL};

		values[0] = DirectFunctionCall1(jsonb_in, CStringGetDatum(row[0]));
		values[1] = row[1] ? CStringGetTextDatum(row[1]) : (Datum) 0;
		values[2] = row[2] ? CStringGetTextDatum(row[2]) : (Datum) 0;
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

Datum
dbscale_fold_counter(PG_FUNCTION_ARGS)
{
	Counter    *counter = own_counter(PG_GETARG_NAME(0));
	int64		folded;
	Oid			user;
	int			context;

	check_kept(counter);
	if (!counter->buffered)
		PG_RETURN_INT64(0);
	check_isolation("fold_counter");
	lock_places(counter);
	user = become_owner(&context);
	folded = counter->apart ? (int64) dbscale_counter_carry_some(counter) :
		fold_all(counter, dbscale_counter_places(counter->target));
	SetUserIdAndSecContext(user, context);
	PG_RETURN_INT64(folded);
}

/* ---- reading ---- */

/* Without row level security to ask, whoever may read the column may read its counter. */
static void
check_readable(const Counter *counter)
{
	AttrNumber	attno = get_attnum(counter->target, counter->column);

	if (pg_class_aclcheck(counter->target, GetUserId(), ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck(counter->target, attno, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, get_relkind_objtype(get_rel_relkind(counter->target)), get_rel_name(counter->target));
	if (check_enable_rls(counter->target, InvalidOid, false) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("counter_value cannot be used with row level security"),
				 errdetail("Table \"%s\" has policies that apply to the user.", get_rel_name(counter->target)),
				 errhint("Read the table itself; what is pending is added to it soon.")));
}

/* The arguments from the second on, as text; false when one is null. */
static bool
key_arguments(FunctionCallInfo fcinfo, List **values)
{
	*values = NIL;
	if (get_fn_expr_variadic(fcinfo->flinfo))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("counter_value does not take VARIADIC"),
				 errdetail("The key's columns are its arguments, one each."),
				 errhint("Give them separated by commas.")));
	for (int i = 1; i < PG_NARGS(); i++)
	{
		Oid			type = get_fn_expr_argtype(fcinfo->flinfo, i);
		Oid			output;
		bool		varlena;

		if (PG_ARGISNULL(i))
			return false;
		getTypeOutputInfo(type, &output, &varlena);
		*values = lappend(*values, type == UNKNOWNOID ? pstrdup(DatumGetCString(PG_GETARG_DATUM(i))) :
						  OidOutputFunctionCall(output, PG_GETARG_DATUM(i)));
	}
	return true;
}

Datum
dbscale_counter_value(PG_FUNCTION_ARGS)
{
	Counter    *counter;
	CounterPlace *place;
	List	   *values;
	char	   *value = NULL;
	Oid			user;
	int			context;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	counter = dbscale_counter_get(NameStr(*PG_GETARG_NAME(0)), false);
	check_kept(counter);
	if (counter->apart)
		check_isolation("counter_value");
	check_readable(counter);
	if (!key_arguments(fcinfo, &values))
		PG_RETURN_NULL();
	if (list_length(values) != list_length(counter->target_key))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("counter \"%s\" has a key of %d columns, not %d", counter->name,
						list_length(counter->target_key), list_length(values)),
				 errdetail("They are %s.", dbscale_counter_list_columns(counter->target_key, "")),
				 errhint("Give a value for each.")));
	lock_places(counter);
	user = become_owner(&context);
	if (counter->apart)
		value = dbscale_counter_value_apart(counter, values);
	else if ((place = dbscale_counter_place_of(counter, values)) != NULL)
		value = dbscale_counter_query_at(place, dbscale_counter_value_sql(place, counter, values));
	SetUserIdAndSecContext(user, context);
	if (value == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(value));
}

/* Where its deltas are, without nodes that are disabled. */
static List *
enabled_places(const Counter *counter)
{
	List	   *enabled = NIL;
	ListCell   *lc;

	foreach(lc, dbscale_counter_delta_places(counter))
	{
		CounterPlace *place = lfirst(lc);

		if (place->group == NULL || place->shard->node->enabled)
			enabled = lappend(enabled, place);
	}
	return enabled;
}

/* Of the places' nodes, the one that has waited longest for the worker; 0: it is not known. */
static TimestampTz
last_fold(List *places)
{
	TimestampTz first = 0;
	ListCell   *lc;

	foreach(lc, places)
	{
		const CounterPlace *place = lfirst(lc);
		TimestampTz at = dbscale_counter_last_fold(dbscale_counter_server_of(place));

		if (at == 0)
			return 0;
		first = first == 0 ? at : Min(first, at);
	}
	return first;
}

Datum
dbscale_counter_pending(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;
	Oid			user;
	int			context;

	InitMaterializedSRF(fcinfo, 0);
	user = become_owner(&context);
	foreach(lc, dbscale_counter_list_names("mode = 'buffered' AND NOT suspended"))
	{
		Counter    *counter = lfirst(lc);
		List	   *places;
		TimestampTz folded;
		int64		pending = 0;
		double		seconds = 0;
		bool		stuck = dbscale_counter_is_stuck(counter);
		Datum		values[5] = {0};
		bool		nulls[5] = {false, false, false, false, !stuck};
		ListCell   *row;

		lock_places(counter);
		places = enabled_places(counter);
		folded = last_fold(places);
		foreach(row, dbscale_counter_query_places(places, counter, dbscale_counter_pending_sql, 2))
		{
			pending += strtoll(((char **) lfirst(row))[0], NULL, 10);
			seconds = Max(seconds, strtod(((char **) lfirst(row))[1], NULL));
		}
		values[0] = DirectFunctionCall1(namein, CStringGetDatum(counter->name));
		values[1] = Int64GetDatum(pending);
		values[2] = TimestampTzGetDatum(GetCurrentTimestamp() - (TimestampTz) (seconds * 1000000));
		nulls[2] = pending == 0;
		nulls[3] = folded == 0;
		values[3] = TimestampTzGetDatum(folded);
		values[4] = CStringGetTextDatum("values that do not fit into the column stay pending");
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	SetUserIdAndSecContext(user, context);
	return (Datum) 0;
}
