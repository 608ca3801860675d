/*
 * replication.c
 *		Sessions apart: replication, and locks or snapshots held aside.
 *
 * A RemoteStream is a RemoteConnection that is not in the cache, so that making one,
 * its errors and its waits are those of every connection: server options, user
 * mapping and the rule about passwords are the same.  It is not in pipeline mode,
 * which has neither COPY nor replication, and runs simple queries one at a time.
 *
 * With `replication` the node gives it a walsender that is connected to the
 * database.  Such a session takes SQL as well as replication commands, so one
 * session can create a slot, read under the slot's snapshot and then stream from it.
 *
 * Its memory is a context below the caller's.  When that goes, by an error too, the
 * connection is closed, and with it ends everything that the node kept for it:
 * temporary slots, locks, transactions.
 */
#include "remote/internal.h"

#include "storage/fd.h"
#include "utils/memutils.h"

struct RemoteStream
{
	RemoteConnection conn;
	MemoryContext memory;
	MemoryContextCallback at_end;
	char	   *copied;			/* libpq's buffer of the last row or message */
};

/* What the text of values, and their meaning, depends on. */
static const char stream_settings[] =
"SET search_path = pg_catalog; SET IntervalStyle = postgres; SET DateStyle = 'ISO, MDY'; "
"SET TimeZone = 'UTC'; SET extra_float_digits = 3; SET bytea_output = hex; "
"SET standard_conforming_strings = on; SET client_min_messages = error; "
"SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; "
"SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off; "
"SET jit = off";

/*
 * The children of the context, what libpq does not own, are gone already.  A node that is
 * still busy (waiting to create a slot, say) would not notice that nobody is there any more.
 */
static void
close_stream(void *arg)
{
	RemoteStream *stream = arg;

	if (stream->conn.pg && PQtransactionStatus(stream->conn.pg) == PQTRANS_ACTIVE)
		dbscale_remote_request_cancel(&stream->conn);

	if (stream->copied)
		PQfreemem(stream->copied);
	stream->copied = NULL;
	if (stream->conn.pg == NULL)
		return;
	remote_forget_wait_set(&stream->conn);
	PQclear(stream->conn.result);
	PQfinish(stream->conn.pg);
	ReleaseExternalFD();
	stream->conn.pg = NULL;
}

RemoteStream *
dbscale_stream_open(Oid serverid, Oid userid, bool replication)
{
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext, "dbscale stream",
												 ALLOCSET_SMALL_SIZES);
	RemoteStream *stream = MemoryContextAllocZero(memory, sizeof(RemoteStream));

	stream->memory = memory;
	stream->conn.context = AllocSetContextCreate(memory, "dbscale stream connection",
												 ALLOCSET_SMALL_SIZES);
	stream->conn.replication = replication;
	stream->at_end.func = close_stream;
	stream->at_end.arg = stream;
	MemoryContextRegisterResetCallback(memory, &stream->at_end);
	remote_connect_apart(&stream->conn, serverid, userid);
	dbscale_stream_send(stream, stream_settings);
	(void) dbscale_stream_rows(stream);
	if (PQserverVersion(stream->conn.pg) >= 170000)
		(void) dbscale_stream_value(stream, "SET transaction_timeout = 0");
	return stream;
}

void
dbscale_stream_close(RemoteStream *stream)
{
	MemoryContextDelete(stream->memory);
}

const char *
dbscale_stream_node_name(const RemoteStream *stream)
{
	return NameStr(stream->conn.node_name);
}

pg_noreturn static void
raise_lost(RemoteStream *stream)
{
	if (stream->conn.pg)
		remote_lose(&stream->conn, PQerrorMessage(stream->conn.pg));
	remote_raise(&stream->conn, remote_error_lost(&stream->conn, NULL));
}

static void
require_open(RemoteStream *stream)
{
	if (stream->conn.pg == NULL)
		raise_lost(stream);
}

static void
flush(RemoteStream *stream)
{
	RemoteWait	wait = remote_wait_throwing();

	for (;;)
	{
		int			unsent = PQflush(stream->conn.pg);

		if (unsent == 0)
			return;
		if (unsent < 0 || !remote_wait_input(&stream->conn, &wait))
			raise_lost(stream);
	}
}

void
dbscale_stream_send(RemoteStream *stream, const char *sql)
{
	require_open(stream);
	if (!PQsendQuery(stream->conn.pg, sql))
		raise_lost(stream);
	flush(stream);
}

bool
dbscale_stream_is_done(RemoteStream *stream)
{
	require_open(stream);
	if (PQflush(stream->conn.pg) < 0 || !PQconsumeInput(stream->conn.pg))
		raise_lost(stream);
	return !PQisBusy(stream->conn.pg);
}

/* The next result of the query, or NULL; kept in conn.result, and freed with the next. */
static PGresult *
next_result(RemoteStream *stream)
{
	RemoteWait	wait = remote_wait_throwing();

	require_open(stream);
	while (PQisBusy(stream->conn.pg))
	{
		if (!remote_wait_input(&stream->conn, &wait))
			raise_lost(stream);
	}
	PQclear(stream->conn.result);
	stream->conn.result = PQgetResult(stream->conn.pg);
	return stream->conn.result;
}

/* The error is raised when the node is done with the query. */
static RemoteError *
take_error(RemoteStream *stream, PGresult *result, RemoteError *error)
{
	if (PQstatus(stream->conn.pg) != CONNECTION_OK)
	{
		remote_lose(&stream->conn, PQresultErrorMessage(result));
		raise_lost(stream);
	}
	return error ? error : remote_error_take(&stream->conn, result, NULL);
}

static List *
rows_of(PGresult *result)
{
	List	   *rows = NIL;
	int			columns = PQnfields(result);

	for (int i = 0; i < PQntuples(result); i++)
	{
		char	  **row = palloc0(sizeof(char *) * Max(columns, 1));

		for (int k = 0; k < columns; k++)
			if (!PQgetisnull(result, i, k))
				row[k] = pstrdup(PQgetvalue(result, i, k));
		rows = lappend(rows, row);
	}
	return rows;
}

List *
dbscale_stream_rows(RemoteStream *stream)
{
	List	   *rows = NIL;
	RemoteError *error = NULL;
	PGresult   *result;

	while ((result = next_result(stream)) != NULL)
	{
		switch (PQresultStatus(result))
		{
			case PGRES_TUPLES_OK:
				rows = rows_of(result);
				break;
			case PGRES_FATAL_ERROR:
				error = take_error(stream, result, error);
				break;
			default:
				break;
		}
	}
	if (error)
		remote_raise(&stream->conn, error);
	return rows;
}

char *
dbscale_stream_value(RemoteStream *stream, const char *sql)
{
	List	   *rows;

	dbscale_stream_send(stream, sql);
	rows = dbscale_stream_rows(stream);
	return rows == NIL ? NULL : ((char **) linitial(rows))[0];
}

/* The query's first result must be of this kind, or it has failed. */
static void
expect(RemoteStream *stream, ExecStatusType status)
{
	PGresult   *result = next_result(stream);

	if (result != NULL && PQresultStatus(result) == status)
		return;
	if (result != NULL && PQresultStatus(result) == PGRES_FATAL_ERROR)
	{
		RemoteError *error = take_error(stream, result, NULL);

		while (next_result(stream) != NULL)
			;
		remote_raise(&stream->conn, error);
	}
	elog(ERROR, "unexpected answer of node \"%s\" to a COPY or replication command",
		 NameStr(stream->conn.node_name));
}

void
dbscale_stream_copy_out(RemoteStream *stream, const char *sql)
{
	dbscale_stream_send(stream, sql);
	expect(stream, PGRES_COPY_OUT);
}

void
dbscale_stream_start(RemoteStream *stream, const char *sql)
{
	dbscale_stream_send(stream, sql);
	expect(stream, PGRES_COPY_BOTH);
}

/* As PQgetCopyData, without waiting; never -2. */
static int
get_copied(RemoteStream *stream)
{
	int			length;

	if (stream->copied)
		PQfreemem(stream->copied);
	stream->copied = NULL;
	require_open(stream);
	length = PQgetCopyData(stream->conn.pg, &stream->copied, 1);
	if (length == -2)
		raise_lost(stream);
	return length;
}

bool
dbscale_stream_copy_row(RemoteStream *stream, const char **data, int *length)
{
	RemoteWait	wait = remote_wait_throwing();

	while ((*length = get_copied(stream)) == 0)
	{
		if (!remote_wait_input(&stream->conn, &wait))
			raise_lost(stream);
	}
	if (*length < 0)
	{
		(void) dbscale_stream_rows(stream);
		return false;
	}
	*data = stream->copied;
	return true;
}

/* The node ends a replication by itself only when it fails or shuts down. */
bool
dbscale_stream_message(RemoteStream *stream, const char **data, int *length)
{
	*length = get_copied(stream);
	if (*length == 0)
	{
		if (!PQconsumeInput(stream->conn.pg))
			raise_lost(stream);
		*length = get_copied(stream);
	}
	if (*length < 0)
	{
		(void) dbscale_stream_rows(stream);
		raise_lost(stream);
	}
	*data = stream->copied;
	return *length > 0;
}

void
dbscale_stream_put(RemoteStream *stream, const char *data, int length)
{
	int			rc;

	require_open(stream);
	while ((rc = PQputCopyData(stream->conn.pg, data, length)) == 0)
		flush(stream);
	if (rc < 0)
		raise_lost(stream);
	flush(stream);
}

void
dbscale_stream_wait(List *streams, long timeout)
{
	List	   *conns = NIL;
	ListCell   *lc;

	foreach(lc, streams)
	{
		RemoteStream *stream = lfirst(lc);

		require_open(stream);
		conns = lappend(conns, &stream->conn);
	}
	remote_wait_any_for(conns, timeout);
	list_free(conns);
}
