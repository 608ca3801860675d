/*
 * registry.h
 *		Which database's worker is in which state; private to worker/.
 */
#ifndef DBSCALE_WORKER_REGISTRY_H
#define DBSCALE_WORKER_REGISTRY_H

#include "worker/worker.h"

#include "nodes/pg_list.h"

/* registry.c, for the launcher */
extern void dbscale_registry_init(void);
extern void dbscale_registry_set_launcher(bool alive);
/* Enter the databases that are new, forget those that are gone. */
extern void dbscale_registry_update(List *databases);
/* The next database whose worker is to be started now, marked as starting; or InvalidOid. */
extern Oid	dbscale_registry_next_start(void);
/* The start came to nothing: try again after a pause. */
extern void dbscale_registry_start_failed(Oid database);
/* True while the database's worker has been asked for and not yet come up. */
extern bool dbscale_registry_is_starting(Oid database);

/* registry.c, for a worker: false when it should exit at once. */
extern bool dbscale_registry_attach(Oid database);
/* True while the transaction that asked for this worker is in progress. */
extern bool dbscale_registry_creator_is_running(void);
/* The extension is not there: exit, unless somebody has asked for the worker again. */
extern void dbscale_registry_leave(void);

/* registry.c, for a command that must have a database for itself. */
extern void dbscale_registry_hold(Oid database);
extern void dbscale_registry_release(Oid database);

/* launcher.c */
extern void dbscale_launcher_register(void);

/* databases.c: the hook that stops the worker of a database that is dropped */
extern void dbscale_databases_init(void);

/* maintenance.c */
/*
 * Run body(arg) in a transaction of its own.  An error is logged, once for the same
 * message on the same subject, and false returned.  After a failure that took long
 * (a node that does not answer) the same attempt is skipped for some time.
 */
extern bool dbscale_maintenance_attempt(const char *task, const char *subject,
										void (*body) (void *arg), void *arg);
/* The same, but when a table or function is not there the body runs a second time: it may just have been dropped. */
extern bool dbscale_maintenance_attempt_again(const char *task, const char *subject,
											  void (*body) (void *arg), void *arg);

/* A node as tasks see it, outside of transactions. */
typedef struct NodeRef
{
	NameData	name;
	Oid			serverid;
	Oid			userid;			/* whose mapping maintenance uses */
} NodeRef;

/* The enabled nodes, of NodeRef *, in the current memory context. */
extern List *dbscale_maintenance_nodes(void);

/* The tasks. */
extern void dbscale_fold_task(void);
extern void dbscale_fold_early_task(void);
extern void dbscale_premake_task(void);
extern void dbscale_deadlock_task(void);
extern void dbscale_jobs_task(void);
extern void dbscale_cleanup_task(void);
extern void dbscale_rebalance_task(void);

/* Settings made for users of the database must not change what workers do. */
extern void dbscale_worker_session_defaults(void);

/* deadlock.c */
extern void dbscale_deadlock_init(void);

#endif							/* DBSCALE_WORKER_REGISTRY_H */
