/*
 * two_phase.c
 *		Committing on several nodes (and here), or on none.
 *
 * The nouns: the *decision* is the local transaction's commit record; the *log* is
 * dbscale.transaction_log, one row (gid, node) for each node, inserted by the local
 * transaction itself, so that the rows are there if and only if it committed.
 *
 *	1. The local transaction gets a full transaction id, which goes into the gids
 *	   with the system identifier, the database and a random number.  (After a crash
 *	   the server may give the id of a transaction that wrote no WAL once more; the
 *	   random number keeps their gids apart.)
 *	2. The log rows are inserted: before PREPARE, so that a failure costs no node
 *	   anything.  They bind nobody before the decision.
 *	3. PREPARE TRANSACTION on all nodes at the same time.  An error of one, or a
 *	   transaction that turns out to be aborted, aborts all.
 *	   Then the gate of snapshots.c is entered, where readers are kept from seeing
 *	   what follows in part; it is left with the transaction's locks, after 5.
 *	   So are the locks of tables with copies on all nodes (copies.c).
 *	4. The decision: the local commit, and its WAL is flushed before we go on whatever
 *	   synchronous_commit says; else a crash could take back what step 5 had told a
 *	   node.
 *	5. COMMIT PREPARED on all nodes at the same time.  A node that does not answer is
 *	   left to the maintenance worker, and a warning says so.
 *
 * A crash before 4 leaves prepared transactions without log rows: rolled back by
 * recovery (recovery.c).  A crash after 4 leaves them with: committed.  Log rows are
 * deleted by recovery only, when the node does not have the gid any more.
 *
 * Recovery may run beside steps 5 and the rollback after an error, and be faster: a
 * prepared transaction that is gone, or busy in another session, is as it should be.
 */
#include "transaction/internal.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "port.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* While a COMMIT is awaited we look for interrupts this often. */
#define INTERRUPT_POLL_MS 100
/* And ask the node again to stop, for a request that comes before the command is ignored. */
#define CANCEL_AGAIN_MS 1000

/* ---- one node alone ---- */

static void
raise_unknown_outcome(RemoteConnection *conn)
{
	dbscale_remote_mark_broken(conn);
	ereport(ERROR,
			(errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
			 errmsg("it is not known whether the transaction was committed on node \"%s\"",
					dbscale_remote_node_name(conn)),
			 errdetail("COMMIT was sent, and the connection ended before the answer came. No other node, and nothing on the coordinator, was changed by the transaction."),
			 errhint("Look whether its changes are there before doing it again.")));
}

/*
 * A user's cancel, or the end of a deadlock that we are in, can't be served by an error
 * here: the transaction may commit all the same.  So it is passed on to the node, and
 * what that answers is the outcome.
 */
static void
wait_for_outcome(RemoteConnection *conn)
{
	TimestampTz deadline = 0;
	TimestampTz next_request = 0;

	while (!dbscale_remote_wait_idle(conn, INTERRUPT_POLL_MS))
	{
		TimestampTz now = GetCurrentTimestamp();

		if (deadline == 0 && !dbscale_remote_interrupt_is_pending())
			continue;
		if (deadline == 0)
			deadline = TimestampTzPlusMilliseconds(now, dbscale_commit_timeout);
		if (now >= deadline)
			raise_unknown_outcome(conn);
		if (now >= next_request)
		{
			dbscale_remote_request_cancel(conn);
			next_request = TimestampTzPlusMilliseconds(now, CANCEL_AGAIN_MS);
		}
	}
	if (dbscale_remote_is_broken(conn))
		raise_unknown_outcome(conn);
}

/* The node was told to stop: by whom is a better error than that it did. */
static void
raise_what_stopped(const RemoteStatement *stmt)
{
	if (dbscale_remote_has_failed(stmt))
		dbscale_remote_check_interrupts();
}

/* A statement was committed by its node, and interrupts are held back: see transaction.c. */
static bool committed_alone = false;

void
dbscale_transaction_finish_alone(RemoteConnection *conn, RemoteStatement *stmt)
{
	wait_for_outcome(conn);
	raise_what_stopped(stmt);
	HOLD_INTERRUPTS();
	committed_alone = true;
	dbscale_remote_sync(conn);
}

void
committed_alone_end(bool committed)
{
	if (committed_alone && committed)
		RESUME_INTERRUPTS();
	committed_alone = false;	/* an error has let all of them go */
}

/* "COMMIT" of an aborted transaction is answered by "ROLLBACK". */
static void
require_tag(RemoteTransaction *remote, RemoteStatement *stmt, const char *tag)
{
	(void) dbscale_remote_finish(stmt);
	if (strcmp(dbscale_remote_tag(stmt), tag) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_IN_FAILED_SQL_TRANSACTION),
				 errmsg("the transaction was aborted on node \"%s\"",
						dbscale_remote_node_name(remote->conn)),
				 errdetail("An error on the node ended it there before it could be committed."),
				 errhint("Retry the transaction.")));
}

void
commit_alone(RemoteTransaction *writer)
{
	RemoteStatement *stmt;

	writer->changing = true;
	stmt = dbscale_remote_send(writer->conn, "COMMIT", NULL, REMOTE_CONTROL, NULL);
	wait_for_outcome(writer->conn);
	writer->changing = false;
	writer->depth = 0;			/* an error of COMMIT ends the transaction too */
	raise_what_stopped(stmt);
	require_tag(writer, stmt, "COMMIT");
	dbscale_remote_close(stmt);
}

/* ---- preparing ---- */

char *
gid_prefix(void)
{
	return psprintf("dbscale_" UINT64_FORMAT "_%u_", GetSystemIdentifier(), MyDatabaseId);
}

static void
name_transactions(List *writers)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	uint64		xid = U64FromFullTransactionId(GetTopFullTransactionId());
	char	   *prefix = gid_prefix();
	uint64		random;
	ListCell   *lc;

	if (!pg_strong_random(&random, sizeof(random)))
		random = pg_prng_uint64(&pg_global_prng_state);
	foreach(lc, writers)
	{
		RemoteTransaction *remote = lfirst(lc);

		remote->gid = psprintf("%s" UINT64_FORMAT "_" UINT64_FORMAT "_%d", prefix, xid, random,
							   foreach_current_index(lc));
	}
	MemoryContextSwitchTo(old);
}

/*
 * As the extension's own table: no privileges, no triggers, no rewriting.  The statement's
 * snapshot is gone by now, and a table with long values is not to be touched without one.
 */
static void
write_log(List *writers)
{
	Relation	rel = table_open(dbscale_relation_oid("transaction_log"), RowExclusiveLock);
	ListCell   *lc;

	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(lc, writers)
	{
		RemoteTransaction *remote = lfirst(lc);
		NameData	node;
		Datum		values[2];
		bool		nulls[2] = {false, false};
		HeapTuple	tuple;

		namestrcpy(&node, dbscale_remote_node_name(remote->conn));
		values[0] = CStringGetTextDatum(remote->gid);
		values[1] = NameGetDatum(&node);
		tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
		CatalogTupleInsert(rel, tuple);
		heap_freetuple(tuple);
	}
	PopActiveSnapshot();
	table_close(rel, NoLock);
}

static RemoteStatement *
send_prepare(RemoteTransaction *remote)
{
	char	   *sql = psprintf("PREPARE TRANSACTION %s", quote_literal_cstr(remote->gid));

	remote->prepare = PREPARE_SENT;
	remote->changing = true;
	return dbscale_remote_send(remote->conn, sql, NULL, REMOTE_CONTROL, NULL);
}

static void
finish_prepare(RemoteTransaction *remote, RemoteStatement *stmt)
{
	require_tag(remote, stmt, "PREPARE TRANSACTION");
	remote->prepare = PREPARE_DONE;
	remote->changing = false;
	dbscale_remote_close(stmt);
}

/* The points between one node and the next mean something only one by one. */
static bool
one_by_one(void)
{
#ifdef DBSCALE_DEBUG_POINTS
	extern char *dbscale_debug_point_setting;

	return dbscale_debug_point_setting &&
		strncmp(dbscale_debug_point_setting, "after_first_", 12) == 0;
#else
	return false;
#endif
}

static void
prepare_all(List *writers)
{
	List	   *statements = NIL;
	ListCell   *lc,
			   *lc2;

	foreach(lc, writers)
		statements = lappend(statements, send_prepare(lfirst(lc)));
	forboth(lc, writers, lc2, statements)
		finish_prepare(lfirst(lc), lfirst(lc2));
}

/* Steps 1 to 3. */
void
two_phase_prepare(List *writers)
{
	name_transactions(writers);
	ForceSyncCommit();
	write_log(writers);
	DEBUG_POINT("after_log");
	DEBUG_POINT("before_prepare");
	if (one_by_one())
	{
		prepare_all(list_make1(linitial(writers)));
		DEBUG_POINT("after_first_prepare");
		prepare_all(list_copy_tail(writers, 1));
	}
	else
		prepare_all(writers);
	if (list_length(writers) > 1)
		gate_enter_commit();
	copies_enter_commit();
	DEBUG_POINT("after_prepare");
}

/* ---- the second phase ---- */

/* Somebody else has resolved it, or is about to. */
bool
prepared_is_gone(int sqlstate)
{
	return sqlstate == ERRCODE_UNDEFINED_OBJECT ||
		sqlstate == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
}

/* One verb for all; those that could not be reached are returned. */
static List *
resolve(List *remotes, const char *verb)
{
	List	   *conns = NIL;
	List	   *commands = NIL;
	List	   *failed = NIL;
	bool	   *succeeded = palloc0(list_length(remotes) * sizeof(bool));
	int		   *sqlstates = palloc0(list_length(remotes) * sizeof(int));
	ListCell   *lc;

	foreach(lc, remotes)
	{
		RemoteTransaction *remote = lfirst(lc);

		conns = lappend(conns, remote->conn);
		commands = lappend(commands, psprintf("%s PREPARED %s", verb,
											  quote_literal_cstr(remote->gid)));
	}
	(void) dbscale_remote_try_commands(conns, commands, dbscale_commit_timeout,
									   succeeded, sqlstates);
	foreach(lc, remotes)
	{
		int			i = foreach_current_index(lc);

		if (!succeeded[i] && !prepared_is_gone(sqlstates[i]))
			failed = lappend(failed, lfirst(lc));
	}
	return failed;
}

static void
warn_of_delay(List *failed, const char *what)
{
	ListCell   *lc;

	foreach(lc, failed)
	{
		RemoteTransaction *remote = lfirst(lc);

		dbscale_remote_mark_broken(remote->conn);
		ereport(WARNING,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("node \"%s\" did not confirm the end of the transaction",
						dbscale_remote_node_name(remote->conn)),
				 errdetail("The transaction is %s. Its part on the node is prepared and keeps its locks until the maintenance worker reaches the node.",
						   what),
				 errhint("The view dbscale.prepared shows it.")));
	}
}

static void
commit_prepared(List *remotes)
{
	List	   *failed = resolve(remotes, "COMMIT");

	if (failed != NIL)
		copies_note_given_up();
	warn_of_delay(failed, "committed");
}

/* Step 5.  Nothing here may throw. */
void
two_phase_commit(List *writers)
{
	DEBUG_POINT("after_commit");
	if (one_by_one())
	{
		commit_prepared(list_make1(linitial(writers)));
		DEBUG_POINT("after_first_commit_prepared");
		writers = list_copy_tail(writers, 1);
	}
	if (writers != NIL)
		commit_prepared(writers);
}

/*
 * The local transaction has aborted.  Where PREPARE's answer was not seen, ROLLBACK
 * has been done before, and this one finds nothing if that was enough.
 */
void
two_phase_rollback(List *ended)
{
	warn_of_delay(resolve(ended, "ROLLBACK"), "rolled back");
}
