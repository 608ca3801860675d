/*
 * traffic.c
 *		Reads and writes of each shard, counted in shared memory.
 *
 * A *slot* holds the two counters of one shard, found by (database, group, shard) in
 * a hash table of fixed size with linear probing.  Every statement that is sent to a
 * shard looks its slot up and adds one, so this takes no lock:
 *
 *	1. A slot is filled under the lock, and marked used last, behind a write barrier.
 *	   Who sees the mark, and passes a read barrier, sees the key.
 *	2. Who finds no slot takes the lock, looks again, and fills a free one; so no
 *	   shard gets two.  That is once a shard in the server's life.
 *	3. Slots are emptied only by rebuilding the table under the lock.  Who looks
 *	   meanwhile may miss his slot, and then waits at 2; or may have found it before
 *	   and add one to what is another shard's slot by now.  These are statistics:
 *	   one count in the wrong place is the price of a hot path without a lock.
 *
 * At most dbscale.max_counted_shards slots are used; the table is a third larger, so
 * that probes are short and always end.  When a database needs a slot and none is left,
 * those of its shards that are no more, and of databases that are no more, are emptied.
 * If that gives none, the shard is not counted, and its counters show as NULL.
 */
#include "catalog/traffic.h"

#include "catalog/metadata.h"
#include "common/hashfn.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "storage/lwlock.h"
#include "utils/syscache.h"

typedef struct TrafficSlot
{
	uint32		used;
	Oid			database;
	int			group_id;
	int			shard;
	pg_atomic_uint64 reads;
	pg_atomic_uint64 writes;
} TrafficSlot;

typedef struct TrafficShared
{
	int			used;			/* slots; under the lock */
	pg_atomic_uint32 rebuilds;
	TrafficSlot slots[FLEXIBLE_ARRAY_MEMBER];
} TrafficShared;

/* A slot's content, outside of shared memory. */
typedef struct Traffic
{
	Oid			database;
	int			group_id;
	int			shard;
	uint64		reads;
	uint64		writes;
} Traffic;

static TrafficShared *shared = NULL;
static LWLock *lock = NULL;
static uint32 slot_mask = 0;	/* number of slots, a power of two, minus one */

/* This backend found no room, and there can be none until the table is rebuilt. */
static bool gave_up = false;
static uint32 gave_up_at = 0;

DBSCALE_FUNCTION(dbscale_shard_load);
DBSCALE_FUNCTION(dbscale_reset_shard_load);

void
dbscale_traffic_init(void)
{
	uint32		slots;

	if (dbscale_max_counted_shards == 0)
		return;
	slots = pg_nextpower2_32(dbscale_max_counted_shards + dbscale_max_counted_shards / 3 + 1);
	slot_mask = slots - 1;
	dbscale_shared_area("dbscale_traffic",
						add_size(offsetof(TrafficShared, slots), mul_size(slots, sizeof(TrafficSlot))),
						(void **) &shared, &lock);
}

/* ---- slots ---- */

static TrafficSlot *
first_slot(Oid database, int group_id, int shard, uint32 *at)
{
	*at = hash_combine(murmurhash32(database), murmurhash32(((uint32) group_id << 12) ^ shard)) & slot_mask;
	return &shared->slots[*at];
}

static TrafficSlot *
next_slot(uint32 *at)
{
	*at = (*at + 1) & slot_mask;
	return &shared->slots[*at];
}

static TrafficSlot *
find_slot(Oid database, int group_id, int shard)
{
	uint32		at;
	TrafficSlot *slot = first_slot(database, group_id, shard, &at);

	for (; *(volatile uint32 *) &slot->used; slot = next_slot(&at))
	{
		pg_read_barrier();
		if (slot->shard == shard && slot->group_id == group_id && slot->database == database)
			return slot;
	}
	return NULL;
}

/* Under the lock, and only if the shard has none. */
static TrafficSlot *
fill_slot(const Traffic *traffic)
{
	uint32		at;
	TrafficSlot *slot = first_slot(traffic->database, traffic->group_id, traffic->shard, &at);

	if (shared->used >= dbscale_max_counted_shards)
		return NULL;
	while (slot->used)
		slot = next_slot(&at);
	slot->database = traffic->database;
	slot->group_id = traffic->group_id;
	slot->shard = traffic->shard;
	pg_atomic_init_u64(&slot->reads, traffic->reads);
	pg_atomic_init_u64(&slot->writes, traffic->writes);
	pg_write_barrier();
	slot->used = 1;
	shared->used++;
	return slot;
}

/* ---- emptying slots ---- */

/* The content of all slots; under the lock. */
static Traffic *
copy_slots(int *count)
{
	Traffic    *all = palloc(sizeof(Traffic) * Max(shared->used, 1));

	*count = 0;
	for (uint32 i = 0; i <= slot_mask; i++)
	{
		TrafficSlot *slot = &shared->slots[i];
		Traffic    *traffic = &all[*count];

		if (!slot->used)
			continue;
		traffic->database = slot->database;
		traffic->group_id = slot->group_id;
		traffic->shard = slot->shard;
		traffic->reads = pg_atomic_read_u64(&slot->reads);
		traffic->writes = pg_atomic_read_u64(&slot->writes);
		(*count)++;
	}
	return all;
}

static int
compare_traffic(const void *a, const void *b)
{
	const Traffic *x = a;
	const Traffic *y = b;

	if (x->database != y->database)
		return x->database < y->database ? -1 : 1;
	if (x->group_id != y->group_id)
		return x->group_id < y->group_id ? -1 : 1;
	return x->shard < y->shard ? -1 : x->shard > y->shard;
}

/* Rebuild the table without these. */
static void
empty_slots(Traffic *dead, int dead_count)
{
	Traffic    *all;
	int			count;

	qsort(dead, dead_count, sizeof(Traffic), compare_traffic);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	all = copy_slots(&count);
	for (uint32 i = 0; i <= slot_mask; i++)
		shared->slots[i].used = 0;
	shared->used = 0;
	pg_write_barrier();
	for (int i = 0; i < count; i++)
	{
		if (bsearch(&all[i], dead, dead_count, sizeof(Traffic), compare_traffic) == NULL)
			(void) fill_slot(&all[i]);
	}
	pg_atomic_fetch_add_u32(&shared->rebuilds, 1);
	LWLockRelease(lock);
	pfree(all);
}

/* Is there nothing any more that this is the traffic of? */
static bool
is_gone(const Traffic *traffic)
{
	const TableGroup *group;

	if (traffic->database != MyDatabaseId)
		return !SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(traffic->database));
	group = dbscale_catalog_group(traffic->group_id);
	return group == NULL || dbscale_catalog_shard(group, traffic->shard) == NULL;
}

/* Empty the slots that the caller's test is true for. */
static void
empty_slots_if(bool (*test) (const Traffic *traffic, const Traffic *argument), const Traffic *argument)
{
	Traffic    *all;
	int			count;
	int			dead = 0;

	LWLockAcquire(lock, LW_SHARED);
	all = copy_slots(&count);
	LWLockRelease(lock);
	/* not under the lock: the test may read the catalog */
	for (int i = 0; i < count; i++)
	{
		if (test(&all[i], argument))
			all[dead++] = all[i];
	}
	if (dead > 0)
		empty_slots(all, dead);
	pfree(all);
}

static bool
test_gone(const Traffic *traffic, const Traffic *argument)
{
	return is_gone(traffic);
}

static bool
test_same(const Traffic *traffic, const Traffic *argument)
{
	return compare_traffic(traffic, argument) == 0;
}

static bool
test_database(const Traffic *traffic, const Traffic *argument)
{
	return traffic->database == argument->database;
}

/* ---- counting ---- */

static TrafficSlot *
try_make_slot(const Traffic *traffic)
{
	TrafficSlot *slot;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	slot = find_slot(traffic->database, traffic->group_id, traffic->shard);
	if (slot == NULL)
		slot = fill_slot(traffic);
	LWLockRelease(lock);
	return slot;
}

/* The slot of a shard that had none yet, or NULL: there is no room. */
static TrafficSlot *
make_slot(int group_id, int shard)
{
	Traffic		traffic = {MyDatabaseId, group_id, shard, 0, 0};
	TrafficSlot *slot;

	if (gave_up && pg_atomic_read_u32(&shared->rebuilds) == gave_up_at)
		return NULL;
	gave_up = false;
	slot = try_make_slot(&traffic);
	if (slot != NULL)
		return slot;
	empty_slots_if(test_gone, NULL);
	gave_up_at = pg_atomic_read_u32(&shared->rebuilds);
	slot = try_make_slot(&traffic);
	gave_up = slot == NULL;
	return slot;
}

void
dbscale_traffic_count(int group_id, int shard, bool writes)
{
	TrafficSlot *slot;

	if (shared == NULL)
		return;
	slot = find_slot(MyDatabaseId, group_id, shard);
	if (slot == NULL)
		slot = make_slot(group_id, shard);
	if (slot != NULL)
		pg_atomic_fetch_add_u64(writes ? &slot->writes : &slot->reads, 1);
}

bool
dbscale_traffic_get(int group_id, int shard, int64 *reads, int64 *writes)
{
	TrafficSlot *slot = NULL;
	bool		counted;

	*reads = *writes = 0;
	if (shared == NULL)
		return false;
	LWLockAcquire(lock, LW_SHARED);
	slot = find_slot(MyDatabaseId, group_id, shard);
	/* a shard that nobody has used yet would be counted if there is room */
	counted = slot != NULL || shared->used < dbscale_max_counted_shards;
	if (slot != NULL)
	{
		*reads = pg_atomic_read_u64(&slot->reads);
		*writes = pg_atomic_read_u64(&slot->writes);
	}
	LWLockRelease(lock);
	return counted;
}

void
dbscale_traffic_forget(int group_id, int shard)
{
	Traffic		traffic = {MyDatabaseId, group_id, shard, 0, 0};

	if (shared != NULL)
		empty_slots_if(group_id == 0 ? test_database : test_same, &traffic);
}

/* ---- SQL ---- */

/* shard_load() → table_group, shard, reads, writes */
Datum
dbscale_shard_load(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *seen = NIL;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, dbscale_catalog_tables())
	{
		const TableGroup *group = ((const DistributedTable *) lfirst(lc))->group;

		if (group == NULL || list_member_int(seen, group->id))
			continue;
		seen = lappend_int(seen, group->id);
		for (int i = 0; i < group->nshards; i++)
		{
			Datum		values[4];
			bool		nulls[4] = {false};
			int64		reads;
			int64		writes;

			nulls[2] = nulls[3] = !dbscale_traffic_get(group->id, group->shards[i].number, &reads, &writes);
			values[0] = Int32GetDatum(group->id);
			values[1] = Int32GetDatum(group->shards[i].number);
			values[2] = Int64GetDatum(reads);
			values[3] = Int64GetDatum(writes);
			tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
		}
	}
	return (Datum) 0;
}

Datum
dbscale_reset_shard_load(PG_FUNCTION_ARGS)
{
	dbscale_traffic_forget(0, 0);
	PG_RETURN_VOID();
}
