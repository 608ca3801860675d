/*
 * run.c
 *		What the foreign scans and modifications of one executor run share.
 *
 * Nouns: a *run* is one execution of one plan, found by its EState.  A *scan* is
 * one ForeignScan node of it; a *reader* is a custom scan that reads shards; a *direct
 * modification* is one that updates or
 * deletes on the node by itself.
 *
 * Nodes work at the same time because statements go out before they are needed.
 * ExecutorStart lets every ForeignScan register here.  The first row that any of
 * them is asked for sends the statements of all: an Append over 32 shards on two
 * nodes costs one round trip, and while the rows of the first shard are read, the
 * others are being computed.  Two kinds wait for their own turn: a statement with
 * parameters that the executor computes on the way (PARAM_EXEC), and a scan below
 * a LIMIT, of which only a few may be wanted.
 *
 * A statement sees the data as they were when it began.  Therefore
 *	(1) before the first write of a run every scan that can be sent is sent, and the
 *		nodes, which execute in order, read before they write;
 *	(2) writes are put off (loader.c, writes.c), and a scan that is sent while they
 *		wait leaves them waiting;
 *	(3) a scan that must be sent after the run has written a table that it reads is
 *		refused: no snapshot that could answer it is left.
 *
 * Which transaction a read takes: in a transaction block, in a function or beside
 * writes it opens the remote transaction as any statement does.  A SELECT of its own,
 * outside a block, that touches a node once goes without BEGIN; one that touches it
 * several times opens a REPEATABLE READ transaction there, so that its scans agree.
 *
 * With dbscale.consistent_reads a run that reads several nodes begins with snapshots of
 * one moment on all (transaction/snapshots.c): a SELECT of its own opens REPEATABLE READ
 * transactions *together*; a transaction that keeps one snapshot has done so before; and
 * in a READ COMMITTED transaction the run *declares*: its scans are sent as cursors, all
 * at one time, whether a LIMIT wants them or not, and those which would be sent later
 * are refused.  Statements that lock or change rows are about the rows as they are now,
 * node by node, and go as ever.
 */
#include "executor/internal.h"

#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "catalog/traffic.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "tcop/pquery.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* postgres_fdw's private list of a ForeignScan */
enum ScanPrivate
{
	SCAN_SQL,
	SCAN_RETRIEVED_ATTRS
};

/* and of a direct modification */
enum DirectPrivate
{
	DIRECT_SQL,
	DIRECT_HAS_RETURNING,
	DIRECT_RETRIEVED_ATTRS,
	DIRECT_SET_PROCESSED
};

/* The runs of this backend, innermost first; each lives in its EState's own context. */
static dlist_head runs = DLIST_STATIC_INIT(runs);

static void
forget_run(void *arg)
{
	dlist_delete(&((PlanRun *) arg)->node);
}

PlanRun *
dbscale_run_get(EState *estate)
{
	dlist_iter	iter;
	PlanRun *run;
	MemoryContextCallback *callback;

	dlist_foreach(iter, &runs)
	{
		run = dlist_container(PlanRun, node, iter.cur);
		if (run->estate == estate)
			return run;
	}

	run = MemoryContextAllocZero(estate->es_query_cxt, sizeof(PlanRun));
	callback = MemoryContextAlloc(estate->es_query_cxt, sizeof(MemoryContextCallback));
	run->estate = estate;
	run->owner = CurrentResourceOwner;
	callback->func = forget_run;
	callback->arg = run;
	dlist_push_head(&runs, &run->node);
	MemoryContextRegisterResetCallback(estate->es_query_cxt, callback);
	return run;
}

/*
 * A cursor that was declared before a savepoint outlives its rollback, and keeps the
 * rows that are fetched meanwhile.  Which level it is of is not known, so all levels
 * keep them.
 */
int
dbscale_run_nest_level(EState *estate)
{
	if (ActivePortal != NULL && ActivePortal->queryDesc != NULL &&
		ActivePortal->queryDesc->estate == estate &&
		ActivePortal->createSubid != GetCurrentSubTransactionId())
		return 1;
	return GetCurrentTransactionNestLevel();
}

/* ---- registration ---- */

static bool
collect_exec_params(Node *node, Bitmapset **params)
{
	if (node == NULL)
		return false;
	if (IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXEC)
		*params = bms_add_member(*params, ((Param *) node)->paramid);
	return expression_tree_walker(node, collect_exec_params, params);
}

/* Parameters come from fdw_exprs, in the order of their numbers. */
static void
prepare_params(ForeignScanRun *scan, bool binary)
{
	ForeignScan *plan = (ForeignScan *) scan->node->ss.ps.plan;
	int			count = list_length(plan->fdw_exprs);
	Oid		   *types = palloc(sizeof(Oid) * Max(count, 1));
	ListCell   *lc;

	if (count == 0)
		return;
	foreach(lc, plan->fdw_exprs)
		types[foreach_current_index(lc)] = exprType(lfirst(lc));
	collect_exec_params((Node *) plan->fdw_exprs, &scan->exec_params);
	scan->param_states = ExecInitExprList(plan->fdw_exprs, &scan->node->ss.ps);
	scan->params = dbscale_params_create(count, types, binary);
}

/* The tables the node names, from its range table entries. */
static void
find_relations(ForeignScanRun *scan)
{
	ForeignScan *plan = (ForeignScan *) scan->node->ss.ps.plan;
	EState	   *estate = scan->run->estate;
	StringInfoData label;
	int			rti = -1;

	initStringInfo(&label);
	while ((rti = bms_next_member(DBSCALE_SCAN_RELIDS(plan), rti)) > 0)
	{
		RangeTblEntry *rte = exec_rt_fetch(rti, estate);

		if (rte->rtekind != RTE_RELATION)
			continue;
		scan->relations = lappend_oid(scan->relations, rte->relid);
		appendStringInfo(&label, "%s%s", label.len > 0 ? ", " : "",
						 dbscale_remote_label(rte->relid));
	}
	scan->label = label.data;
}

/* Where a foreign table is now; for a shard, as the transaction's snapshot allows. */
static Oid
server_of(Oid relid)
{
	int			number;
	const DistributedTable *table = dbscale_catalog_owner_of(relid, &number);
	const Shard *shard = table ? dbscale_catalog_shard(table->group, number) : NULL;

	if (shard == NULL)
		return GetForeignTable(relid)->serverid;
	dbscale_catalog_check_snapshot(table, shard);
	return shard->node->serverid;
}

/*
 * The plan's server is where the tables were when it was made.  Tables of two groups,
 * which happened to be on one node and are joined there, may have parted.
 */
static Oid
find_server(ForeignScanRun *scan)
{
	Oid			serverid = InvalidOid;
	ListCell   *lc;

	dbscale_catalog_refresh();
	foreach(lc, scan->relations)
	{
		Oid			server = get_rel_relkind(lfirst_oid(lc)) == RELKIND_FOREIGN_TABLE ?
			server_of(lfirst_oid(lc)) : serverid;

		if (OidIsValid(serverid) && server != serverid)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("the shards \"%s\" are on one node no longer", scan->label),
					 errdetail("One of them has moved since the statement was planned."),
					 errhint("Retry the statement.")));
		serverid = server;
	}
	return OidIsValid(serverid) ? serverid : ((ForeignScan *) scan->node->ss.ps.plan)->fs_server;
}

/* Binary results are for shards only: a table made by hand may differ in its types. */
static bool
all_are_shards(List *relations)
{
	ListCell   *lc;
	int			shard;

	foreach(lc, relations)
	{
		if (dbscale_catalog_owner_of(lfirst_oid(lc), &shard) == NULL &&
			dbscale_catalog_table(lfirst_oid(lc)) == NULL)
			return false;
	}
	return true;
}

/*
 * What the result's fields are: the table's row type, or for a join or aggregate the
 * scan tuple, in which a whole row may still be called a record.
 */
static TupleDesc
result_descriptor(ForeignScanRun *scan)
{
	ForeignScan *plan = (ForeignScan *) scan->node->ss.ps.plan;
	TupleDesc	desc;

	if (plan->scan.scanrelid > 0)
		return RelationGetDescr(scan->node->ss.ss_currentRelation);
	desc = CreateTupleDescCopy(scan->node->ss.ss_ScanTupleSlot->tts_tupleDescriptor);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Var		   *var;
		RangeTblEntry *rte;

		if (att->atttypid != RECORDOID || att->atttypmod >= 0)
			continue;
		var = (Var *) list_nth_node(TargetEntry, plan->fdw_scan_tlist, i)->expr;
		if (!IsA(var, Var) || var->varattno != 0)
			continue;
		rte = exec_rt_fetch(var->varno, scan->run->estate);
		if (rte->rtekind != RTE_RELATION || !OidIsValid(get_rel_type_id(rte->relid)))
			continue;
		att->atttypid = get_rel_type_id(rte->relid);
		att->atttypmod = -1;
	}
	return desc;
}

ForeignScanRun *
dbscale_run_add_scan(ForeignScanState *node, List *fdw_private, bool direct)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	EState	   *estate = node->ss.ps.state;
	ForeignScanRun *scan = palloc0(sizeof(ForeignScanRun));
	List	   *retrieved;
	Oid			check_as = DBSCALE_SCAN_CHECK_AS_USER(plan, estate);
	bool		binary;

	scan->node = node;
	scan->run = dbscale_run_get(estate);
	scan->userid = OidIsValid(check_as) ? check_as : GetUserId();
	scan->sql = strVal(list_nth(fdw_private, direct ? (int) DIRECT_SQL : (int) SCAN_SQL));
	retrieved = list_nth(fdw_private, direct ? (int) DIRECT_RETRIEVED_ATTRS : (int) SCAN_RETRIEVED_ATTRS);
	find_relations(scan);
	scan->serverid = find_server(scan);
	binary = all_are_shards(scan->relations);
	prepare_params(scan, binary);
	if (direct)
	{
		scan->has_returning = boolVal(list_nth(fdw_private, DIRECT_HAS_RETURNING));
		scan->set_processed = boolVal(list_nth(fdw_private, DIRECT_SET_PROCESSED));
		scan->result_rel = node->resultRelInfo;
	}
	else
		scan->locks_rows = dbscale_locking_is_in(scan->sql);
	if (!direct || scan->has_returning)
		scan->reader = dbscale_row_reader_create(result_descriptor(scan), retrieved,
												 binary, scan->label);
	if (scan->reader && scan->reader->binary)
		scan->flags |= REMOTE_BINARY;
	scan->row_context = AllocSetContextCreate(estate->es_query_cxt, "dbscale row",
											  ALLOCSET_DEFAULT_SIZES);
	if (direct)
		scan->run->directs = lappend(scan->run->directs, scan);
	else
		scan->run->scans = lappend(scan->run->scans, scan);
	return scan;
}

/* ---- how a run reads ---- */

/* Plan nodes that may run what is below them again, with no rewind promised. */
static bool
repeats_walker(PlanState *state, void *context)
{
	if (state == NULL)
		return false;
	if (IsA(state, NestLoopState) && ((NestLoop *) state->plan)->nestParams != NIL)
		return true;
	if (IsA(state, RecursiveUnionState))
		return true;
	return planstate_tree_walker(state, repeats_walker, context);
}

/* A plain SELECT from a client, outside a transaction block, is on its own. */
static bool
is_alone(PlanRun *run)
{
	PlannedStmt *plan = run->estate->es_plannedstmt;
	QueryDesc  *desc = ActivePortal != NULL ? ActivePortal->queryDesc : NULL;

	return desc != NULL && desc->estate == run->estate &&
		!IsTransactionBlock() && !IsSubTransaction() && !IsolationIsSerializable() &&
		plan->commandType == CMD_SELECT && plan->rowMarks == NIL && !plan->hasModifyingCTE;
}

/* How many statements of this run read on the node? */
static int
count_statements(PlanRun *run, Oid serverid, Oid userid)
{
	int			statements = 0;
	ListCell   *lc;

	foreach(lc, run->scans)
	{
		ForeignScanRun *scan = lfirst(lc);

		if (scan->serverid == serverid && scan->userid == userid)
			statements += scan->exec_params == NULL ? 1 : 2;
	}
	/* which nodes these touch is known when they are sent: assume all */
	foreach(lc, run->readers)
		statements += ((RunReader *) lfirst(lc))->depends ? 2 : 1;
	return statements;
}

/* The connections that the run may read through; of RemoteTarget *. */
static List *
targets_of(PlanRun *run)
{
	List	   *targets = NIL;
	ListCell   *lc,
			   *lc2;

	foreach(lc, run->scans)
	{
		ForeignScanRun *scan = lfirst(lc);

		targets = dbscale_transaction_add_target(targets, scan->serverid, scan->userid);
	}
	foreach(lc, run->readers)
	{
		RunReader  *custom = lfirst(lc);

		foreach(lc2, custom->relations)
		{
			const DistributedTable *table = dbscale_catalog_table(lfirst_oid(lc2));

			if (table != NULL && table->group != NULL)
				targets = dbscale_transaction_add_group(targets, table->group, custom->userid);
		}
	}
	return targets;
}

static bool
only_reads(PlanRun *run)
{
	PlannedStmt *plan = run->estate->es_plannedstmt;
	ListCell   *lc;

	if (run->estate->es_epq_active != NULL || run->directs != NIL || plan->rowMarks != NIL ||
		(plan->commandType != CMD_SELECT && plan->commandType != CMD_INSERT))
		return false;
	foreach(lc, run->scans)
	{
		if (((ForeignScanRun *) lfirst(lc))->locks_rows)
			return false;
	}
	return true;
}

/* What the head of this file says of dbscale.consistent_reads. */
static void
choose_snapshots(PlanRun *run)
{
	if (!dbscale_consistent_reads || list_length(targets_of(run)) < 2)
		return;
	run->together = run->alone && dbscale_transaction_open_together(targets_of(run));
	if (run->together)
		return;
	run->alone = false;
	run->declares = !IsolationUsesXactSnapshot() && only_reads(run);
}

static void
decide_use(PlanRun *run)
{
	if (run->use_known)
		return;
	run->use_known = true;
	run->alone = is_alone(run);
	choose_snapshots(run);
}

RemoteUse
dbscale_run_use(PlanRun *run, Oid serverid, Oid userid)
{
	decide_use(run);
	if (!run->alone)
		return REMOTE_READ;
	if (run->estate->es_plannedstmt->subplans != NIL ||
		repeats_walker(ActivePortal->queryDesc->planstate, NULL) ||
		run->together || count_statements(run, serverid, userid) > 1)
		return REMOTE_READ_STABLE;
	return REMOTE_READ_ALONE;
}

/*
 * FOR UPDATE and FOR SHARE need the transaction, which keeps their locks, but
 * change nothing that a second phase of commit would have to protect.
 */
static RemoteUse
use_for_scan(ForeignScanRun *scan)
{
	if (scan->locks_rows)
		return REMOTE_READ;
	return dbscale_run_use(scan->run, scan->serverid, scan->userid);
}

/* ---- what a reader sees ---- */

/* The command from which on the one who is reading now sees nothing; else invalid. */
static CommandId reader = InvalidCommandId;

bool
dbscale_run_is_visible(PlanRun *writer)
{
	return reader == InvalidCommandId || writer->estate->es_output_cid < reader;
}

RemoteConnection *
dbscale_run_connection(EState *estate, Oid serverid, Oid userid, RemoteUse use)
{
	CommandId	outer = reader;
	RemoteConnection *conn;

	PG_TRY();
	{
		reader = estate->es_snapshot ? estate->es_snapshot->curcid : InvalidCommandId;
		conn = dbscale_transaction_connection(serverid, userid, use);
		dbscale_transaction_require_snapshot(conn, use);
	}
	PG_FINALLY();
	{
		reader = outer;
	}
	PG_END_TRY();
	return conn;
}

/* ---- sending ---- */

static const RemoteParams *
evaluate_params(ForeignScanRun *scan)
{
	ExprContext *econtext = scan->node->ss.ps.ps_ExprContext;
	int			count = list_length(scan->param_states);
	Datum	   *values = palloc(sizeof(Datum) * Max(count, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(count, 1));
	ListCell   *lc;
	MemoryContext caller = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	const RemoteParams *params;

	foreach(lc, scan->param_states)
	{
		int			i = foreach_current_index(lc);

		values[i] = ExecEvalExpr((ExprState *) lfirst(lc), econtext, &nulls[i]);
	}
	params = dbscale_params_set(scan->params, values, nulls);
	MemoryContextSwitchTo(caller);
	pfree(values);
	pfree(nulls);
	return params;
}

static void
refuse_read_after_write(PlanRun *run, List *relations)
{
	ListCell   *lc;

	foreach(lc, relations)
	{
		if (list_member_oid(run->modified, lfirst_oid(lc)))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("the statement reads shard \"%s\" again after writing to it",
							get_rel_name(lfirst_oid(lc))),
					 errdetail("The rows as they were before the statement are no longer to be had from the node."),
					 errhint("Split the statement: first select into a temporary table, then write from it.")));
	}
}

pg_noreturn static void
refuse_later_read(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("the statement cannot read several nodes at one moment in a READ COMMITTED transaction"),
			 errdetail("dbscale.consistent_reads is on, and the plan reads the nodes in several steps."),
			 errhint("Use BEGIN ISOLATION LEVEL REPEATABLE READ, or turn dbscale.consistent_reads off for the statement.")));
}

RemoteStatement *
dbscale_run_send_read(PlanRun *run, RemoteConnection *conn, const char *sql,
					  const RemoteParams *params, int flags, const char *label)
{
	if (!run->declares)
		return dbscale_remote_send(conn, sql, params, flags, label);
	if (run->declaring == NULL)
		refuse_later_read();
	return dbscale_transaction_declare(run->declaring, conn, sql, params, flags, label);
}

/* A join of colocated tables reads their shard once. */
static void
count_reads(const ForeignScanRun *scan)
{
	const TableGroup *last_group = NULL;
	int			last_shard = -1;
	ListCell   *lc;

	foreach(lc, scan->relations)
	{
		int			shard;
		const DistributedTable *table = dbscale_catalog_owner_of(lfirst_oid(lc), &shard);

		if (table == NULL || table->group == NULL || (table->group == last_group && shard == last_shard))
			continue;
		dbscale_traffic_count(table->group->id, shard, false);
		last_group = table->group;
		last_shard = shard;
	}
}

static void
send_statement(ForeignScanRun *scan, RemoteUse use)
{
	RemoteConnection *conn;
	const RemoteParams *params = REMOTE_NO_PARAMS;
	EState	   *estate = scan->run->estate;
	MemoryContext caller;

	if (scan->params != NULL)
		params = evaluate_params(scan);
	if (scan->result_rel == NULL)
		conn = dbscale_run_connection(estate, scan->serverid, scan->userid, use);
	else
		conn = dbscale_transaction_connection(scan->serverid, scan->userid, use);
	caller = MemoryContextSwitchTo(estate->es_query_cxt);
	if (scan->result_rel == NULL)
		scan->statement = dbscale_run_send_read(scan->run, conn, scan->sql, params, scan->flags,
												scan->label);
	else
		scan->statement = dbscale_remote_send(conn, scan->sql, params, scan->flags, scan->label);
	dbscale_remote_belongs_to(scan->statement, dbscale_run_nest_level(estate));
	MemoryContextSwitchTo(caller);
	scan->at_start = true;
	scan->at_end = false;
}

static void
send_scan(ForeignScanRun *scan)
{
	refuse_read_after_write(scan->run, scan->relations);
	count_reads(scan);
	send_statement(scan, use_for_scan(scan));
}

/* True when a LIMIT may stop the run before it has read every scan. */
static bool
may_stop_early(PlanRun *run)
{
	QueryDesc  *desc = ActivePortal != NULL ? ActivePortal->queryDesc : NULL;
	PlanState  *state;

	if (desc == NULL || desc->estate != run->estate)
		return false;
	for (state = desc->planstate; state != NULL; state = outerPlanState(state))
	{
		if (IsA(state, LimitState))
		{
			PlanState  *below = outerPlanState(state);

			while (below != NULL && (IsA(below, ResultState) || IsA(below, LockRowsState) ||
									 IsA(below, SubqueryScanState)))
				below = IsA(below, SubqueryScanState) ?
					((SubqueryScanState *) below)->subplan : outerPlanState(below);
			return below != NULL && IsA(below, AppendState);
		}
		if (!IsA(state, ResultState) && !IsA(state, ProjectSetState) && !IsA(state, LockRowsState))
			return false;
	}
	return false;
}

static void
send_reader(PlanRun *run, RunReader *custom)
{
	refuse_read_after_write(run, custom->relations);
	custom->sent = true;
	custom->send(custom->scan);
}

/* Connections for all, which may take long, come first. */
static void
begin_declaring(PlanRun *run)
{
	MemoryContext caller = MemoryContextSwitchTo(run->estate->es_query_cxt);
	List	   *conns = NIL;
	ListCell   *lc;

	foreach(lc, targets_of(run))
	{
		RemoteTarget *target = lfirst(lc);

		conns = lappend(conns, dbscale_run_connection(run->estate, target->serverid, target->userid,
													  REMOTE_READ));
	}
	run->declaring = dbscale_transaction_begin_together(conns);
	MemoryContextSwitchTo(caller);
}

static void
end_declaring(PlanRun *run)
{
	TogetherReads *reads = run->declaring;

	run->declaring = NULL;
	dbscale_transaction_end_together(reads);
}

static void
send_all_scans(PlanRun *run)
{
	ListCell   *lc;

	/* set first: evaluating parameters may come back here */
	if (run->sent)
		return;
	run->sent = true;
	decide_use(run);
	if (run->declares)
		begin_declaring(run);
	foreach(lc, run->scans)
	{
		ForeignScanRun *scan = lfirst(lc);

		if (run->declares && run->estate->es_plannedstmt->subplans != NIL)
			scan->flags |= REMOTE_KEEP_ROWS;	/* it can't be sent again */
		if (scan->statement == NULL && !scan->ended && scan->exec_params == NULL)
			send_scan(scan);
	}
	foreach(lc, run->readers)
	{
		RunReader  *custom = lfirst(lc);

		if (!custom->sent && !custom->ended && !custom->depends)
			send_reader(run, custom);
	}
	if (run->declares)
		end_declaring(run);
}

/* May this one go alone, for perhaps the others are not wanted? */
static bool
goes_alone(PlanRun *run)
{
	decide_use(run);
	return !run->declares && may_stop_early(run);
}

void
dbscale_run_add_reader(PlanRun *run, RunReader *reader)
{
	MemoryContext caller = MemoryContextSwitchTo(run->estate->es_query_cxt);

	run->readers = lappend(run->readers, reader);
	MemoryContextSwitchTo(caller);
}

void
dbscale_run_send_reader(PlanRun *run, RunReader *reader)
{
	if (run->estate->es_epq_active == NULL && !reader->depends && !goes_alone(run))
		send_all_scans(run);
	if (!reader->sent)
		send_reader(run, reader);
}

/*
 * Direct modifications of one ModifyTable go out together.  Those of another may
 * stand below a condition that keeps them from running at all.
 */
static void
send_directs(ForeignScanRun *first)
{
	ResultRelInfo *root = first->result_rel->ri_RootResultRelInfo;
	ListCell   *lc;

	foreach(lc, first->run->directs)
	{
		ForeignScanRun *direct = lfirst(lc);

		if (direct->statement != NULL || direct->ended)
			continue;
		if (direct == first ||
			(root != NULL && direct->result_rel->ri_RootResultRelInfo == root &&
			 direct->exec_params == NULL))
			send_statement(direct, REMOTE_WRITE);
	}
	/* only now: they are parts of one statement and no two touch one table */
	foreach(lc, first->run->directs)
	{
		ForeignScanRun *direct = lfirst(lc);

		if (direct->statement != NULL)
			dbscale_run_note_write(first->run, RelationGetRelid(direct->result_rel->ri_RelationDesc));
	}
}

void
dbscale_run_send(ForeignScanRun *scan)
{
	PlanRun *run = scan->run;

	if (scan->result_rel != NULL)
	{
		dbscale_run_before_write(run);
		send_directs(scan);
		return;
	}
	/* a recheck of one row reads next to nothing; and see the head of this file */
	if (run->estate->es_epq_active == NULL && scan->exec_params == NULL && !goes_alone(run))
		send_all_scans(run);
	if (scan->statement == NULL)
		send_scan(scan);
}

/* What another run has not read yet it is to read as it is before this write. */
static void
send_for_other_run(PlanRun *run)
{
	ResourceOwner owner = CurrentResourceOwner;
	ListCell   *lc;

	CurrentResourceOwner = run->owner;
	if (run->send_router)
		run->send_router(run->router);
	send_all_scans(run);
	/* the other one is further out, perhaps a cursor from before a savepoint */
	foreach(lc, run->scans)
	{
		ForeignScanRun *scan = lfirst(lc);

		if (scan->statement != NULL)
			dbscale_remote_belongs_to(scan->statement, 1);
	}
	foreach(lc, run->readers)
	{
		RunReader  *custom = lfirst(lc);

		if (custom->sent && !custom->ended)
			custom->keep(custom->scan);
	}
	CurrentResourceOwner = owner;
}

void
dbscale_run_before_write(PlanRun *run)
{
	dlist_iter	iter;

	send_all_scans(run);
	dlist_foreach(iter, &runs)
	{
		PlanRun    *other = dlist_container(PlanRun, node, iter.cur);

		if (other != run && (!other->sent || other->send_router))
			send_for_other_run(other);
	}
}

void
dbscale_run_note_write(PlanRun *run, Oid foreign_table)
{
	MemoryContext caller;
	int			shard;
	const DistributedTable *table;

	if (list_member_oid(run->modified, foreign_table))
		return;
	table = dbscale_catalog_owner_of(foreign_table, &shard);
	if (table != NULL && table->group != NULL)
		dbscale_traffic_count(table->group->id, shard, true);
	caller = MemoryContextSwitchTo(run->estate->es_query_cxt);
	run->modified = lappend_oid(run->modified, foreign_table);
	if (get_rel_relispartition(foreign_table))
		run->modified = list_concat_unique_oid(run->modified, get_partition_ancestors(foreign_table));
	MemoryContextSwitchTo(caller);
}

void
dbscale_run_close(ForeignScanRun *scan)
{
	if (scan->statement != NULL)
		dbscale_remote_close(scan->statement);
	scan->statement = NULL;
	scan->at_start = scan->at_end = false;
}
