/*
 * bounds.c
 *		The strategies range and list: core's partition bounds decide.
 *
 * The parent is partitioned by core's own RANGE or LIST, so the partition for a
 * key is found in the relation cache's sorted bounds, and its shard in the catalog.
 */
#include "routing/router.h"

#include "access/table.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "utils/partcache.h"
#include "utils/rel.h"

/* Index into the partition descriptor, or -1. */
typedef int (*BoundSearch) (PartitionKey key, PartitionBoundInfo bounds, Datum value);

static int
search_range(PartitionKey key, PartitionBoundInfo bounds, Datum value)
{
	bool		is_equal;
	int			offset = partition_range_datum_bsearch(key->partsupfunc, key->partcollation,
													   bounds, 1, &value, &is_equal);

	/* The greatest bound that is not above the value is below the partition. */
	return bounds->indexes[offset + 1];
}

static int
search_list(PartitionKey key, PartitionBoundInfo bounds, Datum value)
{
	bool		is_equal = false;
	int			offset = partition_list_bsearch(key->partsupfunc, key->partcollation,
												bounds, value, &is_equal);

	return offset >= 0 && is_equal ? bounds->indexes[offset] : -1;
}

static int
search_list_null(PartitionKey key, PartitionBoundInfo bounds, Datum value)
{
	return partition_bound_accepts_nulls(bounds) ? bounds->null_index : -1;
}

static int
search_nothing(PartitionKey key, PartitionBoundInfo bounds, Datum value)
{
	return -1;
}

static int
search_bounds(const DistributedTable *table, Datum value, BoundSearch search)
{
	Relation	rel = table_open(table->relid, AccessShareLock);
	PartitionKey key = RelationGetPartitionKey(rel);
	PartitionDesc partitions = key ? RelationGetPartitionDesc(rel, false) : NULL;
	int			shard = -1;

	if (partitions != NULL && partitions->nparts > 0)
	{
		int			index = search(key, partitions->boundinfo, value);

		if (index < 0)
			index = partitions->boundinfo->default_index;
		if (index >= 0 && !dbscale_catalog_owner_of(partitions->oids[index], &shard))
			shard = -1;
	}
	table_close(rel, AccessShareLock);
	return shard;
}

static int
route_range(const DistributedTable *table, Datum key)
{
	return search_bounds(table, key, search_range);
}

/* Only a default partition takes NULL. */
static int
route_range_null(const DistributedTable *table)
{
	return search_bounds(table, (Datum) 0, search_nothing);
}

static int
route_list(const DistributedTable *table, Datum key)
{
	return search_bounds(table, key, search_list);
}

static int
route_list_null(const DistributedTable *table)
{
	return search_bounds(table, (Datum) 0, search_list_null);
}

const RoutingStrategy dbscale_range_strategy = {route_range, route_range_null};
const RoutingStrategy dbscale_list_strategy = {route_list, route_list_null};
