/*
 * query_cache.c
 *		What is kept for queries that repeat, found by equal() queries.
 *
 * It goes with the relation cache entries of its relations.  Something is kept from the
 * second time on, so that statements that are never repeated cost no copy, and the
 * MAX_ENTRIES most recently used are.  What this transaction may still use gives its
 * place to nobody, so that a long transaction does not heap up what it has forgotten: once
 * it uses them all, nothing more is kept.  If that is invalidated, it is freed when the
 * transaction ends.
 */
#include "plan/query_cache.h"

#include "storage/proc.h"
#include "utils/inval.h"
#include "utils/memutils.h"

#define MAX_ENTRIES 128

static bool
is_in_use(const QueryEntry *entry)
{
	return LocalTransactionIdIsValid(entry->used_by) && TopTransactionContext != NULL &&
		entry->used_by == dbscale_proc_lxid(MyProc);
}

static void
forget(QueryCache *cache, QueryEntry *entry)
{
	dlist_delete(&entry->node);
	dlist_delete(&entry->in_bucket);
	cache->count--;
	if (is_in_use(entry))
		MemoryContextSetParent(entry->context, TopTransactionContext);
	else
		MemoryContextDelete(entry->context);
}

/* Relation cache callback. */
static void
forget_relation(Datum arg, Oid relid)
{
	QueryCache *cache = (QueryCache *) DatumGetPointer(arg);
	dlist_mutable_iter iter;

	cache->generation++;
	dlist_foreach_modify(iter, &cache->entries)
	{
		QueryEntry *entry = dlist_container(QueryEntry, node, iter.cur);

		if (!OidIsValid(relid) || list_member_oid(entry->relations, relid))
			forget(cache, entry);
	}
}

void
dbscale_query_cache_forget_all(QueryCache *cache)
{
	forget_relation(PointerGetDatum(cache), InvalidOid);
}

void
dbscale_query_cache_initialize(QueryCache *cache)
{
	if (cache->initialized)
		return;
	dlist_init(&cache->entries);
	for (int i = 0; i < QUERY_CACHE_BUCKETS; i++)
		dlist_init(&cache->buckets[i]);
	CacheRegisterRelcacheCallback(forget_relation, PointerGetDatum(cache));
	cache->initialized = true;
}

QueryEntry *
dbscale_query_cache_find(QueryCache *cache, const Query *query, uint32 hash, List *relations)
{
	dlist_iter	iter;

	dlist_foreach(iter, &cache->buckets[hash % QUERY_CACHE_BUCKETS])
	{
		QueryEntry *entry = dlist_container(QueryEntry, in_bucket, iter.cur);

		if (entry->hash != hash || (relations != NIL && !equal(entry->relations, relations)) || !equal(entry->query, query))
			continue;
		dlist_move_head(&cache->entries, &entry->node);
		return entry;
	}
	return NULL;
}

static QueryEntry *
last_used(QueryCache *cache)
{
	return dlist_tail_element(QueryEntry, node, &cache->entries);
}

bool
dbscale_query_cache_wants(QueryCache *cache, uint32 hash)
{
	uint32	   *slot = &cache->seen[hash % QUERY_CACHE_SEEN];

	if (*slot == hash)
		return cache->count < MAX_ENTRIES || !is_in_use(last_used(cache));
	*slot = hash;
	return false;
}

QueryEntry *
dbscale_query_cache_make(Size size, Query *query, uint32 hash, List *relations)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dbscale kept for a query",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	QueryEntry *entry = palloc0(size);

	entry->context = context;
	entry->hash = hash;
	entry->query = copyObject(query);
	entry->relations = list_copy(relations);
	MemoryContextSwitchTo(old);
	return entry;
}

void
dbscale_query_cache_keep(QueryCache *cache, QueryEntry *entry)
{
	if (cache->count >= MAX_ENTRIES)
		forget(cache, last_used(cache));
	MemoryContextSetParent(entry->context, TopMemoryContext);
	dlist_push_head(&cache->entries, &entry->node);
	dlist_push_head(&cache->buckets[entry->hash % QUERY_CACHE_BUCKETS], &entry->in_bucket);
	cache->count++;
}

void
dbscale_query_cache_use(QueryEntry *entry)
{
	entry->used_by = dbscale_proc_lxid(MyProc);
}
