/*
 * fanout_join.c
 *		Joins that shards cannot do by themselves: each side is fetched by itself.
 *
 * The level's FROM is taken apart into *units*: what is joined by plain (inner) joins.
 * Units whose tables are joined on their shard keys stay together.  Each such part
 * becomes a subquery with its own conditions and the columns that are used of it:
 *
 *		SELECT u.name FROM users u JOIN likes l ON l.liker_id = u.id WHERE u.region = 'eu'
 *
 *		SELECT u.name FROM (SELECT id, name FROM users WHERE region = 'eu') u,
 *			(SELECT liker_id FROM likes
 *			 WHERE liker_id = ANY (ARRAY(SELECT id FROM users WHERE region = 'eu'))) l
 *		WHERE l.liker_id = u.id
 *
 * which fanout.c then pushes down one by one.  Better still, where one side is expected to be
 * small and all that is left can be joined on the shards, the small side goes to them: it
 * is fetched once, as a common table expression, and its columns become arrays,
 *
 *		WITH small AS MATERIALIZED (SELECT id, name FROM users WHERE region = 'eu')
 *		SELECT u.name FROM unnest($1, $2) u (id, name) JOIN likes l ON l.liker_id = u.id
 *		-- $1 = ARRAY(SELECT id FROM small), $2 = ARRAY(SELECT name FROM small)
 *
 * which are in step with each other, since a materialized expression is read in one order.
 *
 * Of the first form: the last condition is added where one
 * side is expected to be small: rows of the other that match none of it are not fetched.
 * It is implied by the join, so it may be missing but never be wrong: the small side is
 * read twice, and a row that only one of the readings saw is one that another statement
 * has committed meanwhile, whose absence is what the earlier snapshot has.
 */
#include "planner/fanout.h"

#include "catalog/pg_class.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_clause.h"
#include "parser/parse_oper.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

/* The filter is sent when one side has at most so many rows, and at most this part of the other's. */
#define SMALL_SIDE_ROWS 50000
#define SMALL_SIDE_PART 0.2

typedef struct Part
{
	List	   *units;			/* of join tree nodes */
	Bitmapset  *members;		/* range table positions in them */
	List	   *conditions;		/* that mention no other table */
	Query	   *query;			/* the subquery it becomes */
	List	   *attnos;			/* of List (varno, attno), in the order of its columns */
	double		rows;
	Index		rti;			/* where it stands in the level */
} Part;

/* ---- taking FROM apart ---- */

static void
add_units(Node *node, List **units, List **conditions)
{
	if (IsA(node, JoinExpr) && ((JoinExpr *) node)->jointype == JOIN_INNER)
	{
		JoinExpr   *join = (JoinExpr *) node;

		add_units(join->larg, units, conditions);
		add_units(join->rarg, units, conditions);
		*conditions = list_concat(*conditions, make_ands_implicit((Expr *) join->quals));
		return;
	}
	*units = lappend(*units, node);
}

/* The part as a query of its own, with the positions of the level's range table. */
static Query *
query_of(Query *level, List *units, Bitmapset *members, List *conditions)
{
	Query	   *query = makeNode(Query);
	int			rti = 0;
	ListCell   *lc;

	query->commandType = CMD_SELECT;
	query->canSetTag = true;
	query->rtable = copyObject(level->rtable);
	dbscale_query_copy_perminfos(query, level);
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (!bms_is_member(++rti, members))
			dbscale_blank_entry(rte);
	}
	query->jointree = makeFromExpr(copyObject(units), conditions == NIL ? NULL :
								   copyObject((Node *) make_ands_explicit(conditions)));
	return query;
}

static List *
conditions_of(List *conditions, Bitmapset *members)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, conditions)
	{
		Relids		mentioned = pull_varnos(NULL, lfirst(lc));

		if (!bms_is_empty(mentioned) && bms_is_subset(mentioned, members) &&
			!dbscale_fanout_mentions_outside(lfirst(lc)) &&
			dbscale_fanout_is_remote_condition(lfirst(lc)))
			result = lappend(result, lfirst(lc));
	}
	return result;
}

static bool
is_placeable(Query *level, List *units, Bitmapset *members, List *conditions)
{
	FanoutLevel trial = {0};
	Query	   *query = query_of(level, units, members, conditions_of(conditions, members));

	return !dbscale_fanout_needs_outside((Node *) query) && dbscale_fanout_place(&trial, query);
}

/* Positions of the entries in a unit, those of joins included. */
static Bitmapset *
members_of(Node *node)
{
	JoinExpr   *join = (JoinExpr *) node;
	Bitmapset  *result;
	ListCell   *lc;

	if (IsA(node, RangeTblRef))
		return bms_make_singleton(((RangeTblRef *) node)->rtindex);
	if (IsA(node, FromExpr))
	{
		result = NULL;
		foreach(lc, ((FromExpr *) node)->fromlist)
			result = bms_union(result, members_of(lfirst(lc)));
		return result;
	}
	result = bms_union(members_of(join->larg), members_of(join->rarg));
	return join->rtindex > 0 ? bms_add_member(result, join->rtindex) : result;
}

/* What no condition joins is better multiplied above. */
static bool
are_connected(List *conditions, Bitmapset *a, Bitmapset *b)
{
	ListCell   *lc;

	foreach(lc, conditions)
	{
		Relids		mentioned = pull_varnos(NULL, lfirst(lc));

		if (bms_overlap(mentioned, a) && bms_overlap(mentioned, b))
			return true;
	}
	return false;
}

/* Parts that can be pushed down; units that cannot are left over. */
static List *
make_parts(Query *level, List *units, List *conditions, List **left_over)
{
	List	   *parts = NIL;
	ListCell   *lc;

	foreach(lc, units)
	{
		Bitmapset  *members = members_of(lfirst(lc));
		Part	   *found = NULL;
		ListCell   *other;

		foreach(other, parts)
		{
			Part	   *part = lfirst(other);
			List	   *both = lappend(list_copy(part->units), lfirst(lc));

			if (!are_connected(conditions, part->members, members) ||
				!is_placeable(level, both, bms_union(part->members, members), conditions))
				continue;
			part->units = both;
			part->members = bms_union(part->members, members);
			found = part;
			break;
		}
		if (found != NULL)
			continue;
		if (!is_placeable(level, list_make1(lfirst(lc)), members, conditions))
		{
			*left_over = lappend(*left_over, lfirst(lc));
			continue;
		}
		found = palloc0(sizeof(Part));
		found->units = list_make1(lfirst(lc));
		found->members = members;
		parts = lappend(parts, found);
	}
	return parts;
}

/* ---- columns of the parts ---- */

typedef struct PartContext
{
	List	   *parts;
	int			depth;
	bool		failed;			/* a whole row or system column is used */
} PartContext;

static Part *
part_of(List *parts, int varno)
{
	ListCell   *lc;

	foreach(lc, parts)
		if (bms_is_member(varno, ((Part *) lfirst(lc))->members))
			return lfirst(lc);
	return NULL;
}

static int
part_column(Part *part, Var *var)
{
	List	   *wanted = list_make2_int(var->varno, var->varattno);
	ListCell   *lc;
	Var		   *source;

	foreach(lc, part->attnos)
		if (equal(lfirst(lc), wanted))
			return foreach_current_index(lc) + 1;
	part->attnos = lappend(part->attnos, wanted);
	source = copyObject(var);
	source->varlevelsup = 0;
	part->query->targetList = lappend(part->query->targetList,
									  makeTargetEntry((Expr *) source, list_length(part->attnos),
													  psprintf("c%d", list_length(part->attnos)), false));
	return list_length(part->attnos);
}

static Node *
use_parts(Node *node, PartContext *context)
{
	Part	   *part;

	if (node == NULL)
		return NULL;
	if (IsA(node, Var) && ((Var *) node)->varlevelsup == context->depth &&
		(part = part_of(context->parts, ((Var *) node)->varno)) != NULL)
	{
		Var		   *var = copyObject((Var *) node);

		if (var->varattno <= 0)
			context->failed = true;
		else
			var->varattno = part_column(part, var);
		var->varno = part->rti;
		/* printing goes by these */
		var->varnosyn = 0;
		var->varattnosyn = 0;
		dbscale_var_clear_nullingrels(var);
		return (Node *) var;
	}
	if (IsA(node, Query))
	{
		Query	   *result;

		context->depth++;
		result = query_tree_mutator((Query *) node, use_parts, context, 0);
		context->depth--;
		return (Node *) result;
	}
	return expression_tree_mutator(node, use_parts, context);
}

/* ---- the filter ---- */

static double
guess_rows(Query *level, Part *part)
{
	double		rows = 0;
	int			rti = -1;
	ListCell   *lc;

	while ((rti = bms_next_member(part->members, rti)) >= 0)
	{
		RangeTblEntry *rte = rt_fetch(rti, level->rtable);

		if (rte->rtekind == RTE_RELATION && !dbscale_catalog_table(rte->relid)->is_reference)
			rows = Max(rows, dbscale_fanout_table_rows(rte->relid));
	}
	foreach(lc, part->conditions)
		rows *= dbscale_fanout_selectivity(lfirst(lc), level->rtable);
	return rows;
}

static Expr *
part_expression(Part *part, Var *var)
{
	return copyObject(((TargetEntry *) list_nth(part->query->targetList, var->varattno - 1))->expr);
}

/* The big part's rows are to match some row of the small one. */
static void
add_filter(Part *big, Var *big_column, Part *small, Var *small_column, Oid operator, Oid collation)
{
	Query	   *values = copyObject(small->query);
	SubLink    *array = makeNode(SubLink);
	ScalarArrayOpExpr *any = makeNode(ScalarArrayOpExpr);

	values->targetList = list_make1(makeTargetEntry(part_expression(small, small_column), 1, "c1", false));
	array->subLinkType = ARRAY_SUBLINK;
	array->subselect = (Node *) values;
	array->location = -1;
	any->opno = operator;
	any->opfuncid = get_opcode(operator);
	any->useOr = true;
	any->inputcollid = collation;
	any->args = list_make2(part_expression(big, big_column), array);
	any->location = -1;
	big->query->jointree->quals = make_and_qual(big->query->jointree->quals, (Node *) any);
	big->query->hasSubLinks = true;
	big->rows = Min(big->rows, small->rows * 10);
}

static bool
is_small_beside(Part *small, Part *big)
{
	return small->conditions != NIL && small->rows <= SMALL_SIDE_ROWS &&
		small->rows <= SMALL_SIDE_PART * big->rows;
}

/* A join condition between columns of two parts. */
static void
consider_filter(List *parts, Node *condition)
{
	OpExpr	   *op = (OpExpr *) condition;
	Var		   *left;
	Var		   *right;
	Part	   *a;
	Part	   *b;

	if (!IsA(op, OpExpr) || list_length(op->args) != 2)
		return;
	left = linitial(op->args);
	right = lsecond(op->args);
	if (!IsA(left, Var) || !IsA(right, Var) || left->varlevelsup != 0 || right->varlevelsup != 0 ||
		left->vartype != right->vartype || !op_hashjoinable(op->opno, left->vartype) ||
		get_commutator(op->opno) != op->opno || !dbscale_ship_is_builtin(op->opno) ||
		!OidIsValid(get_array_type(left->vartype)))
		return;
	a = part_of(parts, left->varno);
	b = part_of(parts, right->varno);
	/* they stand for the parts now */
	if (a == NULL || b == NULL || a == b || a->rti != left->varno || b->rti != right->varno)
		return;
	if (is_small_beside(a, b))
		add_filter(b, right, a, left, op->opno, op->inputcollid);
	else if (is_small_beside(b, a))
		add_filter(a, left, b, right, op->opno, op->inputcollid);
}

/* ---- the level ---- */

static bool
names_join(Node *node, Query *query)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var) && ((Var *) node)->varlevelsup == 0)
		return rt_fetch(((Var *) node)->varno, query->rtable)->rtekind == RTE_JOIN;
	return expression_tree_walker(node, names_join, query);
}

/* Columns of a join that are no column of one of its sides are left alone. */
static bool
is_simple(Query *query)
{
	ListCell   *lc;

	foreach(lc, query->rtable)
		if (((RangeTblEntry *) lfirst(lc))->lateral)
			return false;
	return query->commandType == CMD_SELECT && query->setOperations == NULL &&
		query->rowMarks == NIL && !query->hasForUpdate && !query->hasRowSecurity &&
		!query->hasModifyingCTE && query->jointree->fromlist != NIL &&
		!names_join((Node *) query->targetList, query) && !names_join((Node *) query->jointree, query) &&
		!names_join(query->havingQual, query);
}

/* Joins that are in the parts, or taken apart, list columns that nobody asks for here. */
static void
blank_joins(Query *query, List *left_over)
{
	Bitmapset  *kept = NULL;
	int			rti = 0;
	ListCell   *lc;

	foreach(lc, left_over)
		kept = bms_union(kept, members_of(lfirst(lc)));
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (!bms_is_member(++rti, kept) && rte->rtekind == RTE_JOIN)
			dbscale_blank_entry(rte);
	}
}

/* ---- a small side that goes to the shards ---- */

/* ARRAY(SELECT column FROM small), at the level whose WITH it is in. */
static SubLink *
array_of_column(CommonTableExpr *small, int column)
{
	Query	   *query = makeNode(Query);
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	RangeTblRef *ref = makeNode(RangeTblRef);
	SubLink    *array = makeNode(SubLink);
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
	array->subLinkType = ARRAY_SUBLINK;
	array->subselect = (Node *) query;
	array->location = -1;
	return array;
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

/* An array of arrays would come apart further than it was put together. */
static bool
can_be_arrays(CommonTableExpr *small)
{
	ListCell   *lc;

	foreach(lc, small->ctecoltypes)
		if (!OidIsValid(get_array_type(lfirst_oid(lc))) || OidIsValid(get_element_type(lfirst_oid(lc))))
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

static Part *
find_small_part(Query *query, List *parts, List *conditions)
{
	ListCell   *lc;

	foreach(lc, parts)
	{
		Part	   *part = lfirst(lc);

		part->conditions = conditions_of(conditions, part->members);
		part->rows = guess_rows(query, part);
	}
	foreach(lc, parts)
	{
		ListCell   *other;

		foreach(other, parts)
			if (lfirst(other) != lfirst(lc) && is_small_beside(lfirst(lc), lfirst(other)) &&
				are_connected(conditions, ((Part *) lfirst(lc))->members, ((Part *) lfirst(other))->members))
				return lfirst(lc);
	}
	return NULL;
}

Query *
dbscale_fanout_broadcast(Query *query, List **subqueries, CommonTableExpr **small)
{
	Query	   *copy;
	List	   *units = NIL;
	List	   *left_over = NIL;
	List	   *conditions;
	RangeTblRef *ref = makeNode(RangeTblRef);
	PartContext context = {NIL, 0, false};
	Part	   *part;
	ListCell   *lc;

	if (!is_simple(query) || query->cteList != NIL)
		return NULL;
	copy = copyObject(query);
	conditions = make_ands_implicit((Expr *) copy->jointree->quals);
	foreach(lc, copy->jointree->fromlist)
		add_units(lfirst(lc), &units, &conditions);
	part = find_small_part(copy, make_parts(copy, units, conditions, &left_over), conditions);
	if (part == NULL)
		return NULL;
	context.parts = list_make1(part);
	part->rti = bms_next_member(part->members, -1);
	part->query = query_of(copy, part->units, part->members, part->conditions);
	ref->rtindex = part->rti;
	units = list_difference_ptr(units, part->units);
	conditions = list_difference_ptr(conditions, part->conditions);
	blank_joins(copy, units);
	copy->jointree->fromlist = lappend(units, ref);
	copy->jointree->quals = conditions == NIL ? NULL : (Node *) make_ands_explicit(conditions);
	copy = query_tree_mutator(copy, use_parts, &context, QTW_DONT_COPY_QUERY);
	*small = expression_of(part);
	if (context.failed || !can_be_arrays(*small))
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

/* ---- each side by itself ---- */

static void
place_parts(Query *query, List *parts, List *left_over)
{
	ListCell   *lc;

	query->jointree->fromlist = left_over;
	foreach(lc, parts)
	{
		Part	   *part = lfirst(lc);
		RangeTblEntry *rte = rt_fetch(part->rti, query->rtable);
		char	   *name = pstrdup(rte->eref->aliasname);
		RangeTblRef *ref = makeNode(RangeTblRef);
		List	   *names = NIL;
		int			rti = -1;
		ListCell   *column;

		while ((rti = bms_next_member(part->members, rti)) >= 0)
			dbscale_blank_entry(rt_fetch(rti, query->rtable));
		foreach(column, part->query->targetList)
			names = lappend(names, makeString(pstrdup(((TargetEntry *) lfirst(column))->resname)));
		rte->rtekind = RTE_SUBQUERY;
		rte->subquery = part->query;
		rte->alias = makeAlias(name, NIL);
		rte->eref = makeAlias(name, names);
		rte->inFromCl = true;
		ref->rtindex = part->rti;
		query->jointree->fromlist = lappend(query->jointree->fromlist, ref);
	}
}

bool
dbscale_fanout_separate(Query *query, int least)
{
	Query	   *copy;
	List	   *units = NIL;
	List	   *left_over = NIL;
	List	   *conditions;
	List	   *remaining;
	PartContext context = {NIL, 0, false};
	ListCell   *lc;

	if (!is_simple(query))
		return false;
	copy = copyObject(query);
	conditions = make_ands_implicit((Expr *) copy->jointree->quals);
	foreach(lc, copy->jointree->fromlist)
		add_units(lfirst(lc), &units, &conditions);
	if (list_length(units) < least)
		return false;
	context.parts = make_parts(copy, units, conditions, &left_over);
	if (context.parts == NIL)
		return false;

	remaining = conditions;
	foreach(lc, context.parts)
	{
		Part	   *part = lfirst(lc);

		part->rti = bms_next_member(part->members, -1);
		part->conditions = conditions_of(conditions, part->members);
		part->query = query_of(copy, part->units, part->members, part->conditions);
		part->rows = guess_rows(copy, part);
		remaining = list_difference_ptr(remaining, part->conditions);
	}
	blank_joins(copy, left_over);
	copy->jointree->fromlist = left_over;
	copy->jointree->quals = remaining == NIL ? NULL : (Node *) make_ands_explicit(remaining);
	copy = query_tree_mutator(copy, use_parts, &context, QTW_DONT_COPY_QUERY);
	if (context.failed)
		return false;
	foreach(lc, make_ands_implicit((Expr *) copy->jointree->quals))
		consider_filter(context.parts, lfirst(lc));
	place_parts(copy, context.parts, copy->jointree->fromlist);
	*query = *copy;
	return true;
}
