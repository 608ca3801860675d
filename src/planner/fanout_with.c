/*
 * fanout_with.c
 *		WITH that is read once, in its place.
 *
 *		WITH busy AS (SELECT user_id, count(*) FROM posts GROUP BY 1)
 *		SELECT … FROM users JOIN busy ON user_id = users.id
 *
 * Core's planner would do the same a little later, under the same conditions; here it
 * comes first, so that the shards can join what is in WITH with what reads it.
 */
#include "planner/fanout.h"

#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteManip.h"

typedef struct InlineContext
{
	CommonTableExpr *cte;
	int			depth;			/* of the query looked at, below the one that has the WITH */
} InlineContext;

static bool
writes_or_locks(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		Query	   *query = (Query *) node;

		if (query->commandType != CMD_SELECT || query->rowMarks != NIL)
			return true;
		return query_tree_walker(query, writes_or_locks, context, 0);
	}
	return expression_tree_walker(node, writes_or_locks, context);
}

/* Its place in a recursion can be read only once. */
static bool
refers_to_recursion(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
		return ((RangeTblEntry *) node)->rtekind == RTE_CTE && ((RangeTblEntry *) node)->self_reference;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, refers_to_recursion, context, QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, refers_to_recursion, context);
}

static bool
is_inlined_by_core(CommonTableExpr *cte)
{
	return (cte->cterefcount == 1 || !refers_to_recursion(cte->ctequery, NULL)) &&
		(cte->ctematerialized == CTEMaterializeNever ||
			(cte->ctematerialized == CTEMaterializeDefault && cte->cterefcount == 1)) &&
		!cte->cterecursive &&
		!writes_or_locks(cte->ctequery, NULL) &&
		!contain_volatile_functions(cte->ctequery);
}

static bool
inline_references(Node *node, InlineContext *context)
{
	RangeTblEntry *rte = (RangeTblEntry *) node;

	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		context->depth++;
		query_tree_walker((Query *) node, inline_references, context, QTW_EXAMINE_RTES_AFTER);
		context->depth--;
		return false;
	}
	if (!IsA(node, RangeTblEntry))
		return expression_tree_walker(node, inline_references, context);
	if (rte->rtekind != RTE_CTE || (int) rte->ctelevelsup != context->depth ||
		strcmp(rte->ctename, context->cte->ctename) != 0)
		return false;
	rte->rtekind = RTE_SUBQUERY;
	rte->subquery = copyObject((Query *) context->cte->ctequery);
	/* what is outside of the WITH's query is so many levels further up from here */
	if (context->depth > 0)
		IncrementVarSublevelsUp((Node *) rte->subquery, context->depth, 1);
	rte->ctename = NULL;
	rte->ctelevelsup = 0;
	rte->self_reference = false;
	rte->coltypes = rte->coltypmods = rte->colcollations = NIL;
	return false;
}

static void
inline_level(Query *query)
{
	ListCell   *lc;

	if (query->hasRecursive || query->hasModifyingCTE)
		return;
	foreach(lc, query->cteList)
	{
		InlineContext context = {lfirst(lc), -1};

		if (!is_inlined_by_core(context.cte))
			continue;
		(void) inline_references((Node *) query, &context);
		query->cteList = foreach_delete_current(query->cteList, lc);
	}
}

/* From the outside in: what is put in its place may have WITH itself. */
bool
dbscale_fanout_inline_with(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (!IsA(node, Query))
		return expression_tree_walker(node, dbscale_fanout_inline_with, context);
	inline_level((Query *) node);
	return query_tree_walker((Query *) node, dbscale_fanout_inline_with, context, 0);
}
