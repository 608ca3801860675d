/*
 * planner.c
 *		The planner hook: what core's planner needs to be told about a statement
 *		that names a distributed table.
 *
 * A statement that one shard answers whole goes there whole (router.c, and plan_cache.c
 * for those that repeat).  For the rest: a distributed table is a partitioned table whose
 * partitions are foreign tables, so core plans every statement on it.  Two things are done
 * before, and one after (barrier.c):
 *
 * - Joins and aggregates are planned partition by partition where core can prove
 *   that to be right (it can, for tables of one group, because a group is an
 *   operator family).  Then a join of two shards of one node, or a GROUP BY on the
 *   shard key, is a single foreign scan, which the wrapper sends whole.
 *
 * - ON CONFLICT DO UPDATE and MERGE are done by shards themselves (router.c, write.c).
 *   Elsewhere ON CONFLICT names its arbiter by an index of the parent, which the foreign
 *   partitions do not have.  Where the table has no other unique index, DO NOTHING
 *   for that arbiter means the same as for any, and is planned so; what would not
 *   mean the same is refused here, since core's executor would fail on it less
 *   clearly.
 *
 * A statement that names no distributed table costs one scan of its range tables.
 */
#include "planner/planner.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/cost.h"
#include "optimizer/planner.h"
#include "parser/parsetree.h"
#include "planner/barrier.h"
#include "planner/fallback.h"
#include "planner/fanout.h"
#include "planner/plan_cache.h"
#include "planner/router.h"
#include "planner/system_columns.h"
#include "planner/write.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

static planner_hook_type previous_planner_hook = NULL;

/* The columns of an arbiter written as plain column names, or NULL if it is not. */
static Bitmapset *
arbiter_columns(OnConflictExpr *conflict)
{
	Bitmapset  *columns = NULL;
	ListCell   *lc;

	if (conflict->arbiterWhere != NULL)
		return NULL;
	foreach(lc, conflict->arbiterElems)
	{
		InferenceElem *elem = lfirst(lc);

		if (!IsA(elem->expr, Var) || OidIsValid(elem->infercollid) ||
			OidIsValid(elem->inferopclass))
			return NULL;
		columns = bms_add_member(columns, ((Var *) elem->expr)->varattno);
	}
	return columns;
}

/* Does this unique index stand for exactly the arbiter? */
static bool
index_is_arbiter(Form_pg_index index, bool is_plain, OnConflictExpr *conflict)
{
	Bitmapset  *columns = NULL;

	if (OidIsValid(conflict->constraint))
		return get_constraint_index(conflict->constraint) == index->indexrelid;
	if (!is_plain)
		return false;
	for (int i = 0; i < index->indnkeyatts; i++)
		columns = bms_add_member(columns, index->indkey.values[i]);
	return bms_equal(columns, arbiter_columns(conflict));
}

/*
 * Is the arbiter the table's only unique index?  Then DO NOTHING on it and DO
 * NOTHING on any conflict are the same.
 */
static bool
arbiter_is_only_unique_index(Oid relid, OnConflictExpr *conflict)
{
	Relation	rel = table_open(relid, NoLock);
	List	   *indexes = RelationGetIndexList(rel);
	int			unique = 0;
	bool		found = false;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(lc)));
		Form_pg_index index;
		bool		is_plain;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for index %u", lfirst_oid(lc));
		index = (Form_pg_index) GETSTRUCT(tuple);
		is_plain = heap_attisnull(tuple, Anum_pg_index_indexprs, NULL) &&
			heap_attisnull(tuple, Anum_pg_index_indpred, NULL);
		if (index->indisunique)
		{
			unique++;
			found |= index_is_arbiter(index, is_plain, conflict);
		}
		ReleaseSysCache(tuple);
	}
	table_close(rel, NoLock);
	return found && unique == 1;
}

/* Make ON CONFLICT on a distributed table something its shards can do, or refuse. */
static void
adapt_on_conflict(Query *query, const char *reason)
{
	OnConflictExpr *conflict = query->onConflict;
	RangeTblEntry *rte;
	const DistributedTable *table;

	if (query->commandType != CMD_INSERT || conflict == NULL)
		return;
	rte = rt_fetch(query->resultRelation, query->rtable);
	table = dbscale_catalog_table(rte->relid);
	if (table == NULL || table->is_reference)
		return;

	if (conflict->action == ONCONFLICT_UPDATE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("this ON CONFLICT DO UPDATE is not supported on distributed table \"%s\"",
						get_rel_name(rte->relid)),
				 errdetail("It is for shards to do by themselves, which they cannot: %s.", reason),
				 errhint("Use ON CONFLICT DO NOTHING and UPDATE what was not inserted, in one transaction.")));

	if (conflict->arbiterElems == NIL && !OidIsValid(conflict->constraint))
		return;
	if (!arbiter_is_only_unique_index(rte->relid, conflict))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("this conflict target is not supported on distributed table \"%s\"",
						get_rel_name(rte->relid)),
				 errdetail("A conflict target must be the columns of the table's only unique index, or its constraint."),
				 errhint("Write ON CONFLICT DO NOTHING without a target, which means any unique index.")));
	conflict->arbiterElems = NIL;
	conflict->arbiterWhere = NULL;
	conflict->constraint = InvalidOid;
}

static void
refuse_merge(Query *query, const char *reason)
{
	const DistributedTable *table;

	if (query->commandType != CMD_MERGE)
		return;
	table = dbscale_catalog_table(rt_fetch(query->resultRelation, query->rtable)->relid);
	if (table != NULL && !table->is_reference)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("this MERGE is not supported on distributed table \"%s\"", get_rel_name(table->relid)),
				 errdetail("It is for shards to do by themselves, which they cannot: %s.", reason),
				 errhint("Use UPDATE, DELETE and INSERT in one transaction.")));
}

/* ON CONFLICT can stand at the top and in data-modifying CTEs, which are at the top. */
static void
adapt_query(Query *query, const char *reason)
{
	ListCell   *lc;

	adapt_on_conflict(query, reason);
	foreach(lc, query->cteList)
	{
		CommonTableExpr *cte = lfirst_node(CommonTableExpr, lc);

		adapt_on_conflict(castNode(Query, cte->ctequery), "it stands in WITH");
	}
}

static PlannedStmt *
plan_next(Query *parse, const char *query_string, int cursor_options, ParamListInfo params)
{
	if (previous_planner_hook)
		return previous_planner_hook(parse, query_string, cursor_options, params);
	return standard_planner(parse, query_string, cursor_options, params);
}

/* Plan with joins and aggregates partition by partition, whatever the session says. */
static PlannedStmt *
plan_partitionwise(Query *parse, const char *query_string, int cursor_options,
				   ParamListInfo params)
{
	bool		save_join = enable_partitionwise_join;
	bool		save_aggregate = enable_partitionwise_aggregate;
	PlannedStmt *plan;

	PG_TRY();
	{
		enable_partitionwise_join = true;
		enable_partitionwise_aggregate = true;
		plan = plan_next(parse, query_string, cursor_options, params);
	}
	PG_FINALLY();
	{
		enable_partitionwise_join = save_join;
		enable_partitionwise_aggregate = save_aggregate;
	}
	PG_END_TRY();
	return plan;
}

/* A statement that core plans, with what the shards can do of it; the reason is why not the whole. */
static PlannedStmt *
plan_over_shards(Query *parse, const char *query_string, int cursor_options, ParamListInfo params,
				 const char *reason)
{
	PlannedStmt *plan;
	List	   *reasons = NIL;

	plan = plan_partitionwise(dbscale_fanout_rewrite(parse, &reasons), query_string, cursor_options, params);
	if (parse->commandType != CMD_SELECT || parse->hasModifyingCTE)
		reasons = dbscale_fallback_note_all(reasons, parse, reason);
	dbscale_fallback_tell(plan, reasons);
	dbscale_barrier_add(plan);
	return plan;
}

/* The rows that a write to shards takes; the write may not run beside parallel workers. */
static PlannedStmt *
plan_source(Query *query, ParamListInfo params)
{
	if (!dbscale_ship_names_distributed((Node *) query, NULL))
		return plan_next(query, "", 0, params);
	return plan_over_shards(query, "", 0, params, NULL);
}

/* False: the statement names no distributed table.  Else the router's plan; NULL, with a reason: it has none. */
static bool
plan_routed(Query *parse, int cursor_options, PlannedStmt **plan, const char **reason)
{
	if (dbscale_plan_cache_takes(parse, cursor_options))
	{
		*plan = dbscale_plan_cache_route(parse, reason);
		return true;
	}
	if (!dbscale_ship_names_distributed((Node *) parse, NULL))
		return false;
	dbscale_system_columns_check(parse);
	*plan = dbscale_router_plan(parse, cursor_options, reason);
	return true;
}

static PlannedStmt *
dbscale_planner(Query *parse, const char *query_string, int cursor_options,
				ParamListInfo params)
{
	PlannedStmt *plan;
	const char *reason;

	if (dbscale_catalog_is_empty() || !plan_routed(parse, cursor_options, &plan, &reason))
		return plan_next(parse, query_string, cursor_options, params);

	if (plan == NULL)
		plan = dbscale_write_plan(parse, params, plan_source, &reason);
	if (plan != NULL)
		return plan;
	refuse_merge(parse, reason);
	adapt_query(parse, reason);
	return plan_over_shards(parse, query_string, cursor_options, params, reason);
}

void
dbscale_planner_init(void)
{
	previous_planner_hook = planner_hook;
	planner_hook = dbscale_planner;
	dbscale_fanout_init();
}
