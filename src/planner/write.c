/*
 * write.c
 *		The plan of a statement that writes to many shards, each its own part.
 *
 * A statement is done by the shards themselves in one of two ways, both with one
 * custom scan (executor/write_scan.c) that sends each shard one statement:
 *
 * 1. *As it stands*: UPDATE, DELETE and MERGE whose tables are joined on their shard
 *    keys, and INSERT … SELECT where the rows that a shard selects are its own.  Nothing
 *    comes to the coordinator.
 *
 * 2. *With rows*: the rows that a MERGE takes, or an INSERT with ON CONFLICT, come from
 *    anywhere.  Core plans a query of them, the coordinator runs it, and each shard gets
 *    its rows as arrays:
 *
 *		INSERT INTO likes_3 (…) SELECT … FROM unnest($2, $3) r (c1, c2) ON CONFLICT …
 *		MERGE INTO likes_3 l USING (SELECT … FROM unnest(…) …) r ON l.user_id = r.c1 …
 *
 *    A row goes to the shard of the key that it will have (INSERT), or that the condition
 *    compares the target's with (MERGE): in no other shard can it meet a row, and there
 *    is none for it to be inserted.  All rows of a shard are in one statement, so that a
 *    row that is met twice is an error, as it is in any table.
 *
 * A row's shard key is never changed here, and the parent has no triggers: such writes
 * are core's, row by row through the foreign tables.
 */
#include "planner/write.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "planner/fanout.h"
#include "planner/whole_plan.h"
#include "rewrite/rewriteManip.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* ---- what a shard can write ---- */

static const DistributedTable *
target_of(Query *query)
{
	const DistributedTable *table = NULL;

	if (query->resultRelation > 0)
		table = dbscale_catalog_table(rt_fetch(query->resultRelation, query->rtable)->relid);
	return table == NULL || table->is_reference ? NULL : table;
}

static bool
sets_column(List *targetlist, AttrNumber attno)
{
	ListCell   *lc;

	foreach(lc, targetlist)
		if (!((TargetEntry *) lfirst(lc))->resjunk && ((TargetEntry *) lfirst(lc))->resno == attno)
			return true;
	return false;
}

/* The columns of a constraint's index as ON CONFLICT would name them; NIL: it has others. */
static List *
arbiter_columns(OnConflictExpr *conflict, Index target)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(get_constraint_index(conflict->constraint)));
	Form_pg_index index;
	List	   *result = NIL;

	if (!HeapTupleIsValid(tuple))
		return NIL;
	index = (Form_pg_index) GETSTRUCT(tuple);
	for (int i = 0; index->indisunique && i < index->indnkeyatts; i++)
	{
		InferenceElem *elem = makeNode(InferenceElem);
		AttrNumber	attno = index->indkey.values[i];

		elem->expr = (Node *) makeVar(target, attno, get_atttype(index->indrelid, attno), -1, InvalidOid, 0);
		result = lappend(result, elem);
	}
	ReleaseSysCache(tuple);
	return result;
}

static const char *
check_conflict(Query *query, const DistributedTable *table)
{
	OnConflictExpr *conflict = query->onConflict;

	if (OidIsValid(conflict->constraint) && arbiter_columns(conflict, query->resultRelation) == NIL)
		return "ON CONFLICT ON CONSTRAINT of one that is not UNIQUE";
	if (sets_column(conflict->onConflictSet, table->key_attno))
		return "ON CONFLICT that updates the shard key";
	return NULL;
}

static const char *
check_one(Query *query)
{
	const DistributedTable *table = target_of(query);
	Relation	rel;
	bool		has_triggers;
	ListCell   *lc;

	if (table == NULL)
		return "a write to a table that is not distributed";
	rel = table_open(table->relid, NoLock);
	has_triggers = rel->trigdesc != NULL;
	table_close(rel, NoLock);
	if (has_triggers)
		return "triggers";
	if (query->withCheckOptions != NIL)
		return "the conditions of a view are to be checked";
	if (query->commandType == CMD_INSERT && query->cteList != NIL && query->hasSubLinks)
		return "subqueries in an INSERT with WITH";
	if (query->commandType == CMD_UPDATE && sets_column(query->targetList, table->key_attno))
		return "an UPDATE of the shard key";
	foreach(lc, query->mergeActionList)
	{
		MergeAction *action = lfirst(lc);

		if (action->commandType == CMD_UPDATE && sets_column(action->targetList, table->key_attno))
			return "an UPDATE of the shard key";
	}
	return query->onConflict ? check_conflict(query, table) : NULL;
}

const char *
dbscale_write_check(Query *query)
{
	const char *reason = query->resultRelation > 0 ? check_one(query) : NULL;
	ListCell   *lc;

	foreach(lc, query->cteList)
	{
		Query	   *part = (Query *) ((CommonTableExpr *) lfirst(lc))->ctequery;

		if (reason == NULL && part->resultRelation > 0)
			reason = check_one(part);
	}
	return reason;
}

/* Does each column get the column of the same number from FROM? */
static bool
is_plain_list(List *targetlist, List *columns)
{
	ListCell   *lc;
	int			n = 0;

	foreach(lc, targetlist)
	{
		Var		   *var = (Var *) ((TargetEntry *) lfirst(lc))->expr;

		if (!IsA(var, Var) || var->varlevelsup != 0 || var->varattno != ++n)
			return false;
	}
	return n == list_length(columns);
}

/*
 * Defaults stand beside the columns of a query or VALUES, where SQL has no place for
 * them: INSERT INTO t (a, b) SELECT x.a, 'default' FROM (…) x
 */
static void
wrap_inserted(Query *query)
{
	RangeTblRef *ref = linitial(query->jointree->fromlist);
	RangeTblEntry *rte = rt_fetch(ref->rtindex, query->rtable);
	RangeTblEntry *inner;
	RangeTblRef *inner_ref;
	Query	   *wrap;
	ListCell   *lc;

	if (is_plain_list(query->targetList, rte->eref->colnames))
		return;
	inner = copyObject(rte);
	if (inner->rtekind == RTE_SUBQUERY)
		IncrementVarSublevelsUp((Node *) inner->subquery, 1, 1);
	inner->inFromCl = true;
	inner->alias = makeAlias("rows", NIL);
	inner->eref = makeAlias("rows", inner->eref->colnames);
	inner_ref = makeNode(RangeTblRef);
	inner_ref->rtindex = 1;
	wrap = makeNode(Query);
	wrap->commandType = CMD_SELECT;
	wrap->canSetTag = true;
	wrap->rtable = list_make1(inner);
	wrap->jointree = makeFromExpr(list_make1(inner_ref), NULL);
	wrap->targetList = copyObject(query->targetList);
	ChangeVarNodes((Node *) wrap->targetList, ref->rtindex, 1, 0);

	dbscale_blank_entry(rte);
	rte->rtekind = RTE_SUBQUERY;
	rte->subquery = wrap;
	rte->inFromCl = true;
	rte->alias = makeAlias("rows", NIL);
	rte->eref = makeAlias("rows", NIL);
	foreach(lc, wrap->targetList)
	{
		TargetEntry *tle = lfirst(lc);
		TargetEntry *outer = list_nth(query->targetList, foreach_current_index(lc));
		Node	   *expr = (Node *) tle->expr;

		tle->resno = foreach_current_index(lc) + 1;
		tle->resname = psprintf("c%d", tle->resno);
		rte->eref->colnames = lappend(rte->eref->colnames, makeString(pstrdup(tle->resname)));
		outer->expr = (Expr *) makeVar(ref->rtindex, tle->resno, exprType(expr), exprTypmod(expr),
									   exprCollation(expr), 0);
	}
}

/*
 * Constraints have names of their own on the shards, and values of identity columns are
 * there already.
 */
static void
adapt_one(Query *query)
{
	OnConflictExpr *conflict = query->onConflict;
	ListCell   *lc;

	query->override = OVERRIDING_NOT_SET;
	if (query->commandType == CMD_INSERT && query->jointree->fromlist != NIL)
		wrap_inserted(query);
	foreach(lc, query->mergeActionList)
		((MergeAction *) lfirst(lc))->override = OVERRIDING_NOT_SET;
	if (conflict == NULL || !OidIsValid(conflict->constraint))
		return;
	conflict->arbiterElems = arbiter_columns(conflict, query->resultRelation);
	conflict->constraint = InvalidOid;
}

void
dbscale_write_adapt(Query *query)
{
	ListCell   *lc;

	adapt_one(query);
	foreach(lc, query->cteList)
		adapt_one((Query *) ((CommonTableExpr *) lfirst(lc))->ctequery);
}

/* ---- as it stands ---- */

static PlannedStmt *
make_plan(Query *query, FanoutLevel *level, FanoutTask *task, List *exprs, PlannedStmt *source)
{
	WholePlan	parts = {.methods = &dbscale_write_scan_methods};

	task->command = query->commandType;
	task->key_table = task->target = target_of(query)->relid;
	task->relations = level->shipment.relations;
	task->has_result = dbscale_visible_columns(query) != NIL;
	task->check_as_user = level->shipment.check_as_user;
	parts.private = dbscale_plan_pack_fanout(task);
	parts.exprs = exprs;
	parts.rtable = level->shipment.rtable;
	parts.perminfos = level->shipment.perminfos;
	if (source)
	{
		parts.rtable = source->rtable;
		parts.perminfos = dbscale_plan_perminfos(source);
		dbscale_collect_perminfos(&parts.rtable, &parts.perminfos, level->query);
	}
	parts.source = source;
	return dbscale_whole_plan(query, &parts);
}

/* The one FROM item of INSERT … SELECT; NULL: something else. */
static Query *
inserted_query(Query *query)
{
	RangeTblRef *ref;
	RangeTblEntry *rte;

	if (query->commandType != CMD_INSERT || list_length(query->jointree->fromlist) != 1 ||
		query->jointree->quals != NULL || query->cteList != NIL || query->hasSubLinks)
		return NULL;
	ref = linitial(query->jointree->fromlist);
	if (!IsA(ref, RangeTblRef))
		return NULL;
	rte = rt_fetch(ref->rtindex, query->rtable);
	return rte->rtekind == RTE_SUBQUERY ? rte->subquery : NULL;
}

/* Is the shard key of each row that a shard selects its own? */
static bool
inserts_own_keys(FanoutLevel *level, Query *query, Query *selected)
{
	AttrNumber	key = target_of(query)->key_attno;
	ListCell   *lc;

	if (!dbscale_fanout_is_whole(level) || selected->limitCount || selected->limitOffset ||
		(selected->distinctClause != NIL && !dbscale_fanout_contains_key(level, selected->distinctClause)))
		return false;
	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst(lc);
		Var		   *var = (Var *) tle->expr;

		if (tle->resno == key)
			return IsA(var, Var) && var->varlevelsup == 0 && var->varattno > 0 &&
				dbscale_fanout_is_key(level, (Node *) ((TargetEntry *) list_nth(selected->targetList, var->varattno - 1))->expr);
	}
	return false;
}

/* INSERT … SELECT: the level is the query that is selected from. */
static bool
place_insert(FanoutLevel *level, Query *query)
{
	Query	   *selected = inserted_query(query);
	Shipment	whole = {.reference_too = true};

	level->reason = "the rows come from elsewhere";
	if (selected == NULL || selected->setOperations || selected->cteList != NIL || selected->hasTargetSRFs)
		return false;
	level->reason = NULL;
	level->query = selected;
	if (!dbscale_fanout_place(level, selected) || !inserts_own_keys(level, query, selected))
		return false;
	if (level->colocation.group->id != target_of(query)->group->id)
		level->reason = "the tables are not of one table group";
	level->shipment = whole;
	if (level->reason == NULL && dbscale_ship_check((Node *) query, &level->shipment))
		level->reason = level->shipment.reason;
	level->query = query;
	return level->reason == NULL;
}

static PlannedStmt *
plan_as_it_stands(Query *query, const char **reason)
{
	FanoutLevel level = {.query = query};
	FanoutTask	task = {.route_column = -1};
	List	   *exprs;
	bool		placed;

	if (query->commandType == CMD_INSERT)
		placed = place_insert(&level, query);
	else
		placed = dbscale_fanout_place(&level, query);
	level.shard = copyObject(query);
	dbscale_write_adapt(level.shard);
	if (!placed || !dbscale_fanout_finish_shard_query(&level, &task, &exprs))
	{
		*reason = level.reason ? level.reason : "the rows are not the shards' own";
		return NULL;
	}
	task.strategy = "each shard by itself";
	return make_plan(query, &level, &task, exprs, NULL);
}

/* ---- with rows ---- */

/* The query of the rows, and the statement that takes them. */
typedef struct RowsPlan
{
	Query	   *query;			/* the statement as it was */
	Query	   *shipped;		/* for a shard; its rows come from the last entry of its range table */
	Query	   *source;
	List	   *columns;		/* target list of the source */
	int			route_column;
	bool		inserts;
	bool		every_shard;
	const char *reason;
} RowsPlan;

/* A copy of the range table in which only these entries are something. */
static List *
entries_kept(Query *query, Bitmapset *kept)
{
	List	   *rtable = copyObject(query->rtable);
	ListCell   *lc;

	foreach(lc, rtable)
		if (!bms_is_member(foreach_current_index(lc) + 1, kept))
			dbscale_blank_entry(lfirst(lc));
	return rtable;
}

/* The target, with what ON CONFLICT calls "excluded". */
static Bitmapset *
target_entries(Query *query)
{
	Bitmapset  *result = bms_make_singleton(query->resultRelation);

	if (query->onConflict)
		result = bms_add_member(result, query->onConflict->exclRelIndex);
	return result;
}

static Bitmapset *
all_entries(Query *query)
{
	return list_length(query->rtable) == 0 ? NULL : bms_add_range(NULL, 1, list_length(query->rtable));
}

/* The position of an expression among the source's columns, where it is put if need be. */
static int
source_column(RowsPlan *plan, Expr *expr)
{
	ListCell   *lc;

	foreach(lc, plan->columns)
		if (equal(((TargetEntry *) lfirst(lc))->expr, expr) && !contain_volatile_functions((Node *) expr))
			return foreach_current_index(lc);
	plan->columns = lappend(plan->columns,
							makeTargetEntry(copyObject(expr), list_length(plan->columns) + 1,
											psprintf("c%d", list_length(plan->columns) + 1), false));
	return list_length(plan->columns) - 1;
}

static void
make_source(RowsPlan *plan)
{
	Query	   *source = copyObject(plan->query);

	source->commandType = CMD_SELECT;
	source->canSetTag = true;
	source->rtable = entries_kept(source, bms_difference(all_entries(source), target_entries(source)));
	source->resultRelation = 0;
	source->onConflict = NULL;
	if (plan->query->commandType == CMD_MERGE)
	{
		dbscale_set_merge_condition(source, NULL);
		source->mergeActionList = NIL;
	}
	source->returningList = NIL;
	source->override = OVERRIDING_NOT_SET;
	source->targetList = plan->columns;
	plan->source = source;
}

/* How a column travels: as an array of its own type, or of its text. */
static Oid
element_type(Oid type)
{
	if (dbscale_ship_is_builtin(type) && OidIsValid(get_array_type(type)) && !OidIsValid(get_element_type(type)) &&
		get_typtype(type) == TYPTYPE_BASE)
		return type;
	return TEXTOID;
}

static Param *
array_param(int number, Oid element)
{
	Param	   *param = makeNode(Param);

	param->paramkind = PARAM_EXTERN;
	param->paramid = number;
	param->paramtype = get_array_type(element);
	param->paramtypmod = -1;
	param->paramcollid = get_typcollation(param->paramtype);
	param->location = -1;
	return param;
}

/* The element in the column's own type and collation. */
static Expr *
typed_element(Var *element, Node *column)
{
	CollateExpr *collate;
	CoerceViaIO *cast;

	if (element->vartype == exprType(column))
	{
		/* VALUES of INSERT have none: they are only assigned */
		if (!OidIsValid(exprCollation(column)) || exprCollation(column) == element->varcollid)
			return (Expr *) element;
		collate = makeNode(CollateExpr);
		collate->arg = (Expr *) element;
		collate->collOid = exprCollation(column);
		collate->location = -1;
		return (Expr *) collate;
	}
	cast = makeNode(CoerceViaIO);
	cast->arg = (Expr *) element;
	cast->resulttype = exprType(column);
	cast->resultcollid = exprCollation(column);
	cast->coerceformat = COERCE_EXPLICIT_CAST;
	cast->location = -1;
	return (Expr *) cast;
}

/* SELECT c1, c2::type, … FROM unnest($n, …) r (c1, c2, …) */
static Query *
unnest_query(List *columns, int first_param)
{
	Query	   *query = makeNode(Query);
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	RangeTblRef *ref = makeNode(RangeTblRef);
	List	   *names = NIL;
	ListCell   *lc;

	rte->rtekind = RTE_FUNCTION;
	foreach(lc, columns)
	{
		int			i = foreach_current_index(lc);
		Node	   *column = (Node *) ((TargetEntry *) lfirst(lc))->expr;
		Oid			element = element_type(exprType(column));
		Var		   *var = makeVar(1, i + 1, element, -1, get_typcollation(element), 0);
		char	   *name = psprintf("c%d", i + 1);

		rte->functions = lappend(rte->functions,
								 dbscale_unnest_function((Node *) array_param(first_param + i, element),
														 element, get_typcollation(element)));
		names = lappend(names, makeString(name));
		query->targetList = lappend(query->targetList,
									makeTargetEntry(typed_element(var, column), i + 1, pstrdup(name), false));
	}
	rte->alias = makeAlias("r", NIL);
	rte->eref = makeAlias("r", names);
	rte->inFromCl = true;
	ref->rtindex = 1;
	query->commandType = CMD_SELECT;
	query->canSetTag = true;
	query->rtable = list_make1(rte);
	query->jointree = makeFromExpr(list_make1(ref), NULL);
	return query;
}

/* The rows are the last entry of the shipped statement's range table. */
static void
add_rows_entry(RowsPlan *plan, int first_param)
{
	RangeTblEntry *rte = llast(plan->shipped->rtable);
	List	   *names = NIL;

	for (int i = 1; i <= list_length(plan->columns); i++)
		names = lappend(names, makeString(psprintf("c%d", i)));
	rte->rtekind = RTE_SUBQUERY;
	rte->subquery = unnest_query(plan->columns, first_param);
	rte->alias = makeAlias("rows", NIL);
	rte->eref = makeAlias("rows", names);
	rte->inFromCl = true;
}

/* The statement for a shard, still without the rows' own query; all else of FROM is gone. */
static void
make_shipped(RowsPlan *plan)
{
	Query	   *shipped = copyObject(plan->query);
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	RangeTblRef *ref = makeNode(RangeTblRef);

	shipped->rtable = entries_kept(shipped, target_entries(shipped));
	rte->rtekind = RTE_RESULT;
	rte->eref = makeAlias("rows", NIL);
	shipped->rtable = lappend(shipped->rtable, rte);
	ref->rtindex = list_length(shipped->rtable);
	shipped->jointree->fromlist = list_make1(ref);
	shipped->cteList = NIL;
	shipped->hasSubLinks = shipped->hasModifyingCTE = shipped->hasRecursive = shipped->hasTargetSRFs = false;
	plan->shipped = shipped;
}

static Var *
rows_var(RowsPlan *plan, int column)
{
	Node	   *expr = (Node *) ((TargetEntry *) list_nth(plan->columns, column))->expr;

	return makeVar(list_length(plan->shipped->rtable), column + 1, exprType(expr), exprTypmod(expr),
				   exprCollation(expr), 0);
}

/* INSERT: the source's columns are the inserted row's. */
static void
take_inserted_rows(RowsPlan *plan)
{
	const DistributedTable *table = target_of(plan->query);
	List	   *targets = NIL;
	ListCell   *lc;

	make_shipped(plan);
	plan->inserts = true;
	plan->route_column = -1;
	foreach(lc, plan->query->targetList)
	{
		TargetEntry *tle = lfirst(lc);
		int			column = list_length(plan->columns);

		plan->columns = lappend(plan->columns,
								makeTargetEntry(copyObject(tle->expr), column + 1, psprintf("c%d", column + 1), false));
		targets = lappend(targets, makeTargetEntry((Expr *) rows_var(plan, column), tle->resno,
												   tle->resname, false));
		if (tle->resno == table->key_attno)
			plan->route_column = column;
	}
	plan->shipped->targetList = targets;
	if (plan->route_column < 0)
		plan->reason = "no value for the shard key";
}

/* ---- MERGE ---- */

/* An integer that was made wider is the same key. */
static Node *
strip_widening(Node *node)
{
	for (;;)
	{
		if (IsA(node, RelabelType))
			node = (Node *) ((RelabelType *) node)->arg;
		else if (IsA(node, FuncExpr) &&
				 (((FuncExpr *) node)->funcid == F_INT8_INT4 || ((FuncExpr *) node)->funcid == F_INT8_INT2 ||
				  ((FuncExpr *) node)->funcid == F_INT4_INT2))
			node = linitial(((FuncExpr *) node)->args);
		else
			return node;
	}
}

/* The expression over the source that the condition compares the target's key with. */
static Expr *
compared_key(Query *query)
{
	ListCell   *lc;

	foreach(lc, make_ands_implicit((Expr *) dbscale_merge_condition(query)))
	{
		Node	   *other = dbscale_infer_compared_key(query, lfirst(lc));

		if (other != NULL && !bms_is_member(query->resultRelation, pull_varnos_of_level(NULL, other, 0)) &&
			!contain_volatile_functions(other) && !checkExprHasSubLink(other))
			return (Expr *) other;
	}
	return NULL;
}

/* A row that is inserted must be of the key that it was sent for. */
static bool
inserts_key(MergeAction *action, AttrNumber key_attno, Node *key)
{
	ListCell   *lc;

	foreach(lc, action->targetList)
	{
		TargetEntry *tle = lfirst(lc);

		if (tle->resno == key_attno)
			return equal(strip_widening((Node *) tle->expr), strip_widening(key));
	}
	return false;
}

static Node *
replace_source(Node *node, RowsPlan *plan)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = copyObject((Var *) node);
		Var		   *result;

		if (var->varno == plan->query->resultRelation)
			return (Node *) var;
		if (var->varattno <= 0)
		{
			plan->reason = "a whole row or a system column of the rows";
			return (Node *) var;
		}
		dbscale_var_clear_nullingrels(var);
		result = rows_var(plan, source_column(plan, (Expr *) var));
		return (Node *) result;
	}
	return expression_tree_mutator(node, replace_source, plan);
}

/* Defaults such as nextval() are computed here, for each row of the source. */
static void
replace_defaults(RowsPlan *plan, MergeAction *action)
{
	ListCell   *lc;

	foreach(lc, action->targetList)
	{
		TargetEntry *tle = lfirst(lc);

		if (contain_volatile_functions((Node *) tle->expr) && dbscale_is_row_free((Node *) tle->expr))
			tle->expr = (Expr *) rows_var(plan, source_column(plan, tle->expr));
	}
}

static void
take_merged_rows(RowsPlan *plan)
{
	Query	   *query = plan->query;
	Query	   *shipped;
	Node	   *condition = dbscale_merge_condition(query);
	Expr	   *key = compared_key(query);
	ListCell   *lc;

	make_shipped(plan);
	shipped = plan->shipped;
	foreach(lc, query->mergeActionList)
	{
		MergeAction *action = lfirst(lc);

		plan->inserts |= action->commandType == CMD_INSERT;
		plan->every_shard |= dbscale_merge_of_unmatched_target(action);
		if (key == NULL && (dbscale_merge_of_unmatched_source(action) || dbscale_merge_of_unmatched_target(action)))
			plan->reason = "MERGE whose condition does not compare the shard key";
		else if (action->commandType == CMD_INSERT &&
				 !inserts_key(action, target_of(query)->key_attno, (Node *) key))
			plan->reason = "MERGE that inserts another shard key than its condition compares";
	}
	if (checkExprHasSubLink((Node *) query->mergeActionList) || checkExprHasSubLink(condition) ||
		checkExprHasSubLink((Node *) query->returningList))
		plan->reason = "a subquery in the condition, an action or RETURNING of MERGE";
	if (plan->reason)
		return;
	shipped->mergeActionList = (List *) replace_source((Node *) shipped->mergeActionList, plan);
	shipped->returningList = (List *) replace_source((Node *) shipped->returningList, plan);
	dbscale_set_merge_condition(shipped, replace_source(condition, plan));
	foreach(lc, shipped->mergeActionList)
		if (((MergeAction *) lfirst(lc))->commandType == CMD_INSERT)
			replace_defaults(plan, lfirst(lc));
	plan->route_column = key ? source_column(plan, key) : -1;
	if (plan->columns == NIL)
		(void) source_column(plan, (Expr *) makeConst(INT4OID, -1, InvalidOid, sizeof(int32), Int32GetDatum(1),
													  false, true));
}

static PlannedStmt *
plan_with_rows(Query *query, ParamListInfo params, SourcePlanner plan_source, const char **reason)
{
	RowsPlan	plan = {.query = query};
	FanoutLevel level = {.shipment.reference_too = true, .shipment.eager = true};
	FanoutTask	task = {0};
	Query		target;
	int			first;
	ListCell   *lc;

	if (query->hasModifyingCTE)
		plan.reason = "a data-modifying WITH";
	else if (query->commandType == CMD_INSERT &&
			 (checkExprHasSubLink((Node *) query->returningList) || checkExprHasSubLink((Node *) query->onConflict)))
		plan.reason = "a subquery in ON CONFLICT or RETURNING";
	else if (query->commandType == CMD_INSERT)
		take_inserted_rows(&plan);
	else
		take_merged_rows(&plan);
	if (plan.reason == NULL && dbscale_ship_check((Node *) plan.shipped, &level.shipment))
		plan.reason = level.shipment.reason;
	if (plan.reason == NULL)
	{
		plan.shipped = (Query *) dbscale_ship_extract((Node *) plan.shipped, &level.shipment);
		if (dbscale_ship_find_local((Node *) plan.shipped, &level.shipment))
			plan.reason = level.shipment.reason;
	}
	if (plan.reason)
	{
		*reason = plan.reason;
		return NULL;
	}
	first = list_length(level.shipment.params) + 1;
	add_rows_entry(&plan, first);
	dbscale_write_adapt(plan.shipped);
	task.sql = dbscale_plan_deparse(plan.shipped, level.shipment.relations);
	if (task.sql.pieces == NIL)
	{
		*reason = "its text depends on the shard";
		return NULL;
	}
	task.parameters = list_length(level.shipment.params);
	task.route_column = plan.route_column;
	task.inserts = plan.inserts;
	task.every_shard = plan.every_shard;
	foreach(lc, plan.columns)
		task.row_types = lappend_oid(task.row_types, element_type(exprType((Node *) ((TargetEntry *) lfirst(lc))->expr)));
	task.strategy = plan.route_column >= 0 ? "rows to their shards" : "all rows to each shard";
	make_source(&plan);

	/* the executor checks what is written beside what is read */
	target = *query;
	target.rtable = list_make1(rt_fetch(query->resultRelation, query->rtable));
	level.query = &target;
	return make_plan(query, &level, &task, level.shipment.params, plan_source(plan.source, params));
}

/* ---- which way ---- */

bool
dbscale_write_is_for_shards(Query *query)
{
	ListCell   *lc;

	foreach(lc, query->cteList)
		if (dbscale_write_is_for_shards((Query *) ((CommonTableExpr *) lfirst(lc))->ctequery))
			return true;
	return query->commandType == CMD_MERGE ||
		(query->onConflict != NULL && query->onConflict->action == ONCONFLICT_UPDATE);
}

/* Core does an INSERT well, row by row, unless a conflict is to be handled by its shard. */
static bool
needs_rows(Query *query)
{
	return query->commandType == CMD_MERGE ||
		(query->commandType == CMD_INSERT && query->onConflict != NULL);
}

PlannedStmt *
dbscale_write_plan(Query *query, ParamListInfo params, SourcePlanner plan_source, const char **reason)
{
	const char *why;
	PlannedStmt *plan;

	if (query->resultRelation <= 0 || target_of(query) == NULL)
		return NULL;
	why = dbscale_write_check(query);
	if (why == NULL && query->hasRowSecurity)
		why = "row-level security";
	if (why != NULL)
	{
		*reason = why;
		return NULL;
	}
	query = dbscale_ship_normalize(query);
	plan = plan_as_it_stands(query, reason);
	if (plan == NULL && needs_rows(query))
		plan = plan_with_rows(query, params, plan_source, reason);
	return plan;
}
