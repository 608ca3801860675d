/*
 * internal.h
 *		What the files of transaction/ share; no other folder includes it.
 */
#ifndef DBSCALE_TRANSACTION_INTERNAL_H
#define DBSCALE_TRANSACTION_INTERNAL_H

#include "transaction/transaction.h"

typedef enum PrepareState
{
	PREPARE_NONE,
	PREPARE_SENT,				/* the node may or may not have it prepared */
	PREPARE_DONE
} PrepareState;

/* A remote transaction; in TopTransactionContext, and known to its connection. */
typedef struct RemoteTransaction
{
	RemoteConnection *conn;
	int			depth;			/* 1: BEGIN was sent; n: savepoints up to level n; 0: ended */
	bool		wrote;
	bool		together;		/* its snapshot is of one moment with those of other nodes */
	bool		changing;		/* its end was begun and not seen: what it is in is unknown */
	PrepareState prepare;
	char	   *gid;
} RemoteTransaction;

/* transaction.c */
extern RemoteTransaction *transaction_begin(RemoteConnection *conn, RemoteUse use);
/* It has been ended on the node: the connection is free. */
extern void transaction_forget(RemoteTransaction *remote);
extern List *transaction_list(void);

/* snapshots.c */
extern void gate_enter_commit(void);
extern void gate_leave_commit(void);
extern bool snapshots_are_kept(RemoteUse use);
extern void snapshots_open_everywhere(Oid userid);
extern void snapshots_join(RemoteTransaction *remote);

/* copies.c */
extern void copies_enter_commit(void);
extern void copies_end_transaction(void);
extern void copies_note_given_up(void);
extern void copies_init(void);

/* pending.c */
extern void pending_flush_at(int nest_level);
extern int	pending_nest_level(void);
extern bool pending_exists(void);
extern void pending_end_transaction(void);
extern void pending_commit_sub(int nest_level);
extern void pending_abort_sub(int nest_level);

/* two_phase.c; lists are of RemoteTransaction * */
extern char *gid_prefix(void);
extern void two_phase_prepare(List *writers);
extern void two_phase_commit(List *writers);
extern void two_phase_rollback(List *ended);
extern bool prepared_is_gone(int sqlstate);
/* After the local transaction: interrupts are served again. */
extern void committed_alone_end(bool committed);
extern void commit_alone(RemoteTransaction *writer);

/* recovery.c; the log is asked as it is now */
extern bool gid_is_in_progress(const char *gid);
extern bool log_has_any(const char *node, List *gids);
/* Asks the node: is something prepared there that has been committed here? */
extern bool node_has_doubt(RemoteConnection *conn);

#endif							/* DBSCALE_TRANSACTION_INTERNAL_H */
