/*
 * copies.c
 *		Tables of which every node has a copy: a write waits until the commits that it
 *		has seen here have arrived there.
 *
 * Between a transaction's decision (two_phase.c, 4) and its COMMIT PREPAREDs its rows
 * are committed here and prepared on the nodes.  Somebody who reads such a row here and
 * sends a statement for it to the nodes would, at READ COMMITTED, wait there for a row
 * that was changed, since a prepared transaction holds its row locks.  But a row that was
 * inserted, or got this key, nobody waits for: it is not visible, and the statement finds
 * nothing.
 *
 * So each such table has a lock, which *commits* take together, and *waiters* take
 * together; one kind keeps the other out.
 *	1. A transaction that has written copies takes the locks of their tables when all its
 *	   nodes have prepared, before the local commit; they go with its other locks: when
 *	   COMMIT PREPARED has been answered, or given up, on every node.
 *	2. A waiter has read a row here, takes the row's table's lock, and releases it at once.
 *	   Then it sends its statement.
 *
 * Why this is enough:
 *	a. The row was visible here, so the transaction that wrote it had decided, and had
 *	   taken its lock before that.  When the waiter has the lock, that transaction has
 *	   released it: COMMIT PREPARED is done, and the statement's snapshot on the node,
 *	   which is taken after that, sees the row.
 *	b. A waiter holds no such lock while it waits (its own commit takes them later), and a
 *	   commit that waits behind it has prepared everything: neither waits for locks of
 *	   nodes here.  What a waiter waits for are commits that are decided, and those wait for
 *	   answers to COMMIT PREPARED, for no longer than dbscale.commit_timeout.  Commits of
 *	   several tables take the locks in one order.  So there are no deadlocks, and who waits can be cancelled, or stopped by a timeout: nothing is
 *	   decided before 1 is over.
 *	c. A node that has not answered is given up, and its part of the commit stays prepared
 *	   until the maintenance worker has told it.  How often that has happened since the
 *	   server's start is counted, before the locks go.  A waiter that finds another number
 *	   than its session has seen before (or none, at first: the server may have crashed)
 *	   asks the nodes for what is prepared, and waits until nothing is that the log has as
 *	   committed.  Of these the log's rows are there as long as they are prepared
 *	   (recovery.c); a transaction in progress has not decided, or is one of 1, which 2
 *	   has waited for if it matters.
 *
 * A transaction that keeps one snapshot, and had it on the node before the commit, finds
 * no row all the same; the caller raises a serialization failure, as it should be.
 */
#include "transaction/internal.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/* Both conflict with the other and not with themselves. */
#define COPIES_COMMIT RowExclusiveLock
#define COPIES_WAIT ShareLock

/* Between two questions to a node that has not been told. */
#define RETRY_MS 50

typedef struct CopiesShared
{
	uint64		given_up;		/* commits that a node has not confirmed */
} CopiesShared;

static CopiesShared *shared = NULL;
static LWLock *shared_lock = NULL;

static List *written = NIL;		/* Oids, in TopTransactionContext */

/* All given up until then are known to have been told. */
static bool any_known = false;
static uint64 known_given_up;

/* Users' advisory locks have 1 or 2, and moves 4, where this has 5, so they never meet. */
static void
set_copies_tag(LOCKTAG *tag, Oid relid)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, 0x64627363, relid, 5);
}

/* One of a subtransaction that is rolled back stays: its lock is taken for nothing. */
void
dbscale_transaction_writes_copies(Oid relid)
{
	MemoryContext old;

	if (list_member_oid(written, relid))
		return;
	old = MemoryContextSwitchTo(TopTransactionContext);
	written = lappend_oid(written, relid);
	MemoryContextSwitchTo(old);
}

void
copies_note_given_up(void)
{
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	shared->given_up++;
	LWLockRelease(shared_lock);
}

static uint64
read_given_up(void)
{
	uint64		result;

	LWLockAcquire(shared_lock, LW_SHARED);
	result = shared->given_up;
	LWLockRelease(shared_lock);
	return result;
}

/* Until nothing is prepared there that is committed here. */
static void
await_node(RemoteConnection *conn, TimestampTz deadline)
{
	const char *node = dbscale_remote_node_name(conn);

	while (node_has_doubt(conn))
	{
		if (GetCurrentTimestamp() >= deadline)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("node \"%s\" has not been told yet of a transaction that is committed", node),
					 errdetail("The change may be to a row that the node does not show before."),
					 errhint("Retry. The maintenance worker completes the commit; the view dbscale.prepared shows it.")));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, RETRY_MS,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

static void
await_given_up(List *conns)
{
	uint64		given_up = read_given_up();
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), dbscale_commit_timeout);
	ListCell   *lc;

	if (any_known && given_up == known_given_up)
		return;
	foreach(lc, conns)
		await_node(lfirst(lc), deadline);
	known_given_up = given_up;
	any_known = true;
}

void
dbscale_transaction_await_copies(Oid relid, List *conns)
{
	LOCKTAG		tag;

	set_copies_tag(&tag, relid);
	(void) LockAcquire(&tag, COPIES_WAIT, false, false);
	(void) LockRelease(&tag, COPIES_WAIT, false);
	await_given_up(conns);
}

void
copies_enter_commit(void)
{
	ListCell   *lc;

	/* in one order: who waits for the second of two waits behind who waits for the first */
	list_sort(written, list_oid_cmp);
	foreach(lc, written)
	{
		LOCKTAG		tag;

		set_copies_tag(&tag, lfirst_oid(lc));
		(void) LockAcquire(&tag, COPIES_COMMIT, false, false);
	}
}

void
copies_end_transaction(void)
{
	written = NIL;
}

void
copies_init(void)
{
	dbscale_shared_area("dbscale copies", sizeof(CopiesShared), (void **) &shared, &shared_lock);
}
