/*
 * hash.c
 *		The strategies hash and directory, and the operator classes' hash function.
 *
 * A key's home is found in two steps.  If the directory has an entry for the key,
 * that is the shard.  Else the upper half of the type's 64-bit hash falls into the
 * hash range of one shard.
 *
 * Core's partitioning arrives at the same shard because it calls us: partitions are
 * FOR VALUES WITH (MODULUS 4096, REMAINDER shard) of an operator class whose support
 * function 2 is dbscale_shard_hash.  For one key core computes
 *
 *		hash_combine64(0, h)  =  h + 0x49a0f4dd15e5a8e3   (modulo 2^64)
 *
 * and takes the rest of its division by 4096; so h = shard - 0x49a0f4dd15e5a8e3
 * gives just the shard's number.  A NULL key is not hashed: core's sum stays 0,
 * and the row is shard 0's.
 *
 * Example: int8 key 42, directory entry ('42', 5): h = 5 - 0x49a0…, core's sum is 5,
 * the partition is the one with remainder 5.  Without the entry, hashint8extended(42,
 * 0) >> 32 is looked up in the sorted ranges.
 *
 * The directory's keys are stored as text.  They are parsed once for every reading of
 * the catalog, into a hash table by the 64-bit hash, with the type's own equality
 * among keys of the same hash.  Under a nondeterministic collation equality is the
 * collation's, so there is one such table for each of those and one for all others.
 */
#include "routing/router.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#define CORE_HASH_OFFSET UINT64CONST(0x49a0f4dd15e5a8e3)

typedef struct HashRange
{
	uint32		from;
	uint32		to;
	int			shard;
} HashRange;

typedef struct DirectoryKey
{
	Datum		key;
	const char *text;			/* as stored */
	int			shard;
	struct DirectoryKey *next;	/* of the same hash */
} DirectoryKey;

typedef struct DirectorySlot
{
	uint64		hash;			/* hash key */
	DirectoryKey *keys;
} DirectorySlot;

typedef struct DirectoryIndex
{
	Oid			equivalence;	/* KeyHasher's */
	HTAB	   *slots;
} DirectoryIndex;

/* What group->router points to. */
typedef struct HashRouter
{
	int			nranges;
	HashRange  *ranges;			/* ascending */
	List	   *directories;	/* of DirectoryIndex * */
	bool		has_hasher;		/* of the last table's collation */
	Oid			collation;
	KeyHasher	hasher;
} HashRouter;

DBSCALE_FUNCTION(dbscale_shard_hash);

static int
compare_ranges(const void *a, const void *b)
{
	uint32		x = ((const HashRange *) a)->from;
	uint32		y = ((const HashRange *) b)->from;

	return (x > y) - (x < y);
}

/* Built on first use, for as long as the cache lives. */
static HashRouter *
get_router(const TableGroup *group)
{
	MemoryContext caller;
	HashRouter *router;

	if (group->router != NULL)
		return group->router;

	caller = MemoryContextSwitchTo(group->context);
	router = palloc0(sizeof(HashRouter));
	router->ranges = palloc(Max(group->nshards, 1) * sizeof(HashRange));
	for (int i = 0; i < group->nshards; i++)
	{
		const Shard *shard = &group->shards[i];

		if (shard->has_hash)
			router->ranges[router->nranges++] = (HashRange) {shard->hash_from, shard->hash_to, shard->number};
	}
	qsort(router->ranges, router->nranges, sizeof(HashRange), compare_ranges);
	MemoryContextSwitchTo(caller);

	((TableGroup *) group)->router = router;
	return router;
}

static void
add_directory_entry(HTAB *slots, const KeyHasher *hasher, Oid key_type,
					const DirectoryEntry *entry, MemoryContext context)
{
	MemoryContext caller = MemoryContextSwitchTo(context);
	DirectoryKey *item = palloc(sizeof(DirectoryKey));
	DirectorySlot *slot;
	uint64		hash;
	bool		found;

	item->key = dbscale_hasher_key(hasher, key_type, dbscale_key_from_text(key_type, entry->key));
	item->text = entry->key;
	item->shard = entry->shard;
	hash = dbscale_hasher_hash(hasher, item->key);
	slot = hash_search(slots, &hash, HASH_ENTER, &found);
	item->next = found ? slot->keys : NULL;
	slot->keys = item;
	MemoryContextSwitchTo(caller);
}

/* Becomes part of the cache only when complete: a key's text may fail to parse. */
static DirectoryIndex *
build_directory(const TableGroup *group, const KeyHasher *hasher)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dbscale directory",
												  ALLOCSET_DEFAULT_SIZES);
	DirectoryIndex *index = MemoryContextAlloc(context, sizeof(DirectoryIndex));
	HASHCTL		control;
	ListCell   *lc;

	memset(&control, 0, sizeof(control));
	control.keysize = sizeof(uint64);
	control.entrysize = sizeof(DirectorySlot);
	control.hcxt = context;
	index->equivalence = hasher->equivalence;
	index->slots = hash_create("dbscale directory", list_length(group->directory), &control,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	foreach(lc, group->directory)
		add_directory_entry(index->slots, hasher, group->key_type, lfirst(lc), context);

	MemoryContextSetParent(context, group->context);
	return index;
}

static DirectoryIndex *
get_directory(const TableGroup *group, const KeyHasher *hasher)
{
	HashRouter *router = get_router(group);
	DirectoryIndex *index;
	MemoryContext caller;
	ListCell   *lc;

	foreach(lc, router->directories)
	{
		index = lfirst(lc);
		if (index->equivalence == hasher->equivalence)
			return index;
	}
	index = build_directory(group, hasher);
	caller = MemoryContextSwitchTo(group->context);
	router->directories = lappend(router->directories, index);
	MemoryContextSwitchTo(caller);
	return index;
}

/* The directory's entry for the key, or NULL. */
static const DirectoryKey *
search_directory(const TableGroup *group, const KeyHasher *hasher, Datum key, uint64 hash)
{
	DirectorySlot *slot;

	if (group->directory == NIL)
		return NULL;
	slot = hash_search(get_directory(group, hasher)->slots, &hash, HASH_FIND, NULL);
	for (DirectoryKey *item = slot ? slot->keys : NULL; item != NULL; item = item->next)
	{
		if (dbscale_hasher_equal(hasher, item->key, key))
			return item;
	}
	return NULL;
}

/* Binary search, beginning where the hash is if no shard was ever split. */
static int
search_ranges(const HashRouter *router, uint32 hash)
{
	int			low = 0;
	int			high = router->nranges - 1;
	int			middle = (int) (((uint64) hash * router->nranges) >> 32);

	for (; low <= high; middle = (low + high) / 2)
	{
		const HashRange *range = &router->ranges[middle];

		if (hash < range->from)
			high = middle - 1;
		else if (hash > range->to)
			low = middle + 1;
		else
			return range->shard;
	}
	return -1;
}

int
dbscale_route_hash(const TableGroup *group, const KeyHasher *hasher, Datum key)
{
	uint64		hash = dbscale_hasher_hash(hasher, key);
	const DirectoryKey *entry = search_directory(group, hasher, key, hash);

	return entry ? entry->shard : search_ranges(get_router(group), (uint32) (hash >> 32));
}

/* The table's hasher, and its key as that takes it. */
static Datum
start_hashing(const DistributedTable *table, Datum key, KeyHasher *hasher)
{
	HashRouter *router = get_router(table->group);

	if (!router->has_hasher || router->collation != table->key_collation)
	{
		router->has_hasher = false;
		dbscale_hasher_init(&router->hasher, table->group->key_type, table->key_collation);
		router->collation = table->key_collation;
		router->has_hasher = true;
	}
	*hasher = router->hasher;
	return dbscale_hasher_key(hasher, table->group->key_type, key);
}

static int
route(const DistributedTable *table, Datum key)
{
	KeyHasher	hasher;

	key = start_hashing(table, key, &hasher);
	return dbscale_route_hash(table->group, &hasher, key);
}

int
dbscale_hash_home(const DistributedTable *table, Datum key)
{
	KeyHasher	hasher;

	key = start_hashing(table, key, &hasher);
	return search_ranges(get_router(table->group),
						 (uint32) (dbscale_hasher_hash(&hasher, key) >> 32));
}

const char *
dbscale_directory_find(const DistributedTable *table, Datum key)
{
	KeyHasher	hasher;
	const DirectoryKey *entry;

	key = start_hashing(table, key, &hasher);
	entry = search_directory(table->group, &hasher, key, dbscale_hasher_hash(&hasher, key));
	return entry ? entry->text : NULL;
}

bool
dbscale_keys_equal(const DistributedTable *table, Datum a, Datum b)
{
	KeyHasher	hasher;

	a = start_hashing(table, a, &hasher);
	return dbscale_hasher_equal(&hasher, a, dbscale_hasher_key(&hasher, table->group->key_type, b));
}

static int
route_null(const DistributedTable *table)
{
	return 0;
}

const RoutingStrategy dbscale_hash_strategy = {route, route_null};

/* What the support function remembers between calls, in fn_extra. */
typedef struct ShardHashState
{
	uint64		generation;		/* of the catalog that `group` is from */
	const TableGroup *group;
	Oid			argument_type;
	KeyHasher	hasher;
} ShardHashState;

/* The function's name is its group's operator family's, its schema ours. */
static const TableGroup *
find_group(Oid function, Oid *argument_type)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc form;
	const TableGroup *group = NULL;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	form = (Form_pg_proc) GETSTRUCT(tuple);
	*argument_type = form->proargtypes.values[0];
	if (form->pronamespace == get_namespace_oid(DBSCALE_SCHEMA, true))
		group = dbscale_catalog_group_by_opfamily(NameStr(form->proname));
	ReleaseSysCache(tuple);
	return group;
}

static void
refresh_state(ShardHashState *state, FmgrInfo *flinfo, Oid collation)
{
	uint64		generation = dbscale_catalog_generation();

	state->group = find_group(flinfo->fn_oid, &state->argument_type);
	if (state->group == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the table group of function \"%s\" does not exist",
						get_func_name(flinfo->fn_oid)),
				 errdetail("The table that is partitioned by it is not in the catalog of dbscale."),
				 errhint("Use dbscale.undistribute_table() or DROP TABLE to be rid of a distributed table.")));
	dbscale_hasher_init(&state->hasher, state->argument_type, collation);
	state->generation = generation;
}

static ShardHashState *
get_state(FmgrInfo *flinfo, Oid collation)
{
	ShardHashState *state = flinfo->fn_extra;

	if (state == NULL)
		state = flinfo->fn_extra = MemoryContextAllocZero(flinfo->fn_mcxt, sizeof(ShardHashState));
	if (state->group == NULL || state->generation != dbscale_catalog_generation() ||
		(OidIsValid(state->hasher.collation) && state->hasher.collation != collation))
	{
		state->group = NULL;
		refresh_state(state, flinfo, collation);
	}
	return state;
}

/* Support function 2 of every group's operator class: (key, seed) to what core makes the shard of. */
Datum
dbscale_shard_hash(PG_FUNCTION_ARGS)
{
	ShardHashState *state = get_state(fcinfo->flinfo, PG_GET_COLLATION());
	Datum		key = dbscale_hasher_key(&state->hasher, state->argument_type, PG_GETARG_DATUM(0));
	int			shard = dbscale_route_hash(state->group, &state->hasher, key);

	if (shard < 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("no shard of table group %d has the key's hash", state->group->id),
				 errdetail("The hash ranges in dbscale.shard do not cover all hashes.")));
	PG_RETURN_UINT64((uint64) shard - CORE_HASH_OFFSET);
}
