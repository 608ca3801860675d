/*
 * copy.c
 *		COPY to a node.
 *
 * libpq has no COPY in pipeline mode, so the connection leaves it: what is in
 * flight is taken in first (statements that are still wanted keep their rows in
 * tuplestores), then the queued commands and the COPY go as one simple query, one
 * round trip.  Data is given to the socket as far as it takes it; only beyond
 * MAX_UNFLUSHED do we wait, so that several nodes are fed at the same time.  The
 * end is not waited for: whoever uses the connection next collects the result,
 * returns to pipeline mode and raises the error, if there was one.
 */
#include "remote/internal.h"

#include "lib/stringinfo.h"
#include "utils/memutils.h"

#define FLUSH_SIZE (64 * 1024)
#define MAX_UNFLUSHED (1024 * 1024)

/* The queued commands and the COPY, in one string. */
static char *
copy_query(RemoteConnection *conn, const char *sql)
{
	StringInfoData buf;
	char	   *settings = remote_session_changes(conn);

	initStringInfo(&buf);
	if (settings)
		appendStringInfo(&buf, "%s; ", settings);
	while (conn->commands != NIL)
	{
		char	   *command = linitial(conn->commands);

		appendStringInfo(&buf, "%s; ", command);
		conn->commands = list_delete_first(conn->commands);
		pfree(command);
	}
	appendStringInfoString(&buf, sql);
	return buf.data;
}

static void
lose_and_raise(RemoteConnection *conn)
{
	char	   *label = conn->copy_label ? pstrdup(conn->copy_label) : NULL;

	if (conn->pg)
		remote_lose(conn, PQerrorMessage(conn->pg));
	remote_raise(conn, remote_error_lost(conn, label));
}

/* An error of the node during COPY becomes the connection's pending error. */
static bool
copy_error(RemoteConnection *conn, PGresult *result)
{
	if (PQstatus(conn->pg) != CONNECTION_OK)
	{
		remote_lose(conn, PQresultErrorMessage(result));
		return false;
	}
	conn->settings_known = false;
	if (conn->pending_error == NULL)
		conn->pending_error = remote_error_take(conn, result, conn->copy_label);
	return true;
}

static bool
wait_not_busy(RemoteConnection *conn, const RemoteWait *wait)
{
	while (PQisBusy(conn->pg))
	{
		if (!remote_wait_input(conn, wait))
			return false;
	}
	return true;
}

static bool
put_copy_end(RemoteConnection *conn, const char *error, const RemoteWait *wait)
{
	int			rc;

	while ((rc = PQputCopyEnd(conn->pg, error)) == 0)
	{
		if (!remote_flush(conn, wait))
			return false;
	}
	return rc > 0;
}

/*
 * Collect the result of a COPY and go back to pipeline mode.  With `give_up` a COPY
 * that still waits for data is made to fail.  False when the wait was in vain.
 */
bool
remote_copy_leave(RemoteConnection *conn, const RemoteWait *wait, bool give_up)
{
	for (;;)
	{
		if (!wait_not_busy(conn, wait))
			return false;
		PQclear(conn->result);
		conn->result = PQgetResult(conn->pg);
		if (conn->result == NULL)
			break;
		if (PQresultStatus(conn->result) == PGRES_COPY_IN)
		{
			if (!give_up)
				elog(ERROR, "COPY to node \"%s\" has not been ended", NameStr(conn->node_name));
			if (!put_copy_end(conn, "canceled", wait))
				return false;
		}
		else if (PQresultStatus(conn->result) == PGRES_FATAL_ERROR &&
				 !copy_error(conn, conn->result))
			return false;
	}
	conn->mode = MODE_PIPELINE;
	if (conn->copy_label)
		pfree(conn->copy_label);
	conn->copy_label = NULL;
	if (!PQenterPipelineMode(conn->pg))
	{
		remote_lose(conn, PQerrorMessage(conn->pg));
		return false;
	}
	return true;
}

/* Take in what the node has said to the COPY; its refusal is raised. */
static void
read_consent(RemoteConnection *conn, const RemoteWait *wait)
{
	PQclear(conn->result);
	conn->result = PQgetResult(conn->pg);
	if (conn->result == NULL)
	{
		(void) remote_copy_leave(conn, wait, true);
		elog(ERROR, "not a COPY FROM STDIN");
	}
	switch (PQresultStatus(conn->result))
	{
		case PGRES_COPY_IN:
			conn->mode = MODE_COPY;
			break;
		case PGRES_FATAL_ERROR:
			if (!copy_error(conn, conn->result) ||
				!remote_copy_leave(conn, wait, true))
				lose_and_raise(conn);
			remote_raise_pending(conn);
			break;
		default:
			break;
	}
}

void
dbscale_remote_copy_start(RemoteConnection *conn, const char *sql, const char *label)
{
	RemoteWait	wait = remote_wait_throwing();
	char	   *query;

	remote_require_usable(conn);
	if (remote_drain(conn, &wait) != STEP_EMPTY)
		lose_and_raise(conn);
	remote_raise_pending(conn);

	query = copy_query(conn, sql);
	conn->copy_label = label ? MemoryContextStrdup(conn->context, label) : NULL;
	conn->copy_unflushed = 0;
	if (!PQexitPipelineMode(conn->pg))
		lose_and_raise(conn);
	conn->mode = MODE_COPY_START;
	if (!PQsendQuery(conn->pg, query) || PQflush(conn->pg) < 0)
		lose_and_raise(conn);
	pfree(query);
}

bool
dbscale_remote_copy_ready(RemoteConnection *conn)
{
	RemoteWait	wait = remote_wait_throwing();

	if (conn->pg == NULL)
		lose_and_raise(conn);
	if (conn->mode == MODE_COPY_START && (PQflush(conn->pg) < 0 || !PQconsumeInput(conn->pg)))
		lose_and_raise(conn);
	while (conn->mode == MODE_COPY_START && !PQisBusy(conn->pg))
		read_consent(conn, &wait);
	if (conn->mode != MODE_COPY_START && conn->mode != MODE_COPY)
		elog(ERROR, "no COPY to node \"%s\" is under way", NameStr(conn->node_name));
	return conn->mode == MODE_COPY;
}

void
dbscale_remote_copy_begin(RemoteConnection *conn, const char *sql, const char *label)
{
	RemoteWait	wait = remote_wait_throwing();

	dbscale_remote_copy_start(conn, sql, label);
	while (!dbscale_remote_copy_ready(conn))
	{
		if (!wait_not_busy(conn, &wait))
			lose_and_raise(conn);
	}
}

void
dbscale_remote_copy_data(RemoteConnection *conn, const char *data, int length)
{
	RemoteWait	wait = remote_wait_throwing();
	int			rc;

	if (conn->pg == NULL)
		lose_and_raise(conn);
	if (conn->mode != MODE_COPY)
		elog(ERROR, "no COPY to node \"%s\" is under way", NameStr(conn->node_name));
	while ((rc = PQputCopyData(conn->pg, data, length)) == 0)
	{
		if (!remote_flush(conn, &wait))
			lose_and_raise(conn);
	}
	if (rc < 0)
		lose_and_raise(conn);
	conn->copy_unflushed += length;
	if (conn->copy_unflushed < FLUSH_SIZE)
		return;
	rc = PQflush(conn->pg);
	if (rc < 0)
		lose_and_raise(conn);
	if (rc > 0 && conn->copy_unflushed < MAX_UNFLUSHED)
		return;
	if (rc > 0 && !remote_flush(conn, &wait))
		lose_and_raise(conn);
	conn->copy_unflushed = 0;
}

void
dbscale_remote_copy_end(RemoteConnection *conn)
{
	RemoteWait	wait = remote_wait_throwing();

	if (conn->pg == NULL)
		lose_and_raise(conn);
	if (conn->mode != MODE_COPY)
		elog(ERROR, "no COPY to node \"%s\" is under way", NameStr(conn->node_name));
	if (!put_copy_end(conn, NULL, &wait))
		lose_and_raise(conn);
	conn->mode = MODE_COPY_END;
	if (PQflush(conn->pg) < 0)
		lose_and_raise(conn);
}

bool
dbscale_remote_copy_busy(RemoteConnection *conn)
{
	if (conn->pg == NULL || conn->mode != MODE_COPY_END)
		return false;
	/* whatever is wrong with the connection, its next use tells */
	if (PQflush(conn->pg) < 0 || !PQconsumeInput(conn->pg))
		return false;
	return PQisBusy(conn->pg);
}

void
dbscale_remote_copy_wait_any(List *conns)
{
	ListCell   *lc;

	/* what is broken, or has been read already, is not to be waited for */
	foreach(lc, conns)
	{
		RemoteConnection *conn = lfirst(lc);

		if (conn->pg == NULL || PQstatus(conn->pg) != CONNECTION_OK ||
			conn->mode == MODE_PIPELINE || !PQisBusy(conn->pg))
			return;
	}
	remote_wait_any(conns);
}
