/*
 * fanout_scan.c
 *		The custom scan of a query that every shard answers for itself.
 *
 * The plan names no shard and no node.  When the scan is first asked for a row, its
 * expressions are computed, the keys among them choose the shards, and the shards'
 * branches of a node become one statement (see FanoutTask).  All nodes get theirs before
 * the first row is read, so that they work at the same time.
 *
 * Rows are taken from the nodes in turn, some from each: a node whose rows nobody
 * takes stops when the socket is full.
 */
#include "executor/internal.h"
#include "executor/fanout_scan.h"

#include "catalog/traffic.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "nodes/nodeFuncs.h"
#include "plan/plan.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* So many rows of one node before it is the next one's turn. */
#define ROWS_IN_TURN 64

/* One node's statement. */
typedef struct FanoutNode
{
	NodeResult	result;			/* first: a list of these is one of results */
	Oid			serverid;
	List	   *shards;			/* of int */
	RemoteStatement *statement;
} FanoutNode;

typedef struct FanoutScanState
{
	CustomScanState css;
	FanoutTask *task;
	List	   *exprs;			/* of ExprState */
	List	   *types;			/* their types */
	ParamSet   *params;
	RowReader  *reader;
	PlanRun    *run;			/* NULL under EXPLAIN */
	RunReader	in_run;
	List	   *nodes;			/* of FanoutNode *; NIL until sent */
	List	   *earlier;		/* the same added up over statements that are gone, for EXPLAIN */
	int			current;		/* whose turn it is */
	int			turn;			/* rows taken in this turn */
	int			flags;
	int			shards_read;
	bool		at_start;
	MemoryContext row_context;
	MemoryContext send_context; /* what is made for one sending */
} FanoutScanState;

static Node *create_fanout_scan(CustomScan *scan);
static void begin_fanout_scan(CustomScanState *node, EState *estate, int eflags);
static TupleTableSlot *exec_fanout_scan(CustomScanState *node);
static void end_fanout_scan(CustomScanState *node);
static void rescan_fanout_scan(CustomScanState *node);
static void explain_fanout_scan(CustomScanState *node, List *ancestors, ExplainState *es);

CustomScanMethods dbscale_fanout_scan_methods = {
	.CustomName = "dbscale fan-out",
	.CreateCustomScanState = create_fanout_scan
};

static const CustomExecMethods fanout_exec_methods = {
	.CustomName = "dbscale fan-out",
	.BeginCustomScan = begin_fanout_scan,
	.ExecCustomScan = exec_fanout_scan,
	.EndCustomScan = end_fanout_scan,
	.ReScanCustomScan = rescan_fanout_scan,
	.ExplainCustomScan = explain_fanout_scan
};

static void send_statements(void *arg);
static void keep_rows(void *arg);

static Node *
create_fanout_scan(CustomScan *scan)
{
	FanoutScanState *state = (FanoutScanState *) newNode(sizeof(FanoutScanState), T_CustomScanState);

	state->css.methods = &fanout_exec_methods;
	return (Node *) state;
}

static bool
has_exec_param(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXEC)
		return true;
	return expression_tree_walker(node, has_exec_param, context);
}

static void
prepare_expressions(FanoutScanState *state, List *exprs)
{
	int			count = state->task->parameters;
	Oid		   *types = palloc(sizeof(Oid) * Max(count, 1));
	ListCell   *lc;

	state->exprs = ExecInitExprList(exprs, (PlanState *) state);
	foreach(lc, exprs)
	{
		state->types = lappend_oid(state->types, exprType(lfirst(lc)));
		if (foreach_current_index(lc) < count)
			types[foreach_current_index(lc)] = exprType(lfirst(lc));
	}
	if (count == 0)
		return;
	state->params = dbscale_params_create(count, types, true);
	state->params->params.types = types;
}

static void
prepare_reader(FanoutScanState *state)
{
	TupleDesc	desc = state->css.ss.ss_ScanTupleSlot->tts_tupleDescriptor;
	List	   *columns = NIL;

	for (int i = 1; i <= desc->natts; i++)
		columns = lappend_int(columns, i);
	state->reader = dbscale_row_reader_create(desc, columns, true, get_rel_name(state->task->key_table));
	if (state->reader->binary)
		state->flags |= REMOTE_BINARY;
}

static void
begin_fanout_scan(CustomScanState *node, EState *estate, int eflags)
{
	FanoutScanState *state = (FanoutScanState *) node;
	CustomScan *scan = (CustomScan *) node->ss.ps.plan;
	FanoutTask *task = dbscale_plan_unpack_fanout(scan->custom_private);

	state->task = task;
	prepare_expressions(state, scan->custom_exprs);
	prepare_reader(state);
	state->row_context = AllocSetContextCreate(estate->es_query_cxt, "dbscale fan-out row",
											   ALLOCSET_DEFAULT_SIZES);
	state->send_context = AllocSetContextCreate(estate->es_query_cxt, "dbscale fan-out statements",
												ALLOCSET_DEFAULT_SIZES);
	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	if (eflags & EXEC_FLAG_REWIND)
		state->flags |= REMOTE_KEEP_ROWS;
	state->run = dbscale_run_get(estate);
	state->in_run.scan = state;
	state->in_run.send = send_statements;
	state->in_run.keep = keep_rows;
	state->in_run.relations = task->relations;
	state->in_run.userid = OidIsValid(task->check_as_user) ? task->check_as_user : GetUserId();
	state->in_run.depends = has_exec_param((Node *) scan->custom_exprs, NULL);
	dbscale_run_add_reader(state->run, &state->in_run);
}

/* ---- which shards ---- */

/* Add the shard of one key; a key that is NULL or that no shard takes equals none. */
static Bitmapset *
add_shard_of(Bitmapset *shards, const DistributedTable *table, Datum key, Oid type, bool isnull)
{
	int			shard = isnull ? -1 : dbscale_route_compared_key(table, key, type, false);

	return shard < 0 ? shards : bms_add_member(shards, shard);
}

static Bitmapset *
add_shards_of_array(Bitmapset *shards, const DistributedTable *table, Datum array, Oid element)
{
	int16		length;
	bool		byval;
	char		align;
	Datum	   *keys;
	bool	   *nulls;
	int			count;

	get_typlenbyvalalign(element, &length, &byval, &align);
	deconstruct_array(DatumGetArrayTypeP(array), element, length, byval, align, &keys, &nulls, &count);
	for (int i = 0; i < count; i++)
		shards = add_shard_of(shards, table, keys[i], element, nulls[i]);
	return shards;
}

Bitmapset *
dbscale_fanout_choose_shards(const FanoutTask *task, List *types, const DistributedTable *table,
							 Datum *values, bool *nulls)
{
	Bitmapset  *shards = NULL;
	ListCell   *lc;

	if (task->keys == NIL)
	{
		for (int i = 0; i < table->group->nshards; i++)
			shards = bms_add_member(shards, table->group->shards[i].number);
		return shards;
	}
	foreach(lc, task->keys)
	{
		int			i = lfirst_int(lc);
		Oid			type = list_nth_oid(types, i);
		Oid			element = type == table->group->key_type ? InvalidOid : get_element_type(type);

		if (OidIsValid(element) && !nulls[i])
			shards = add_shards_of_array(shards, table, values[i], element);
		else if (!OidIsValid(element))
			shards = add_shard_of(shards, table, values[i], type, nulls[i]);
	}
	return shards;
}

static FanoutNode *
find_node(List **nodes, Oid serverid, const char *name)
{
	FanoutNode *result;
	ListCell   *lc;

	foreach(lc, *nodes)
	{
		result = lfirst(lc);
		if (result->serverid == serverid)
			return result;
	}
	result = palloc0(sizeof(FanoutNode));
	result->serverid = serverid;
	result->result.node = pstrdup(name);
	*nodes = lappend(*nodes, result);
	return result;
}

/* The shards, by node; in the current memory context. */
static void
group_shards(FanoutScanState *state, const DistributedTable *table, Bitmapset *shards)
{
	int			shard = -1;

	state->shards_read = bms_num_members(shards);
	while ((shard = bms_next_member(shards, shard)) >= 0)
	{
		const Shard *found = dbscale_catalog_shard(table->group, shard);
		FanoutNode *node = find_node(&state->nodes, found->node->serverid, NameStr(found->node->name));

		dbscale_catalog_check_snapshot(table, found);
		node->shards = lappend_int(node->shards, shard);
	}
}

/* ---- sending ---- */

static char *
node_sql(const FanoutTask *task, const FanoutNode *node)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	if (task->with)
		appendStringInfoString(&sql, task->with);
	if (task->prefix)
		appendStringInfoString(&sql, task->prefix);
	foreach(lc, node->shards)
	{
		char	   *branch = dbscale_plan_shard_sql(&task->sql, task->relations, lfirst_int(lc));

		if (foreach_current_index(lc) > 0)
			appendStringInfoString(&sql, " UNION ALL ");
		appendStringInfo(&sql, "(%s)", branch);
		pfree(branch);
	}
	if (task->suffix)
		appendStringInfoString(&sql, task->suffix);
	return sql.data;
}

static void
send_to_node(FanoutScanState *state, const TableGroup *group, FanoutNode *node, const RemoteParams *params)
{
	EState	   *estate = state->css.ss.ps.state;
	int			flags = state->flags | (params != REMOTE_NO_PARAMS ? REMOTE_PREPARE : 0);
	RemoteConnection *conn;
	ListCell   *lc;

	foreach(lc, node->shards)
		dbscale_traffic_count(group->id, lfirst_int(lc), false);
	conn = dbscale_run_connection(estate, node->serverid, state->in_run.userid,
								  dbscale_run_use(state->run, node->serverid, state->in_run.userid));
	dbscale_result_sent(&node->result);
	node->statement = dbscale_run_send_read(state->run, conn, node_sql(state->task, node), params, flags,
											get_rel_name(state->task->key_table));
	dbscale_remote_belongs_to(node->statement, dbscale_run_nest_level(estate));
}

/* Called through dbscale_run_send_reader, which sends all that can go. */
static void
send_statements(void *arg)
{
	FanoutScanState *state = arg;
	const DistributedTable *table;
	ExprContext *econtext = state->css.ss.ps.ps_ExprContext;
	int			count = list_length(state->exprs);
	MemoryContext caller = MemoryContextSwitchTo(state->send_context);
	Datum	   *values = palloc(sizeof(Datum) * Max(count, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(count, 1));
	const RemoteParams *params = REMOTE_NO_PARAMS;
	ListCell   *lc;

	foreach(lc, state->exprs)
	{
		int			i = foreach_current_index(lc);

		values[i] = ExecEvalExpr((ExprState *) lfirst(lc), econtext, &nulls[i]);
	}
	dbscale_catalog_refresh();
	table = dbscale_catalog_require_distributed(state->task->key_table);
	group_shards(state, table, dbscale_fanout_choose_shards(state->task, state->types, table, values, nulls));
	if (state->params)
		params = dbscale_params_set(state->params, values, nulls);
	if (list_length(state->nodes) > 1)
	{
		foreach(lc, state->nodes)
			dbscale_remote_connect_ahead(((FanoutNode *) lfirst(lc))->serverid, state->in_run.userid);
	}
	foreach(lc, state->nodes)
		send_to_node(state, table->group, lfirst(lc), params);
	state->current = 0;
	state->turn = 0;
	state->at_start = true;
	MemoryContextSwitchTo(caller);
}

static void
keep_rows(void *arg)
{
	FanoutScanState *state = arg;
	ListCell   *lc;

	foreach(lc, state->nodes)
	{
		FanoutNode *node = lfirst(lc);

		if (node->statement != NULL)
			dbscale_remote_belongs_to(node->statement, 1);
	}
}

static void
close_statements(FanoutScanState *state)
{
	ListCell   *lc;

	foreach(lc, state->nodes)
	{
		FanoutNode *node = lfirst(lc);

		if (node->statement != NULL)
			dbscale_remote_close(node->statement);
		node->statement = NULL;
	}
}

/* ---- reading ---- */

static void
next_turn(FanoutScanState *state)
{
	state->current = (state->current + 1) % list_length(state->nodes);
	state->turn = 0;
}

/* The next row of any node, or false when all are at their end. */
static bool
fetch_row(FanoutScanState *state, RemoteRow *row)
{
	int			ended = 0;

	while (ended < list_length(state->nodes))
	{
		FanoutNode *node = list_nth(state->nodes, state->current);

		if (!node->result.at_end && dbscale_remote_next_row(node->statement, row))
		{
			dbscale_result_row(&node->result, row);
			if (++state->turn >= ROWS_IN_TURN)
				next_turn(state);
			return true;
		}
		if (!node->result.at_end)
			dbscale_result_end(&node->result);
		ended++;
		next_turn(state);
	}
	return false;
}

static TupleTableSlot *
next_row(ScanState *node)
{
	FanoutScanState *state = (FanoutScanState *) node;
	TupleTableSlot *slot = node->ss_ScanTupleSlot;
	RemoteRow	row;
	MemoryContext caller;

	if (!state->in_run.sent)
		dbscale_run_send_reader(state->run, &state->in_run);
	state->at_start = false;
	ExecClearTuple(slot);
	if (!fetch_row(state, &row))
		return slot;
	MemoryContextReset(state->row_context);
	caller = MemoryContextSwitchTo(state->row_context);
	ExecForceStoreHeapTuple(dbscale_row_reader_tuple(state->reader, &row), slot, false);
	MemoryContextSwitchTo(caller);
	return slot;
}

static bool
recheck_row(ScanState *node, TupleTableSlot *slot)
{
	return true;
}

static TupleTableSlot *
exec_fanout_scan(CustomScanState *node)
{
	return ExecScan(&node->ss, next_row, recheck_row);
}

/* Add what the nodes have done to what they had done before. */
static void
remember_results(FanoutScanState *state)
{
	MemoryContext caller = MemoryContextSwitchTo(state->css.ss.ps.state->es_query_cxt);
	ListCell   *lc;

	foreach(lc, state->nodes)
	{
		FanoutNode *node = lfirst(lc);
		FanoutNode *sum = find_node(&state->earlier, node->serverid, node->result.node);

		sum->shards = list_concat_unique_int(sum->shards, node->shards);
		sum->result.rows += node->result.rows;
		sum->result.bytes += node->result.bytes;
		sum->result.elapsed += node->result.elapsed;
		sum->result.at_end = node->result.at_end;
	}
	MemoryContextSwitchTo(caller);
}

static void
forget_statements(FanoutScanState *state)
{
	if (state->css.ss.ps.instrument != NULL)
		remember_results(state);
	close_statements(state);
	MemoryContextReset(state->send_context);
	state->nodes = NIL;
	state->in_run.sent = false;
}

static void
rewind_statements(FanoutScanState *state)
{
	ListCell   *lc;

	foreach(lc, state->nodes)
	{
		FanoutNode *node = lfirst(lc);

		dbscale_remote_rewind(node->statement);
		node->result.at_end = false;
		node->result.rows = node->result.bytes = 0;
	}
	state->current = 0;
	state->turn = 0;
	state->at_start = true;
}

/* Other parameters are other statements; else the rows, if they were kept, come again. */
static void
rescan_fanout_scan(CustomScanState *node)
{
	FanoutScanState *state = (FanoutScanState *) node;

	ExecScanReScan(&node->ss);
	if (!state->in_run.sent)
		return;
	if (state->in_run.depends && node->ss.ps.chgParam != NULL)
		forget_statements(state);
	else if (state->at_start)
		return;
	else if (state->flags & REMOTE_KEEP_ROWS)
		rewind_statements(state);
	else
	{
		forget_statements(state);
		if (!state->in_run.depends)
			state->flags |= REMOTE_KEEP_ROWS;	/* it will happen again */
	}
}

static void
end_fanout_scan(CustomScanState *node)
{
	FanoutScanState *state = (FanoutScanState *) node;

	close_statements(state);
	state->in_run.ended = true;
}

/* ---- EXPLAIN ---- */

/* The shards that the task's keys choose, if these are constants. */
bool
dbscale_fanout_constant_shards(const FanoutTask *task, List *exprs, List *types,
							   const DistributedTable *table, Bitmapset **shards)
{
	Datum	   *values = palloc0(sizeof(Datum) * Max(list_length(exprs), 1));
	bool	   *nulls = palloc0(sizeof(bool) * Max(list_length(exprs), 1));
	ListCell   *lc;

	foreach(lc, task->keys)
	{
		Const	   *key = list_nth(exprs, lfirst_int(lc));

		if (!IsA(key, Const))
			return false;
		values[lfirst_int(lc)] = key->constvalue;
		nulls[lfirst_int(lc)] = key->constisnull;
	}
	*shards = dbscale_fanout_choose_shards(task, types, table, values, nulls);
	return true;
}

/* Nothing is computed here and no node is asked. */
static void
explain_shards(FanoutScanState *state, const DistributedTable *table, ExplainState *es)
{
	List	   *exprs = ((CustomScan *) state->css.ss.ps.plan)->custom_exprs;
	Bitmapset  *shards;

	if (state->earlier != NIL)
	{
		int			shards_read = 0;
		ListCell   *lc;

		foreach(lc, state->earlier)
			shards_read += list_length(((FanoutNode *) lfirst(lc))->shards);
		dbscale_explain_shards(state->earlier, shards_read, table, es);
		return;
	}
	if (!state->in_run.sent && !dbscale_fanout_constant_shards(state->task, exprs, state->types, table, &shards))
	{
		ExplainPropertyText("Shards", psprintf("by the keys, at execution, of %d",
											   table->group->nshards), es);
		return;
	}
	if (!state->in_run.sent)
	{
		state->nodes = NIL;
		group_shards(state, table, shards);
	}
	dbscale_explain_shards(state->nodes, state->shards_read, table, es);
}

/* One node's statement with one of its branches. */
static char *
sample_sql(FanoutScanState *state, const DistributedTable *table)
{
	FanoutNode	node = {0};

	node.shards = list_make1_int(table->group->shards[0].number);
	if (state->nodes != NIL)
		node.shards = list_make1_int(linitial_int(((FanoutNode *) linitial(state->nodes))->shards));
	return node_sql(state->task, &node);
}

static void
explain_fanout_scan(CustomScanState *node, List *ancestors, ExplainState *es)
{
	FanoutScanState *state = (FanoutScanState *) node;
	const DistributedTable *table = dbscale_catalog_require_distributed(state->task->key_table);

	/* executed several times, with other parameters: all together */
	if (state->earlier != NIL)
		remember_results(state);
	ExplainPropertyText("Strategy", state->task->strategy, es);
	explain_shards(state, table, es);
	if (es->verbose)
	{
		ExplainPropertyText("Remote SQL", sample_sql(state, table), es);
		if (state->task->reason)
			ExplainPropertyText("Not Pushed Down", state->task->reason, es);
	}
	if (es->analyze && (state->in_run.sent || state->earlier != NIL))
		dbscale_result_explain(state->earlier != NIL ? state->earlier : state->nodes, es);
}

void
dbscale_fanout_scan_init(void)
{
	RegisterCustomScanMethods(&dbscale_fanout_scan_methods);
}
