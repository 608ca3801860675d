/*
 * transaction.h
 *		Remote transactions: opened lazily, nested as the local one is, committed
 *		on all nodes or on none.
 */
#ifndef DBSCALE_TRANSACTION_H
#define DBSCALE_TRANSACTION_H

#include "catalog/metadata.h"
#include "remote/remote.h"

typedef enum RemoteUse
{
	REMOTE_READ_ALONE,			/* the only statement of its transaction on that node: no BEGIN
								 * unless a remote transaction is open already */
	REMOTE_READ,				/* in a remote transaction, of the local isolation level */
	REMOTE_READ_STABLE,			/* opens it as REPEATABLE READ: several reads of one statement
								 * outside a transaction block */
	REMOTE_WRITE,				/* as READ; marks the node as written */
	REMOTE_WRITE_ALONE			/* the whole of its transaction, here too: no BEGIN, and
								 * dbscale_transaction_finish_alone ends it */
} RemoteUse;

/*
 * The connection for this node and user, inside a remote transaction of the right
 * nesting depth (BEGIN and SAVEPOINTs are queued, to travel with the statement).
 * Flushes pending batches first (see below).
 */
extern RemoteConnection *dbscale_transaction_connection(Oid serverid, Oid userid, RemoteUse use);

/* Has the local transaction touched no node, and changed nothing here? */
extern bool dbscale_transaction_is_untouched(void);
/*
 * Wait for the outcome of a statement that was sent as REMOTE_WRITE_ALONE: when this
 * returns it is committed, and the local transaction has only to end.
 */
extern void dbscale_transaction_finish_alone(RemoteConnection *conn, RemoteStatement *stmt);

/*
 * dbscale.consistent_reads: remote transactions whose snapshots are of one moment.
 * open_together opens them as REPEATABLE READ on all targets (of RemoteTarget *), unless
 * one is open already on any node (false).  require_snapshot, after
 * dbscale_transaction_connection: an error where the setting asks for such a snapshot
 * and the connection has none.
 */
typedef struct RemoteTarget
{
	Oid			serverid;
	Oid			userid;
} RemoteTarget;

extern List *dbscale_transaction_add_target(List *targets, Oid serverid, Oid userid);
extern List *dbscale_transaction_add_group(List *targets, const TableGroup *group, Oid userid);
extern bool dbscale_transaction_open_together(List *targets);
extern void dbscale_transaction_require_snapshot(RemoteConnection *conn, RemoteUse use);

/*
 * The same for one statement of a READ COMMITTED transaction: all that it reads is sent
 * between begin and end (to connections of begin's, which are in remote transactions)
 * by declare, as cursors, whose snapshots are of one moment; the result of declare is
 * that of the query.
 */
typedef struct TogetherReads TogetherReads;

extern TogetherReads *dbscale_transaction_begin_together(List *conns);
extern RemoteStatement *dbscale_transaction_declare(TogetherReads *reads, RemoteConnection *conn,
													const char *sql, const RemoteParams *params,
													int flags, const char *label);
extern void dbscale_transaction_end_together(TogetherReads *reads);

/*
 * Pending batches: rows that a writer has buffered but not sent.  The callback is
 * called before any other statement goes out, before savepoints and at pre-commit;
 * it must send what it has.  On abort the buffers are forgotten with their context.
 */
typedef void (*DbscaleFlushCallback) (void *arg);
extern void dbscale_transaction_add_pending(DbscaleFlushCallback callback, void *arg);
extern void dbscale_transaction_remove_pending(DbscaleFlushCallback callback, void *arg);
extern void dbscale_transaction_flush_pending(void);

/*
 * Tables of which every node has a copy.  writes_copies: this transaction changes them.
 * await_copies, between reading a row here and sending a statement for it: wait until
 * commits of such changes that are visible here have been told to the nodes, to all of which
 * there are these connections (of dbscale_transaction_connection).
 */
extern void dbscale_transaction_writes_copies(Oid relid);
extern void dbscale_transaction_await_copies(Oid relid, List *conns);

/*
 * Resolve what a crash left prepared on one node, following dbscale.transaction_log.
 * Returns how many it resolved.  For the worker and dbscale.recover_transactions().
 * Without `wait` it does nothing while somebody else is at it.
 */
extern int	dbscale_transaction_recover_node(Oid serverid, Oid userid, bool wait);

/* The backend whose transaction this gid is a part of; 0: it has ended, or is not ours. */
extern int	dbscale_transaction_backend_of(const char *gid);

extern void dbscale_transaction_init(void);

#endif							/* DBSCALE_TRANSACTION_H */
