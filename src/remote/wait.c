/*
 * wait.c
 *		Waiting for a node: always on its socket and our latch together.
 *
 * Two ways of waiting.  A throwing wait serves interrupts and has no limit: the
 * user's cancel and timeouts end it.  A quiet wait is for the end of a transaction,
 * where nothing may be thrown: it serves no interrupt and has a deadline.
 *
 * While output is still to be sent we always read as well: a node that is blocked
 * sending us rows reads nothing, and we would wait for each other.
 */
#include "remote/internal.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

void		(*dbscale_remote_interrupt_hook) (void) = NULL;
bool		(*dbscale_remote_interrupt_pending_hook) (void) = NULL;

void
dbscale_remote_check_interrupts(void)
{
	if (dbscale_remote_interrupt_hook && InterruptHoldoffCount == 0)
		dbscale_remote_interrupt_hook();
	CHECK_FOR_INTERRUPTS();
}

bool
dbscale_remote_interrupt_is_pending(void)
{
	if (dbscale_remote_interrupt_pending_hook && dbscale_remote_interrupt_pending_hook())
		return true;
	return InterruptPending &&
		(QueryCancelPending || ProcDiePending || compat_transaction_timeout_is_pending());
}

RemoteWait
remote_wait_throwing(void)
{
	RemoteWait	wait = {true, 0};

	return wait;
}

/* timeout_ms < 0: no limit */
RemoteWait
remote_wait_quiet(int timeout_ms)
{
	RemoteWait	wait = {false, 0};

	if (timeout_ms >= 0)
		wait.deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	return wait;
}

/* Milliseconds up to the deadline, rounded up; -1: there is none. */
static long
time_left(const RemoteWait *wait)
{
	if (wait->deadline == 0)
		return -1;
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(), wait->deadline);
}

/* False when the deadline has passed. */
bool
remote_wait_socket(int socket, int events, const RemoteWait *wait)
{
	for (;;)
	{
		long		timeout = time_left(wait);
		int			what = events | WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;
		int			rc;

		if (timeout == 0)
			return false;
		if (timeout > 0)
			what |= WL_TIMEOUT;
		if (wait->throws)
			dbscale_remote_check_interrupts();
		rc = WaitLatchOrSocket(MyLatch, what, socket, timeout, PG_WAIT_EXTENSION);
		if (rc & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			if (wait->throws)
				dbscale_remote_check_interrupts();
		}
		if (rc & events)
			return true;
	}
}

/* In what order they are in a connection's set. */
#define SET_LATCH 0
#define SET_SOCKET 2

void
remote_forget_wait_set(RemoteConnection *conn)
{
	if (conn->wait_set != NULL)
		FreeWaitEventSet(conn->wait_set);
	conn->wait_set = NULL;
}

/* It is kept with the connection: to make one takes six system calls. */
static WaitEventSet *
wait_set_of(RemoteConnection *conn, int events)
{
	if (conn->wait_set == NULL)
	{
		WaitEventSet *set = compat_create_lasting_wait_event_set(3);

		AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
		AddWaitEventToSet(set, events, PQsocket(conn->pg), NULL, NULL);
		conn->wait_set = set;
	}
	else
		ModifyWaitEvent(conn->wait_set, SET_SOCKET, events, NULL);
	return conn->wait_set;
}

/* As remote_wait_socket. */
static bool
wait_for_connection(RemoteConnection *conn, int events, const RemoteWait *wait)
{
	for (;;)
	{
		long		timeout = time_left(wait);
		WaitEvent	event;

		if (timeout == 0)
			return false;
		if (wait->throws)
			dbscale_remote_check_interrupts();
		if (WaitEventSetWait(wait_set_of(conn, events), timeout, &event, 1, PG_WAIT_EXTENSION) == 0)
			continue;
		if (event.pos != SET_LATCH)
			return true;
		ResetLatch(MyLatch);
		if (wait->throws)
			dbscale_remote_check_interrupts();
	}
}

/*
 * Wait until something has come from the node, sending what is still to be sent.
 * False on timeout, and when the connection was lost.
 */
bool
remote_wait_input(RemoteConnection *conn, const RemoteWait *wait)
{
	int			unsent = PQflush(conn->pg);
	int			events = WL_SOCKET_READABLE;

	if (unsent > 0)
		events |= WL_SOCKET_WRITEABLE;
	if (unsent >= 0 && PQstatus(conn->pg) == CONNECTION_OK)
	{
		if (!wait_for_connection(conn, events, wait))
			return false;
		if (PQconsumeInput(conn->pg))
			return true;
	}

	/* What the node said before it closed the connection may have been read. */
	if (!PQisBusy(conn->pg) && !remote_is_idle(conn))
		return true;
	remote_lose(conn, PQerrorMessage(conn->pg));
	return false;
}

/* Send everything that libpq has buffered. */
bool
remote_flush(RemoteConnection *conn, const RemoteWait *wait)
{
	for (;;)
	{
		int			unsent = PQflush(conn->pg);

		if (unsent == 0)
			return true;
		if (unsent < 0 || PQstatus(conn->pg) != CONNECTION_OK)
		{
			remote_lose(conn, PQerrorMessage(conn->pg));
			return false;
		}
		if (!wait_for_connection(conn, WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE, wait))
			return false;
		if (!PQconsumeInput(conn->pg))
		{
			remote_lose(conn, PQerrorMessage(conn->pg));
			return false;
		}
		if (conn->mode == MODE_PIPELINE)
			remote_pump(conn);
		if (conn->pg == NULL)
			return false;
	}
}

static void
add_connections(WaitEventSet *set, List *conns)
{
	ListCell   *lc;

	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	foreach(lc, conns)
	{
		RemoteConnection *conn = lfirst(lc);
		uint32		events = WL_SOCKET_READABLE;

		if (PQflush(conn->pg) > 0)
			events |= WL_SOCKET_WRITEABLE;
		AddWaitEventToSet(set, events, PQsocket(conn->pg), NULL, NULL);
	}
}

/* All of them are connected: whatever happens on one of their sockets ends the wait. */
void
remote_wait_any(List *conns)
{
	remote_wait_any_for(conns, -1);
}

void
remote_wait_any_for(List *conns, long timeout)
{
	WaitEventSet *set = compat_create_wait_event_set(list_length(conns) + 2);
	WaitEvent	event;

	PG_TRY();
	{
		add_connections(set, conns);
		for (;;)
		{
			dbscale_remote_check_interrupts();
			if (WaitEventSetWait(set, timeout, &event, 1, PG_WAIT_EXTENSION) == 0 ||
				!(event.events & WL_LATCH_SET))
				break;
			ResetLatch(MyLatch);
		}
	}
	PG_FINALLY();
	{
		FreeWaitEventSet(set);
	}
	PG_END_TRY();
}
