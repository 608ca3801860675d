/*
 * distribute.c
 *		distribute_table and add_shard.
 *
 * Everything happens in the caller's transaction, on the coordinator and on every
 * node, and is committed by the two-phase commit of transaction/: whatever
 * interrupts it, all of it or nothing has happened.  The order is
 *
 *		1. check (checks.c): an error here has touched nothing
 *		2. write the catalog: the group and its shards, the table
 *		3. turn the parent into a partitioned table (convert.c); its rows are
 *		   now in a transient table
 *		4. make a foreign table, and a table on its node, for every shard
 *		5. copy the rows to the shards
 *		6. make indexes and constraints there, which is faster than before 5
 *		7. drop the transient table
 *
 * Steps 4 and 6 are sent to all nodes before the first is awaited.
 */
#include "ddl/ddl.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/heap.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/progress.h"
#include "commands/defrem.h"
#include "commands/tablecmds.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "parser/parse_utilcmd.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

DBSCALE_FUNCTION(dbscale_distribute_table);
DBSCALE_FUNCTION(dbscale_add_shard);

/* What distribute_table was asked for, and what was found out about it. */
typedef struct Distribution
{
	Oid			relid;
	char	   *schema;
	char	   *name;
	char	   *key_name;
	AttrNumber	key;
	Oid			key_type;
	Oid			collation;
	ShardStrategy strategy;
	int			shard_count;
	const DistributedTable *model;	/* colocate_with, or NULL */
	char	   *step;
	char	   *bounds;
	List	   *foreign_keys;	/* OIDs of constraints */
	int			group_id;
	Oid			opclass;
} Distribution;

static void
invalid_argument(const char *message, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", message), errdetail("%s", detail), errhint("%s", hint)));
}

static ShardStrategy
parse_strategy(const char *name)
{
	for (ShardStrategy s = SHARD_HASH; s <= SHARD_LIST; s++)
	{
		if (strcmp(name, dbscale_strategy_name(s)) == 0)
			return s;
	}
	invalid_argument(psprintf("there is no strategy \"%s\"", name),
					 "A table is distributed by hash, range, list or directory.",
					 "Give one of these, such as strategy => 'hash'.");
	return SHARD_HASH;			/* not reached */
}

/* The arguments that go with a strategy, and those that do not. */
static void
check_arguments(const Distribution *d)
{
	if (d->shard_count < 1 || d->shard_count > DBSCALE_HASH_MODULUS)
		invalid_argument(psprintf("invalid shard count %d", d->shard_count),
						 psprintf("It must be between 1 and %d.", DBSCALE_HASH_MODULUS),
						 "32 suits most tables.");
	if (d->step != NULL && d->strategy != SHARD_RANGE)
		invalid_argument("a step was given, but the strategy is not range",
						 psprintf("The strategy is %s.", dbscale_strategy_name(d->strategy)),
						 "Leave out step, or give strategy => 'range'.");
	if (d->bounds != NULL && d->strategy != SHARD_RANGE && d->strategy != SHARD_LIST)
		invalid_argument("bounds were given, but the strategy is neither range nor list",
						 psprintf("The strategy is %s.", dbscale_strategy_name(d->strategy)),
						 "Leave out bounds, or give strategy => 'range' or 'list'.");
	if (d->model != NULL)
	{
		if (d->step != NULL || d->bounds != NULL)
			invalid_argument("step and bounds cannot be given with colocate_with",
							 "The table takes the shards of the table it is colocated with.",
							 "Leave them out.");
		return;
	}
	if (d->strategy == SHARD_RANGE && d->step == NULL)
		invalid_argument("strategy range needs a step", "The step is the width of a shard's range.",
						 "Give one such as step => '1 month' or step => '1000000'.");
	if (d->strategy == SHARD_LIST && d->bounds == NULL)
		invalid_argument("strategy list needs bounds", "The bounds name the shards and their values.",
						 "Give bounds such as bounds => '{\"us\": [\"us-east\"], \"eu\": [\"eu-west\"]}'.");
}

static void
not_colocatable(const Distribution *d, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("cannot colocate table \"%s\" with \"%s\"",
					d->name, get_rel_name(d->model->relid)),
			 errdetail("%s", detail),
			 errhint("Leave out colocate_with, or make the tables alike.")));
}

static void
check_colocation(Distribution *d)
{
	const TableGroup *group = d->model->group;

	if (d->strategy == SHARD_HASH && group->strategy == SHARD_DIRECTORY)
		d->strategy = SHARD_DIRECTORY;	/* the same placement */
	if (d->strategy != group->strategy)
		not_colocatable(d, psprintf("The strategies differ: %s and %s.",
									dbscale_strategy_name(d->strategy),
									dbscale_strategy_name(group->strategy)));
	if (d->key_type != group->key_type)
		not_colocatable(d, psprintf("The key types differ: %s and %s.",
									format_type_be(d->key_type), format_type_be(group->key_type)));
	if (d->collation != d->model->key_collation)
		not_colocatable(d, "The keys have different collations.");
	if (d->shard_count != 32 && d->shard_count != group->nshards)
		not_colocatable(d, psprintf("The shard counts differ: %d and %d.",
									d->shard_count, group->nshards));
}

static void
check_all(Distribution *d, Relation rel)
{
	ListCell   *lc;

	check_arguments(d);
	d->key = dbscale_ddl_check_key(rel, d->key_name, d->strategy);
	d->key_type = TupleDescAttr(RelationGetDescr(rel), d->key - 1)->atttypid;
	d->collation = TupleDescAttr(RelationGetDescr(rel), d->key - 1)->attcollation;
	dbscale_ddl_check_table(rel, d->key);
	if (d->model != NULL)
		check_colocation(d);
	d->foreign_keys = dbscale_ddl_foreign_keys_of(d->relid);
	foreach(lc, d->foreign_keys)
		dbscale_ddl_check_foreign_key(lfirst_oid(lc), d->key,
									  d->model ? d->model->group->id : -1);
}

static const char *
literal_or_null(const char *value)
{
	return value ? quote_literal_cstr(value) : "NULL";
}

static void
insert_shard(int group_id, int shard, const char *node, const char *hash_range,
			 const ShardBounds *bounds)
{
	(void) dbscale_ddl_execute_as_owner(
		psprintf("INSERT INTO dbscale.shard (group_id, shard, node, hash_from, hash_to, label, bounds, pinned)"
				 " VALUES (%d, %d, %s, %s, %s, %s, %s)", group_id, shard, quote_literal_cstr(node),
				 hash_range, bounds ? literal_or_null(bounds->label) : "NULL",
				 bounds ? literal_or_null(bounds->json) : "NULL",
				 bounds && bounds->node ? "true" : "false"));
}

/* 2^32 values in shard_count even ranges. */
static void
insert_hash_shards(const Distribution *d)
{
	ShardPlacement *placement = dbscale_placement_begin(d->group_id);
	uint64		all = UINT64CONST(1) << 32;

	for (int n = 0; n < d->shard_count; n++)
		insert_shard(d->group_id, n, dbscale_placement_next(placement),
					 psprintf(UINT64_FORMAT ", " UINT64_FORMAT, all * n / d->shard_count,
							  all * (n + 1) / d->shard_count - 1), NULL);
}

/* Those that may be anywhere are put where the others leave room. */
static void
insert_bound_shards(const Distribution *d, List *shards)
{
	ShardPlacement *placement = dbscale_placement_begin(d->group_id);
	ListCell   *lc;

	foreach(lc, shards)
	{
		const ShardBounds *bounds = lfirst(lc);

		if (bounds->node != NULL)
			dbscale_placement_put(placement,
								  NameStr(dbscale_catalog_require_node(bounds->node, true)->name));
	}
	foreach(lc, shards)
	{
		const ShardBounds *bounds = lfirst(lc);

		insert_shard(d->group_id, foreach_current_index(lc),
					 bounds->node ? bounds->node : dbscale_placement_next(placement),
					 "NULL, NULL", bounds);
	}
}

static void
create_group(Distribution *d)
{
	bool		hashed = d->strategy == SHARD_HASH || d->strategy == SHARD_DIRECTORY;
	List	   *bounds = NIL;

	if (d->strategy == SHARD_RANGE)
		bounds = dbscale_ddl_make_ranges(d->relid, d->key_name, d->key_type, d->step, d->bounds);
	else if (d->strategy == SHARD_LIST)
		bounds = dbscale_ddl_parse_lists(d->key_type, d->bounds);

	d->group_id = atoi(dbscale_ddl_query_value("SELECT nextval('dbscale.table_group_group_id_seq')"));
	(void) dbscale_ddl_execute_as_owner(
		psprintf("INSERT INTO dbscale.table_group (group_id, strategy, key_type, opfamily, step)"
				 " VALUES (%d, %s, %u, %s, %s)", d->group_id,
				 quote_literal_cstr(dbscale_strategy_name(d->strategy)), d->key_type,
				 hashed ? quote_literal_cstr(psprintf("group_%d_ops", d->group_id)) : "NULL",
				 literal_or_null(d->step)));
	if (hashed)
	{
		insert_hash_shards(d);
		d->opclass = dbscale_routing_create_opfamily(d->group_id, d->key_type);
	}
	else
	{
		insert_bound_shards(d, bounds);
		d->opclass = GetDefaultOpClass(d->key_type, BTREE_AM_OID);
	}
}

/* The operator class that the other tables of the group are partitioned by. */
static Oid
opclass_of(Oid relid)
{
	return atooid(dbscale_ddl_query_value(
		psprintf("SELECT partclass[0] FROM pg_partitioned_table WHERE partrelid = %u", relid)));
}

static void
insert_table(const Distribution *d)
{
	char	   *stored = dbscale_ddl_new_stored_name(d->name, d->schema);

	(void) dbscale_ddl_execute_as_owner(
		psprintf("INSERT INTO dbscale.distributed_table (relation, group_id, stored_name, storage_parameters)"
				 " VALUES (%u, %d, %s, %s)", d->relid, d->group_id, quote_literal_cstr(stored),
				 literal_or_null(dbscale_ddl_storage_parameters(d->relid))));
}

/* Foreign keys leave the coordinator; dbscale.foreign_key and the shards have them. */
static void
take_foreign_keys(const Distribution *d)
{
	ListCell   *lc;

	foreach(lc, d->foreign_keys)
	{
		ObjectAddress address;

		dbscale_ddl_remember_foreign_key(lfirst_oid(lc));
		ObjectAddressSet(address, ConstraintRelationId, lfirst_oid(lc));
		performDeletion(&address, DROP_RESTRICT, PERFORM_DELETION_INTERNAL | PERFORM_DELETION_QUIETLY);
	}
	CommandCounterIncrement();
}

/* CREATE FOREIGN TABLE ... PARTITION OF, by core's functions: the utility hook is for users. */
static Oid
define_foreign_table(const char *sql, Oid owner)
{
	RawStmt    *raw = linitial_node(RawStmt, pg_parse_query(sql));
	List	   *stmts = transformCreateStmt((CreateStmt *) raw->stmt, sql);
	Oid			relid = InvalidOid;
	ListCell   *lc;

	foreach(lc, stmts)
	{
		CreateForeignTableStmt *stmt = lfirst(lc);

		if (!IsA(stmt, CreateForeignTableStmt))
			elog(ERROR, "unexpected statement for a foreign table");
		/* without the text: positions in it would be shown in the user's command */
		relid = DefineRelation(&stmt->base, RELKIND_FOREIGN_TABLE, owner, NULL, NULL).objectId;
		CreateForeignTable(stmt, relid);
		CommandCounterIncrement();
	}
	return relid;
}

static void
create_foreign_table(Oid relid, const char *stored_name, ShardStrategy strategy,
					 int shard, const char *node, const char *json)
{
	Relation	rel = table_open(relid, NoLock);
	Oid			owner = rel->rd_rel->relowner;
	char	   *sql;
	Oid			foreign;

	sql = psprintf("CREATE FOREIGN TABLE %s PARTITION OF %s %s SERVER %s",
				   quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA,
											  psprintf("%s_%d", stored_name, shard)),
				   quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
											  RelationGetRelationName(rel)),
				   dbscale_ddl_partition_clause(strategy, shard, json),
				   quote_identifier(node));
	table_close(rel, NoLock);	/* core insists that nobody has it open */
	foreign = define_foreign_table(sql, owner);
	(void) dbscale_ddl_execute_as_owner(
		psprintf("INSERT INTO dbscale.shard_table (foreign_table, relation, shard) VALUES (%u, %u, %d)",
				 foreign, relid, shard));
}

/* Foreign tables for the group's shards with numbers from `first` to `last`. */
static void
create_foreign_tables(Oid relid, const TableGroup *group, const char *stored_name, int first, int last)
{
	List	   *hidden = dbscale_ddl_hide_unique(relid);
	List	   *rows = dbscale_ddl_query_rows(
		psprintf("SELECT shard, node, bounds FROM dbscale.shard WHERE group_id = %d AND shard BETWEEN %d AND %d"
				 " ORDER BY shard", group->id, first, last));
	ListCell   *lc;

	foreach(lc, rows)
	{
		char	  **row = lfirst(lc);

		create_foreign_table(relid, stored_name, group->strategy, atoi(row[0]), row[1], row[2]);
	}
	dbscale_ddl_show_unique(hidden);
	dbscale_catalog_changed(list_make1_oid(relid));
}

void
dbscale_ddl_attach_shard(Oid relid, int shard)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(relid);

	create_foreign_tables(relid, table->group, table->stored_name, shard, shard);
}

void
dbscale_ddl_detach_shard(Oid foreign_table)
{
	ObjectAddress address;

	(void) dbscale_ddl_execute_as_owner(psprintf("DELETE FROM dbscale.shard_table WHERE foreign_table = %u",
												 foreign_table));
	ObjectAddressSet(address, RelationRelationId, foreign_table);
	performDeletion(&address, DROP_RESTRICT, PERFORM_DELETION_INTERNAL | PERFORM_DELETION_QUIETLY);
	CommandCounterIncrement();
}

/* The tables, still without indexes, on the nodes of the shards from `first` on. */
static void
create_shard_tables(const DistributedTable *table, int first)
{
	List	   *batch = NIL;

	for (int i = 0; i < table->group->nshards; i++)
	{
		const Shard *shard = &table->group->shards[i];

		if (shard->number >= first)
			batch = dbscale_ddl_send(batch, shard->node,
									 dbscale_ddl_shard_table_sql(table, shard->number), NULL);
	}
	dbscale_ddl_finish(batch);
}

static List *
send_all(List *batch, const Shard *shard, List *commands)
{
	ListCell   *lc;

	foreach(lc, commands)
		batch = dbscale_ddl_send(batch, shard->node, lfirst(lc), NULL);
	return batch;
}

/* Indexes, their constraints, statistics, and what ALTER TABLE adds; a list of commands. */
List *
dbscale_ddl_shard_finish_sql(const DistributedTable *table, int shard)
{
	Relation	rel = table_open(table->relid, NoLock);
	List	   *indexes = RelationGetIndexList(rel);
	List	   *commands = dbscale_ddl_shard_alter_sql(table, shard);
	ListCell   *lc;

	table_close(rel, NoLock);
	foreach(lc, indexes)
	{
		char	   *constraint;

		commands = lappend(commands, dbscale_ddl_shard_index_sql(table, lfirst_oid(lc), shard));
		constraint = dbscale_ddl_shard_constraint_sql(table, lfirst_oid(lc), shard);
		if (constraint != NULL)
			commands = lappend(commands, constraint);
	}
	return list_concat(commands, dbscale_ddl_shard_statistics_sql(table, shard));
}

static void
finish_shard_tables(const DistributedTable *table, int first)
{
	List	   *batch = NIL;

	for (int i = 0; i < table->group->nshards; i++)
	{
		const Shard *shard = &table->group->shards[i];

		if (shard->number >= first)
			batch = send_all(batch, shard, dbscale_ddl_shard_finish_sql(table, shard->number));
	}
	dbscale_ddl_finish(batch);
}

/* Foreign keys come last: they need the other table's shards. */
static void
create_shard_foreign_keys(const DistributedTable *table, int first)
{
	List	   *batch = NIL;

	for (int i = 0; i < table->group->nshards; i++)
	{
		const Shard *shard = &table->group->shards[i];

		if (shard->number >= first)
			batch = send_all(batch, shard, dbscale_ddl_shard_foreign_keys_sql(table, shard->number));
	}
	dbscale_ddl_finish(batch);
}

static void
no_shard_for(const DistributedTable *table, Datum key, bool isnull)
{
	char	   *column = get_attname(table->relid, table->key_attno, false);

	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("no shard of table \"%s\" takes one of its rows", get_rel_name(table->relid)),
			 errdetail("Column \"%s\", the shard key, is %s in it.", column,
					   isnull ? "null" : dbscale_key_to_text(table->group->key_type, key)),
			 errhint("Give bounds that cover every row, or change the row.")));
}

static Oid
foreign_table_for(const DistributedTable *table, TupleTableSlot *slot)
{
	bool		isnull;
	Datum		key = slot_getattr(slot, table->key_attno, &isnull);
	int			number = dbscale_route_key(table, key, isnull);
	const Shard *shard = number >= 0 ? dbscale_catalog_shard(table->group, number) : NULL;

	if (shard == NULL)
		no_shard_for(table, key, isnull);
	return dbscale_catalog_foreign_table(table, number);
}

/*
 * Stream the rows of the transient table to the shards.  Its tuples are read with
 * the parent's descriptor, which knows the values of columns added without a rewrite.
 */
static void
copy_rows(const DistributedTable *table, Oid rows)
{
	Relation	parent = table_open(table->relid, NoLock);
	Relation	heap = table_open(rows, NoLock);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(parent), &TTSOpsBufferHeapTuple);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(heap, snapshot, 0, NULL);
	ShardLoader *loader = dbscale_loader_begin(parent, dbscale_ddl_node_user(table->group->shards[0].node));
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "dbscale row",
													  ALLOCSET_DEFAULT_SIZES);
	BlockNumber block = 0;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		MemoryContext old = MemoryContextSwitchTo(row_context);
		Oid			foreign = foreign_table_for(table, slot);

		MemoryContextSwitchTo(old);
		dbscale_loader_add(loader, foreign, slot);
		MemoryContextReset(row_context);
		if (ItemPointerGetBlockNumber(&slot->tts_tid) != block)
		{
			block = ItemPointerGetBlockNumber(&slot->tts_tid);
			dbscale_progress_add_bytes(BLCKSZ);
			CHECK_FOR_INTERRUPTS();
		}
	}
	dbscale_loader_end(loader);
	MemoryContextDelete(row_context);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	table_close(heap, NoLock);
	table_close(parent, NoLock);
}

static void
drop_rows(Oid rows, Oid relid)
{
	ObjectAddress address;
	Relation	parent;

	ObjectAddressSet(address, RelationRelationId, rows);
	performDeletion(&address, DROP_RESTRICT, PERFORM_DELETION_INTERNAL | PERFORM_DELETION_QUIETLY);
	parent = table_open(relid, NoLock);
	RelationClearMissing(parent);
	table_close(parent, NoLock);
	CommandCounterIncrement();
}

static void
distribute(Distribution *d, int64 bytes)
{
	const DistributedTable *table;
	Oid			rows;

	(void) dbscale_progress_begin("distribute", d->relid, 3, bytes);
	if (d->model == NULL)
		create_group(d);
	else
	{
		d->group_id = d->model->group->id;
		d->opclass = opclass_of(d->model->relid);
	}
	insert_table(d);
	take_foreign_keys(d);
	rows = dbscale_ddl_convert_to_partitioned(d->relid, d->strategy, d->key, d->opclass, d->collation);
	dbscale_catalog_changed(list_make1_oid(d->relid));
	table = dbscale_catalog_require_distributed(d->relid);

	dbscale_progress_step("creating shards");
	create_foreign_tables(d->relid, table->group, table->stored_name, 0, DBSCALE_HASH_MODULUS);
	table = dbscale_catalog_require_distributed(d->relid);
	create_shard_tables(table, 0);
	DEBUG_POINT("distribute_tables_made");

	dbscale_progress_step("copying rows");
	copy_rows(table, rows);
	DEBUG_POINT("distribute_rows_copied");

	dbscale_progress_step("creating indexes");
	finish_shard_tables(table, 0);
	create_shard_foreign_keys(table, 0);
	drop_rows(rows, d->relid);
	dbscale_catalog_changed(list_make1_oid(d->relid));
	dbscale_progress_end();
}

static char *
text_argument(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

static char *
jsonb_argument(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL :
		DatumGetCString(DirectFunctionCall1(jsonb_out, PG_GETARG_DATUM(n)));
}

static void
require_arguments(FunctionCallInfo fcinfo, const char *const *names, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (names[i] != NULL && PG_ARGISNULL(i))
			invalid_argument(psprintf("argument \"%s\" must not be null", names[i]),
							 "The function cannot do without it.", "Give a value.");
	}
}

/*
 * Locks the table that is colocated with, so that its shards stay where they are.
 * The lock comes first: the catalog is read under it.
 */
static const DistributedTable *
colocated_table(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		return NULL;
	LockRelationOid(PG_GETARG_OID(n), ShareUpdateExclusiveLock);
	return dbscale_catalog_require_distributed(PG_GETARG_OID(n));
}

Datum
dbscale_distribute_table(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"relation", "key", "strategy", "shard_count"};
	Distribution d = {0};
	Relation	rel;
	int64		bytes;
	Oid			user;
	int			context;

	require_arguments(fcinfo, names, lengthof(names));
	d.relid = PG_GETARG_OID(0);
	d.key_name = pstrdup(NameStr(*PG_GETARG_NAME(1)));
	d.strategy = parse_strategy(text_argument(fcinfo, 2));
	d.shard_count = PG_GETARG_INT32(3);
	d.step = text_argument(fcinfo, 5);
	d.bounds = jsonb_argument(fcinfo, 6);
	rel = dbscale_ddl_open_to_convert(d.relid, "distribute", true);
	d.name = pstrdup(RelationGetRelationName(rel));
	d.schema = get_namespace_name(RelationGetNamespace(rel));
	d.model = colocated_table(fcinfo, 4);

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(dbscale_extension_owner(), context | SECURITY_LOCAL_USERID_CHANGE);
	check_all(&d, rel);
	bytes = (int64) RelationGetNumberOfBlocks(rel) * BLCKSZ;
	table_close(rel, NoLock);
	distribute(&d, bytes);
	if (dbscale_ddl_after_hook)
		dbscale_ddl_after_hook(d.relid);
	SetUserIdAndSecContext(user, context);
	PG_RETURN_VOID();
}

static ShardBounds *
parse_new_shard(const DistributedTable *table, const char *bounds)
{
	List	   *lists;

	if (table->group->strategy == SHARD_RANGE)
		return dbscale_ddl_parse_range(table->group->key_type, bounds);
	if (table->group->strategy != SHARD_LIST)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot add a shard to table \"%s\"", get_rel_name(table->relid)),
				 errdetail("It is distributed by %s; its shards take every key already.",
						   dbscale_strategy_name(table->group->strategy)),
				 errhint("Only tables distributed by range or list take new shards.")));
	lists = dbscale_ddl_parse_lists(table->group->key_type, bounds);
	if (list_length(lists) != 1)
		invalid_argument("bounds name more than one shard", "One shard is added at a time.",
						 "Call the function once for each.");
	return linitial(lists);
}

/* The group's tables, locked in the order of their OIDs. */
static List *
lock_members(const TableGroup *group)
{
	List	   *members = list_copy(group->tables);
	ListCell   *lc;

	list_sort(members, list_oid_cmp);
	foreach(lc, members)
		LockRelationOid(lfirst_oid(lc), AccessExclusiveLock);
	return members;
}

/* Has the catalog it, or do jobs use it, or has one left tables, or what counters have beside them, of that number? */
static bool
is_number_used(const TableGroup *group, int number)
{
	if (dbscale_catalog_shard(group, number) != NULL)
		return true;
	return dbscale_ddl_execute_as_owner(
		psprintf("SELECT 1 FROM dbscale.cleanup c JOIN dbscale.distributed_table t ON t.group_id = %d"
				 " WHERE (c.kind = 'table' AND c.name = t.stored_name || '_%d')"
				 " OR EXISTS (SELECT FROM dbscale.job j WHERE j.job = c.job AND j.relation_id = t.relation AND j.shard = %d) LIMIT 1",
				 group->id, number, number)) > 0;
}

int
dbscale_ddl_new_shard_number(const DistributedTable *table, const Bitmapset *taken)
{
	const TableGroup *group = table->group;
	int			next = group->nshards == 0 ? 0 : group->shards[group->nshards - 1].number + 1;

	/* behind the last, and in the gaps when there is no room any more */
	for (int i = 0; i < DBSCALE_HASH_MODULUS; i++)
	{
		int			number = (next + i) % DBSCALE_HASH_MODULUS;

		if (!bms_is_member(number, taken) && !is_number_used(group, number))
			return number;
	}
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("table \"%s\" has too many shards", get_rel_name(table->relid)),
			 errdetail("Shards are numbered up to %d.", DBSCALE_HASH_MODULUS - 1),
			 errhint("Distribute it anew with wider shards.")));
}

int
dbscale_ddl_add_shard(Oid relation, const char *bounds_json, const char *node)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(relation);
	List	   *members = lock_members(table->group);
	ShardBounds *bounds;
	int			number;
	ListCell   *lc;

	table = dbscale_catalog_require_distributed(relation);
	bounds = parse_new_shard(table, bounds_json);
	number = dbscale_ddl_new_shard_number(table, NULL);
	if (bounds->node != NULL)
		node = bounds->node;
	if (node == NULL)
		node = dbscale_placement_next(dbscale_placement_begin(table->group->id));
	else
		(void) dbscale_catalog_require_node(node, true);
	insert_shard(table->group->id, number, node, "NULL, NULL", bounds);

	foreach(lc, members)
	{
		const DistributedTable *member;

		dbscale_catalog_changed(list_make1_oid(lfirst_oid(lc)));
		member = dbscale_catalog_require_distributed(lfirst_oid(lc));
		create_foreign_tables(member->relid, member->group, member->stored_name, number, number);
		member = dbscale_catalog_require_distributed(lfirst_oid(lc));
		create_shard_tables(member, number);
		finish_shard_tables(member, number);
	}
	foreach(lc, members)
		create_shard_foreign_keys(dbscale_catalog_require_distributed(lfirst_oid(lc)), number);
	table = dbscale_catalog_require_distributed(relation);
	dbscale_ddl_run_shard_hook(table->group, dbscale_catalog_shard(table->group, number), SHARD_MADE);
	return number;
}

Datum
dbscale_add_shard(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"relation", "bounds"};
	Oid			user;
	int			context;
	int			number;

	require_arguments(fcinfo, names, lengthof(names));
	table_close(dbscale_ddl_open_for_command(PG_GETARG_OID(0), "add a shard to"), NoLock);
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(dbscale_extension_owner(), context | SECURITY_LOCAL_USERID_CHANGE);
	number = dbscale_ddl_add_shard(PG_GETARG_OID(0), jsonb_argument(fcinfo, 1),
								   PG_ARGISNULL(2) ? NULL : NameStr(*PG_GETARG_NAME(2)));
	SetUserIdAndSecContext(user, context);
	PG_RETURN_INT32(number);
}
