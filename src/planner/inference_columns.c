/*
 * inference_columns.c
 *		Columns that carry keys out of subqueries, WITH and VALUES.
 *
 * Such a column becomes a slot when a condition compares it.  What it is made of, one
 * column of the subquery or one of each branch of a UNION, tells its pin; and a pin of it
 * may restrict the tables below where rows of other keys change nothing in the rows of
 * that key.  See inference.c.
 */
#include "planner/inference_slots.h"

#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"

int
dbscale_infer_add_slot(Inference *inf, Query *query, Index rti, AttrNumber attno, bool is_table)
{
	Slot	   *slot = palloc0(sizeof(Slot));

	slot->query = query;
	slot->rti = rti;
	slot->attno = attno;
	slot->is_table = is_table;
	inf->slots = lappend(inf->slots, slot);
	return list_length(inf->slots) - 1;
}

static bool
is_in_clause(TargetEntry *tle, List *clause)
{
	ListCell   *lc;

	foreach(lc, clause)
		if (((SortGroupClause *) lfirst(lc))->tleSortGroupRef == tle->ressortgroupref)
			return tle->ressortgroupref != 0;
	return false;
}

/* Do the subquery's rows with a value of this column depend on rows of that value only? */
static bool
may_be_restricted(Query *sub, TargetEntry *tle)
{
	ListCell   *lc;

	if (sub->commandType != CMD_SELECT || sub->limitCount || sub->limitOffset || sub->hasTargetSRFs ||
		sub->groupingSets != NIL || sub->rowMarks != NIL)
		return false;
	if (sub->hasDistinctOn && !is_in_clause(tle, sub->distinctClause))
		return false;
	if ((sub->hasAggs || sub->groupClause != NIL || sub->havingQual) && !is_in_clause(tle, sub->groupClause))
		return false;
	foreach(lc, sub->windowClause)
		if (!is_in_clause(tle, ((WindowClause *) lfirst(lc))->partitionClause))
			return false;
	return true;
}

static TargetEntry *
output_column(Query *query, AttrNumber attno)
{
	List	   *columns = query->commandType == CMD_SELECT ? query->targetList : query->returningList;
	ListCell   *lc;

	foreach(lc, columns)
	{
		TargetEntry *tle = lfirst(lc);

		if (tle->resno == attno && !tle->resjunk)
			return tle;
	}
	return NULL;
}

/* The slots that a column of a query is made of are added to the list; false: something else. */
static bool
add_sources(Inference *inf, int column, Query *sub, Node *setop, AttrNumber attno, List *levels,
			bool restricts, List **sources)
{
	TargetEntry *tle;
	Slot	   *from;
	int			source;

	if (setop != NULL && IsA(setop, SetOperationStmt))
	{
		SetOperationStmt *op = (SetOperationStmt *) setop;

		restricts = restricts && sub->limitCount == NULL && sub->limitOffset == NULL;
		return add_sources(inf, column, sub, op->larg, attno, levels, restricts, sources) &&
			add_sources(inf, column, sub, op->rarg, attno, levels, restricts, sources);
	}
	if (setop != NULL)
	{
		Query	   *branch = ((RangeTblEntry *) list_nth(sub->rtable, ((RangeTblRef *) setop)->rtindex - 1))->subquery;
		TargetEntry *inner = output_column(branch, attno);
		TargetEntry *outer = output_column(sub, attno);

		if (inner == NULL || outer == NULL ||
			exprType((Node *) inner->expr) != exprType((Node *) outer->expr))
			return false;
		return add_sources(inf, column, branch, branch->setOperations, attno, lcons(branch, list_copy(levels)),
						   restricts, sources);
	}
	tle = output_column(sub, attno);
	if (tle == NULL)
		return false;
	source = dbscale_infer_find_slot(inf, (Node *) tle->expr, levels);
	if (source < 0 && dbscale_is_row_free((Node *) tle->expr))
	{
		source = dbscale_infer_add_slot(inf, sub, 0, 0, false);
		((Slot *) list_nth(inf->slots, source))->pin = tle->expr;
	}
	if (source < 0)
		return false;
	*sources = lappend_int(*sources, source);
	from = list_nth(inf->slots, source);
	if (from->may_be_null || (from->query == sub && from->rti > 0 &&
							  bms_is_member(from->rti, dbscale_infer_nullable_entries((Node *) sub->jointree))))
		((Slot *) list_nth(inf->slots, column))->may_be_null = true;
	if (restricts && from->query == sub && may_be_restricted(sub, tle))
		dbscale_infer_connect(inf, column, source);
	return true;
}

static int
add_column_slot(Inference *inf, Query *query, Var *var, Query *sub, List *levels, bool restricts)
{
	int			column = dbscale_infer_add_slot(inf, query, var->varno, var->varattno, false);
	List	   *sources = NIL;

	if (add_sources(inf, column, sub, sub->setOperations, var->varattno, lcons(sub, list_copy(levels)),
					restricts, &sources))
		((Slot *) list_nth(inf->slots, column))->made_of = sources;
	return column;
}

/* A column of VALUES is pinned when it says the same in every row. */
static int
add_values_slot(Inference *inf, Query *query, Var *var, RangeTblEntry *rte)
{
	Expr	   *first = list_nth(linitial(rte->values_lists), var->varattno - 1);
	int			column = dbscale_infer_add_slot(inf, query, var->varno, var->varattno, false);
	ListCell   *lc;

	foreach(lc, rte->values_lists)
		if (!equal(list_nth(lfirst(lc), var->varattno - 1), first))
			return column;
	if (dbscale_is_row_free((Node *) first) && !contain_volatile_functions((Node *) first))
		((Slot *) list_nth(inf->slots, column))->pin = first;
	return column;
}

/*
 * A recursion whose rows have one value at first and, if each row comes from rows that have
 * it, one that has it again, has it in all rows.  So the column is taken to be made of the
 * first rows' only, and what the others have is held against it in the end.
 */
static int
add_recursion_slot(Inference *inf, Query *query, Var *var, Query *sub, List *levels)
{
	SetOperationStmt *op = (SetOperationStmt *) sub->setOperations;
	Recursion  *recursion = palloc0(sizeof(Recursion));
	List	   *start = NIL;
	int			column;

	if (!inf->in_recursion || op == NULL || !IsA(op, SetOperationStmt))
		return -1;
	levels = lcons(sub, list_copy(levels));
	column = recursion->column = dbscale_infer_add_slot(inf, query, var->varno, var->varattno, false);
	if (!add_sources(inf, column, sub, op->larg, var->varattno, levels, false, &start) ||
		!add_sources(inf, column, sub, op->rarg, var->varattno, levels, false, &recursion->steps))
		return column;
	((Slot *) list_nth(inf->slots, column))->made_of = start;
	inf->recursions = lappend(inf->recursions, recursion);
	return column;
}

/* Does each row that follows have what it was taken to have? */
bool
dbscale_infer_recursions_hold(Inference *inf)
{
	ListCell   *lc;

	foreach(lc, inf->recursions)
	{
		Recursion  *recursion = lfirst(lc);
		Slot	   *column = list_nth(inf->slots, recursion->column);
		ListCell   *step;

		if (column->pin == NULL)
			continue;
		foreach(step, recursion->steps)
		{
			Slot	   *source = list_nth(inf->slots, lfirst_int(step));

			if (source->may_be_null || source->pin == NULL || !equal(source->pin, column->pin))
				return false;
		}
	}
	return true;
}

/* Its owner is so many levels above the query that is first of them. */
static int
add_with_slot(Inference *inf, Query *query, Var *var, RangeTblEntry *rte, List *levels)
{
	List	   *of_owner;
	ListCell   *lc;

	if ((int) rte->ctelevelsup >= list_length(levels))
		return -1;
	of_owner = list_copy_tail(levels, rte->ctelevelsup);
	foreach(lc, ((Query *) linitial(of_owner))->cteList)
	{
		CommonTableExpr *cte = lfirst(lc);

		if (strcmp(cte->ctename, rte->ctename) != 0)
			continue;
		if (!IsA(cte->ctequery, Query))
			return -1;
		if (cte->cterecursive)
			return add_recursion_slot(inf, query, var, (Query *) cte->ctequery, of_owner);
		return add_column_slot(inf, query, var, (Query *) cte->ctequery, of_owner, cte->cterefcount == 1);
	}
	return -1;
}

int
dbscale_infer_find_slot(Inference *inf, Node *node, List *levels)
{
	Var		   *var;
	Query	   *query;
	RangeTblEntry *rte;
	ListCell   *lc;

	while (node && IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	if (node == NULL || !IsA(node, Var))
		return -1;
	var = (Var *) node;
	if ((int) var->varlevelsup >= list_length(levels) || var->varattno <= 0)
		return -1;
	levels = list_copy_tail(levels, var->varlevelsup);
	query = linitial(levels);
	foreach(lc, inf->slots)
	{
		Slot	   *slot = lfirst(lc);

		if (slot->query == query && slot->rti == var->varno && slot->attno == var->varattno)
			return foreach_current_index(lc);
	}
	rte = list_nth(query->rtable, var->varno - 1);
	switch (rte->rtekind)
	{
		case RTE_JOIN:
			return dbscale_infer_find_slot(inf, list_nth(rte->joinaliasvars, var->varattno - 1), levels);
		case RTE_SUBQUERY:
			return add_column_slot(inf, query, var, rte->subquery, levels, true);
		case RTE_VALUES:
			return add_values_slot(inf, query, var, rte);
		case RTE_CTE:
			return add_with_slot(inf, query, var, rte, levels);
		default:
			return -1;
	}
}
