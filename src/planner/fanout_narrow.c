/*
 * fanout_narrow.c
 *		UPDATE and DELETE that core plans over the foreign tables: fewer rows to fetch.
 *
 * Core joins the target's rows, which have to be fetched and locked before, with what
 * shards do not have.  What the join will keep of them can often be told in advance:
 *
 * 1. value IN (SELECT …), where the subquery mentions no row outside, as = ANY (ARRAY(SELECT …)),
 *    which has the same NULLs.  The array is a parameter of the shards' statements.
 * 2. A join of one of the target's columns with a small side, local or distributed, as the
 *    filter of fanout_join.c: it is implied by the join, which drops the other rows.
 *
 * In both the subquery is read once, before the first row is written, as core would read
 * the join's other side.
 */
#include "planner/fanout_parts.h"

#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"

/* The subquery of an array is a query like any other. */
static Node *
with_pushed_array(Node *condition, List **reasons)
{
	SubLink    *array = llast(castNode(ScalarArrayOpExpr, condition)->args);

	array->subselect = (Node *) dbscale_fanout_rewrite((Query *) array->subselect, reasons);
	return condition;
}

/* The side of the join that the column is of; NULL if it is not small beside the target. */
static Part *
small_side_of(Query *query, List *conditions, Var *column, Part *target)
{
	ListCell   *lc;

	foreach(lc, query->jointree->fromlist)
	{
		Bitmapset  *members = parts_members_of(lfirst(lc));
		List	   *units = list_make1(lfirst(lc));
		Part	   *part;

		if (!bms_is_member(column->varno, members) || bms_overlap(members, target->members))
			continue;
		if (parts_is_placeable(query, units, members, conditions))
			part = parts_make_one(query, units, conditions);
		else
			part = parts_make_local(query, units, conditions);
		return part != NULL && parts_is_small_beside(part, target) ? part : NULL;
	}
	return NULL;
}

static bool
is_column_of(Node *node, int varno)
{
	return IsA(node, Var) && ((Var *) node)->varlevelsup == 0 && ((Var *) node)->varno == varno && ((Var *) node)->varattno > 0;
}

/* The filter that the join condition implies for the target; NULL for none. */
static Node *
implied_filter(Query *query, List *conditions, OpExpr *op, Part *target)
{
	Node	   *own;
	Node	   *other;
	Part	   *small;

	if (!parts_can_filter(op))
		return NULL;
	own = is_column_of(linitial(op->args), target->rti) ? linitial(op->args) : lsecond(op->args);
	other = own == linitial(op->args) ? lsecond(op->args) : linitial(op->args);
	if (!is_column_of(own, target->rti) || !IsA(other, Var) || ((Var *) other)->varlevelsup != 0 || ((Var *) other)->varattno <= 0)
		return NULL;
	small = small_side_of(query, conditions, (Var *) other, target);
	if (small == NULL)
		return NULL;
	return parts_filter(op, copyObject((Expr *) own), small, copyObject((Expr *) other));
}

/* The entry of the target as it stands in FROM. */
static Node *
target_unit(Query *query)
{
	ListCell   *lc;

	foreach(lc, query->jointree->fromlist)
		if (IsA(lfirst(lc), RangeTblRef) && ((RangeTblRef *) lfirst(lc))->rtindex == query->resultRelation)
			return lfirst(lc);
	return NULL;
}

Query *
dbscale_fanout_narrow(Query *query, List **reasons)
{
	Query	   *copy;
	Part	   *target;
	List	   *conditions;
	List	   *result = NIL;
	ListCell   *lc;

	if (query->hasRowSecurity || query->hasModifyingCTE || query->jointree->quals == NULL || target_unit(query) == NULL ||
		!dbscale_catalog_is_distributed(rt_fetch(query->resultRelation, query->rtable)->relid))
		return query;
	copy = copyObject(query);
	conditions = make_ands_implicit((Expr *) copy->jointree->quals);
	target = parts_make_one(copy, list_make1(target_unit(copy)), conditions);
	foreach(lc, conditions)
	{
		Node	   *any = dbscale_fanout_any_of_array(lfirst(lc));
		Node	   *filter = any != NULL ? NULL : implied_filter(copy, conditions, lfirst(lc), target);

		result = lappend(result, any != NULL ? with_pushed_array(any, reasons) : lfirst(lc));
		if (filter != NULL)
			result = lappend(result, with_pushed_array(filter, reasons));
	}
	copy->jointree->quals = (Node *) make_ands_explicit(result);
	copy->hasSubLinks |= checkExprHasSubLink(copy->jointree->quals);
	return copy;
}
