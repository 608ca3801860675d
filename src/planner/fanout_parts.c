/*
 * fanout_parts.c
 *		A level's FROM, taken apart into what shards can join by themselves.
 *
 * The *units* are what plain (inner) joins join.  Units whose tables are joined on their
 * shard keys stay together, as a *part*; it becomes a subquery with its own conditions and
 * the columns that are used of it.  Local tables and the like are parts of another kind:
 * nothing replaces them, but if few rows are expected of them, they can go to the shards.
 */
#include "planner/fanout_parts.h"

#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/planner.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/lsyscache.h"

/* A side is small that has at most so many rows, and at most this part of the other's. */
#define SMALL_SIDE_ROWS 50000
#define SMALL_SIDE_PART 0.2

/* ---- taking FROM apart ---- */

/* Of columns that a level's joins name. */
typedef struct JoinNames
{
	List	   *rtable;
	int			depth;
} JoinNames;

static bool
names_join(Node *node, JoinNames *context)
{
	bool		result;

	if (node == NULL)
		return false;
	if (IsA(node, Var) && ((Var *) node)->varlevelsup == context->depth)
		return rt_fetch(((Var *) node)->varno, context->rtable)->rtekind == RTE_JOIN;
	if (!IsA(node, Query))
		return expression_tree_walker(node, names_join, context);
	context->depth++;
	result = query_tree_walker((Query *) node, names_join, context, QTW_IGNORE_JOINALIASES);
	context->depth--;
	return result;
}

/* Columns of a join that are no column of one of its sides are left alone. */
bool
parts_can_be_made(Query *query)
{
	JoinNames	context = {query->rtable, 0};

	return query->commandType == CMD_SELECT && query->setOperations == NULL &&
		query->rowMarks == NIL && !query->hasForUpdate && !query->hasRowSecurity &&
		!query->hasModifyingCTE && query->jointree->fromlist != NIL &&
		!query_tree_walker(query, names_join, &context, QTW_IGNORE_JOINALIASES);
}

bool
parts_look_aside(Query *query)
{
	ListCell   *lc;

	foreach(lc, query->rtable)
		if (((RangeTblEntry *) lfirst(lc))->lateral)
			return true;
	return false;
}

void
parts_add_units(Node *node, List **units, List **conditions)
{
	if (IsA(node, JoinExpr) && ((JoinExpr *) node)->jointype == JOIN_INNER)
	{
		JoinExpr   *join = (JoinExpr *) node;

		parts_add_units(join->larg, units, conditions);
		parts_add_units(join->rarg, units, conditions);
		*conditions = list_concat(*conditions, make_ands_implicit((Expr *) join->quals));
		return;
	}
	*units = lappend(*units, node);
}

Node *
parts_keep_joins(Node *condition, Bitmapset *members)
{
	if (condition == NULL)
		return NULL;
	if (IsA(condition, Var))
	{
		Var		   *var = copyObject((Var *) condition);

		dbscale_var_keep_joins(var, members);
		return (Node *) var;
	}
	return expression_tree_mutator(condition, parts_keep_joins, members);
}

/* (a JOIN b …) AS j: a column of a may be printed as one of j, unless this is gone. */
static bool
forget_names(Node *node, JoinNames *context)
{
	Var		   *var = (Var *) node;
	bool		result;

	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		context->depth++;
		result = query_tree_walker((Query *) node, forget_names, context, QTW_IGNORE_JOINALIASES);
		context->depth--;
		return result;
	}
	if (!IsA(node, Var))
		return expression_tree_walker(node, forget_names, context);
	if (var->varlevelsup == context->depth && var->varnosyn > 0 &&
		rt_fetch(var->varnosyn, context->rtable)->rtekind == RTE_RESULT)
		var->varnosyn = var->varattnosyn = 0;
	return false;
}

static void
forget_names_of_joins(Node *node, List *rtable, int depth)
{
	JoinNames	context = {rtable, depth};

	(void) forget_names(node, &context);
}

/* The part as a query of its own, with the positions of the level's range table. */
static Query *
query_of(Query *level, List *units, Bitmapset *members, List *conditions)
{
	Query	   *query = makeNode(Query);
	int			rti = 0;
	ListCell   *lc;

	query->commandType = CMD_SELECT;
	query->canSetTag = true;
	query->rtable = copyObject(level->rtable);
	dbscale_query_copy_perminfos(query, level);
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (!bms_is_member(++rti, members))
			dbscale_blank_entry(rte);
	}
	query->jointree = makeFromExpr(copyObject(units), conditions == NIL ? NULL :
								   parts_keep_joins((Node *) make_ands_explicit(conditions), members));
	query->hasSubLinks = checkExprHasSubLink((Node *) query->jointree);
	forget_names_of_joins((Node *) query->jointree, query->rtable, 0);
	return query;
}

/* Its own conditions: those that it can check, wherever it is. */
static List *
conditions_of(List *conditions, Bitmapset *members, bool local)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, conditions)
	{
		Relids		mentioned = pull_varnos(NULL, lfirst(lc));

		if (bms_is_empty(mentioned) || !bms_is_subset(mentioned, members) || dbscale_fanout_mentions_outside(lfirst(lc)))
			continue;
		if (local ? !checkExprHasSubLink(lfirst(lc)) && !contain_volatile_functions(lfirst(lc)) : dbscale_fanout_is_remote_condition(lfirst(lc)))
			result = lappend(result, lfirst(lc));
	}
	return result;
}

bool
parts_is_placeable(Query *level, List *units, Bitmapset *members, List *conditions)
{
	FanoutLevel trial = {0};
	Query	   *query = query_of(level, units, members, conditions_of(conditions, members, false));

	return !parts_look_aside(query) && !dbscale_fanout_needs_outside((Node *) query) && dbscale_fanout_place(&trial, query);
}

Bitmapset *
parts_members_of(Node *node)
{
	JoinExpr   *join = (JoinExpr *) node;
	Bitmapset  *result;

	if (IsA(node, RangeTblRef))
		return bms_make_singleton(((RangeTblRef *) node)->rtindex);
	if (IsA(node, FromExpr))
		return parts_members_of_all(((FromExpr *) node)->fromlist);
	result = bms_union(parts_members_of(join->larg), parts_members_of(join->rarg));
	return join->rtindex > 0 ? bms_add_member(result, join->rtindex) : result;
}

Bitmapset *
parts_members_of_all(List *units)
{
	Bitmapset  *result = NULL;
	ListCell   *lc;

	foreach(lc, units)
		result = bms_union(result, parts_members_of(lfirst(lc)));
	return result;
}

/* What no condition joins is better multiplied above. */
bool
parts_are_connected(List *conditions, Bitmapset *a, Bitmapset *b)
{
	ListCell   *lc;

	foreach(lc, conditions)
	{
		Relids		mentioned = pull_varnos(NULL, lfirst(lc));

		if (bms_overlap(mentioned, a) && bms_overlap(mentioned, b))
			return true;
	}
	return false;
}

static Part *
new_part(List *units)
{
	Part	   *part = palloc0(sizeof(Part));

	part->units = units;
	part->members = parts_members_of_all(units);
	part->rti = bms_next_member(part->members, -1);
	part->rows = -1;
	return part;
}

List *
parts_make(Query *level, List *units, List *conditions, List **left_over)
{
	List	   *parts = NIL;
	ListCell   *lc;

	foreach(lc, units)
	{
		Bitmapset  *members = parts_members_of(lfirst(lc));
		Part	   *found = NULL;
		ListCell   *other;

		foreach(other, parts)
		{
			Part	   *part = lfirst(other);
			List	   *both = lappend(list_copy(part->units), lfirst(lc));

			if (!parts_are_connected(conditions, part->members, members) ||
				!parts_is_placeable(level, both, bms_union(part->members, members), conditions))
				continue;
			part->units = both;
			part->members = bms_union(part->members, members);
			found = part;
			break;
		}
		if (found != NULL)
			continue;
		if (!parts_is_placeable(level, list_make1(lfirst(lc)), members, conditions))
		{
			*left_over = lappend(*left_over, lfirst(lc));
			continue;
		}
		parts = lappend(parts, new_part(list_make1(lfirst(lc))));
	}
	return parts;
}

/* ---- parts as queries ---- */

void
parts_fill(Part *part, Query *level, List *conditions)
{
	part->conditions = conditions_of(conditions, part->members, part->local);
	part->query = query_of(level, part->units, part->members, part->conditions);
}

Part *
parts_make_one(Query *level, List *units, List *conditions)
{
	Part	   *part = new_part(units);

	parts_fill(part, level, conditions);
	return part;
}

/* It may be read twice, so what is volatile stays where it is. */
Part *
parts_make_local(Query *level, List *units, List *conditions)
{
	Part	   *part = new_part(units);

	part->local = true;
	parts_fill(part, level, conditions);
	if (parts_look_aside(part->query) || dbscale_fanout_needs_outside((Node *) part->query) || dbscale_ship_names_distributed((Node *) part->query, NULL) ||
		contain_volatile_functions((Node *) part->query))
		return NULL;
	return part;
}

/* ---- columns of the parts ---- */

typedef struct PartContext
{
	List	   *parts;
	int			depth;
	bool		failed;			/* a whole row or system column is used */
} PartContext;

Part *
parts_find(List *parts, int varno)
{
	ListCell   *lc;

	foreach(lc, parts)
		if (bms_is_member(varno, ((Part *) lfirst(lc))->members))
			return lfirst(lc);
	return NULL;
}

static int
part_column(Part *part, Var *var)
{
	List	   *wanted = list_make2_int(var->varno, var->varattno);
	ListCell   *lc;
	Var		   *source;

	foreach(lc, part->attnos)
		if (equal(lfirst(lc), wanted))
			return foreach_current_index(lc) + 1;
	part->attnos = lappend(part->attnos, wanted);
	source = copyObject(var);
	source->varlevelsup = 0;
	dbscale_var_keep_joins(source, part->members);
	forget_names_of_joins((Node *) source, part->query->rtable, 0);
	part->query->targetList = lappend(part->query->targetList,
									  makeTargetEntry((Expr *) source, list_length(part->attnos),
													  psprintf("c%d", list_length(part->attnos)), false));
	return list_length(part->attnos);
}

static Node *
use_parts(Node *node, PartContext *context)
{
	Part	   *part;

	if (node == NULL)
		return NULL;
	if (IsA(node, Var) && ((Var *) node)->varlevelsup == context->depth &&
		(part = parts_find(context->parts, ((Var *) node)->varno)) != NULL)
	{
		Var		   *var = copyObject((Var *) node);

		if (var->varattno <= 0)
			context->failed = true;
		else
			var->varattno = part_column(part, var);
		var->varno = part->rti;
		/* printing goes by these */
		var->varnosyn = 0;
		var->varattnosyn = 0;
		dbscale_var_leave_joins(var, part->members);
		return (Node *) var;
	}
	if (IsA(node, Query))
	{
		Query	   *result;

		context->depth++;
		result = query_tree_mutator((Query *) node, use_parts, context, 0);
		context->depth--;
		return (Node *) result;
	}
	return expression_tree_mutator(node, use_parts, context);
}

Query *
parts_use(Query *query, List *parts)
{
	PartContext context = {parts, 0, false};

	query = query_tree_mutator(query, use_parts, &context, QTW_DONT_COPY_QUERY);
	return context.failed ? NULL : query;
}

void
parts_blank_joins(Query *query, List *kept_units)
{
	Bitmapset  *kept = parts_members_of_all(kept_units);
	int			rti = 0;
	ListCell   *lc;

	foreach(lc, query->rtable)
		if (!bms_is_member(++rti, kept) && ((RangeTblEntry *) lfirst(lc))->rtekind == RTE_JOIN)
			dbscale_blank_entry(lfirst(lc));
	forget_names_of_joins((Node *) query, query->rtable, -1);
}

/* ---- how many rows ---- */

static double
guess_rows(Part *part)
{
	double		rows = 0;
	int			rti = -1;
	ListCell   *lc;

	while ((rti = bms_next_member(part->members, rti)) >= 0)
	{
		RangeTblEntry *rte = rt_fetch(rti, part->query->rtable);

		if (rte->rtekind == RTE_RELATION && !dbscale_catalog_table(rte->relid)->is_reference)
			rows = Max(rows, dbscale_fanout_table_rows(rte->relid));
	}
	foreach(lc, part->conditions)
		rows *= dbscale_fanout_selectivity(lfirst(lc), part->query->rtable);
	return rows;
}

/* Core knows best what is here only. */
static double
expected_rows(Part *part)
{
	if (part->local)
		return standard_planner(copyObject(part->query), "", 0, NULL)->planTree->plan_rows;
	return guess_rows(part);
}

bool
parts_is_small_beside(Part *small, Part *big)
{
	if (!small->local && (small->conditions == NIL || dbscale_fanout_takes_one_step()))
		return false;
	if (small->rows < 0)
		small->rows = expected_rows(small);
	if (big->rows < 0)
		big->rows = expected_rows(big);
	return small->rows <= SMALL_SIDE_ROWS && small->rows <= SMALL_SIDE_PART * big->rows;
}

/* ---- filters ---- */

bool
parts_can_filter(const OpExpr *op)
{
	Oid			left;

	if (!IsA(op, OpExpr) || list_length(op->args) != 2)
		return false;
	left = exprType(linitial(op->args));
	return op_hashjoinable(op->opno, left) && op_strict(op->opno) && dbscale_ship_is_builtin(op->opno) &&
		OidIsValid(get_commutator(op->opno)) && dbscale_ship_is_builtin(get_commutator(op->opno)) &&
		dbscale_fanout_can_be_array(left) && dbscale_fanout_can_be_array(exprType(lsecond(op->args)));
}

/* What stands for the part's column in its own query. */
Expr *
parts_expression(Part *part, Var *var)
{
	if (part->local)
		return (Expr *) parts_keep_joins((Node *) var, part->members);
	return copyObject(((TargetEntry *) list_nth(part->query->targetList, var->varattno - 1))->expr);
}

Node *
parts_filter(const OpExpr *op, Expr *column, Part *small, Expr *value)
{
	Query	   *values = copyObject(small->query);
	bool		column_first = exprType((Node *) column) == exprType(linitial(op->args));

	values->targetList = list_make1(makeTargetEntry(value, 1, "c1", false));
	return dbscale_fanout_any(column_first ? op->opno : get_commutator(op->opno), op->inputcollid,
							  (Node *) column, (Node *) dbscale_fanout_array_of(values));
}
