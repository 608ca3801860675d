/*
 * scan.c
 *		Reading shards: the scan callbacks of dbscale_fdw.
 *
 * What is sent, and when, is decided in run.c; here rows are taken as they arrive.
 * A scan that may be started again keeps the rows it has read, if the executor says
 * so beforehand (EXEC_FLAG_REWIND) or once it has happened.
 */
#include "executor/internal.h"

#include "nodes/nodeFuncs.h"
#include "utils/memutils.h"

static void
begin_scan(ForeignScanState *node, int eflags)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	ForeignScanRun *scan;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	scan = dbscale_run_add_scan(node, plan->fdw_private, false);
	if (eflags & EXEC_FLAG_REWIND)
		scan->flags |= REMOTE_KEEP_ROWS;
	node->fdw_state = scan;
}

static TupleTableSlot *
iterate_scan(ForeignScanState *node)
{
	ForeignScanRun *scan = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;
	RemoteRow	row;
	MemoryContext caller;
	HeapTuple	tuple;

	if (scan->statement == NULL)
		dbscale_run_send(scan);
	scan->at_start = false;
	if (scan->at_end || !dbscale_remote_next_row(scan->statement, &row))
	{
		scan->at_end = true;
		return ExecClearTuple(slot);
	}
	ExecClearTuple(slot);
	MemoryContextReset(scan->row_context);
	caller = MemoryContextSwitchTo(scan->row_context);
	tuple = dbscale_row_reader_tuple(scan->reader, &row);
	MemoryContextSwitchTo(caller);
	return ExecStoreHeapTuple(tuple, slot, false);
}

static void
rescan_scan(ForeignScanState *node)
{
	ForeignScanRun *scan = node->fdw_state;

	if (scan->statement == NULL)
		return;
	if (bms_overlap(node->ss.ps.chgParam, scan->exec_params))
		dbscale_run_close(scan);	/* other parameters, another statement */
	else if (scan->at_start)
		return;
	else if (scan->flags & REMOTE_KEEP_ROWS)
	{
		dbscale_remote_rewind(scan->statement);
		scan->at_start = true;
		scan->at_end = false;
	}
	else
	{
		dbscale_run_close(scan);
		if (scan->exec_params == NULL)
			scan->flags |= REMOTE_KEEP_ROWS;	/* it will happen again */
	}
}

static void
end_scan(ForeignScanState *node)
{
	ForeignScanRun *scan = node->fdw_state;

	if (scan == NULL)
		return;
	dbscale_run_close(scan);
	scan->ended = true;
}

void
dbscale_scan_set_callbacks(FdwRoutine *routine)
{
	routine->BeginForeignScan = begin_scan;
	routine->IterateForeignScan = iterate_scan;
	routine->ReScanForeignScan = rescan_scan;
	routine->EndForeignScan = end_scan;
}
