/*
 * extract.c
 *		What of a statement mentions no row: computed here, and sent as a parameter.
 *
 * A node has another clock, another current_user and other settings than the session, so
 * what depends on these is computed before the statement is sent, and so is what
 * depends on the statement's own parameters.  Computed is the largest expression that mentions
 * no row; it becomes $1, $2, ….
 *
 * Computing may fail, and PostgreSQL does not compute what no row asks for: an error in an
 * arm of CASE that is never taken is none.  So it matters where the expression stands:
 *
 *	always		WHERE and what is written.  PostgreSQL computes it when it plans (it
 *				folds what is immutable and looks at the values that columns are compared
 *				with), or with the first row.
 *	for rows	The select list, HAVING, RETURNING, where there may be no row.  What is
 *				immutable is folded here as it is there; else it must be certain not to fail.
 *	branch		Behind a condition: later arms of CASE, COALESCE, AND and OR.  It must be
 *				certain not to fail.
 *
 *		SELECT CASE WHEN $1 = 0 THEN likes ELSE likes / (100 / $1) END FROM posts WHERE …
 *		node:  CASE WHEN $1     THEN likes ELSE likes / (100 / $2) END
 *
 * What may fail is left in its place.  If it means the same on a node, it goes there, and
 * is computed when a row asks for it; else find_local() refuses, and the expression is computed
 * above the rows.  Only where shards must do the statement (`eager`) it is computed early
 * all the same.
 */
#include "planner/ship.h"

#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "planner/inference.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

static Node *
cast_through_text(Node *expr, Oid type)
{
	CoerceViaIO *cast = makeNode(CoerceViaIO);

	cast->arg = (Expr *) expr;
	cast->resulttype = type;
	cast->resultcollid = get_typcollation(type);
	cast->coerceformat = COERCE_EXPLICIT_CAST;
	cast->location = -1;
	return (Node *) cast;
}

/*
 * On a node a parameter has the collation of its type.  Where the expression has another,
 * by which it may be compared, the parameter is given that: (SELECT $n COLLATE "C").  The
 * subquery is there because a bare COLLATE would outweigh what else is in the comparison.
 */
Node *
dbscale_ship_collated(Param *param)
{
	CollateExpr *collate;
	Query	   *query;
	SubLink    *link;

	if (!OidIsValid(param->paramcollid) || param->paramcollid == get_typcollation(param->paramtype))
		return (Node *) param;
	collate = makeNode(CollateExpr);
	collate->arg = (Expr *) param;
	collate->collOid = param->paramcollid;
	collate->location = -1;
	query = makeNode(Query);
	query->commandType = CMD_SELECT;
	query->canSetTag = true;
	query->jointree = makeFromExpr(NIL, NULL);
	query->targetList = list_make1(makeTargetEntry((Expr *) collate, 1, pstrdup("collated"), false));
	link = makeNode(SubLink);
	link->subLinkType = EXPR_SUBLINK;
	link->subselect = (Node *) query;
	link->location = -1;
	return (Node *) link;
}

/* The parameter that has been given a collation; else the node itself. */
Node *
dbscale_ship_without_collation(Node *node)
{
	Query	   *query = IsA(node, SubLink) ? (Query *) ((SubLink *) node)->subselect : NULL;
	CollateExpr *collate;

	if (query == NULL || query->jointree->fromlist != NIL || list_length(query->targetList) != 1)
		return node;
	collate = (CollateExpr *) ((TargetEntry *) linitial(query->targetList))->expr;
	return IsA(collate, CollateExpr) && IsA(collate->arg, Param) ? (Node *) collate->arg : node;
}

/* Beside a column that has the comparison's collation a parameter needs none, so that it may be the key. */
static Node *
extract_operator(OpExpr *op, Shipment *shipment)
{
	OpExpr	   *result = (OpExpr *) expression_tree_mutator((Node *) op, dbscale_ship_extract, shipment);

	for (int i = 0; i < 2 && list_length(result->args) == 2; i++)
	{
		Var		   *column = list_nth(result->args, 1 - i);
		ListCell   *other = list_nth_cell(result->args, i);

		if (IsA(column, Var) && column->varcollid == op->inputcollid)
			lfirst(other) = dbscale_ship_without_collation(lfirst(other));
	}
	return (Node *) result;
}

/* Take an expression out: $n instead, and n is its place in the list. */
static Node *
make_remote_param(Shipment *shipment, Node *expr)
{
	Param	   *param = makeNode(Param);
	ListCell   *lc;
	int			position = 0;

	/* ($n)::mood, and $n is the label */
	if (dbscale_ship_is_enum(exprType(expr)))
		return cast_through_text(make_remote_param(shipment, cast_through_text(expr, TEXTOID)), exprType(expr));
	foreach(lc, shipment->params)
	{
		if (equal(lfirst(lc), expr) && !contain_volatile_functions(expr))
			break;
		position++;
	}
	if (position == list_length(shipment->params))
		shipment->params = lappend(shipment->params, copyObject(expr));

	param->paramkind = PARAM_EXTERN;
	param->paramid = position + 1;
	param->paramtype = exprType(expr);
	param->paramtypmod = exprTypmod(expr);
	param->paramcollid = exprCollation(expr);
	param->location = -1;
	return dbscale_ship_collated(param);
}

static bool
has_param(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Param))
		return true;
	return expression_tree_walker(node, has_param, context);
}

/*
 * Constants that differ from execution to execution, so that the statement's text stays
 * the same: what a column is compared equal with, or set to.
 */
static bool
is_variable_literal(Node *node)
{
	Const	   *constant = (Const *) node;

	return IsA(node, Const) && !constant->constisnull && constant->consttype != UNKNOWNOID &&
		!dbscale_ship_is_local_type(constant->consttype) && dbscale_ship_is_builtin(constant->constcollid);
}

int
dbscale_ship_compared_literal(OpExpr *op)
{
	int			operand = -1;

	if (list_length(op->args) != 2)
		return -1;
	if (is_variable_literal(lsecond(op->args)) && IsA(linitial(op->args), Var))
		operand = 1;
	else if (is_variable_literal(linitial(op->args)) && IsA(lsecond(op->args), Var))
		operand = 0;
	return operand >= 0 && get_oprrest(op->opno) == F_EQSEL ? operand : -1;
}

static Node *
extract_literals(OpExpr *op, Shipment *shipment)
{
	int			operand = dbscale_ship_compared_literal(op);
	OpExpr	   *copy;
	ListCell   *cell;

	if (operand < 0)
		return NULL;
	copy = copyObject(op);
	cell = list_nth_cell(copy->args, operand);
	lfirst(cell) = make_remote_param(shipment, lfirst(cell));
	return (Node *) copy;
}

/*
 * text || anything is stable, since it prints the other argument; written out, the
 * printing tells by itself what it depends on.
 */
static Node *
spell_out_concatenation(OpExpr *op)
{
	int			other = op->opfuncid == F_TEXTANYCAT ? 1 : 0;
	Node	   *printed;
	List	   *args;

	if (op->opfuncid != F_TEXTANYCAT && op->opfuncid != F_ANYTEXTCAT)
		return NULL;
	printed = list_nth(op->args, other);
	printed = coerce_to_target_type(NULL, printed, exprType(printed), TEXTOID, -1, COERCION_EXPLICIT,
									COERCE_EXPLICIT_CAST, -1);
	if (printed == NULL)
		return NULL;
	args = other == 1 ? list_make2(linitial(op->args), printed) : list_make2(printed, lsecond(op->args));
	return (Node *) makeFuncExpr(F_TEXTCAT, TEXTOID, args, op->opcollid, op->inputcollid, COERCE_EXPLICIT_CALL);
}

/* ---- what cannot fail ---- */

/* Functions of the clock and the session that fail for some constants at most, and then for every row. */
static bool
is_harmless_function(Oid function)
{
	switch (function)
	{
		case F_NOW:
		case F_TRANSACTION_TIMESTAMP:
		case F_STATEMENT_TIMESTAMP:
		case F_CURRENT_USER:
		case F_SESSION_USER:
		case F_CURRENT_DATABASE:
		case F_CURRENT_SCHEMA:
		case F_PG_BACKEND_PID:
		case F_DATE_TIMESTAMP:
		case F_DATE_TIMESTAMPTZ:
		case F_TIMESTAMP_DATE:
		case F_TIMESTAMP_TIMESTAMPTZ:
		case F_TIMESTAMPTZ_DATE:
		case F_TIMESTAMPTZ_TIMESTAMP:
		case F_TIME_TIMESTAMP:
		case F_TIME_TIMESTAMPTZ:
		case F_DATE_PLI:
		case F_DATE_MII:
		case F_DATE_PL_INTERVAL:
		case F_DATE_MI_INTERVAL:
		case F_TIMESTAMP_PL_INTERVAL:
		case F_TIMESTAMP_MI_INTERVAL:
		case F_TIMESTAMPTZ_PL_INTERVAL:
		case F_TIMESTAMPTZ_MI_INTERVAL:
		case F_DATE_TRUNC_TEXT_TIMESTAMP:
		case F_DATE_TRUNC_TEXT_TIMESTAMPTZ:
		case F_DATE_PART_TEXT_DATE:
		case F_DATE_PART_TEXT_TIMESTAMP:
		case F_DATE_PART_TEXT_TIMESTAMPTZ:
		case F_EXTRACT_TEXT_DATE:
		case F_EXTRACT_TEXT_TIMESTAMP:
		case F_EXTRACT_TEXT_TIMESTAMPTZ:
		case F_TIMEZONE_TEXT_TIMESTAMP:
		case F_TIMEZONE_TEXT_TIMESTAMPTZ:
		case F_TO_CHAR_TIMESTAMP_TEXT:
		case F_TO_CHAR_TIMESTAMPTZ_TEXT:
			return true;
		default:
			return false;
	}
}

static bool
may_fail(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_List:
		case T_Const:
		case T_SQLValueFunction:
		case T_RelabelType:
			break;
		case T_FuncExpr:
			if (!is_harmless_function(((FuncExpr *) node)->funcid))
				return true;
			break;
		case T_OpExpr:
			if (!is_harmless_function(((OpExpr *) node)->opfuncid))
				return true;
			break;
		default:
			return true;
	}
	return expression_tree_walker(node, may_fail, context);
}

/* ---- where it stands ---- */

static Node *
extract_in(Node *node, Shipment *shipment, ComputedWhen when)
{
	ComputedWhen outer = shipment->when;
	Node	   *result;

	shipment->when = Max(outer, when);
	result = dbscale_ship_extract(node, shipment);
	shipment->when = outer;
	return result;
}

/* A list of which each expression but the first is computed only if those before it say so. */
static List *
extract_in_turn(List *args, Shipment *shipment)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, args)
		result = lappend(result, extract_in(lfirst(lc), shipment,
											foreach_current_index(lc) > 0 ? COMPUTED_IN_BRANCH : COMPUTED_ALWAYS));
	return result;
}

static Node *
extract_case(CaseExpr *expr, Shipment *shipment)
{
	CaseExpr   *copy = makeNode(CaseExpr);
	ListCell   *lc;

	*copy = *expr;
	copy->arg = (Expr *) dbscale_ship_extract((Node *) expr->arg, shipment);
	copy->args = NIL;
	foreach(lc, expr->args)
	{
		CaseWhen   *when = makeNode(CaseWhen);

		*when = *(CaseWhen *) lfirst(lc);
		when->expr = (Expr *) extract_in((Node *) when->expr, shipment,
										 copy->args != NIL ? COMPUTED_IN_BRANCH : COMPUTED_ALWAYS);
		when->result = (Expr *) extract_in((Node *) when->result, shipment, COMPUTED_IN_BRANCH);
		copy->args = lappend(copy->args, when);
	}
	copy->defresult = (Expr *) extract_in((Node *) expr->defresult, shipment, COMPUTED_IN_BRANCH);
	return (Node *) copy;
}

/* Are the values here those that PostgreSQL asks for to estimate how many rows meet the condition? */
static bool
is_estimated(Node *node)
{
	List	   *args;
	ListCell   *lc;

	if (IsA(node, ScalarArrayOpExpr))
		args = ((ScalarArrayOpExpr *) node)->args;
	else if (IsA(node, OpExpr) && OidIsValid(get_oprrest(((OpExpr *) node)->opno)))
		args = ((OpExpr *) node)->args;
	else
		return false;
	foreach(lc, args)
		if (!dbscale_is_row_free(lfirst(lc)) && (has_param(lfirst(lc), NULL) || contain_mutable_functions(lfirst(lc))))
			return false;
	return !dbscale_is_row_free(node);
}

/*
 * A condition of WHERE or ON.  What stands behind one that mentions no row is not computed
 * when that decides.  `optional`: an earlier operand of OR may save this one in
 * execution, but not in planning.
 */
static Node *
extract_condition(Node *node, Shipment *shipment, bool optional)
{
	BoolExpr   *expr = (BoolExpr *) node;
	BoolExpr   *copy;
	bool		decided = false;
	ListCell   *lc;

	if (node == NULL)
		return NULL;
	if (!IsA(node, BoolExpr) || expr->boolop == NOT_EXPR || dbscale_is_row_free(node))
		return extract_in(node, shipment,
						  optional && !is_estimated(node) ? COMPUTED_IN_BRANCH : COMPUTED_ALWAYS);
	copy = makeNode(BoolExpr);
	*copy = *expr;
	copy->args = NIL;
	foreach(lc, expr->args)
	{
		bool		later = expr->boolop == OR_EXPR && copy->args != NIL;

		copy->args = lappend(copy->args, decided ? extract_in(lfirst(lc), shipment, COMPUTED_IN_BRANCH) :
							 extract_condition(lfirst(lc), shipment, optional || later));
		decided |= dbscale_is_row_free(lfirst(lc));
	}
	return (Node *) copy;
}

Node *
dbscale_ship_extract_condition(Node *node, Shipment *shipment)
{
	return extract_condition(node, shipment, false);
}

static Node *
extract_from(FromExpr *from, Shipment *shipment)
{
	return (Node *) makeFromExpr((List *) dbscale_ship_extract((Node *) from->fromlist, shipment),
								 extract_condition(from->quals, shipment, false));
}

static Node *
extract_join(JoinExpr *join, Shipment *shipment)
{
	JoinExpr   *copy = makeNode(JoinExpr);

	*copy = *join;
	copy->larg = dbscale_ship_extract(join->larg, shipment);
	copy->rarg = dbscale_ship_extract(join->rarg, shipment);
	copy->quals = extract_condition(join->quals, shipment, false);
	return (Node *) copy;
}

static Node *
extract_query(Query *query, Shipment *shipment)
{
	const Query *outer = shipment->level;
	Node	   *result;

	shipment->level = query;
	result = (Node *) query_tree_mutator(query, dbscale_ship_extract, shipment, 0);
	shipment->level = outer;
	return result;
}

/* A list of the query that is computed for its rows, of which there may be none. */
static bool
is_for_rows(Node *node, Shipment *shipment)
{
	const Query *query = shipment->level;

	return query != NULL && shipment->when < COMPUTED_FOR_ROWS &&
		(node == query->havingQual ||
		 (node == (Node *) query->targetList && query->commandType == CMD_SELECT) ||
		 (node == (Node *) query->returningList && !shipment->single_row));
}

/* ---- taking it out ---- */

static Node *
extract_below(Node *node, Shipment *shipment)
{
	switch (nodeTag(node))
	{
		case T_Query:
			return extract_query((Query *) node, shipment);
		case T_FromExpr:
			return extract_from((FromExpr *) node, shipment);
		case T_JoinExpr:
			return extract_join((JoinExpr *) node, shipment);
		case T_OpExpr:
			return extract_operator((OpExpr *) node, shipment);
		case T_CaseExpr:
			return extract_case((CaseExpr *) node, shipment);
		case T_CoalesceExpr:
			{
				CoalesceExpr *copy = makeNode(CoalesceExpr);

				*copy = *(CoalesceExpr *) node;
				copy->args = extract_in_turn(copy->args, shipment);
				return (Node *) copy;
			}
		case T_BoolExpr:
			{
				BoolExpr   *copy = makeNode(BoolExpr);

				*copy = *(BoolExpr *) node;
				copy->args = extract_in_turn(copy->args, shipment);
				return (Node *) copy;
			}
		default:
			return expression_tree_mutator(node, dbscale_ship_extract, shipment);
	}
}

/* Only whole expressions are taken out, so that a node has nothing left to compute. */
static bool
is_whole_expression(Node *node, Shipment *shipment)
{
	switch (nodeTag(node))
	{
		case T_FuncExpr:
		case T_OpExpr:
		case T_BoolExpr:
		case T_SQLValueFunction:
		case T_NextValueExpr:
		case T_CoerceViaIO:
		case T_ArrayCoerceExpr:
		case T_RelabelType:
		case T_CaseExpr:
		case T_CoalesceExpr:
		case T_MinMaxExpr:
		case T_CoerceToDomain:
			return dbscale_is_row_free(node) && (has_param(node, NULL) || contain_mutable_functions(node)) &&
				(shipment->single_row || !contain_volatile_functions(node));
		default:
			return false;
	}
}

static bool
may_be_computed_early(Node *node, Shipment *shipment)
{
	return shipment->when == COMPUTED_ALWAYS || !may_fail(node, NULL) ||
		(shipment->when == COMPUTED_FOR_ROWS && !contain_mutable_functions(node));
}

/* In its place if a node can compute it there; else early. */
static Node *
extract_eagerly(Node *node, Shipment *shipment)
{
	int			params = list_length(shipment->params);
	Node	   *left = extract_below(node, shipment);
	Shipment	probe = {0};

	if (!dbscale_ship_find_local(left, &probe))
		return left;
	shipment->params = list_truncate(shipment->params, params);
	return make_remote_param(shipment, node);
}

static Node *
extract_expression(Node *node, Shipment *shipment)
{
	Node	   *other = NULL;

	if (IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXTERN)
		return make_remote_param(shipment, node);
	if (IsA(node, OpExpr) && (other = spell_out_concatenation((OpExpr *) node)) != NULL)
		return dbscale_ship_extract(other, shipment);
	if (shipment->literals_too && IsA(node, OpExpr))
		other = extract_literals((OpExpr *) node, shipment);
	if (other != NULL)
		return other;
	if (!is_whole_expression(node, shipment))
		return extract_below(node, shipment);
	if (may_be_computed_early(node, shipment))
		return make_remote_param(shipment, node);
	return shipment->eager ? extract_eagerly(node, shipment) : extract_below(node, shipment);
}

Node *
dbscale_ship_extract(Node *node, Shipment *shipment)
{
	ComputedWhen outer = shipment->when;
	Node	   *result;

	if (node == NULL)
		return NULL;
	if (is_for_rows(node, shipment))
		shipment->when = COMPUTED_FOR_ROWS;
	result = extract_expression(node, shipment);
	shipment->when = outer;
	return result;
}

/* ---- what the statement writes ---- */

bool
dbscale_ship_writes_literals(const Query *query)
{
	return query->commandType == CMD_UPDATE ||
		(query->commandType == CMD_INSERT && query->jointree->fromlist == NIL);
}

/* A constant that is cast to the column's type, as a constant. */
static Node *
fold_written(const TargetEntry *tle)
{
	Node	   *expr = (Node *) tle->expr;

	if (IsA(expr, FuncExpr) && dbscale_is_row_free(expr) && !has_param(expr, NULL))
		return eval_const_expressions(NULL, expr);
	return expr;
}

Const *
dbscale_ship_written_literal(const TargetEntry *tle)
{
	Node	   *expr = fold_written(tle);

	return is_variable_literal(expr) ? (Const *) expr : NULL;
}

/* Those of the statement's own level; changes the query. */
void
dbscale_ship_extract_written(Query *query, Shipment *shipment)
{
	ListCell   *lc;

	if (!dbscale_ship_writes_literals(query))
		return;
	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst(lc);

		tle->expr = (Expr *) dbscale_ship_without_collation(fold_written(tle));
		if (is_variable_literal((Node *) tle->expr))
			tle->expr = (Expr *) make_remote_param(shipment, (Node *) tle->expr);
	}
}
