/*
 * fanout_estimate.c
 *		How many rows shards will send, and what core may know of their columns.
 *
 * ANALYZE of a distributed table leaves statistics of the whole table with the parent.
 * The planner of the query above is given them for the placeholder's columns that are
 * columns of a table, and for the columns of shards that are read as foreign tables.  Conditions that went to the shards are only guessed: an equality by the
 * number of distinct values, anything else as a third.
 */
#include "planner/fanout.h"

#include "catalog/pg_class.h"
#include "catalog/pg_statistic.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/selfuncs.h"
#include "utils/syscache.h"

#define DEFAULT_SHARD_ROWS 1000
#define OTHER_SELECTIVITY 0.33
#define DEFAULT_DISTINCT 200

static get_relation_stats_hook_type previous_stats_hook = NULL;

static double
relation_rows(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	double		rows = 0;

	if (HeapTupleIsValid(tuple))
	{
		rows = Max(((Form_pg_class) GETSTRUCT(tuple))->reltuples, 0);
		ReleaseSysCache(tuple);
	}
	return rows;
}

double
dbscale_fanout_table_rows(Oid relid)
{
	const DistributedTable *table = dbscale_catalog_table(relid);
	double		rows = relation_rows(relid);

	if (table == NULL || table->is_reference || rows > 0)
		return Max(rows, DEFAULT_SHARD_ROWS);
	for (int i = 0; i < table->group->nshards; i++)
		rows += relation_rows(table->foreign_tables[i]);
	return Max(rows, DEFAULT_SHARD_ROWS);
}

static HeapTuple
column_statistics(Oid relid, AttrNumber attno)
{
	const DistributedTable *table = dbscale_catalog_table(relid);

	return SearchSysCache3(STATRELATTINH, ObjectIdGetDatum(relid), Int16GetDatum(attno),
						   BoolGetDatum(table != NULL && !table->is_reference));
}

static double
distinct_values(Oid relid, AttrNumber attno)
{
	HeapTuple	tuple = column_statistics(relid, attno);
	double		distinct = 0;

	if (HeapTupleIsValid(tuple))
	{
		distinct = ((Form_pg_statistic) GETSTRUCT(tuple))->stadistinct;
		ReleaseSysCache(tuple);
	}
	if (distinct < 0)
		distinct *= -dbscale_fanout_table_rows(relid);
	return distinct >= 1 ? distinct : DEFAULT_DISTINCT;
}

static Var *
column_of(Node *node, List *rtable)
{
	while (node && IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	if (node == NULL || !IsA(node, Var) || ((Var *) node)->varlevelsup != 0 || ((Var *) node)->varattno <= 0 ||
		rt_fetch(((Var *) node)->varno, rtable)->rtekind != RTE_RELATION)
		return NULL;
	return (Var *) node;
}

double
dbscale_fanout_selectivity(Node *condition, List *rtable)
{
	OpExpr	   *op = (OpExpr *) condition;
	Var		   *column;

	if (!IsA(op, OpExpr) || list_length(op->args) != 2 ||
		!op_hashjoinable(op->opno, exprType(linitial(op->args))))
		return OTHER_SELECTIVITY;
	column = column_of(linitial(op->args), rtable);
	if (column == NULL)
		column = column_of(lsecond(op->args), rtable);
	if (column == NULL)
		return OTHER_SELECTIVITY;
	/* a join of two tables on their key keeps the bigger one's rows */
	if (column_of(linitial(op->args), rtable) && column_of(lsecond(op->args), rtable))
		return 1;
	return 1 / distinct_values(rt_fetch(column->varno, rtable)->relid, column->varattno);
}

/* Rows of a query of the shards, from its biggest table. */
static double
joined_rows(Query *shard)
{
	double		rows = 1;
	ListCell   *lc;

	foreach(lc, shard->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (rte->rtekind == RTE_RELATION && dbscale_catalog_table(rte->relid) != NULL)
			rows = Max(rows, dbscale_fanout_table_rows(rte->relid));
	}
	foreach(lc, make_ands_implicit((Expr *) shard->jointree->quals))
		rows *= dbscale_fanout_selectivity(lfirst(lc), shard->rtable);
	return Max(rows, 1);
}

double
dbscale_fanout_estimate_rows(const FanoutLevel *level)
{
	Query	   *shard = level->shard;
	double		rows = joined_rows(shard);
	double		groups = 1;
	int			nodes = 2;
	ListCell   *lc;

	if (shard->limitCount != NULL && IsA(shard->limitCount, Const) && !((Const *) shard->limitCount)->constisnull)
		return Min(rows, level->colocation.group->nshards *
				   (double) DatumGetInt64(((Const *) shard->limitCount)->constvalue));
	if (shard->groupClause == NIL)
		return shard->hasAggs ? nodes : rows;
	foreach(lc, shard->groupClause)
	{
		Var		   *column = column_of((Node *) get_sortgroupclause_expr(lfirst(lc), shard->targetList), shard->rtable);

		groups *= column == NULL ? DEFAULT_DISTINCT :
			distinct_values(rt_fetch(column->varno, shard->rtable)->relid, column->varattno);
	}
	return Min(rows, groups * (level->combine != NIL ? nodes : 1));
}

/* Are some rows of some table kept from the user?  Partitions do not tell by themselves. */
static bool
hides_rows(PlannerInfo *root)
{
	ListCell   *lc;

	foreach(lc, root->parse->rtable)
		if (((RangeTblEntry *) lfirst(lc))->securityQuals != NIL)
			return true;
	return root->parse->hasRowSecurity;
}

/*
 * Most common values may be shown to operators that might tell them only if the user may
 * read all of the table anyhow; core does not ask that where the hook has found the statistics.
 */
static void
give_statistics(VariableStatData *data, PlannerInfo *root, Oid relid, HeapTuple tuple)
{
	data->statsTuple = tuple;
	data->freefunc = ReleaseSysCache;
	data->acl_ok = !hides_rows(root) && pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK;
}

/* A shard's column has the parent's statistics where ANALYZE of the shard left none. */
static bool
shard_statistics(PlannerInfo *root, Oid foreign_table, AttrNumber attno, VariableStatData *data)
{
	int			shard;
	const DistributedTable *table = dbscale_catalog_owner_of(foreign_table, &shard);
	HeapTuple	own;
	AttrNumber	of_parent;

	if (table == NULL || table->is_reference || attno <= 0)
		return false;
	own = SearchSysCache3(STATRELATTINH, ObjectIdGetDatum(foreign_table), Int16GetDatum(attno), BoolGetDatum(false));
	if (HeapTupleIsValid(own))
	{
		ReleaseSysCache(own);
		return false;
	}
	of_parent = get_attnum(table->relid, get_attname(foreign_table, attno, false));
	give_statistics(data, root, table->relid, column_statistics(table->relid, of_parent));
	return HeapTupleIsValid(data->statsTuple);
}

/* Which table's column each column of the shards' query is; 0 where it is none. */
void
dbscale_fanout_origins(const FanoutLevel *level, FanoutTask *task)
{
	ListCell   *lc;

	foreach(lc, level->columns)
	{
		Var		   *column = column_of((Node *) ((TargetEntry *) lfirst(lc))->expr, level->shard->rtable);

		task->origin_tables = lappend_oid(task->origin_tables, column == NULL ? InvalidOid :
										  rt_fetch(column->varno, level->shard->rtable)->relid);
		task->origin_columns = lappend_int(task->origin_columns, column == NULL ? 0 : column->varattno);
	}
}

static bool
dbscale_relation_stats(PlannerInfo *root, RangeTblEntry *rte, AttrNumber attno, VariableStatData *data)
{
	FanoutTask *task;
	Oid			relid;

	if (previous_stats_hook && previous_stats_hook(root, rte, attno, data))
		return true;
	if (dbscale_catalog_is_empty())
		return false;
	if (rte->rtekind == RTE_RELATION && rte->relkind == RELKIND_FOREIGN_TABLE)
		return shard_statistics(root, rte->relid, attno, data);
	if (rte->rtekind != RTE_FUNCTION ||
		(task = dbscale_fanout_task_of(rte)) == NULL ||
		attno <= 0 || attno > list_length(task->origin_tables))
		return false;
	relid = list_nth_oid(task->origin_tables, attno - 1);
	if (!OidIsValid(relid))
		return false;
	give_statistics(data, root, relid, column_statistics(relid, list_nth_int(task->origin_columns, attno - 1)));
	return HeapTupleIsValid(data->statsTuple);
}

void
dbscale_fanout_estimate_init(void)
{
	previous_stats_hook = get_relation_stats_hook;
	get_relation_stats_hook = dbscale_relation_stats;
}
