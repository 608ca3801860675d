/*
 * router.c
 *		The plan of a statement that one shard answers whole.
 *
 * When key inference finds one key for all tables of a statement, the statement as
 * it stands can run on the node that holds the key's shard: nothing that it reads
 * or writes is anywhere else.  The plan is a single custom scan:
 *
 * 1. What mentions no row is taken out of the statement and computed here, once:
 *    each row-free expression that a node might see otherwise (now(), current_user,
 *    the session's time zone), and each parameter, becomes $1, $2, … of the shard's
 *    statement.  They are the plan's custom_exprs, the key's expression among them.
 * 2. What is left must mean on the node what it means here: built-in functions,
 *    operators, types and collations only, immutable after step 1.
 * 3. The text is made with holes for the shard tables' names (plan/deparse.c), so
 *    that a generic plan serves every key.
 *
 * Whatever is doubtful is not routed: row-level security, security barriers, row
 * triggers, changes of the key itself.  It is planned by core over the foreign
 * tables, with the same answer.
 */
#include "planner/router.h"

#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "plan/plan.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

typedef struct RouterContext
{
	const char *reason;			/* why not; NULL so far */
	List	   *relations;		/* OIDs of the distributed tables met */
	List	   *rtable;			/* relations whose privileges the executor checks */
	List	   *perminfos;		/* the same from 16 on */
	bool		locks_rows;
	bool		seen_user;
	Oid			check_as_user;
	bool		single_row;		/* INSERT … VALUES of one row: volatile is computed here too */
	List	   *params;			/* expressions of the remote statement's parameters */
} RouterContext;

/* ---- Which statements, and which range table entries ---- */

static const char *
check_distributed(RouterContext *context, RangeTblEntry *rte)
{
	Relation	rel;
	const char *reason = NULL;

	rel = table_open(rte->relid, NoLock);
	for (int i = 0; i < RelationGetNumberOfAttributes(rel); i++)
		if (TupleDescAttr(RelationGetDescr(rel), i)->attisdropped)
			reason = "a table with dropped columns";
	table_close(rel, NoLock);
	context->relations = list_append_unique_oid(context->relations, rte->relid);
	return reason;
}

/* Of functions in FROM, those that return sets are left to the node. */
static const char *
check_functions(RangeTblEntry *rte)
{
	ListCell   *lc;

	foreach(lc, rte->functions)
	{
		Node	   *expr = ((RangeTblFunction *) lfirst(lc))->funcexpr;

		if (!IsA(expr, FuncExpr) || !((FuncExpr *) expr)->funcretset)
			return "a function in FROM that returns no set";
	}
	return NULL;
}

/* The row that ON CONFLICT calls "excluded". */
static bool
is_excluded(Query *query, RangeTblEntry *rte)
{
	return query->onConflict && query->onConflict->exclRelIndex > 0 &&
		rte == list_nth(query->rtable, query->onConflict->exclRelIndex - 1);
}

/* A view's own entry is there for its privileges only; it is in no join tree. */
static const char *
check_entry(RouterContext *context, Query *query, RangeTblEntry *rte)
{
	bool		inserted = query->commandType == CMD_INSERT &&
		rte == list_nth(query->rtable, query->resultRelation - 1);
	Oid			user;

	if (rte->security_barrier || rte->securityQuals != NIL)
		return "a security barrier";
	if (rte->tablesample != NULL)
		return "TABLESAMPLE";
	switch (rte->rtekind)
	{
		case RTE_RELATION:
			break;
		case RTE_FUNCTION:
			return check_functions(rte);
		case RTE_SUBQUERY:
		case RTE_JOIN:
		case RTE_VALUES:
		case RTE_CTE:
		case RTE_RESULT:
			return NULL;
		default:
			return "a kind of FROM item that is not sent to nodes";
	}

	if (rte->relkind == RELKIND_VIEW || is_excluded(query, rte))
		return NULL;
	if (rte->relkind != RELKIND_PARTITIONED_TABLE ||
		dbscale_catalog_table(rte->relid) == NULL)
		return "a table that is not distributed";
	if (!rte->inh && !inserted)
		return "ONLY";
	user = dbscale_rte_check_as_user(query, rte);
	if (context->seen_user && user != context->check_as_user)
		return "tables read as different users";
	context->seen_user = true;
	context->check_as_user = user;
	return check_distributed(context, rte);
}

static const char *
check_query(RouterContext *context, Query *query)
{
	ListCell   *lc;

	if (query->hasRowSecurity)
		return "row-level security";
	if (query->hasModifyingCTE)
		return "a data-modifying WITH";
	if (query->hasTargetSRFs)
		return "a set-returning function in the select list";
	if (query->rowMarks != NIL)
		context->locks_rows = true;

	dbscale_collect_perminfos(&context->rtable, &context->perminfos, query);
	foreach(lc, query->rtable)
	{
		const char *reason = check_entry(context, query, lfirst(lc));

		if (reason)
			return reason;
	}
	return NULL;
}

static bool
check_queries(Node *node, RouterContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		context->reason = check_query(context, (Query *) node);
		if (context->reason)
			return true;
		return query_tree_walker((Query *) node, check_queries, context, 0);
	}
	return expression_tree_walker(node, check_queries, context);
}

/* Writes: no triggers here, the key is not changed, ON CONFLICT names columns. */
static const char *
check_write(Query *query)
{
	RangeTblEntry *rte = list_nth(query->rtable, query->resultRelation - 1);
	const DistributedTable *table = dbscale_catalog_table(rte->relid);
	Relation	rel;
	bool		has_triggers;
	ListCell   *lc;

	if (table == NULL || table->is_reference)
		return "a table that is not distributed";
	rel = table_open(rte->relid, NoLock);
	has_triggers = rel->trigdesc != NULL;
	table_close(rel, NoLock);
	if (has_triggers)
		return "triggers";
	if (query->withCheckOptions != NIL)
		return "WITH CHECK OPTION";
	if (query->commandType == CMD_UPDATE)
	{
		foreach(lc, query->targetList)
		{
			TargetEntry *tle = lfirst(lc);

			if (!tle->resjunk && tle->resno == table->key_attno)
				return "an UPDATE of the shard key";
		}
	}
	if (query->onConflict)
	{
		if (OidIsValid(query->onConflict->constraint))
			return "ON CONFLICT ON CONSTRAINT";
		foreach(lc, query->onConflict->onConflictSet)
		{
			TargetEntry *tle = lfirst(lc);

			if (!tle->resjunk && tle->resno == table->key_attno)
				return "ON CONFLICT that updates the shard key";
		}
	}
	return NULL;
}

static const char *
check_statement(Query *query, int cursor_options)
{
	switch (query->commandType)
	{
		case CMD_SELECT:
			if (cursor_options & CURSOR_OPT_SCROLL)
				return "a scrollable cursor";
			return NULL;
		case CMD_UPDATE:
		case CMD_DELETE:
			return check_write(query);
		case CMD_INSERT:
			/* VALUES of one row has no FROM at all; anything else is for later */
			if (query->jointree->fromlist != NIL || query->cteList != NIL || query->hasSubLinks)
				return "INSERT of more than one row, or of a subquery";
			return check_write(query);
		default:
			return "this kind of statement";
	}
}

/* ---- What mentions no row is computed here ---- */

/* Take an expression out: $n instead, and n is its place in the list. */
static Node *
make_remote_param(RouterContext *context, Node *expr)
{
	Param	   *param = makeNode(Param);
	ListCell   *lc;
	int			position = 0;

	foreach(lc, context->params)
	{
		if (equal(lfirst(lc), expr) && !contain_volatile_functions(expr))
			break;
		position++;
	}
	if (position == list_length(context->params))
		context->params = lappend(context->params, copyObject(expr));

	param->paramkind = PARAM_EXTERN;
	param->paramid = position + 1;
	param->paramtype = exprType(expr);
	param->paramtypmod = exprTypmod(expr);
	param->paramcollid = exprCollation(expr);
	param->location = -1;
	return (Node *) param;
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

/* Only whole expressions are taken out, so that a node has nothing left to compute. */
static Node *
extract_row_free(Node *node, RouterContext *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Query))
		return (Node *) query_tree_mutator((Query *) node, extract_row_free, context, 0);
	if (IsA(node, TargetEntry) || IsA(node, List) || IsA(node, RangeTblFunction) ||
		IsA(node, FromExpr) || IsA(node, JoinExpr) || IsA(node, SortGroupClause))
		return expression_tree_mutator(node, extract_row_free, context);
	if (IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXTERN)
		return make_remote_param(context, node);

	switch (nodeTag(node))
	{
		case T_FuncExpr:
		case T_OpExpr:
		case T_SQLValueFunction:
		case T_NextValueExpr:
		case T_CoerceViaIO:
		case T_ArrayCoerceExpr:
		case T_RelabelType:
		case T_CaseExpr:
		case T_CoalesceExpr:
		case T_MinMaxExpr:
		case T_CoerceToDomain:
			if (dbscale_is_row_free(node) &&
				(has_param(node, NULL) || contain_mutable_functions(node)) &&
				(context->single_row || !contain_volatile_functions(node)))
				return make_remote_param(context, node);
			break;
		default:
			break;
	}
	return expression_tree_mutator(node, extract_row_free, context);
}

/* ---- What is left must mean the same on the node ---- */

static bool
is_builtin(Oid oid)
{
	return oid < FirstGenbkiObjectId || !OidIsValid(oid);
}

static bool
is_local_function(Oid function, void *context)
{
	return !is_builtin(function) || func_volatile(function) != PROVOLATILE_IMMUTABLE;
}

/* Types whose values are names of this database's objects. */
static bool
is_local_type(Oid type)
{
	switch (type)
	{
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGTYPEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
		case REGCOLLATIONOID:
		case RECORDOID:
			return true;
		default:
			return !is_builtin(type);
	}
}

static bool find_local(Node *node, RouterContext *context);

/* All but the columns of "excluded", whose list has a whole row that is not sent. */
static bool
find_local_on_conflict(OnConflictExpr *conflict, RouterContext *context)
{
	return find_local((Node *) conflict->arbiterElems, context) ||
		find_local(conflict->arbiterWhere, context) ||
		find_local((Node *) conflict->onConflictSet, context) ||
		find_local(conflict->onConflictWhere, context);
}

static bool
find_local(Node *node, RouterContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, find_local, context, 0);
	if (IsA(node, OnConflictExpr))
		return find_local_on_conflict((OnConflictExpr *) node, context);
	if (check_functions_in_node(node, is_local_function, context))
	{
		context->reason = "a function that a node may not have, or that is not immutable";
		return true;
	}
	switch (nodeTag(node))
	{
		case T_Var:
			if (((Var *) node)->varattno <= 0)
			{
				context->reason = "a system column or whole row";
				return true;
			}
			break;
		case T_SQLValueFunction:
		case T_NextValueExpr:
		case T_CurrentOfExpr:
		case T_CoerceToDomain:
		case T_RowExpr:
			context->reason = "an expression that only the coordinator can compute";
			return true;
		default:
			break;
	}
	switch (nodeTag(node))
	{
		case T_Var:
		case T_Const:
		case T_Param:
		case T_FuncExpr:
		case T_OpExpr:
		case T_Aggref:
		case T_WindowFunc:
		case T_CoerceViaIO:
		case T_RelabelType:
		case T_ArrayExpr:
		case T_CollateExpr:
			if (is_local_type(exprType(node)) || !is_builtin(exprCollation(node)))
			{
				context->reason = "a type or collation that a node may not have";
				return true;
			}
			break;
		default:
			break;
	}
	return expression_tree_walker(node, find_local, context);
}

/* ---- The plan ---- */

/* The key that an INSERT's row will have; a NULL constant when it is not given. */
static Expr *
inserted_key(Query *query)
{
	RangeTblEntry *rte = list_nth(query->rtable, query->resultRelation - 1);
	const DistributedTable *table = dbscale_catalog_table(rte->relid);
	ListCell   *lc;

	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst(lc);

		if (tle->resno == table->key_attno)
			return tle->expr;
	}
	return (Expr *) makeNullConst(table->group->key_type, -1, InvalidOid);
}

/*
 * The expressions of the plan: the parameters, and the key, which may be one of
 * them.  A volatile key (nextval) must be, or it would be computed twice.
 */
static List *
plan_expressions(RouterContext *context, Expr *key, int *key_expr)
{
	if (IsA(key, Param))
	{
		*key_expr = ((Param *) key)->paramid - 1;
		return context->params;
	}
	*key_expr = list_length(context->params);
	return lappend(list_copy(context->params), key);
}

/*
 * What the scan returns is described by Vars of a made-up range table entry, so
 * that EXPLAIN can name the columns.
 */
static RangeTblEntry *
result_entry(List *columns)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, columns)
	{
		TargetEntry *tle = lfirst(lc);

		names = lappend(names, makeString(pstrdup(tle->resname ? tle->resname : "?column?")));
	}
	rte->rtekind = RTE_VALUES;
	rte->alias = makeAlias("shard", NIL);
	rte->eref = makeAlias("shard", names);
	return rte;
}

static void
add_result_columns(CustomScan *scan, List *columns, Index rti)
{
	AttrNumber	attno = 0;
	ListCell   *lc;

	foreach(lc, columns)
	{
		TargetEntry *tle = lfirst(lc);
		Node	   *expr = (Node *) tle->expr;
		Var		   *source = makeVar(rti, ++attno, exprType(expr), exprTypmod(expr),
									 exprCollation(expr), 0);
		Var		   *output = makeVar(INDEX_VAR, attno, exprType(expr), exprTypmod(expr),
									 exprCollation(expr), 0);
		TargetEntry *target = makeTargetEntry((Expr *) output, attno, tle->resname, false);

		target->resorigtbl = tle->resorigtbl;
		target->resorigcol = tle->resorigcol;
		scan->custom_scan_tlist = lappend(scan->custom_scan_tlist,
										  makeTargetEntry((Expr *) source, attno, tle->resname, false));
		scan->scan.plan.targetlist = lappend(scan->scan.plan.targetlist, target);
	}
}

static List *
visible_columns(Query *query)
{
	List	   *from = query->commandType == CMD_SELECT ? query->targetList : query->returningList;
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, from)
		if (!((TargetEntry *) lfirst(lc))->resjunk)
			result = lappend(result, lfirst(lc));
	return result;
}

static PlannedStmt *
make_plan(Query *query, RouterContext *context, RouterTask *task, List *exprs)
{
	PlannedStmt *plan = makeNode(PlannedStmt);
	CustomScan *scan = makeNode(CustomScan);
	List	   *columns = visible_columns(query);
	ListCell   *lc;

	context->rtable = lappend(context->rtable, result_entry(columns));
	add_result_columns(scan, columns, list_length(context->rtable));
	scan->scan.plan.plan_rows = 1;
	scan->scan.plan.startup_cost = 10;
	scan->scan.plan.total_cost = 11;
	scan->methods = &dbscale_router_scan_methods;
	scan->custom_private = dbscale_plan_pack_router(task);
	foreach(lc, exprs)
		scan->custom_exprs = lappend(scan->custom_exprs, expression_planner(lfirst(lc)));

	plan->commandType = query->commandType;
	plan->queryId = query->queryId;
	plan->hasReturning = query->returningList != NIL;
	plan->canSetTag = query->canSetTag;
	plan->planTree = (Plan *) scan;
	plan->rtable = context->rtable;
	dbscale_set_perminfos(plan, context->perminfos);
	plan->relationOids = list_copy(context->relations);
	plan->stmt_location = query->stmt_location;
	plan->stmt_len = query->stmt_len;
	return plan;
}

/* Every relation that the plan depends on, views included. */
static void
add_dependencies(PlannedStmt *plan)
{
	ListCell   *lc;

	foreach(lc, plan->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (OidIsValid(rte->relid))
			plan->relationOids = list_append_unique_oid(plan->relationOids, rte->relid);
	}
}

/* A copy in which no level has 18's entry for grouped expressions. */
static Node *
without_group_entries(Node *node, void *context)
{
	Query	   *query;

	if (node == NULL)
		return NULL;
	if (!IsA(node, Query))
		return expression_tree_mutator(node, without_group_entries, context);
	query = query_tree_mutator((Query *) node, without_group_entries, context, 0);
	dbscale_flatten_groups(query);
	return (Node *) query;
}

PlannedStmt *
dbscale_router_plan(Query *query, int cursor_options, const char **reason)
{
	RouterContext context = {0};
	RouterTask	task = {0};
	bool		insert = query->commandType == CMD_INSERT;
	Query	   *shipped;
	Expr	   *key = NULL;
	List	   *exprs;
	PlannedStmt *plan;

	*reason = check_statement(query, cursor_options);
	if (*reason)
		return NULL;
	if (DBSCALE_HAS_GROUP_ENTRIES)
		query = (Query *) without_group_entries((Node *) query, NULL);
	if (check_queries((Node *) query, &context))
	{
		*reason = context.reason;
		return NULL;
	}
	*reason = "no single value of the shard key";
	if (context.relations == NIL)
		return NULL;
	if (!insert && (key = dbscale_infer_key(query)) == NULL)
		return NULL;

	context.single_row = insert;
	shipped = (Query *) extract_row_free((Node *) query, &context);
	shipped->override = OVERRIDING_NOT_SET;
	if (find_local((Node *) shipped, &context))
	{
		*reason = context.reason;
		return NULL;
	}
	key = insert ? inserted_key(shipped) : (Expr *) extract_row_free((Node *) key, &context);
	if (!dbscale_is_row_free((Node *) key) || contain_mutable_functions((Node *) key))
		return NULL;

	task.command = query->commandType;
	task.key_table = linitial_oid(context.relations);
	task.relations = context.relations;
	if (query->resultRelation)
		task.target = ((RangeTblEntry *) list_nth(query->rtable, query->resultRelation - 1))->relid;
	task.locks_rows = context.locks_rows;
	task.has_result = visible_columns(query) != NIL;
	task.check_as_user = context.check_as_user;
	task.sql = dbscale_plan_deparse(shipped, context.relations);
	if (task.sql.pieces == NIL)
	{
		*reason = "its text depends on the shard";
		return NULL;
	}
	task.parameters = list_length(context.params);
	exprs = plan_expressions(&context, key, &task.key_expr);
	plan = make_plan(query, &context, &task, exprs);
	add_dependencies(plan);
	*reason = NULL;
	return plan;
}
