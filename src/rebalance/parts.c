/*
 * parts.c
 *		To which part of a shard that is split does a row go?
 *
 * Asked for every row of the copy and every change of the log, by the text of the row's
 * key.  The answer is that of routing/ for the catalog as the switch will leave it:
 *
 *	hash, directory	the part that takes the key's entry of the directory, if it has one;
 *					else the part whose range has the key's hash; a null key has no
 *					hash, and stays where it is, which is shard 0
 *	range			the last part that begins at or below the key
 *	list			the part that has the value
 *
 * What decides is copied when the job begins.  If the catalog changes meanwhile (a key is
 * assigned to the shard, say), rows may come that belong to no part; the job then begins
 * again, as it does when the switch finds the change.
 */
#include "rebalance/internal.h"

#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

/* An entry of the directory, or a value of a list. */
typedef struct PlacedKey
{
	uint32		hash;			/* 0 for lists */
	Datum		key;
	int			part;
} PlacedKey;

struct PartRouter
{
	ShardStrategy strategy;
	Oid			type;
	Oid			collation;
	int			nparts;
	PlacedKey  *keys;			/* by hash */
	int			nkeys;
	Datum	   *from;			/* range: where each part begins, ascending */
	int			null_part;		/* -1: no part takes null */
	MemoryContext row;			/* of one key */
};

static int
compare_hashes(const void *a, const void *b)
{
	uint32		x = ((const PlacedKey *) a)->hash;
	uint32		y = ((const PlacedKey *) b)->hash;

	return (x > y) - (x < y);
}

static void
add_key(PartRouter *router, const char *text, int part)
{
	PlacedKey  *key = &router->keys[router->nkeys++];

	key->key = dbscale_key_from_text(router->type, text);
	key->hash = router->strategy == SHARD_LIST ? 0 : dbscale_hash_key(router->type, router->collation, key->key);
	key->part = part;
}

/* The part that says it takes the entry; the others stay with the shard's number. */
static int
part_of_entry(const Move *move, const char *key, int kept)
{
	ListCell   *lc,
			   *lc2;

	foreach(lc, move->parts)
	{
		foreach(lc2, ((Part *) lfirst(lc))->keys)
			if (strcmp(lfirst(lc2), key) == 0)
				return foreach_current_index(lc);
	}
	return kept;
}

static int
kept_part(const Move *move)
{
	ListCell   *lc;

	foreach(lc, move->parts)
		if (((Part *) lfirst(lc))->number == move->shard)
			return foreach_current_index(lc);
	return -1;
}

/* The shard's entries, and those that a part brings. */
static void
read_directory(PartRouter *router, const Move *move, const TableGroup *group)
{
	int			kept = kept_part(move);
	int			most = list_length(group->directory);
	ListCell   *lc,
			   *lc2;

	foreach(lc, move->parts)
		most += list_length(((Part *) lfirst(lc))->keys);
	router->keys = palloc(sizeof(PlacedKey) * Max(most, 1));
	foreach(lc, group->directory)
	{
		const DirectoryEntry *entry = lfirst(lc);

		if (entry->shard == move->shard)
			add_key(router, entry->key, part_of_entry(move, entry->key, kept));
	}
	foreach(lc, move->parts)
		foreach(lc2, ((Part *) lfirst(lc))->keys)
			add_key(router, lfirst(lc2), foreach_current_index(lc));
	qsort(router->keys, router->nkeys, sizeof(PlacedKey), compare_hashes);
	router->null_part = kept;
}

static void
read_ranges(PartRouter *router, const Move *move)
{
	router->from = palloc(sizeof(Datum) * router->nparts);
	for (int i = 0; i < router->nparts; i++)
	{
		Part	   *part = list_nth(move->parts, i);

		router->from[i] = dbscale_key_from_text(router->type,
												dbscale_ddl_query_value(psprintf("SELECT %s::jsonb ->> 'from'",
																				 quote_literal_cstr(part->bounds))));
	}
}

static void
read_lists(PartRouter *router, const Move *move)
{
	ListCell   *lc,
			   *lc2;

	router->keys = palloc(0);
	foreach(lc, move->parts)
	{
		List	   *values = dbscale_ddl_query_rows(psprintf("SELECT jsonb_array_elements_text(%s::jsonb -> 'values')",
															 quote_literal_cstr(((Part *) lfirst(lc))->bounds)));

		router->keys = repalloc(router->keys, sizeof(PlacedKey) * (router->nkeys + list_length(values) + 1));
		foreach(lc2, values)
		{
			char	   *value = ((char **) lfirst(lc2))[0];

			if (value == NULL)
				router->null_part = foreach_current_index(lc);
			else
				add_key(router, value, foreach_current_index(lc));
		}
	}
}

PartRouter *
parts_router(const Move *move, const DistributedTable *table)
{
	MemoryContext caller = MemoryContextSwitchTo(move->context);
	PartRouter *router = palloc0(sizeof(PartRouter));

	router->strategy = table->group->strategy;
	router->type = table->group->key_type;
	router->collation = table->key_collation;
	router->nparts = list_length(move->parts);
	router->null_part = -1;
	router->row = AllocSetContextCreate(move->context, "dbscale part", ALLOCSET_SMALL_SIZES);
	if (router->strategy == SHARD_RANGE)
		read_ranges(router, move);
	else if (router->strategy == SHARD_LIST)
		read_lists(router, move);
	else
		read_directory(router, move, table->group);
	MemoryContextSwitchTo(caller);
	return router;
}

/* ---- a row ---- */

static int
compare(const PartRouter *router, Datum a, Datum b)
{
	TypeCacheEntry *type = lookup_type_cache(router->type, TYPECACHE_CMP_PROC_FINFO);

	return DatumGetInt32(FunctionCall2Coll(&type->cmp_proc_finfo, router->collation, a, b));
}

static int
route_range(const PartRouter *router, Datum key)
{
	int			part = router->nparts - 1;

	while (part >= 0 && compare(router, router->from[part], key) > 0)
		part--;
	return part;
}

static int
route_list(const PartRouter *router, Datum key)
{
	for (int i = 0; i < router->nkeys; i++)
		if (compare(router, router->keys[i].key, key) == 0)
			return router->keys[i].part;
	return -1;
}

/* The first entry of the directory with this hash, or where it would be. */
static int
find_hash(const PartRouter *router, uint32 hash)
{
	int			low = 0;
	int			high = router->nkeys;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (router->keys[middle].hash < hash)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static int
route_hash(const PartRouter *router, const Move *move, Datum key)
{
	uint32		hash = dbscale_hash_key(router->type, router->collation, key);
	ListCell   *lc;

	for (int i = find_hash(router, hash); i < router->nkeys && router->keys[i].hash == hash; i++)
		if (dbscale_keys_equal(dbscale_catalog_require_distributed(move->relid), router->keys[i].key, key))
			return router->keys[i].part;
	foreach(lc, move->parts)
	{
		Part	   *part = lfirst(lc);

		if (part->has_hash && hash >= part->hash_from && hash <= part->hash_to)
			return foreach_current_index(lc);
	}
	return -1;
}

static int
route(const Move *move, const char *text)
{
	const PartRouter *router = move->router;
	Datum		key;

	if (text == NULL)
		return router->null_part;
	key = dbscale_key_from_text(router->type, text);
	if (router->strategy == SHARD_RANGE)
		return route_range(router, key);
	if (router->strategy == SHARD_LIST)
		return route_list(router, key);
	return route_hash(router, move, key);
}

int
parts_route(const Move *move, const char *key)
{
	MemoryContext caller = MemoryContextSwitchTo(move->router->row);
	int			part = route(move, key);

	MemoryContextSwitchTo(caller);
	MemoryContextReset(move->router->row);
	if (part >= 0)
		return part;
	ereport(ERROR,
			(errcode(ERRCODE_MOVE_AGAIN),
			 errmsg("a row of shard %d belongs to none of its parts", move->shard),
			 errdetail("Its key was assigned to the shard meanwhile, or the row should not be in it."),
			 errhint("Split the shard again.")));
}

/* What COPY writes with a backslash. */
static char
unescape(char c)
{
	static const char *const escapes = "b\bf\fn\nr\rt\tv\v";
	const char *found = strchr(escapes, c);

	return found != NULL && (found - escapes) % 2 == 0 ? found[1] : c;
}

int
parts_route_line(const Move *move, int key_position, const char *line, int length)
{
	const char *end = line + length;
	StringInfoData key;

	for (int tabs = 0; tabs < key_position && line < end; line++)
		tabs += *line == '\t';
	if (end - line >= 2 && line[0] == '\\' && line[1] == 'N')
		return parts_route(move, NULL);
	initStringInfo(&key);
	for (; line < end && *line != '\t' && *line != '\n'; line++)
	{
		if (*line == '\\' && line + 1 < end)
			appendStringInfoChar(&key, unescape(*++line));
		else
			appendStringInfoChar(&key, *line);
	}
	length = parts_route(move, key.data);
	pfree(key.data);
	return length;
}
