/*
 * queue.c
 *		The queue of a connection: what has been sent, in order, and taking in the
 *		results in the same order.
 *
 * Nouns: an *item* is one libpq command in flight (a statement, the Parse of a
 * prepared statement, a command whose result nobody reads, or a sync); a *group*
 * is the items up to and including a sync.  A node that meets an error skips to the
 * end of the group, so the first error of a group is the error of all that follow
 * in it: BEGIN's failure is what the statement that travelled with it reports.
 *
 * One *step* takes one result of the head item.  Rows for the reader (the statement
 * that next_row is called for) are handed over as they are; rows for others go to
 * the tuplestore of their statement; rows for nobody are dropped.  An error goes to
 * the statement; if the statement is gone, it is kept as the connection's pending
 * error where a remote transaction is open (which it has aborted), else forgotten.
 *
 * Example: BEGIN, "SELECT a" and a sync are sent, then "SELECT b" and a sync.
 * next_row(b) steps through BEGIN, a (rows to a's tuplestore), the sync, and then
 * returns b's first row; next_row(a) later reads the tuplestore.
 */
#include "remote/internal.h"

#include "access/xact.h"
#include "utils/memutils.h"

/* Sent: the caller has just given the command to libpq. */
QueueItem *
remote_push(RemoteConnection *conn, QueueKind kind, RemoteStatement *stmt)
{
	QueueItem  *item = MemoryContextAllocZero(conn->context, sizeof(QueueItem));

	item->kind = kind;
	item->statement = stmt;
	item->nest_level = GetCurrentTransactionNestLevel();
	if (stmt)
		stmt->item = item;
	dlist_push_tail(&conn->queue, &item->node);
	return item;
}

static void
pop_item(RemoteConnection *conn, QueueItem *item)
{
	if (item->statement)
		item->statement->item = NULL;
	if (item->outcome)
		item->outcome->done = true;
	dlist_delete(&item->node);
	pfree(item);
}

bool
remote_is_idle(const RemoteConnection *conn)
{
	return dlist_is_empty((dlist_head *) &conn->queue);
}

/* An item has failed, by its own error or by that of its group. */
static void
fail_item(RemoteConnection *conn, QueueItem *item, const RemoteError *error)
{
	conn->settings_known = false;	/* a SET may have been rolled back with it */
	if (item->prepared_id)
		remote_prepared_failed(conn, item->prepared_id, error);
	if (item->outcome)
	{
		item->outcome->failed = true;
		item->outcome->sqlstate = error->sqlstate;
		conn->group_error_seen = true;
	}
	else if (item->statement)
	{
		RemoteStatement *stmt = item->statement;

		stmt->error = remote_error_copy(error, stmt->context);
		if (stmt->label)
			stmt->error->label = stmt->label;
		if (conn->failed_statement == NULL)
			conn->failed_statement = stmt;
		conn->group_error_seen = true;
	}
	else if (error->sqlstate == ERRCODE_IN_FAILED_SQL_TRANSACTION ||
			 (item->kind == QUEUE_STATEMENT && !conn->in_transaction))
		conn->group_error_seen = true;	/* an after-effect, or discarded and it undid nothing */
}

static void
end_group(RemoteConnection *conn)
{
	if (conn->group_error && !conn->group_error_seen && conn->pending_error == NULL)
		conn->pending_error = conn->group_error;
	else
		remote_error_free(conn->group_error);
	conn->group_error = NULL;
	conn->group_error_seen = false;
}

/* COMMIT and PREPARE TRANSACTION of an aborted transaction "succeed" with this tag. */
static bool
is_rollback_instead(const PGresult *result, const QueueItem *item)
{
	return item->outcome && strcmp(PQcmdStatus((PGresult *) result), "ROLLBACK") == 0;
}

/*
 * The command's tag.  In libpq's chunked mode it is on the last chunk when that was
 * not full, and not on the empty result that ends the rows.
 */
static void
note_tag(RemoteStatement *stmt, PGresult *result)
{
	if (stmt == NULL || PQcmdStatus(result)[0] == '\0')
		return;
	stmt->count = strtou64(PQcmdTuples(result), NULL, 10);
	strlcpy(stmt->tag, PQcmdStatus(result), sizeof(stmt->tag));
}

static void
complete_item(RemoteConnection *conn, QueueItem *item, PGresult *result)
{
	RemoteStatement *stmt = item->statement;

	if (item->kind == QUEUE_PREPARE)
		remote_prepared_confirm(conn, item->prepared_id);
	if (item->outcome && is_rollback_instead(result, item))
		item->outcome->sqlstate = ERRCODE_IN_FAILED_SQL_TRANSACTION;
	note_tag(stmt, result);
}

/* Keep or hand over the rows in conn->result; true when the reader has got some. */
static bool
take_rows(RemoteConnection *conn, QueueItem *item, RemoteStatement *reader)
{
	RemoteStatement *stmt = item->statement;

	if (stmt == NULL || PQntuples(conn->result) == 0 ||
		(stmt->drop_rows && !(stmt->flags & REMOTE_KEEP_ROWS)))
		return false;
	if (stmt == reader && stmt->stored == stmt->consumed && !(stmt->flags & REMOTE_KEEP_ROWS))
	{
		stmt->result = conn->result;
		stmt->result_row = 0;
		conn->result = NULL;
		return true;
	}
	remote_statement_rows(stmt, conn->result);
	return stmt == reader;
}

/* The node's own FATAL, or libpq's complaint. */
static bool
result_is_fatal(RemoteConnection *conn)
{
	const char *severity = PQresultErrorField(conn->result, PG_DIAG_SEVERITY_NONLOCALIZED);

	if (PQstatus(conn->pg) != CONNECTION_OK)
		return true;
	return severity && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0);
}

static RemoteStep
take_error(RemoteConnection *conn, QueueItem *item)
{
	const char *label = item->statement ? item->statement->label : NULL;

	if (result_is_fatal(conn))
	{
		remote_lose(conn, PQresultErrorMessage(conn->result));
		return STEP_BROKEN;
	}
	if (conn->group_error == NULL)
		conn->group_error = remote_error_take(conn, conn->result, label);
	fail_item(conn, item, conn->group_error);
	return STEP_DONE;
}

/*
 * All of the item's results are here.  After an error of the group's own commit, such as
 * a deferred constraint's, its sync is still to come.
 */
static RemoteStep
end_item(RemoteConnection *conn, QueueItem *item)
{
	if (item->kind == QUEUE_SYNC && !item->ended)
	{
		item->ended = true;
		return STEP_DONE;
	}
	if (item->kind == QUEUE_SYNC)
	{
		remote_lose(conn, "The node did not end a group of statements.");
		return STEP_BROKEN;
	}
	pop_item(conn, item);
	return STEP_DONE;
}

static RemoteStep
take_result(RemoteConnection *conn, QueueItem *item, RemoteStatement *reader)
{
	if (conn->result == NULL)
		return end_item(conn, item);
	switch (PQresultStatus(conn->result))
	{
		case PGRES_TUPLES_OK:
			complete_item(conn, item, conn->result);
			return take_rows(conn, item, reader) ? STEP_ROWS : STEP_DONE;
#ifdef LIBPQ_HAS_CHUNK_MODE
		case PGRES_TUPLES_CHUNK:
			note_tag(item->statement, conn->result);
			return take_rows(conn, item, reader) ? STEP_ROWS : STEP_DONE;
#endif
		case PGRES_SINGLE_TUPLE:
			return take_rows(conn, item, reader) ? STEP_ROWS : STEP_DONE;
		case PGRES_COMMAND_OK:
		case PGRES_EMPTY_QUERY:
			complete_item(conn, item, conn->result);
			return STEP_DONE;
		case PGRES_PIPELINE_SYNC:
			end_group(conn);
			pop_item(conn, item);
			return STEP_DONE;
		case PGRES_PIPELINE_ABORTED:
			if (conn->group_error)
				fail_item(conn, item, conn->group_error);
			return STEP_DONE;
		case PGRES_COPY_IN:
		case PGRES_COPY_OUT:
		case PGRES_COPY_BOTH:
			remote_lose(conn, "COPY cannot be run in this way.");
			return STEP_BROKEN;
		default:
			return take_error(conn, item);
	}
}

/* Rows of a statement come as they arrive, not when all are there. */
static void
start_item(RemoteConnection *conn, QueueItem *item)
{
	item->started = true;
	if (item->kind != QUEUE_STATEMENT)
		return;
#ifdef LIBPQ_HAS_CHUNK_MODE
	(void) PQsetChunkedRowsMode(conn->pg, 64);
#else
	(void) PQsetSingleRowMode(conn->pg);
#endif
}

/*
 * Take in the next result, waiting for it if `wait` is given.  Throws only what
 * keeping rows may throw (and interrupts, if wait says so).
 */
RemoteStep
remote_step(RemoteConnection *conn, RemoteStatement *reader, const RemoteWait *wait)
{
	QueueItem  *item;

	if (conn->pg == NULL)
		return STEP_BROKEN;
	if (remote_is_idle(conn))
		return STEP_EMPTY;
	item = dlist_head_element(QueueItem, node, &conn->queue);
	if (!item->started)
		start_item(conn, item);
	while (PQisBusy(conn->pg))
	{
		if (wait == NULL)
			return STEP_BUSY;
		if (!remote_wait_input(conn, wait))
			return conn->pg ? STEP_BUSY : STEP_BROKEN;
	}
	PQclear(conn->result);
	conn->result = PQgetResult(conn->pg);
	return take_result(conn, item, reader);
}

/* Take in everything that is in flight: STEP_EMPTY, STEP_BUSY (timeout) or STEP_BROKEN. */
RemoteStep
remote_drain(RemoteConnection *conn, const RemoteWait *wait)
{
	RemoteStep	step;

	do
		step = remote_step(conn, NULL, wait);
	while (step == STEP_DONE || step == STEP_ROWS);
	return step;
}

/* Take in what has arrived, without waiting. */
void
remote_pump(RemoteConnection *conn)
{
	(void) remote_drain(conn, NULL);
}

bool
remote_send_sync(RemoteConnection *conn)
{
	if (!PQpipelineSync(conn->pg))
		return false;
	remote_push(conn, QUEUE_SYNC, NULL);
	return true;
}

bool
remote_send_command(RemoteConnection *conn, const char *sql, CommandOutcome *outcome)
{
	if (!PQsendQueryParams(conn->pg, sql, 0, NULL, NULL, NULL, NULL, 0))
		return false;
	remote_push(conn, QUEUE_COMMAND, NULL)->outcome = outcome;
	return true;
}

/* Give libpq what dbscale_remote_queue_command has collected; all have this outcome. */
bool
remote_send_commands(RemoteConnection *conn, CommandOutcome *outcome)
{
	while (conn->commands != NIL)
	{
		char	   *sql = linitial(conn->commands);

		if (!remote_send_command(conn, sql, outcome))
			return false;
		conn->commands = list_delete_first(conn->commands);
		pfree(sql);
	}
	return true;
}
