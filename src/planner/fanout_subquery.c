/*
 * fanout_subquery.c
 *		Subqueries that a level needs once, whatever its row: they become parameters.
 *
 *		WHERE age > (SELECT avg(age) FROM users)
 *		WHERE liker_id IN (SELECT id FROM users WHERE region = 'eu')
 *
 * The subquery mentions no row of the level, so it is computed once, above, and its
 * value, or the array of its values, is a parameter of the shards' statement.  Core
 * makes an InitPlan of it, since it stands among the arguments of shard_rows().
 *
 * In between, a *mark* stands in its place: a Param of a kind that no plan has here.
 *
 * So do columns of the queries around a level that is computed for each of their rows:
 *
 *		SELECT region, (SELECT count(*) FROM likes WHERE likes.day = users.born) FROM users
 *
 * Arguments of shard_rows() that mention them are parameters of core's SubPlan, and a node gets
 * one statement for each row.
 */
#include "planner/fanout.h"

#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteManip.h"
#include "utils/lsyscache.h"

/* Tables of more rows than this are not made an array of, unless a condition is on them. */
#define MAX_ARRAY_ROWS 1000000

typedef struct MarkContext
{
	List	   *subqueries;		/* of SubLink */
	bool		in_conditions;	/* of WHERE or ON, not in what is computed for a row */
	bool		optional;		/* behind a condition that may save it */
} MarkContext;

Param *
dbscale_fanout_mark(int number, Oid type, Oid collation)
{
	Param	   *mark = makeNode(Param);

	mark->paramkind = PARAM_SUBLINK;
	mark->paramid = DBSCALE_FIRST_MARK + number;
	mark->paramtype = type;
	mark->paramtypmod = -1;
	mark->paramcollid = collation;
	mark->location = -1;
	return mark;
}

static Node *
make_mark(MarkContext *context, SubLink *link)
{
	Param	   *mark = dbscale_fanout_mark(list_length(context->subqueries), exprType((Node *) link),
										   exprCollation((Node *) link));

	mark->paramtypmod = exprTypmod((Node *) link);
	context->subqueries = lappend(context->subqueries, copyObject(link));
	return (Node *) mark;
}

static bool
is_independent(SubLink *link)
{
	return !dbscale_fanout_needs_outside((Node *) link->subselect) &&
		!contain_volatile_functions(link->subselect);
}

/* An array has to fit into memory, here and on each node. */
static bool
may_be_big(Query *query)
{
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (rte->rtekind == RTE_SUBQUERY && may_be_big(rte->subquery))
			return true;
		if (rte->rtekind == RTE_RELATION &&
			dbscale_fanout_table_rows(rte->relid) > MAX_ARRAY_ROWS)
			return query->jointree->quals == NULL ||
				dbscale_fanout_table_rows(rte->relid) > 100 * (double) MAX_ARRAY_ROWS;
	}
	return false;
}

SubLink *
dbscale_fanout_array_of(Query *query)
{
	SubLink    *array = makeNode(SubLink);

	array->subLinkType = ARRAY_SUBLINK;
	array->subselect = (Node *) query;
	array->location = -1;
	return array;
}

Node *
dbscale_fanout_any(Oid operator, Oid collation, Node *value, Node *array)
{
	ScalarArrayOpExpr *any = makeNode(ScalarArrayOpExpr);

	any->opno = operator;
	any->opfuncid = get_opcode(operator);
	any->useOr = true;
	any->inputcollid = collation;
	any->args = list_make2(value, array);
	any->location = -1;
	return (Node *) any;
}

/* An array of arrays would be taken for one of their elements. */
bool
dbscale_fanout_can_be_array(Oid type)
{
	return OidIsValid(get_array_type(type)) && !OidIsValid(get_element_type(type));
}

/* value IN (SELECT …) as value = ANY (array), which has the same NULLs; else NULL. */
static Node *
any_of_array(MarkContext *context, SubLink *link)
{
	OpExpr	   *op = (OpExpr *) link->testexpr;
	Query	   *subselect = (Query *) link->subselect;
	Oid			type;

	if (!IsA(op, OpExpr) || list_length(op->args) != 2 || !IsA(lsecond(op->args), Param))
		return NULL;
	type = exprType(lsecond(op->args));
	if (!dbscale_fanout_can_be_array(type) ||
		exprType((Node *) ((TargetEntry *) linitial(subselect->targetList))->expr) != type ||
		may_be_big(subselect))
		return NULL;
	return dbscale_fanout_any(op->opno, op->inputcollid, copyObject(linitial(op->args)),
							  make_mark(context, dbscale_fanout_array_of(copyObject(subselect))));
}

/* Can it not fail by having several rows? */
static bool
has_one_row(Query *query)
{
	return !query->hasTargetSRFs && query->groupClause == NIL && query->groupingSets == NIL &&
		(query->hasAggs || (query->jointree->fromlist == NIL && query->setOperations == NULL));
}

static Node *mark_subqueries(Node *node, MarkContext *context);

/* Later operands may not be asked for; AND at the top of WHERE has no order. */
static Node *
mark_in_operands(BoolExpr *expr, MarkContext *context)
{
	BoolExpr   *copy = makeNode(BoolExpr);
	bool		optional = context->optional;
	bool		in_turn = expr->boolop == OR_EXPR || !context->in_conditions;
	ListCell   *lc;

	*copy = *expr;
	copy->args = NIL;
	foreach(lc, expr->args)
	{
		context->optional = optional || (in_turn && copy->args != NIL);
		copy->args = lappend(copy->args, mark_subqueries(lfirst(lc), context));
	}
	context->optional = optional;
	return (Node *) copy;
}

/* What stands in CASE or COALESCE is left there: it may fail where it is not asked for. */
static Node *
mark_subqueries(Node *node, MarkContext *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Query) || IsA(node, CaseExpr) || IsA(node, CoalesceExpr))
		return node;
	if (IsA(node, BoolExpr))
		return mark_in_operands((BoolExpr *) node, context);
	if (IsA(node, SubLink) && ((SubLink *) node)->subLinkType == EXPR_SUBLINK && context->optional &&
		!has_one_row((Query *) ((SubLink *) node)->subselect))
		return node;
	if (IsA(node, SubLink) && is_independent((SubLink *) node))
	{
		SubLink    *link = (SubLink *) node;
		Node	   *any = NULL;

		if (link->subLinkType == EXPR_SUBLINK || link->subLinkType == ARRAY_SUBLINK)
			return make_mark(context, link);
		if (link->subLinkType == ANY_SUBLINK)
			any = any_of_array(context, link);
		if (any != NULL)
			return any;
	}
	return expression_tree_mutator(node, mark_subqueries, context);
}

Query *
dbscale_fanout_mark_subqueries(Query *query, List **subqueries)
{
	MarkContext context = {.in_conditions = true};
	Query	   *copy = copyObject(query);

	copy->jointree = (FromExpr *) mark_subqueries((Node *) copy->jointree, &context);
	context.in_conditions = false;
	copy->targetList = (List *) mark_subqueries((Node *) copy->targetList, &context);
	copy->havingQual = mark_subqueries(copy->havingQual, &context);
	*subqueries = context.subqueries;
	return copy;
}

/* ---- columns of the queries around ---- */

typedef struct OuterMarks
{
	List	   *columns;		/* as the level sees them */
	int			depth;
} OuterMarks;

static bool
is_outer_column(Node *node, int depth)
{
	while (IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	return IsA(node, Var) && ((Var *) node)->varlevelsup > depth && ((Var *) node)->varattno > 0;
}

static Node *
mark_outer(Node *node, OuterMarks *context)
{
	Node	   *column;
	Param	   *mark;

	if (node == NULL)
		return NULL;
	if (IsA(node, Query))
	{
		context->depth++;
		node = (Node *) query_tree_mutator((Query *) node, mark_outer, context, 0);
		context->depth--;
		return node;
	}
	if (!is_outer_column(node, context->depth))
		return expression_tree_mutator(node, mark_outer, context);
	column = copyObject(node);
	IncrementVarSublevelsUp(column, -context->depth, 1);
	if (!list_member(context->columns, column))
		context->columns = lappend(context->columns, column);
	for (int i = 0;; i++)
	{
		if (!equal(list_nth(context->columns, i), column))
			continue;
		mark = dbscale_fanout_mark(i, exprType(column), exprCollation(column));
		mark->paramtypmod = exprTypmod(column);
		return (Node *) mark;
	}
}

Query *
dbscale_fanout_mark_outer(Query *query, List **columns)
{
	OuterMarks	context = {NIL, -1};
	Query	   *copy = (Query *) mark_outer((Node *) query, &context);

	*columns = context.columns;
	return dbscale_fanout_needs_outside((Node *) copy) ? NULL : copy;
}

/* ---- marks replaced ---- */

typedef struct Replacements
{
	List	   *exprs;
	int			depth;
} Replacements;

static Node *
unmark(Node *node, Replacements *context)
{
	if (node == NULL)
		return NULL;
	if (dbscale_is_mark(node))
	{
		Node	   *expr = copyObject(list_nth(context->exprs, ((Param *) node)->paramid - DBSCALE_FIRST_MARK));

		IncrementVarSublevelsUp(expr, context->depth, 1);
		return expr;
	}
	if (IsA(node, Query))
	{
		context->depth++;
		node = (Node *) query_tree_mutator((Query *) node, unmark, context, 0);
		context->depth--;
		return node;
	}
	return expression_tree_mutator(node, unmark, context);
}

Node *
dbscale_fanout_any_of_array(SubLink *link)
{
	MarkContext context = {0};
	Replacements replacements = {NIL, 0};
	Node	   *any = NULL;

	if (IsA(link, SubLink) && link->subLinkType == ANY_SUBLINK && is_independent(link))
		any = any_of_array(&context, link);
	replacements.exprs = context.subqueries;
	return any == NULL ? NULL : unmark(any, &replacements);
}

/* The subqueries back in their places; in what is above the shards. */
Query *
dbscale_fanout_unmark(Query *query, List *subqueries)
{
	Replacements context = {subqueries, -1};
	Query	   *result = (Query *) unmark((Node *) query, &context);

	result->hasSubLinks |= checkExprHasSubLink((Node *) subqueries);
	return result;
}

/* Parameters from this number on in their places; in what the shards get. */
Query *
dbscale_fanout_marks_to_params(Query *query, List *subqueries, int first)
{
	Replacements context = {NIL, -1};
	ListCell   *lc;

	foreach(lc, subqueries)
	{
		Param	   *param = makeNode(Param);

		param->paramkind = PARAM_EXTERN;
		param->paramid = first + foreach_current_index(lc);
		param->paramtype = exprType(lfirst(lc));
		param->paramtypmod = exprTypmod(lfirst(lc));
		param->paramcollid = exprCollation(lfirst(lc));
		param->location = -1;
		context.exprs = lappend(context.exprs, dbscale_ship_collated(param));
	}
	return (Query *) unmark((Node *) query, &context);
}
