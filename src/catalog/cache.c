/*
 * cache.c
 *		When the cache of the catalog is built, and when it is thrown away.
 *
 * The catalog's tables are small and read together, so they are read whole, into
 * one memory context, when first asked for.  Three things keep it true:
 *
 * 1. Whoever changes a row sends a relcache invalidation of one of the catalog's
 *    tables (a trigger on each sees to it).  It reaches other backends after the
 *    commit has made the rows visible, and our own at the end of the command, or
 *    when the (sub)transaction rolls back.
 * 2. The callback below only marks the cache stale; the next lookup reads again.
 *    An invalidation that arrives while reading makes it read once more.
 * 3. What the cache takes from core's catalogs (a parent's key column, a server's
 *    OID) is covered by invalidations of the parents and of pg_foreign_server.
 *
 * While the extension is not there every relcache invalidation makes us look
 * again, for one of them is CREATE EXTENSION's.
 *
 * A cache that was replaced is not freed at once: lookups promise their structs
 * until the end of the transaction, so its context becomes a child of
 * TopTransactionContext.
 */
#include "catalog/cache.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* After so many tries a cache that is stale already is used, and read again the next time. */
#define LOAD_TRIES 10

static const char *const catalog_tables[CATALOG_TABLES] = {
	"node", "table_group", "distributed_table", "shard", "shard_table", "directory"
};

static CatalogCache *cache = NULL;	/* NULL: not read yet, or no extension */
static bool cache_is_current = false;
static bool invalidated_while_reading = false;
static uint64 cache_generation = 0;
static Oid	catalog_relids[CATALOG_TABLES];

DBSCALE_FUNCTION(dbscale_catalog_changed_trigger);

/* Is it one of the tables that the cache was read from, or a parent in it? */
static bool
cache_depends_on(Oid relid)
{
	if (cache == NULL)
		return true;
	for (int i = 0; i < CATALOG_TABLES; i++)
	{
		if (catalog_relids[i] == relid)
			return true;
	}
	return hash_search(cache->tables_by_oid, &relid, HASH_FIND, NULL) != NULL ||
		list_member_oid(cache->missing, relid);
}

static void
mark_stale(void)
{
	cache_is_current = false;
	invalidated_while_reading = true;
}

/*
 * While reading, the old cache's dependencies do not tell which relations matter
 * to the new one, so every invalidation counts.
 */
static void
relation_invalidated(Datum arg, Oid relid)
{
	if (!cache_is_current || !OidIsValid(relid) || cache_depends_on(relid))
		mark_stale();
}

static void
server_invalidated(Datum arg, int cacheid, uint32 hashvalue)
{
	mark_stale();
}

void
dbscale_catalog_init(void)
{
	CacheRegisterRelcacheCallback(relation_invalidated, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, server_invalidated, (Datum) 0);
}

/* False when the extension is not, or not yet wholly, in this database. */
static bool
find_catalog_tables(Oid *relids)
{
	Oid			schema;

	/* A schema of that name alone proves nothing: anyone may have made it. */
	if (!dbscale_extension_exists())
		return false;
	schema = get_namespace_oid(DBSCALE_SCHEMA, true);
	if (!OidIsValid(schema))
		return false;
	for (int i = 0; i < CATALOG_TABLES; i++)
	{
		relids[i] = get_relname_relid(catalog_tables[i], schema);
		if (!OidIsValid(relids[i]))
			return false;
	}
	return true;
}

/* Put the new cache (or NULL) in the old one's place; see the head of this file. */
static void
replace_cache(CatalogCache *new_cache)
{
	CatalogCache *old_cache = cache;

	if (new_cache != NULL)
		MemoryContextSetParent(new_cache->context, CacheMemoryContext);
	cache = new_cache;
	cache_generation++;
	if (old_cache != NULL)
		MemoryContextSetParent(old_cache->context, TopTransactionContext);
}

static void
reload_cache(void)
{
	for (int tries = 0; !cache_is_current && tries < LOAD_TRIES; tries++)
	{
		Oid			relids[CATALOG_TABLES];
		CatalogCache *new_cache = NULL;

		/* From here on an invalidation means that we may have read too early. */
		invalidated_while_reading = false;
		if (find_catalog_tables(relids))
			new_cache = dbscale_cache_load(relids, CurTransactionContext);

		if (!invalidated_while_reading || tries == LOAD_TRIES - 1)
		{
			if (new_cache != NULL)
				memcpy(catalog_relids, relids, sizeof(relids));
			replace_cache(new_cache);
			cache_is_current = !invalidated_while_reading;
		}
		else if (new_cache != NULL)
			MemoryContextDelete(new_cache->context);
	}
}

const CatalogCache *
dbscale_cache_get(void)
{
	if (!IsTransactionState() || !OidIsValid(MyDatabaseId))
		return NULL;
	if (!cache_is_current)
		reload_cache();
	return cache;
}

uint64
dbscale_catalog_generation(void)
{
	(void) dbscale_cache_get();
	return cache_generation;
}

/*
 * A parent may be gone while its row is still there: DROP TABLE deletes the row
 * after the relation, or somebody dropped it by hand.
 */
static void
invalidate_relation(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));

	if (!HeapTupleIsValid(tuple))
		return;
	CacheInvalidateRelcacheByTuple(tuple);
	ReleaseSysCache(tuple);
}

static void
invalidate_relations(List *relids)
{
	ListCell   *lc;

	foreach(lc, relids)
		invalidate_relation(lfirst_oid(lc));
}

void
dbscale_catalog_changed(List *parents)
{
	/* One of the catalog's tables stands for all. */
	invalidate_relation(dbscale_relation_oid(catalog_tables[CATALOG_DISTRIBUTED_TABLE]));
	invalidate_relations(parents);
}

/*
 * Where a shard or a key is decides what a plan was pruned to, so plans over all
 * parents are made anew when such a row changes.  That is done rarely enough not
 * to look which parents they are.
 */
Datum
dbscale_catalog_changed_trigger(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	const char *table;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by a trigger", "dbscale.catalog_changed")));

	CacheInvalidateRelcache(data->tg_relation);
	table = RelationGetRelationName(data->tg_relation);
	if (strcmp(table, catalog_tables[CATALOG_SHARD]) == 0 ||
		strcmp(table, catalog_tables[CATALOG_SHARD_TABLE]) == 0 ||
		strcmp(table, catalog_tables[CATALOG_DIRECTORY]) == 0)
		invalidate_relations(dbscale_cache_read_relations(dbscale_relation_oid(catalog_tables[CATALOG_DISTRIBUTED_TABLE])));
	return PointerGetDatum(NULL);
}
