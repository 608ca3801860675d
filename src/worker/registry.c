/*
 * registry.c
 *		The databases of this server and their maintenance workers, in shared memory.
 *
 * Each database that can be connected to has an entry:
 *
 *		WANTED    its worker is to be started, not before `not_before`
 *		STARTING  the launcher has asked the postmaster for it
 *		RUNNING   it is there (pid)
 *		ABSENT    it was there, and found no extension in the database
 *
 * A new database begins as WANTED: the worker itself looks whether it has anything
 * to do.  From ABSENT only CREATE EXTENSION leads back (dbscale.start_worker()).
 * That request is made before the creating transaction commits, so it carries the
 * transaction's id, and the worker waits until that has ended before it looks.
 * `requests` counts the requests: a worker that wants to leave and finds that the
 * count has changed since it came goes to WANTED rather than to ABSENT, so that
 * DROP EXTENSION and CREATE EXTENSION in a row lose no request.
 *
 * A backend that drops, renames or copies a database needs it without a worker: it
 * *holds* the entry.  1. It sets held_by.  2. It ends the worker named by pid and
 * waits for pid = 0.  A worker sets pid and then looks at held_by, under the same
 * lock, before it connects: so either the backend sees the pid, or the worker sees
 * the hold.  pid is cleared after the worker has left the list of backends.  A hold
 * whose backend is gone does not count.
 */
#include "worker/registry.h"

#include <signal.h>

#include "access/transam.h"
#include "access/xact.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define MAX_DATABASES 1024
#define RESTART_PAUSE_MS 5000
#define STOP_TIMEOUT_MS 10000

typedef enum WorkerState
{
	WORKER_WANTED,
	WORKER_STARTING,
	WORKER_RUNNING,
	WORKER_ABSENT
} WorkerState;

typedef struct DatabaseEntry
{
	Oid			database;		/* InvalidOid: free */
	WorkerState state;
	pid_t		pid;			/* of the worker, 0: none */
	pid_t		held_by;		/* backend that needs the database for itself */
	uint32		requests;
	TransactionId creator;		/* transaction of the last request */
	TimestampTz not_before;
} DatabaseEntry;

typedef struct Registry
{
	Latch	   *launcher;		/* NULL while there is none */
	DatabaseEntry entries[MAX_DATABASES];
} Registry;

static Registry *registry = NULL;
static LWLock *lock = NULL;

/* In a worker: its entry, and the count of requests when it came. */
static DatabaseEntry *my_entry = NULL;
static uint32 my_requests = 0;

DBSCALE_FUNCTION(dbscale_start_worker);

void
dbscale_registry_init(void)
{
	dbscale_shared_area("dbscale_worker", sizeof(Registry), (void **) &registry, &lock);
}

static DatabaseEntry *
find_entry(Oid database)
{
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		if (registry->entries[i].database == database)
			return &registry->entries[i];
	}
	return NULL;
}

/* The entry of a database, made if need be; NULL when all are taken. */
static DatabaseEntry *
enter_database(Oid database)
{
	DatabaseEntry *entry = find_entry(database);

	if (entry == NULL && (entry = find_entry(InvalidOid)) != NULL)
	{
		memset(entry, 0, sizeof(DatabaseEntry));
		entry->database = database;
		entry->state = WORKER_WANTED;
	}
	return entry;
}

static bool
is_held(DatabaseEntry *entry)
{
	if (entry->held_by != 0 && BackendPidGetProc(entry->held_by) == NULL)
		entry->held_by = 0;
	return entry->held_by != 0;
}

void
dbscale_registry_set_launcher(bool alive)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	registry->launcher = alive ? MyLatch : NULL;

	/* Starts of a launcher that has died: one that comes to pass is refused by attach. */
	for (int i = 0; alive && i < MAX_DATABASES; i++)
	{
		if (registry->entries[i].state == WORKER_STARTING && registry->entries[i].pid == 0)
			registry->entries[i].state = WORKER_WANTED;
	}
	LWLockRelease(lock);
}

void
dbscale_registry_update(List *databases)
{
	ListCell   *cell;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	foreach(cell, databases)
		enter_database(lfirst_oid(cell));
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		DatabaseEntry *entry = &registry->entries[i];

		if (OidIsValid(entry->database) && entry->pid == 0 &&
			!is_held(entry) && !list_member_oid(databases, entry->database) &&
			!TransactionIdIsValid(entry->creator))
			entry->database = InvalidOid;
	}
	LWLockRelease(lock);
}

Oid
dbscale_registry_next_start(void)
{
	TimestampTz now = GetCurrentTimestamp();
	Oid			result = InvalidOid;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_DATABASES && !OidIsValid(result); i++)
	{
		DatabaseEntry *entry = &registry->entries[i];

		if (OidIsValid(entry->database) && entry->state == WORKER_WANTED &&
			entry->pid == 0 && entry->not_before <= now && !is_held(entry))
		{
			entry->state = WORKER_STARTING;
			result = entry->database;
		}
	}
	LWLockRelease(lock);
	return result;
}

void
dbscale_registry_start_failed(Oid database)
{
	DatabaseEntry *entry;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find_entry(database);
	if (entry && entry->state == WORKER_STARTING && entry->pid == 0)
	{
		entry->state = WORKER_WANTED;
		entry->creator = InvalidTransactionId;
		entry->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														RESTART_PAUSE_MS);
	}
	LWLockRelease(lock);
}

bool
dbscale_registry_is_starting(Oid database)
{
	DatabaseEntry *entry;
	bool		starting;

	LWLockAcquire(lock, LW_SHARED);
	entry = find_entry(database);
	starting = entry && entry->state == WORKER_STARTING && entry->pid == 0;
	LWLockRelease(lock);
	return starting;
}

/* The worker has left the list of backends: nobody sees it in its database any more. */
static void
detach_worker(int code, Datum arg)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	my_entry->pid = 0;
	if (my_entry->state != WORKER_ABSENT)
	{
		my_entry->state = WORKER_WANTED;
		my_entry->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														   RESTART_PAUSE_MS);
	}
	if (registry->launcher)
		SetLatch(registry->launcher);
	LWLockRelease(lock);
}

bool
dbscale_registry_attach(Oid database)
{
	bool		welcome = false;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	my_entry = find_entry(database);
	if (my_entry && my_entry->pid == 0)
	{
		my_entry->pid = MyProcPid;
		my_entry->state = WORKER_RUNNING;
		my_requests = my_entry->requests;
		welcome = !is_held(my_entry);
	}
	else
		my_entry = NULL;
	LWLockRelease(lock);

	/*
	 * Registered before the connection is made, so called after what that
	 * registers has been undone.
	 */
	if (my_entry)
		on_shmem_exit(detach_worker, (Datum) 0);
	return welcome;
}

bool
dbscale_registry_creator_is_running(void)
{
	TransactionId creator;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	my_requests = my_entry->requests;
	creator = my_entry->creator;
	LWLockRelease(lock);
	if (!TransactionIdIsValid(creator))
		return false;
	if (TransactionIdIsInProgress(creator))
		return true;

	/* An id that is kept for long would be compared with another era's. */
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (my_entry->creator == creator)
		my_entry->creator = InvalidTransactionId;
	LWLockRelease(lock);
	return false;
}

void
dbscale_registry_leave(void)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (my_entry->requests == my_requests)
		my_entry->state = WORKER_ABSENT;
	LWLockRelease(lock);
	proc_exit(0);
}

/* start_worker(): called last by the install script. */
Datum
dbscale_start_worker(PG_FUNCTION_ARGS)
{
	TransactionId creator = GetTopTransactionId();
	DatabaseEntry *entry;

	dbscale_require_preload();
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = enter_database(MyDatabaseId);
	if (entry)
	{
		entry->requests++;
		entry->creator = creator;
		entry->not_before = 0;
		if (entry->state == WORKER_ABSENT)
			entry->state = WORKER_WANTED;
		if (registry->launcher)
			SetLatch(registry->launcher);
	}
	LWLockRelease(lock);
	if (entry == NULL)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no maintenance worker for database \"%s\"", get_database_name(MyDatabaseId)),
				 errdetail("dbscale keeps workers for the first %d databases of a server.", MAX_DATABASES)));
	PG_RETURN_VOID();
}

/* Ask the worker to end; true when there is none (any more). */
static bool
stop_worker(Oid database)
{
	DatabaseEntry *entry;
	pid_t		pid;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find_entry(database);
	pid = entry ? entry->pid : 0;
	if (pid != 0)
		kill(pid, SIGTERM);
	LWLockRelease(lock);
	return pid == 0;
}

/*
 * After the timeout we go on: the command then fails with PostgreSQL's own message,
 * that somebody uses the database.
 */
void
dbscale_registry_hold(Oid database)
{
	DatabaseEntry *entry;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = enter_database(database);
	if (entry)
		entry->held_by = MyProcPid;
	LWLockRelease(lock);

	for (int waited = 0; !stop_worker(database) && waited < STOP_TIMEOUT_MS; waited += 20)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 20L, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

void
dbscale_registry_release(Oid database)
{
	DatabaseEntry *entry;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find_entry(database);
	if (entry && entry->held_by == MyProcPid)
	{
		entry->held_by = 0;
		entry->not_before = 0;
		if (registry->launcher)
			SetLatch(registry->launcher);
	}
	LWLockRelease(lock);
}
