/*
 * write_scan.c
 *		The custom scan of a statement that writes to several shards.
 *
 * When the scan is first asked for a row, its expressions are computed and the rows
 * that it takes, if any, are read to their end and put in arrays, a set for each shard
 * (planner/write.c says which row goes where).  Only then is anything written: the
 * shards' foreign tables are locked, in the order of their numbers, and each shard gets
 * its statement.  Those of one node follow each other on its connection; the nodes work
 * at the same time.  What a shard returns is given out shard by shard.
 *
 * All rows of a shard are in one statement, in memory: an array holds 1 GB.
 */
#include "executor/internal.h"
#include "executor/write_scan.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "nodes/nodeFuncs.h"
#include "plan/plan.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* One shard's statement. */
typedef struct ShardWrite
{
	int			number;
	ArrayBuildState **rows;		/* one for each column; NULL: no rows */
	RemoteStatement *statement;
	uint64		count;			/* rows sent with it */
	NodeResult *result;			/* of its node */
} ShardWrite;

typedef struct WriteScanState
{
	CustomScanState css;
	FanoutTask *task;
	List	   *exprs;			/* of ExprState */
	List	   *types;			/* their types */
	Oid		   *param_types;	/* of the parameters, then of the arrays */
	int			nparams;
	FmgrInfo   *outputs;		/* of columns that travel as text */
	RowReader  *reader;
	PlanRun    *run;			/* NULL under EXPLAIN */
	Oid			userid;
	ShardWrite *writes;			/* one for each shard of the group, as the catalog orders them */
	int			nwrites;
	int			current;		/* whose rows are given out */
	bool		sent;
	int			shards_written;
	List	   *results;		/* of NodeResult *, as nodes are first written to */
	MemoryContext row_context;
	MemoryContext context;		/* what is made for the statements */
} WriteScanState;

static Node *create_write_scan(CustomScan *scan);
static void begin_write_scan(CustomScanState *node, EState *estate, int eflags);
static TupleTableSlot *exec_write_scan(CustomScanState *node);
static void end_write_scan(CustomScanState *node);
static void rescan_write_scan(CustomScanState *node);
static void explain_write_scan(CustomScanState *node, List *ancestors, ExplainState *es);

CustomScanMethods dbscale_write_scan_methods = {
	.CustomName = "dbscale write",
	.CreateCustomScanState = create_write_scan
};

static const CustomExecMethods write_exec_methods = {
	.CustomName = "dbscale write",
	.BeginCustomScan = begin_write_scan,
	.ExecCustomScan = exec_write_scan,
	.EndCustomScan = end_write_scan,
	.ReScanCustomScan = rescan_write_scan,
	.ExplainCustomScan = explain_write_scan
};

static Node *
create_write_scan(CustomScan *scan)
{
	WriteScanState *state = (WriteScanState *) newNode(sizeof(WriteScanState), T_CustomScanState);

	state->css.methods = &write_exec_methods;
	return (Node *) state;
}

/* ---- beginning ---- */

static void
prepare_params(WriteScanState *state, List *exprs)
{
	FanoutTask *task = state->task;
	int			n = 0;
	ListCell   *lc;

	state->exprs = ExecInitExprList(exprs, (PlanState *) state);
	state->nparams = task->parameters + list_length(task->row_types);
	state->param_types = palloc(sizeof(Oid) * Max(state->nparams, 1));
	foreach(lc, exprs)
	{
		state->types = lappend_oid(state->types, exprType(lfirst(lc)));
		if (n < task->parameters)
			state->param_types[n++] = exprType(lfirst(lc));
	}
	foreach(lc, task->row_types)
		state->param_types[n++] = get_array_type(lfirst_oid(lc));
}

/* Columns whose array is not of their own type are sent as text. */
static void
prepare_rows(WriteScanState *state, CustomScan *scan, EState *estate, int eflags)
{
	PlanState  *child;
	TupleDesc	desc;

	if (scan->custom_plans == NIL)
		return;
	child = ExecInitNode(linitial(scan->custom_plans), estate, eflags);
	state->css.custom_ps = list_make1(child);
	desc = ExecGetResultType(child);
	state->outputs = palloc0(sizeof(FmgrInfo) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		Oid			output;
		bool		varlena;

		if (TupleDescAttr(desc, i)->atttypid == list_nth_oid(state->task->row_types, i))
			continue;
		getTypeOutputInfo(TupleDescAttr(desc, i)->atttypid, &output, &varlena);
		fmgr_info(output, &state->outputs[i]);
	}
}

static void
prepare_reader(WriteScanState *state)
{
	TupleDesc	desc = state->css.ss.ss_ScanTupleSlot->tts_tupleDescriptor;
	List	   *columns = NIL;

	for (int i = 1; i <= desc->natts; i++)
		columns = lappend_int(columns, i);
	state->reader = dbscale_row_reader_create(desc, columns, true, get_rel_name(state->task->target));
}

static void
begin_write_scan(CustomScanState *node, EState *estate, int eflags)
{
	WriteScanState *state = (WriteScanState *) node;
	CustomScan *scan = (CustomScan *) node->ss.ps.plan;

	state->task = dbscale_plan_unpack_fanout(scan->custom_private);
	prepare_params(state, scan->custom_exprs);
	prepare_rows(state, scan, estate, eflags);
	prepare_reader(state);
	state->row_context = AllocSetContextCreate(estate->es_query_cxt, "dbscale write row",
											   ALLOCSET_DEFAULT_SIZES);
	state->context = AllocSetContextCreate(estate->es_query_cxt, "dbscale writes",
										   ALLOCSET_DEFAULT_SIZES);
	state->userid = OidIsValid(state->task->check_as_user) ? state->task->check_as_user : GetUserId();
	if (!(eflags & EXEC_FLAG_EXPLAIN_ONLY))
		state->run = dbscale_run_get(estate);
}

/* ---- rows ---- */

static void
begin_rows(WriteScanState *state, ShardWrite *write)
{
	if (write->rows != NULL)
		return;
	write->rows = palloc(sizeof(ArrayBuildState *) * list_length(state->task->row_types));
	for (int i = 0; i < list_length(state->task->row_types); i++)
		write->rows[i] = initArrayResult(list_nth_oid(state->task->row_types, i), state->context, false);
}

static void
add_row(WriteScanState *state, ShardWrite *write, const Datum *values, const bool *nulls)
{
	int			natts = list_length(state->task->row_types);

	begin_rows(state, write);
	for (int i = 0; i < natts; i++)
		(void) accumArrayResult(write->rows[i], values[i], nulls[i],
								list_nth_oid(state->task->row_types, i), state->context);
	write->count++;
}

/* The shard of a row, or -1: one that no shard takes meets no row, and cannot be inserted. */
static int
shard_of_row(WriteScanState *state, const DistributedTable *table, TupleTableSlot *slot)
{
	int			column = state->task->route_column;
	Oid			type = TupleDescAttr(slot->tts_tupleDescriptor, column)->atttypid;
	Datum		key = slot->tts_values[column];
	bool		isnull = slot->tts_isnull[column];
	int			shard = dbscale_route_compared_key(table, key, type, isnull);

	if (shard < 0 && state->task->inserts)
		dbscale_refuse_key(table, key, type, isnull);
	return shard;
}

/* The columns as they travel, in the row's context. */
static void
convert_row(WriteScanState *state, TupleTableSlot *slot, Datum *values, bool *nulls)
{
	for (int i = 0; i < slot->tts_tupleDescriptor->natts; i++)
	{
		nulls[i] = slot->tts_isnull[i];
		values[i] = slot->tts_values[i];
		if (!nulls[i] && OidIsValid(state->outputs[i].fn_oid))
			values[i] = CStringGetTextDatum(OutputFunctionCall(&state->outputs[i], values[i]));
	}
}

static void
read_rows(WriteScanState *state, const DistributedTable *table)
{
	PlanState  *child = linitial(state->css.custom_ps);
	int			natts = list_length(state->task->row_types);
	Datum	   *values = palloc(sizeof(Datum) * natts);
	bool	   *nulls = palloc(sizeof(bool) * natts);

	for (;;)
	{
		TupleTableSlot *slot = ExecProcNode(child);
		MemoryContext caller;
		int			nest;

		if (TupIsNull(slot))
			break;
		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		MemoryContextReset(state->row_context);
		caller = MemoryContextSwitchTo(state->row_context);
		nest = dbscale_wire_enter();
		convert_row(state, slot, values, nulls);
		dbscale_wire_leave(nest);
		if (state->task->route_column >= 0)
		{
			int			shard = shard_of_row(state, table, slot);

			MemoryContextSwitchTo(state->context);
			if (shard >= 0)
				add_row(state, &state->writes[dbscale_catalog_shard(table->group, shard) - table->group->shards],
						values, nulls);
		}
		else
		{
			MemoryContextSwitchTo(state->context);
			for (int i = 0; i < state->nwrites; i++)
				add_row(state, &state->writes[i], values, nulls);
		}
		MemoryContextSwitchTo(caller);
	}
}

/* ---- sending ---- */

static NodeResult *
result_of_node(WriteScanState *state, const ShardNode *node)
{
	NodeResult *result;
	ListCell   *lc;

	foreach(lc, state->results)
	{
		result = lfirst(lc);
		if (strcmp(result->node, NameStr(node->name)) == 0)
			return result;
	}
	result = palloc0(sizeof(NodeResult));
	result->node = pstrdup(NameStr(node->name));
	state->results = lappend(state->results, result);
	return result;
}

static bool
is_written(WriteScanState *state, const ShardWrite *write, Bitmapset *shards)
{
	if (state->task->row_types == NIL || state->task->every_shard)
		return bms_is_member(write->number, shards);
	return write->count > 0;
}

static const RemoteParams *
shard_params(WriteScanState *state, ShardWrite *write, const Datum *values, const bool *nulls)
{
	Datum	   *all = palloc(sizeof(Datum) * Max(state->nparams, 1));
	bool	   *all_nulls = palloc0(sizeof(bool) * Max(state->nparams, 1));
	int			n = state->task->parameters;
	ParamSet   *set;

	if (state->nparams == 0)
		return REMOTE_NO_PARAMS;
	memcpy(all, values, sizeof(Datum) * n);
	memcpy(all_nulls, nulls, sizeof(bool) * n);
	if (state->task->row_types != NIL)
		begin_rows(state, write);
	for (; n < state->nparams; n++)
		all[n] = makeArrayResult(write->rows[n - state->task->parameters], CurrentMemoryContext);
	set = dbscale_params_create(state->nparams, state->param_types, true);
	set->params.types = state->param_types;
	return dbscale_params_set(set, all, all_nulls);
}

static void
send_to_shard(WriteScanState *state, const DistributedTable *table, int position,
			  const Datum *values, const bool *nulls)
{
	ShardWrite *write = &state->writes[position];
	Oid			foreign_table = table->foreign_tables[position];
	char	   *sql = dbscale_plan_shard_sql(&state->task->sql, state->task->relations, write->number);
	int			flags = state->reader->binary && state->task->has_result ? REMOTE_BINARY : 0;
	MemoryContext params_context = AllocSetContextCreate(state->context, "dbscale write parameters",
														 ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(params_context);
	const RemoteParams *params = shard_params(state, write, values, nulls);
	RemoteConnection *conn;

	MemoryContextSwitchTo(caller);
	write->result = result_of_node(state, table->group->shards[position].node);
	dbscale_result_sent(write->result);
	conn = dbscale_transaction_connection(table->group->shards[position].node->serverid, state->userid,
										  REMOTE_WRITE);
	write->statement = dbscale_remote_send(conn, sql, params, flags, get_rel_name(foreign_table));
	dbscale_remote_belongs_to(write->statement, dbscale_run_nest_level(state->css.ss.ps.state));
	dbscale_run_note_write(state->run, foreign_table);
	MemoryContextDelete(params_context);
}

/* The positions of the shards to write, whose nodes are then known for the transaction. */
static List *
lock_shards(WriteScanState *state, const DistributedTable *table, Bitmapset *shards)
{
	List	   *positions = NIL;

	for (int i = 0; i < state->nwrites; i++)
	{
		if (!is_written(state, &state->writes[i], shards))
			continue;
		LockRelationOid(table->foreign_tables[i], RowExclusiveLock);
		positions = lappend_int(positions, i);
	}
	return positions;
}

static void
send_to_shards(WriteScanState *state, const DistributedTable *table, Bitmapset *shards,
			   const Datum *values, const bool *nulls)
{
	List	   *positions = lock_shards(state, table, shards);
	List	   *nodes = NIL;
	ListCell   *lc;

	/* a move that we waited for has changed the catalog */
	table = dbscale_catalog_require_distributed(state->task->target);
	foreach(lc, positions)
	{
		const Shard *shard = &table->group->shards[lfirst_int(lc)];

		dbscale_catalog_check_snapshot(table, shard);
		nodes = list_append_unique_oid(nodes, shard->node->serverid);
	}
	state->shards_written = list_length(positions);
	dbscale_run_before_write(state->run);
	if (list_length(nodes) > 1)
	{
		foreach(lc, nodes)
			dbscale_remote_connect_ahead(lfirst_oid(lc), state->userid);
	}
	foreach(lc, positions)
		send_to_shard(state, table, lfirst_int(lc), values, nulls);
}

static void
send_statements(WriteScanState *state)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(state->task->target);
	ExprContext *econtext = state->css.ss.ps.ps_ExprContext;
	int			count = list_length(state->exprs);
	MemoryContext caller = MemoryContextSwitchTo(state->context);
	Datum	   *values = palloc(sizeof(Datum) * Max(count, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(count, 1));
	ListCell   *lc;

	state->sent = true;
	foreach(lc, state->exprs)
	{
		int			i = foreach_current_index(lc);

		values[i] = ExecEvalExpr((ExprState *) lfirst(lc), econtext, &nulls[i]);
	}
	state->nwrites = table->group->nshards;
	state->writes = palloc0(sizeof(ShardWrite) * state->nwrites);
	for (int i = 0; i < state->nwrites; i++)
		state->writes[i].number = table->group->shards[i].number;
	if (state->task->row_types != NIL)
	{
		read_rows(state, table);
		/* running the rows' query may have read the catalog anew */
		table = dbscale_catalog_require_distributed(state->task->target);
	}
	send_to_shards(state, table, dbscale_fanout_choose_shards(state->task, state->types, table, values, nulls),
				   values, nulls);
	MemoryContextSwitchTo(caller);
}

/* ---- results ---- */

static TupleTableSlot *
store_row(WriteScanState *state, RemoteRow *row)
{
	TupleTableSlot *slot = state->css.ss.ss_ScanTupleSlot;
	MemoryContext caller;

	MemoryContextReset(state->row_context);
	caller = MemoryContextSwitchTo(state->row_context);
	ExecForceStoreHeapTuple(dbscale_row_reader_tuple(state->reader, row), slot, false);
	MemoryContextSwitchTo(caller);
	return slot;
}

static TupleTableSlot *
next_row(ScanState *node)
{
	WriteScanState *state = (WriteScanState *) node;
	EState	   *estate = node->ps.state;
	RemoteRow	row;

	ExecClearTuple(node->ss_ScanTupleSlot);
	if (!state->sent)
		send_statements(state);
	for (; state->current < state->nwrites; state->current++)
	{
		ShardWrite *write = &state->writes[state->current];

		if (write->statement == NULL)
			continue;
		if (!state->task->has_result)
		{
			uint64		rows = dbscale_remote_finish(write->statement);

			write->result->rows += rows;
			estate->es_processed += rows;
		}
		else if (dbscale_remote_next_row(write->statement, &row))
		{
			estate->es_processed++;
			dbscale_result_row(write->result, &row);
			return store_row(state, &row);
		}
		dbscale_remote_close(write->statement);
		write->statement = NULL;
		dbscale_result_end(write->result);
	}
	return node->ss_ScanTupleSlot;
}

static bool
recheck_row(ScanState *node, TupleTableSlot *slot)
{
	return true;
}

static TupleTableSlot *
exec_write_scan(CustomScanState *node)
{
	return ExecScan(&node->ss, next_row, recheck_row);
}

static void
end_write_scan(CustomScanState *node)
{
	WriteScanState *state = (WriteScanState *) node;

	for (int i = 0; i < state->nwrites; i++)
		if (state->writes[i].statement != NULL)
			dbscale_remote_close(state->writes[i].statement);
	state->nwrites = 0;
	if (node->custom_ps != NIL)
		ExecEndNode(linitial(node->custom_ps));
}

/* It is a whole statement, and is run once. */
static void
rescan_write_scan(CustomScanState *node)
{
	elog(ERROR, "a write to shards cannot be repeated");
}

/* ---- EXPLAIN ---- */

static void
explain_shards(WriteScanState *state, const DistributedTable *table, ExplainState *es)
{
	List	   *exprs = ((CustomScan *) state->css.ss.ps.plan)->custom_exprs;
	Bitmapset  *shards;
	int			shard = -1;

	if (!state->sent)
	{
		const char *by = NULL;

		if (state->task->row_types != NIL && !state->task->every_shard && state->task->route_column >= 0)
			by = "rows";
		else if (!dbscale_fanout_constant_shards(state->task, exprs, state->types, table, &shards))
			by = "keys";
		if (by != NULL)
		{
			ExplainPropertyText("Shards", psprintf("by the %s, at execution, of %d", by, table->group->nshards), es);
			return;
		}
		state->results = NIL;
		state->shards_written = bms_num_members(shards);
		while ((shard = bms_next_member(shards, shard)) >= 0)
			(void) result_of_node(state, dbscale_catalog_shard(table->group, shard)->node);
	}
	dbscale_explain_shards(state->results, state->shards_written, table, es);
}

static void
explain_write_scan(CustomScanState *node, List *ancestors, ExplainState *es)
{
	WriteScanState *state = (WriteScanState *) node;
	FanoutTask *task = state->task;
	const DistributedTable *table = dbscale_catalog_require_distributed(task->target);

	ExplainPropertyText("Strategy", task->strategy, es);
	explain_shards(state, table, es);
	if (es->verbose)
		ExplainPropertyText("Remote SQL",
							dbscale_plan_shard_sql(&task->sql, task->relations, table->group->shards[0].number), es);
	if (es->analyze && state->sent)
		dbscale_result_explain(state->results, es);
}

void
dbscale_write_scan_init(void)
{
	RegisterCustomScanMethods(&dbscale_write_scan_methods);
}
