/*
 * load.c
 *		Reads the catalog's tables into a new cache.
 *
 * All tables are read under one snapshot, so that what foreign keys promise in
 * the tables holds in the cache too.  They are read directly, not through SPI:
 * lookups come from the planner and from hash functions, in the middle of other
 * statements and in parallel workers.  Column numbers are written here; upgrade
 * scripts may only add columns at the end.
 */
#include "catalog/cache.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_partitioned_table.h"
#include "foreign/foreign.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#define MAX_COLUMNS 16

/* One row of a catalog's table, as the readers below get it; columns count from 1. */
typedef struct CatalogRow
{
	Datum		values[MAX_COLUMNS + 1];
	bool		isnull[MAX_COLUMNS + 1];
	FullTransactionId updated_by;	/* invalid: the row is as it was inserted */
} CatalogRow;

typedef void (*RowReader) (CatalogCache *cache, const CatalogRow *row);

/* Copy of a text column in the current context, NULL for SQL NULL. */
static char *
get_text(const CatalogRow *row, int column)
{
	return row->isnull[column] ? NULL : TextDatumGetCString(row->values[column]);
}

static ShardNode *
find_node(CatalogCache *cache, const char *name)
{
	ListCell   *lc;

	foreach(lc, cache->nodes)
	{
		ShardNode  *node = lfirst(lc);

		if (strcmp(NameStr(node->name), name) == 0)
			return node;
	}
	return NULL;
}

static TableGroup *
find_group(CatalogCache *cache, int id)
{
	ListCell   *lc;

	foreach(lc, cache->groups)
	{
		TableGroup *group = lfirst(lc);

		if (group->id == id)
			return group;
	}
	return NULL;
}

static int
shard_index(const TableGroup *group, int number)
{
	const Shard *shard = group ? dbscale_catalog_shard(group, number) : NULL;

	return shard ? (int) (shard - group->shards) : -1;
}

/* dbscale.node: node, state, is_local, added_at, capacity */
static void
read_node(CatalogCache *cache, const CatalogRow *row)
{
	ShardNode  *node = palloc0(sizeof(ShardNode));
	char	   *state = get_text(row, 2);

	namestrcpy(&node->name, NameStr(*DatumGetName(row->values[1])));
	node->serverid = get_foreign_server_oid(NameStr(node->name), true);
	node->enabled = strcmp(state, "disabled") != 0;
	node->draining = strcmp(state, "draining") == 0;
	node->local = DatumGetBool(row->values[3]);
	node->capacity = DatumGetFloat4(row->values[5]);
	cache->nodes = lappend(cache->nodes, node);
}

static ShardStrategy
strategy_from_name(const char *name)
{
	for (int i = SHARD_HASH; i <= SHARD_LIST; i++)
	{
		if (strcmp(name, dbscale_strategy_name(i)) == 0)
			return i;
	}
	elog(ERROR, "unknown strategy \"%s\"", name);
}

/* dbscale.table_group: group_id, strategy, key_type, opfamily, step */
static void
read_group(CatalogCache *cache, const CatalogRow *row)
{
	TableGroup *group = palloc0(sizeof(TableGroup));

	group->id = DatumGetInt32(row->values[1]);
	group->strategy = strategy_from_name(get_text(row, 2));
	group->key_type = DatumGetObjectId(row->values[3]);
	if (!row->isnull[4])
		group->opfamily = pstrdup(NameStr(*DatumGetName(row->values[4])));
	group->step = get_text(row, 5);
	group->context = cache->context;
	cache->groups = lappend(cache->groups, group);
}

/*
 * dbscale.shard: group_id, shard, node, hash_from, hash_to, label, bounds, pinned.
 * The array grows by doubling; finish_groups sorts it.
 */
static void
read_shard(CatalogCache *cache, const CatalogRow *row)
{
	TableGroup *group = find_group(cache, DatumGetInt32(row->values[1]));
	ShardNode  *node = find_node(cache, NameStr(*DatumGetName(row->values[3])));
	Shard	   *shard;

	if (group == NULL || node == NULL)
		return;
	if (group->nshards == 0)
		group->shards = palloc(sizeof(Shard));
	else if ((group->nshards & (group->nshards - 1)) == 0)
		group->shards = repalloc(group->shards, 2 * group->nshards * sizeof(Shard));
	shard = &group->shards[group->nshards++];

	memset(shard, 0, sizeof(Shard));
	shard->number = DatumGetInt32(row->values[2]);
	shard->node = node;
	shard->has_hash = !row->isnull[4] && !row->isnull[5];
	if (shard->has_hash)
	{
		shard->hash_from = (uint32) DatumGetInt64(row->values[4]);
		shard->hash_to = (uint32) DatumGetInt64(row->values[5]);
	}
	shard->label = get_text(row, 6);
	shard->pinned = DatumGetBool(row->values[8]);
	shard->moved_by = row->updated_by;
}

/* The key column is the partition key of the parent; none if it has none (yet). */
static void
read_partition_key(DistributedTable *table)
{
	HeapTuple	tuple = SearchSysCache1(PARTRELID, ObjectIdGetDatum(table->relid));
	Form_pg_partitioned_table form;
	Datum		collations;
	bool		isnull;

	if (!HeapTupleIsValid(tuple))
		return;
	form = (Form_pg_partitioned_table) GETSTRUCT(tuple);
	if (form->partnatts >= 1)
	{
		table->key_attno = form->partattrs.values[0];
		collations = SysCacheGetAttr(PARTRELID, tuple,
									 Anum_pg_partitioned_table_partcollation, &isnull);
		if (!isnull)
			table->key_collation = ((oidvector *) DatumGetPointer(collations))->values[0];
	}
	ReleaseSysCache(tuple);
}

/* dbscale.distributed_table: relation, group_id, stored_name */
static void
read_table(CatalogCache *cache, const CatalogRow *row)
{
	DistributedTable *table;
	TableGroup *group = NULL;
	TableEntry *entry;
	Oid			relid = DatumGetObjectId(row->values[1]);

	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
	{
		/* dropped by a command that may yet fail: then its invalidation brings it back */
		cache->missing = lappend_oid(cache->missing, relid);
		return;
	}
	if (!row->isnull[2])
	{
		group = find_group(cache, DatumGetInt32(row->values[2]));
		if (group == NULL)
			return;
	}

	table = palloc0(sizeof(DistributedTable));
	table->relid = relid;
	table->is_reference = (group == NULL);
	table->group = group;
	table->stored_name = pstrdup(NameStr(*DatumGetName(row->values[3])));
	if (group != NULL)
	{
		read_partition_key(table);
		table->foreign_tables = palloc0(Max(group->nshards, 1) * sizeof(Oid));
		group->tables = lappend_oid(group->tables, relid);
	}
	cache->tables = lappend(cache->tables, table);
	entry = hash_search(cache->tables_by_oid, &relid, HASH_ENTER, NULL);
	entry->table = table;
}

/* dbscale.shard_table: foreign_table, relation, shard */
static void
read_shard_table(CatalogCache *cache, const CatalogRow *row)
{
	Oid			foreign_table = DatumGetObjectId(row->values[1]);
	Oid			relid = DatumGetObjectId(row->values[2]);
	int			number = DatumGetInt32(row->values[3]);
	TableEntry *parent = hash_search(cache->tables_by_oid, &relid, HASH_FIND, NULL);
	OwnerEntry *owner;
	int			index;

	if (parent == NULL)
		return;
	index = shard_index(parent->table->group, number);
	if (index < 0)
		return;
	parent->table->foreign_tables[index] = foreign_table;
	owner = hash_search(cache->owners, &foreign_table, HASH_ENTER, NULL);
	owner->table = parent->table;
	owner->shard = number;
}

/* dbscale.directory: group_id, key, shard */
static void
read_directory_entry(CatalogCache *cache, const CatalogRow *row)
{
	TableGroup *group = find_group(cache, DatumGetInt32(row->values[1]));
	DirectoryEntry *entry;

	if (group == NULL)
		return;
	entry = palloc(sizeof(DirectoryEntry));
	entry->key = get_text(row, 2);
	entry->shard = DatumGetInt32(row->values[3]);
	group->directory = lappend(group->directory, entry);
}

/*
 * The transaction whose UPDATE made this version of a row, if that may still be newer
 * than somebody's snapshot: rows that are frozen are not.
 */
static FullTransactionId
updated_by(HeapTuple tuple)
{
	FullTransactionId next = ReadNextFullTransactionId();
	TransactionId xmin = HeapTupleHeaderGetXmin(tuple->t_data);
	uint32		age = XidFromFullTransactionId(next) - xmin;

	if ((tuple->t_data->t_infomask & HEAP_UPDATED) == 0 || !TransactionIdIsNormal(xmin))
		return InvalidFullTransactionId;
	return FullTransactionIdFromU64(U64FromFullTransactionId(next) - age);
}

/* Hand every row of the table to the reader; false if the table is gone. */
static bool
read_rows(Oid relid, Snapshot snapshot, CatalogCache *cache, RowReader reader)
{
	Relation	rel = try_table_open(relid, AccessShareLock);
	SysScanDesc scan;
	HeapTuple	tuple;

	if (rel == NULL)
		return false;
	scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		CatalogRow	row;
		int			ncolumns = Min(RelationGetNumberOfAttributes(rel), MAX_COLUMNS);

		for (int i = 1; i <= ncolumns; i++)
			row.values[i] = heap_getattr(tuple, i, RelationGetDescr(rel), &row.isnull[i]);
		row.updated_by = updated_by(tuple);
		reader(cache, &row);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return true;
}

static int
compare_shards(const void *a, const void *b)
{
	return ((const Shard *) a)->number - ((const Shard *) b)->number;
}

/* dbscale_catalog_shard searches by number from here on. */
static void
sort_shards(CatalogCache *cache)
{
	ListCell   *lc;

	foreach(lc, cache->groups)
	{
		TableGroup *group = lfirst(lc);

		if (group->nshards > 1)
			qsort(group->shards, group->nshards, sizeof(Shard), compare_shards);
	}
}

static int
compare_nodes(const ListCell *a, const ListCell *b)
{
	return strcmp(NameStr(((const ShardNode *) lfirst(a))->name),
				  NameStr(((const ShardNode *) lfirst(b))->name));
}

static int
compare_groups(const ListCell *a, const ListCell *b)
{
	return ((const TableGroup *) lfirst(a))->id - ((const TableGroup *) lfirst(b))->id;
}

/* The order of reading is the order in which rows refer to each other. */
static bool
read_tables(CatalogCache *cache, const Oid *relids, Snapshot snapshot)
{
	if (!read_rows(relids[CATALOG_NODE], snapshot, cache, read_node) ||
		!read_rows(relids[CATALOG_TABLE_GROUP], snapshot, cache, read_group) ||
		!read_rows(relids[CATALOG_SHARD], snapshot, cache, read_shard))
		return false;
	list_sort(cache->nodes, compare_nodes);
	list_sort(cache->groups, compare_groups);
	sort_shards(cache);
	return read_rows(relids[CATALOG_DISTRIBUTED_TABLE], snapshot, cache, read_table) &&
		read_rows(relids[CATALOG_SHARD_TABLE], snapshot, cache, read_shard_table) &&
		read_rows(relids[CATALOG_DIRECTORY], snapshot, cache, read_directory_entry);
}

static HTAB *
make_oid_hash(const char *name, Size entrysize, MemoryContext context)
{
	HASHCTL		control;

	memset(&control, 0, sizeof(control));
	control.keysize = sizeof(Oid);
	control.entrysize = entrysize;
	control.hcxt = context;
	return hash_create(name, 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

CatalogCache *
dbscale_cache_load(const Oid *relids, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "dbscale catalog",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	CatalogCache *cache = palloc0(sizeof(CatalogCache));
	Snapshot	snapshot;
	bool		complete;

	cache->context = context;
	cache->tables_by_oid = make_oid_hash("dbscale tables", sizeof(TableEntry), context);
	cache->owners = make_oid_hash("dbscale shard tables", sizeof(OwnerEntry), context);

	/* A catalog snapshot is allowed in parallel workers, and is new for tables without syscaches. */
	snapshot = RegisterSnapshot(GetCatalogSnapshot(relids[CATALOG_NODE]));
	complete = read_tables(cache, relids, snapshot);
	UnregisterSnapshot(snapshot);

	MemoryContextSwitchTo(caller);
	if (!complete)
	{
		MemoryContextDelete(context);
		return NULL;
	}
	return cache;
}

List *
dbscale_cache_read_relations(Oid distributed_table)
{
	Relation	rel = table_open(distributed_table, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	List	   *relids = NIL;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;

		relids = lappend_oid(relids, DatumGetObjectId(heap_getattr(tuple, 1, RelationGetDescr(rel),
																   &isnull)));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return relids;
}
