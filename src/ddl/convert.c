/*
 * convert.c
 *		From heap to partitioned table and back, in place.
 *
 * A table that is distributed keeps its OID, and with it everything that hangs on
 * the OID: views, policies, grants, comments, triggers, sequences, cached plans of
 * other sessions (which are told).  So nothing is created anew; the catalog's rows
 * of the table are turned into what CREATE TABLE ... PARTITION BY would have made.
 *
 * To partitioned.  The parent may have no storage, but its rows are still needed.
 * They are handed, file and TOAST table, to a transient table of the same shape
 * (core's make_new_heap, as VACUUM FULL uses it), which takes the parent's file:
 *
 *		before						after
 *		parent 'r', file F			parent 'p', no file
 *									pg_temp_<oid> 'r', file F, the TOAST table
 *
 * The caller copies the rows from there to the shards and drops the transient
 * table, and F with it.  All of it is ordinary catalog rows and storage that is
 * dropped at commit: after a rollback, or a crash, the heap is as it was.
 *
 * To heap.  A new file and TOAST table are made, empty; indexes get an empty file,
 * and are built by reindex_relation once the caller has put the rows in.
 *
 * Core refuses to give a partitioned table with a unique index a foreign table as
 * partition, since it could not enforce it there.  The shards do enforce it, so the
 * flags of pg_index are switched off while the partitions are made, in the same
 * transaction: nobody else ever sees them off.
 */
#include "ddl/ddl.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/multixact.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/heap.h"
#include "catalog/indexing.h"
#include "catalog/pg_am.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_index.h"
#include "catalog/pg_opclass.h"
#include "catalog/storage.h"
#include "catalog/toasting.h"
#include "commands/cluster.h"
#include "commands/defrem.h"
#include "pgstat.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* What one index had before dbscale_ddl_hide_unique. */
typedef struct HiddenIndex
{
	Oid			index;
	bool		primary;
} HiddenIndex;

/* A copy of a relation's pg_class row, to be changed and stored. */
static HeapTuple
class_tuple(Oid relid)
{
	HeapTuple	tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(relid));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	return tuple;
}

static void
store_class_tuple(HeapTuple tuple)
{
	Relation	pg_class = table_open(RelationRelationId, RowExclusiveLock);

	CatalogTupleUpdate(pg_class, &tuple->t_self, tuple);
	table_close(pg_class, RowExclusiveLock);
}

static HeapTuple
index_tuple(Oid index)
{
	HeapTuple	tuple = SearchSysCacheCopy1(INDEXRELID, ObjectIdGetDatum(index));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for index %u", index);
	return tuple;
}

static void
store_index_tuple(HeapTuple tuple)
{
	Relation	pg_index = table_open(IndexRelationId, RowExclusiveLock);

	CatalogTupleUpdate(pg_index, &tuple->t_self, tuple);
	table_close(pg_index, RowExclusiveLock);
}

/* The OIDs of a table's indexes, whatever their state. */
static List *
indexes_of(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	List	   *indexes = RelationGetIndexList(rel);

	table_close(rel, NoLock);
	return indexes;
}

/* pg_class of the parent says: partitioned, without storage and storage parameters. */
static void
make_class_partitioned(Oid relid)
{
	HeapTuple	tuple = class_tuple(relid);
	Relation	pg_class = table_open(RelationRelationId, RowExclusiveLock);
	Form_pg_class form = (Form_pg_class) GETSTRUCT(tuple);
	Datum		values[Natts_pg_class] = {0};
	bool		nulls[Natts_pg_class] = {0};
	bool		replace[Natts_pg_class] = {0};

	form->relkind = RELKIND_PARTITIONED_TABLE;
	form->relam = InvalidOid;
	form->relfilenode = InvalidOid;
	form->reltoastrelid = InvalidOid;
	form->relpages = 0;
	form->reltuples = -1;
	form->relallvisible = 0;
	form->relfrozenxid = InvalidTransactionId;
	form->relminmxid = InvalidMultiXactId;
	nulls[Anum_pg_class_reloptions - 1] = true;
	replace[Anum_pg_class_reloptions - 1] = true;
	tuple = heap_modify_tuple(tuple, RelationGetDescr(pg_class), values, nulls, replace);
	CatalogTupleUpdate(pg_class, &tuple->t_self, tuple);
	table_close(pg_class, RowExclusiveLock);
}

/*
 * Under wal_level = minimal a file that is made in this transaction is synced at commit
 * instead of logged, and the relation cache tells which ones are: so when a file changes
 * hands, what it tells goes with it (as in core's swap_relation_files).  Else a scan of the
 * transient table would prune pages of the old file, unlogged, and a rollback keep them.
 */
static void
hand_over_newness(Relation from, Relation to)
{
	to->rd_createSubid = from->rd_createSubid;
	to->rd_newRelfilelocatorSubid = from->rd_newRelfilelocatorSubid;
	to->rd_firstRelfilelocatorSubid = from->rd_firstRelfilelocatorSubid;
}

/*
 * The relation has no file any more.  (If it gets it back by ROLLBACK TO, it is not known
 * that it was new: it is logged and synced then.)
 */
static void
forget_newness(Relation rel)
{
	rel->rd_newRelfilelocatorSubid = InvalidSubTransactionId;
	rel->rd_firstRelfilelocatorSubid = InvalidSubTransactionId;
}

/* The transient table takes the file and TOAST table that `old` describes. */
static void
adopt_storage(Oid rows, Form_pg_class old)
{
	Relation	rel = table_open(rows, AccessExclusiveLock);
	Relation	parent = table_open(old->oid, NoLock);
	HeapTuple	tuple;
	Form_pg_class form;

	RelationDropStorage(rel);	/* its own, still empty */
	hand_over_newness(parent, rel);
	forget_newness(parent);
	table_close(parent, NoLock);
	table_close(rel, NoLock);

	tuple = class_tuple(rows);
	form = (Form_pg_class) GETSTRUCT(tuple);
	form->relfilenode = old->relfilenode;
	form->reltoastrelid = old->reltoastrelid;
	form->relfrozenxid = old->relfrozenxid;
	form->relminmxid = old->relminmxid;
	store_class_tuple(tuple);
	if (OidIsValid(old->reltoastrelid))
		changeDependencyFor(RelationRelationId, old->reltoastrelid,
							RelationRelationId, old->oid, rows);
}

static void
make_index_partitioned(Oid index)
{
	Relation	rel = index_open(index, AccessExclusiveLock);
	HeapTuple	tuple;
	Form_pg_class form;
	Form_pg_index index_form;

	RelationDropStorage(rel);
	forget_newness(rel);
	/* an entry of this transaction is not made anew, and would keep the file's name */
	RelationCloseSmgr(rel);
	memset(&rel->rd_locator, 0, sizeof(rel->rd_locator));
	/* core forgets the statistics of what has no storage, but they would remember the entry */
	pgstat_unlink_relation(rel);
	index_close(rel, NoLock);

	tuple = class_tuple(index);
	form = (Form_pg_class) GETSTRUCT(tuple);
	form->relkind = RELKIND_PARTITIONED_INDEX;
	form->relfilenode = InvalidOid;
	form->relpages = 0;
	form->reltuples = 0;
	form->relallvisible = 0;
	store_class_tuple(tuple);

	tuple = index_tuple(index);
	index_form = (Form_pg_index) GETSTRUCT(tuple);
	index_form->indisclustered = false; /* no such mark on a partitioned index */
	index_form->indcheckxmin = false;
	store_index_tuple(tuple);
}

/*
 * What ANALYZE knew of the heap; of a partitioned table it knows only inherited
 * statistics, of which those of columns are removed with the others.
 */
static void
remove_statistics(Oid relid, bool inherited)
{
	Relation	rel = table_open(relid, NoLock);
	List	   *objects = RelationGetStatExtList(rel);
	ListCell   *lc;

	table_close(rel, NoLock);
	RemoveStatistics(relid, 0);
	foreach(lc, objects)
		RemoveStatisticsDataById(lfirst_oid(lc), inherited);
}

static char
partition_strategy(ShardStrategy strategy)
{
	if (strategy == SHARD_RANGE)
		return PARTITION_STRATEGY_RANGE;
	return strategy == SHARD_LIST ? PARTITION_STRATEGY_LIST : PARTITION_STRATEGY_HASH;
}

/*
 * Make the relcache read the partition key anew.  Core never changes one, so an entry
 * that cannot be thrown away (that of a table made in this transaction) keeps it when
 * it is rebuilt: a table distributed twice, or again after ROLLBACK TO, had its old key.
 */
static void
forget_partition_key(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);

	if (rel->rd_partkeycxt != NULL)
		MemoryContextDelete(rel->rd_partkeycxt);
	rel->rd_partkeycxt = NULL;
	rel->rd_partkey = NULL;
	table_close(rel, NoLock);
}

Oid
dbscale_ddl_convert_to_partitioned(Oid relid, ShardStrategy strategy,
								   AttrNumber key, Oid opclass, Oid collation)
{
	HeapTuple	old_tuple = class_tuple(relid);
	Form_pg_class old = (Form_pg_class) GETSTRUCT(old_tuple);
	Relation	rel;
	Oid			rows;
	ListCell   *lc;

	foreach(lc, indexes_of(relid))
		make_index_partitioned(lfirst_oid(lc));
	remove_statistics(relid, false);
	make_class_partitioned(relid);
	CommandCounterIncrement();

	rows = make_new_heap(relid, old->reltablespace, old->relam,
						 old->relpersistence, AccessExclusiveLock);
	adopt_storage(rows, old);
	CommandCounterIncrement();

	rel = table_open(relid, NoLock);
	StorePartitionKey(rel, partition_strategy(strategy), 1, &key, NIL, &opclass, &collation);
	table_close(rel, NoLock);
	CommandCounterIncrement();
	forget_partition_key(relid);
	return rows;
}

/* True for the pg_depend rows that StorePartitionKey made. */
static bool
is_partition_key_dependency(Form_pg_depend depend, Oid relid)
{
	if (depend->objsubid == 0)
		return depend->refclassid == OperatorClassRelationId ||
			depend->refclassid == CollationRelationId;
	return depend->refclassid == RelationRelationId && depend->refobjid == relid &&
		depend->refobjsubid == 0 && depend->deptype == DEPENDENCY_INTERNAL;
}

static void
delete_partition_key_dependencies(Oid relid)
{
	Relation	pg_depend = table_open(DependRelationId, RowExclusiveLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_pg_depend_classid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(RelationRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_objid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(pg_depend, DependDependerIndexId, true, NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (is_partition_key_dependency((Form_pg_depend) GETSTRUCT(tuple), relid))
			CatalogTupleDelete(pg_depend, &tuple->t_self);
	}
	systable_endscan(scan);
	table_close(pg_depend, RowExclusiveLock);
}

/* pg_class of an index or table gets a kind with storage, and the number of a new file. */
static void
give_storage(Oid relid, char relkind)
{
	HeapTuple	tuple = class_tuple(relid);
	Form_pg_class form = (Form_pg_class) GETSTRUCT(tuple);
	Relation	pg_class = table_open(RelationRelationId, RowExclusiveLock);

	form->relkind = relkind;
	form->relfilenode = dbscale_new_file_number(form->reltablespace, pg_class,
												form->relpersistence);
	if (relkind == RELKIND_RELATION)
	{
		form->relam = HEAP_TABLE_AM_OID;
		form->relhassubclass = false;
		form->reltuples = -1;
		form->relpages = 0;
	}
	CatalogTupleUpdate(pg_class, &tuple->t_self, tuple);
	table_close(pg_class, RowExclusiveLock);
	CommandCounterIncrement();
}

static void
make_index_plain(Oid index)
{
	Relation	rel;

	give_storage(index, RELKIND_INDEX);
	rel = index_open(index, AccessExclusiveLock);
	(void) RelationCreateStorage(rel->rd_locator, RELPERSISTENCE_PERMANENT, true);
	RelationAssumeNewRelfilelocator(rel);
	index_close(rel, NoLock);
}

static void
make_table_plain(Oid relid)
{
	Relation	rel;
	HeapTuple	tuple;
	Form_pg_class form;
	TransactionId frozen;
	MultiXactId minmulti;

	give_storage(relid, RELKIND_RELATION);
	rel = table_open(relid, NoLock);
	table_relation_set_new_filelocator(rel, &rel->rd_locator, RELPERSISTENCE_PERMANENT,
									   &frozen, &minmulti);
	RelationAssumeNewRelfilelocator(rel);
	table_close(rel, NoLock);

	tuple = class_tuple(relid);
	form = (Form_pg_class) GETSTRUCT(tuple);
	form->relfrozenxid = frozen;
	form->relminmxid = minmulti;
	store_class_tuple(tuple);
	CommandCounterIncrement();
}

void
dbscale_ddl_convert_to_heap(Oid relid)
{
	ListCell   *lc;

	RemovePartitionKeyByRelId(relid);
	delete_partition_key_dependencies(relid);
	remove_statistics(relid, true);
	make_table_plain(relid);
	forget_partition_key(relid);
	foreach(lc, indexes_of(relid))
		make_index_plain(lfirst_oid(lc));
	NewRelationCreateToastTable(relid, (Datum) 0);
	CommandCounterIncrement();
}

List *
dbscale_ddl_hide_unique(Oid relid)
{
	List	   *hidden = NIL;
	ListCell   *lc;

	foreach(lc, indexes_of(relid))
	{
		HeapTuple	tuple = index_tuple(lfirst_oid(lc));
		Form_pg_index form = (Form_pg_index) GETSTRUCT(tuple);
		HiddenIndex *one;

		if (!form->indisunique)
			continue;
		one = palloc(sizeof(HiddenIndex));
		one->index = form->indexrelid;
		one->primary = form->indisprimary;
		hidden = lappend(hidden, one);
		form->indisunique = form->indisprimary = false;
		store_index_tuple(tuple);
	}
	CacheInvalidateRelcacheByRelid(relid);
	CommandCounterIncrement();
	return hidden;
}

void
dbscale_ddl_show_unique(List *hidden)
{
	ListCell   *lc;

	foreach(lc, hidden)
	{
		HiddenIndex *one = lfirst(lc);
		HeapTuple	tuple = index_tuple(one->index);
		Form_pg_index form = (Form_pg_index) GETSTRUCT(tuple);

		form->indisunique = true;
		form->indisprimary = one->primary;
		store_index_tuple(tuple);
		CacheInvalidateRelcacheByRelid(form->indrelid);
	}
	CommandCounterIncrement();
}

void
dbscale_ddl_validate_parent_indexes(Oid relid)
{
	ListCell   *lc;

	foreach(lc, indexes_of(relid))
	{
		HeapTuple	tuple = index_tuple(lfirst_oid(lc));
		Form_pg_index form = (Form_pg_index) GETSTRUCT(tuple);

		if (form->indisvalid || get_rel_relkind(form->indexrelid) != RELKIND_PARTITIONED_INDEX)
			continue;
		form->indisvalid = true;
		store_index_tuple(tuple);
	}
	CacheInvalidateRelcacheByRelid(relid);
	CommandCounterIncrement();
}
