/*
 * internal.h
 *		What the files of remote/ share; no other folder includes it.
 */
#ifndef DBSCALE_REMOTE_INTERNAL_H
#define DBSCALE_REMOTE_INTERNAL_H

#include "remote/remote.h"

#include "datatype/timestamp.h"
#include "foreign/foreign.h"
#include "lib/ilist.h"
#include "libpq-fe.h"
#include "pgtime.h"
#include "utils/resowner.h"
#include "utils/tuplestore.h"

/* An error of a node (or a lost connection), taken out of its PGresult. */
typedef struct RemoteError
{
	int			sqlstate;
	bool		lost;			/* the connection is gone */
	char	   *message;
	char	   *detail;
	char	   *hint;
	char	   *context;
	char	   *schema;
	char	   *table;
	char	   *column;
	char	   *datatype;
	char	   *constraint;
	char	   *label;			/* shard or table the statement was for */
	MemoryContext memory;		/* its own, when a connection owns it; else NULL */
} RemoteError;

/* One libpq command in flight; the connection's queue has one for each, in order. */
typedef enum QueueKind
{
	QUEUE_STATEMENT,
	QUEUE_PREPARE,
	QUEUE_COMMAND,				/* nobody reads its result */
	QUEUE_SYNC					/* the end of a group */
} QueueKind;

/* How a command of dbscale_remote_try_commands ended; lives on the caller's stack. */
typedef struct CommandOutcome
{
	bool		done;
	bool		failed;
	int			sqlstate;
} CommandOutcome;

typedef struct QueueItem
{
	dlist_node	node;
	QueueKind	kind;
	RemoteStatement *statement; /* NULL: discarded, or not a statement */
	CommandOutcome *outcome;
	int			prepared_id;	/* 0: none */
	int			nest_level;		/* of the local transaction, when it was sent */
	bool		started;		/* its results have been looked at */
	bool		ended;			/* libpq has said so once */
} QueueItem;

typedef struct PreparedStatement
{
	dlist_node	node;			/* most recently used first */
	dlist_node	in_bucket;
	int			id;				/* its name on the node is dbscale_ID */
	uint32		hash;
	char	   *sql;
	int			ntypes;
	Oid		   *types;
	bool		confirmed;		/* the node has it for sure */
} PreparedStatement;

#define MAX_PREPARED 256
#define PREPARED_BUCKETS 64

/* libpq's pipeline mode can't COPY, so the connection leaves it for that. */
typedef enum RemoteMode
{
	MODE_PIPELINE,
	MODE_COPY_START,			/* COPY sent, the node's consent not yet read */
	MODE_COPY,					/* data may be sent */
	MODE_COPY_END				/* all sent, the result not yet read */
} RemoteMode;

typedef struct RemoteKey
{
	Oid			serverid;
	Oid			userid;
} RemoteKey;

struct RemoteConnection
{
	RemoteKey	key;			/* of the hash table; first */
	dlist_node	in_all;			/* of the list of all */
	PGconn	   *pg;				/* NULL when not connected */
	struct WaitEventSet *wait_set;	/* of pg's socket and our latch; NULL until it is needed */
	PostgresPollingStatusType polling;	/* what libpq waits for while it connects */
	TimestampTz opening_since;	/* start of the statement that began to connect ahead; else 0 */
	bool		broken;			/* lost; replaced by the next connect outside a transaction */
	bool		invalidated;	/* server or mapping changed: replace when unused */
	bool		in_transaction; /* a remote transaction is open, or may be */
	bool		replication;	/* speaks the replication protocol; see replication.c */
	void	   *transaction_state;
	NameData	node_name;
	uint32		server_hash;
	uint32		mapping_hash;
	TimestampTz last_used;

	MemoryContext context;		/* what follows points into it; reset on disconnect */
	dlist_head	queue;			/* of QueueItem */
	List	   *commands;		/* char *, to travel with the next statement */
	RemoteMode	mode;
	PGresult   *result;			/* being worked on; freed with the next */
	char	   *lost_detail;	/* in TopMemoryContext */

	/* The group of commands (up to a sync) whose results come now. */
	RemoteError *group_error;
	bool		group_error_seen;	/* a statement has it, or it is of no interest */
	RemoteError *pending_error; /* of a command nobody waited for; raised at the next use */
	RemoteStatement *failed_statement;	/* for sync: the first that failed meanwhile */

	/* What the node's session was last told. */
	bool		settings_known;
	char		timezone[TZ_STRLEN_MAX + 1];
	int			date_order;
	int			lock_timeout;
	int			parallel_workers;	/* -1: the node's own */
	bool		prepares;		/* statements may be prepared on the node */
	bool		plain_startup;	/* the settings can't be told at startup: a pooler refused */
	bool		workers_told;	/* since the session began: else they are its own */

	dlist_head	prepared;		/* of PreparedStatement, all */
	dlist_head	prepared_buckets[PREPARED_BUCKETS];
	int			nprepared;
	int			last_prepared_id;
	List	   *deallocate;		/* int list of ids */

	char	   *copy_label;
	Size		copy_unflushed;
};

struct RemoteStatement
{
	RemoteConnection *conn;
	QueueItem  *item;			/* NULL once all its results are here */
	MemoryContext context;		/* it lives there itself */
	MemoryContextCallback callback;
	ResourceOwner owner;		/* of the tuplestore's file */
	int			flags;
	char	   *label;
	bool		drop_rows;		/* only the count is wanted */
	bool		disowned;		/* cancelled before all of its rows were here */
	RemoteError *error;
	uint64		count;
	char		tag[64];

	/* Rows that were read before they were wanted, or kept for rewind. */
	Tuplestorestate *store;
	TupleDesc	desc;
	TupleTableSlot *slot;
	MemoryContext row_context;
	uint64		stored;
	uint64		consumed;

	/* Rows just arrived. */
	PGresult   *result;
	int			result_row;

	int			nfields;
	const char **values;
	int		   *lengths;
};

/* How long to wait, and whether an interrupt or a lost connection may throw. */
typedef struct RemoteWait
{
	bool		throws;
	TimestampTz deadline;		/* 0: none */
} RemoteWait;

typedef enum RemoteStep
{
	STEP_EMPTY,					/* nothing is in flight */
	STEP_DONE,					/* something was taken in */
	STEP_ROWS,					/* rows for the reader are in its result */
	STEP_BUSY,					/* would have to wait, or waited in vain */
	STEP_BROKEN
} RemoteStep;

/* wait.c */
extern RemoteWait remote_wait_throwing(void);
extern RemoteWait remote_wait_quiet(int timeout_ms);
extern bool remote_wait_socket(int socket, int events, const RemoteWait *wait);
extern bool remote_wait_input(RemoteConnection *conn, const RemoteWait *wait);
/* Before the connection is closed. */
extern void remote_forget_wait_set(RemoteConnection *conn);
extern void remote_wait_any(List *conns);
/* The same, for timeout ms at most (-1: no limit). */
extern void remote_wait_any_for(List *conns, long timeout);
extern bool remote_flush(RemoteConnection *conn, const RemoteWait *wait);

/* queue.c */
extern QueueItem *remote_push(RemoteConnection *conn, QueueKind kind, RemoteStatement *stmt);
extern RemoteStep remote_step(RemoteConnection *conn, RemoteStatement *reader, const RemoteWait *wait);
extern RemoteStep remote_drain(RemoteConnection *conn, const RemoteWait *wait);
extern void remote_pump(RemoteConnection *conn);
extern bool remote_send_sync(RemoteConnection *conn);
extern bool remote_send_command(RemoteConnection *conn, const char *sql, CommandOutcome *outcome);
extern bool remote_send_commands(RemoteConnection *conn, CommandOutcome *outcome);
extern bool remote_is_idle(const RemoteConnection *conn);

/* session.c */
extern char *remote_session_startup(RemoteConnection *conn, const char *options_of_server);
extern bool remote_session_startup_refused(const RemoteConnection *conn);
extern void remote_session_setup(RemoteConnection *conn);
extern char *remote_session_changes(RemoteConnection *conn);

/* prepared.c */
extern void remote_prepared_init(RemoteConnection *conn);
extern PreparedStatement *remote_prepared_lookup(RemoteConnection *conn, const char *sql,
												 const RemoteParams *params, bool *found);
extern char *remote_prepared_name(int id);
extern void remote_prepared_confirm(RemoteConnection *conn, int id);
extern void remote_prepared_failed(RemoteConnection *conn, int id, const RemoteError *error);
extern bool remote_prepared_deallocate(RemoteConnection *conn);

/* copy.c */
extern bool remote_copy_leave(RemoteConnection *conn, const RemoteWait *wait, bool give_up);

/* statement.c */
extern void remote_statement_rows(RemoteStatement *stmt, PGresult *result);

/* error.c */
extern RemoteError *remote_error_take(RemoteConnection *conn, const PGresult *result,
									  const char *label);
extern RemoteError *remote_error_lost(RemoteConnection *conn, const char *label);
extern RemoteError *remote_error_copy(const RemoteError *error, MemoryContext context);
extern void remote_error_free(RemoteError *error);
pg_noreturn extern void remote_raise(RemoteConnection *conn, const RemoteError *error);
extern void remote_raise_pending(RemoteConnection *conn);
extern char *remote_clean_message(const char *message);

/* connection.c */
extern void remote_lose(RemoteConnection *conn, const char *detail);
extern void remote_require_usable(RemoteConnection *conn);
/*
 * Connect a zeroed struct (but for context and replication) that is not in the cache
 * of connections, and not in pipeline mode.
 */
extern void remote_connect_apart(RemoteConnection *conn, Oid serverid, Oid userid);

#endif							/* DBSCALE_REMOTE_INTERNAL_H */
