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
 * all in the statement's transaction, under its locks.  Which counters that are is asked
 * after the statement: it may have waited for who has made one.  What it has dropped,
 * dropped.c tells.  Counters of other tables are none of its business: to look at one
 * is to lock its tables, so to wait for all other DDL on them.
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
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/* RENAME COLUMN: a filter of the table as it is before. */
typedef struct Noted
{
	const char *counter;
	Node	   *filter;
} Noted;

/* Which counters a statement may concern. */
typedef struct Concern
{
	bool		any;
	bool		concurrently;	/* it ends the transaction */
	Oid			relid;			/* those of this table */
	List	   *roles;			/* those of tables that have to do with these roles: OIDs */
	const char *old_schema;		/* RENAME SCHEMA: those of its tables */
	const char *new_schema;
	RangeVar   *relation;		/* RENAME COLUMN */
	const char *old_column;
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
	concern->relid = relation_of(stmt->relation);
	if (stmt->renameType == OBJECT_SCHEMA)
	{
		concern->old_schema = stmt->subname;
		concern->new_schema = stmt->newname;
	}
	if (stmt->renameType == OBJECT_COLUMN)
	{
		concern->relation = stmt->relation;
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

/* Whoever is CURRENT_USER; those that are not there the statement will refuse. */
static List *
role_oids(List *roles)
{
	List	   *oids = NIL;
	ListCell   *lc;

	foreach(lc, roles)
		if (((RoleSpec *) lfirst(lc))->roletype != ROLESPEC_PUBLIC)
			oids = lappend_oid(oids, get_rolespec_oid(lfirst(lc), true));
	return oids;
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
			concern.any = true;
			concern.concurrently = ((DropStmt *) stmt)->concurrent;
			break;
		case T_DropOwnedStmt:
			concern.any = true;
			concern.roles = role_oids(((DropOwnedStmt *) stmt)->roles);
			break;
		case T_ReassignOwnedStmt:
			concern.any = true;
			concern.roles = role_oids(((ReassignOwnedStmt *) stmt)->roles);
			break;
		default:
			break;
	}
	return concern;
}

/* ---- before ---- */

/* RENAME COLUMN takes this lock first, with the same look at the name; under it, its filters are what they are. */
static void
lock_renamed(Concern *concern)
{
	for (;;)
	{
		Oid			relid = relation_of(concern->relation);
		char		kind = OidIsValid(relid) ? get_rel_relkind(relid) : 0;

		if ((kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE) || !dbscale_is_owner(relid))
			return;
		LockRelationOid(relid, AccessExclusiveLock);
		concern->relid = relid;
		if (relation_of(concern->relation) == relid)
			return;
		UnlockRelationOid(relid, AccessExclusiveLock);
	}
}

static List *
note_filters(Oid source)
{
	List	   *noted = NIL;
	ListCell   *lc;

	foreach(lc, dbscale_counter_list_names(psprintf("source = %u AND filter IS NOT NULL", source)))
	{
		const Counter *counter = lfirst(lc);
		Noted	   *note = palloc(sizeof(Noted));

		note->counter = counter->name;
		note->filter = dbscale_counter_parse_filter(source, counter->filter);
		noted = lappend(noted, note);
	}
	return noted;
}

/* Of tables that the roles own, or have privileges on. */
static List *
counters_of_roles(List *roles)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "EXISTS (SELECT FROM pg_catalog.pg_shdepend d WHERE d.classid = 'pg_catalog.pg_class'::regclass"
						   " AND d.objid IN (source, target) AND d.dbid = (SELECT oid FROM pg_catalog.pg_database"
						   " WHERE datname = pg_catalog.current_database()) AND d.refclassid = 'pg_catalog.pg_authid'::regclass"
						   " AND d.refobjid IN (0");
	foreach(lc, roles)
		appendStringInfo(&sql, ", %u", lfirst_oid(lc));
	appendStringInfoString(&sql, "))");
	return dbscale_counter_list_names(sql.data);
}

/* ---- after ---- */

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
		const Noted *note = lfirst(lc);

		dbscale_counter_execute(psprintf("UPDATE dbscale.counter SET filter = %s WHERE counter = %s",
										 quote_literal_cstr(dbscale_counter_print_filter(concern->relid, note->filter)),
										 quote_literal_cstr(note->counter)));
	}
}

/* Of what is in the schema, or says so in its filter. */
static List *
counters_of_schema(const Concern *concern)
{
	Oid			schema = get_namespace_oid(concern->new_schema, true);

	return dbscale_counter_list_names(psprintf("EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid IN (source, target) AND c.relnamespace = %u)"
											   " OR pg_catalog.strpos(filter, %s) > 0", schema,
											   quote_literal_cstr(psprintf("%s.", quote_identifier(concern->old_schema)))));
}

static bool
is_sharded(const Counter *counter)
{
	return dbscale_counter_is_sharded(counter->source) && dbscale_counter_is_sharded(counter->target);
}

/* Those that the statement concerns whatever it has dropped: their names. */
static List *
concerned(const Concern *concern, List *of_roles)
{
	List	   *names = NIL;
	List	   *counters = of_roles;
	ListCell   *lc;

	if (OidIsValid(concern->relid))
		counters = dbscale_counter_list_names(psprintf("%u IN (source, target)", concern->relid));
	else if (concern->new_schema)
		counters = counters_of_schema(concern);
	foreach(lc, counters)
	{
		const Counter *counter = lfirst(lc);

		/* on the nodes, shards have names and owners of their own */
		if (OidIsValid(concern->relid) || !is_sharded(counter))
			names = lappend(names, (void *) counter->name);
	}
	return names;
}

/* Plain tables have no triggers yet while a dump is restored. */
static bool
has_trigger(Oid relid, const char *trigger)
{
	return dbscale_counter_is_sharded(relid) ||
		dbscale_counter_query(psprintf("SELECT 1 FROM pg_trigger WHERE tgrelid = %u AND tgname = %s", relid,
									   quote_literal_cstr(trigger))) != NULL;
}

static bool
is_kept(const Counter *counter)
{
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
checking(void *name)
{
	errcontext("looking whether counter \"%s\" can be kept", (const char *) name);
}

/* What is not of the table (a type in a filter) names no counter. */
static void
check(Counter *counter)
{
	ErrorContextCallback callback = {error_context_stack, checking, (void *) counter->name};

	error_context_stack = &callback;
	dbscale_counter_check(counter);
	error_context_stack = callback.previous;
}

/* Those of these names that are there, and in a restored dump have their triggers already; each once. */
static List *
add_counters(List *counters, List *names, bool kept_only)
{
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, names)
	{
		Counter    *counter = dbscale_counter_get(lfirst(lc), true);

		foreach(lc2, counters)
			if (strcmp(((Counter *) lfirst(lc2))->name, lfirst(lc)) == 0)
				break;
		if (lc2 == NULL && counter && !counter->suspended && (!kept_only || is_kept(counter)))
			counters = lappend(counters, counter);
	}
	return counters;
}

/* All are checked first: the SQL of a table speaks of all its counters. */
static void
look_at(List *harmed, List *concerned)
{
	List	   *counters = add_counters(add_counters(NIL, harmed, false), concerned, true);
	ListCell   *lc;

	foreach(lc, counters)
		check(lfirst(lc));
	foreach(lc, counters)
		if (is_kept(lfirst(lc)))
			refresh(((Counter *) lfirst(lc))->name);
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

/* One statement, before and after. */
typedef struct Statement
{
	Concern		concern;
	CounterWatch *watch;
	List	   *filters;		/* of Noted * */
	List	   *of_roles;		/* of Counter * */
} Statement;

static void
before(void *argument)
{
	Statement  *statement = argument;

	if (statement->concern.old_column && OidIsValid(statement->concern.relid))
		statement->filters = note_filters(statement->concern.relid);
	if (statement->concern.roles)
		statement->of_roles = counters_of_roles(statement->concern.roles);
}

static void
after(void *argument)
{
	Statement  *statement = argument;
	List	   *harmed;

	if (statement->concern.old_column && OidIsValid(statement->concern.relid))
		rename_column(&statement->concern, statement->filters);
	harmed = dbscale_counter_dropped(statement->watch);
	look_at(harmed, concerned(&statement->concern, statement->of_roles));
	/* a column takes triggers along, and says more */
	dbscale_counter_refuse_triggers(statement->watch);
}

/* Nodes are asked, and triggers made, on behalf of whoever has changed his table. */
static void
as_owner(void (*what) (void *argument), Statement *statement)
{
	Oid			user;
	int			security;

	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(dbscale_extension_owner(), security | SECURITY_LOCAL_USERID_CHANGE);
	dbscale_counter_with_latest(what, statement);
	SetUserIdAndSecContext(user, security);
}

static void
utility_hook(PlannedStmt *pstmt, const char *query, bool read_only_tree, ProcessUtilityContext context,
			 ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *qc)
{
	Statement	statement = {concern_of(pstmt->utilityStmt)};

	if (!statement.concern.any || dbscale_counter_internal > 0 || creating_extension || context == PROCESS_UTILITY_SUBCOMMAND ||
		!IsTransactionState() || !dbscale_extension_exists())
	{
		call_previous(pstmt, query, read_only_tree, context, params, environment, dest, qc);
		return;
	}
	if (statement.concern.old_column)
		lock_renamed(&statement.concern);
	as_owner(before, &statement);
	statement.watch = dbscale_counter_watch();
	PG_TRY();
	{
		call_previous(pstmt, query, read_only_tree, context, params, environment, dest, qc);
	}
	PG_FINALLY();
	{
		dbscale_counter_unwatch(statement.watch);
	}
	PG_END_TRY();
	if (statement.concern.concurrently || !dbscale_extension_exists())
		return;
	CommandCounterIncrement();
	/* under the lock, the name says which table it was */
	if (IsA(pstmt->utilityStmt, AlterTableStmt) && OidIsValid(statement.concern.relid))
		statement.concern.relid = relation_of(((AlterTableStmt *) pstmt->utilityStmt)->relation);
	as_owner(after, &statement);
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
	dbscale_counter_dropped_init();
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = utility_hook;
}
