/*
 * system_columns.c
 *		Statements that would go wrong by a system column of a distributed table, and are
 *		refused.
 *
 * 1. xmin, xmax, cmin and cmax of a foreign table are 0 for every row.  Who takes xmin for a
 *    row's version, reads 0, and later writes WHERE id = … AND xmin = …, would always find
 *    it unchanged, and overwrite what others wrote.  They are refused wherever they stand.
 *
 * 2. ctid is a row's place within its shard, and each shard has a row at (0,1).  So
 *    DELETE … WHERE ctid IN (SELECT ctid … LIMIT 100), which is right for a plain table,
 *    deletes rows of other shards too.  A condition on ctid is taken only where a condition
 *    of the same query level is on tableoid of the same table as well, which tells shards
 *    apart.  What is merely read, as in RETURNING ctid, is what it says.
 */
#include "planner/system_columns.h"

#include "access/sysattr.h"
#include "catalog/metadata.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"

/* A query level, while it is looked at. */
typedef struct Level
{
	Query	   *query;
	bool		in_condition;	/* now in FROM's and WHERE's conditions */
	Bitmapset  *by_ctid;		/* range table indexes that conditions compare so */
	Bitmapset  *by_tableoid;
} Level;

static bool
is_distributed(const Level *level, int varno)
{
	RangeTblEntry *rte;

	if (IS_SPECIAL_VARNO(varno))
		return false;
	rte = rt_fetch(varno, level->query->rtable);
	if (rte->rtekind != RTE_RELATION)
		return false;
	return dbscale_catalog_is_distributed(rte->relid);
}

static const char *
table_name(const Level *level, int varno)
{
	return get_rel_name(rt_fetch(varno, level->query->rtable)->relid);
}

static void
check_column(const Var *var, Level *level)
{
	if (var->varattno >= 0 || !is_distributed(level, var->varno))
		return;
	switch (var->varattno)
	{
		case SelfItemPointerAttributeNumber:
			if (level->in_condition)
				level->by_ctid = bms_add_member(level->by_ctid, var->varno);
			break;
		case TableOidAttributeNumber:
			if (level->in_condition)
				level->by_tableoid = bms_add_member(level->by_tableoid, var->varno);
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("system column \"%s\" is not possible on distributed table \"%s\"",
							get_attname(rt_fetch(var->varno, level->query->rtable)->relid, var->varattno, false),
							table_name(level, var->varno)),
					 errdetail("Rows that come from nodes do not have it."),
					 errhint("Keep a version, or the time of the last change, in a column.")));
	}
}

static bool
check_node(Node *node, List *levels)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		int			up = ((Var *) node)->varlevelsup;

		if (up < list_length(levels))
			check_column((Var *) node, list_nth(levels, up));
		return false;
	}
	if (IsA(node, Query))
	{
		Level		level = {(Query *) node};
		List	   *inner = lcons(&level, list_copy(levels));
		int			varno;

		(void) query_tree_walker(level.query, check_node, inner, QTW_IGNORE_JOINALIASES);
		varno = bms_next_member(bms_difference(level.by_ctid, level.by_tableoid), -1);
		if (varno >= 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("ctid alone says no row of distributed table \"%s\"", table_name(&level, varno)),
					 errdetail("It is a place within a shard; other shards have other rows at the same place."),
					 errhint("Compare the primary key, or tableoid and ctid.")));
		return false;
	}
	/* a query has one, its FROM and WHERE, before it is planned */
	if (IsA(node, FromExpr))
	{
		Level	   *level = linitial(levels);

		level->in_condition = true;
		(void) expression_tree_walker(node, check_node, levels);
		level->in_condition = false;
		return false;
	}
	return expression_tree_walker(node, check_node, levels);
}

/* Raises an error where the query is one of those above. */
void
dbscale_system_columns_check(Query *query)
{
	(void) check_node((Node *) query, NIL);
}
