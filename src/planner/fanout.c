/*
 * fanout.c
 *		The plan of a query that many shards answer, each a part.
 *
 * A statement that is not for one shard is looked at level by level, from the outside
 * in.  A level is pushed down when its tables are joined on their shard keys, so that
 * rows of one shard never meet rows of another (inference.c), and when what is pushed
 * means the same on a node (ship.c).  It is then split (fanout_split.c), and its FROM
 * becomes
 *
 *		FROM dbscale.shard_rows('task', $1, now(), …) AS rows (c1 int8, c2 text, …)
 *
 * whose first argument is the printed FanoutTask and whose others are the expressions
 * that are computed here.  Core plans the whole statement, and where it meets that
 * function, set_rel_pathlist_hook gives it a custom path for executor/fanout_scan.c.
 *
 * The level's tables stay in its range table, where nothing refers to them: by them
 * the executor checks privileges, and plans are locked and invalidated.
 *
 * A level that cannot be pushed down is taken apart into subqueries that can
 * (fanout_join.c); what is left keeps its foreign tables, and the levels below are looked at.
 */
#include "planner/fanout.h"
#include "planner/fallback.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/restrictinfo.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#define PLACEHOLDER_FUNCTION "shard_rows"

/* Random bytes, and their length as text: see seal_of_session. */
#define SEAL_BYTES 16
#define SEAL_LENGTH (2 * SEAL_BYTES)

DBSCALE_FUNCTION(dbscale_shard_rows);

static set_rel_pathlist_hook_type previous_pathlist_hook = NULL;

/* Only a place in a query that was split; never called. */
Datum
dbscale_shard_rows(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("dbscale.shard_rows cannot be called"),
			 errdetail("It marks the place of a scan of shards in a query that the planner has split.")));
	PG_RETURN_NULL();
}

/* ---- which levels ---- */

typedef struct OuterContext
{
	int			depth;
	bool		columns_only;	/* WITH does not count */
} OuterContext;

static bool
needs_outside(Node *node, OuterContext *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Var:
			return ((Var *) node)->varlevelsup > context->depth;
		case T_Aggref:
			if (((Aggref *) node)->agglevelsup > context->depth)
				return true;
			break;
		case T_GroupingFunc:
			if (((GroupingFunc *) node)->agglevelsup > context->depth)
				return true;
			break;
		case T_RangeTblEntry:
			return ((RangeTblEntry *) node)->rtekind == RTE_CTE && !context->columns_only;
		case T_Query:
			{
				bool		result;

				context->depth++;
				result = query_tree_walker((Query *) node, needs_outside, context,
										   QTW_EXAMINE_RTES_BEFORE);
				context->depth--;
				return result;
			}
		default:
			break;
	}
	return expression_tree_walker(node, needs_outside, context);
}

bool
dbscale_fanout_needs_outside(Node *query)
{
	OuterContext context = {-1, false};

	return needs_outside(query, &context);
}

/* Is it computed anew for each row of an outer query? */
static bool
is_correlated(Query *query)
{
	OuterContext context = {-1, true};

	return needs_outside((Node *) query, &context);
}

bool
dbscale_fanout_mentions_outside(Node *expr)
{
	OuterContext context = {0, false};

	return needs_outside(expr, &context);
}

static const char outside[] = "a reference to an outer query or to WITH";

static const char *
check_level(Query *query)
{
	if (query->commandType != CMD_SELECT || query->setOperations != NULL)
		return "not a plain SELECT";
	if (query->jointree->fromlist == NIL)
		return "no FROM";
	if (query->cteList != NIL)
		return "WITH";
	if (query->hasTargetSRFs)
		return "a set-returning function in the select list";
	if (query->rowMarks != NIL || query->hasForUpdate)
		return "FOR UPDATE or FOR SHARE";
	if (dbscale_fanout_needs_outside((Node *) query))
		return outside;
	return NULL;
}

static const char better_pruned[] = "ranges or lists are pruned by conditions on the shard key";

/*
 * A condition on the key of a table by range or list, other than by values: core prunes
 * its partitions by it, at execution too, and the shards that are left out may be most.
 */
static bool
is_better_pruned(Query *query, const Colocation *colocation)
{
	ListCell   *lc;

	if (colocation->values != NIL || colocation->group->strategy == SHARD_HASH ||
		colocation->group->strategy == SHARD_DIRECTORY)
		return false;
	foreach(lc, make_ands_implicit((Expr *) query->jointree->quals))
	{
		List	   *vars = pull_var_clause(lfirst(lc), PVC_RECURSE_AGGREGATES | PVC_RECURSE_WINDOWFUNCS |
										   PVC_RECURSE_PLACEHOLDERS);
		ListCell   *var;

		foreach(var, vars)
		{
			Var		   *column = lfirst(var);

			if (column->varlevelsup == 0 && bms_is_member(column->varno, colocation->keys_of) &&
				dbscale_catalog_table(rt_fetch(column->varno, query->rtable)->relid)->key_attno == column->varattno)
				return true;
		}
	}
	return false;
}

/* Can these go to the shards, joined as they are? */
bool
dbscale_fanout_place(FanoutLevel *level, Query *query)
{
	Shipment	none = {.reference_too = true};
	bool		names_distributed = false;
	ListCell   *lc;

	level->shipment = none;
	if (dbscale_ship_check((Node *) query, &level->shipment))
	{
		level->reason = level->shipment.reason;
		return false;
	}
	if (level->shipment.locks_rows)
		level->reason = "FOR UPDATE or FOR SHARE";
	foreach(lc, level->shipment.relations)
		if (!dbscale_catalog_table(lfirst_oid(lc))->is_reference)
			names_distributed = true;
	if (!names_distributed)
		level->reason = "no distributed table";
	else if (!dbscale_infer_colocation(query, &level->colocation))
		level->reason = "the tables are not joined on their shard keys";
	else if (is_better_pruned(query, &level->colocation))
		level->reason = better_pruned;
	return level->reason == NULL;
}

/* See dbscale.consistent_reads; a plan that is kept, and used in a block later, may be refused there. */
bool
dbscale_fanout_takes_one_step(void)
{
	return dbscale_consistent_reads && !IsolationUsesXactSnapshot() && IsTransactionBlock();
}

/* ---- the placeholder ---- */

/*
 * What a task runs on the nodes is not checked again, so no task may be taken from a user
 * who calls the function himself, be it in a function that the planner inlines.  Each
 * task therefore begins with a secret of the session, which no plan keeps and nothing prints.
 */
static const char *
seal_of_session(void)
{
	static char seal[SEAL_LENGTH + 1];
	uint8		bytes[SEAL_BYTES];

	if (seal[0] != '\0')
		return seal;
	if (!pg_strong_random(bytes, sizeof(bytes)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random bytes for the planner of shards")));
	for (int i = 0; i < SEAL_BYTES; i++)
		snprintf(seal + 2 * i, 3, "%02x", bytes[i]);
	return seal;
}

/* The task's text; NULL if it is not of this session's planner. */
static const char *
unsealed(Const *argument)
{
	char	   *task;

	if (!IsA(argument, Const) || argument->consttype != TEXTOID || argument->constisnull)
		return NULL;
	task = TextDatumGetCString(argument->constvalue);
	return strncmp(task, seal_of_session(), SEAL_LENGTH) == 0 ? task + SEAL_LENGTH : NULL;
}

static Oid
placeholder_function(void)
{
	Oid			types[2] = {TEXTOID, ANYOID};
	oidvector  *arguments = buildoidvector(types, 2);

	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(PLACEHOLDER_FUNCTION),
						   PointerGetDatum(arguments),
						   ObjectIdGetDatum(get_namespace_oid(DBSCALE_SCHEMA, false)));
}

static RangeTblEntry *
placeholder(FanoutLevel *level, const FanoutTask *task, List *exprs)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	RangeTblFunction *function = makeNode(RangeTblFunction);
	char	   *text = psprintf("%s%s", seal_of_session(), nodeToString(dbscale_plan_pack_fanout(task)));
	Const	   *first = makeConst(TEXTOID, -1, DEFAULT_COLLATION_OID, -1, CStringGetTextDatum(text), false, false);
	FuncExpr   *call;
	List	   *names = NIL;
	ListCell   *lc;

	/* the function has at least one expression */
	if (exprs == NIL)
		exprs = list_make1(makeNullConst(TEXTOID, -1, DEFAULT_COLLATION_OID));
	call = makeFuncExpr(placeholder_function(), RECORDOID, lcons(first, exprs),
						InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	call->funcretset = true;
	function->funcexpr = (Node *) call;
	foreach(lc, level->columns)
	{
		Node	   *expr = (Node *) ((TargetEntry *) lfirst(lc))->expr;
		char	   *name = psprintf("c%d", foreach_current_index(lc) + 1);

		names = lappend(names, makeString(name));
		function->funccolnames = lappend(function->funccolnames, makeString(pstrdup(name)));
		function->funccoltypes = lappend_oid(function->funccoltypes, exprType(expr));
		function->funccoltypmods = lappend_int(function->funccoltypmods, exprTypmod(expr));
		function->funccolcollations = lappend_oid(function->funccolcollations, exprCollation(expr));
	}
	function->funccolcount = list_length(level->columns);
	rte->rtekind = RTE_FUNCTION;
	rte->functions = list_make1(function);
	rte->alias = makeAlias("shards", NIL);
	rte->eref = makeAlias("shards", names);
	rte->inFromCl = true;
	return rte;
}

/* ---- one level ---- */

/* What is left of the statement for a node, once all that mentions no row is taken out. */
bool
dbscale_fanout_finish_shard_query(FanoutLevel *level, FanoutTask *task, List **exprs)
{
	Query	   *shipped;
	ListCell   *lc;

	level->shipment.params = NIL;
	level->shipment.reason = NULL;
	shipped = (Query *) dbscale_ship_extract((Node *) level->shard, &level->shipment);
	if (dbscale_ship_find_local((Node *) shipped, &level->shipment))
	{
		level->reason = level->shipment.reason;
		return false;
	}
	shipped = dbscale_fanout_marks_to_params(shipped, level->subqueries,
											 list_length(level->shipment.params) + 1);
	if (level->small != NULL)
	{
		int			first = list_length(level->shipment.params) + 1;
		Query	   *branch = dbscale_fanout_gather(shipped, first, &task->prefix, &task->suffix);

		if (branch != NULL)
			shipped = branch;
		else
			task->with = dbscale_fanout_share_small(shipped, first);
	}
	task->sql = dbscale_plan_deparse(shipped, level->shipment.relations);
	if (task->sql.pieces == NIL)
	{
		level->reason = "its text depends on the shard";
		return false;
	}
	*exprs = list_concat_copy(level->shipment.params, level->subqueries);
	task->parameters = list_length(*exprs);
	foreach(lc, level->colocation.values)
	{
		if (dbscale_is_mark(lfirst(lc)))
		{
			task->keys = lappend_int(task->keys, list_length(level->shipment.params) +
									 ((Param *) lfirst(lc))->paramid - DBSCALE_FIRST_MARK);
			continue;
		}
		if (contain_volatile_functions(lfirst(lc)))
			continue;
		task->keys = lappend_int(task->keys, list_length(*exprs));
		*exprs = lappend(*exprs, copyObject(lfirst(lc)));
	}
	return true;
}

/* The level's query becomes the one above. */
static void
replace_level(FanoutLevel *level, FanoutTask *task, List *exprs)
{
	Query	   *query = level->query;
	RangeTblRef *ref = makeNode(RangeTblRef);
	List	   *rtable;
	ListCell   *lc;

	task->command = CMD_SELECT;
	task->key_table = level->colocation.table;
	task->relations = level->shipment.relations;
	task->has_result = true;
	task->check_as_user = level->shipment.check_as_user;
	task->rows = dbscale_fanout_estimate_rows(level);
	dbscale_fanout_origins(level, task);
	task->strategy = pstrdup(level->strategy);
	task->reason = level->reason ? pstrdup(level->reason) : NULL;
	if (task->prefix == NULL)
		dbscale_fanout_node_text(level, task);

	rtable = list_make1(placeholder(level, task, exprs));
	foreach(lc, level->shipment.rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		/* a view, from 16 on */
		if (rte->rtekind == RTE_SUBQUERY)
			rte->rtekind = RTE_RELATION;
		rtable = lappend(rtable, rte);
	}
	*query = *level->above;
	if (level->subqueries != NIL)
		*query = *dbscale_fanout_unmark(query, level->subqueries);
	if (level->small != NULL)
		query->cteList = list_make1(level->small);
	query->rtable = rtable;
	dbscale_query_set_perminfos(query, level->shipment.perminfos);
	ref->rtindex = FANOUT_RTI;
	query->jointree->fromlist = list_make1(ref);
}

static bool
finish_level(FanoutLevel *level)
{
	FanoutTask	task = {0};
	List	   *exprs;

	if (!dbscale_fanout_finish_shard_query(level, &task, &exprs))
		return false;
	replace_level(level, &task, exprs);
	return true;
}

/* The level as it stands: whole, else in parts, else its rows. */
static bool
push_level(FanoutLevel *level)
{
	Query	   *query = level->query;
	const char *reason;

	if (!dbscale_fanout_place(level, query))
		return false;
	if (dbscale_fanout_split_whole(level) && finish_level(level))
		return true;
	reason = level->reason;
	level->reason = NULL;
	if ((query->hasAggs || query->groupClause != NIL) && !query->hasWindowFuncs &&
		dbscale_fanout_split_partial(level))
	{
		level->reason = reason;
		if (finish_level(level))
			return true;
	}
	if (level->reason)
		reason = level->reason;
	level->reason = NULL;
	if (!dbscale_fanout_split_rows(level, NIL) || level->reason)
		return false;
	level->reason = reason;
	return finish_level(level);
}

/* Would a node take this condition by itself? */
bool
dbscale_fanout_is_remote_condition(Node *condition)
{
	Shipment	shipment = {.reference_too = true};
	Node	   *shipped;

	if (checkExprHasSubLink(condition) || contain_volatile_functions(condition))
		return false;
	shipped = dbscale_ship_extract_condition(condition, &shipment);
	return !dbscale_ship_find_local(shipped, &shipment);
}

/* Only FROM, and those conditions of WHERE that a node takes. */
static bool
push_from(FanoutLevel *level)
{
	Query	   *query = level->query;
	Query	   *from = copyObject(query);
	List	   *remote = NIL;
	List	   *above = NIL;
	const char *reason = level->reason;
	ListCell   *lc;

	foreach(lc, make_ands_implicit((Expr *) from->jointree->quals))
	{
		if (dbscale_fanout_is_remote_condition(lfirst(lc)))
			remote = lappend(remote, lfirst(lc));
		else
			above = lappend(above, lfirst(lc));
	}
	from->jointree->quals = remote == NIL ? NULL : (Node *) make_ands_explicit(remote);
	from->targetList = NIL;
	from->havingQual = NULL;
	from->groupClause = from->groupingSets = from->windowClause = from->distinctClause = from->sortClause = NIL;
	from->limitCount = from->limitOffset = NULL;
	level->reason = NULL;
	if (!dbscale_fanout_place(level, from))
		return false;
	if (is_better_pruned(query, &level->colocation))
	{
		level->reason = better_pruned;
		return false;
	}
	query->jointree->quals = from->jointree->quals;
	if (!dbscale_fanout_split_rows(level, above) || level->reason)
		return false;
	level->reason = reason;
	return finish_level(level);
}

/* One way of pushing the level down; on failure the query is as it was. */
static bool
try_level(Query *query, Query *form, List *subqueries, CommonTableExpr *small,
		  bool (*push) (FanoutLevel *), const char **reason)
{
	FanoutLevel level = {.query = form, .subqueries = subqueries, .small = small, .reason = *reason};
	bool		done = push(&level);

	if (done)
		*query = *form;
	else if (level.reason)
		*reason = level.reason;
	return done;
}

static bool
push_as_is(FanoutLevel *level)
{
	level->reason = NULL;
	return push_level(level);
}

/* A level that is computed for each row of the queries around it: their columns are parameters. */
static bool
push_for_each_row(Query *query, const char **reason)
{
	List	   *columns;
	Query	   *form = dbscale_fanout_mark_outer(query, &columns);

	return form != NULL && try_level(query, form, columns, NULL, push_as_is, reason);
}

static bool
rewrite_level(Query *query, bool for_each_row, const char **reason)
{
	List	   *subqueries = NIL;
	CommonTableExpr *small = NULL;
	Query	   *marked;
	Query	   *form;

	*reason = check_level(query);
	if (*reason == outside && for_each_row && push_for_each_row(query, reason))
		return true;
	if (*reason)
	{
		/* its tables may be fetched by statements of their own */
		if (!is_correlated(query))
			(void) dbscale_fanout_separate(query, true);
		return false;
	}
	if (try_level(query, copyObject(query), NIL, NULL, push_as_is, reason))
		return true;
	if (query->hasSubLinks)
	{
		dbscale_fanout_exists_as_in(query);
		marked = dbscale_fanout_mark_subqueries(query, &subqueries);
		if (subqueries != NIL && try_level(query, marked, subqueries, NULL, push_as_is, reason))
			return true;
		subqueries = NIL;
	}
	if (try_level(query, copyObject(query), NIL, NULL, push_from, reason))
	{
		dbscale_fanout_separate_exists(query);
		return true;
	}
	form = dbscale_fanout_broadcast(query, &subqueries, &small);
	if (form != NULL && try_level(query, form, subqueries, small, push_as_is, reason))
		return true;
	(void) dbscale_fanout_separate(query, false);
	dbscale_fanout_separate_exists(query);
	return false;
}

/* A subquery in FROM that core does not join with the tables around it. */
static bool
stands_alone(Query *query)
{
	return query->hasAggs || query->groupClause != NIL || query->groupingSets != NIL || query->havingQual != NULL ||
		query->hasWindowFuncs || query->distinctClause != NIL || query->limitCount != NULL || query->limitOffset != NULL;
}

static bool rewrite_levels(Node *node, void *context);

static bool
rewrite_query(Query *query, bool for_each_row, List **reasons)
{
	const char *reason;

	if (!rewrite_level(query, for_each_row, &reason))
		*reasons = dbscale_fallback_note(*reasons, query, reason);
	return query_tree_walker(query, rewrite_levels, reasons, 0);
}

/* Of subqueries that look at the queries around them, core makes joins of EXISTS, IN and those in FROM that are plain. */
static bool
rewrite_levels(Node *node, void *context)
{
	SubLink    *link = (SubLink *) node;

	if (node == NULL)
		return false;
	if (IsA(node, Query))
		return rewrite_query((Query *) node, stands_alone((Query *) node), context);
	if (!IsA(node, SubLink))
		return expression_tree_walker(node, rewrite_levels, context);
	return rewrite_levels(link->testexpr, context) ||
		rewrite_query((Query *) link->subselect, link->subLinkType == EXPR_SUBLINK || link->subLinkType == ARRAY_SUBLINK, context);
}

static bool
has_modifying_cte(Query *query)
{
	return query->hasModifyingCTE;
}

Query *
dbscale_fanout_rewrite(Query *query, List **reasons)
{
	Query	   *copy;

	if (query->commandType == CMD_UPDATE || query->commandType == CMD_DELETE)
		return dbscale_fanout_narrow(query, reasons);
	if ((query->commandType != CMD_SELECT && query->commandType != CMD_INSERT) || has_modifying_cte(query))
		return query;
	copy = DBSCALE_HAS_GROUP_ENTRIES ? dbscale_ship_normalize(query) : copyObject(query);
	(void) dbscale_fanout_inline_with((Node *) copy, NULL);
	if (copy->commandType == CMD_SELECT)
		rewrite_levels((Node *) copy, reasons);
	else
		query_tree_walker(copy, rewrite_levels, reasons, 0);
	return copy;
}

/* ---- paths and plans ---- */

static Plan *
plan_fanout_path(PlannerInfo *root, RelOptInfo *rel, CustomPath *path, List *tlist,
				 List *clauses, List *custom_plans)
{
	CustomScan *scan = makeNode(CustomScan);
	RangeTblEntry *rte = planner_rt_fetch(rel->relid, root);
	RangeTblFunction *function = linitial(rte->functions);
	FuncExpr   *call = (FuncExpr *) function->funcexpr;
	ListCell   *lc;

	scan->scan.plan.targetlist = tlist;
	scan->scan.plan.qual = extract_actual_clauses(clauses, false);
	scan->flags = path->flags;
	scan->methods = &dbscale_fanout_scan_methods;
	scan->custom_exprs = copyObject(list_copy_tail(call->args, 1));
	scan->custom_private = stringToNode(unsealed(linitial(call->args)));
	foreach(lc, function->funccoltypes)
	{
		int			i = foreach_current_index(lc);
		Var		   *var = makeVar(rel->relid, i + 1, lfirst_oid(lc), list_nth_int(function->funccoltypmods, i),
								  list_nth_oid(function->funccolcollations, i), 0);

		scan->custom_scan_tlist = lappend(scan->custom_scan_tlist,
										  makeTargetEntry((Expr *) var, i + 1,
														  pstrdup(strVal(list_nth(function->funccolnames, i))),
														  false));
	}
	return (Plan *) scan;
}

static const CustomPathMethods fanout_path_methods = {
	.CustomName = "dbscale fan-out",
	.PlanCustomPath = plan_fanout_path
};

static bool
is_placeholder(RangeTblEntry *rte)
{
	RangeTblFunction *function;

	if (rte->rtekind != RTE_FUNCTION || list_length(rte->functions) != 1)
		return false;
	function = linitial(rte->functions);
	return IsA(function->funcexpr, FuncExpr) &&
		((FuncExpr *) function->funcexpr)->funcresulttype == RECORDOID &&
		function->funccoltypes != NIL &&
		((FuncExpr *) function->funcexpr)->funcid == placeholder_function();
}

FanoutTask *
dbscale_fanout_task_of(RangeTblEntry *rte)
{
	FuncExpr   *call;
	const char *text;

	if (!is_placeholder(rte))
		return NULL;
	call = (FuncExpr *) ((RangeTblFunction *) linitial(rte->functions))->funcexpr;
	text = unsealed(linitial(call->args));
	return text == NULL ? NULL : dbscale_plan_unpack_fanout(stringToNode(text));
}

/*
 * A subquery that refers to tables beside it passes that on to all branches of its UNION,
 * this one too, where nothing refers to them.
 */
static void
add_fanout_path(PlannerInfo *root, RelOptInfo *rel, FanoutTask *task)
{
	CustomPath *path = makeNode(CustomPath);

	rel->rows = clamp_row_est(task->rows * rel->rows / Max(rel->tuples, 1));
	rel->tuples = task->rows;
	path->path.pathtype = T_CustomScan;
	path->path.parent = rel;
	path->path.pathtarget = rel->reltarget;
	path->path.param_info = get_baserel_parampathinfo(root, rel, rel->lateral_relids);
	path->path.rows = rel->rows;
	path->path.startup_cost = 100;
	path->path.total_cost = 100 + task->rows * (cpu_tuple_cost + rel->baserestrictcost.per_tuple + 0.02);
	path->flags = CUSTOMPATH_SUPPORT_PROJECTION;
	path->methods = &fanout_path_methods;
	rel->pathlist = list_make1(path);
	rel->partial_pathlist = NIL;
}

static void
dbscale_set_rel_pathlist(PlannerInfo *root, RelOptInfo *rel, Index rti, RangeTblEntry *rte)
{
	FanoutTask *task;

	if (previous_pathlist_hook)
		previous_pathlist_hook(root, rel, rti, rte);
	if (dbscale_catalog_is_empty() || (task = dbscale_fanout_task_of(rte)) == NULL)
		return;
	add_fanout_path(root, rel, task);
}

void
dbscale_fanout_init(void)
{
	previous_pathlist_hook = set_rel_pathlist_hook;
	set_rel_pathlist_hook = dbscale_set_rel_pathlist;
	dbscale_fanout_estimate_init();
}
