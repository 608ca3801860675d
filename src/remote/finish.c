/*
 * finish.c
 *		Bringing connections to rest: sync, cancel, and commands that must not throw.
 *
 * The quiet functions run at the end of a transaction, where an error would be
 * fatal: whatever throws inside them (out of memory, a full disk while rows are
 * kept) is caught, and the connection is given up.
 *
 * Cancelling: the request travels on a connection of its own and stops whatever
 * the node is doing at that moment, so it is repeated while the queue does not
 * empty.  It can't hit a later command: the request has been delivered when the
 * call returns, and a node that is idle ignores it.
 */
#include "remote/internal.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* A cancel is sent again when it shows no effect for so long. */
#define CANCEL_REPEAT_MS 1000
/* And is not sent at all for what ends by itself so soon. */
#define CANCEL_PATIENCE_MS 10

/* ---- sync ---- */

/* Everything queued is given to the socket, as far as it takes it. */
static void
start_sync(RemoteConnection *conn)
{
	if (conn->pg == NULL || conn->mode != MODE_PIPELINE)
		return;
	if (conn->commands != NIL &&
		(!remote_send_commands(conn, NULL) || !remote_send_sync(conn)))
		remote_lose(conn, PQerrorMessage(conn->pg));
	else if (PQflush(conn->pg) < 0)
		remote_lose(conn, PQerrorMessage(conn->pg));
}

void
dbscale_remote_sync(RemoteConnection *conn)
{
	RemoteWait	wait = remote_wait_throwing();
	RemoteStatement *failed;

	start_sync(conn);
	if (conn->pg && conn->mode != MODE_PIPELINE)
	{
		(void) remote_copy_leave(conn, &wait, false);
		start_sync(conn);
	}
	conn->failed_statement = NULL;
	(void) remote_drain(conn, &wait);
	remote_raise_pending(conn);
	failed = conn->failed_statement;
	conn->failed_statement = NULL;
	if (failed)
		remote_raise(conn, failed->error);
	if (conn->pg == NULL)
		remote_raise(conn, remote_error_lost(conn, NULL));
}

void
dbscale_remote_sync_all(List *conns)
{
	ListCell   *lc;

	foreach(lc, conns)
		start_sync(lfirst(lc));
	foreach(lc, conns)
		dbscale_remote_sync(lfirst(lc));
}

/* ---- cancel ---- */

static RemoteWait
shorter_wait(const RemoteWait *wait, int timeout_ms)
{
	RemoteWait	shorter = remote_wait_quiet(timeout_ms);

	if (wait->deadline != 0 && wait->deadline < shorter.deadline)
		shorter.deadline = wait->deadline;
	return shorter;
}

#ifdef LIBPQ_HAS_ASYNC_CANCEL
/* 17: without blocking. */
static void
request_cancel(RemoteConnection *conn, const RemoteWait *wait)
{
	PGcancelConn *cancel = PQcancelCreate(conn->pg);
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	if (cancel != NULL && PQcancelStart(cancel))
	{
		while (status != PGRES_POLLING_OK && status != PGRES_POLLING_FAILED)
		{
			int			events = status == PGRES_POLLING_READING ?
				WL_SOCKET_READABLE : WL_SOCKET_CONNECTED;

			if (!remote_wait_socket(PQcancelSocket(cancel), events, wait))
				break;
			status = PQcancelPoll(cancel);
		}
	}
	PQcancelFinish(cancel);
}
#else
/*
 * Before 17 libpq can only block, for ever if the node's machine accepts connections
 * and its server is stuck.  So PQcancel (which may be called from anywhere, even a
 * signal handler) is called in a thread that owns all it touches and takes no
 * signals; it closes its end of a pipe when done, and is left behind when it isn't
 * in time.
 */
typedef struct CancelThread
{
	PGcancel   *cancel;
	int			done;
} CancelThread;

static void *
cancel_thread(void *arg)
{
	CancelThread *work = arg;
	char		message[256];

	(void) PQcancel(work->cancel, message, sizeof(message));
	PQfreeCancel(work->cancel);
	close(work->done);
	free(work);
	return NULL;
}

static bool
start_cancel_thread(CancelThread *work)
{
	pthread_t	thread;
	sigset_t	all,
				old;
	bool		started;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	started = pthread_create(&thread, NULL, cancel_thread, work) == 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (started)
		pthread_detach(thread);
	return started;
}

static void
request_cancel(RemoteConnection *conn, const RemoteWait *wait)
{
	RemoteWait	patience = shorter_wait(wait, CANCEL_REPEAT_MS);
	CancelThread *work = malloc(sizeof(CancelThread));
	int			ends[2];

	if (work == NULL || pipe(ends) != 0)
	{
		free(work);
		return;
	}
	work->cancel = PQgetCancel(conn->pg);
	work->done = ends[1];
	if (work->cancel == NULL || !start_cancel_thread(work))
	{
		PQfreeCancel(work->cancel);
		close(ends[1]);
		free(work);
	}
	else
		(void) remote_wait_socket(ends[0], WL_SOCKET_READABLE, &patience);
	close(ends[0]);
}
#endif

static bool
is_over(const RemoteWait *wait)
{
	return wait->deadline != 0 && GetCurrentTimestamp() >= wait->deadline;
}

static bool
has_outer_item(RemoteConnection *conn, int nest_level)
{
	dlist_iter	iter;

	dlist_foreach(iter, &conn->queue)
	{
		if (dlist_container(QueueItem, node, iter.cur)->nest_level < nest_level)
			return true;
	}
	return false;
}

/*
 * Statements of an outer level of the local transaction are still wanted: take in
 * their rows.  What is newer belongs to nobody any more.
 */
static bool
rescue_outer_statements(RemoteConnection *conn, int nest_level, const RemoteWait *wait)
{
	while (has_outer_item(conn, nest_level))
	{
		RemoteStep	step = remote_step(conn, NULL, wait);

		if (step == STEP_BROKEN || step == STEP_BUSY)
			return false;
	}
	return true;
}

static void
disown_statements(RemoteConnection *conn)
{
	dlist_iter	iter;

	dlist_foreach(iter, &conn->queue)
	{
		QueueItem  *item = dlist_container(QueueItem, node, iter.cur);

		if (item->statement)
		{
			item->statement->item = NULL;
			item->statement->disowned = true;
		}
		item->statement = NULL;
	}
}

/* As cancel_queue; a COPY that still waits for data is told to fail. */
static bool
cancel_copy(RemoteConnection *conn, const RemoteWait *wait)
{
	RemoteWait	patience = shorter_wait(wait, CANCEL_PATIENCE_MS);

	while (!remote_copy_leave(conn, &patience, true))
	{
		if (conn->pg == NULL || is_over(wait))
			return false;
		request_cancel(conn, wait);
		patience = shorter_wait(wait, CANCEL_REPEAT_MS);
	}
	return true;
}

static bool
cancel_queue(RemoteConnection *conn, const RemoteWait *wait)
{
	RemoteWait	patience = shorter_wait(wait, CANCEL_PATIENCE_MS);

	disown_statements(conn);
	for (;;)
	{
		switch (remote_drain(conn, &patience))
		{
			case STEP_EMPTY:
				return true;
			case STEP_BROKEN:
				return false;
			default:
				break;
		}
		if (is_over(wait))
			return false;
		request_cancel(conn, wait);
		patience = shorter_wait(wait, CANCEL_REPEAT_MS);
	}
}

static bool
do_cancel(RemoteConnection *conn, int nest_level, int timeout_ms)
{
	RemoteWait	wait = remote_wait_quiet(timeout_ms);

	if (conn->pg == NULL)
		return false;
	if (conn->mode != MODE_PIPELINE && !cancel_copy(conn, &wait))
		return false;
	if (!rescue_outer_statements(conn, nest_level, &wait))
		return false;
	return cancel_queue(conn, &wait);
}

/* Run it; false if it throws.  Nothing is served or thrown meanwhile. */
static bool
quietly(bool (*function) (void *arg), void *arg)
{
	MemoryContext old = CurrentMemoryContext;
	uint32		holdoff = InterruptHoldoffCount;
	volatile bool result = false;

	HOLD_INTERRUPTS();
	PG_TRY();
	{
		result = function(arg);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		FlushErrorState();
		InterruptHoldoffCount = holdoff + 1;	/* the error had set it to 0 */
		result = false;
	}
	PG_END_TRY();
	RESUME_INTERRUPTS();
	return result;
}

typedef struct CancelArgs
{
	RemoteConnection *conn;
	int			nest_level;
	int			timeout_ms;
} CancelArgs;

static bool
cancel_quietly(void *arg)
{
	CancelArgs *args = arg;

	return do_cancel(args->conn, args->nest_level, args->timeout_ms);
}

bool
dbscale_remote_cancel(RemoteConnection *conn, int nest_level, int timeout_ms)
{
	CancelArgs	args = {conn, nest_level, timeout_ms};

	if (!quietly(cancel_quietly, &args))
	{
		dbscale_remote_mark_broken(conn);
		return false;
	}
	dbscale_remote_forget_errors(conn);
	conn->settings_known = false;
	return true;
}

void
dbscale_remote_forget_errors(RemoteConnection *conn)
{
	remote_error_free(conn->pending_error);
	conn->pending_error = NULL;
	conn->failed_statement = NULL;
}

static bool
pump_quietly(void *arg)
{
	remote_pump(arg);
	return true;
}

bool
dbscale_remote_is_idle(RemoteConnection *conn)
{
	if (conn->pg && conn->mode == MODE_PIPELINE && !remote_is_idle(conn) &&
		!quietly(pump_quietly, conn))
		dbscale_remote_mark_broken(conn);
	return conn->mode == MODE_PIPELINE && remote_is_idle(conn);
}

void
dbscale_remote_request_cancel(RemoteConnection *conn)
{
	RemoteWait	wait = remote_wait_quiet(CANCEL_REPEAT_MS);

	if (conn->pg)
		request_cancel(conn, &wait);
}

typedef struct DoneArgs
{
	RemoteStatement *stmt;
	int			timeout_ms;
} DoneArgs;

static bool
wait_done(void *arg)
{
	DoneArgs   *args = arg;
	RemoteWait	wait = remote_wait_quiet(args->timeout_ms);

	while (args->stmt->item != NULL)
	{
		if (remote_step(args->stmt->conn, NULL, &wait) == STEP_BUSY)
			return false;
	}
	return true;
}

bool
dbscale_remote_wait_done(RemoteStatement *stmt, int timeout_ms)
{
	DoneArgs	args = {stmt, timeout_ms};

	return quietly(wait_done, &args);
}

typedef struct IdleArgs
{
	RemoteConnection *conn;
	int			timeout_ms;
} IdleArgs;

static bool
wait_idle(void *arg)
{
	IdleArgs   *args = arg;
	RemoteWait	wait = remote_wait_quiet(args->timeout_ms);

	return remote_drain(args->conn, &wait) != STEP_BUSY;
}

bool
dbscale_remote_wait_idle(RemoteConnection *conn, int timeout_ms)
{
	IdleArgs	args = {conn, timeout_ms};

	return quietly(wait_idle, &args);
}

bool
dbscale_remote_has_failed(const RemoteStatement *stmt)
{
	return stmt->error != NULL;
}

void
dbscale_remote_lower_level(RemoteConnection *conn, int nest_level)
{
	dlist_iter	iter;

	dlist_foreach(iter, &conn->queue)
	{
		QueueItem  *item = dlist_container(QueueItem, node, iter.cur);

		item->nest_level = Min(item->nest_level, nest_level - 1);
	}
}

/* ---- commands that must not throw ---- */

typedef struct CommandArgs
{
	List	   *conns;
	List	   *commands;
	int			timeout_ms;
	CommandOutcome *outcomes;
} CommandArgs;

/* The command in a group of its own, after whatever was queued in one of theirs. */
static bool
start_command(RemoteConnection *conn, const char *command, CommandOutcome *outcome)
{
	static CommandOutcome ignored;

	if (conn->pg == NULL || conn->mode != MODE_PIPELINE)
		return false;
	if (conn->commands != NIL && (!remote_send_commands(conn, &ignored) || !remote_send_sync(conn)))
		return false;
	return remote_send_command(conn, command, outcome) && remote_send_sync(conn) &&
		PQflush(conn->pg) >= 0;
}

static bool
run_commands(void *arg)
{
	CommandArgs *args = arg;
	RemoteWait	wait = remote_wait_quiet(args->timeout_ms);
	ListCell   *lc,
			   *lc2;
	int			i = 0;

	forboth(lc, args->conns, lc2, args->commands)
	{
		if (!start_command(lfirst(lc), lfirst(lc2), &args->outcomes[i++]))
			dbscale_remote_mark_broken(lfirst(lc));
	}
	foreach(lc, args->conns)
		(void) remote_drain(lfirst(lc), &wait);
	return true;
}

/* Did it do what it says?  COMMIT of an aborted transaction rolls back, and says so. */
static bool
command_succeeded(const CommandOutcome *outcome, const char *command)
{
	if (!outcome->done || outcome->failed)
		return false;
	return outcome->sqlstate == 0 || strncmp(command, "ROLLBACK", 8) == 0;
}

/*
 * One command on each connection, all at the same time.  A connection that does
 * not answer in time is marked broken.  `sqlstates` (may be NULL) tells why a
 * command failed.
 */
bool
dbscale_remote_try_commands(List *conns, List *commands, int timeout_ms,
							bool *succeeded, int *sqlstates)
{
	int			count = list_length(conns);
	CommandOutcome *outcomes = palloc0(Max(count, 1) * sizeof(CommandOutcome));
	CommandArgs args = {conns, commands, timeout_ms, outcomes};
	bool		all = quietly(run_commands, &args);

	for (int i = 0; i < count; i++)
	{
		RemoteConnection *conn = list_nth(conns, i);
		bool		ok = command_succeeded(&outcomes[i], list_nth(commands, i));

		if (!outcomes[i].done || !remote_is_idle(conn))
			dbscale_remote_mark_broken(conn);
		if (succeeded)
			succeeded[i] = ok;
		if (sqlstates)
			sqlstates[i] = outcomes[i].done ? outcomes[i].sqlstate : ERRCODE_CONNECTION_FAILURE;
		all = all && ok;
	}
	pfree(outcomes);
	return all;
}
