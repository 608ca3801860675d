/*
 * fdw.c
 *		The foreign data wrapper dbscale_fdw: postgres_fdw plans, dbscale carries.
 *
 * The handler takes postgres_fdw's FdwRoutine from its own handler, keeps what plans
 * and deparses, and replaces what runs.  postgres_fdw never opens a connection: its
 * planner would only under use_remote_estimate, which the validator refuses.
 */
#include "executor/internal.h"
#include "executor/fanout_scan.h"
#include "executor/router_scan.h"
#include "executor/write_scan.h"

#include "access/reloptions.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/partition.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "nodes/makefuncs.h"
#include "nodes/pathnodes.h"
#include "nodes/plannodes.h"
#include "parser/parsetree.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

DBSCALE_FUNCTION(dbscale_fdw_handler);
DBSCALE_FUNCTION(dbscale_fdw_validator);

/* postgres_fdw's own, loaded once a backend */
static FdwRoutine *borrowed = NULL;

static FdwRoutine *
borrow_routine(void)
{
	PGFunction	handler;

	if (borrowed == NULL)
	{
		LOCAL_FCINFO(fcinfo, 0);
		MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);

		handler = (PGFunction) load_external_function("$libdir/postgres_fdw",
													  "postgres_fdw_handler", true, NULL);
		InitFunctionCallInfoData(*fcinfo, NULL, 0, InvalidOid, NULL, NULL);
		borrowed = (FdwRoutine *) DatumGetPointer(handler(fcinfo));
		MemoryContextSwitchTo(caller);
	}
	return borrowed;
}

/* ---- options ---- */

/* Options of postgres_fdw that steer what dbscale does in its own way. */
static const char *const refused_options[] = {
	"analyze_sampling", "async_capable", "batch_size", "fetch_size", "keep_connections",
	"parallel_abort", "parallel_commit", "use_remote_estimate"
};

static void
refuse_option(const char *name)
{
	for (int i = 0; i < lengthof(refused_options); i++)
		if (strcmp(name, refused_options[i]) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("option \"%s\" does not apply to dbscale_fdw", name),
					 errdetail("It belongs to postgres_fdw's own executor, which dbscale replaces."),
					 errhint("Remove the option.")));
}

/* An option of a node that postgres_fdw does not know; defGetBoolean checks its value. */
static bool
is_our_option(DefElem *option, Oid catalog)
{
	if (catalog != ForeignServerRelationId || strcmp(option->defname, REMOTE_PREPARED_OPTION) != 0)
		return false;
	(void) defGetBoolean(option);
	return true;
}

Datum
dbscale_fdw_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	ArrayBuildState *theirs = initArrayResult(TEXTOID, CurrentMemoryContext, false);
	PGFunction	validator;
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		refuse_option(option->defname);
		if (!is_our_option(option, PG_GETARG_OID(1)))
			theirs = accumArrayResult(theirs,
									  CStringGetTextDatum(psprintf("%s=%s", option->defname, defGetString(option))),
									  false, TEXTOID, CurrentMemoryContext);
	}
	validator = (PGFunction) load_external_function("$libdir/postgres_fdw",
													"postgres_fdw_validator", true, NULL);
	return DirectFunctionCall2(validator, makeArrayResult(theirs, CurrentMemoryContext), PG_GETARG_DATUM(1));
}

/* ---- planning ---- */

/* The columns that an UPDATE sets, as numbers of `to`'s columns, for bms. */
static Bitmapset *
map_columns(List *columns, Oid from, Oid to)
{
	Bitmapset  *result = NULL;
	ListCell   *lc;

	foreach(lc, columns)
	{
		char	   *name = get_attname(from, lfirst_int(lc), false);
		AttrNumber	attno = get_attnum(to, name);

		if (attno != InvalidAttrNumber)
			result = bms_add_member(result, attno - FirstLowInvalidHeapAttributeNumber);
	}
	return result;
}

/* Does setting these columns of a partition possibly move its rows elsewhere? */
static bool
sets_partition_key(Oid relid, List *columns)
{
	ListCell   *lc;

	if (!get_rel_relispartition(relid))
		return false;
	foreach(lc, get_partition_ancestors(relid))
	{
		Relation	ancestor = table_open(lfirst_oid(lc), AccessShareLock);
		bool		in_expression;
		bool		found = has_partition_attrs(ancestor, map_columns(columns, relid, lfirst_oid(lc)),
												&in_expression);

		table_close(ancestor, NoLock);
		if (found)
			return true;
	}
	return false;
}

/* Is one of the plan's scans a join done on a node? */
static bool
joins_below(Plan *plan)
{
	ListCell   *lc;

	if (plan == NULL)
		return false;
	if (IsA(plan, ForeignScan))
		return ((ForeignScan *) plan)->scan.scanrelid == 0;
	if (IsA(plan, Append))
	{
		foreach(lc, ((Append *) plan)->appendplans)
			if (joins_below(lfirst(lc)))
				return true;
		return false;
	}
	return IsA(plan, Result) && joins_below(outerPlan(plan));
}

/* Does this part of the whole statement write the table? */
static bool
writes_table(Query *query, Oid relid)
{
	return query->commandType != CMD_SELECT && query->resultRelation > 0 &&
		rt_fetch(query->resultRelation, query->rtable)->relid == relid;
}

/*
 * Is the table written by another part of the statement, too (WITH)?  Each part is to
 * find the rows as they were before all of them, which a node that is sent one after
 * the other can't do.
 */
static bool
is_written_twice(PlannerInfo *root)
{
	Oid			relid = rt_fetch(root->parse->resultRelation, root->parse->rtable)->relid;
	PlannerInfo *top = root;
	int			parts;
	ListCell   *lc;

	while (top->parent_root)
		top = top->parent_root;
	parts = writes_table(top->parse, relid) ? 1 : 0;
	foreach(lc, top->parse->cteList)
	{
		CommonTableExpr *cte = lfirst_node(CommonTableExpr, lc);

		if (writes_table(castNode(Query, cte->ctequery), relid))
			parts++;
	}
	return parts > 1;
}

static bool
plan_direct_modify(PlannerInfo *root, ModifyTable *plan, Index resultRelation, int subplan_index)
{
	RangeTblEntry *rte = planner_rt_fetch(resultRelation, root);

	if (plan->operation == CMD_UPDATE &&
		sets_partition_key(rte->relid, (List *) list_nth(plan->updateColnosLists, subplan_index)))
		return false;
	if (is_written_twice(root))
		return false;
	/* a join's rows would have to be taken apart again for RETURNING */
	if (plan->returningLists != NIL && joins_below((Plan *) outerPlan(plan)))
		return false;
	return borrow_routine()->PlanDirectModify(root, plan, resultRelation, subplan_index);
}

/* Core plans a foreign partition as if its parent's TABLESAMPLE were not there. */
static void
get_rel_size(PlannerInfo *root, RelOptInfo *baserel, Oid foreigntableid)
{
	if (planner_rt_fetch(baserel->relid, root)->tablesample != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("TABLESAMPLE is not possible on shards"),
				 errhint("A condition such as WHERE random() < 0.01 takes a sample.")));
	borrow_routine()->GetForeignRelSize(root, baserel, foreigntableid);
}

/* ---- EXPLAIN ---- */

static void
explain_node(Oid serverid, ExplainState *es)
{
	ExplainPropertyText("Node", GetForeignServer(serverid)->servername, es);
}

/* The EXPLAIN that has shown a reason, for as long as its memory is there. */
static ExplainState *explained = NULL;

static void
forget_explained(void *es)
{
	if (explained == es)
		explained = NULL;
}

/* Why there are foreign scans at all: once, at the first that is shown. */
static void
explain_reason(const char *reason, ExplainState *es)
{
	MemoryContextCallback *callback;

	if (!es->verbose || reason == NULL || explained == es)
		return;
	ExplainPropertyText("Not Pushed Down", reason, es);
	callback = palloc0(sizeof(MemoryContextCallback));
	callback->func = forget_explained;
	callback->arg = es;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
	explained = es;
}

/* postgres_fdw explains what is its own in the scan. */
static void
explain_borrowed(ForeignScanState *node, ExplainState *es, void (*explain) (ForeignScanState *, ExplainState *))
{
	Plan	   *plan = node->ss.ps.plan;
	ForeignScan scan = *(ForeignScan *) plan;
	const char *reason = dbscale_plan_split_reason(scan.fdw_private, &scan.fdw_private);

	explain_node(scan.fs_server, es);
	node->ss.ps.plan = (Plan *) &scan;
	explain(node, es);
	node->ss.ps.plan = plan;
	explain_reason(reason, es);
}

static void
explain_scan(ForeignScanState *node, ExplainState *es)
{
	explain_borrowed(node, es, borrow_routine()->ExplainForeignScan);
}

static void
explain_direct(ForeignScanState *node, ExplainState *es)
{
	explain_borrowed(node, es, borrow_routine()->ExplainDirectModify);
}

static void
explain_modify(ModifyTableState *mtstate, ResultRelInfo *rinfo, List *fdw_private,
			   int subplan_index, ExplainState *es)
{
	explain_node(GetForeignTable(RelationGetRelid(rinfo->ri_RelationDesc))->serverid, es);
	if (es->verbose)
		ExplainPropertyText("Remote SQL", strVal(linitial(fdw_private)), es);
}

Datum
dbscale_fdw_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	*routine = *borrow_routine();

	dbscale_scan_set_callbacks(routine);
	dbscale_direct_set_callbacks(routine);
	dbscale_modify_set_callbacks(routine);
	dbscale_maintain_set_callbacks(routine);
	routine->GetForeignRelSize = get_rel_size;
	routine->PlanDirectModify = plan_direct_modify;
	routine->ExplainForeignScan = explain_scan;
	routine->ExplainForeignModify = explain_modify;
	routine->ExplainDirectModify = explain_direct;

	/* shards are made by dbscale, not imported */
	routine->ImportForeignSchema = NULL;
	/* statements go out ahead of need instead: see run.c */
	routine->IsForeignPathAsyncCapable = NULL;
	routine->ForeignAsyncRequest = NULL;
	routine->ForeignAsyncConfigureWait = NULL;
	routine->ForeignAsyncNotify = NULL;
	dbscale_security_wrap_callbacks(routine);
	dbscale_locking_wrap_callbacks(routine);

	PG_RETURN_POINTER(routine);
}

void
dbscale_executor_init(void)
{
	/* postgres_fdw's library is loaded when first needed */
	dbscale_router_scan_init();
	dbscale_fanout_scan_init();
	dbscale_write_scan_init();
}
