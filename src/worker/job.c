/*
 * job.c
 *		The worker of one job, and the maintenance worker's tasks about jobs.
 *
 * What a job does is rebalance/'s; here is the process that does it.
 */
#include "worker/registry.h"

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "rebalance/rebalance.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"

PGDLLEXPORT void dbscale_job_main(Datum arg);

void
dbscale_job_main(Datum arg)
{
	Oid			database;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	database = dbscale_board_attach(DatumGetInt32(arg));
	if (!OidIsValid(database))
		proc_exit(0);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	dbscale_worker_session_defaults();
	pgstat_report_appname("dbscale job");
	pgstat_report_activity(STATE_RUNNING, "moving a shard");
	dbscale_rebalance_run_job();
	pgstat_report_stat(true);
	proc_exit(0);
}

static void
look_after(void *arg)
{
	dbscale_jobs_look_after();
}

static void
start_waiting(void *arg)
{
	dbscale_jobs_start_waiting();
}

static void
rebalance_if_due(void *arg)
{
	dbscale_jobs_rebalance_if_due();
}

void
dbscale_rebalance_task(void)
{
	dbscale_maintenance_attempt("rebalancing", "all nodes", rebalance_if_due, NULL);
}

void
dbscale_jobs_task(void)
{
	dbscale_maintenance_attempt("jobs", "ending", look_after, NULL);
	dbscale_maintenance_attempt("jobs", "starting", start_waiting, NULL);
}

typedef struct DueList
{
	MemoryContext context;
	List	   *records;
} DueList;

/* Copied, for each record is worked through in a transaction of its own. */
static void
list_due(void *arg)
{
	DueList    *list = arg;
	ListCell   *lc;

	foreach(lc, dbscale_cleanup_due(0))
	{
		const CleanupRecord *record = lfirst(lc);
		MemoryContext caller = MemoryContextSwitchTo(list->context);
		CleanupRecord *copy = palloc(sizeof(CleanupRecord));

		copy->node = pstrdup(record->node);
		copy->kind = pstrdup(record->kind);
		copy->name = pstrdup(record->name);
		copy->job = record->job;
		list->records = lappend(list->records, copy);
		MemoryContextSwitchTo(caller);
	}
}

static void
clean_up(void *arg)
{
	(void) dbscale_cleanup_do(arg);
}

/* A failure is of a node: it is noted by node, and the others go on. */
void
dbscale_cleanup_task(void)
{
	DueList		list = {CurrentMemoryContext, NIL};
	ListCell   *lc;

	dbscale_maintenance_attempt("catalog", "cleanup", list_due, &list);
	foreach(lc, list.records)
		dbscale_maintenance_attempt("cleaning up", ((CleanupRecord *) lfirst(lc))->node, clean_up, lfirst(lc));
}
