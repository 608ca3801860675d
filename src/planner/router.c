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
#include "planner/ship.h"

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
plan_expressions(Shipment *context, Expr *key, int *key_expr)
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
make_plan(Query *query, Shipment *context, RouterTask *task, List *exprs)
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

/* Also tells if there is a reference table among them, whose rows are locked here only. */
static Oid
first_distributed(List *relations, bool *names_reference)
{
	Oid			first = InvalidOid;
	ListCell   *lc;

	foreach(lc, relations)
	{
		if (dbscale_catalog_table(lfirst_oid(lc))->is_reference)
			*names_reference = true;
		else if (!OidIsValid(first))
			first = lfirst_oid(lc);
	}
	return first;
}

PlannedStmt *
dbscale_router_plan(Query *query, int cursor_options, const char **reason)
{
	Shipment	context = {.reference_too = true};
	RouterTask	task = {0};
	bool		insert = query->commandType == CMD_INSERT;
	bool		names_reference = false;
	Query	   *shipped;
	Expr	   *key = NULL;
	List	   *exprs;
	PlannedStmt *plan;

	*reason = check_statement(query, cursor_options);
	if (*reason)
		return NULL;
	query = dbscale_ship_normalize(query);
	if (dbscale_ship_check((Node *) query, &context))
	{
		*reason = context.reason;
		return NULL;
	}
	task.key_table = first_distributed(context.relations, &names_reference);
	*reason = "no distributed table";
	if (!OidIsValid(task.key_table))
		return NULL;
	*reason = "FOR UPDATE or FOR SHARE beside a reference table";
	if (context.locks_rows && names_reference)
		return NULL;
	*reason = "no single value of the shard key";
	if (!insert && (key = dbscale_infer_key(query)) == NULL)
		return NULL;

	context.single_row = insert;
	shipped = (Query *) dbscale_ship_extract((Node *) query, &context);
	shipped->override = OVERRIDING_NOT_SET;
	if (dbscale_ship_find_local((Node *) shipped, &context))
	{
		*reason = context.reason;
		return NULL;
	}
	key = insert ? inserted_key(shipped) : (Expr *) dbscale_ship_extract((Node *) key, &context);
	if (!dbscale_is_row_free((Node *) key) || contain_mutable_functions((Node *) key))
		return NULL;

	task.command = query->commandType;
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
