/*
 * dbscale.c
 *		Module load: settings, hooks, worker registration; nothing else.
 */
#include "base/base.h"
#include "fmgr.h"
#include "miscadmin.h"

#include "catalog/metadata.h"
#include "catalog/progress.h"
#include "catalog/traffic.h"
#include "counter/counter.h"
#include "ddl/ddl.h"
#include "executor/wrapper.h"
#include "planner/planner.h"
#include "rebalance/rebalance.h"
#include "remote/remote.h"
#include "transaction/transaction.h"
#include "worker/worker.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

/*
 * A library that was not preloaded defines its settings, so that the refusal of
 * CREATE EXTENSION can be reached, and hooks nothing.
 */
void
_PG_init(void)
{
	dbscale_was_preloaded = process_shared_preload_libraries_in_progress;
	dbscale_settings_init();
	if (!dbscale_was_preloaded)
		return;

	dbscale_catalog_init();
	dbscale_progress_init();
	dbscale_traffic_init();
	dbscale_remote_init();
	dbscale_transaction_init();
	dbscale_planner_init();
	dbscale_executor_init();
	dbscale_utility_init();
	dbscale_counter_init();
	dbscale_ddl_before_hook = dbscale_counter_suspend;
	dbscale_ddl_after_hook = dbscale_counter_resume;
	dbscale_ddl_shard_sql_hook = dbscale_counter_shard_sql;
	dbscale_ddl_key_tables_hook = dbscale_counter_key_tables;
	dbscale_rebalance_init();
	dbscale_worker_init();
}
