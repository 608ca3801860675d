/*
 * stuck.c
 *		Keys that carriers leave, because what is pending for them does not fit into the
 *		column, in shared memory.
 *
 * The keys beside them are carried, so nobody would notice but by a lag that grows.  What
 * each carrier finds is kept for a pair of nodes, for dbscale.counters; and it is logged
 * when there was nothing before.  After a restart the next carrier finds it again.
 */
#include "counter/internal.h"

#include "miscadmin.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"

#define MAX_ENTRIES 256

typedef struct StuckEntry
{
	Oid			database;		/* invalid: free */
	NameData	counter;
	Oid			source_server;
	Oid			target_server;
} StuckEntry;

typedef struct StuckShared
{
	StuckEntry	entries[MAX_ENTRIES];
} StuckShared;

static StuckShared *shared = NULL;
static LWLock *lock = NULL;

void
dbscale_counter_stuck_init(void)
{
	dbscale_shared_area("dbscale_counter_stuck", sizeof(StuckShared), (void **) &shared, &lock);
}

static bool
is_of(const StuckEntry *entry, const Counter *counter)
{
	return entry->database == MyDatabaseId && strcmp(NameStr(entry->counter), counter->name) == 0;
}

/* The pair's entry, or else a free one, or else NULL; under the lock. */
static StuckEntry *
find_entry(const Counter *counter, Oid source_server, Oid target_server)
{
	StuckEntry *empty = NULL;

	for (int i = 0; i < MAX_ENTRIES; i++)
	{
		StuckEntry *entry = &shared->entries[i];

		if (is_of(entry, counter) && entry->source_server == source_server && entry->target_server == target_server)
			return entry;
		if (empty == NULL && !OidIsValid(entry->database))
			empty = entry;
	}
	return empty;
}

/* True if there was nothing before.  (Where all entries are taken it is not noted.) */
static bool
note(const Counter *counter, Oid source_server, Oid target_server, bool stuck)
{
	StuckEntry *entry;
	bool		is_new;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find_entry(counter, source_server, target_server);
	is_new = entry != NULL && !OidIsValid(entry->database);
	if (entry != NULL && stuck)
	{
		entry->database = MyDatabaseId;
		namestrcpy(&entry->counter, counter->name);
		entry->source_server = source_server;
		entry->target_server = target_server;
	}
	else if (entry != NULL)
		entry->database = InvalidOid;
	LWLockRelease(lock);
	return is_new;
}

void
dbscale_counter_note_stuck(const Counter *counter, Oid source_server, Oid target_server, int keys, const char *first)
{
	if (!note(counter, source_server, target_server, keys > 0) || keys == 0)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
			 errmsg("dbscale: counter \"%s\" has values that do not fit into its column", counter->name),
			 errdetail("They stay pending; the first of %d is of %s. Column \"%s\" has type %s.", keys, first, counter->column, counter->type),
			 errhint("Drop the counter, give the column type bigint or numeric, and create it again.")));
}

void
dbscale_counter_forget_stuck(const Counter *counter)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_ENTRIES; i++)
		if (is_of(&shared->entries[i], counter))
			shared->entries[i].database = InvalidOid;
	LWLockRelease(lock);
}

bool
dbscale_counter_is_stuck(const Counter *counter)
{
	bool		found = false;

	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < MAX_ENTRIES; i++)
		found |= is_of(&shared->entries[i], counter);
	LWLockRelease(lock);
	return found;
}
