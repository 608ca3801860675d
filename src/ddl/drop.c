/*
 * drop.c
 *		What is dropped on the coordinator is dropped on the nodes: an event trigger.
 *
 * sql_drop fires for everything that a command has dropped, by name or by CASCADE or
 * with its schema or owner, at the end of the command and in its transaction.  Of it,
 * these concern nodes: distributed tables (their shard tables go, and their rows in
 * the catalog; the group with its last table), their columns, constraints, indexes and
 * statistics.  When the trigger runs the objects are gone from pg_class, so the catalog
 * of dbscale is asked, not the cache that reads both.
 *
 * The way out when a node is gone for good: dbscale.disable_node(), and then a DROP
 * TABLE leaves the shards of that node where they are, with a warning.
 */
#include "ddl/utility.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/event_trigger.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

DBSCALE_FUNCTION(dbscale_on_drop);

typedef struct Dropped
{
	Oid			oid;
	int			column;			/* attribute number, or 0 */
	char	   *type;
	char	   *schema;
	char	   *name;			/* of the table, index or statistics */
	char	   *part;			/* of the column, constraint or trigger, or NULL */
} Dropped;

static char *
copied(MemoryContext context, HeapTuple tuple, TupleDesc desc, int column)
{
	char	   *value = SPI_getvalue(tuple, desc, column);

	return value ? MemoryContextStrdup(context, value) : NULL;
}

/* In the caller's memory context; only the types that matter here. */
static List *
read_dropped(void)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *list = NIL;
	int			level;

	SPI_connect();
	level = dbscale_ddl_set_safe_path();
	SPI_execute("SELECT objid, objsubid, object_type, address_names[1], address_names[2], address_names[3] "
				"FROM pg_catalog.pg_event_trigger_dropped_objects() "
				"WHERE object_type IN ('table', 'table column', 'table constraint', 'index', 'trigger', 'statistics object')", false, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		MemoryContext old = MemoryContextSwitchTo(caller);
		Dropped    *dropped = palloc0(sizeof(Dropped));

		dropped->oid = atooid(SPI_getvalue(tuple, desc, 1));
		dropped->column = atoi(SPI_getvalue(tuple, desc, 2));
		dropped->type = copied(caller, tuple, desc, 3);
		dropped->schema = copied(caller, tuple, desc, 4);
		dropped->name = copied(caller, tuple, desc, 5);
		dropped->part = copied(caller, tuple, desc, 6);
		list = lappend(list, dropped);
		MemoryContextSwitchTo(old);
	}
	AtEOXact_GUC(true, level);
	SPI_finish();
	return list;
}

/* Lists of a node and the stored name of a shard table there. */
static List *
shard_tables(Oid relid)
{
	return dbscale_ddl_query_rows(psprintf("SELECT s.node, t.stored_name || '_' || s.shard "
										   "FROM dbscale.distributed_table t JOIN dbscale.shard s USING (group_id) WHERE t.relation = %u "
										   "UNION ALL SELECT n.node, t.stored_name "
										   "FROM dbscale.distributed_table t, dbscale.node n WHERE t.relation = %u AND t.group_id IS NULL",
										   relid, relid));
}

static void
drop_on_nodes(const char *table, Oid relid)
{
	List	   *statements = NIL;
	List	   *warned = NIL;
	ListCell   *lc;

	foreach(lc, shard_tables(relid))
	{
		char	  **row = lfirst(lc);
		const ShardNode *node = dbscale_catalog_require_node(row[0], false);
		RemoteConnection *conn;

		if (!node->enabled)
		{
			if (!list_member_ptr(warned, node))
				ereport(WARNING,
						(errmsg("shards of \"%s\" are left on node \"%s\"", table, row[0]),
						 errdetail("The node is disabled.")));
			warned = list_append_unique_ptr(warned, (void *) node);
			continue;
		}
		conn = dbscale_transaction_connection(node->serverid, dbscale_ddl_node_user(node), REMOTE_WRITE);
		statements = lappend(statements,
							 dbscale_remote_send(conn, psprintf("DROP TABLE IF EXISTS %s CASCADE",
																quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA, row[1])),
												 REMOTE_NO_PARAMS, 0, row[1]));
	}
	foreach(lc, statements)
	{
		(void) dbscale_remote_finish(lfirst(lc));
		dbscale_remote_close(lfirst(lc));
	}
}

/* Foreign keys of tables that stay: dropped with CASCADE, an error without. */
static void
check_referencing(Oid relid, const char *table, List *dropped_tables)
{
	StringInfoData gone;
	char	   *referencing;
	ListCell   *lc;

	if (dbscale_utility_cascade)
		return;
	initStringInfo(&gone);
	foreach(lc, dropped_tables)
		appendStringInfo(&gone, "%s%u", gone.len ? ", " : "", ((Dropped *) lfirst(lc))->oid);
	referencing = dbscale_ddl_query_value(psprintf("SELECT pg_catalog.format('constraint \"%%s\" of table \"%%s\"', name, relation) "
												   "FROM dbscale.foreign_key WHERE referenced = %u AND relation NOT IN (%s) LIMIT 1",
												   relid, gone.data));
	if (referencing)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop table %s because other objects depend on it", table),
				 errdetail("It is referenced by %s.", referencing),
				 errhint("Use DROP ... CASCADE to drop the dependent objects too.")));
}

/* The catalog's rows of a table, and of its group if that was the last one. */
static void
forget_table(Oid relid)
{
	char	   *group = dbscale_ddl_query_value(psprintf("SELECT group_id FROM dbscale.distributed_table WHERE relation = %u", relid));
	char	   *hashed;

	dbscale_ddl_execute_as_owner(psprintf("DELETE FROM dbscale.foreign_key WHERE relation = %u OR referenced = %u", relid, relid));
	dbscale_ddl_execute_as_owner(psprintf("DELETE FROM dbscale.index_name WHERE relation = %u", relid));
	dbscale_ddl_execute_as_owner(psprintf("DELETE FROM dbscale.statistics_name WHERE relation = %u", relid));
	dbscale_ddl_execute_as_owner(psprintf("DELETE FROM dbscale.shard_table WHERE relation = %u", relid));
	dbscale_ddl_execute_as_owner(psprintf("DELETE FROM dbscale.distributed_table WHERE relation = %u", relid));
	if (group == NULL ||
		dbscale_ddl_query_value(psprintf("SELECT 1 FROM dbscale.distributed_table WHERE group_id = %s LIMIT 1", group)))
		return;
	hashed = dbscale_ddl_query_value(psprintf("SELECT opfamily FROM dbscale.table_group WHERE group_id = %s", group));
	dbscale_ddl_execute_as_owner(psprintf("DELETE FROM dbscale.directory WHERE group_id = %s", group));
	dbscale_ddl_execute_as_owner(psprintf("DELETE FROM dbscale.shard WHERE group_id = %s", group));
	dbscale_ddl_execute_as_owner(psprintf("DELETE FROM dbscale.table_group WHERE group_id = %s", group));
	if (hashed)
		dbscale_routing_drop_opfamily(atoi(group));
}

static bool
is_registered(Oid relid)
{
	return dbscale_ddl_query_value(psprintf("SELECT 1 FROM dbscale.distributed_table WHERE relation = %u", relid)) != NULL;
}

static char *
drop_index_command(const DistributedTable *table, int shard, void *arg)
{
	return psprintf("DROP INDEX IF EXISTS %s",
					quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA,
											   dbscale_ddl_shard_index_name(table->relid, arg, shard)));
}

static char *
drop_key_command(const DistributedTable *table, int shard, void *arg)
{
	return psprintf("ALTER TABLE %s DROP CONSTRAINT IF EXISTS %s",
					dbscale_ddl_shard_table_name(table, shard),
					quote_identifier(dbscale_ddl_shard_index_name(table->relid, arg, shard)));
}

static bool
has_index_name(Oid relid, const char *name)
{
	return dbscale_ddl_query_value(psprintf("SELECT 1 FROM dbscale.index_name WHERE relation = %u AND index_name = %s",
											relid, quote_literal_cstr(name))) != NULL;
}

/*
 * A move has the shard's tables in a publication.  Without a primary key their rows would
 * have no identity in the log, and the node would refuse to change them until the move
 * has ended.  (A move that begins later waits for our lock on the table, and finds none.)
 */
static void
check_identity(const DistributedTable *table)
{
	char	   *job;

	if (table->is_reference || dbscale_ddl_has_primary_key(table->relid) ||
		dbscale_ddl_query_value(psprintf("SELECT 1 FROM pg_catalog.pg_class WHERE oid = %u AND relreplident = 'f'",
										 table->relid)) != NULL)
		return;
	job = dbscale_ddl_query_value(psprintf("SELECT j.job FROM dbscale.job j JOIN dbscale.distributed_table t ON t.relation = j.relation_id"
										   " WHERE j.state = 'running' AND t.group_id = %d ORDER BY j.job LIMIT 1", table->group->id));
	if (job != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot drop the primary key of table \"%s\" while its shards are on the move", get_rel_name(table->relid)),
				 errdetail("Job %s reads their changes from the node's log, which names rows by it.", job),
				 errhint("Wait for the job, or end it with dbscale.cancel_job(%s).", job)));
}

static void
drop_constraint(const DistributedTable *table, const char *name)
{
	if (has_index_name(table->relid, name))
	{
		check_identity(table);
		if (dbscale_utility_cascade)
			dbscale_alter_drop_unbacked_foreign_keys(table->relid);
		dbscale_ddl_run_for_shards(table, drop_key_command, (void *) name);
	}
	else
		dbscale_ddl_run_on_shards(table, psprintf("ALTER TABLE %%s DROP CONSTRAINT IF EXISTS %s",
												  dbscale_ddl_escape_percent(quote_identifier(name))));
}

/* An index's table is no longer known to pg_index: found by the names we keep. */
static void
drop_index(Dropped *dropped)
{
	char	   *relid = dbscale_ddl_query_value(psprintf("SELECT i.relation::oid FROM dbscale.index_name i "
														 "JOIN pg_catalog.pg_class c ON c.oid = i.relation "
														 "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
														 "WHERE i.index_name = %s AND n.nspname = %s",
														 quote_literal_cstr(dropped->name), quote_literal_cstr(dropped->schema)));

	if (relid == NULL)
		return;
	dbscale_ddl_run_for_shards(dbscale_catalog_require_table(atooid(relid)), drop_index_command, dropped->name);
	dbscale_ddl_execute_as_owner(psprintf("DELETE FROM dbscale.index_name WHERE relation = %s AND index_name = %s",
										  relid, quote_literal_cstr(dropped->name)));
}

static void
drop_column(const DistributedTable *table, const char *column)
{
	Oid			relid = table->relid;

	dbscale_alter_forget_column(relid, column, dbscale_utility_cascade);
	dbscale_ddl_run_on_shards(table, psprintf("ALTER TABLE %%s DROP COLUMN IF EXISTS %s CASCADE",
											  dbscale_ddl_escape_percent(quote_identifier(column))));
}

static void
drop_tables(List *tables)
{
	ListCell   *lc;

	foreach(lc, tables)
		check_referencing(((Dropped *) lfirst(lc))->oid, ((Dropped *) lfirst(lc))->name, tables);
	foreach(lc, tables)
		drop_on_nodes(((Dropped *) lfirst(lc))->name, ((Dropped *) lfirst(lc))->oid);
	foreach(lc, tables)
		forget_table(((Dropped *) lfirst(lc))->oid);
}

/* Constraints first, for their indexes go with them; columns last. */
static void
drop_parts(List *all)
{
	static const char *const order[] = {"table constraint", "index", "statistics object", "table column"};
	ListCell   *lc;

	for (int i = 0; i < lengthof(order); i++)
		foreach(lc, all)
	{
		Dropped    *dropped = lfirst(lc);
		Oid			relid;
		const DistributedTable *table;

		if (strcmp(dropped->type, order[i]) != 0)
			continue;
		if (i == 1)
		{
			drop_index(dropped);
			continue;
		}
		if (i == 2)
		{
			dbscale_statistics_dropped(dropped->schema, dropped->name);
			continue;
		}
		relid = get_namespace_oid(dropped->schema, true);
		relid = OidIsValid(relid) ? get_relname_relid(dropped->name, relid) : InvalidOid;
		table = OidIsValid(relid) ? dbscale_catalog_table(relid) : NULL;
		if (table == NULL)
			continue;
		if (i == 0)
			drop_constraint(table, dropped->part);
		else
			drop_column(table, dropped->part);
	}
}

/*
 * A reference table cannot do without its triggers, which write to the copies, and
 * its primary key, by which they find the rows.
 */
static void
check_reference_tables(List *all)
{
	ListCell   *lc;

	foreach(lc, all)
	{
		Dropped    *dropped = lfirst(lc);
		bool		trigger = strcmp(dropped->type, "trigger") == 0;
		Oid			relid = get_namespace_oid(dropped->schema, true);
		const DistributedTable *table;

		if (trigger ? !dbscale_ddl_is_replication_trigger(dropped->part) :
			strcmp(dropped->type, "table constraint") != 0)
			continue;
		relid = OidIsValid(relid) ? get_relname_relid(dropped->name, relid) : InvalidOid;
		table = OidIsValid(relid) ? dbscale_catalog_table(relid) : NULL;
		if (table == NULL || !table->is_reference || (!trigger && dbscale_ddl_has_primary_key(relid)))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 trigger ?
				 errmsg("cannot drop trigger \"%s\" of reference table \"%s\"", dropped->part, dropped->name) :
				 errmsg("cannot drop the primary key of reference table \"%s\"", dropped->name),
				 errdetail("Without it, changes would not reach the copies on the nodes."),
				 errhint("Use dbscale.undistribute_table() first.")));
	}
}

Datum
dbscale_on_drop(PG_FUNCTION_ARGS)
{
	List	   *all;
	List	   *tables = NIL;
	ListCell   *lc;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("dbscale.on_drop() can only be called as an event trigger")));
	if (dbscale_ddl_internal > 0 || !dbscale_was_preloaded || dbscale_catalog_is_empty())
		PG_RETURN_NULL();

	all = read_dropped();
	foreach(lc, all)
	{
		Dropped    *dropped = lfirst(lc);

		if (strcmp(dropped->type, "table") == 0 && is_registered(dropped->oid))
			tables = lappend(tables, dropped);
	}
	check_reference_tables(all);
	if (tables)
		drop_tables(tables);
	drop_parts(all);
	PG_RETURN_NULL();
}
