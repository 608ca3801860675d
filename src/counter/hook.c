/*
 * hook.c
 *		DDL on tables that have counters.
 *
 * Our ProcessUtility hook stands around ddl/'s.  Before a statement that may concern
 * a counter it notes what it must know; PostgreSQL, and ddl/ for the shards, do the
 * statement; then
 *
 *		the columns' names in dbscale.counter, and its filters, follow a RENAME
 *		a counter whose table is gone is dropped, with all that was made for it
 *		a counter that the table no longer suits (a column that is gone, a key that is
 *		not unique any more) is an error, which undoes the statement
 *		where the generated SQL would be another (names, owners, a foreign key that
 *		came or went), it is made anew
 *
 * all in the statement's transaction, under its locks.
 *
 * While a dump is restored the counters' rows are there before the triggers are: until
 * then DDL is none of our business.  And what such a script adds (a primary key to one
 * table, before the other's) cannot harm a counter.
 */
#include "counter/groups.h"

#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/* A counter as it is before the statement. */
typedef struct Noted
{
	Counter    *counter;
	List	   *places;			/* of its target */
	List	   *source_places;
	Node	   *filter;
	List	   *target_functions;	/* DROP: lists of commands, parallel to the places */
	List	   *source_functions;
} Noted;

/* Which counters a statement may concern. */
typedef struct Concern
{
	bool		any;
	bool		drops;			/* tables may be gone afterwards */
	bool		all;			/* those of plain tables, whichever */
	Oid			relid;			/* else of this table */
	const char *old_column;		/* RENAME COLUMN */
	const char *new_column;
} Concern;

static ProcessUtility_hook_type previous_hook = NULL;

static Oid
relation_of(RangeVar *relation)
{
	Oid			relid = relation ? RangeVarGetRelid(relation, NoLock, true) : InvalidOid;
	char		kind = OidIsValid(relid) ? get_rel_relkind(relid) : 0;

	if (kind == RELKIND_INDEX || kind == RELKIND_PARTITIONED_INDEX)
		return IndexGetRelation(relid, true);
	return relid;
}

static void
concern_of_rename(RenameStmt *stmt, Concern *concern)
{
	concern->any = true;
	concern->all = stmt->renameType == OBJECT_SCHEMA;
	concern->relid = relation_of(stmt->relation);
	if (stmt->renameType == OBJECT_COLUMN)
	{
		concern->old_column = stmt->subname;
		concern->new_column = stmt->newname;
	}
}

/* Forms of ALTER TABLE that can neither break a counter nor change its SQL. */
static bool
is_harmless(AlterTableCmd *cmd)
{
	switch (cmd->subtype)
	{
		case AT_AddConstraint:
			return castNode(Constraint, cmd->def)->contype != CONSTR_FOREIGN;
		case AT_AddColumn:
		case AT_AttachPartition:
		case AT_ClusterOn:
		case AT_ColumnDefault:
		case AT_EnableRowSecurity:
		case AT_ReplicaIdentity:
		case AT_SetOptions:
		case AT_SetStatistics:
			return true;
		default:
			return false;
	}
}

static bool
all_harmless(AlterTableStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
		if (!is_harmless(lfirst(lc)))
			return false;
	return true;
}

static bool
is_our_trigger(const char *name)
{
	for (int i = 0; i < lengthof(dbscale_counter_source_triggers); i++)
		if (strcmp(name, dbscale_counter_source_triggers[i]) == 0)
			return true;
	for (int i = 0; i < lengthof(dbscale_counter_target_triggers); i++)
		if (strcmp(name, dbscale_counter_target_triggers[i]) == 0)
			return true;
	return false;
}

/* DROP TRIGGER of a counter's: its name stands behind the table's. */
static void
check_drop_trigger(DropStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->objects)
	{
		List	   *name = lfirst(lc);
		Oid			relid = RangeVarGetRelid(makeRangeVarFromNameList(list_truncate(list_copy(name), list_length(name) - 1)), NoLock, true);
		char	   *counter;

		if (!OidIsValid(relid) || !is_our_trigger(strVal(llast(name))))
			continue;
		counter = dbscale_counter_query(psprintf("SELECT counter FROM dbscale.counter WHERE source = %u OR target = %u ORDER BY 1 LIMIT 1",
												 relid, relid));
		if (counter)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot drop trigger \"%s\" of table \"%s\"", strVal(llast(name)), get_rel_name(relid)),
					 errdetail("Counter \"%s\" is kept by it.", counter),
					 errhint("Use dbscale.drop_counter('%s').", counter)));
	}
}

/*
 * DROP INDEX CONCURRENTLY works in transactions of its own, so afterwards it is too late.
 * It holds the lock that we take here to its end, so two of them see each other.  (It
 * cannot drop indexes of constraints, nor those of distributed tables.)
 */
static void
check_drop_concurrently(DropStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->objects)
	{
		Oid			index = RangeVarGetRelid(makeRangeVarFromNameList(lfirst(lc)), NoLock, true);
		Oid			relid = OidIsValid(index) && get_rel_relkind(index) == RELKIND_INDEX ? IndexGetRelation(index, true) : InvalidOid;
		ListCell   *lc2;

		if (!OidIsValid(relid) || !dbscale_is_owner(relid))
			continue;
		LockRelationOid(relid, ShareUpdateExclusiveLock);
		foreach(lc2, dbscale_counter_list_names(psprintf("target = %u", relid)))
			dbscale_counter_check_unique(lfirst(lc2), index);
	}
}

static Concern
concern_of(Node *stmt)
{
	Concern		concern = {0};

	switch (nodeTag(stmt))
	{
		case T_RenameStmt:
			concern_of_rename((RenameStmt *) stmt, &concern);
			break;
		case T_AlterTableStmt:
			concern.any = !all_harmless((AlterTableStmt *) stmt);
			concern.relid = concern.any ? relation_of(((AlterTableStmt *) stmt)->relation) : InvalidOid;
			break;
		case T_AlterObjectSchemaStmt:
			concern.any = true;
			concern.relid = relation_of(((AlterObjectSchemaStmt *) stmt)->relation);
			break;
		case T_DropStmt:
			/* CONCURRENTLY ends the transaction: check_drop_concurrently */
			concern.any = concern.all = concern.drops = !((DropStmt *) stmt)->concurrent;
			break;
		case T_DropOwnedStmt:
			concern.any = concern.all = concern.drops = true;
			break;
		case T_ReassignOwnedStmt:
			concern.any = concern.all = true;
			break;
		default:
			break;
	}
	return concern;
}

static bool
is_gone(const Counter *counter)
{
	return get_rel_name(counter->target) == NULL || get_rel_name(counter->source) == NULL;
}

/* Triggers go with their table; their functions do not, and are found by the table's name. */
static void
note_functions(Noted *note)
{
	ListCell   *lc;

	foreach(lc, note->places)
		note->target_functions = lappend(note->target_functions,
										 dbscale_counter_drop_functions_sql(lfirst(lc), note->counter->target));
	foreach(lc, note->source_places)
		note->source_functions = lappend(note->source_functions,
										 dbscale_counter_drop_functions_sql(lfirst(lc), note->counter->source));
}

static List *
note_counters(const Concern *concern)
{
	List	   *noted = NIL;
	ListCell   *lc;

	foreach(lc, dbscale_counter_list_names(NULL))
	{
		Counter    *counter = lfirst(lc);
		Noted	   *note;

		/* gone already: we are inside of the DROP, whose own call sees to it */
		if (is_gone(counter))
			continue;
		if (!concern->all && counter->target != concern->relid && counter->source != concern->relid)
			continue;
		note = palloc0(sizeof(Noted));
		note->counter = counter;
		note->places = counter->suspended ? NIL : dbscale_counter_places(counter->target);
		note->source_places = counter->suspended ? NIL : dbscale_counter_places(counter->source);
		if (concern->old_column && counter->filter && counter->source == concern->relid)
			note->filter = dbscale_counter_parse_filter(counter->source, counter->filter);
		if (concern->drops)
			note_functions(note);
		noted = lappend(noted, note);
	}
	return noted;
}

static void
rename_column(const Concern *concern, List *noted)
{
	char	   *from = quote_literal_cstr(concern->old_column);
	char	   *to = quote_literal_cstr(concern->new_column);
	ListCell   *lc;

	dbscale_counter_execute(psprintf("UPDATE dbscale.counter SET target_key = array_replace(target_key, %s::name, %s::name),"
									 " target_column = CASE target_column WHEN %s THEN %s ELSE target_column END WHERE target = %u",
									 from, to, from, to, concern->relid));
	dbscale_counter_execute(psprintf("UPDATE dbscale.counter SET source_key = array_replace(source_key, %s::name, %s::name),"
									 " value_column = CASE value_column WHEN %s THEN %s ELSE value_column END WHERE source = %u",
									 from, to, from, to, concern->relid));
	foreach(lc, noted)
	{
		Noted	   *note = lfirst(lc);

		if (note->filter)
			dbscale_counter_execute(psprintf("UPDATE dbscale.counter SET filter = %s WHERE counter = %s",
											 quote_literal_cstr(dbscale_counter_print_filter(concern->relid, note->filter)),
											 quote_literal_cstr(note->counter->name)));
	}
}

/* The places on nodes that are not disabled; where the table is gone, its functions go too. */
static List *
drop_functions(CounterBatch *batch, Oid relid, List *places, List *functions)
{
	List	   *enabled = NIL;

	for (int i = 0; i < list_length(places); i++)
	{
		CounterPlace *place = list_nth(places, i);

		if (place->group && !place->shard->node->enabled)
			continue;
		enabled = lappend(enabled, place);
		if (get_rel_name(relid) == NULL)
			dbscale_counter_send_all(batch, place, InvalidOid, list_nth(functions, i));
	}
	return enabled;
}

/* A counter whose tables, or one of them, are gone; nodes that are disabled keep what they have. */
static void
drop_rest(const Noted *note)
{
	CounterBatch *batch = dbscale_counter_batch();
	const Counter *counter = note->counter;
	List	   *targets = drop_functions(batch, counter->target, note->places, note->target_functions);
	List	   *sources = drop_functions(batch, counter->source, note->source_places, note->source_functions);

	(void) dbscale_counter_finish(batch);
	dbscale_counter_drop(counter, targets, sources);
}

/* Plain tables have no triggers yet while a dump is restored. */
static bool
has_trigger(Oid relid, const char *trigger)
{
	return dbscale_counter_is_sharded(relid) ||
		dbscale_counter_query(psprintf("SELECT 1 FROM pg_trigger WHERE tgrelid = %u AND tgname = %s", relid,
									   quote_literal_cstr(trigger))) != NULL;
}

/* A statement about other objects can change shards' tables only by dropping them. */
static bool
needs_look(const Concern *concern, const Noted *note)
{
	const Counter *counter = note->counter;

	if (dbscale_counter_is_sharded(counter->source) && dbscale_counter_is_sharded(counter->target))
		return !concern->all;
	return has_trigger(counter->source, dbscale_counter_source_triggers[0]) &&
		has_trigger(counter->target, dbscale_counter_target_triggers[0]);
}

/* Make the tables' functions anew if they would be others. */
static void
refresh(const char *name)
{
	Counter    *counter = dbscale_counter_get(name, false);
	char	   *fingerprint;

	fingerprint = dbscale_counter_fingerprint(counter->source, counter->target);
	if (counter->fingerprint && strcmp(fingerprint, counter->fingerprint) == 0)
		return;
	dbscale_counter_install_buffers(counter->source, counter->target);
	dbscale_counter_install_source(counter->source);
	dbscale_counter_install_target(counter->target);
	dbscale_counter_set_fingerprint(counter->source, counter->target);
}

static void
after(const Concern *concern, List *noted)
{
	List	   *looked_at = NIL;
	ListCell   *lc;

	CommandCounterIncrement();
	if (concern->old_column)
		rename_column(concern, noted);
	/* all of them first: what is made anew below must not speak of them */
	foreach(lc, noted)
		if (is_gone(((Noted *) lfirst(lc))->counter))
			dbscale_counter_forget(((Noted *) lfirst(lc))->counter);
	foreach(lc, noted)
	{
		Noted	   *note = lfirst(lc);

		if (is_gone(note->counter))
			drop_rest(note);
		else if (note->places != NIL && needs_look(concern, note))
			looked_at = lappend(looked_at, (void *) note->counter->name);
	}
	/* all are checked first: the SQL of a table speaks of all its counters */
	foreach(lc, looked_at)
		dbscale_counter_check(dbscale_counter_get(lfirst(lc), false));
	foreach(lc, looked_at)
		refresh(lfirst(lc));
}

static void
call_previous(PlannedStmt *pstmt, const char *query, bool read_only_tree, ProcessUtilityContext context,
			  ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *qc)
{
	if (previous_hook)
		previous_hook(pstmt, query, read_only_tree, context, params, environment, dest, qc);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params, environment, dest, qc);
}

static void
utility_hook(PlannedStmt *pstmt, const char *query, bool read_only_tree, ProcessUtilityContext context,
			 ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *qc)
{
	Concern		concern = concern_of(pstmt->utilityStmt);
	List	   *noted = NIL;
	Oid			user;
	int			security;

	if (IsA(pstmt->utilityStmt, DropStmt) && ((DropStmt *) pstmt->utilityStmt)->concurrent && IsTransactionState() &&
		dbscale_extension_exists())
		check_drop_concurrently((DropStmt *) pstmt->utilityStmt);
	if (concern.any && dbscale_counter_internal == 0 && !creating_extension && context != PROCESS_UTILITY_SUBCOMMAND &&
		IsTransactionState() && dbscale_extension_exists())
	{
		if (IsA(pstmt->utilityStmt, DropStmt) && ((DropStmt *) pstmt->utilityStmt)->removeType == OBJECT_TRIGGER)
			check_drop_trigger((DropStmt *) pstmt->utilityStmt);
		GetUserIdAndSecContext(&user, &security);
		SetUserIdAndSecContext(dbscale_extension_owner(), security | SECURITY_LOCAL_USERID_CHANGE);
		noted = note_counters(&concern);
		SetUserIdAndSecContext(user, security);
	}
	call_previous(pstmt, query, read_only_tree, context, params, environment, dest, qc);
	if (noted == NIL || !dbscale_extension_exists())
		return;
	/* nodes are asked, and triggers made, on behalf of whoever has changed his table */
	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(dbscale_extension_owner(), security | SECURITY_LOCAL_USERID_CHANGE);
	after(&concern, noted);
	SetUserIdAndSecContext(user, security);
}

/* ---- what ddl/ and rebalance/ ask ---- */

List *
dbscale_counter_tables_apart(const TableGroup *group)
{
	List	   *tables = NIL;
	ListCell   *lc;

	foreach(lc, dbscale_counter_list_names("apart"))
	{
		const Counter *counter = lfirst(lc);
		bool		target = list_member_oid(group->tables, counter->target);
		bool		source = list_member_oid(group->tables, counter->source);

		if (target != source)
			tables = list_append_unique_oid(tables, target ? counter->source : counter->target);
	}
	return tables;
}

static CounterObject *
add_object(List **objects, const char *kind, char *name)
{
	CounterObject *object = palloc0(sizeof(CounterObject));

	object->kind = kind;
	object->name = name;
	object->key = -1;
	*objects = lappend(*objects, object);
	return object;
}

static void
add_buffer(List **objects, const CounterPlace *place, const Counter *counter)
{
	CounterObject *deltas = add_object(objects, "table", dbscale_counter_bare_name(place, counter, COUNTER_DELTAS));
	char	   *k = dbscale_counter_list_k(list_length(counter->source_key), "");

	if (!counter->apart)
	{
		(void) add_object(objects, "function", dbscale_counter_bare_name(place, counter, COUNTER_FOLD));
		return;
	}
	deltas->columns = psprintf("%s, delta, made_at", k);
	deltas->rows = psprintf("SELECT %s, sum(delta), min(made_at) FROM %s GROUP BY %s HAVING sum(delta) <> 0", k,
							dbscale_counter_buffer_name(place, counter), k);
}

/* Which of a sharded target's key columns is its shard key, from 0; check.c sees to it that one is. */
static int
shard_key_of(const Counter *counter)
{
	const DistributedTable *table = dbscale_catalog_table(counter->target);
	char	   *column = get_attname(table->relid, table->key_attno, false);
	ListCell   *lc;

	foreach(lc, counter->target_key)
		if (strcmp(lfirst(lc), column) == 0)
			return foreach_current_index(lc);
	return 0;
}

static void
add_orphans(List **objects, const CounterPlace *place, const Counter *counter)
{
	CounterObject *orphans = add_object(objects, "table", dbscale_counter_bare_name(place, counter, COUNTER_ORPHANS));

	(void) add_object(objects, "function", dbscale_counter_bare_name(place, counter, COUNTER_LOCK));
	orphans->columns = psprintf("%s, value", dbscale_counter_list_k(list_length(counter->target_key), ""));
	orphans->rows = psprintf("SELECT %s FROM %s", orphans->columns, dbscale_counter_orphans_name(place, counter));
	orphans->key = shard_key_of(counter);
}

List *
dbscale_counter_objects(const TableGroup *group, const Shard *shard)
{
	CounterPlace place = {group, shard};
	List	   *objects = NIL;
	ListCell   *lc;

	foreach(lc, group->tables)
	{
		Oid			relid = lfirst_oid(lc);
		List	   *as_source = dbscale_counter_list_names(psprintf("source = %u", relid));
		List	   *as_target = dbscale_counter_list_names(psprintf("target = %u", relid));
		ListCell   *lc2;

		foreach(lc2, as_source)
			if (((Counter *) lfirst(lc2))->buffered)
				add_buffer(&objects, &place, lfirst(lc2));
		foreach(lc2, as_target)
			if (((Counter *) lfirst(lc2))->apart)
				add_orphans(&objects, &place, lfirst(lc2));
		if (as_source != NIL)
			(void) add_object(&objects, "function", dbscale_counter_shard_function(&place, relid, false));
		if (as_target != NIL)
			(void) add_object(&objects, "function", dbscale_counter_shard_function(&place, relid, true));
	}
	return objects;
}

/* By 10 and 11 of carry.c: carriers that are not yet at their end on the shard's node are waited for, and readers too. */
static List *
hold_sql(const TableGroup *group)
{
	List	   *commands = NIL;
	ListCell   *lc;

	foreach(lc, dbscale_counter_list_names("apart AND NOT suspended"))
	{
		const Counter *counter = lfirst(lc);

		if (list_member_oid(group->tables, counter->target) || list_member_oid(group->tables, counter->source))
			commands = lappend(commands, dbscale_counter_hold_sql(counter));
	}
	return commands;
}

/* Commands for one table of a shard. */
static List *
table_sql(const CounterPlace *place, Oid relid, ShardMoment moment)
{
	List	   *as_source = dbscale_counters_of_source(relid);
	List	   *as_target = dbscale_counters_of_target(relid);
	List	   *commands = NIL;
	ListCell   *lc;

	foreach(lc, as_target)
	{
		Counter    *counter = lfirst(lc);

		if (counter->apart && moment == SHARD_MADE)
			commands = list_concat(commands, dbscale_counter_orphans_sql(place, counter));
		if (counter->apart && moment == SHARD_LEFT)
			commands = list_concat(commands, dbscale_counter_drop_orphans_sql(place, counter));
	}
	foreach(lc, as_source)
	{
		Counter    *counter = lfirst(lc);

		if (!counter->buffered)
			continue;
		if (moment == SHARD_MADE)
			commands = list_concat(commands, dbscale_counter_buffer_sql(place, counter));
		else if (moment == SHARD_LEFT)
			commands = list_concat(commands, dbscale_counter_drop_buffer_sql(place, counter));
		else if (moment == SHARD_LEAVING && !counter->apart)
			commands = list_concat(commands, dbscale_counter_empty_buffer_sql(place, counter));
	}
	if (moment == SHARD_MADE && as_source)
		commands = list_concat(commands, dbscale_counter_source_sql(place, relid, as_source));
	if (moment == SHARD_MADE && as_target)
		commands = list_concat(commands, dbscale_counter_target_sql(place, relid, as_target));
	if (moment == SHARD_LEFT && (as_source || as_target))
		commands = list_concat(commands, dbscale_counter_drop_functions_sql(place, relid));
	return commands;
}

List *
dbscale_counter_shard_sql(const TableGroup *group, const Shard *shard, ShardMoment moment)
{
	CounterPlace *place = palloc0(sizeof(CounterPlace));
	List	   *commands = NIL;
	ListCell   *lc;

	place->group = group;
	place->shard = shard;
	foreach(lc, group->tables)
		commands = list_concat(commands, table_sql(place, lfirst_oid(lc), moment));
	if (moment == SHARD_LEAVING || moment == SHARD_RECEIVING)
		commands = list_concat(commands, hold_sql(group));
	return commands;
}

/* What is kept of the key without a row (12 of carry.c). */
static KeyTable *
key_table(const Counter *counter, const TableGroup *group, const Shard *source, const Shard *target)
{
	CounterPlace from = {group, source};
	CounterPlace to = {group, target};
	KeyTable   *result = palloc(sizeof(KeyTable));

	result->from = dbscale_counter_orphans_name(&from, counter);
	result->to = dbscale_counter_orphans_name(&to, counter);
	result->columns = psprintf("%s, value", dbscale_counter_list_k(list_length(counter->target_key), ""));
	/* k is of the source's type */
	result->condition = psprintf("k%d OPERATOR(pg_catalog.=) $1::%s", shard_key_of(counter) + 1, format_type_be_qualified(group->key_type));
	return result;
}

List *
dbscale_counter_key_tables(const TableGroup *group, const Shard *source, const Shard *target)
{
	List	   *tables = NIL;
	ListCell   *lc;

	foreach(lc, dbscale_counter_list_names("apart AND NOT suspended"))
		if (list_member_oid(group->tables, ((Counter *) lfirst(lc))->target))
			tables = lappend(tables, key_table(lfirst(lc), group, source, target));
	return tables;
}

void
dbscale_counter_init(void)
{
	dbscale_counter_last_fold_init();
	dbscale_counter_stuck_init();
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = utility_hook;
}
