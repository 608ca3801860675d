/*
 * fallback.c
 *		Why a table is read or written through its foreign tables: told in EXPLAIN.
 *
 * The reasons are collected while query levels are looked at, by table.  Afterwards each
 * foreign scan of the plan gets the reason of the first table that it reads, as the last
 * item of its fdw_private (see plan/plan.h), where copies of the plan keep it.  All get
 * it, because some may be pruned before EXPLAIN sees them; it is shown once.
 */
#include "planner/fallback.h"

#include "nodes/bitmapset.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "plan/plan.h"

typedef struct Fallback
{
	Oid			table;
	const char *reason;
} Fallback;

static const char *
reason_of(List *reasons, Oid table)
{
	ListCell   *lc;

	foreach(lc, reasons)
	{
		Fallback   *fallback = lfirst(lc);

		if (fallback->table == table)
			return fallback->reason;
	}
	return NULL;
}

List *
dbscale_fallback_note(List *reasons, Query *query, const char *reason)
{
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);
		const DistributedTable *table;
		Fallback   *fallback;

		if (reason == NULL || rte->rtekind != RTE_RELATION ||
			(table = dbscale_catalog_table(rte->relid)) == NULL || table->is_reference ||
			reason_of(reasons, rte->relid) != NULL)
			continue;
		fallback = palloc(sizeof(Fallback));
		fallback->table = rte->relid;
		fallback->reason = reason;
		reasons = lappend(reasons, fallback);
	}
	return reasons;
}

typedef struct NoteContext
{
	List	   *reasons;
	const char *reason;
} NoteContext;

static bool
note_levels(Node *node, NoteContext *context)
{
	if (node == NULL)
		return false;
	if (!IsA(node, Query))
		return expression_tree_walker(node, note_levels, context);
	context->reasons = dbscale_fallback_note(context->reasons, (Query *) node, context->reason);
	return query_tree_walker((Query *) node, note_levels, context, 0);
}

List *
dbscale_fallback_note_all(List *reasons, Query *query, const char *reason)
{
	NoteContext context = {reasons, reason};

	note_levels((Node *) query, &context);
	return context.reasons;
}

static void
tell_scan(ForeignScan *scan, List *rtable, List *reasons)
{
	int			rti = -1;

	while ((rti = bms_next_member(scan->fs_relids, rti)) > 0)
	{
		RangeTblEntry *rte = rt_fetch(rti, rtable);
		const DistributedTable *table = NULL;
		const char *reason;
		int			shard;

		if (rte->rtekind == RTE_RELATION)
			table = dbscale_catalog_owner_of(rte->relid, &shard);
		if (table == NULL)
			continue;
		reason = reason_of(reasons, table->relid);
		if (reason != NULL)
			scan->fdw_private = dbscale_plan_add_reason(scan->fdw_private, reason);
		return;
	}
}

static void
tell_scans(Plan *plan, List *rtable, List *reasons)
{
	List	   *children = NIL;
	ListCell   *lc;

	if (plan == NULL)
		return;
	if (IsA(plan, ForeignScan))
		tell_scan((ForeignScan *) plan, rtable, reasons);
	else if (IsA(plan, Append))
		children = ((Append *) plan)->appendplans;
	else if (IsA(plan, MergeAppend))
		children = ((MergeAppend *) plan)->mergeplans;
	else if (IsA(plan, SubqueryScan))
		children = list_make1(((SubqueryScan *) plan)->subplan);
	foreach(lc, children)
		tell_scans(lfirst(lc), rtable, reasons);
	tell_scans(plan->lefttree, rtable, reasons);
	tell_scans(plan->righttree, rtable, reasons);
}

void
dbscale_fallback_tell(PlannedStmt *plan, List *reasons)
{
	ListCell   *lc;

	if (reasons == NIL)
		return;
	tell_scans(plan->planTree, plan->rtable, reasons);
	foreach(lc, plan->subplans)
		tell_scans(lfirst(lc), plan->rtable, reasons);
}
