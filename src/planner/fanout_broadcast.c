/*
 * fanout_broadcast.c
 *		A small side of a join that goes to the shards.
 *
 * Where one side is expected to be small and all that is left can be joined on the shards,
 * the small side goes to them: it is fetched once, as a common table expression, and its
 * columns become arrays,
 *
 *		SELECT u.name FROM users u JOIN likes l ON l.liker_id = u.id WHERE u.region = 'eu'
 *
 *		WITH small AS MATERIALIZED (SELECT id, name FROM users WHERE region = 'eu' ORDER BY id)
 *		SELECT u.name FROM unnest($1, $2) u (id, name) JOIN likes l ON l.liker_id = u.id
 *		-- $1 = ARRAY(SELECT id FROM small), $2 = ARRAY(SELECT name FROM small)
 *
 * which are in step with each other, since a materialized expression is read in one order.
 * The small side may as well be what is not distributed at all: local tables, VALUES.
 */
#include "planner/fanout_parts.h"

#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_clause.h"
#include "parser/parse_oper.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"

/* ARRAY(SELECT column FROM small), at the level whose WITH it is in. */
static SubLink *
array_of_column(CommonTableExpr *small, int column)
{
	Query	   *query = makeNode(Query);
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	RangeTblRef *ref = makeNode(RangeTblRef);
	Var		   *var = makeVar(1, column, list_nth_oid(small->ctecoltypes, column - 1),
							  list_nth_int(small->ctecoltypmods, column - 1),
							  list_nth_oid(small->ctecolcollations, column - 1), 0);

	rte->rtekind = RTE_CTE;
	rte->ctename = pstrdup(small->ctename);
	rte->ctelevelsup = 1;
	rte->coltypes = list_copy(small->ctecoltypes);
	rte->coltypmods = list_copy(small->ctecoltypmods);
	rte->colcollations = list_copy(small->ctecolcollations);
	rte->eref = makeAlias(small->ctename, copyObject(small->ctecolnames));
	rte->inFromCl = true;
	ref->rtindex = 1;
	query->commandType = CMD_SELECT;
	query->canSetTag = true;
	query->rtable = list_make1(rte);
	query->jointree = makeFromExpr(list_make1(ref), NULL);
	query->targetList = list_make1(makeTargetEntry((Expr *) var, 1, pstrdup("c1"), false));
	return dbscale_fanout_array_of(query);
}

static CommonTableExpr *
expression_of(Part *part)
{
	CommonTableExpr *small = makeNode(CommonTableExpr);
	ListCell   *lc;

	small->ctename = pstrdup("dbscale small side");
	small->ctematerialized = CTEMaterializeAlways;
	small->ctequery = (Node *) part->query;
	small->location = -1;
	small->cterefcount = list_length(part->query->targetList);
	foreach(lc, part->query->targetList)
	{
		TargetEntry *tle = lfirst(lc);
		Node	   *expr = (Node *) tle->expr;

		small->ctecolnames = lappend(small->ctecolnames, makeString(pstrdup(tle->resname)));
		small->ctecoltypes = lappend_oid(small->ctecoltypes, exprType(expr));
		small->ctecoltypmods = lappend_int(small->ctecoltypmods, exprTypmod(expr));
		small->ctecolcollations = lappend_oid(small->ctecolcollations, exprCollation(expr));
	}
	return small;
}

/* An array of arrays would come apart further than it was put together, and has its type's collation. */
static bool
can_be_arrays(CommonTableExpr *small)
{
	ListCell   *lc;

	foreach(lc, small->ctecoltypes)
		if (!dbscale_fanout_can_be_array(lfirst_oid(lc)) ||
			list_nth_oid(small->ctecolcollations, foreach_current_index(lc)) != get_typcollation(lfirst_oid(lc)))
			return false;
	return small->ctecoltypes != NIL;
}

/* The part's place in the level: unnest() of each array, whose marks are numbered from 0. */
static void
unnest_part(RangeTblEntry *rte, CommonTableExpr *small)
{
	char	   *name = pstrdup(rte->eref->aliasname);
	ListCell   *lc;

	dbscale_blank_entry(rte);
	rte->rtekind = RTE_FUNCTION;
	foreach(lc, small->ctecoltypes)
	{
		int			i = foreach_current_index(lc);
		Oid			collation = list_nth_oid(small->ctecolcollations, i);

		rte->functions = lappend(rte->functions,
								 dbscale_unnest_function((Node *) dbscale_fanout_mark(i, get_array_type(lfirst_oid(lc)), collation),
														 lfirst_oid(lc), collation));
	}
	rte->alias = makeAlias(name, NIL);
	rte->eref = makeAlias(name, copyObject(small->ctecolnames));
	rte->inFromCl = true;
}

static bool
sort_by(Query *query, int column)
{
	TargetEntry *tle = list_nth(query->targetList, column - 1);
	SortGroupClause *clause = makeNode(SortGroupClause);

	get_sort_group_operators(exprType((Node *) tle->expr), false, false, false,
							 &clause->sortop, &clause->eqop, NULL, &clause->hashable);
	if (!OidIsValid(clause->sortop))
		return false;
	clause->tleSortGroupRef = assignSortGroupRef(tle, query->targetList);
	query->sortClause = list_make1(clause);
	return true;
}

/*
 * The small side's rows in the order of a column that the join compares: nodes look them
 * up in this order, so what an index needs next is what it has just read.
 */
static void
sort_by_join(Part *part, Query *level)
{
	ListCell   *lc;

	foreach(lc, make_ands_implicit((Expr *) level->jointree->quals))
	{
		OpExpr	   *op = lfirst(lc);
		ListCell   *arg;

		if (!IsA(op, OpExpr) || list_length(op->args) != 2 || !op_hashjoinable(op->opno, exprType(linitial(op->args))))
			continue;
		foreach(arg, op->args)
		{
			Var		   *var = lfirst(arg);

			if (IsA(var, Var) && var->varno == part->rti && var->varlevelsup == 0 && sort_by(part->query, var->varattno))
				return;
		}
	}
}

static bool
is_small_beside_one(Part *small, List *parts, List *conditions)
{
	ListCell   *lc;

	foreach(lc, parts)
	{
		Part	   *part = lfirst(lc);

		if (part != small && parts_are_connected(conditions, small->members, part->members) && parts_is_small_beside(small, part))
			return true;
	}
	return false;
}

/* What is left over has to go to the shards, all of it, or nothing does. */
static Part *
find_small_part(Query *level, List *parts, List *left_over, List *conditions)
{
	Part	   *local = left_over == NIL ? NULL : parts_make_local(level, left_over, conditions);
	ListCell   *lc;

	if (left_over != NIL && local == NULL)
		return NULL;
	foreach(lc, parts)
		parts_fill(lfirst(lc), level, conditions);
	if (local != NULL)
		return is_small_beside_one(local, parts, conditions) ? local : NULL;
	foreach(lc, parts)
		if (is_small_beside_one(lfirst(lc), parts, conditions))
			return lfirst(lc);
	return NULL;
}

Query *
dbscale_fanout_broadcast(Query *query, List **subqueries, CommonTableExpr **small)
{
	Query	   *copy;
	List	   *units = NIL;
	List	   *left_over = NIL;
	List	   *parts;
	List	   *conditions;
	RangeTblRef *ref = makeNode(RangeTblRef);
	Part	   *part;
	ListCell   *lc;

	if (!parts_can_be_made(query) || parts_look_aside(query) || query->cteList != NIL)
		return NULL;
	copy = copyObject(query);
	conditions = make_ands_implicit((Expr *) copy->jointree->quals);
	foreach(lc, copy->jointree->fromlist)
		parts_add_units(lfirst(lc), &units, &conditions);
	parts = parts_make(copy, units, conditions, &left_over);
	part = find_small_part(copy, parts, left_over, conditions);
	if (part == NULL)
		return NULL;
	ref->rtindex = part->rti;
	units = list_difference_ptr(units, part->units);
	conditions = list_difference_ptr(conditions, part->conditions);
	parts_blank_joins(copy, units);
	copy->jointree->fromlist = lappend(units, ref);
	copy->jointree->quals = conditions == NIL ? NULL : (Node *) make_ands_explicit(conditions);
	copy = parts_use(copy, list_make1(part));
	if (copy == NULL)
		return NULL;
	*small = expression_of(part);
	if (!can_be_arrays(*small))
		return NULL;
	for (int rti = bms_next_member(part->members, part->rti); rti >= 0; rti = bms_next_member(part->members, rti))
		dbscale_blank_entry(rt_fetch(rti, copy->rtable));
	sort_by_join(part, copy);
	unnest_part(rt_fetch(part->rti, copy->rtable), *small);
	*subqueries = NIL;
	for (int i = 1; i <= list_length((*small)->ctecoltypes); i++)
		*subqueries = lappend(*subqueries, array_of_column(*small, i));
	return copy;
}
