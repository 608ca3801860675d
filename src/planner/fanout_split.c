/*
 * fanout_split.c
 *		One query level split into what the shards do and what is done above.
 *
 * Three ways, of which the first that is right is taken:
 *
 *	whole	The level's rows, groups or windows are each of one shard: shards compute the
 *			select list, GROUP BY and HAVING; above, rows are only sorted, made distinct and
 *			counted off.  LIMIT goes to the shards as well.
 *
 *	partial	Aggregates that can be put together from parts are computed by shard and by
 *			node, and put together above:
 *
 *				SELECT region, avg(age) FROM users GROUP BY region
 *				shard: SELECT region AS c1, sum(age) AS c2, count(age) AS c3 … GROUP BY 1
 *				node:  SELECT c1, sum(c2), sum(c3) FROM (… UNION ALL …) GROUP BY 1
 *				above: SELECT c1, numeric_div(sum(c2), sum(c3)) FROM shard_rows(…) GROUP BY c1
 *
 *	rows	Shards join and filter, and send the columns that are used above.
 *
 * Results are PostgreSQL's own to the last digit, but for the order in which floating
 * point numbers are added.
 */
#include "planner/fanout_parts.h"

#include "access/transam.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

/* ---- columns ---- */

Var *
dbscale_fanout_column(FanoutLevel *level, Expr *expr, const char *combine)
{
	Expr	   *plain = (Expr *) parts_keep_joins((Node *) expr, NULL);
	TargetEntry *found = NULL;
	ListCell   *lc;

	foreach(lc, level->columns)
	{
		TargetEntry *tle = lfirst(lc);

		if (equal(tle->expr, plain) &&
			strcmp(strVal(list_nth(level->combine, tle->resno - 1)), combine) == 0)
			found = tle;
	}
	if (found == NULL)
	{
		int			number = list_length(level->columns) + 1;

		found = makeTargetEntry(plain, number, psprintf("c%d", number), false);
		level->columns = lappend(level->columns, found);
		level->combine = lappend(level->combine, makeString(pstrdup(combine)));
	}
	return makeVar(FANOUT_RTI, found->resno, exprType((Node *) expr), exprTypmod((Node *) expr),
				   exprCollation((Node *) expr), 0);
}

typedef struct ReplaceColumns
{
	FanoutLevel *level;
	int			depth;
	bool		failed;
} ReplaceColumns;

static Node *
replace_columns(Node *node, ReplaceColumns *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var) && ((Var *) node)->varlevelsup == context->depth)
	{
		Var		   *source = copyObject((Var *) node);
		Var		   *column;

		if (source->varattno <= 0)
			context->failed = true;
		source->varlevelsup = 0;
		column = dbscale_fanout_column(context->level, (Expr *) source, FANOUT_GROUPED);
		column->varlevelsup = context->depth;
		return (Node *) column;
	}
	if (IsA(node, Query))
	{
		Query	   *result;

		context->depth++;
		result = query_tree_mutator((Query *) node, replace_columns, context, 0);
		context->depth--;
		return (Node *) result;
	}
	return expression_tree_mutator(node, replace_columns, context);
}

Node *
dbscale_fanout_replace_columns(FanoutLevel *level, Node *node)
{
	ReplaceColumns context = {level, 0, false};

	node = replace_columns(node, &context);
	if (context.failed)
		level->reason = "a system column or whole row";
	return node;
}

/* The query above has the level's clauses, and nothing to read from yet. */
static Query *
begin_above(FanoutLevel *level)
{
	Query	   *above = copyObject(level->query);

	above->rtable = NIL;
	above->jointree = makeFromExpr(NIL, NULL);
	return above;
}

/* A LIMIT that the shards can keep as well: as many rows as may be wanted of one shard. */
static Node *
shard_limit(Query *query)
{
	Const	   *count = (Const *) query->limitCount;
	Const	   *offset = (Const *) query->limitOffset;

	if (count == NULL || query->limitOption != LIMIT_OPTION_COUNT || query->hasDistinctOn ||
		!dbscale_is_row_free((Node *) count) || contain_volatile_functions((Node *) count))
		return NULL;
	if (offset == NULL)
		return copyObject((Node *) count);
	if (!IsA(count, Const) || !IsA(offset, Const) || count->constisnull || offset->constisnull ||
		DatumGetInt64(count->constvalue) < 0 || DatumGetInt64(offset->constvalue) < 0 ||
		DatumGetInt64(count->constvalue) > PG_INT32_MAX || DatumGetInt64(offset->constvalue) > PG_INT32_MAX)
		return NULL;
	count = copyObject(count);
	count->constvalue = Int64GetDatum(DatumGetInt64(count->constvalue) + DatumGetInt64(offset->constvalue));
	return (Node *) count;
}

/* ---- whole ---- */

bool
dbscale_fanout_is_key(FanoutLevel *level, Node *expr)
{
	Var		   *var = (Var *) expr;

	return IsA(var, Var) && var->varlevelsup == 0 && bms_is_member(var->varno, level->colocation.keys_of) &&
		dbscale_catalog_table(rt_fetch(var->varno, level->query->rtable)->relid)->key_attno == var->varattno;
}

bool
dbscale_fanout_contains_key(FanoutLevel *level, List *clause)
{
	ListCell   *lc;

	foreach(lc, clause)
		if (dbscale_fanout_is_key(level, get_sortgroupclause_expr(lfirst(lc), level->query->targetList)))
			return true;
	return false;
}

bool
dbscale_fanout_is_whole(FanoutLevel *level)
{
	Query	   *query = level->query;
	bool		grouped = query->groupClause != NIL || query->hasAggs || query->havingQual != NULL;
	ListCell   *lc;

	if (query->groupingSets != NIL)
		level->reason = "grouping sets";
	else if (grouped && query->hasWindowFuncs)
		level->reason = "window functions over groups";
	else if (grouped && !dbscale_fanout_contains_key(level, query->groupClause))
		level->reason = "the groups are not by the shard key";
	foreach(lc, query->windowClause)
	{
		if (!dbscale_fanout_contains_key(level, ((WindowClause *) lfirst(lc))->partitionClause))
			level->reason = "a window is not partitioned by the shard key";
	}
	return level->reason == NULL;
}

bool
dbscale_fanout_split_whole(FanoutLevel *level)
{
	Query	   *query = level->query;
	Node	   *limit = shard_limit(query);
	ListCell   *lc;

	if (query->targetList == NIL || !dbscale_fanout_is_whole(level))
		return false;
	level->shard = copyObject(query);
	level->shard->limitOffset = NULL;
	level->shard->limitCount = limit;
	level->shard->limitOption = LIMIT_OPTION_COUNT;
	if (limit == NULL)
		level->shard->sortClause = NIL;
	if (query->hasDistinctOn)
	{
		level->shard->distinctClause = NIL;
		level->shard->hasDistinctOn = false;
	}
	level->above = begin_above(level);
	level->above->targetList = NIL;
	level->above->groupClause = NIL;
	level->above->havingQual = NULL;
	level->above->windowClause = NIL;
	level->above->hasAggs = level->above->hasWindowFuncs = false;
	foreach(lc, level->shard->targetList)
	{
		TargetEntry *tle = lfirst(lc);
		TargetEntry *over = flatCopyTargetEntry(tle);

		tle->resjunk = false;
		tle->resname = psprintf("c%d", tle->resno);
		over->expr = (Expr *) makeVar(FANOUT_RTI, tle->resno, exprType((Node *) tle->expr),
									  exprTypmod((Node *) tle->expr), exprCollation((Node *) tle->expr), 0);
		level->above->targetList = lappend(level->above->targetList, over);
	}
	level->columns = level->shard->targetList;
	level->strategy = limit ? "whole rows, the first of each shard" : "whole rows";
	return true;
}

/* ---- rows ---- */

bool
dbscale_fanout_split_rows(FanoutLevel *level, List *conditions_above)
{
	Query	   *query = level->query;
	Query	   *above = begin_above(level);

	level->columns = level->combine = NIL;
	above->targetList = (List *) dbscale_fanout_replace_columns(level, (Node *) query->targetList);
	above->havingQual = dbscale_fanout_replace_columns(level, query->havingQual);
	above->windowClause = (List *) dbscale_fanout_replace_columns(level, (Node *) query->windowClause);
	above->limitCount = dbscale_fanout_replace_columns(level, query->limitCount);
	above->limitOffset = dbscale_fanout_replace_columns(level, query->limitOffset);
	above->jointree->quals = dbscale_fanout_replace_columns(level,
															conditions_above == NIL ? NULL :
															(Node *) make_ands_explicit(conditions_above));
	level->above = above;

	level->shard = makeNode(Query);
	level->shard->commandType = CMD_SELECT;
	level->shard->canSetTag = true;
	level->shard->rtable = copyObject(query->rtable);
	level->shard->jointree = copyObject(query->jointree);
	level->shard->hasSubLinks = query->hasSubLinks;
	dbscale_query_copy_perminfos(level->shard, query);
	/* a query without columns sends rows all the same */
	if (level->columns == NIL)
		(void) dbscale_fanout_column(level, (Expr *) makeConst(INT4OID, -1, InvalidOid, sizeof(int32),
															   Int32GetDatum(1), false, true), FANOUT_GROUPED);
	level->shard->targetList = level->columns;
	level->strategy = "rows";
	return true;
}

/* ---- partial ---- */

typedef struct SplitContext
{
	FanoutLevel *level;
	List	   *groups;			/* expressions that rows are grouped by */
	List	   *group_columns;	/* and their columns */
	Expr	   *distinct;		/* argument of the DISTINCT aggregates */
	Var		   *distinct_column;
	const char *failed;
} SplitContext;

/* Rows are grouped by the argument as well; above, the aggregate is as it was. */
static Node *
split_distinct(SplitContext *context, Aggref *agg)
{
	Aggref	   *result = copyObject(agg);

	if (agg->aggfilter != NULL || context->distinct == NULL || list_length(agg->args) != 1 ||
		!equal(((TargetEntry *) linitial(agg->args))->expr, context->distinct))
	{
		context->failed = "DISTINCT aggregates of several expressions, or with FILTER";
		return (Node *) result;
	}
	((TargetEntry *) linitial(result->args))->expr = (Expr *) context->distinct_column;
	return (Node *) result;
}

static Node *
split_aggregate(SplitContext *context, Aggref *agg)
{
	Node	   *result = (Node *) agg;

	if (agg->aggkind != AGGKIND_NORMAL || agg->aggorder != NIL || agg->aggvariadic ||
		agg->aggfnoid >= FirstGenbkiObjectId)
		result = NULL;
	else if (agg->aggdistinct != NIL)
		return split_distinct(context, agg);
	else
		result = dbscale_fanout_split_aggregate(context->level, agg);
	if (result != NULL)
		return result;
	context->failed = "an aggregate that cannot be computed in parts";
	return (Node *) agg;
}

static Node *
split_expression(Node *node, SplitContext *context)
{
	ListCell   *lc;

	if (node == NULL || context->failed)
		return node;
	foreach(lc, context->groups)
	{
		if (equal(node, lfirst(lc)))
			return copyObject(list_nth(context->group_columns, foreach_current_index(lc)));
	}
	switch (nodeTag(node))
	{
		case T_Aggref:
			if (((Aggref *) node)->agglevelsup == 0)
				return split_aggregate(context, (Aggref *) node);
			context->failed = "an aggregate of an outer query";
			return node;
		case T_Var:
			context->failed = "a column that depends on the groups' key";
			return node;
		case T_SubLink:
			context->failed = "a subquery beside aggregates";
			return node;
		default:
			return expression_tree_mutator(node, split_expression, context);
	}
}

/* A column that the shards group by; its clause is for the shards' query. */
static Var *
add_group(SplitContext *context, Expr *expr, SortGroupClause *clause)
{
	FanoutLevel *level = context->level;
	Var		   *column = dbscale_fanout_column(level, expr, FANOUT_GROUPED);
	TargetEntry *tle = list_nth(level->columns, column->varattno - 1);

	if (tle->ressortgroupref == 0)
	{
		SortGroupClause *copy = copyObject(clause);

		tle->ressortgroupref = copy->tleSortGroupRef = list_length(level->shard->groupClause) + 1;
		level->shard->groupClause = lappend(level->shard->groupClause, copy);
	}
	return column;
}

static bool
find_distinct(Node *node, Aggref **result)
{
	if (node == NULL)
		return false;
	if (IsA(node, Aggref) && ((Aggref *) node)->aggdistinct != NIL)
	{
		*result = (Aggref *) node;
		return true;
	}
	return expression_tree_walker(node, find_distinct, result);
}

static void
add_groups(SplitContext *context)
{
	Query	   *query = context->level->query;
	Aggref	   *distinct = NULL;
	ListCell   *lc;

	foreach(lc, query->groupClause)
	{
		Expr	   *expr = (Expr *) get_sortgroupclause_expr(lfirst(lc), query->targetList);

		context->groups = lappend(context->groups, expr);
		context->group_columns = lappend(context->group_columns, add_group(context, expr, lfirst(lc)));
	}
	if ((find_distinct((Node *) query->targetList, &distinct) ||
		 find_distinct(query->havingQual, &distinct)) &&
		list_length(distinct->aggdistinct) == 1 && list_length(distinct->args) == 1)
	{
		context->distinct = ((TargetEntry *) linitial(distinct->args))->expr;
		context->distinct_column = add_group(context, context->distinct, linitial(distinct->aggdistinct));
	}
}

bool
dbscale_fanout_split_partial(FanoutLevel *level)
{
	Query	   *query = level->query;
	Query	   *above = begin_above(level);
	SplitContext context = {.level = level};

	level->columns = level->combine = NIL;
	level->shard = makeNode(Query);
	level->shard->commandType = CMD_SELECT;
	level->shard->canSetTag = true;
	level->shard->rtable = copyObject(query->rtable);
	level->shard->jointree = copyObject(query->jointree);
	level->shard->hasSubLinks = query->hasSubLinks;
	dbscale_query_copy_perminfos(level->shard, query);

	add_groups(&context);
	above->targetList = (List *) split_expression((Node *) query->targetList, &context);
	above->havingQual = split_expression(query->havingQual, &context);
	if (context.failed || level->columns == NIL)
	{
		level->reason = context.failed ? context.failed : "no aggregate";
		return false;
	}
	above->hasSubLinks = false;
	level->above = above;
	level->shard->targetList = level->columns;
	level->shard->hasAggs = true;
	level->strategy = "partial aggregates";
	return true;
}

/* ---- on the node ---- */

static void
append_combined(StringInfo text, const char *function, int column)
{
	if (strcmp(function, FANOUT_GROUPED) == 0)
		appendStringInfo(text, "c%d", column);
	else if (strcmp(function, "sum int8") == 0)
		appendStringInfo(text, "pg_catalog.sum(c%d)::pg_catalog.int8", column);
	else
	{
		int			length = strcspn(function, ",");

		appendStringInfo(text, "pg_catalog.%s(c%d%s)",
						 quote_identifier(pnstrdup(function, length)), column, function + length);
	}
}

/* See FanoutTask.  Only parts of aggregates can be combined. */
void
dbscale_fanout_node_text(const FanoutLevel *level, FanoutTask *task)
{
	StringInfoData before;
	StringInfoData after;
	bool		grouped = false;
	ListCell   *lc;

	if (!level->shard->hasAggs || level->combine == NIL)
		return;
	foreach(lc, level->combine)
		if (strcmp(strVal(lfirst(lc)), FANOUT_NOT_COMBINED) == 0)
			return;
	initStringInfo(&before);
	initStringInfo(&after);
	appendStringInfoString(&before, "SELECT ");
	appendStringInfoString(&after, ") AS parts (");
	foreach(lc, level->combine)
	{
		int			column = foreach_current_index(lc) + 1;
		const char *separator = column > 1 ? ", " : "";

		appendStringInfoString(&before, separator);
		append_combined(&before, strVal(lfirst(lc)), column);
		appendStringInfo(&after, "%sc%d", separator, column);
	}
	appendStringInfoString(&before, " FROM (");
	appendStringInfoString(&after, ")");
	foreach(lc, level->combine)
	{
		if (strcmp(strVal(lfirst(lc)), FANOUT_GROUPED) != 0)
			continue;
		appendStringInfo(&after, "%s%d", grouped ? ", " : " GROUP BY ", foreach_current_index(lc) + 1);
		grouped = true;
	}
	task->prefix = before.data;
	task->suffix = after.data;
}
