/*
 * barrier.c
 *		Statements that must have read everything before they write.
 *
 * A statement must not see its own writes.  Here that is so because its scans are
 * sent to the nodes before its first write; but a scan that depends on a row of
 * another (a correlated subquery, the inner side of a nested loop) is sent again
 * for each of them, between the writes, and would see those made so far:
 *
 *     UPDATE posts p SET rank = 1
 *     WHERE (SELECT count(*) FROM posts o WHERE o.day = p.day) > 3
 *
 * So where the plan of a write has such a scan, a Sort is put below the
 * ModifyTable: it reads all of its input before it gives out the first row.  What
 * it sorts by is of no importance.  (What cannot be given a barrier, such as a
 * second part of the statement after a data-modifying WITH, is refused by the
 * executor when it meets the case; see executor/run.c.)
 */
#include "planner/barrier.h"

#include "foreign/fdwapi.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/planmain.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

/* Is there a foreign scan that is sent anew for each value of a parameter? */
static bool
has_dependent_scan(Plan *plan)
{
	ListCell   *lc;
	List	   *children = NIL;

	if (plan == NULL)
		return false;
	if (IsA(plan, ForeignScan) && !bms_is_empty(plan->allParam))
		return true;
	if (IsA(plan, Append))
		children = ((Append *) plan)->appendplans;
	else if (IsA(plan, MergeAppend))
		children = ((MergeAppend *) plan)->mergeplans;
	else if (IsA(plan, SubqueryScan))
		children = list_make1(((SubqueryScan *) plan)->subplan);
	foreach(lc, children)
		if (has_dependent_scan(lfirst(lc)))
			return true;
	return has_dependent_scan(plan->lefttree) || has_dependent_scan(plan->righttree);
}

/* A column that can be sorted by; 0 if there is none. */
static AttrNumber
sortable_column(List *targetlist, Oid *operator, Oid *collation)
{
	ListCell   *lc;

	foreach(lc, targetlist)
	{
		TargetEntry *tle = lfirst(lc);
		TypeCacheEntry *type = lookup_type_cache(exprType((Node *) tle->expr), TYPECACHE_LT_OPR);

		if (!OidIsValid(type->lt_opr))
			continue;
		*operator = type->lt_opr;
		*collation = exprCollation((Node *) tle->expr);
		return tle->resno;
	}
	return 0;
}

/*
 * The same columns, taken from the plan below.  Constants stay themselves: the
 * executor wants to see that a dropped or generated column gets a NULL.
 */
static List *
pass_through(List *targetlist)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, targetlist)
	{
		TargetEntry *tle = lfirst(lc);
		Node	   *expr = (Node *) tle->expr;
		Var		   *var = makeVar(OUTER_VAR, tle->resno, exprType(expr), exprTypmod(expr),
								  exprCollation(expr), 0);
		TargetEntry *copy = flatCopyTargetEntry(tle);

		if (!IsA(expr, Const))
			copy->expr = (Expr *) var;
		result = lappend(result, copy);
	}
	return result;
}

static void
put_sort_below(ModifyTable *modify)
{
	Plan	   *input = outerPlan(modify);
	Sort	   *sort = makeNode(Sort);
	Oid			operator = InvalidOid;
	Oid			collation = InvalidOid;
	AttrNumber	column = sortable_column(input->targetlist, &operator, &collation);

	if (column == 0)
		return;
	sort->plan.startup_cost = sort->plan.total_cost = input->total_cost;
	sort->plan.plan_rows = input->plan_rows;
	sort->plan.plan_width = input->plan_width;
	sort->plan.targetlist = pass_through(input->targetlist);
	sort->plan.extParam = bms_copy(input->extParam);
	sort->plan.allParam = bms_copy(input->allParam);
	sort->plan.lefttree = input;
	sort->numCols = 1;
	sort->sortColIdx = palloc(sizeof(AttrNumber));
	sort->sortColIdx[0] = column;
	sort->sortOperators = palloc(sizeof(Oid));
	sort->sortOperators[0] = operator;
	sort->collations = palloc(sizeof(Oid));
	sort->collations[0] = collation;
	sort->nullsFirst = palloc(sizeof(bool));
	sort->nullsFirst[0] = false;
	outerPlan(modify) = (Plan *) sort;
}

static bool
any_dependent_scan(PlannedStmt *plan)
{
	ListCell   *lc;

	foreach(lc, plan->subplans)
		if (has_dependent_scan(lfirst(lc)))
			return true;
	return false;
}

void
dbscale_barrier_add(PlannedStmt *plan)
{
	ModifyTable *modify = (ModifyTable *) plan->planTree;

	/* direct modifications are sent whole: the rows above them are results */
	if (!IsA(modify, ModifyTable) || outerPlan(modify) == NULL ||
		!bms_is_empty(modify->fdwDirectModifyPlans))
		return;
	if (has_dependent_scan(outerPlan(modify)) || any_dependent_scan(plan))
		put_sort_below(modify);
}
