/*
 * router_scan.c
 *		The custom scan that runs a whole statement on the node of one shard.
 *
 * The plan names no shard: the key's expression is computed when the scan is first
 * asked for a row, the key gives the shard, and the shard its node, under the locks
 * on the parent tables that the executor holds by then (a key cannot be assigned
 * elsewhere while one is held).  What writes or locks rows also locks the shard's foreign
 * tables, before it looks up the node: a move switches the node under a lock that
 * conflicts with it (catalog/catalog.c has the argument for readers).
 */
#include "executor/internal.h"
#include "executor/router_scan.h"

#include "access/xact.h"
#include "catalog/traffic.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "nodes/nodeFuncs.h"
#include "plan/plan.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "tcop/pquery.h"

typedef struct RouterScanState
{
	CustomScanState css;
	RouterTask *task;
	List	   *exprs;			/* of ExprState; NULL for those whose value is there already */
	List	   *types;			/* their types */
	int			shard;			/* -1 until the key is known */
	RemoteStatement *statement; /* NULL until sent */
	bool		done;
	NodeResult	result;
	PlanRun    *run;			/* NULL under EXPLAIN */
	RowReader  *reader;
	ParamSet   *params;
} RouterScanState;

static Node *create_router_scan(CustomScan *scan);
static void begin_router_scan(CustomScanState *node, EState *estate, int eflags);
static TupleTableSlot *exec_router_scan(CustomScanState *node);
static void end_router_scan(CustomScanState *node);
static void rescan_router_scan(CustomScanState *node);
static void explain_router_scan(CustomScanState *node, List *ancestors, ExplainState *es);

CustomScanMethods dbscale_router_scan_methods = {
	.CustomName = "dbscale router",
	.CreateCustomScanState = create_router_scan
};

static const CustomExecMethods router_exec_methods = {
	.CustomName = "dbscale router",
	.BeginCustomScan = begin_router_scan,
	.ExecCustomScan = exec_router_scan,
	.EndCustomScan = end_router_scan,
	.ReScanCustomScan = rescan_router_scan,
	.ExplainCustomScan = explain_router_scan
};

static Node *
create_router_scan(CustomScan *scan)
{
	RouterScanState *state = (RouterScanState *) newNode(sizeof(RouterScanState), T_CustomScanState);

	state->css.methods = &router_exec_methods;
	state->shard = -1;
	return (Node *) state;
}

static Oid *
param_types(RouterScanState *state)
{
	Oid		   *types = palloc(sizeof(Oid) * (state->task->parameters + 1));

	for (int i = 0; i < state->task->parameters; i++)
		types[i] = list_nth_oid(state->types, i);
	return types;
}

static List *
all_columns(TupleDesc desc)
{
	List	   *columns = NIL;

	for (int i = 1; i <= desc->natts; i++)
		columns = lappend_int(columns, i);
	return columns;
}

static void send_statement(RouterScanState *state);

/* Somebody else is about to write what this scan has not read yet. */
static void
send_ahead(void *arg)
{
	RouterScanState *state = arg;

	if (state->statement == NULL && !state->done)
	{
		send_statement(state);
		dbscale_remote_belongs_to(state->statement, 1);
	}
}

/*
 * A constant's value, or a parameter's that is given as a value of the type that was
 * planned for.  False: the expression is to be computed.
 */
static bool
find_value(EState *estate, Node *expr, Datum *value, bool *isnull)
{
	ParamListInfo params = estate->es_param_list_info;
	Param	   *param = (Param *) expr;
	ParamExternData *given;

	if (IsA(expr, Const))
	{
		if (value != NULL)
		{
			*value = ((Const *) expr)->constvalue;
			*isnull = ((Const *) expr)->constisnull;
		}
		return true;
	}
	if (!IsA(expr, Param) || param->paramkind != PARAM_EXTERN || params == NULL ||
		params->paramFetch != NULL || params->paramCompile != NULL || param->paramid > params->numParams)
		return false;
	given = &params->params[param->paramid - 1];
	if (given->ptype != param->paramtype)
		return false;
	if (value != NULL)
	{
		*value = given->value;
		*isnull = given->isnull;
	}
	return true;
}

static void
begin_router_scan(CustomScanState *node, EState *estate, int eflags)
{
	RouterScanState *state = (RouterScanState *) node;
	CustomScan *scan = (CustomScan *) node->ss.ps.plan;
	TupleDesc	desc = node->ss.ss_ScanTupleSlot->tts_tupleDescriptor;
	Oid		   *types;
	ListCell   *lc;

	state->task = dbscale_plan_unpack_router(scan->custom_private);
	foreach(lc, scan->custom_exprs)
	{
		state->exprs = lappend(state->exprs, find_value(estate, lfirst(lc), NULL, NULL) ? NULL :
							   ExecInitExpr(lfirst(lc), (PlanState *) node));
		state->types = lappend_oid(state->types, exprType(lfirst(lc)));
	}
	types = param_types(state);
	state->params = dbscale_params_create(state->task->parameters, types, true);
	state->params->params.types = types;
	state->reader = dbscale_row_reader_create(desc, all_columns(desc), true,
											  get_rel_name(state->task->key_table));
	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	state->run = dbscale_run_get(estate);
	if (state->task->targets == NIL)
	{
		state->run->send_router = send_ahead;
		state->run->router = state;
	}
}

/* Every expression of the plan, computed once: a key may be volatile (nextval). */
static void
compute_expressions(RouterScanState *state, Datum *values, bool *nulls)
{
	ExprContext *econtext = state->css.ss.ps.ps_ExprContext;
	CustomScan *scan = (CustomScan *) state->css.ss.ps.plan;
	int			i = 0;
	ListCell   *lc,
			   *lc2;

	forboth(lc, state->exprs, lc2, scan->custom_exprs)
	{
		if (lfirst(lc) != NULL)
			values[i] = ExecEvalExprSwitchContext(lfirst(lc), econtext, &nulls[i]);
		else
			(void) find_value(state->css.ss.ps.state, lfirst(lc2), &values[i], &nulls[i]);
		i++;
	}
}

/*
 * The shard of the key.  A key that no shard takes has no rows, which any shard
 * can tell; only a row to insert needs a shard of its own.
 */
static int
find_shard(RouterScanState *state, const DistributedTable *table, Datum key, bool isnull)
{
	Oid			type = list_nth_oid(state->types, state->task->key_expr);
	int			shard = dbscale_route_compared_key(table, key, type, isnull);

	if (shard >= 0)
		return shard;
	if (state->task->inserts)
		dbscale_refuse_key(table, key, type, isnull);
	return table->group->shards[0].number;
}

/* The foreign table of a distributed table's shard. */
static Oid
shard_table(Oid relation, int shard)
{
	return dbscale_catalog_foreign_table(dbscale_catalog_require_distributed(relation), shard);
}

static const ShardNode *
shard_node(Oid relation, int shard)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(relation);

	return dbscale_catalog_shard(table->group, shard)->node;
}

/* Locks what is written or has rows locked; then the node, for this execution. */
static const ShardNode *
lock_and_find_node(RouterTask *task, int shard)
{
	const DistributedTable *table;
	ListCell   *lc;

	foreach(lc, task->targets)
		LockRelationOid(shard_table(lfirst_oid(lc), shard), RowExclusiveLock);
	if (task->locks_rows)
		LockRelationOid(shard_table(task->key_table, shard), RowShareLock);
	dbscale_catalog_refresh();
	table = dbscale_catalog_require_distributed(task->key_table);
	dbscale_catalog_check_snapshot(table, dbscale_catalog_shard(table->group, shard));
	return dbscale_catalog_shard(table->group, shard)->node;
}

/*
 * A read that is the whole of its transaction needs none on the node: nothing of
 * the session's is before it, and nothing can come after.
 */
static RemoteUse
remote_use(RouterScanState *state)
{
	if (state->task->targets != NIL)
		return dbscale_run_is_whole_transaction(state->css.ss.ps.state,
												state->css.ss.ss_ScanTupleSlot->tts_tupleDescriptor) ?
			REMOTE_WRITE_ALONE : REMOTE_WRITE;
	if (state->task->locks_rows || IsTransactionBlock() || ActivePortal == NULL ||
		ActivePortal->queryDesc == NULL ||
		ActivePortal->queryDesc->estate != state->css.ss.ps.state)
		return REMOTE_READ;
	return REMOTE_READ_ALONE;
}

static void
send_statement(RouterScanState *state)
{
	RouterTask *task = state->task;
	EState	   *estate = state->css.ss.ps.state;
	int			count = list_length(state->exprs);
	Datum	   *values = palloc(sizeof(Datum) * count);
	bool	   *nulls = palloc(sizeof(bool) * count);
	MemoryContext old = MemoryContextSwitchTo(estate->es_query_cxt);
	Oid			user = OidIsValid(task->check_as_user) ? task->check_as_user : GetUserId();
	const DistributedTable *table;
	const ShardNode *node;
	RemoteConnection *conn;
	RemoteUse	use;
	const RemoteParams *params;
	int			flags = 0;
	char	   *sql;

	compute_expressions(state, values, nulls);
	table = dbscale_catalog_require_distributed(task->key_table);
	state->shard = find_shard(state, table, values[task->key_expr], nulls[task->key_expr]);
	dbscale_traffic_count(table->group->id, state->shard, task->targets != NIL);
	node = lock_and_find_node(task, state->shard);
	sql = dbscale_plan_shard_sql(&task->sql, task->relations, state->shard);
	params = task->parameters > 0 ?
		dbscale_params_set(state->params, values, nulls) : REMOTE_NO_PARAMS;
	if (task->parameters > 0)
		flags |= REMOTE_PREPARE;
	if (state->reader->binary && task->has_result)
		flags |= REMOTE_BINARY;

	if (task->targets == NIL)
		state->run->send_router = NULL;
	else
		dbscale_run_before_write(state->run);
	use = remote_use(state);
	state->result.node = pstrdup(NameStr(node->name));
	dbscale_result_sent(&state->result);
	conn = dbscale_run_connection(estate, node->serverid, user, use);
	state->statement = dbscale_remote_send(conn, sql, params, flags,
										   get_rel_name(dbscale_catalog_foreign_table(table, state->shard)));
	dbscale_remote_belongs_to(state->statement, dbscale_run_nest_level(estate));
	if (use == REMOTE_WRITE_ALONE)
		dbscale_transaction_finish_alone(conn, state->statement);
	MemoryContextSwitchTo(old);
}

/* One row of the node as a tuple, which is there until the next one is asked for. */
static TupleTableSlot *
store_row(RouterScanState *state, RemoteRow *row)
{
	TupleTableSlot *slot = state->css.ss.ss_ScanTupleSlot;
	MemoryContext old;

	ExecClearTuple(slot);
	old = MemoryContextSwitchTo(state->css.ss.ps.ps_ExprContext->ecxt_per_tuple_memory);
	ExecForceStoreHeapTuple(dbscale_row_reader_tuple(state->reader, row), slot, false);
	MemoryContextSwitchTo(old);
	return slot;
}

static TupleTableSlot *
next_row(ScanState *node)
{
	RouterScanState *state = (RouterScanState *) node;
	RemoteRow	row;

	if (state->done)
		return ExecClearTuple(node->ss_ScanTupleSlot);
	if (state->statement == NULL)
		send_statement(state);
	if (state->task->has_result && dbscale_remote_next_row(state->statement, &row))
	{
		if (state->task->command != CMD_SELECT)
			node->ps.state->es_processed++;
		dbscale_result_row(&state->result, &row);
		return store_row(state, &row);
	}
	if (!state->task->has_result)
	{
		state->result.rows = dbscale_remote_finish(state->statement);
		node->ps.state->es_processed += state->result.rows;
	}
	dbscale_result_end(&state->result);
	state->done = true;
	return ExecClearTuple(node->ss_ScanTupleSlot);
}

static bool
recheck_row(ScanState *node, TupleTableSlot *slot)
{
	return true;
}

static TupleTableSlot *
exec_router_scan(CustomScanState *node)
{
	return ExecScan(&node->ss, next_row, recheck_row);
}

static void
end_router_scan(CustomScanState *node)
{
	RouterScanState *state = (RouterScanState *) node;

	if (state->statement)
		dbscale_remote_close(state->statement);
	state->statement = NULL;
}

/* The plan is a whole statement, so it is asked again only from its start. */
static void
rescan_router_scan(CustomScanState *node)
{
	end_router_scan(node);
	((RouterScanState *) node)->done = false;
	memset(&((RouterScanState *) node)->result, 0, sizeof(NodeResult));
}

/* Without a parameter's value there is no shard to name; the text is then the first one's. */
static void
explain_router_scan(CustomScanState *node, List *ancestors, ExplainState *es)
{
	RouterScanState *state = (RouterScanState *) node;
	const DistributedTable *table = dbscale_catalog_require_distributed(state->task->key_table);
	CustomScan *scan = (CustomScan *) node->ss.ps.plan;
	bool		known = state->shard >= 0;
	int			shard;

	if (!known && IsA(list_nth(scan->custom_exprs, state->task->key_expr), Const))
	{
		Const	   *key = list_nth(scan->custom_exprs, state->task->key_expr);

		state->shard = find_shard(state, table, key->constvalue, key->constisnull);
		known = true;
	}
	shard = known ? state->shard : table->group->shards[0].number;
	if (known)
	{
		ExplainPropertyText("Node", NameStr(shard_node(state->task->key_table, shard)->name), es);
		ExplainPropertyInteger("Shard", NULL, shard, es);
	}
	else
		ExplainPropertyText("Shard", "by the key, at execution", es);
	if (es->verbose)
		ExplainPropertyText("Remote SQL",
							dbscale_plan_shard_sql(&state->task->sql, state->task->relations, shard),
							es);
	if (es->analyze && state->result.node != NULL)
		dbscale_result_explain(list_make1(&state->result), es);
}

void
dbscale_router_scan_init(void)
{
	RegisterCustomScanMethods(&dbscale_router_scan_methods);
}
