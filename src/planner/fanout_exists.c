/*
 * fanout_exists.c
 *		EXISTS off the shard key.
 *
 * Core makes joins of EXISTS and NOT EXISTS in WHERE; but their subqueries refer to the
 * rows outside, so shards cannot answer them.  Where the reference is one equality,
 *
 *		EXISTS (SELECT FROM likes l WHERE l.liker_id = u.id AND l.post_id = 7)
 *
 * says what u.id IN (SELECT l.liker_id FROM likes l WHERE l.post_id = 7) says, since WHERE
 * takes NULL for false; and that is a subquery of its own (fanout_subquery.c).  Of others, and
 * of NOT EXISTS, the tables become subqueries (fanout_join.c), which is only done where core
 * is sure to make a join of it: else they would be read anew for each row.
 */
#include "planner/fanout.h"

#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteManip.h"
#include "utils/lsyscache.h"

/* What EXISTS of it means is said by its FROM and WHERE alone, as core's planner wants it. */
static bool
is_plain(Query *query)
{
	return query->commandType == CMD_SELECT && query->setOperations == NULL && query->cteList == NIL &&
		!query->hasAggs && query->groupClause == NIL && query->groupingSets == NIL && query->havingQual == NULL &&
		!query->hasWindowFuncs && !query->hasTargetSRFs && query->rowMarks == NIL && !query->hasForUpdate &&
		query->limitCount == NULL && query->limitOffset == NULL && query->jointree->fromlist != NIL &&
		!contain_volatile_functions((Node *) query);
}

static Query *
plain_subselect(SubLink *link)
{
	if (!IsA(link, SubLink) || link->subLinkType != EXISTS_SUBLINK || !is_plain((Query *) link->subselect))
		return NULL;
	return (Query *) link->subselect;
}

/* ---- EXISTS as IN ---- */

/* One side a column of the subquery, the other of the query around it. */
static bool
is_reference(OpExpr *op, Var **inner, Var **outer, Oid *operator)
{
	Var		   *left;
	Var		   *right;

	if (!IsA(op, OpExpr) || list_length(op->args) != 2 || !op_hashjoinable(op->opno, exprType(linitial(op->args))))
		return false;
	left = linitial(op->args);
	right = lsecond(op->args);
	if (!IsA(left, Var) || !IsA(right, Var) || left->varlevelsup + right->varlevelsup != 1)
		return false;
	*inner = left->varlevelsup == 0 ? left : right;
	*outer = left->varlevelsup == 0 ? right : left;
	*operator = left->varlevelsup == 0 ? get_commutator(op->opno) : op->opno;
	return OidIsValid(*operator);
}

static SubLink *
in_of(Query *subselect, const OpExpr *op, Var *inner, Var *outer, Oid operator)
{
	SubLink    *in = makeNode(SubLink);
	Param	   *param = makeNode(Param);

	subselect->targetList = list_make1(makeTargetEntry((Expr *) inner, 1, "c1", false));
	subselect->distinctClause = subselect->sortClause = NIL;
	param->paramkind = PARAM_SUBLINK;
	param->paramid = 1;
	param->paramtype = inner->vartype;
	param->paramtypmod = inner->vartypmod;
	param->paramcollid = inner->varcollid;
	param->location = -1;
	outer = copyObject(outer);
	outer->varlevelsup = 0;
	in->subLinkType = ANY_SUBLINK;
	in->testexpr = (Node *) make_opclause(operator, BOOLOID, false, (Expr *) outer, (Expr *) param, InvalidOid, op->inputcollid);
	set_opfuncid((OpExpr *) in->testexpr);
	in->operName = list_make1(makeString(pstrdup("=")));
	in->subselect = (Node *) subselect;
	in->location = -1;
	return in;
}

static Node *
exists_as_in(SubLink *link)
{
	Query	   *query = plain_subselect(link);
	List	   *own = NIL;
	OpExpr	   *reference = NULL;
	Var		   *inner;
	Var		   *outer;
	Oid			operator;
	ListCell   *lc;

	if (query == NULL)
		return NULL;
	query = copyObject(query);
	foreach(lc, make_ands_implicit((Expr *) query->jointree->quals))
	{
		if (!dbscale_fanout_mentions_outside(lfirst(lc)))
			own = lappend(own, lfirst(lc));
		else if (reference == NULL && is_reference(lfirst(lc), &inner, &outer, &operator))
			reference = lfirst(lc);
		else
			return NULL;
	}
	if (reference == NULL)
		return NULL;
	query->jointree->quals = own == NIL ? NULL : (Node *) make_ands_explicit(own);
	link = in_of(query, reference, inner, outer, operator);
	return dbscale_fanout_needs_outside((Node *) query) ? NULL : (Node *) link;
}

void
dbscale_fanout_exists_as_in(Query *query)
{
	List	   *conditions = make_ands_implicit((Expr *) query->jointree->quals);
	ListCell   *lc;

	if (dbscale_fanout_takes_one_step())
		return;
	foreach(lc, conditions)
	{
		Node	   *in = exists_as_in(lfirst(lc));

		if (in != NULL)
			lfirst(lc) = in;
	}
	query->jointree->quals = conditions == NIL ? NULL : (Node *) make_ands_explicit(conditions);
}

/* ---- the tables of others ---- */

/* Core looks for both in WHERE: columns of the subquery, and of the query around it. */
static bool
becomes_join(Query *query)
{
	Node	   *conditions = query->jointree->quals;
	Query	   *rest = copyObject(query);

	rest->jointree->quals = NULL;
	rest->targetList = NIL;
	return conditions != NULL && contain_vars_of_level(conditions, 1) && contain_vars_of_level(conditions, 0) &&
		!checkExprHasSubLink(conditions) && !contain_vars_of_level((Node *) rest, 1);
}

void
dbscale_fanout_separate_exists(Query *query)
{
	ListCell   *lc;

	foreach(lc, make_ands_implicit((Expr *) query->jointree->quals))
	{
		SubLink    *link = is_notclause(lfirst(lc)) ? (SubLink *) get_notclausearg(lfirst(lc)) : lfirst(lc);
		Query	   *subselect = plain_subselect(link);

		if (subselect != NULL && becomes_join(subselect))
			(void) dbscale_fanout_separate(subselect, true);
	}
}
