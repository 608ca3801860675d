/*
 * whole_plan.c
 *		The plan of a statement that is one custom scan.
 *
 * It is put together as core's planner would leave it.  The rows that the scan takes,
 * if it takes any, have been planned by core, as a statement of their own; the scan is
 * put on top of that plan.
 */
#include "planner/whole_plan.h"

#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/planmain.h"

List *
dbscale_visible_columns(Query *query)
{
	List	   *from = query->commandType == CMD_SELECT ? query->targetList : query->returningList;
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, from)
		if (!((TargetEntry *) lfirst(lc))->resjunk)
			result = lappend(result, lfirst(lc));
	return result;
}

/*
 * What the scan returns is described by Vars of a made-up range table entry, so
 * that EXPLAIN can name the columns.
 */
static RangeTblEntry *
result_entry(List *columns)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, columns)
	{
		TargetEntry *tle = lfirst(lc);

		names = lappend(names, makeString(pstrdup(tle->resname ? tle->resname : "?column?")));
	}
	rte->rtekind = RTE_VALUES;
	rte->alias = makeAlias("shard", NIL);
	rte->eref = makeAlias("shard", names);
	return rte;
}

static void
add_result_columns(CustomScan *scan, List *columns, Index rti)
{
	AttrNumber	attno = 0;
	ListCell   *lc;

	foreach(lc, columns)
	{
		TargetEntry *tle = lfirst(lc);
		Node	   *expr = (Node *) tle->expr;
		Var		   *source = makeVar(rti, ++attno, exprType(expr), exprTypmod(expr),
									 exprCollation(expr), 0);
		Var		   *output = makeVar(INDEX_VAR, attno, exprType(expr), exprTypmod(expr),
									 exprCollation(expr), 0);
		TargetEntry *target = makeTargetEntry((Expr *) output, attno, tle->resname, false);

		target->resorigtbl = tle->resorigtbl;
		target->resorigcol = tle->resorigcol;
		scan->custom_scan_tlist = lappend(scan->custom_scan_tlist,
										  makeTargetEntry((Expr *) source, attno, tle->resname, false));
		scan->scan.plan.targetlist = lappend(scan->scan.plan.targetlist, target);
	}
}

/* Every relation that the plan depends on, views included. */
static void
add_dependencies(PlannedStmt *plan)
{
	ListCell   *lc;

	foreach(lc, plan->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (OidIsValid(rte->relid))
			plan->relationOids = list_append_unique_oid(plan->relationOids, rte->relid);
	}
}

PlannedStmt *
dbscale_whole_plan(Query *query, const WholePlan *parts)
{
	PlannedStmt *plan = parts->source ? parts->source : makeNode(PlannedStmt);
	CustomScan *scan = makeNode(CustomScan);
	List	   *columns = dbscale_visible_columns(query);
	ListCell   *lc;

	plan->rtable = lappend(parts->rtable, result_entry(columns));
	dbscale_set_perminfos(plan, parts->perminfos);
	add_result_columns(scan, columns, list_length(plan->rtable));
	scan->scan.plan.plan_rows = 1;
	scan->scan.plan.startup_cost = 10;
	scan->scan.plan.total_cost = 11;
	scan->methods = parts->methods;
	scan->custom_private = parts->private;
	foreach(lc, parts->exprs)
		scan->custom_exprs = lappend(scan->custom_exprs, expression_planner(lfirst(lc)));
	if (parts->source)
	{
		scan->custom_plans = list_make1(plan->planTree);
		scan->scan.plan.startup_cost += plan->planTree->total_cost;
		scan->scan.plan.total_cost += plan->planTree->total_cost;
		scan->scan.plan.plan_rows = plan->planTree->plan_rows;
		scan->scan.plan.extParam = bms_copy(plan->planTree->extParam);
		scan->scan.plan.allParam = bms_copy(plan->planTree->allParam);
	}

	plan->commandType = query->commandType;
	plan->queryId = query->queryId;
	plan->hasReturning = query->returningList != NIL;
	plan->hasModifyingCTE = parts->modifies_with;
	plan->canSetTag = query->canSetTag;
	plan->planTree = (Plan *) scan;
	if (parts->scrolls)
		plan->planTree = materialize_finished_plan(plan->planTree);
	add_dependencies(plan);
	plan->stmt_location = query->stmt_location;
	plan->stmt_len = query->stmt_len;
	return plan;
}
