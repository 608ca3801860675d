/*
 * fanout_gather.c
 *		A node's statement that joins the rows of its shards with a small side.
 *
 * Where a small side goes to the shards (fanout_broadcast.c), the other side is gathered on
 * the node, and joined there once rather than in each shard's branch:
 *
 *		WITH "dbscale big side" (c1) AS NOT MATERIALIZED
 *		  (SELECT liker_id FROM likes_0 UNION ALL SELECT liker_id FROM likes_2 …)
 *		SELECT u.region, count(*) FROM unnest($1, $2) u (region, id), "dbscale big side" b
 *		WHERE b.c1 = u.id GROUP BY u.region
 *
 * The node makes a partitioned scan of it, with its indexes where they help.  A statement
 * for which that can't be done reads the small side, which then is in WITH, in each branch.
 */
#include "planner/fanout.h"

#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"

#define BIG_SIDE "dbscale big side"
#define SMALL_SIDE "dbscale small side"

/* Is it unnest() of parameters from this number on? */
static bool
is_of_arrays(RangeTblEntry *rte, int first_param)
{
	FuncExpr   *call;
	Param	   *param;

	if (rte->rtekind != RTE_FUNCTION)
		return false;
	call = (FuncExpr *) ((RangeTblFunction *) linitial(rte->functions))->funcexpr;
	if (!IsA(call, FuncExpr) || call->funcid != F_UNNEST_ANYARRAY)
		return false;
	param = linitial(call->args);
	return IsA(param, Param) && param->paramkind == PARAM_EXTERN && param->paramid >= first_param;
}

static char *
with_text(RangeTblEntry *rte, const char *name)
{
	Query	   *query = makeNode(Query);
	RangeTblEntry *arrays = copyObject(rte);
	RangeTblRef *ref = makeNode(RangeTblRef);
	ShardSql	sql;
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	appendStringInfo(&text, "WITH %s (", quote_identifier(name));
	foreach(lc, rte->functions)
	{
		FuncExpr   *call = (FuncExpr *) ((RangeTblFunction *) lfirst(lc))->funcexpr;
		int			column = foreach_current_index(lc) + 1;
		Var		   *var = makeVar(1, column, call->funcresulttype, -1, call->funccollid, 0);
		char	   *column_name = strVal(list_nth(rte->eref->colnames, column - 1));

		query->targetList = lappend(query->targetList, makeTargetEntry((Expr *) var, column, column_name, false));
		appendStringInfo(&text, "%s%s", column > 1 ? ", " : "", quote_identifier(column_name));
	}
	ref->rtindex = 1;
	query->commandType = CMD_SELECT;
	query->canSetTag = true;
	query->rtable = list_make1(arrays);
	query->jointree = makeFromExpr(list_make1(ref), NULL);
	sql = dbscale_plan_deparse(query, NIL);
	appendStringInfo(&text, ") AS MATERIALIZED (%s) ", strVal(linitial(sql.pieces)));
	return text.data;
}

static void
refer_to_with(RangeTblEntry *rte, const char *name)
{
	ListCell   *lc;

	foreach(lc, rte->functions)
	{
		FuncExpr   *call = (FuncExpr *) ((RangeTblFunction *) lfirst(lc))->funcexpr;

		rte->coltypes = lappend_oid(rte->coltypes, call->funcresulttype);
		rte->coltypmods = lappend_int(rte->coltypmods, -1);
		rte->colcollations = lappend_oid(rte->colcollations, call->funccollid);
	}
	rte->rtekind = RTE_CTE;
	rte->functions = NIL;
	rte->ctename = pstrdup(name);
}

char *
dbscale_fanout_share_small(Query *shipped, int first_param)
{
	const char *name = SMALL_SIDE;
	char	   *text;
	ListCell   *lc;

	foreach(lc, shipped->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (!is_of_arrays(rte, first_param))
			continue;
		text = with_text(rte, name);
		refer_to_with(rte, name);
		return text;
	}
	return NULL;
}

/* ---- the big side, gathered ---- */

typedef struct Gathering
{
	Index		small;			/* position of the arrays */
	Index		big;			/* and of what is gathered */
	Query	   *branch;			/* a shard's part */
	bool		failed;
} Gathering;

static Node *
gather_columns(Node *node, Gathering *gathering)
{
	Var		   *var = (Var *) node;
	List	   *columns;
	int			column = 0;
	ListCell   *lc;

	if (node == NULL)
		return NULL;
	if (!IsA(node, Var) || var->varno == gathering->small)
		return expression_tree_mutator(node, gather_columns, gathering);
	if (var->varlevelsup != 0 || var->varattno <= 0)
	{
		gathering->failed = true;
		return node;
	}
	columns = gathering->branch->targetList;
	foreach(lc, columns)
		if (equal(((TargetEntry *) lfirst(lc))->expr, var))
			column = foreach_current_index(lc) + 1;
	if (column == 0)
	{
		column = list_length(columns) + 1;
		gathering->branch->targetList = lappend(columns, makeTargetEntry((Expr *) copyObject(var), column,
																		 psprintf("c%d", column), false));
	}
	return (Node *) makeVar(gathering->big, column, var->vartype, var->vartypmod, var->varcollid, 0);
}

static RangeTblEntry *
big_entry(List *columns)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	List	   *names = NIL;
	ListCell   *lc;

	rte->rtekind = RTE_CTE;
	rte->ctename = pstrdup(BIG_SIDE);
	foreach(lc, columns)
	{
		TargetEntry *tle = lfirst(lc);
		Node	   *expr = (Node *) tle->expr;

		names = lappend(names, makeString(pstrdup(tle->resname)));
		rte->coltypes = lappend_oid(rte->coltypes, exprType(expr));
		rte->coltypmods = lappend_int(rte->coltypmods, exprTypmod(expr));
		rte->colcollations = lappend_oid(rte->colcollations, exprCollation(expr));
	}
	rte->alias = makeAlias("big", NIL);
	rte->eref = makeAlias("big", names);
	rte->inFromCl = true;
	return rte;
}

/* The units and conditions that are the big side's own go to the branch. */
static bool
divide(Query *shipped, Gathering *gathering)
{
	List	   *units = NIL;
	List	   *own = NIL;
	List	   *joining = NIL;
	Bitmapset  *small = bms_make_singleton(gathering->small);
	ListCell   *lc;

	foreach(lc, shipped->jointree->fromlist)
	{
		if (!IsA(lfirst(lc), RangeTblRef) || ((RangeTblRef *) lfirst(lc))->rtindex != (int) gathering->small)
			units = lappend(units, lfirst(lc));
	}
	/* it must stand by itself */
	if (units == NIL || list_length(units) == list_length(shipped->jointree->fromlist))
		return false;
	foreach(lc, make_ands_implicit((Expr *) shipped->jointree->quals))
	{
		if (bms_overlap(pull_varnos_of_level(NULL, lfirst(lc), 0), small))
			joining = lappend(joining, lfirst(lc));
		else
			own = lappend(own, lfirst(lc));
	}
	gathering->branch = makeNode(Query);
	gathering->branch->commandType = CMD_SELECT;
	gathering->branch->canSetTag = true;
	gathering->branch->rtable = copyObject(shipped->rtable);
	dbscale_blank_entry(rt_fetch(gathering->small, gathering->branch->rtable));
	gathering->branch->jointree = makeFromExpr(units, own == NIL ? NULL : (Node *) make_ands_explicit(own));
	gathering->branch->hasSubLinks = checkExprHasSubLink((Node *) gathering->branch->jointree);
	shipped->jointree->quals = joining == NIL ? NULL : (Node *) make_ands_explicit(joining);
	return true;
}

static bool
has_subqueries(Query *shipped)
{
	ListCell   *lc;

	foreach(lc, make_ands_implicit((Expr *) shipped->jointree->quals))
		if (checkExprHasSubLink(lfirst(lc)))
			return true;
	return checkExprHasSubLink((Node *) shipped->targetList) || checkExprHasSubLink(shipped->havingQual) ||
		shipped->windowClause != NIL;
}

Query *
dbscale_fanout_gather(const Query *query, int first_param, char **prefix, char **suffix)
{
	Query	   *shipped = copyObject((Query *) query);
	Gathering	gathering = {0};
	RangeTblRef *small_ref = makeNode(RangeTblRef);
	RangeTblRef *big_ref = makeNode(RangeTblRef);
	StringInfoData text;
	ShardSql	sql;
	ListCell   *lc;

	foreach(lc, shipped->rtable)
		if (is_of_arrays(lfirst(lc), first_param))
			gathering.small = foreach_current_index(lc) + 1;
	if (gathering.small == 0 || has_subqueries(shipped) || !divide(shipped, &gathering))
		return NULL;
	gathering.big = list_length(shipped->rtable) + 1;
	shipped->targetList = (List *) gather_columns((Node *) shipped->targetList, &gathering);
	shipped->havingQual = gather_columns(shipped->havingQual, &gathering);
	shipped->jointree->quals = gather_columns(shipped->jointree->quals, &gathering);
	if (gathering.failed || gathering.branch->targetList == NIL)
		return NULL;

	foreach(lc, shipped->rtable)
		if (foreach_current_index(lc) + 1 != (int) gathering.small)
			dbscale_blank_entry(lfirst(lc));
	shipped->rtable = lappend(shipped->rtable, big_entry(gathering.branch->targetList));
	small_ref->rtindex = gathering.small;
	big_ref->rtindex = gathering.big;
	shipped->jointree->fromlist = list_make2(small_ref, big_ref);
	sql = dbscale_plan_deparse(shipped, NIL);

	initStringInfo(&text);
	appendStringInfo(&text, "WITH %s (", quote_identifier(BIG_SIDE));
	foreach(lc, gathering.branch->targetList)
		appendStringInfo(&text, "%s%s", foreach_current_index(lc) > 0 ? ", " : "",
						 quote_identifier(((TargetEntry *) lfirst(lc))->resname));
	appendStringInfoString(&text, ") AS NOT MATERIALIZED (");
	*prefix = text.data;
	*suffix = psprintf(") %s", strVal(linitial(sql.pieces)));
	return gathering.branch;
}
