/*
 * last_fold.c
 *		When the maintenance worker last folded on each node, in shared memory.
 *
 * Someone who looks at dbscale.counters wants to know whether anybody folds at all.  It
 * is not worth a write to a table five times a second, so it is forgotten when the
 * server restarts, and known again after the next fold.
 */
#include "counter/internal.h"

#include "miscadmin.h"
#include "storage/lwlock.h"

#define MAX_ENTRIES 512

typedef struct FoldEntry
{
	Oid			database;		/* invalid: free */
	Oid			serverid;		/* invalid: the coordinator itself */
	TimestampTz at;
} FoldEntry;

typedef struct FoldShared
{
	FoldEntry	entries[MAX_ENTRIES];
} FoldShared;

static FoldShared *shared = NULL;
static LWLock *lock = NULL;

void
dbscale_counter_last_fold_init(void)
{
	dbscale_shared_area("dbscale_counter", sizeof(FoldShared), (void **) &shared, &lock);
}

/* The node's entry, or NULL; under the lock. */
static FoldEntry *
find_entry(Oid serverid)
{
	for (int i = 0; i < MAX_ENTRIES; i++)
		if (shared->entries[i].database == MyDatabaseId && shared->entries[i].serverid == serverid)
			return &shared->entries[i];
	return NULL;
}

/* A free one (whose time is 0), or that of a node, or a database, that is long gone. */
static FoldEntry *
oldest_entry(void)
{
	FoldEntry  *oldest = &shared->entries[0];

	for (int i = 1; i < MAX_ENTRIES; i++)
		if (shared->entries[i].at < oldest->at)
			oldest = &shared->entries[i];
	return oldest;
}

void
dbscale_counter_note_fold(Oid serverid)
{
	FoldEntry  *entry;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find_entry(serverid);
	if (entry == NULL)
		entry = oldest_entry();
	entry->database = MyDatabaseId;
	entry->serverid = serverid;
	entry->at = GetCurrentTimestamp();
	LWLockRelease(lock);
}

TimestampTz
dbscale_counter_last_fold(Oid serverid)
{
	FoldEntry  *entry;
	TimestampTz at;

	LWLockAcquire(lock, LW_SHARED);
	entry = find_entry(serverid);
	at = entry ? entry->at : 0;
	LWLockRelease(lock);
	return at;
}
