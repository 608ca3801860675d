/*
 * plan_cache.c
 *		Plans of routed statements that were planned before.
 *
 * A client that writes its values into the statement's text has each statement planned. What
 * the router finds out about it is the same each time, so it is kept:
 *
 * 1. Constants are lifted out of the query (literals.c).
 * 2. If a query equal() to what is left has been routed before, its plan is taken.  Else the
 *    router plans what is left, a statement with parameters.
 * 3. The values are put in the place of the parameters, among the plan's expressions.
 *
 * Why a plan is still right when it is found:
 *
 * a. The router has planned without the values, so the plan is right for any.  That constants
 *    are equal to each other it knows, and so does the query: they are one parameter.
 * b. Queries that are equal() mean the same, read as the same users, with the same policies:
 *    the parser and the rewriter have been through with all that depends on the session.  The
 *    range table, from which the executor checks privileges, is part of what is compared.
 * c. What else the plan depends on is the relations (triggers, indexes, how they are
 *    distributed), whose change invalidates their relation cache entries, and operator families.
 *    A plan goes with these, as PostgreSQL's own cached plans do.  Queries that name functions,
 *    operators or types of the database are not kept.
 * d. The plan names no shard and no node: these are found at execution.
 * e. Nobody changes a relation while we have it locked; what is invalidated between look-up
 *    and the end of planning is not kept (`generation`).
 *
 * A plan that is taken shares all but its upmost nodes with the cache.  It is used within the
 * transaction, or copied (plan/query_cache.c, which says how long plans are kept).
 */
#include "planner/plan_cache.h"

#include "catalog/metadata.h"
#include "catalog/pg_class.h"
#include "common/hashfn.h"
#include "nodes/extensible.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "plan/query_cache.h"
#include "planner/literals.h"
#include "planner/router.h"
#include "planner/ship.h"
#include "planner/system_columns.h"
#include "utils/inval.h"
#include "utils/syscache.h"

typedef struct CachedPlan
{
	QueryEntry	entry;			/* its query is without literals */
	PlannedStmt *plan;
} CachedPlan;

static QueryCache plans;

/* Syscache callback. */
static void
forget_all(Datum arg, int cacheid, uint32 hash)
{
	dbscale_query_cache_forget_all(&plans);
}

static void
initialize(void)
{
	if (plans.initialized)
		return;
	dbscale_query_cache_initialize(&plans);
	CacheRegisterSyscacheCallback(AMOPOPID, forget_all, (Datum) 0);
}

/* ---- which statements ---- */

bool
dbscale_plan_cache_takes(Query *query, int cursor_options)
{
	bool		distributed = false;
	ListCell   *lc;

	if (query->commandType == CMD_UTILITY || query->commandType == CMD_MERGE || query->hasSubLinks ||
		query->cteList != NIL || query->setOperations != NULL || (cursor_options & CURSOR_OPT_SCROLL) != 0)
		return false;
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (rte->rtekind == RTE_JOIN)
			continue;
		if (rte->rtekind != RTE_RELATION)
			return false;
		if (distributed || rte->relkind != RELKIND_PARTITIONED_TABLE)
			continue;
		distributed = dbscale_catalog_is_distributed(rte->relid);
	}
	return distributed;
}

static bool
is_local_object(Oid oid, void *context)
{
	return !dbscale_ship_is_builtin(oid);
}

static bool
names_local_object(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, names_local_object, context, QTW_IGNORE_JOINALIASES);
	switch (nodeTag(node))
	{
		case T_Var:
		case T_Const:
		case T_Param:
		case T_FuncExpr:
		case T_OpExpr:
		case T_Aggref:
		case T_WindowFunc:
		case T_RelabelType:
		case T_CoerceViaIO:
		case T_ArrayCoerceExpr:
		case T_ConvertRowtypeExpr:
		case T_ArrayExpr:
		case T_RowExpr:
		case T_CaseExpr:
			if (!dbscale_ship_is_builtin(exprType(node)))
				return true;
			break;
		case T_CoerceToDomain:
			return true;
		default:
			break;
	}
	return check_functions_in_node(node, is_local_object, NULL) ||
		expression_tree_walker(node, names_local_object, context);
}

/* ---- the hash: what tells statements apart most often ---- */

static uint32
mix(uint32 hash, uint32 value)
{
	return hash_combine(hash, murmurhash32(value));
}

static uint32
mix_expression(uint32 hash, Node *node)
{
	hash = mix(hash, nodeTag(node));
	switch (nodeTag(node))
	{
		case T_Var:
			return mix(hash, ((Var *) node)->varno << 16 | (uint16) ((Var *) node)->varattno);
		case T_FuncExpr:
			return mix(hash, ((FuncExpr *) node)->funcid);
		case T_OpExpr:
			hash = mix(hash, ((OpExpr *) node)->opno);
			return mix_expression(hash, linitial(((OpExpr *) node)->args));
		default:
			return hash;
	}
}

static uint32
mix_conditions(uint32 hash, Node *quals)
{
	ListCell   *lc;

	if (quals == NULL)
		return hash;
	if (!is_andclause(quals))
		return mix_expression(hash, quals);
	foreach(lc, ((BoolExpr *) quals)->args)
		hash = mix_expression(hash, lfirst(lc));
	return hash;
}

static uint32
hash_query(Query *query)
{
	uint32		hash = murmurhash32(query->commandType);
	ListCell   *lc;

	foreach(lc, query->rtable)
		hash = mix(hash, ((RangeTblEntry *) lfirst(lc))->relid);
	foreach(lc, query->targetList)
		hash = mix_expression(hash, (Node *) ((TargetEntry *) lfirst(lc))->expr);
	return mix_conditions(hash, query->jointree->quals);
}

/* ---- finding and keeping ---- */

/* The kept plan as this statement's, but for its values. */
static PlannedStmt *
share_plan(CachedPlan *cached, const Query *query)
{
	PlannedStmt *plan = palloc(sizeof(PlannedStmt));
	CustomScan *scan = palloc(sizeof(CustomScan));

	dbscale_query_cache_use(&cached->entry);
	*plan = *cached->plan;
	*scan = *(CustomScan *) plan->planTree;
	plan->planTree = (Plan *) scan;
	plan->queryId = query->queryId;
	plan->stmt_location = query->stmt_location;
	plan->stmt_len = query->stmt_len;
	return plan;
}

static void
keep(Query *query, PlannedStmt *plan, uint32 hash)
{
	CachedPlan *cached;
	MemoryContext old;

	if (!dbscale_query_cache_wants(&plans, hash) || names_local_object((Node *) query, NULL))
		return;
	cached = (CachedPlan *) dbscale_query_cache_make(sizeof(CachedPlan), query, hash, plan->relationOids);
	old = MemoryContextSwitchTo(cached->entry.context);
	cached->plan = copyObject(plan);
	MemoryContextSwitchTo(old);
	dbscale_query_cache_keep(&plans, &cached->entry);
}

/* The query has no literals now, nor has the plan. */
static PlannedStmt *
route(Query *query, const char **reason)
{
	uint32		hash = hash_query(query);
	uint64		as_of = plans.generation;
	CachedPlan *cached = (CachedPlan *) dbscale_query_cache_find(&plans, query, hash, NIL);
	PlannedStmt *plan;

	if (cached != NULL)
		return share_plan(cached, query);
	dbscale_system_columns_check(query);
	plan = dbscale_router_plan(query, 0, reason);
	if (plan != NULL && as_of == plans.generation)
		keep(query, plan, hash);
	return plan;
}

PlannedStmt *
dbscale_plan_cache_route(Query *query, const char **reason)
{
	Literals	literals;
	PlannedStmt *plan;
	CustomScan *scan;

	initialize();
	dbscale_literals_lift(query, &literals);
	plan = route(query, reason);
	dbscale_literals_put_back(&literals);
	/* a constant that was not lifted may pin one table to the key that another has been lifted from */
	if (plan == NULL)
		return literals.count > 0 && list_length(query->rtable) > 1 ? dbscale_router_plan(query, 0, reason) : NULL;
	scan = castNode(CustomScan, plan->planTree);
	scan->custom_exprs = dbscale_literals_fill(&literals, scan->custom_exprs);
	return plan;
}
