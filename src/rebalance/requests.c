/*
 * requests.c
 *		The functions that make jobs, and wait for them: move_shard, split_shard,
 *		merge_shards, isolate_key, and assign_key for keys of many rows.
 *
 * What can be refused is refused here, before there is a job; the rest is told to the
 * caller when the job has ended.
 */
#include "rebalance/internal.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

DBSCALE_FUNCTION(dbscale_move_shard);
DBSCALE_FUNCTION(dbscale_split_shard);
DBSCALE_FUNCTION(dbscale_merge_shards);
DBSCALE_FUNCTION(dbscale_isolate_key);
DBSCALE_FUNCTION(dbscale_assign_key);

static bool
is_alone(void)
{
	return !IsTransactionBlock() && !IsSubTransaction() && dbscale_transaction_is_untouched();
}

static void
require_no_transaction(JobKind kind)
{
	if (is_alone())
		return;
	if (kind == JOB_MOVE)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("an online move cannot run inside a transaction"),
				 errdetail("It is carried out in many transactions, and would wait for the end of this one."),
				 errhint("Call dbscale.move_shard by itself, or with method => 'blocking'.")));
	ereport(ERROR,
			(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
			 errmsg("shards cannot be split or merged inside a transaction"),
			 errdetail("It is carried out in many transactions, and would wait for the end of this one."),
			 errhint("Call the function by itself.")));
}

static void
abandon(int code, Datum slot)
{
	board_abandon(DatumGetInt32(slot));
}

static void
wait_for_end(int slot, BackgroundWorkerHandle *handle, JobOutcome *outcome)
{
	pid_t		pid;

	while (!board_has_ended(slot, outcome))
	{
		if (GetBackgroundWorkerPid(handle, &pid) == BGWH_STOPPED && !board_has_ended(slot, outcome))
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("could not start a worker for the move"),
					 errdetail("The server could not make a process for it."),
					 errhint("See the server's log.")));
		jobs_sleep_a_little();
	}
}

/* The caller's interrupt is the job's. */
static void
run_and_wait(int slot, JobOutcome *outcome)
{
	BackgroundWorkerHandle *handle = NULL;

	if (!board_start_worker(slot, &handle))
	{
		board_free(slot);
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("could not start a worker for the move"),
				 errdetail("All background workers of the server are in use."),
				 errhint("Increase max_worker_processes.")));
	}
	PG_ENSURE_ERROR_CLEANUP(abandon, Int32GetDatum(slot));
	{
		wait_for_end(slot, handle, outcome);
	}
	PG_END_ENSURE_ERROR_CLEANUP(abandon, Int32GetDatum(slot));
}

/* In a worker. */
static void
run_job_for(JobRequest *request, JobOutcome *outcome)
{
	int			slot;

	request->userid = GetUserId();
	while ((slot = board_take(request, true)) < 0)
		jobs_sleep_a_little();
	run_and_wait(slot, outcome);
	dbscale_catalog_refresh();
}

/* Its error, if there is one, is ours. */
static void
raise_outcome(const JobOutcome *outcome)
{
	if (outcome->failed)
		ereport(ERROR,
				(errcode(outcome->sqlstate),
				 errmsg_internal("%s", outcome->message),
				 outcome->detail[0] ? errdetail_internal("%s", outcome->detail) : 0,
				 outcome->hint[0] ? errhint("%s", outcome->hint) : 0));
}

static void
run_job(JobRequest *request)
{
	JobOutcome	outcome = {0};

	run_job_for(request, &outcome);
	raise_outcome(&outcome);
}

static void
move_shard_online(Oid relid, int shard, const char *node)
{
	JobRequest *request = palloc0(sizeof(JobRequest));

	request->kind = JOB_MOVE;
	request->relation = relid;
	request->shard = shard;
	namestrcpy(&request->node, node);
	run_job(request);
}

/* Arguments: relation regclass, shard int, node name, method text. */
Datum
dbscale_move_shard(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	int			shard = PG_GETARG_INT32(1);
	char	   *node = NameStr(*PG_GETARG_NAME(2));
	char	   *method = text_to_cstring(PG_GETARG_TEXT_PP(3));

	move_check_arguments(relid, shard, node);
	if (strcmp(method, "online") == 0)
	{
		require_no_transaction(JOB_MOVE);
		move_shard_online(relid, shard, node);
	}
	else if (strcmp(method, "blocking") == 0)
		move_shard_blocking(relid, shard, node);
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no method \"%s\"", method),
				 errdetail("A shard is moved 'online', or 'blocking' readers and writers of its tables."),
				 errhint("Leave the method out to move it online.")));
	PG_RETURN_VOID();
}

static bool
is_on(const DistributedTable *table, int shard, const char *node)
{
	return strcmp(NameStr(dbscale_ddl_require_shard(table, shard)->node->name), node) == 0;
}

static void
set_argument(JobRequest *request, const char *text)
{
	if (strlen(text) >= JOB_ARGUMENT)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the key or bound is too long"),
				 errdetail("It has %zu bytes, and may have %d.", strlen(text), JOB_ARGUMENT - 1),
				 errhint("Split the shard elsewhere.")));
	request->has_argument = true;
	strlcpy(request->argument, text, JOB_ARGUMENT);
}

static void
require_argument(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name),
				 errdetail("The function cannot do without it."), errhint("Give a value.")));
}

/* Arguments: relation regclass, shard int, and one more int, which the caller names. */
static JobRequest *
request_of(FunctionCallInfo fcinfo, JobKind kind, const char *number)
{
	JobRequest *request = palloc0(sizeof(JobRequest));

	require_argument(fcinfo, 0, "relation");
	require_argument(fcinfo, 1, "shard");
	require_argument(fcinfo, 2, number);
	request->kind = kind;
	request->relation = PG_GETARG_OID(0);
	request->shard = PG_GETARG_INT32(1);
	request->number = PG_GETARG_INT32(2);
	return request;
}

/* Arguments: relation regclass, shard int, parts int, bound text (may be NULL). */
Datum
dbscale_split_shard(PG_FUNCTION_ARGS)
{
	JobRequest *request = request_of(fcinfo, JOB_SPLIT, "parts");

	if (!PG_ARGISNULL(3))
		set_argument(request, text_to_cstring(PG_GETARG_TEXT_PP(3)));
	reshard_check_arguments(request);
	require_no_transaction(JOB_SPLIT);
	run_job(request);
	PG_RETURN_VOID();
}

/* Arguments: relation regclass, shard int, into_shard int.  A shard of another node comes first. */
Datum
dbscale_merge_shards(PG_FUNCTION_ARGS)
{
	JobRequest *request = request_of(fcinfo, JOB_MERGE, "into_shard");
	const DistributedTable *table;

	reshard_check_arguments(request);
	require_no_transaction(JOB_MERGE);
	table = dbscale_catalog_require_distributed(request->relation);
	request->node = dbscale_ddl_require_shard(table, request->number)->node->name;
	if (!is_on(table, request->shard, NameStr(request->node)))
		move_check_arguments(request->relation, request->shard, NameStr(request->node));
	run_job(request);
	PG_RETURN_VOID();
}

/* The shard of a key; an error where there is none. */
static int
shard_of_key(const DistributedTable *table, Datum key)
{
	int			shard = dbscale_route_key(table, key, false);

	if (shard < 0)
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("table \"%s\" has no shard for this key", get_rel_name(table->relid)),
				 errdetail("The key is outside the bounds of every shard."),
				 errhint("Use dbscale.add_shard() to add one.")));
	return shard;
}

/* Splits the shard so that the key has one of its own, unless it has; its number.  A new one goes to the node. */
static int
isolate_key(Oid relid, Datum key, const char *node)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(relid);
	JobRequest *request;
	int			alone = reshard_shard_of_key_alone(table, key);

	if (alone >= 0)
		return alone;
	request = palloc0(sizeof(JobRequest));
	request->kind = JOB_ISOLATE;
	request->relation = relid;
	request->shard = shard_of_key(table, key);
	if (node != NULL)
	{
		request->number = 1;
		namestrcpy(&request->node, node);
	}
	set_argument(request, dbscale_key_to_text(table->group->key_type, key));
	reshard_check_arguments(request);
	require_no_transaction(JOB_ISOLATE);
	run_job(request);
	return shard_of_key(dbscale_catalog_require_distributed(relid), key);
}

/* Arguments: relation regclass, key anyelement (or text), node name (may be NULL). */
Datum
dbscale_isolate_key(PG_FUNCTION_ARGS)
{
	const DistributedTable *table;
	Datum		key;
	int			shard;
	char	   *node;

	require_argument(fcinfo, 0, "relation");
	require_argument(fcinfo, 1, "key");
	node = PG_ARGISNULL(2) ? NULL : NameStr(*PG_GETARG_NAME(2));
	table = dbscale_catalog_require_distributed(PG_GETARG_OID(0));
	dbscale_ddl_check_owner(table->group);
	if (node != NULL)
		(void) dbscale_catalog_require_node(node, true);
	key = dbscale_cast_key(table, PG_GETARG_DATUM(1), get_fn_expr_argtype(fcinfo->flinfo, 1));
	shard = shard_of_key(table, key);
	/* what keeps the shard from moving keeps its part, too */
	if (node != NULL && !is_on(table, shard, node))
		move_check_arguments(PG_GETARG_OID(0), shard, node);
	shard = isolate_key(PG_GETARG_OID(0), key, node);
	table = dbscale_catalog_require_distributed(PG_GETARG_OID(0));
	/* it had one */
	if (node != NULL && !is_on(table, shard, node))
	{
		require_no_transaction(JOB_MOVE);
		move_check_arguments(PG_GETARG_OID(0), shard, node);
		move_shard_online(PG_GETARG_OID(0), shard, node);
	}
	PG_RETURN_INT32(shard);
}

/* ---- assign_key ---- */

/* A job would wait for the locks of its caller's statement, which waits for the job. */
static bool
holds_lock(const TableGroup *group)
{
	ListCell   *lc;

	foreach(lc, group->tables)
		if (CheckRelationOidLockedByMe(lfirst_oid(lc), AccessShareLock, true))
			return true;
	return false;
}

/* A condition: has the key's rows in all tables of the group, more than so many? */
static char *
has_more_rows_sql(const DistributedTable *table, int shard, const char *key, int rows)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	foreach(lc, table->group->tables)
	{
		const DistributedTable *member = dbscale_catalog_require_distributed(lfirst_oid(lc));

		appendStringInfo(&sql, "%s(SELECT 1 FROM ONLY %s WHERE %s OPERATOR(pg_catalog.=) %s LIMIT " INT64_FORMAT ")",
						 sql.len > 0 ? " UNION ALL " : "", dbscale_ddl_shard_table_name(member, shard),
						 quote_identifier(get_attname(member->relid, member->key_attno, false)),
						 quote_literal_cstr(key), (int64) rows + 1);
	}
	return psprintf("SELECT 1 FROM (%s) r OFFSET %d LIMIT 1", sql.data, rows);
}

/* Asked in a session of its own, which leaves no lock behind for which the job would wait. */
static bool
has_many_rows(const DistributedTable *table, const Shard *shard, const char *key)
{
	RemoteStream *stream = dbscale_stream_open(shard->node->serverid, dbscale_ddl_node_user(shard->node), false);
	bool		many = dbscale_stream_value(stream, has_more_rows_sql(table, shard->number, key,
																		dbscale_assign_key_online_rows)) != NULL;

	dbscale_stream_close(stream);
	return many;
}

/*
 * Is this the key's way to the shard?  What is wrong with the request is told by the other
 * way.  DDL that is under way is waited for here, not on the node, where nobody would see
 * whom we wait for; the locks end with the question, for the job would wait for them.
 */
static bool
may_assign_online(Oid relid, Datum key, int number)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(relid);
	const Shard *shard;
	const Shard *target;
	List	   *locked;
	ListCell   *lc;
	bool		online;

	if (dbscale_assign_key_online_rows < 0 || !is_alone() || holds_lock(table->group))
		return false;
	dbscale_ddl_check_owner(table->group);
	locked = list_copy(table->group->tables);
	list_sort(locked, list_oid_cmp);
	foreach(lc, locked)
		LockRelationOid(lfirst_oid(lc), AccessShareLock);
	table = dbscale_catalog_require_distributed(relid);
	shard = dbscale_ddl_require_shard(table, dbscale_route_key(table, key, false));
	target = dbscale_catalog_shard(table->group, number);
	online = target != NULL && shard != target && shard->node->enabled && target->node->enabled &&
		has_many_rows(table, shard, dbscale_key_to_text(table->group->key_type, key));
	foreach(lc, locked)
		UnlockRelationOid(lfirst_oid(lc), AccessShareLock);
	return online;
}

/* False: it cannot be done so, and nothing has changed. */
static bool
assign_online(Oid relid, Datum key, int number)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(relid);
	JobRequest *request = palloc0(sizeof(JobRequest));
	JobOutcome	outcome = {0};

	request->kind = JOB_ASSIGN;
	request->relation = relid;
	request->shard = dbscale_route_key(table, key, false);
	request->node = dbscale_ddl_require_shard(table, number)->node->name;
	request->number = number;
	set_argument(request, dbscale_key_to_text(table->group->key_type, key));
	run_job_for(request, &outcome);
	if (!outcome.failed)
		return true;
	table = dbscale_catalog_require_distributed(relid);
	if ((outcome.sqlstate != ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE && outcome.sqlstate != ERRCODE_FEATURE_NOT_SUPPORTED) ||
		dbscale_route_key(table, key, false) != request->shard)
		raise_outcome(&outcome);
	ereport(NOTICE,
			(errmsg("the key's rows are moved while the table is locked"),
			 errdetail_internal("%s: %s", outcome.message, outcome.detail)));
	return false;
}

/* Arguments: relation regclass, key anyelement (or text), shard int. */
Datum
dbscale_assign_key(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Oid			type = get_fn_expr_argtype(fcinfo->flinfo, 1);
	Datum		key;

	require_argument(fcinfo, 0, "relation");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"key\" must not be null"),
				 errdetail("Rows whose key is null are always in shard 0."), errhint("Give a value.")));
	require_argument(fcinfo, 2, "shard");
	dbscale_ddl_check_isolation("assign_key");
	dbscale_ddl_check_directory(relid);
	key = dbscale_cast_key(dbscale_catalog_require_distributed(relid), PG_GETARG_DATUM(1), type);
	if (!may_assign_online(relid, key, PG_GETARG_INT32(2)) || !assign_online(relid, key, PG_GETARG_INT32(2)))
		dbscale_ddl_assign_key(relid, PG_GETARG_DATUM(1), type, PG_GETARG_INT32(2));
	PG_RETURN_VOID();
}
