/*
 * maintenance.c
 *		The background worker of one database, and the table of its tasks.
 *
 * It ends by itself when its database has no extension (any more).  Until then it
 * runs every task at its interval.  A task's every attempt, on one node or one
 * table, is a transaction of its own: what one meets does not keep the others from
 * going on.  What fails is written to the log once, and again when it fails in
 * another way or works again.
 *
 * A node that does not answer costs dbscale.connect_timeout at each attempt, during
 * which no other task runs.  So an attempt that failed is not repeated before three
 * times as long has passed as it took; a node that refuses at once is asked at every
 * interval, and resolved as soon as it is back.
 */
#include "worker/registry.h"

#include <signal.h>

#include "access/xact.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define LOOK_MS 1000			/* how often to look whether the extension is still there */
#define CREATOR_POLL_MS 100

typedef struct Task
{
	const char *name;
	const int  *interval;		/* ms; 0: never */
	void		(*run) (void);
	const char *lock_timeout;	/* here and on the nodes */
	TimestampTz ended;			/* when it ran the last time */
} Task;

static void recovery_task(void);

static const int jobs_interval = 1000;	/* ms; what it costs is a look at two small tables */
static const int fold_early_interval = 200;	/* ms; a look at each node, if folds are rarer than that */

static Task tasks[] = {
	{"recovery", &dbscale_recovery_interval, recovery_task, "0", 0},
	{"counters", &dbscale_counter_fold_interval, dbscale_fold_task, "1s", 0},
	{"pending counters", &fold_early_interval, dbscale_fold_early_task, "1s", 0},
	{"premake", &dbscale_premake_interval, dbscale_premake_task, "0", 0},
	{"deadlock detection", &dbscale_deadlock_interval, dbscale_deadlock_task, "0", 0},
	{"jobs", &jobs_interval, dbscale_jobs_task, "0", 0},
	{"cleaning up", &jobs_interval, dbscale_cleanup_task, "0", 0},
	{"rebalancing", &dbscale_auto_rebalance_interval, dbscale_rebalance_task, "0", 0},
};

/* What is known of an attempt that failed the last time. */
typedef struct Failure
{
	dlist_node	link;
	char		task[NAMEDATALEN];
	char		subject[NAMEDATALEN];
	char	   *message;
	TimestampTz not_before;
} Failure;

static dlist_head failures = DLIST_STATIC_INIT(failures);
static volatile sig_atomic_t task_is_running = false;

PGDLLEXPORT void dbscale_maintenance_main(Datum arg);

/* Between tasks the worker leaves silently; a running task is interrupted. */
static void
handle_sigterm(SIGNAL_ARGS)
{
	if (task_is_running)
		die(postgres_signal_arg);
	else
		SignalHandlerForShutdownRequest(postgres_signal_arg);
}

static Failure *
find_failure(const char *task, const char *subject)
{
	dlist_iter	iter;

	dlist_foreach(iter, &failures)
	{
		Failure    *failure = dlist_container(Failure, link, iter.cur);

		if (strcmp(failure->task, task) == 0 && strcmp(failure->subject, subject) == 0)
			return failure;
	}
	return NULL;
}

static void
note_success(const char *task, const char *subject)
{
	Failure    *failure = find_failure(task, subject);

	if (failure == NULL)
		return;
	ereport(LOG, errmsg("dbscale: %s of \"%s\" works again", task, subject));
	dlist_delete(&failure->link);
	pfree(failure->message);
	pfree(failure);
}

static void
note_failure(const char *task, const char *subject, const ErrorData *error, TimestampTz start)
{
	Failure    *failure = find_failure(task, subject);
	TimestampTz now = GetCurrentTimestamp();

	if (failure == NULL)
	{
		failure = MemoryContextAllocZero(TopMemoryContext, sizeof(Failure));
		strlcpy(failure->task, task, NAMEDATALEN);
		strlcpy(failure->subject, subject, NAMEDATALEN);
		failure->message = MemoryContextStrdup(TopMemoryContext, "");
		dlist_push_tail(&failures, &failure->link);
	}
	failure->not_before = now + 3 * (now - start);
	if (strcmp(failure->message, error->message) == 0)
		return;
	pfree(failure->message);
	failure->message = MemoryContextStrdup(TopMemoryContext, error->message);
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("dbscale: %s of \"%s\" failed: %s", task, subject, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0));
}

/* True when the transaction that is to follow a failure is still worth reporting. */
static bool
extension_is_there(void)
{
	bool		result;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	result = dbscale_extension_exists();
	CommitTransactionCommand();
	return result;
}

/* The body in a transaction; its error, in the current context, or NULL. */
static ErrorData *
run_body(void (*body) (void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();	/* what now() says */
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		body(arg);
		if (ActiveSnapshotSet())
			PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return error;
}

static bool
attempt(const char *task, const char *subject, void (*body) (void *arg), void *arg, bool look_again)
{
	MemoryContext context = CurrentMemoryContext;
	TimestampTz start = GetCurrentTimestamp();
	Failure    *failure = find_failure(task, subject);
	ErrorData  *error;

	if (failure && start < failure->not_before)
		return false;

	error = run_body(body, arg);
	if (error && look_again && (error->sqlerrcode == ERRCODE_UNDEFINED_TABLE || error->sqlerrcode == ERRCODE_UNDEFINED_FUNCTION))
		error = run_body(body, arg);
	if (error == NULL)
	{
		note_success(task, subject);
		return true;
	}
	/* DROP EXTENSION pulls the rug from under whatever runs. */
	if (extension_is_there())
		note_failure(task, subject, error, start);
	MemoryContextSwitchTo(context);
	return false;
}

bool
dbscale_maintenance_attempt(const char *task, const char *subject, void (*body) (void *arg), void *arg)
{
	return attempt(task, subject, body, arg, false);
}

bool
dbscale_maintenance_attempt_again(const char *task, const char *subject, void (*body) (void *arg), void *arg)
{
	return attempt(task, subject, body, arg, true);
}

typedef struct NodeList
{
	MemoryContext context;
	List	   *nodes;
} NodeList;

static void
list_nodes(void *arg)
{
	NodeList   *list = arg;
	ListCell   *cell;

	foreach(cell, dbscale_catalog_nodes())
	{
		const ShardNode *node = lfirst(cell);
		Oid			user = dbscale_ddl_node_user(node);
		MemoryContext previous;
		NodeRef    *ref;

		if (!node->enabled)
			continue;
		previous = MemoryContextSwitchTo(list->context);
		ref = palloc(sizeof(NodeRef));
		ref->name = node->name;
		ref->serverid = node->serverid;
		ref->userid = user;
		list->nodes = lappend(list->nodes, ref);
		MemoryContextSwitchTo(previous);
	}
}

List *
dbscale_maintenance_nodes(void)
{
	NodeList	list = {CurrentMemoryContext, NIL};

	dbscale_maintenance_attempt("catalog", "node", list_nodes, &list);
	return list.nodes;
}

/*
 * Not waiting: who has called recover_transactions() keeps others out until the end of
 * his transaction, and may be in a deadlock that only our next task can break.
 */
static void
recover_node(void *arg)
{
	const NodeRef *node = arg;
	int			resolved = dbscale_transaction_recover_node(node->serverid, node->userid, false);

	if (resolved > 0)
		ereport(LOG, errmsg("dbscale: resolved %d transactions on node \"%s\"",
							resolved, NameStr(node->name)));
}

static void
recovery_task(void)
{
	ListCell   *cell;

	foreach(cell, dbscale_maintenance_nodes())
	{
		NodeRef    *node = lfirst(cell);

		dbscale_maintenance_attempt("recovery", NameStr(node->name), recover_node, node);
	}
}

/* A node that was removed or disabled is not to be kept busy by our session on it. */
static void
close_unused_connections(void)
{
	List	   *nodes = dbscale_maintenance_nodes();
	ListCell   *cell;

	foreach(cell, dbscale_remote_connections())
	{
		RemoteConnection *conn = lfirst(cell);
		bool		used = false;
		ListCell   *n;

		foreach(n, nodes)
			used |= ((NodeRef *) lfirst(n))->serverid == dbscale_remote_server(conn);
		if (!used)
			dbscale_remote_disconnect(conn);
	}
}

/* Run what is due; returns the ms until something is due again. */
static long
run_tasks(void)
{
	long		nap = LOOK_MS;

	for (int i = 0; i < lengthof(tasks); i++)
	{
		Task	   *task = &tasks[i];
		TimestampTz now = GetCurrentTimestamp();

		if (*task->interval == 0)
			continue;
		/* From the last end: an interval that was changed holds at once. */
		if (TimestampTzPlusMilliseconds(task->ended, *task->interval) <= now ||
			task->ended > now)	/* the clock was set back */
		{
			pgstat_report_activity(STATE_RUNNING, task->name);
			SetConfigOption("lock_timeout", task->lock_timeout, PGC_SUSET, PGC_S_SESSION);
			task->run();
			pgstat_report_activity(STATE_IDLE, NULL);
			task->ended = now = GetCurrentTimestamp();
			CHECK_FOR_INTERRUPTS();
		}
		nap = Min(nap, TimestampDifferenceMilliseconds(now, TimestampTzPlusMilliseconds(task->ended, *task->interval)));
	}
	return Max(nap, 1);
}

static void
sleep_ms(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	if (ShutdownRequestPending)
		proc_exit(0);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/*
 * Return when the extension is there; otherwise do not return.  The order matters:
 * first it is seen that the creating transaction has ended, then the catalog is read.
 */
static void
require_extension(void)
{
	while (dbscale_registry_creator_is_running())
		sleep_ms(CREATOR_POLL_MS);
	if (!extension_is_there())
		dbscale_registry_leave();
}

void
dbscale_worker_session_defaults(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"datestyle", "ISO, MDY"},
		{"intervalstyle", "postgres"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"row_security", "off"},
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	compat_disable_transaction_timeout();	/* which would end a move that copies for long */
}

static void
maintain(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "dbscale maintenance",
												  ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		long		nap;

		require_extension();
		MemoryContextSwitchTo(context);
		task_is_running = true;
		close_unused_connections();
		nap = run_tasks();
		task_is_running = false;
		MemoryContextSwitchTo(TopMemoryContext);
		MemoryContextReset(context);
		pgstat_report_stat(true);
		sleep_ms(nap);
	}
}

/*
 * We connect as the bootstrap superuser: who owns the extension cannot be known
 * before.  The tasks use the user mapping of the servers' owner on the nodes.
 */
void
dbscale_maintenance_main(Datum arg)
{
	Oid			database = DatumGetObjectId(arg);

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, handle_sigterm);
	if (!dbscale_registry_attach(database))
		proc_exit(0);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	dbscale_worker_session_defaults();
	pgstat_report_appname("dbscale maintenance");
	pgstat_report_activity(STATE_IDLE, NULL);
	maintain();
}
