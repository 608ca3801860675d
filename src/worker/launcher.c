/*
 * launcher.c
 *		The background worker that starts a maintenance worker a database.
 *
 * It is connected to no database, so it can only read the shared catalogs: which
 * databases there are.  Whether one has the extension its worker finds out; see
 * registry.c for the states.  Only a few workers are started at the same time,
 * because those of databases without the extension end at once, and the server's
 * background workers are few and meant for queries.
 */
#include "worker/registry.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#define LAUNCHER_NAP_MS 2000
#define MAX_STARTING 2

typedef struct Start
{
	Oid			database;
	BackgroundWorkerHandle *handle;
} Start;

PGDLLEXPORT void dbscale_launcher_main(Datum arg);

void
dbscale_launcher_register(void)
{
	BackgroundWorker worker = {0};

	/* pg_upgrade wants its databases for itself. */
	if (IsBinaryUpgrade)
		return;
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "dbscale", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "dbscale_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "dbscale launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "dbscale launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/* OIDs of the databases that can be connected to, in `context`. */
static List *
read_databases(MemoryContext context)
{
	List	   *result = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext previous;

		if (!database->datallowconn || database->datistemplate)
			continue;
		previous = MemoryContextSwitchTo(context);
		result = lappend_oid(result, database->oid);
		MemoryContextSwitchTo(previous);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	return result;
}

static BackgroundWorkerHandle *
start_worker(Oid database)
{
	BackgroundWorker worker = {0};
	BackgroundWorkerHandle *handle = NULL;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "dbscale", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "dbscale_maintenance_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "dbscale maintenance of database %u", database);
	strlcpy(worker.bgw_type, "dbscale maintenance", BGW_MAXLEN);
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		return NULL;
	return handle;
}

/* Forget the starts that have come to an end, well or not. */
static void
check_starts(Start *starts)
{
	for (int i = 0; i < MAX_STARTING; i++)
	{
		pid_t		pid;

		if (starts[i].handle == NULL)
			continue;
		if (GetBackgroundWorkerPid(starts[i].handle, &pid) == BGWH_STOPPED)
			dbscale_registry_start_failed(starts[i].database);
		else if (dbscale_registry_is_starting(starts[i].database))
			continue;
		pfree(starts[i].handle);
		starts[i].handle = NULL;
	}
}

/* Start what is wanted, as far as there is room; false when the server has no worker left. */
static bool
start_wanted(Start *starts)
{
	for (int i = 0; i < MAX_STARTING; i++)
	{
		if (starts[i].handle != NULL)
			continue;
		starts[i].database = dbscale_registry_next_start();
		if (!OidIsValid(starts[i].database))
			return true;
		starts[i].handle = start_worker(starts[i].database);
		if (starts[i].handle == NULL)
		{
			dbscale_registry_start_failed(starts[i].database);
			return false;
		}
	}
	return true;
}

static void
launcher_exits(int code, Datum arg)
{
	dbscale_registry_set_launcher(false);
}

void
dbscale_launcher_main(Datum arg)
{
	Start		starts[MAX_STARTING] = {{0}};
	bool		complained = false;
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	before_shmem_exit(launcher_exits, (Datum) 0);
	dbscale_registry_set_launcher(true);
	context = AllocSetContextCreate(TopMemoryContext, "dbscale launcher", ALLOCSET_SMALL_SIZES);

	while (!ShutdownRequestPending)
	{
		bool		room;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		MemoryContextSwitchTo(TopMemoryContext);	/* where the handles live */
		dbscale_registry_update(read_databases(context));
		MemoryContextReset(context);
		check_starts(starts);
		room = start_wanted(starts);
		if (!room && !complained)
			ereport(WARNING,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("dbscale could not start a maintenance worker"),
					 errhint("Increase max_worker_processes.")));
		complained = !room;

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 LAUNCHER_NAP_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	/* Not 0: that would tell the postmaster never to start the launcher again. */
	proc_exit(1);
}
