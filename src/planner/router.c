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
 *    So do constants that columns are compared equal with or set to: a client that
 *    writes its values into the text sends statements of one shape all the same, and
 *    the node plans it once.
 * 2. What is left must mean on the node what it means here: built-in functions,
 *    operators, types and collations only, immutable after step 1.
 * 3. The text is made with holes for the shard tables' names (plan/deparse.c), so
 *    that a generic plan serves every key.
 *
 * A statement of one key may have a data-modifying WITH; its parts then run in one
 * statement of the node, as they would here, and see the same snapshot.
 *
 * Whatever is doubtful is not routed: row-level security, security barriers, row
 * triggers, changes of the key itself.  It is planned by core over the foreign
 * tables, with the same answer.
 */
#include "planner/router.h"
#include "planner/ship.h"
#include "planner/whole_plan.h"
#include "planner/write.h"

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

/* VALUES of one row has no FROM at all: each expression of it is computed once. */
static bool
is_single_row(Query *query)
{
	return query->commandType == CMD_INSERT && query->jointree->fromlist == NIL &&
		query->cteList == NIL && !query->hasSubLinks && !query->hasTargetSRFs;
}

static const char *
check_statement(Query *query)
{
	if (query->commandType == CMD_UTILITY)
		return "this kind of statement";
	return dbscale_write_check(query);
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
	ListCell   *lc;

	if (IsA(key, Param))
	{
		*key_expr = ((Param *) key)->paramid - 1;
		return context->params;
	}
	foreach(lc, context->params)
	{
		if (!equal(lfirst(lc), key) || contain_volatile_functions(lfirst(lc)))
			continue;
		*key_expr = foreach_current_index(lc);
		return context->params;
	}
	*key_expr = list_length(context->params);
	return lappend(list_copy(context->params), key);
}

/* OIDs of the tables that the statement, or a part of it in WITH, writes. */
static List *
written_tables(Query *query, bool *inserts)
{
	List	   *result = NIL;
	ListCell   *lc;

	if (query->commandType == CMD_INSERT)
		*inserts = true;
	foreach(lc, query->mergeActionList)
		*inserts |= ((MergeAction *) lfirst(lc))->commandType == CMD_INSERT;
	if (query->resultRelation)
		result = list_make1_oid(((RangeTblEntry *) list_nth(query->rtable, query->resultRelation - 1))->relid);
	foreach(lc, query->cteList)
		result = list_concat_unique_oid(result, written_tables((Query *) ((CommonTableExpr *) lfirst(lc))->ctequery,
																inserts));
	return result;
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
	Shipment	context = {.reference_too = true, .writes_too = true};
	RouterTask	task = {0};
	WholePlan	parts = {.methods = &dbscale_router_scan_methods};
	bool		insert = is_single_row(query);
	bool		names_reference = false;
	Query	   *shipped;
	Expr	   *key = NULL;

	*reason = check_statement(query);
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
	context.literals_too = true;
	context.eager = dbscale_write_is_for_shards(query);
	shipped = (Query *) dbscale_ship_extract((Node *) query, &context);
	dbscale_ship_extract_written(shipped, &context);
	if (dbscale_ship_find_local((Node *) shipped, &context))
	{
		*reason = context.reason;
		return NULL;
	}
	key = insert ? inserted_key(shipped) : (Expr *) dbscale_ship_extract((Node *) key, &context);
	key = (Expr *) dbscale_ship_without_collation((Node *) key);
	if (!dbscale_is_row_free((Node *) key) || contain_mutable_functions((Node *) key))
		return NULL;
	dbscale_write_adapt(shipped);

	task.command = query->commandType;
	task.relations = context.relations;
	task.targets = written_tables(query, &task.inserts);
	task.locks_rows = context.locks_rows;
	/* a SELECT has rows even if these have no columns */
	task.has_result = query->commandType == CMD_SELECT || dbscale_visible_columns(query) != NIL;
	task.check_as_user = context.check_as_user;
	task.sql = dbscale_plan_deparse(shipped, context.relations);
	if (task.sql.pieces == NIL)
	{
		*reason = "its text depends on the shard";
		return NULL;
	}
	task.parameters = list_length(context.params);
	parts.exprs = plan_expressions(&context, key, &task.key_expr);
	parts.private = dbscale_plan_pack_router(&task);
	parts.rtable = context.rtable;
	parts.perminfos = context.perminfos;
	parts.modifies_with = query->hasModifyingCTE;
	parts.scrolls = (cursor_options & CURSOR_OPT_SCROLL) != 0;
	*reason = NULL;
	return dbscale_whole_plan(query, &parts);
}
