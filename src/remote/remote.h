/*
 * remote.h
 *		Connections to nodes, and statements on them.
 *
 * One connection a (backend, node, user).  Statements are queued on it in order
 * (libpq's pipeline mode) and their results are read in order; a statement whose
 * results are wanted while an earlier one's are still unread makes the earlier
 * ones drain into tuplestores of their own.  No call blocks in libpq: every wait
 * is on the socket and the process latch together, and is cancellable.
 *
 * This folder knows no shard and no transaction: those who read and write tables
 * call transaction/, which opens the remote transaction and hands out connections.
 * It is the only folder that includes libpq-fe.h.
 */
#ifndef DBSCALE_REMOTE_H
#define DBSCALE_REMOTE_H

#include "base/base.h"
#include "lib/ilist.h"
#include "nodes/pg_list.h"

typedef struct RemoteConnection RemoteConnection;
typedef struct RemoteStatement RemoteStatement;

/* Parameters of a statement, in text or binary form; values may be NULL for SQL NULL. */
typedef struct RemoteParams
{
	int			count;
	const Oid  *types;			/* NULL: the node infers them all */
	const char *const *values;
	const int  *lengths;		/* needed for binary values only */
	const int  *formats;		/* 0 text, 1 binary; NULL: all text */
} RemoteParams;

#define REMOTE_NO_PARAMS NULL

/* One result row; valid until the next call that reads from the same statement. */
typedef struct RemoteRow
{
	int			nfields;
	const char **values;		/* NULL for SQL NULL; text values end in '\0' */
	int		   *lengths;
} RemoteRow;

#define REMOTE_PREPARE		0x01	/* worth a prepared statement on the node: it will be repeated */
#define REMOTE_BINARY		0x02	/* results in binary format */
#define REMOTE_KEEP_ROWS	0x04	/* keep rows read, for remote_rewind */
#define REMOTE_CONTROL		0x08	/* ends a transaction: the session's settings don't matter */

/* Option of a node (a foreign server): may statements be prepared on it?  See settings. */
#define REMOTE_PREPARED_OPTION "use_prepared_statements"

/*
 * The cached connection for this node and user, opened (and its session set up)
 * if need be, replaced silently if found broken while no transaction uses it.
 * Throws with SQLSTATE 08001 and the node's name if it can't be had.
 */
extern RemoteConnection *dbscale_remote_connect(Oid serverid, Oid userid);
/*
 * Begin to connect if there is no connection yet, without waiting: the next
 * dbscale_remote_connect goes on.  For several nodes, which are then connected to at once.
 */
extern void dbscale_remote_connect_ahead(Oid serverid, Oid userid);
extern Oid	dbscale_remote_server(const RemoteConnection *conn);
extern Oid	dbscale_remote_user(const RemoteConnection *conn);
extern const char *dbscale_remote_node_name(const RemoteConnection *conn);
extern bool dbscale_remote_is_broken(const RemoteConnection *conn);
extern int	dbscale_remote_version(const RemoteConnection *conn);	/* e.g. 150018 */
extern void dbscale_remote_disconnect(RemoteConnection *conn);
/* Of RemoteConnection *, all that are open in this backend. */
extern List *dbscale_remote_connections(void);

/*
 * Queue a statement and flush it, without waiting for its results.  The statement
 * lives in the current memory context and must be closed (or its context be reset,
 * which closes it).  `label` names the shard or table in error messages, or NULL.
 * One command only: "a; b" is refused by the node.
 */
extern RemoteStatement *dbscale_remote_send(RemoteConnection *conn, const char *sql,
											const RemoteParams *params, int flags,
											const char *label);

/*
 * Queue a command whose rows nobody wants (BEGIN, SAVEPOINT, ...), to travel in the
 * same flush as the next statement.  An error in it surfaces at the next read.
 */
extern void dbscale_remote_queue_command(RemoteConnection *conn, const char *sql);

/* The next row, or false at the end.  Raises the node's errors with node and label. */
extern bool dbscale_remote_next_row(RemoteStatement *stmt, RemoteRow *row);
/* Read to the end and return the count in the command tag (rows for SELECT). */
extern uint64 dbscale_remote_finish(RemoteStatement *stmt);
/* The command tag, once read to the end. */
extern const char *dbscale_remote_tag(RemoteStatement *stmt);
/*
 * The statement's reader was there at this nesting level of the transaction already:
 * its rows survive the rollback of deeper ones.
 */
extern void dbscale_remote_belongs_to(RemoteStatement *stmt, int nest_level);
/* Back to the first row; needs REMOTE_KEEP_ROWS. */
extern void dbscale_remote_rewind(RemoteStatement *stmt);
/* Done with it: what is still unread is discarded (drained when something else needs the connection). */
extern void dbscale_remote_close(RemoteStatement *stmt);

/* Send, read to the end, close: returns the count in the command tag. */
extern uint64 dbscale_remote_execute(RemoteConnection *conn, const char *sql,
									 const RemoteParams *params, const char *label);
/* First column of the first row as palloc'd text, or NULL. */
extern char *dbscale_remote_query_value(RemoteConnection *conn, const char *sql,
										const RemoteParams *params);

/*
 * COPY to a node.  begin sends the command and waits for the node to be ready;
 * start sends it only, and ready tells, without waiting, if data may be given;
 * data may be given in pieces of any size; end does not wait: an error is raised
 * by the connection's next use, or by sync.
 */
extern void dbscale_remote_copy_begin(RemoteConnection *conn, const char *sql, const char *label);
extern void dbscale_remote_copy_start(RemoteConnection *conn, const char *sql, const char *label);
extern bool dbscale_remote_copy_ready(RemoteConnection *conn);
extern void dbscale_remote_copy_data(RemoteConnection *conn, const char *data, int length);
extern void dbscale_remote_copy_end(RemoteConnection *conn);
/*
 * After copy_end: hand the socket what it takes, without waiting.  True while the node
 * is still at it, so that a new COPY would have to wait.
 */
extern bool dbscale_remote_copy_busy(RemoteConnection *conn);
/* Wait until one of these, which are started or ended, may have come further. */
extern void dbscale_remote_copy_wait_any(List *conns);

/* Wait until everything queued on the connection is done; raise its first error. */
extern void dbscale_remote_sync(RemoteConnection *conn);
/* Same for several at once: all get their flush first, then all are awaited. */
extern void dbscale_remote_sync_all(List *conns);

/*
 * A session apart from the cache of connections, for moves: one that replicates, or
 * holds a lock or a snapshot on a node while the cached connection does something
 * else.  It lives in the current memory context and ends with it.  What it runs are
 * simple queries, which may have several commands; nothing of it follows the local
 * transaction.  Errors are the node's.
 */
typedef struct RemoteStream RemoteStream;

extern RemoteStream *dbscale_stream_open(Oid serverid, Oid userid, bool replication);
extern void dbscale_stream_close(RemoteStream *stream);
extern const char *dbscale_stream_node_name(const RemoteStream *stream);
/* Send a query without waiting; is_done tells, without waiting, if its result is complete. */
extern void dbscale_stream_send(RemoteStream *stream, const char *sql);
extern bool dbscale_stream_is_done(RemoteStream *stream);
/* Wait for the query's end.  The rows of its last command: a list of char **, NULLs for NULL. */
extern List *dbscale_stream_rows(RemoteStream *stream);
/* Send, wait, and return the first column of the first row, palloc'd, or NULL. */
extern char *dbscale_stream_value(RemoteStream *stream, const char *sql);
/* COPY ... TO STDOUT; the next piece (a whole row in the text format), or false at the end. */
extern void dbscale_stream_copy_out(RemoteStream *stream, const char *sql);
extern bool dbscale_stream_copy_row(RemoteStream *stream, const char **data, int *length);
/*
 * START_REPLICATION.  message gives the next one that has come, without waiting, or
 * false; it is valid until the next call.  put sends one.
 */
extern void dbscale_stream_start(RemoteStream *stream, const char *sql);
extern bool dbscale_stream_message(RemoteStream *stream, const char **data, int *length);
extern void dbscale_stream_put(RemoteStream *stream, const char *data, int length);
/* Wait until one of these (of RemoteStream *) has something to read, for timeout ms at most. */
extern void dbscale_stream_wait(List *streams, long timeout);

/*
 * For transaction/ only; none of these throws (they return false and leave the
 * connection marked broken).  cancel stops what runs on the node and empties the
 * queue, but first takes in the rows of statements sent below nest_level (0: none
 * are wanted); try_commands runs one command on each connection, all at once,
 * within timeout_ms (-1: no limit).
 */
extern bool dbscale_remote_cancel(RemoteConnection *conn, int nest_level, int timeout_ms);
extern bool dbscale_remote_try_commands(List *conns, List *commands, int timeout_ms,
										bool *succeeded, int *sqlstates);
/* What failed has been rolled back: the connection's next use is not to tell of it. */
extern void dbscale_remote_forget_errors(RemoteConnection *conn);
extern void dbscale_remote_mark_broken(RemoteConnection *conn);
/* Nothing is in flight (takes in what has arrived). */
extern bool dbscale_remote_is_idle(RemoteConnection *conn);
/* Wait quietly for all of a statement's results; false on timeout. */
extern bool dbscale_remote_wait_done(RemoteStatement *stmt, int timeout_ms);
/* The same for all that is in flight on the connection. */
extern bool dbscale_remote_wait_idle(RemoteConnection *conn, int timeout_ms);
/* The node has answered with an error that is still to be raised. */
extern bool dbscale_remote_has_failed(const RemoteStatement *stmt);
/* As in a wait: the hook below, then CHECK_FOR_INTERRUPTS. */
extern void dbscale_remote_check_interrupts(void);
/* Would that throw?  For who waits and may not be thrown out, but may tell the node to stop. */
extern bool dbscale_remote_interrupt_is_pending(void);
/* Ask the node to stop what it does, no more. */
extern void dbscale_remote_request_cancel(RemoteConnection *conn);
/* Statements sent at this nesting level belong to the one below from now on. */
extern void dbscale_remote_lower_level(RemoteConnection *conn, int nest_level);
/* End what runs outside a remote transaction for nobody; no-op inside one. */
extern void dbscale_remote_abandon(RemoteConnection *conn);

/*
 * What transaction/ keeps on a connection; remote/ only stores it, and takes a
 * connection that has one to be inside a remote transaction: it is not replaced.
 */
extern void *dbscale_remote_transaction_state(RemoteConnection *conn);
extern void dbscale_remote_set_transaction_state(RemoteConnection *conn, void *state);

/*
 * The deadlock detector's.  The first is called before CHECK_FOR_INTERRUPTS wherever a
 * wait for a node may be interrupted (so never after the local commit), and may throw;
 * the second tells, without throwing, whether the first would.
 */
extern void (*dbscale_remote_interrupt_hook) (void);
extern bool (*dbscale_remote_interrupt_pending_hook) (void);

extern void dbscale_remote_init(void);

#endif							/* DBSCALE_REMOTE_H */
