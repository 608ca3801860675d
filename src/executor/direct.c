/*
 * direct.c
 *		UPDATE and DELETE that a shard does by itself.
 *
 * One statement a shard, sent to all nodes together (run.c).  A row's change of
 * shard is the one thing a shard cannot do by itself: fdw.c keeps an UPDATE of the
 * shard key from being planned this way, and a join with RETURNING.
 */
#include "executor/internal.h"

#include "executor/instrument.h"
#include "utils/memutils.h"

static void
begin_direct(ForeignScanState *node, int eflags)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	node->fdw_state = dbscale_run_add_scan(node, plan->fdw_private, true);
}

/* No row is wanted: read the count, once. */
static TupleTableSlot *
finish_direct(ForeignScanRun *direct)
{
	TupleTableSlot *slot = direct->node->ss.ss_ScanTupleSlot;
	Instrumentation *instr = direct->node->ss.ps.instrument;
	uint64		count;

	if (!direct->at_end)
	{
		count = dbscale_remote_finish(direct->statement);
		direct->at_end = true;
		if (direct->set_processed)
			direct->run->estate->es_processed += count;
		if (instr)
			instr->tuplecount += count;
	}
	return ExecClearTuple(slot);
}

/* The next row for RETURNING; a row of NULLs stands for one that needs no column. */
static TupleTableSlot *
next_returned(ForeignScanRun *direct)
{
	TupleTableSlot *slot = direct->node->ss.ss_ScanTupleSlot;
	RemoteRow	row;
	MemoryContext caller;

	ExecClearTuple(slot);
	if (direct->at_end || !dbscale_remote_next_row(direct->statement, &row))
	{
		direct->at_end = true;
		return slot;
	}
	if (direct->set_processed)
		direct->run->estate->es_processed++;
	MemoryContextReset(direct->row_context);
	caller = MemoryContextSwitchTo(direct->row_context);
	ExecStoreHeapTuple(dbscale_row_reader_tuple(direct->reader, &row), slot, false);
	MemoryContextSwitchTo(caller);
	direct->result_rel->ri_projectReturning->pi_exprContext->ecxt_scantuple = slot;
	return slot;
}

/* RETURNING without a column of the table: as many empty rows as were changed. */
static TupleTableSlot *
next_dummy(ForeignScanRun *direct)
{
	TupleTableSlot *slot = direct->node->ss.ss_ScanTupleSlot;

	if (!direct->at_end)
	{
		direct->dummies = dbscale_remote_finish(direct->statement);
		direct->at_end = true;
	}
	if (direct->dummies == 0)
		return ExecClearTuple(slot);
	direct->dummies--;
	if (direct->set_processed)
		direct->run->estate->es_processed++;
	ExecStoreAllNullTuple(slot);
	direct->result_rel->ri_projectReturning->pi_exprContext->ecxt_scantuple = slot;
	return slot;
}

static TupleTableSlot *
iterate_direct(ForeignScanState *node)
{
	ForeignScanRun *direct = node->fdw_state;

	if (direct->statement == NULL)
		dbscale_run_send(direct);
	if (direct->result_rel->ri_projectReturning == NULL)
		return finish_direct(direct);
	if (!direct->has_returning)
		return next_dummy(direct);
	return next_returned(direct);
}

static void
end_direct(ForeignScanState *node)
{
	ForeignScanRun *direct = node->fdw_state;

	if (direct == NULL)
		return;
	dbscale_run_close(direct);
	direct->ended = true;
}

void
dbscale_direct_set_callbacks(FdwRoutine *routine)
{
	routine->BeginDirectModify = begin_direct;
	routine->IterateDirectModify = iterate_direct;
	routine->EndDirectModify = end_direct;
}
