/*
 * statement.c
 *		Statements: sent at once, read when their rows are wanted.
 *
 * A statement lives in a memory context of its own, below the caller's.  When that
 * is deleted, by dbscale_remote_close or by an error, the item in the connection's
 * queue stays (the node will answer it) but belongs to nobody.
 *
 * Its rows come, in order, from the tuplestore (rows that had to be taken in before
 * they were wanted, or are kept for rewind) and then from the results as they
 * arrive.  The tuplestore holds each field as the bytes that came, whatever its
 * type and format, with a zero byte at the end.
 */
#include "remote/internal.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* Time to let a result that nobody wants come to its end before it is cancelled. */
#define ABANDON_PATIENCE_MS 5
#define CANCEL_PATIENCE_MS 10000

/* Context callback: the statement's memory goes away. */
static void
detach_statement(void *arg)
{
	RemoteStatement *stmt = arg;

	PQclear(stmt->result);
	stmt->result = NULL;
	if (stmt->item)
		stmt->item->statement = NULL;
	if (stmt->conn->failed_statement == stmt)
		stmt->conn->failed_statement = NULL;

	/*
	 * After an abort the resource owner has closed the file already, and the
	 * tuplestore must not be touched.
	 */
	if (stmt->store && IsTransactionState())
		tuplestore_end(stmt->store);
	stmt->store = NULL;
}

static RemoteStatement *
new_statement(RemoteConnection *conn, int flags, const char *label)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "dbscale remote statement",
												  ALLOCSET_SMALL_SIZES);
	RemoteStatement *stmt = MemoryContextAllocZero(context, sizeof(RemoteStatement));

	stmt->conn = conn;
	stmt->context = context;
	stmt->owner = CurrentResourceOwner;
	stmt->flags = flags;
	stmt->label = label ? MemoryContextStrdup(context, label) : NULL;
	stmt->callback.func = detach_statement;
	stmt->callback.arg = stmt;
	MemoryContextRegisterResetCallback(context, &stmt->callback);
	return stmt;
}

/* The statement as a prepared one, its Parse ahead of it if need be. */
static bool
send_prepared(RemoteStatement *stmt, const char *sql, const RemoteParams *params)
{
	RemoteConnection *conn = stmt->conn;
	bool		found;
	PreparedStatement *p = remote_prepared_lookup(conn, sql, params, &found);
	char	   *name = remote_prepared_name(p->id);
	int			id = p->id;

	if (!found)
	{
		if (!PQsendPrepare(conn->pg, name, sql, p->ntypes, p->types))
			return false;
		remote_push(conn, QUEUE_PREPARE, NULL)->prepared_id = id;
	}
	if (!PQsendQueryPrepared(conn->pg, name, params ? params->count : 0,
							 params ? params->values : NULL,
							 params ? params->lengths : NULL,
							 params ? params->formats : NULL,
							 (stmt->flags & REMOTE_BINARY) ? 1 : 0))
		return false;
	remote_push(conn, QUEUE_STATEMENT, stmt)->prepared_id = id;
	return true;
}

static bool
send_plain(RemoteStatement *stmt, const char *sql, const RemoteParams *params)
{
	RemoteConnection *conn = stmt->conn;

	if (!PQsendQueryParams(conn->pg, sql, params ? params->count : 0,
						   params ? params->types : NULL,
						   params ? params->values : NULL,
						   params ? params->lengths : NULL,
						   params ? params->formats : NULL,
						   (stmt->flags & REMOTE_BINARY) ? 1 : 0))
		return false;
	remote_push(conn, QUEUE_STATEMENT, stmt);
	return true;
}

/* What goes ahead of a statement, in groups of its own. */
static bool
send_preliminaries(RemoteConnection *conn)
{
	char	   *settings = remote_session_changes(conn);

	if (settings)
	{
		bool		sent = remote_send_command(conn, settings, NULL) && remote_send_sync(conn);

		pfree(settings);
		if (!sent)
			return false;
	}
	return remote_prepared_deallocate(conn);
}

RemoteStatement *
dbscale_remote_send(RemoteConnection *conn, const char *sql, const RemoteParams *params,
					int flags, const char *label)
{
	RemoteStatement *stmt;
	RemoteWait	wait = remote_wait_throwing();
	bool		sent;

	remote_require_usable(conn);
	stmt = new_statement(conn, flags, label);
	sent = ((flags & REMOTE_CONTROL) || send_preliminaries(conn)) && remote_send_commands(conn, NULL);
	if (sent)
	{
		if ((flags & REMOTE_PREPARE) && dbscale_use_prepared_statements && conn->prepares)
			sent = send_prepared(stmt, sql, params);
		else
			sent = send_plain(stmt, sql, params);
	}
	sent = sent && remote_send_sync(conn);
	if (!sent)
		remote_lose(conn, PQerrorMessage(conn->pg));
	if (!sent || !remote_flush(conn, &wait))
		remote_raise(conn, remote_error_lost(conn, label));
	return stmt;
}

void
dbscale_remote_queue_command(RemoteConnection *conn, const char *sql)
{
	MemoryContext old;

	if (conn->pg == NULL)
		return;					/* its next use tells */
	old = MemoryContextSwitchTo(conn->context);
	conn->commands = lappend(conn->commands, pstrdup(sql));
	MemoryContextSwitchTo(old);
}

/* The arrays of a row, and the shape of the tuplestore. */
static void
set_fields(RemoteStatement *stmt, int nfields)
{
	stmt->nfields = nfields;
	stmt->values = MemoryContextAllocZero(stmt->context, Max(nfields, 1) * sizeof(char *));
	stmt->lengths = MemoryContextAllocZero(stmt->context, Max(nfields, 1) * sizeof(int));
}

static void
open_store(RemoteStatement *stmt)
{
	MemoryContext old = MemoryContextSwitchTo(stmt->context);
	ResourceOwner old_owner = CurrentResourceOwner;

	stmt->desc = CreateTemplateTupleDesc(stmt->nfields);
	for (int i = 0; i < stmt->nfields; i++)
		TupleDescInitBuiltinEntry(stmt->desc, i + 1, "f", TEXTOID, -1, 0);
	stmt->slot = MakeSingleTupleTableSlot(stmt->desc, &TTSOpsMinimalTuple);
	stmt->row_context = AllocSetContextCreate(stmt->context, "dbscale remote row",
											  ALLOCSET_DEFAULT_SIZES);
	/*
	 * From 18 on a tuplestore has a context of its own.  Below ours it would be gone
	 * before detach_statement ends the tuplestore.
	 */
	MemoryContextSwitchTo(TopTransactionContext);
	CurrentResourceOwner = stmt->owner;
	stmt->store = tuplestore_begin_heap((stmt->flags & REMOTE_KEEP_ROWS) != 0, false, work_mem);
	CurrentResourceOwner = old_owner;
	MemoryContextSwitchTo(old);
}

/* Append one row of a result to the tuplestore. */
static void
store_row(RemoteStatement *stmt, PGresult *result, int row)
{
	MemoryContext old = MemoryContextSwitchTo(stmt->row_context);
	Datum	   *values = palloc(Max(stmt->nfields, 1) * sizeof(Datum));
	bool	   *nulls = palloc(Max(stmt->nfields, 1) * sizeof(bool));

	for (int i = 0; i < stmt->nfields; i++)
	{
		nulls[i] = PQgetisnull(result, row, i);
		if (!nulls[i])
			values[i] = PointerGetDatum(cstring_to_text_with_len(PQgetvalue(result, row, i),
																 PQgetlength(result, row, i) + 1));
	}
	tuplestore_putvalues(stmt->store, stmt->desc, values, nulls);
	MemoryContextSwitchTo(old);
	MemoryContextReset(stmt->row_context);
	stmt->stored++;
}

/* Take rows that nobody is reading now. */
void
remote_statement_rows(RemoteStatement *stmt, PGresult *result)
{
	if (stmt->values == NULL)
		set_fields(stmt, PQnfields(result));
	if (stmt->store == NULL)
		open_store(stmt);
	for (int row = 0; row < PQntuples(result); row++)
		store_row(stmt, result, row);
}

static void
row_from_store(RemoteStatement *stmt, RemoteRow *row)
{
	/* the slot frees its copy of the row when it gets the next: it must not go before */
	MemoryContext caller = MemoryContextSwitchTo(stmt->context);
	bool		found = tuplestore_gettupleslot(stmt->store, true, true, stmt->slot);

	MemoryContextSwitchTo(caller);
	if (!found)
		elog(ERROR, "row %llu of a remote result is missing",
			 (unsigned long long) stmt->consumed);
	stmt->consumed++;
	slot_getallattrs(stmt->slot);
	for (int i = 0; i < stmt->nfields; i++)
	{
		text	   *value = (text *) DatumGetPointer(stmt->slot->tts_values[i]);

		stmt->values[i] = stmt->slot->tts_isnull[i] ? NULL : VARDATA_ANY(value);
		stmt->lengths[i] = stmt->slot->tts_isnull[i] ? 0 : VARSIZE_ANY_EXHDR(value) - 1;
	}
	row->nfields = stmt->nfields;
	row->values = stmt->values;
	row->lengths = stmt->lengths;
}

static void
row_from_result(RemoteStatement *stmt, RemoteRow *row)
{
	PGresult   *result = stmt->result;
	int			n = stmt->result_row++;

	if (stmt->values == NULL)
		set_fields(stmt, PQnfields(result));
	for (int i = 0; i < stmt->nfields; i++)
	{
		bool		isnull = PQgetisnull(result, n, i);

		stmt->values[i] = isnull ? NULL : PQgetvalue(result, n, i);
		stmt->lengths[i] = isnull ? 0 : PQgetlength(result, n, i);
	}
	row->nfields = stmt->nfields;
	row->values = stmt->values;
	row->lengths = stmt->lengths;
}

/* The statement's error; where an earlier one caused it, that. */
static void
raise_statement_error(RemoteStatement *stmt)
{
	RemoteStatement *cause = stmt;

	if (stmt->error == NULL)
		return;
	/* the one that aborted the transaction may be read later, as it was sent ahead of need */
	if (stmt->error->sqlstate == ERRCODE_IN_FAILED_SQL_TRANSACTION && stmt->conn->failed_statement != NULL)
		cause = stmt->conn->failed_statement;
	if (stmt->conn->failed_statement == cause)
		stmt->conn->failed_statement = NULL;
	remote_raise_pending(stmt->conn);
	remote_raise(stmt->conn, cause->error);
}

bool
dbscale_remote_next_row(RemoteStatement *stmt, RemoteRow *row)
{
	RemoteWait	wait = remote_wait_throwing();

	for (;;)
	{
		if (stmt->result && stmt->result_row < PQntuples(stmt->result))
		{
			row_from_result(stmt, row);
			return true;
		}
		PQclear(stmt->result);
		stmt->result = NULL;
		if (stmt->consumed < stmt->stored)
		{
			row_from_store(stmt, row);
			return true;
		}
		if (stmt->item == NULL)
			break;
		(void) remote_step(stmt->conn, stmt, &wait);
	}
	raise_statement_error(stmt);
	if (stmt->disowned)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_CURSOR_STATE),
				 errmsg("the rest of the rows is lost"),
				 errdetail("A savepoint was rolled back while the rows were on their way."),
				 errhint("Run the query again.")));
	return false;
}

uint64
dbscale_remote_finish(RemoteStatement *stmt)
{
	RemoteWait	wait = remote_wait_throwing();

	stmt->drop_rows = true;
	while (stmt->item != NULL)
		(void) remote_step(stmt->conn, NULL, &wait);
	raise_statement_error(stmt);
	return stmt->count;
}

const char *
dbscale_remote_tag(RemoteStatement *stmt)
{
	return stmt->tag;
}

void
dbscale_remote_belongs_to(RemoteStatement *stmt, int nest_level)
{
	if (stmt->item)
		stmt->item->nest_level = Min(stmt->item->nest_level, nest_level);
}

void
dbscale_remote_rewind(RemoteStatement *stmt)
{
	Assert(stmt->flags & REMOTE_KEEP_ROWS);
	if (stmt->store == NULL)
		return;
	tuplestore_rescan(stmt->store);
	stmt->consumed = 0;
}

/*
 * Outside a remote transaction a result that nobody wants is ended: the node would
 * keep its snapshot.  Within one the rows must come in anyway (a cancel would abort
 * the transaction), which they do when the connection is used next.
 */
void
dbscale_remote_abandon(RemoteConnection *conn)
{
	RemoteWait	wait;

	/* asked of all connections at the end of each transaction: mostly there is nothing, and no need of the clock */
	if (conn->pg == NULL || conn->in_transaction || conn->mode != MODE_PIPELINE || remote_is_idle(conn))
		return;
	wait = remote_wait_quiet(ABANDON_PATIENCE_MS);
	if (remote_drain(conn, &wait) == STEP_BUSY)
		(void) dbscale_remote_cancel(conn, 0, CANCEL_PATIENCE_MS);
}

static bool
has_wanted_statement(RemoteConnection *conn)
{
	dlist_iter	iter;

	dlist_foreach(iter, &conn->queue)
	{
		if (dlist_container(QueueItem, node, iter.cur)->statement != NULL)
			return true;
	}
	return false;
}

void
dbscale_remote_close(RemoteStatement *stmt)
{
	RemoteConnection *conn = stmt->conn;
	bool		unfinished = stmt->item != NULL;

	MemoryContextDelete(stmt->context);
	if (unfinished && !has_wanted_statement(conn))
		dbscale_remote_abandon(conn);
}

uint64
dbscale_remote_execute(RemoteConnection *conn, const char *sql, const RemoteParams *params,
					   const char *label)
{
	RemoteStatement *stmt = dbscale_remote_send(conn, sql, params, 0, label);
	uint64		count = dbscale_remote_finish(stmt);

	dbscale_remote_close(stmt);
	return count;
}

char *
dbscale_remote_query_value(RemoteConnection *conn, const char *sql, const RemoteParams *params)
{
	RemoteStatement *stmt = dbscale_remote_send(conn, sql, params, 0, NULL);
	RemoteRow	row;
	char	   *value = NULL;

	if (dbscale_remote_next_row(stmt, &row) && row.nfields > 0 && row.values[0])
		value = pstrdup(row.values[0]);
	(void) dbscale_remote_finish(stmt);
	dbscale_remote_close(stmt);
	return value;
}
