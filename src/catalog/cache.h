/*
 * cache.h
 *		Private to catalog/: the cache's shape, and who builds and finds it.
 */
#ifndef DBSCALE_CACHE_H
#define DBSCALE_CACHE_H

#include "catalog/metadata.h"
#include "utils/hsearch.h"

/* The catalog's tables that the cache is made of, in the order of catalog_tables[]. */
typedef enum CatalogTable
{
	CATALOG_NODE,
	CATALOG_TABLE_GROUP,
	CATALOG_DISTRIBUTED_TABLE,
	CATALOG_SHARD,
	CATALOG_SHARD_TABLE,
	CATALOG_DIRECTORY
} CatalogTable;

#define CATALOG_TABLES (CATALOG_DIRECTORY + 1)

typedef struct CatalogCache
{
	MemoryContext context;		/* holds everything, this struct included */
	List	   *nodes;			/* of ShardNode *, by name */
	List	   *groups;			/* of TableGroup *, by id */
	List	   *tables;			/* of DistributedTable * */
	HTAB	   *tables_by_oid;	/* TableEntry */
	HTAB	   *owners;			/* OwnerEntry */
	List	   *missing;		/* tables (OIDs) that did not exist: perhaps in this transaction only */
} CatalogCache;

typedef struct TableEntry
{
	Oid			relid;			/* hash key */
	DistributedTable *table;
} TableEntry;

typedef struct OwnerEntry
{
	Oid			foreign_table;	/* hash key */
	DistributedTable *table;
	int			shard;
} OwnerEntry;

/* The cache, true as of now; NULL without the extension or outside a transaction. */
extern const CatalogCache *dbscale_cache_get(void);

/*
 * Read the tables (OIDs in the enum's order) into a context that is a child of
 * the given one.  NULL if one of them is gone.
 */
extern CatalogCache *dbscale_cache_load(const Oid *relids, MemoryContext parent);

/* OIDs in dbscale.distributed_table, read anew; the relation is given by its OID. */
extern List *dbscale_cache_read_relations(Oid distributed_table);

#endif							/* DBSCALE_CACHE_H */
