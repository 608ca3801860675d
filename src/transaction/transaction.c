/*
 * transaction.c
 *		Remote transactions follow the local one; the only file with transaction
 *		callbacks.
 *
 * A remote transaction is opened on a connection by its first use that needs one:
 * BEGIN (with the local isolation level) and one SAVEPOINT for each level of local
 * nesting are queued, and travel with the statement.  Then
 *
 *	subtransaction commits	RELEASE SAVEPOINT is queued
 *	subtransaction aborts	what it left running is cancelled, ROLLBACK TO SAVEPOINT
 *	pre-commit				buffers are flushed, all statements awaited, and either
 *							the only written node commits, or all are prepared
 *	commit					COMMIT PREPARED everywhere, without throwing
 *	abort					what runs is cancelled; ROLLBACK, or ROLLBACK PREPARED
 *
 * One written node and nothing written here: its COMMIT is the decision, and it is
 * sent at pre-commit.
 *	1. Before it is sent, every statement on every node has succeeded, and a failure
 *	   anywhere aborts everything.
 *	2. Afterwards nothing here can fail that matters: there is no local change whose
 *	   commit could be refused (no xid was assigned), and under SERIALIZABLE, where
 *	   even a reader may be refused, this way is not taken.
 *	3. If the answer does not come (the connection is lost, or the user cancels and
 *	   the node stays silent) nobody knows: SQLSTATE 08007 says so.  A cancel that the
 *	   node does obey makes its COMMIT fail, which is an ordinary error.
 * A statement that is the whole of its transaction (executor/alone.c) does without BEGIN
 * and COMMIT: the node commits when it is done.
 *	1. Nothing was done before, on any node or here, and nothing will be done after.
 *	2. The node's answer to the whole of the statement, its commit included, is awaited
 *	   before anything else happens.  An error means that nothing was done.
 *	3. From then on no interrupt is served until the local transaction, which has done
 *	   nothing, is over: a statement that is committed is not told to be cancelled.
 *	4. If no answer comes, as above: 08007.
 * Nodes that were only read end by COMMIT at the same time; how that goes decides
 * nothing.  In all other cases see two_phase.c.
 *
 * `changing` is set before a message that ends a remote transaction and cleared by
 * its answer; where it is found set, the state of the connection is unknown and it
 * is dropped.  A connection lost inside a transaction keeps its state, so that every
 * later use, and the commit, fails, also after ROLLBACK TO SAVEPOINT.
 */
#include "transaction/internal.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/memutils.h"

static List *transactions = NIL;	/* of RemoteTransaction *, in TopTransactionContext */

/* ---- opening ---- */

static const char *
isolation_for(RemoteUse use)
{
	if (XactIsoLevel == XACT_SERIALIZABLE)
		return "SERIALIZABLE";
	if (XactIsoLevel == XACT_REPEATABLE_READ || use == REMOTE_READ_STABLE)
		return "REPEATABLE READ";
	return "READ COMMITTED";
}

RemoteTransaction *
transaction_begin(RemoteConnection *conn, RemoteUse use)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	RemoteTransaction *remote = palloc0(sizeof(RemoteTransaction));

	remote->conn = conn;
	transactions = lappend(transactions, remote);
	MemoryContextSwitchTo(old);

	dbscale_remote_queue_command(conn, psprintf("BEGIN ISOLATION LEVEL %s%s",
												isolation_for(use),
												XactReadOnly ? " READ ONLY" : ""));
	remote->depth = 1;
	dbscale_remote_set_transaction_state(conn, remote);
	return remote;
}

List *
transaction_list(void)
{
	return transactions;
}

void
transaction_forget(RemoteTransaction *remote)
{
	transactions = list_delete_ptr(transactions, remote);
	dbscale_remote_forget_errors(remote->conn);
	dbscale_remote_set_transaction_state(remote->conn, NULL);
}

static void
add_savepoints(RemoteTransaction *remote)
{
	while (remote->depth < pending_nest_level())
	{
		dbscale_remote_queue_command(remote->conn,
									 psprintf("SAVEPOINT dbscale_%d", remote->depth + 1));
		remote->depth++;
	}
}

RemoteConnection *
dbscale_transaction_connection(Oid serverid, Oid userid, RemoteUse use)
{
	RemoteConnection *conn;
	RemoteTransaction *remote;

	dbscale_transaction_flush_pending();
	if (transactions == NIL && snapshots_are_kept(use))
		snapshots_open_everywhere(userid);
	conn = dbscale_remote_connect(serverid, userid);
	remote = dbscale_remote_transaction_state(conn);
	if (remote == NULL && (use == REMOTE_READ_ALONE || use == REMOTE_WRITE_ALONE))
		return conn;
	if (remote == NULL)
	{
		remote = transaction_begin(conn, use);
		if (snapshots_are_kept(use))
			snapshots_join(remote);
	}
	add_savepoints(remote);
	if (use == REMOTE_WRITE)
		remote->wrote = true;
	return conn;
}

bool
dbscale_transaction_is_untouched(void)
{
	return transactions == NIL && !pending_exists() && !TransactionIdIsValid(GetTopTransactionIdIfAny());
}

/* ---- the end of the transaction ---- */

/* The connections are free for the next transaction. */
static void
forget_transactions(void)
{
	ListCell   *lc;

	foreach(lc, transactions)
	{
		RemoteTransaction *remote = lfirst(lc);

		dbscale_remote_forget_errors(remote->conn);
		dbscale_remote_set_transaction_state(remote->conn, NULL);
	}
	transactions = NIL;
	pending_end_transaction();
	copies_end_transaction();
}

static List *
connections_of(List *remotes)
{
	List	   *conns = NIL;
	ListCell   *lc;

	foreach(lc, remotes)
		conns = lappend(conns, ((RemoteTransaction *) lfirst(lc))->conn);
	return conns;
}

/*
 * Under SERIALIZABLE a node that was only read takes part in the decision: it may
 * have to refuse.
 */
static void
classify(List **writers, List **readers)
{
	ListCell   *lc;
	bool		any_write = false;

	foreach(lc, transactions)
		any_write |= ((RemoteTransaction *) lfirst(lc))->wrote;
	foreach(lc, transactions)
	{
		RemoteTransaction *remote = lfirst(lc);

		if (remote->depth == 0)
			continue;
		if (remote->wrote || (any_write && IsolationIsSerializable()))
			*writers = lappend(*writers, remote);
		else
			*readers = lappend(*readers, remote);
	}
}

/* Reads whose rows nobody came for need not be awaited. */
static void
settle_reader(RemoteTransaction *remote)
{
	if (dbscale_remote_is_broken(remote->conn) || dbscale_remote_is_idle(remote->conn))
		dbscale_remote_sync(remote->conn);
	else
		(void) dbscale_remote_cancel(remote->conn, 0, dbscale_commit_timeout);
}

/*
 * COMMIT on the nodes that were only read.  Sent here, awaited in wait_for_readers,
 * so that it goes on while the writers work.
 */
static List *
send_commit_to_readers(List *readers)
{
	List	   *statements = NIL;
	ListCell   *lc;

	foreach(lc, readers)
	{
		RemoteTransaction *remote = lfirst(lc);

		statements = lappend(statements,
							 dbscale_remote_send(remote->conn, "COMMIT", NULL, REMOTE_CONTROL, NULL));
	}
	return statements;
}

/* Under SERIALIZABLE a reader's COMMIT may tell that what was read can't be trusted. */
static void
wait_for_readers(List *readers, List *statements)
{
	ListCell   *lc,
			   *lc2;

	forboth(lc, readers, lc2, statements)
	{
		RemoteTransaction *remote = lfirst(lc);
		RemoteStatement *stmt = lfirst(lc2);

		if (IsolationIsSerializable())
			(void) dbscale_remote_finish(stmt);
		if (!dbscale_remote_wait_done(stmt, dbscale_commit_timeout))
			dbscale_remote_mark_broken(remote->conn);
		remote->depth = 0;
		dbscale_remote_close(stmt);
	}
}

static void
pre_commit(void)
{
	List	   *writers = NIL;
	List	   *readers = NIL;
	List	   *statements;
	ListCell   *lc;

	dbscale_transaction_flush_pending();
	foreach(lc, dbscale_remote_connections())
		dbscale_remote_abandon(lfirst(lc));
	if (transactions == NIL)
		return;

	classify(&writers, &readers);
	dbscale_remote_sync_all(connections_of(writers));
	foreach(lc, readers)
		settle_reader(lfirst(lc));

	statements = send_commit_to_readers(readers);
	if (list_length(writers) == 1 && !IsolationIsSerializable() &&
		!TransactionIdIsValid(GetTopTransactionIdIfAny()))
		commit_alone(linitial(writers));
	else if (writers != NIL)
		two_phase_prepare(writers);
	wait_for_readers(readers, statements);
}

/* Nothing here may throw: the transaction is committed. */
static void
commit(void)
{
	List	   *prepared = NIL;
	ListCell   *lc;

	foreach(lc, transactions)
	{
		RemoteTransaction *remote = lfirst(lc);

		if (remote->prepare == PREPARE_DONE)
			prepared = lappend(prepared, remote);
	}
	if (prepared != NIL)
		two_phase_commit(prepared);
	forget_transactions();
}

/* Stop whatever runs, in or out of a remote transaction. */
static void
cancel_everything(void)
{
	ListCell   *lc;

	foreach(lc, dbscale_remote_connections())
	{
		RemoteConnection *conn = lfirst(lc);
		RemoteTransaction *remote = dbscale_remote_transaction_state(conn);

		if (remote && remote->changing && remote->prepare == PREPARE_NONE)
			dbscale_remote_mark_broken(conn);
		else if (!dbscale_remote_is_idle(conn))
			(void) dbscale_remote_cancel(conn, 0, dbscale_commit_timeout);
	}
}

static void
abort_all(void)
{
	List	   *open = NIL;
	List	   *commands = NIL;
	List	   *prepared = NIL;
	ListCell   *lc;

	cancel_everything();
	foreach(lc, transactions)
	{
		RemoteTransaction *remote = lfirst(lc);

		if (remote->depth > 0 && remote->prepare != PREPARE_DONE &&
			!dbscale_remote_is_broken(remote->conn))
		{
			open = lappend(open, remote->conn);
			commands = lappend(commands, "ROLLBACK");
		}
		if (remote->prepare != PREPARE_NONE)
			prepared = lappend(prepared, remote);
	}
	if (open != NIL)
		(void) dbscale_remote_try_commands(open, commands, dbscale_commit_timeout, NULL, NULL);
	if (prepared != NIL)
		two_phase_rollback(prepared);
	forget_transactions();
}

static void
refuse_prepare(void)
{
	if (transactions == NIL && !pending_exists())
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot PREPARE a transaction that has used nodes"),
			 errdetail("dbscale commits it in two phases itself."),
			 errhint("Use COMMIT.")));
}

static void
transaction_event(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			pre_commit();
			break;
		case XACT_EVENT_PRE_PREPARE:
			refuse_prepare();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
			commit();
			committed_alone_end(true);
			break;
		case XACT_EVENT_ABORT:
			abort_all();
			committed_alone_end(false);
			break;
		default:
			break;				/* parallel workers use no node */
	}
}

/* ---- subtransactions ---- */

/* Queued: it travels with the next statement. */
static void
release_savepoint(RemoteTransaction *remote, int nest_level)
{
	dbscale_remote_queue_command(remote->conn,
								 psprintf("RELEASE SAVEPOINT dbscale_%d", nest_level));
	remote->depth = nest_level - 1;
}

static void
commit_sub(int nest_level)
{
	ListCell   *lc;

	pending_flush_at(nest_level);
	pending_commit_sub(nest_level);
	foreach(lc, transactions)
	{
		RemoteTransaction *remote = lfirst(lc);

		dbscale_remote_lower_level(remote->conn, nest_level);
		if (remote->depth >= nest_level)
			release_savepoint(remote, nest_level);
	}
}

static void
abort_sub(int nest_level)
{
	List	   *used = NIL;
	List	   *commands = NIL;
	char	   *command = psprintf("ROLLBACK TO SAVEPOINT dbscale_%d", nest_level);
	ListCell   *lc;
	bool	   *succeeded;

	pending_abort_sub(nest_level);
	foreach(lc, transactions)
	{
		RemoteTransaction *remote = lfirst(lc);

		if (remote->depth < nest_level)
			continue;
		if (!dbscale_remote_is_idle(remote->conn))
			(void) dbscale_remote_cancel(remote->conn, nest_level, dbscale_commit_timeout);
		used = lappend(used, remote);
		commands = lappend(commands, command);
	}
	if (used == NIL)
		return;

	succeeded = palloc0(list_length(used) * sizeof(bool));
	(void) dbscale_remote_try_commands(connections_of(used), commands, dbscale_commit_timeout,
									   succeeded, NULL);
	foreach(lc, used)
	{
		RemoteTransaction *remote = lfirst(lc);

		if (succeeded[foreach_current_index(lc)])
			dbscale_remote_forget_errors(remote->conn);
		else
			dbscale_remote_mark_broken(remote->conn);
		release_savepoint(remote, nest_level);
	}
}

static void
subtransaction_event(SubXactEvent event, SubTransactionId subid, SubTransactionId parent,
					 void *arg)
{
	int			nest_level = GetCurrentTransactionNestLevel();

	switch (event)
	{
		case SUBXACT_EVENT_START_SUB:
			pending_flush_at(nest_level - 1);
			break;
		case SUBXACT_EVENT_PRE_COMMIT_SUB:
			commit_sub(nest_level);
			break;
		case SUBXACT_EVENT_ABORT_SUB:
			abort_sub(nest_level);
			break;
		default:
			break;
	}
}

void
dbscale_transaction_init(void)
{
	copies_init();
	RegisterXactCallback(transaction_event, NULL);
	RegisterSubXactCallback(subtransaction_event, NULL);
}
