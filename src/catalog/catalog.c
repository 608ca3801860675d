/*
 * catalog.c
 *		Lookups in the cache of the catalog.
 *
 * Readers and moves.  A shard moves while it is read, so a reader takes no lock that a
 * move waits for.  What it relies on instead:
 *
 *	1. Who looks up the node of a shard takes in all invalidations first.  PostgreSQL
 *	   does that when a lock is acquired, but not when the transaction has it already:
 *	   a transaction that read the shard before would go on reading the old place,
 *	   where nothing is written any more.
 *	2. A statement holds a snapshot from before its lookup to its end, and the old
 *	   place is dropped when every snapshot is gone that is older than the switch.  So
 *	   who has looked up the old place finds it there, as it was at the switch, which
 *	   was after the statement began.
 *	3. A transaction that keeps one snapshot (REPEATABLE READ) would see the shard as of
 *	   now if it were led to the new place, and not see it as of its snapshot anywhere
 *	   else, so it is refused with 40001 where the move is not in its snapshot.
 *
 * Writers, and readers that lock rows, do have a lock on the shard's foreign table,
 * which a move waits for, and look up the node after they have got it.
 */
#include "catalog/cache.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

static const char *const strategy_names[] = {
	[SHARD_HASH] = "hash",
	[SHARD_DIRECTORY] = "directory",
	[SHARD_RANGE] = "range",
	[SHARD_LIST] = "list",
};

const char *
dbscale_strategy_name(ShardStrategy strategy)
{
	return strategy_names[strategy];
}

bool
dbscale_catalog_is_empty(void)
{
	const CatalogCache *cache = dbscale_cache_get();

	return cache == NULL || (cache->tables == NIL && cache->nodes == NIL);
}

const DistributedTable *
dbscale_catalog_table(Oid relid)
{
	const CatalogCache *cache = dbscale_cache_get();
	TableEntry *entry;

	if (cache == NULL || cache->tables == NIL)
		return NULL;
	entry = hash_search(cache->tables_by_oid, &relid, HASH_FIND, NULL);
	return entry ? entry->table : NULL;
}

bool
dbscale_catalog_is_distributed(Oid relid)
{
	const DistributedTable *table = dbscale_catalog_table(relid);

	return table != NULL && !table->is_reference;
}

const TableGroup *
dbscale_catalog_group(int group_id)
{
	const CatalogCache *cache = dbscale_cache_get();
	ListCell   *lc;

	if (cache == NULL)
		return NULL;
	foreach(lc, cache->groups)
	{
		const TableGroup *group = lfirst(lc);

		if (group->id == group_id)
			return group;
	}
	return NULL;
}

const TableGroup *
dbscale_catalog_group_by_opfamily(const char *opfamily)
{
	const CatalogCache *cache = dbscale_cache_get();
	ListCell   *lc;

	if (cache == NULL)
		return NULL;
	foreach(lc, cache->groups)
	{
		const TableGroup *group = lfirst(lc);

		if (group->opfamily != NULL && strcmp(group->opfamily, opfamily) == 0)
			return group;
	}
	return NULL;
}

const ShardNode *
dbscale_catalog_node(const char *name)
{
	const CatalogCache *cache = dbscale_cache_get();
	ListCell   *lc;

	if (cache == NULL)
		return NULL;
	foreach(lc, cache->nodes)
	{
		const ShardNode *node = lfirst(lc);

		if (strcmp(NameStr(node->name), name) == 0)
			return node;
	}
	return NULL;
}

const ShardNode *
dbscale_catalog_node_by_server(Oid serverid)
{
	const CatalogCache *cache = dbscale_cache_get();
	ListCell   *lc;

	if (cache == NULL || !OidIsValid(serverid))
		return NULL;
	foreach(lc, cache->nodes)
	{
		const ShardNode *node = lfirst(lc);

		if (node->serverid == serverid)
			return node;
	}
	return NULL;
}

/* The lists are copies in the caller's context; what they point to is the cache's. */
List *
dbscale_catalog_nodes(void)
{
	const CatalogCache *cache = dbscale_cache_get();

	return cache ? list_copy(cache->nodes) : NIL;
}

List *
dbscale_catalog_tables(void)
{
	const CatalogCache *cache = dbscale_cache_get();

	return cache ? list_copy(cache->tables) : NIL;
}

const Shard *
dbscale_catalog_shard(const TableGroup *group, int number)
{
	int			low = 0;
	int			high = group->nshards - 1;

	while (low <= high)
	{
		int			middle = (low + high) / 2;

		if (group->shards[middle].number == number)
			return &group->shards[middle];
		if (group->shards[middle].number < number)
			low = middle + 1;
		else
			high = middle - 1;
	}
	return NULL;
}

Oid
dbscale_catalog_foreign_table(const DistributedTable *table, int number)
{
	const Shard *shard = dbscale_catalog_shard(table->group, number);

	return shard ? table->foreign_tables[shard - table->group->shards] : InvalidOid;
}

void
dbscale_catalog_refresh(void)
{
	AcceptInvalidationMessages();
}

/* Is the transaction's effect part of what the snapshot shows? */
static bool
snapshot_has(Snapshot snapshot, FullTransactionId fxid)
{
	TransactionId xid = XidFromFullTransactionId(fxid);
	uint64		age = U64FromFullTransactionId(ReadNextFullTransactionId()) - U64FromFullTransactionId(fxid);

	/* an id of the future is from the server that a dump was made of */
	return age == 0 || age > PG_INT32_MAX || TransactionIdIsCurrentTransactionId(xid) ||
		!XidInMVCCSnapshot(xid, snapshot);
}

void
dbscale_catalog_check_snapshot(const DistributedTable *table, const Shard *shard)
{
	if (!FullTransactionIdIsValid(shard->moved_by) || !IsolationUsesXactSnapshot() ||
		snapshot_has(GetTransactionSnapshot(), shard->moved_by))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("shard %d of table \"%s\" has moved since the transaction began",
					shard->number, get_rel_name(table->relid)),
			 errdetail("On node \"%s\", where it is now, the rows of the transaction's snapshot are not to be had.",
					   NameStr(shard->node->name)),
			 errhint("Retry the transaction.")));
}

const DistributedTable *
dbscale_catalog_owner_of(Oid foreign_table, int *shard)
{
	const CatalogCache *cache = dbscale_cache_get();
	OwnerEntry *entry;

	if (cache == NULL || cache->tables == NIL)
		return NULL;
	entry = hash_search(cache->owners, &foreign_table, HASH_FIND, NULL);
	if (entry == NULL)
		return NULL;
	if (shard != NULL)
		*shard = entry->shard;
	return entry->table;
}

/* A relation as users know it, for messages. */
static const char *
relation_name(Oid relid)
{
	const char *name = get_rel_name(relid);

	return name ? name : psprintf("%u", relid);
}

const DistributedTable *
dbscale_catalog_require_table(Oid relid)
{
	const DistributedTable *table = dbscale_catalog_table(relid);
	const DistributedTable *parent;
	int			shard;

	if (table != NULL)
		return table;
	parent = dbscale_catalog_owner_of(relid, &shard);
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("table \"%s\" is not distributed", relation_name(relid)),
			 parent ?
			 errdetail("It is shard %d of table \"%s\".", shard, relation_name(parent->relid)) :
			 errdetail("It is neither a distributed table nor a reference table."),
			 parent ?
			 errhint("Name the distributed table.") :
			 errhint("Use dbscale.distribute_table() to distribute it.")));
}

const DistributedTable *
dbscale_catalog_require_distributed(Oid relid)
{
	const DistributedTable *table = dbscale_catalog_require_table(relid);

	if (table->is_reference)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("table \"%s\" is a reference table", relation_name(relid)),
				 errdetail("A reference table is whole on every node and has no shards."),
				 errhint("Use a table made by dbscale.distribute_table().")));
	return table;
}

const ShardNode *
dbscale_catalog_require_node(const char *name, bool must_be_enabled)
{
	const ShardNode *node = dbscale_catalog_node(name);

	if (node == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("node \"%s\" does not exist", name),
				 errhint("The view dbscale.nodes lists the nodes; dbscale.add_node() adds one.")));
	if (must_be_enabled && !node->enabled)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("node \"%s\" is disabled", name),
				 errhint("Run dbscale.enable_node(%s) first.", quote_literal_cstr(name))));
	return node;
}
