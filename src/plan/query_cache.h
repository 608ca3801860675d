/*
 * query_cache.h
 *		What is kept for queries that repeat: texts (text_cache.c), plans (planner/plan_cache.c).
 */
#ifndef DBSCALE_PLAN_QUERY_CACHE_H
#define DBSCALE_PLAN_QUERY_CACHE_H

#include "base/base.h"

#include "lib/ilist.h"
#include "nodes/parsenodes.h"
#include "storage/lock.h"

#define QUERY_CACHE_BUCKETS 64
#define QUERY_CACHE_SEEN 512

/* What a cache keeps begins with it. */
typedef struct QueryEntry
{
	dlist_node	node;			/* the last used first */
	dlist_node	in_bucket;
	MemoryContext context;		/* has all of it */
	uint32		hash;
	Query	   *query;
	List	   *relations;		/* OIDs: with whose relation cache entries it goes */
	LocalTransactionId used_by; /* the transaction that may still use it */
} QueryEntry;

typedef struct QueryCache
{
	bool		initialized;
	dlist_head	entries;
	dlist_head	buckets[QUERY_CACHE_BUCKETS];
	int			count;
	uint32		seen[QUERY_CACHE_SEEN]; /* hashes of queries that were met once */
	uint64		generation;		/* counts invalidations */
} QueryCache;

/* Before anything else is done with it. */
extern void dbscale_query_cache_initialize(QueryCache *cache);
/* What is kept for an equal query, over these relations unless they are NIL; or NULL. */
extern QueryEntry *dbscale_query_cache_find(QueryCache *cache, const Query *query, uint32 hash, List *relations);
/* Is it worth it, and is there room? */
extern bool dbscale_query_cache_wants(QueryCache *cache, uint32 hash);
/* An entry of this size, in a context of its own, which belongs to the caller's until it is kept. */
extern QueryEntry *dbscale_query_cache_make(Size size, Query *query, uint32 hash, List *relations);
extern void dbscale_query_cache_keep(QueryCache *cache, QueryEntry *entry);
/* Until the end of the transaction it is not freed. */
extern void dbscale_query_cache_use(QueryEntry *entry);
extern void dbscale_query_cache_forget_all(QueryCache *cache);

#endif							/* DBSCALE_PLAN_QUERY_CACHE_H */
