/*
 * table_name.c
 *		Qualified names of tables, remembered.
 *
 * Each execution of a routed statement needs the name of a shard's foreign table, which is
 * the shard table's.  A name is forgotten when its table's relation cache entry is
 * invalidated, as by a change of its name or schema, and all are when a schema is renamed.
 */
#include "plan/table_name.h"

#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

/* As many as fit into some hundred kilobytes; then all are forgotten. */
#define MAX_NAMES 2048

typedef struct TableName
{
	Oid			relid;			/* hash key */
	char	   *name;
} TableName;

static HTAB *names = NULL;
static uint64 invalidations = 0;

static void
forget_all(void)
{
	HASH_SEQ_STATUS status;
	TableName  *item;

	hash_seq_init(&status, names);
	while ((item = hash_seq_search(&status)) != NULL)
	{
		pfree(item->name);
		hash_search(names, &item->relid, HASH_REMOVE, NULL);
	}
}

static void
relation_invalidated(Datum arg, Oid relid)
{
	TableName  *item;

	invalidations++;
	if (!OidIsValid(relid))
		forget_all();
	else if ((item = hash_search(names, &relid, HASH_FIND, NULL)) != NULL)
	{
		pfree(item->name);
		hash_search(names, &relid, HASH_REMOVE, NULL);
	}
}

static void
schema_invalidated(Datum arg, int cacheid, uint32 hashvalue)
{
	invalidations++;
	forget_all();
}

static void
initialize(void)
{
	HASHCTL		control = {.keysize = sizeof(Oid), .entrysize = sizeof(TableName)};

	if (names != NULL)
		return;
	names = hash_create("dbscale table names", 128, &control, HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(relation_invalidated, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, schema_invalidated, (Datum) 0);
}

/* What was invalidated while it was looked up is not kept. */
static void
remember(Oid relid, const char *name, uint64 as_of)
{
	char	   *copy;

	if (as_of != invalidations)
		return;
	if (hash_get_num_entries(names) >= MAX_NAMES)
		forget_all();
	copy = MemoryContextStrdup(TopMemoryContext, name);
	((TableName *) hash_search(names, &relid, HASH_ENTER, NULL))->name = copy;
}

char *
dbscale_plan_table_name(Oid relid)
{
	TableName  *item;
	uint64		as_of;
	char	   *name;

	initialize();
	item = hash_search(names, &relid, HASH_FIND, NULL);
	if (item != NULL)
		return pstrdup(item->name);
	as_of = invalidations;
	name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid));
	remember(relid, name, as_of);
	return name;
}
