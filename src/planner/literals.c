/*
 * literals.c
 *		The constants of a query, taken out of it and put back.
 *
 * Statements that differ in their values only have the same plan (plan_cache.c).  A constant
 * that a column is compared equal with by WHERE or ON, or that is written to one, gives its place
 * to a parameter whose number no client can use; equal constants have one number:
 *
 *		WHERE id = 7 AND region = 'north'		WHERE id = $1000000 AND region = $1000001
 *
 * These are constants that the router would make parameters of the shard's statement in
 * any case (extract.c), so planning needs their types and not their values.
 */
#include "planner/literals.h"

#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "planner/ship.h"

/* The protocol has no more than 65535. */
#define FIRST_NUMBER 1000000

static int
number_of(Literals *literals, Const *value)
{
	for (int i = 0; i < literals->nvalues; i++)
		if (literals->values[i]->consttype == value->consttype && equal(literals->values[i], value))
			return i;
	literals->values[literals->nvalues] = value;
	return literals->nvalues++;
}

static void
lift(Literals *literals, Node **place, Const *value)
{
	Param	   *param;

	if (literals->count == MAX_LITERALS)
		return;
	param = makeNode(Param);
	param->paramkind = PARAM_EXTERN;
	param->paramid = FIRST_NUMBER + number_of(literals, value);
	param->paramtype = value->consttype;
	param->paramtypmod = value->consttypmod;
	param->paramcollid = value->constcollid;
	param->location = -1;
	literals->places[literals->count] = place;
	literals->originals[literals->count++] = *place;
	*place = (Node *) param;
}

static void
lift_compared(Literals *literals, Node *condition)
{
	int			operand = IsA(condition, OpExpr) ? dbscale_ship_compared_literal((OpExpr *) condition) : -1;
	ListCell   *cell;

	if (operand < 0)
		return;
	cell = list_nth_cell(((OpExpr *) condition)->args, operand);
	lift(literals, (Node **) &lfirst(cell), lfirst(cell));
}

static void
lift_conditions(Literals *literals, Node *quals)
{
	ListCell   *lc;

	if (quals == NULL)
		return;
	if (!is_andclause(quals))
		lift_compared(literals, quals);
	else
		foreach(lc, ((BoolExpr *) quals)->args)
			lift_conditions(literals, lfirst(lc));
}

static void
lift_join_tree(Literals *literals, Node *node)
{
	ListCell   *lc;

	if (IsA(node, FromExpr))
	{
		foreach(lc, ((FromExpr *) node)->fromlist)
			lift_join_tree(literals, lfirst(lc));
		lift_conditions(literals, ((FromExpr *) node)->quals);
	}
	else if (IsA(node, JoinExpr))
	{
		lift_join_tree(literals, ((JoinExpr *) node)->larg);
		lift_join_tree(literals, ((JoinExpr *) node)->rarg);
		lift_conditions(literals, ((JoinExpr *) node)->quals);
	}
}

static void
lift_written(Literals *literals, Query *query)
{
	ListCell   *lc;

	if (!dbscale_ship_writes_literals(query))
		return;
	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst(lc);
		Const	   *value = dbscale_ship_written_literal(tle);

		if (value != NULL)
			lift(literals, (Node **) &tle->expr, value);
	}
}

void
dbscale_literals_lift(Query *query, Literals *literals)
{
	literals->count = literals->nvalues = 0;
	lift_join_tree(literals, (Node *) query->jointree);
	lift_written(literals, query);
}

void
dbscale_literals_put_back(const Literals *literals)
{
	for (int i = 0; i < literals->count; i++)
		*literals->places[i] = literals->originals[i];
}

List *
dbscale_literals_fill(const Literals *literals, List *exprs)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, exprs)
	{
		Param	   *param = lfirst(lc);

		if (IsA(param, Param) && param->paramid >= FIRST_NUMBER)
			result = lappend(result, literals->values[param->paramid - FIRST_NUMBER]);
		else
			result = lappend(result, param);
	}
	return result;
}
