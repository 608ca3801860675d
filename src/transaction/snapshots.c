/*
 * snapshots.c
 *		Reading several nodes at one moment: dbscale.consistent_reads.
 *
 * A two-phase transaction becomes visible node by node, as each does its COMMIT
 * PREPARED.  A reader whose snapshots on the nodes are taken meanwhile would see it
 * in part.  The nouns: the *gate* is one lock of this database.  *Commits* go through
 * it together, those who *open* snapshots go through it together, and one kind keeps
 * the other out.
 *
 *	1. A commit enters when all its nodes have prepared, before the local commit, and
 *	   leaves with the transaction's other locks: after COMMIT PREPARED has been
 *	   answered, or given up, on every node.
 *	2. A reader connects to its nodes, waits until these connections have nothing else
 *	   to do, and enters.  Each node gets in one flush: (a) which transactions of ours
 *	   are prepared?, (b) BEGIN ISOLATION LEVEL REPEATABLE READ, (c) SELECT 1, which
 *	   takes the snapshot and can wait for nobody's lock.
 *	3. A gid of (a) whose local transaction has ended and has a row in the log is in
 *	   doubt: other nodes may show what this one does not.
 *	4. The reader leaves.  If 3 found something it gives its transactions back and
 *	   begins anew a little later, until dbscale.commit_timeout is over.
 *
 * Why this is enough:
 *	a. A commit that has left before the reader enters is seen in every snapshot, or
 *	   some node has not been told: that one has it prepared in (a), and 3 sees it.
 *	b. A commit that enters after the reader has left is in no snapshot.
 *	c. COMMIT PREPARED may be done late by a node we have given up, at any time.  If
 *	   between (a) and (c), 3 finds a transaction in doubt that is seen everywhere,
 *	   and the reader begins anew for nothing; with (c) before (a) it would be missed.
 *	d. Recovery goes through the gate as commits do: for each COMMIT PREPARED, so that
 *	   none falls between the snapshots of two nodes, and from before it deletes rows
 *	   of the log to the end of its transaction, so that in 3 the row of a gid that was
 *	   in (a) is still there.
 *	e. The order in 3, first "has it ended?", then the log, is that of recovery.c: a
 *	   transaction that has ended and committed before the question has its row.
 *	f. Whoever is in the gate waits for nothing but answers of nodes that need no lock
 *	   there, for no longer than dbscale.commit_timeout; so there are no deadlocks
 *	   through it.  Whoever waits for it can be cancelled: a reader gets an error, and
 *	   a commit is rolled back, for nothing is decided before it has entered.
 *
 * Example: A moves money from node 1 to node 2.  Both have prepared; A enters, commits
 * here, and node 1 is told.  A reader that comes now waits until node 2 is told too.
 * Had node 2 died before, A would leave without it, and the reader would fail to reach
 * node 2, or find A prepared there and wait until recovery has told it.
 *
 * READ COMMITTED transactions get new snapshots for each statement, and have to see
 * their own writes.  There the statement's queries are declared as cursors on the
 * nodes in place of (b) and (c): a cursor's snapshot is that of its declaration.  All
 * that the statement reads has to be sent at once.  (Declaring locks the tables as any
 * query does.  Whoever has locked a shard against that, past the coordinator's lock on
 * the table, may be behind the gate: hence the limit of f, and before it is reached the
 * deadlock detector sees the circle.)  If 3 finds something the
 * statement fails.
 *
 * A transaction that keeps one snapshot (REPEATABLE READ, SERIALIZABLE) opens all its
 * nodes' at the first use of any: which ones it will read is not known yet.  Its
 * connections as another user (through views) import the snapshot of the first.
 */
#include "transaction/internal.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/metadata.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/* Both conflict with the other and not with themselves. */
#define GATE_COMMIT RowExclusiveLock
#define GATE_OPEN ShareLock

/* While answers are awaited we look for interrupts this often. */
#define INTERRUPT_POLL_MS 100
/* Between two tries while a transaction is in doubt. */
#define RETRY_MS 50

#define PREPARED_SQL \
	"SELECT gid FROM pg_catalog.pg_prepared_xact() WHERE pg_catalog.starts_with(gid, $1)"

/* One node of an opening. */
typedef struct Opening
{
	RemoteConnection *conn;
	RemoteTransaction *remote;
	RemoteStatement *prepared;
	RemoteStatement *snapshot;
	List	   *gids;			/* prepared, of transactions that are not running */
} Opening;

struct TogetherReads
{
	List	   *openings;		/* of Opening * */
	List	   *declared;		/* of RemoteStatement *: DECLARE */
	List	   *conns;			/* theirs */
	TimestampTz deadline;
};

/* ---- the gate ---- */

/* Users' advisory locks have 1 or 2 where this has 3, so they never meet. */
static void
set_gate_tag(LOCKTAG *tag)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, 0x64627363, 0, 3);
}

static void
enter(LOCKMODE mode)
{
	LOCKTAG		tag;

	set_gate_tag(&tag);
	(void) LockAcquire(&tag, mode, false, false);
}

static void
leave(LOCKMODE mode)
{
	LOCKTAG		tag;

	set_gate_tag(&tag);
	(void) LockRelease(&tag, mode, false);
}

void
gate_enter_commit(void)
{
	enter(GATE_COMMIT);
}

void
gate_leave_commit(void)
{
	leave(GATE_COMMIT);
}

/* ---- opening ---- */

static void
ask_for_prepared(Opening *opening)
{
	const char *values[1];
	RemoteParams params = {0};

	values[0] = gid_prefix();
	params.count = 1;
	params.values = values;
	opening->prepared = dbscale_remote_send(opening->conn, PREPARED_SQL, &params, REMOTE_PREPARE, NULL);
}

static void
send_opening(Opening *opening)
{
	ask_for_prepared(opening);
	opening->remote = transaction_begin(opening->conn, REMOTE_READ_STABLE);
	opening->snapshot = dbscale_remote_send(opening->conn, "SELECT 1", NULL, 0, NULL);
}

static void
wait_for_answer(RemoteConnection *conn, RemoteStatement *stmt, TimestampTz deadline)
{
	while (!dbscale_remote_wait_done(stmt, INTERRUPT_POLL_MS))
	{
		dbscale_remote_check_interrupts();
		if (GetCurrentTimestamp() >= deadline)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("node \"%s\" did not open a snapshot in time",
							dbscale_remote_node_name(conn)),
					 errdetail("With dbscale.consistent_reads, commits over several nodes wait for it."),
					 errhint("The time is that of dbscale.commit_timeout.")));
	}
	(void) dbscale_remote_finish(stmt);
	dbscale_remote_close(stmt);
}

/* Of those that have ended only the log knows how. */
static void
take_answer(Opening *opening)
{
	RemoteRow	row;

	while (dbscale_remote_next_row(opening->prepared, &row))
	{
		if (!gid_is_in_progress(row.values[0]))
			opening->gids = lappend(opening->gids, pstrdup(row.values[0]));
	}
	dbscale_remote_close(opening->prepared);
}

/* A node that has not been told of a commit, or NULL. */
static const char *
find_doubt(List *openings)
{
	ListCell   *lc;

	foreach(lc, openings)
	{
		Opening    *opening = lfirst(lc);
		const char *node = dbscale_remote_node_name(opening->conn);

		if (opening->gids != NIL && log_has_any(node, opening->gids))
			return node;
	}
	return NULL;
}

/* Through the gate once.  A node in doubt, or NULL: the snapshots are of one moment. */
static const char *
try_open(List *openings)
{
	TimestampTz deadline;
	const char *doubt;
	ListCell   *lc;

	enter(GATE_OPEN);
	DEBUG_POINT("in_gate");
	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), dbscale_commit_timeout);
	foreach(lc, openings)
		send_opening(lfirst(lc));
	foreach(lc, openings)
	{
		Opening    *opening = lfirst(lc);

		wait_for_answer(opening->conn, opening->snapshot, deadline);
		take_answer(opening);
	}
	doubt = find_doubt(openings);
	leave(GATE_OPEN);
	return doubt;
}

static void
give_back(List *openings)
{
	List	   *conns = NIL;
	List	   *commands = NIL;
	ListCell   *lc;
	bool	   *succeeded = palloc0(list_length(openings) * sizeof(bool));

	foreach(lc, openings)
	{
		conns = lappend(conns, ((Opening *) lfirst(lc))->conn);
		commands = lappend(commands, "ROLLBACK");
	}
	(void) dbscale_remote_try_commands(conns, commands, dbscale_commit_timeout, succeeded, NULL);
	foreach(lc, openings)
	{
		Opening    *opening = lfirst(lc);

		if (!succeeded[foreach_current_index(lc)])
			dbscale_remote_mark_broken(opening->conn);
		transaction_forget(opening->remote);
		opening->remote = NULL;
		opening->gids = NIL;
	}
}

pg_noreturn static void
raise_doubt(const char *node)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("the nodes cannot be read at one moment"),
			 errdetail("A transaction is committed, and node \"%s\" has not been told yet.", node),
			 errhint("Retry. The maintenance worker completes the commit; the view dbscale.prepared shows it.")));
}

static void
wait_for_recovery(const char *node, TimestampTz deadline)
{
	if (GetCurrentTimestamp() >= deadline)
		raise_doubt(node);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, RETRY_MS,
					 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* No lock of the primary holds on a standby. */
static void
require_primary(void)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("consistent reads are not supported on a standby of the coordinator"),
				 errdetail("Transactions are committed by the primary."),
				 errhint("Set dbscale.consistent_reads = off, or read on the primary.")));
}

static List *
connect_all(List *targets)
{
	List	   *openings = NIL;
	List	   *conns = NIL;
	ListCell   *lc;

	foreach(lc, targets)
	{
		RemoteTarget *target = lfirst(lc);

		dbscale_remote_connect_ahead(target->serverid, target->userid);
	}
	foreach(lc, targets)
	{
		RemoteTarget *target = lfirst(lc);
		Opening    *opening = palloc0(sizeof(Opening));

		opening->conn = dbscale_remote_connect(target->serverid, target->userid);
		openings = lappend(openings, opening);
		conns = lappend(conns, opening->conn);
	}
	dbscale_remote_sync_all(conns);
	return openings;
}

static void
open_together(List *targets)
{
	List	   *openings;
	ListCell   *lc;
	TimestampTz deadline;
	const char *doubt;

	require_primary();
	openings = connect_all(targets);
	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), dbscale_commit_timeout);
	while ((doubt = try_open(openings)) != NULL)
	{
		give_back(openings);
		wait_for_recovery(doubt, deadline);
	}
	foreach(lc, openings)
		((Opening *) lfirst(lc))->remote->together = true;
}

bool
dbscale_transaction_open_together(List *targets)
{
	if (transaction_list() != NIL)
		return false;
	open_together(targets);
	return true;
}

/* ---- one statement of a READ COMMITTED transaction ---- */

TogetherReads *
dbscale_transaction_begin_together(List *conns)
{
	TogetherReads *reads = palloc0(sizeof(TogetherReads));
	ListCell   *lc;

	require_primary();
	dbscale_remote_sync_all(conns);
	foreach(lc, conns)
	{
		Opening    *opening = palloc0(sizeof(Opening));

		opening->conn = lfirst(lc);
		reads->openings = lappend(reads->openings, opening);
	}
	enter(GATE_OPEN);
	reads->deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), dbscale_commit_timeout);
	foreach(lc, reads->openings)
		ask_for_prepared(lfirst(lc));
	return reads;
}

/* The cursor's rows follow it at once; the cursor is closed behind them. */
RemoteStatement *
dbscale_transaction_declare(TogetherReads *reads, RemoteConnection *conn, const char *sql,
							const RemoteParams *params, int flags, const char *label)
{
	static uint32 counter = 0;
	MemoryContext caller = CurrentMemoryContext;
	char	   *cursor = psprintf("dbscale_read_%u", counter++);
	RemoteStatement *stmt;

	MemoryContextSwitchTo(GetMemoryChunkContext(reads));
	stmt = dbscale_remote_send(conn, psprintf("DECLARE %s NO SCROLL CURSOR FOR %s", cursor, sql),
							   params, 0, label);
	reads->declared = lappend(reads->declared, stmt);
	reads->conns = lappend(reads->conns, conn);
	MemoryContextSwitchTo(caller);
	stmt = dbscale_remote_send(conn, psprintf("FETCH ALL FROM %s", cursor), NULL,
							   flags & ~REMOTE_PREPARE, label);
	dbscale_remote_close(dbscale_remote_send(conn, psprintf("CLOSE %s", cursor), NULL, 0, label));
	return stmt;
}

void
dbscale_transaction_end_together(TogetherReads *reads)
{
	const char *doubt;
	ListCell   *lc,
			   *lc2;

	forboth(lc, reads->declared, lc2, reads->conns)
		wait_for_answer(lfirst(lc2), lfirst(lc), reads->deadline);
	foreach(lc, reads->openings)
		take_answer(lfirst(lc));
	doubt = find_doubt(reads->openings);
	leave(GATE_OPEN);
	if (doubt)
		raise_doubt(doubt);
}

/* ---- transactions that keep one snapshot ---- */

bool
snapshots_are_kept(RemoteUse use)
{
	return dbscale_consistent_reads && IsolationUsesXactSnapshot() &&
		(use == REMOTE_READ || use == REMOTE_WRITE);
}

List *
dbscale_transaction_add_target(List *targets, Oid serverid, Oid userid)
{
	RemoteTarget *target;
	ListCell   *lc;

	foreach(lc, targets)
	{
		target = lfirst(lc);
		if (target->serverid == serverid && target->userid == userid)
			return targets;
	}
	target = palloc(sizeof(RemoteTarget));
	target->serverid = serverid;
	target->userid = userid;
	return lappend(targets, target);
}

List *
dbscale_transaction_add_group(List *targets, const TableGroup *group, Oid userid)
{
	for (int i = 0; i < group->nshards; i++)
	{
		if (group->shards[i].node->enabled)
			targets = dbscale_transaction_add_target(targets, group->shards[i].node->serverid, userid);
	}
	return targets;
}

/* The first use of a node: all that are enabled, for any may be next. */
void
snapshots_open_everywhere(Oid userid)
{
	List	   *targets = NIL;
	ListCell   *lc;

	foreach(lc, dbscale_catalog_nodes())
	{
		const ShardNode *node = lfirst(lc);

		if (node->enabled)
			targets = dbscale_transaction_add_target(targets, node->serverid, userid);
	}
	if (targets != NIL)
		open_together(targets);
}

/*
 * One more connection: to a node whose snapshot another one has, as another user.
 * (Where it has savepoints the node does not export; the next read is refused.)
 */
void
snapshots_join(RemoteTransaction *remote)
{
	ListCell   *lc;

	foreach(lc, transaction_list())
	{
		RemoteTransaction *other = lfirst(lc);
		char	   *id;

		if (!other->together || other->depth != 1 ||
			dbscale_remote_server(other->conn) != dbscale_remote_server(remote->conn))
			continue;
		id = dbscale_remote_query_value(other->conn, "SELECT pg_catalog.pg_export_snapshot()", NULL);
		dbscale_remote_queue_command(remote->conn,
									 psprintf("SET TRANSACTION SNAPSHOT %s", quote_literal_cstr(id)));
		remote->together = true;
		return;
	}
}

void
dbscale_transaction_require_snapshot(RemoteConnection *conn, RemoteUse use)
{
	RemoteTransaction *remote = dbscale_remote_transaction_state(conn);

	if (!snapshots_are_kept(use) || remote->together)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("the transaction has no snapshot of node \"%s\" from its beginning",
					dbscale_remote_node_name(conn)),
			 errdetail("With dbscale.consistent_reads, a transaction that keeps one snapshot opens it on all nodes at its first use of any."),
			 errhint("Retry, with the setting on before the first query, and tables of other owners' views read before any savepoint.")));
}
