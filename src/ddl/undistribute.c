/*
 * undistribute.c
 *		undistribute_table: the rows come back, and the table is an ordinary one again.
 *
 * In one transaction with the nodes, as distribute_table: the foreign tables go, the
 * parent becomes a heap in place (convert.c), the rows are read from the shards (all
 * nodes at the same time) and written without triggers and checks, for they have
 * passed them; then indexes are built, foreign keys made, and the shards dropped.
 */
#include "ddl/ddl.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "catalog/progress.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

DBSCALE_FUNCTION(dbscale_undistribute_table);

/* What is needed after the catalog's rows are gone. */
typedef struct Undistribution
{
	Oid			relid;
	char	   *qualified;		/* schema.table, quoted */
	int			group_id;
	bool		last_of_group;
	bool		has_opfamily;
	char	   *parameters;		/* storage parameters, or NULL */
	List	   *foreign_keys;	/* of char **: name, definition, referenced, its name */
} Undistribution;

void
dbscale_ddl_check_unreferenced(Oid relid)
{
	List	   *rows = dbscale_ddl_query_rows(
		psprintf("SELECT name, relation FROM dbscale.foreign_key WHERE referenced = %u AND relation <> %u"
				 " ORDER BY 2, 1 LIMIT 1", relid, relid));
	char	  **row;

	if (rows == NIL)
		return;
	row = linitial(rows);
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("cannot undistribute table \"%s\"", get_rel_name(relid)),
			 errdetail("Foreign key constraint \"%s\" of the distributed table %s references it.", row[0], row[1]),
			 errhint("Undistribute %s first, or drop the constraint.", row[1])));
}

static void
require_enabled(const DistributedTable *table)
{
	for (int i = 0; i < table->group->nshards; i++)
		(void) dbscale_catalog_require_node(NameStr(table->group->shards[i].node->name), true);
}

/*
 * The relcache keeps the entry of a table made in this transaction, and with it the
 * partition key, over a ROLLBACK TO.  Were the table distributed in another way inside
 * the savepoint, the rows would be routed by the key that was rolled back.
 */
static void
check_savepoint(Relation rel)
{
	if (GetCurrentTransactionNestLevel() > 1 && rel->rd_createSubid != InvalidSubTransactionId &&
		rel->rd_createSubid != GetCurrentSubTransactionId())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot undistribute table \"%s\" in a savepoint", RelationGetRelationName(rel)),
				 errdetail("The table was created in the same transaction, before the savepoint."),
				 errhint("Commit first, or release the savepoint.")));
}

static Undistribution *
examine(const DistributedTable *table)
{
	Undistribution *u = palloc0(sizeof(Undistribution));

	u->relid = table->relid;
	u->qualified = quote_qualified_identifier(get_namespace_name(get_rel_namespace(u->relid)),
											  get_rel_name(u->relid));
	u->group_id = table->group->id;
	u->last_of_group = list_length(table->group->tables) <= 1;
	u->has_opfamily = table->group->opfamily != NULL;
	u->parameters = dbscale_ddl_query_value(
		psprintf("SELECT storage_parameters FROM dbscale.distributed_table WHERE relation = %u", u->relid));
	u->foreign_keys = dbscale_ddl_query_rows(
		psprintf("SELECT name, definition, referenced::oid, referenced FROM dbscale.foreign_key"
				 " WHERE relation = %u ORDER BY name", u->relid));
	return u;
}

static void
drop_foreign_tables(const DistributedTable *table)
{
	ObjectAddresses *addresses = new_object_addresses();

	(void) dbscale_ddl_execute_as_owner(
		psprintf("DELETE FROM dbscale.shard_table WHERE relation = %u", table->relid));
	for (int i = 0; i < table->group->nshards; i++)
	{
		ObjectAddress address;

		if (!OidIsValid(table->foreign_tables[i]))
			continue;
		ObjectAddressSet(address, RelationRelationId, table->foreign_tables[i]);
		add_exact_object_address(&address, addresses);
	}
	performMultipleDeletions(addresses, DROP_RESTRICT,
							 PERFORM_DELETION_INTERNAL | PERFORM_DELETION_QUIETLY);
	CommandCounterIncrement();
}

/* "SELECT columns FROM shard UNION ALL ..." for the shards of one node, or NULL. */
static char *
select_of_node(const DistributedTable *table, const char *columns, const ShardNode *node)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < table->group->nshards; i++)
	{
		const Shard *shard = &table->group->shards[i];

		if (shard->node->serverid == node->serverid)
			appendStringInfo(&sql, "%sSELECT %s FROM ONLY %s", sql.len > 0 ? " UNION ALL " : "",
							 columns, dbscale_ddl_shard_table_name(table, shard->number));
	}
	return sql.len > 0 ? sql.data : NULL;
}

/* The columns that are stored, generated ones too; `attnos` gets their numbers. */
static char *
stored_columns(Relation rel, List **attnos)
{
	TupleDesc	desc = RelationGetDescr(rel);
	StringInfoData list;

	initStringInfo(&list);
	*attnos = NIL;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped ||
			(att->attgenerated != '\0' && att->attgenerated != ATTRIBUTE_GENERATED_STORED))
			continue;
		appendStringInfo(&list, "%s%s", *attnos != NIL ? ", " : "",
						 quote_identifier(NameStr(att->attname)));
		*attnos = lappend_int(*attnos, att->attnum);
	}
	return list.len > 0 ? list.data : pstrdup("NULL");
}

/* All of one node's rows into the heap. */
static void
store_rows(RemoteStatement *stmt, Relation rel, List *attnos, AttInMetadata *input, BulkInsertState bulk)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsHeapTuple);
	char	  **values = palloc0(sizeof(char *) * RelationGetDescr(rel)->natts);
	CommandId	cid = GetCurrentCommandId(true);
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "dbscale row",
													  ALLOCSET_DEFAULT_SIZES);
	RemoteRow	row;

	while (dbscale_remote_next_row(stmt, &row))
	{
		MemoryContext old = MemoryContextSwitchTo(row_context);
		ListCell   *lc;
		int64		bytes = 0;

		foreach(lc, attnos)
		{
			int			n = foreach_current_index(lc);

			values[lfirst_int(lc) - 1] = unconstify(char *, row.values[n]);
			bytes += row.values[n] ? row.lengths[n] : 0;
		}
		ExecStoreHeapTuple(BuildTupleFromCStrings(input, values), slot, false);
		table_tuple_insert(rel, slot, cid, TABLE_INSERT_SKIP_FSM, bulk);
		ExecClearTuple(slot);
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
		dbscale_progress_add_bytes(bytes);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextDelete(row_context);
	ExecDropSingleTupleTableSlot(slot);
}

static void
fetch_rows(const DistributedTable *table)
{
	Relation	rel = table_open(table->relid, NoLock);
	BulkInsertState bulk = GetBulkInsertState();
	AttInMetadata *input = TupleDescGetAttInMetadata(RelationGetDescr(rel));
	List	   *attnos;
	char	   *columns = stored_columns(rel, &attnos);
	List	   *statements = NIL;
	ListCell   *lc;

	foreach(lc, dbscale_catalog_nodes())
	{
		const ShardNode *node = lfirst(lc);
		char	   *sql = select_of_node(table, columns, node);

		if (sql != NULL)
			statements = dbscale_ddl_send(statements, node, sql, NULL);
	}
	foreach(lc, statements)
	{
		store_rows(lfirst(lc), rel, attnos, input, bulk);
		dbscale_remote_close(lfirst(lc));
	}
	FreeBulkInsertState(bulk);
	table_finish_bulk_insert(rel, TABLE_INSERT_SKIP_FSM);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

static void
drop_shard_tables(const DistributedTable *table)
{
	List	   *batch = NIL;

	for (int i = 0; i < table->group->nshards; i++)
	{
		const Shard *shard = &table->group->shards[i];

		batch = dbscale_ddl_send(batch, shard->node,
								 psprintf("DROP TABLE %s", dbscale_ddl_shard_table_name(table, shard->number)),
								 NULL);
	}
	dbscale_ddl_finish(batch);
}

void
dbscale_ddl_forget_table(Oid relid)
{
	static const char *const catalogs[] = {"foreign_key", "index_name", "statistics_name", "shard_table", "distributed_table"};

	for (int i = 0; i < lengthof(catalogs); i++)
		(void) dbscale_ddl_execute_as_owner(
			psprintf("DELETE FROM dbscale.%s WHERE relation = %u", catalogs[i], relid));
}

void
dbscale_ddl_forget_group(int group_id, bool has_opfamily)
{
	static const char *const catalogs[] = {"directory", "shard", "table_group"};

	if (has_opfamily)
		dbscale_routing_drop_opfamily(group_id);
	for (int i = 0; i < lengthof(catalogs); i++)
		(void) dbscale_ddl_execute_as_owner(
			psprintf("DELETE FROM dbscale.%s WHERE group_id = %d", catalogs[i], group_id));
}

/* Foreign keys come back, except to tables that are still distributed. */
static void
restore_foreign_keys(const Undistribution *u)
{
	ListCell   *lc;

	foreach(lc, u->foreign_keys)
	{
		char	  **row = lfirst(lc);
		const DistributedTable *referenced = dbscale_catalog_table(atooid(row[2]));

		if (referenced != NULL && !referenced->is_reference && referenced->relid != u->relid)
			ereport(WARNING,
					(errmsg("foreign key constraint \"%s\" is dropped", row[0]),
					 errdetail("It references %s, which is still distributed.", row[3]),
					 errhint("Add it again when %s has been undistributed.", row[3])));
		else
			(void) dbscale_ddl_execute(psprintf("ALTER TABLE %s ADD CONSTRAINT %s %s", u->qualified,
												quote_identifier(row[0]), row[1]));
	}
}

static void
undistribute(const DistributedTable *table)
{
	Undistribution *u = examine(table);
	ReindexParams params = {0};

	(void) dbscale_progress_begin("undistribute", u->relid, 2, 0);
	drop_foreign_tables(table);
	dbscale_ddl_convert_to_heap(u->relid);
	if (u->parameters != NULL)
		(void) dbscale_ddl_execute(psprintf("ALTER TABLE %s SET (%s)", u->qualified, u->parameters));

	dbscale_progress_step("copying rows");
	fetch_rows(table);
	DEBUG_POINT("undistribute_rows_copied");

	dbscale_progress_step("creating indexes");
	(void) dbscale_reindex_relation(u->relid, REINDEX_REL_CHECK_CONSTRAINTS, &params);
	CommandCounterIncrement();
	drop_shard_tables(table);
	dbscale_ddl_forget_table(u->relid);
	if (u->last_of_group)
		dbscale_ddl_forget_group(u->group_id, u->has_opfamily);
	dbscale_catalog_changed(list_make1_oid(u->relid));
	restore_foreign_keys(u);
	dbscale_progress_end();
}

Datum
dbscale_undistribute_table(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	const DistributedTable *table;
	Relation	rel;
	Oid			user;
	int			context;

	rel = dbscale_ddl_open_to_convert(relid, "undistribute", false);
	check_savepoint(rel);
	table_close(rel, NoLock);
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(dbscale_extension_owner(), context | SECURITY_LOCAL_USERID_CHANGE);
	table = dbscale_catalog_require_table(relid);
	dbscale_ddl_check_unreferenced(relid);
	if (table->is_reference)
		dbscale_ddl_undistribute_reference(table);
	else
	{
		require_enabled(table);
		undistribute(table);
		if (dbscale_ddl_after_hook)
			dbscale_ddl_after_hook(relid);
	}
	SetUserIdAndSecContext(user, context);
	PG_RETURN_VOID();
}
