/*
 * deadlock.c
 *		Deadlocks between nodes: found by the maintenance worker, broken by an error
 *		in one of the transactions.
 *
 * A *session* is a backend of this coordinator, with all its connections to nodes,
 * or some other session on a node.  Session W *waits for* B at a *place* (a node, or
 * the coordinator itself) when pg_blocking_pids() says so there.  The name
 * 'dbscale SYSTEM DATABASE PID' that our connections carry maps sessions on nodes to
 * backends of this coordinator, and so does the gid of what a backend has prepared: it
 * may have to wait elsewhere before it can commit that.  A circle of waits at one place
 * is broken by the deadlock detector of that server; here we look for circles that lead
 * over several places, of which no server sees more than a part.
 *
 * Example: backend 100 has locked row x on node a and wants y on node b; backend 200
 * has y and wants x.  Node a reports 200 → 100, node b reports 100 → 200.
 *
 * The places are asked one after the other, so what is put together may never have
 * been true at one moment: 100 → 200 may be over when 200 → 100 begins.  Therefore:
 *	1. Note for each backend that may wait which transaction it is in.
 *	2. Look at all places, then look a second time.
 *	3. Check that the circle is the same, and the backends' transactions as well.
 * Locks are kept until their transaction ends.  So a wait for a transaction that was
 * seen in both looks lasted all the time between them; all waits of the circle were
 * seen by the end of the first look, and all still lasted when the second began: at
 * that moment they were true together.  (A lock given back by ROLLBACK TO SAVEPOINT
 * is an exception: the worst it can do is to cancel a transaction needlessly.)
 *
 * The victim is the youngest transaction of the circle among those that wait on a
 * node.  It is not sent a signal, which could hit its next statement: it is entered,
 * with its transaction, in a list in shared memory and woken up.  When it waits for
 * a node it looks there, and raises deadlock_detected if it is meant.  One that waits
 * for the outcome of a commit can't: it has the node cancel it, and then raises the
 * error if the node has given up.
 *
 * The nodes are asked only while at least one statement runs longer than half of
 * dbscale.deadlock_interval and waits.  Sessions that do not tell when their statement
 * began (track_activities is off, or a background worker's) count as if it ran that long.
 */
#include "worker/registry.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "transaction/transaction.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define MAX_VICTIMS 64
#define MESSAGE_LENGTH 512
#define SECOND_LOOK_MS 100
#define COORDINATOR 0			/* place; nodes are 1, 2, ... */

typedef struct Victim
{
	pid_t		pid;			/* 0: free */
	LocalTransactionId lxid;
	char		detail[MESSAGE_LENGTH];
} Victim;

typedef struct DeadlockShared
{
	pg_atomic_uint32 victims_count; /* the memory begins as zeroes */
	Victim		victims[MAX_VICTIMS];
} DeadlockShared;

/* A backend of ours whose statement has been running for some time. */
typedef struct Candidate
{
	int			pid;
	LocalTransactionId lxid;
	TimestampTz xact_start;		/* DT_NOBEGIN: not known */
} Candidate;

typedef struct Session
{
	int			place;			/* COORDINATOR: a backend of ours */
	int			pid;
	const Candidate *candidate; /* NULL: not ours, or idle: can't be cancelled */
	List	   *waits;			/* of Wait * */
	enum
	{
		UNSEEN, ON_PATH, DONE
	}			mark;
} Session;

typedef struct Wait
{
	Session    *blocker;
	int			place;
	const char *place_name;
} Wait;

/* One look at all places; everything lives in the worker's per-run context. */
typedef struct Look
{
	MemoryContext context;
	List	   *candidates;		/* of Candidate * */
	List	   *sessions;		/* of Session * */
	List	   *deadlocks;		/* of Deadlock * */
	/* while a place is read */
	int			place;
	const NodeRef *node;
	/* while circles are searched */
	List	   *path_sessions;
	List	   *path_waits;
} Look;

typedef struct Deadlock
{
	List	   *members;		/* pids of our backends in it, in order */
	const Candidate *victim;
	char	   *detail;
} Deadlock;

static DeadlockShared *shared = NULL;
static LWLock *lock = NULL;

/* Our own entry, taken out of the list: it holds as long as we are in its transaction. */
static Victim own_entry;

/* ---- the list of victims ---- */

static void
take_own_entry(void)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_VICTIMS; i++)
	{
		Victim	   *victim = &shared->victims[i];

		if (victim->pid != MyProcPid)
			continue;
		own_entry = *victim;
		victim->pid = 0;
		pg_atomic_fetch_sub_u32(&shared->victims_count, 1);
		break;
	}
	LWLockRelease(lock);
}

/* For a backend that waits for a node and may not throw. */
static bool
is_victim(void)
{
	if (pg_atomic_read_u32(&shared->victims_count) > 0)
		take_own_entry();
	return own_entry.pid != 0 && own_entry.lxid == dbscale_proc_lxid(MyProc);
}

/* Called by every backend that waits for a node, before CHECK_FOR_INTERRUPTS. */
static void
fail_if_victim(void)
{
	if (!is_victim())
		return;
	own_entry.pid = 0;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_DEADLOCK_DETECTED),
			 errmsg("deadlock detected between nodes"),
			 errdetail_internal("%s", own_entry.detail),
			 errhint("Run the transaction again.")));
}

static bool
is_condemned(int pid)
{
	for (int i = 0; i < MAX_VICTIMS; i++)
	{
		if (shared->victims[i].pid == pid)
			return true;
	}
	return false;
}

/* Enter the transaction and wake it up; false when it has ended or is entered already. */
static bool
condemn(const Candidate *candidate, const char *detail)
{
	PGPROC	   *proc = BackendPidGetProc(candidate->pid);
	bool		entered = false;

	if (proc == NULL || dbscale_proc_lxid(proc) != candidate->lxid)
		return false;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_VICTIMS && !entered && !is_condemned(candidate->pid); i++)
	{
		Victim	   *victim = &shared->victims[i];

		if (victim->pid != 0)
			continue;
		victim->pid = candidate->pid;
		victim->lxid = candidate->lxid;
		strlcpy(victim->detail, detail, MESSAGE_LENGTH);
		pg_atomic_fetch_add_u32(&shared->victims_count, 1);
		entered = true;
	}
	LWLockRelease(lock);
	SetLatch(&proc->procLatch);
	return entered;
}

/*
 * Who has not come to look for a whole interval was not waiting for a node any more:
 * the circle was broken by something else.
 */
static void
forget_old_victims(void)
{
	if (pg_atomic_read_u32(&shared->victims_count) == 0)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_VICTIMS; i++)
		shared->victims[i].pid = 0;
	pg_atomic_write_u32(&shared->victims_count, 0);
	LWLockRelease(lock);
}

void
dbscale_deadlock_init(void)
{
	dbscale_shared_area("dbscale_deadlock", sizeof(DeadlockShared), (void **) &shared, &lock);
	dbscale_remote_interrupt_hook = fail_if_victim;
	dbscale_remote_interrupt_pending_hook = is_victim;
}

/* ---- a look ---- */

/*
 * Backends whose statement has been running for half of the interval, for all we know;
 * it is pointless to ask the nodes if none of them waits for one.
 */
static void
read_candidates(void *arg)
{
	Look	   *look = arg;
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(dbscale_deadlock_interval / 2)};
	bool		one_waits = false;

	SPI_connect();
	if (SPI_execute_with_args("SELECT pid, xact_start, coalesce(wait_event_type IN ('Extension', 'IPC', 'Client'), false) "
							  "FROM pg_catalog.pg_stat_get_activity(NULL) "
							  "WHERE datid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) "
							  "AND pid <> pg_catalog.pg_backend_pid() AND coalesce(state, '') NOT LIKE 'idle%' "
							  "AND coalesce(query_start < pg_catalog.clock_timestamp() - $1 * interval '1 millisecond', true)",
							  1, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read sessions");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		int			pid = DatumGetInt32(SPI_getbinval(tuple, desc, 1, &isnull));
		PGPROC	   *proc = BackendPidGetProc(pid);
		MemoryContext previous;
		Candidate  *candidate;

		if (proc == NULL)
			continue;
		one_waits |= DatumGetBool(SPI_getbinval(tuple, desc, 3, &isnull));
		previous = MemoryContextSwitchTo(look->context);
		candidate = palloc(sizeof(Candidate));
		candidate->pid = pid;
		candidate->lxid = dbscale_proc_lxid(proc);
		candidate->xact_start = DatumGetTimestampTz(SPI_getbinval(tuple, desc, 2, &isnull));
		if (isnull)
			candidate->xact_start = DT_NOBEGIN;
		look->candidates = lappend(look->candidates, candidate);
		MemoryContextSwitchTo(previous);
	}
	SPI_finish();
	if (!one_waits)
		look->candidates = NIL;
}

static Session *
find_session(Look *look, int place, int pid)
{
	ListCell   *cell;
	Session    *session;

	foreach(cell, look->sessions)
	{
		session = lfirst(cell);
		if (session->place == place && session->pid == pid)
			return session;
	}

	session = palloc0(sizeof(Session));
	session->place = place;
	session->pid = pid;
	look->sessions = lappend(look->sessions, session);
	foreach(cell, look->candidates)
	{
		const Candidate *candidate = lfirst(cell);

		if (place == COORDINATOR && candidate->pid == pid)
			session->candidate = candidate;
	}
	return session;
}

/*
 * The session behind a pid at the place that is being read; NULL for a prepared
 * transaction (pid 0) that no backend of ours is committing or rolling back.
 */
static Session *
identify_session(Look *look, const char *pid, const char *name)
{
	uint64		system_identifier;
	Oid			database;
	int			coordinator_pid;

	if (look->place == COORDINATOR)
		return find_session(look, COORDINATOR, atoi(pid));
	if (atoi(pid) == 0)
	{
		coordinator_pid = dbscale_transaction_backend_of(name);
		return coordinator_pid ? find_session(look, COORDINATOR, coordinator_pid) : NULL;
	}
	if (sscanf(name, "dbscale " UINT64_FORMAT " %u %d",
			   &system_identifier, &database, &coordinator_pid) == 3 &&
		system_identifier == GetSystemIdentifier() && database == MyDatabaseId)
		return find_session(look, COORDINATOR, coordinator_pid);
	return find_session(look, look->place, atoi(pid));
}

static void
add_wait(Look *look, const char *waiter_pid, const char *waiter_name,
		 const char *blocker_pid, const char *blocker_name)
{
	MemoryContext previous = MemoryContextSwitchTo(look->context);
	Session    *waiter = identify_session(look, waiter_pid, waiter_name);
	Session    *blocker = identify_session(look, blocker_pid, blocker_name);

	if (blocker != NULL)
	{
		Wait	   *wait = palloc(sizeof(Wait));

		wait->blocker = blocker;
		wait->place = look->place;
		wait->place_name = look->place == COORDINATOR ? NULL : NameStr(look->node->name);
		waiter->waits = lappend(waiter->waits, wait);
	}
	MemoryContextSwitchTo(previous);
}

/* Each waiter and whom it waits for: pids and names.  Prepared transactions have no pid. */
#define WAITS_QUERY(restriction) \
	"SELECT w.pid, coalesce(wa.application_name, ''), b.pid, coalesce(ba.application_name, '') " \
	"FROM (SELECT DISTINCT pid FROM pg_catalog.pg_locks WHERE NOT granted AND pid IS NOT NULL) w " \
	"CROSS JOIN LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(w.pid)) b(pid) " \
	"LEFT JOIN pg_catalog.pg_stat_activity wa ON wa.pid = w.pid " \
	"LEFT JOIN pg_catalog.pg_stat_activity ba ON ba.pid = b.pid " \
	"WHERE b.pid <> 0" restriction

/*
 * The waits for prepared transactions: pid 0, and their gids for names.  Which one it is
 * that pg_blocking_pids() means is not said: those that have a lock on the same thing.
 * (With one that does not conflict, a circle through it is broken needlessly.)
 */
#define PREPARED_WAITS_QUERY \
	"(WITH l AS MATERIALIZED (SELECT * FROM pg_catalog.pg_locks) " \
	"SELECT w.pid, coalesce(wa.application_name, ''), 0, p.gid FROM l w " \
	"JOIN l h ON h.granted AND h.pid IS NULL AND h.locktype = w.locktype AND " \
	"(h.database, h.relation, h.page, h.tuple, h.virtualxid, h.transactionid, h.classid, h.objid, h.objsubid) IS NOT DISTINCT FROM " \
	"(w.database, w.relation, w.page, w.tuple, w.virtualxid, w.transactionid, w.classid, w.objid, w.objsubid) " \
	"JOIN l x ON x.pid IS NULL AND x.locktype = 'transactionid' AND x.virtualtransaction = h.virtualtransaction " \
	"JOIN pg_catalog.pg_prepared_xact() p ON p.transaction = x.transactionid " \
	"LEFT JOIN pg_catalog.pg_stat_activity wa ON wa.pid = w.pid " \
	"WHERE NOT w.granted AND w.pid IS NOT NULL AND 0 = ANY (pg_catalog.pg_blocking_pids(w.pid)))"

/* Waits here, of backends of this database: others belong to a node in this server. */
static void
read_local_waits(void *arg)
{
	Look	   *look = arg;

	SPI_connect();
	if (SPI_execute(WAITS_QUERY(" AND wa.datname = pg_catalog.current_database()"),
					true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read locks");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;

		add_wait(look, SPI_getvalue(tuple, desc, 1), SPI_getvalue(tuple, desc, 2),
				 SPI_getvalue(tuple, desc, 3), SPI_getvalue(tuple, desc, 4));
	}
	SPI_finish();
}

static void
read_node_waits(void *arg)
{
	Look	   *look = arg;
	RemoteConnection *conn = dbscale_transaction_connection(look->node->serverid,
															look->node->userid,
															REMOTE_READ_ALONE);
	RemoteStatement *stmt = dbscale_remote_send(conn, WAITS_QUERY("") " UNION ALL " PREPARED_WAITS_QUERY,
												REMOTE_NO_PARAMS, REMOTE_PREPARE, NULL);
	RemoteRow	row;

	while (dbscale_remote_next_row(stmt, &row))
		add_wait(look, row.values[0], row.values[1], row.values[2], row.values[3]);
	dbscale_remote_close(stmt);
}

/* ---- the search ---- */

/* One line a wait: what the user of the victim is told. */
static char *
describe_circle(List *sessions, List *waits)
{
	StringInfoData text;
	ListCell   *s;
	ListCell   *w;

	initStringInfo(&text);
	forboth(s, sessions, w, waits)
	{
		const Session *session = lfirst(s);
		const Wait *wait = lfirst(w);

		appendStringInfo(&text, "%s%s %d waits for %s %d",
						 text.len ? "\n" : "",
						 session->place == COORDINATOR ? "Process" : "Remote process", session->pid,
						 wait->blocker->place == COORDINATOR ? "process" : "remote process",
						 wait->blocker->pid);
		if (wait->place_name)
			appendStringInfo(&text, " on node \"%s\".", wait->place_name);
		else
			appendStringInfoString(&text, " on the coordinator.");
	}
	return text.data;
}

/*
 * A circle was found: the path from `first` on.  A wait at one place only is left to
 * that server, unless it is one of our backends waiting for itself, through two
 * connections to the same node, which the node can't know.
 */
static void
note_circle(Look *look, int first)
{
	List	   *sessions = list_copy_tail(look->path_sessions, first);
	List	   *waits = list_copy_tail(look->path_waits, first);
	int			place = ((Wait *) linitial(waits))->place;
	bool		spans = list_length(sessions) == 1;
	Deadlock   *deadlock = palloc0(sizeof(Deadlock));
	ListCell   *s;
	ListCell   *w;

	forboth(s, sessions, w, waits)
	{
		const Session *session = lfirst(s);
		const Wait *wait = lfirst(w);
		const Candidate *candidate = session->candidate;

		spans |= wait->place != place;
		if (session->place == COORDINATOR)
			deadlock->members = lappend_int(deadlock->members, session->pid);
		if (candidate && wait->place != COORDINATOR &&
			(deadlock->victim == NULL || candidate->xact_start > deadlock->victim->xact_start))
			deadlock->victim = candidate;
	}
	if (!spans || deadlock->victim == NULL)
		return;
	list_sort(deadlock->members, list_int_cmp);
	deadlock->detail = describe_circle(sessions, waits);
	look->deadlocks = lappend(look->deadlocks, deadlock);
}

/* Depth first; every wait for a session on the path closes a circle. */
static void
search_from(Look *look, Session *session)
{
	ListCell   *cell;

	check_stack_depth();
	session->mark = ON_PATH;
	look->path_sessions = lappend(look->path_sessions, session);
	foreach(cell, session->waits)
	{
		Wait	   *wait = lfirst(cell);

		look->path_waits = lappend(look->path_waits, wait);
		if (wait->blocker->mark == ON_PATH)
		{
			int			first = 0;

			while (list_nth(look->path_sessions, first) != wait->blocker)
				first++;
			note_circle(look, first);
		}
		else if (wait->blocker->mark == UNSEEN)
			search_from(look, wait->blocker);
		look->path_waits = list_delete_last(look->path_waits);
	}
	look->path_sessions = list_delete_last(look->path_sessions);
	session->mark = DONE;
}

/* A node that can't be asked is passed over: the circles that miss it are found. */
static void
look_at_places(Look *look, List *nodes)
{
	ListCell   *cell;

	look->sessions = NIL;
	look->deadlocks = NIL;
	look->place = COORDINATOR;
	dbscale_maintenance_attempt("deadlock detection", "coordinator", read_local_waits, look);
	foreach(cell, nodes)
	{
		look->place++;
		look->node = lfirst(cell);
		dbscale_maintenance_attempt("deadlock detection", NameStr(look->node->name),
									read_node_waits, look);
	}
	foreach(cell, look->sessions)
	{
		if (((Session *) lfirst(cell))->mark == UNSEEN)
			search_from(look, lfirst(cell));
	}
}

static bool
was_seen_before(const Deadlock *deadlock, List *earlier)
{
	ListCell   *cell;

	foreach(cell, earlier)
	{
		if (equal(((Deadlock *) lfirst(cell))->members, deadlock->members))
			return true;
	}
	return false;
}

/* Every backend of the circle is still in the transaction noted before the first look. */
static bool
transactions_are_the_same(const Look *look, const Deadlock *deadlock)
{
	ListCell   *cell;
	int			same = 0;

	foreach(cell, look->candidates)
	{
		const Candidate *candidate = lfirst(cell);
		PGPROC	   *proc;

		if (!list_member_int(deadlock->members, candidate->pid))
			continue;
		proc = BackendPidGetProc(candidate->pid);
		if (proc == NULL || dbscale_proc_lxid(proc) != candidate->lxid)
			return false;
		same++;
	}
	return same == list_length(deadlock->members);
}

void
dbscale_deadlock_task(void)
{
	Look		look = {CurrentMemoryContext};
	List	   *nodes;
	List	   *first;
	ListCell   *cell;

	forget_old_victims();
	dbscale_maintenance_attempt("deadlock detection", "coordinator", read_candidates, &look);
	if (look.candidates == NIL || (nodes = dbscale_maintenance_nodes()) == NIL)
		return;
	look_at_places(&look, nodes);
	if (look.deadlocks == NIL)
		return;

	first = look.deadlocks;
	(void) WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, SECOND_LOOK_MS, PG_WAIT_EXTENSION);
	CHECK_FOR_INTERRUPTS();
	look_at_places(&look, nodes);
	foreach(cell, look.deadlocks)
	{
		const Deadlock *deadlock = lfirst(cell);

		if (was_seen_before(deadlock, first) && transactions_are_the_same(&look, deadlock) &&
			condemn(deadlock->victim, deadlock->detail))
			ereport(LOG, (errmsg("dbscale: broke a deadlock between nodes by an error in process %d",
								 deadlock->victim->pid),
						  errdetail_internal("%s", deadlock->detail)));
	}
}
