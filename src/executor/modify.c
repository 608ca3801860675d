/*
 * modify.c
 *		INSERT, and UPDATE and DELETE row by row.
 *
 * Inserted rows go through the loader of their run (loader.c), unless the node's
 * answer is needed: ON CONFLICT DO NOTHING, or a RETURNING that names a system column.
 * For a shard the other columns of RETURNING, of triggers and of WITH CHECK OPTION are
 * known here: defaults and generated columns have been computed, and nodes have no
 * triggers.  For a foreign table made by hand nothing is assumed, and all of them
 * are asked back.
 *
 * UPDATE and DELETE name the row by its ctid, which is safe because the scan that
 * found it has locked it (FOR UPDATE); for shards they are put off and sent together
 * (writes.c), unless a DELETE's RETURNING needs the node's answer.  An UPDATE that gives the row the key of
 * another shard deletes it here and inserts it there, in the same transaction.
 */
#include "executor/internal.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "catalog/pg_type.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* postgres_fdw's private list of a modification */
enum ModifyPrivate
{
	MODIFY_SQL,
	MODIFY_TARGET_ATTRS,
	MODIFY_VALUES_END,
	MODIFY_HAS_RETURNING,
	MODIFY_RETRIEVED_ATTRS
};

/* A statement repeated for row after row: the ctid first, if any, then columns. */
typedef struct RowStatement
{
	RowTarget	target;
	bool		by_ctid;
	List	   *columns;		/* attribute numbers in the slot's layout */
	ParamSet   *params;
	RowReader  *reader;			/* of RETURNING, or NULL */
} RowStatement;

typedef struct ModifyState
{
	Relation	rel;
	PlanRun *run;
	ResultRelInfo *rinfo;
	Oid			userid;
	Placement	placement;
	bool		routed;			/* rows come through the parent */
	bool		sets_key;		/* UPDATE of a column of the partition key */
	bool		returning;
	bool		deferred;		/* UPDATE and DELETE of rows known to be there: see writes.c */
	AttrNumber	ctid_attno;		/* in the plan's slot */
	ShardLoader *loader;		/* NULL: one statement a row */
	RowStatement *statement;
	RowStatement *delete_row;	/* of a move */
	List	   *moves;			/* of RowStatement *, INSERTs into other shards */
	MemoryContext row_context;
} ModifyState;

/* ---- statements ---- */

static List *
without_generated(TupleDesc desc, List *columns)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, columns)
		if (TupleDescAttr(desc, lfirst_int(lc) - 1)->attgenerated == '\0')
			result = lappend_int(result, lfirst_int(lc));
	return result;
}

static RowStatement *
create_statement(ModifyState *state, Oid foreign_table, const char *sql, bool by_ctid,
				 List *columns, bool returning, List *retrieved)
{
	RowStatement *statement = palloc0(sizeof(RowStatement));
	TupleDesc	desc = RelationGetDescr(state->rel);
	int			count = list_length(columns) + (by_ctid ? 1 : 0);
	Oid		   *types = palloc(sizeof(Oid) * Max(count, 1));
	int			n = 0;
	ListCell   *lc;

	statement->target.foreign_table = foreign_table;
	statement->target.serverid = GetForeignTable(foreign_table)->serverid;
	statement->target.userid = state->userid;
	statement->target.label = dbscale_remote_label(foreign_table);
	statement->target.sql = sql;
	statement->by_ctid = by_ctid;
	statement->columns = columns;
	if (by_ctid)
		types[n++] = TIDOID;
	foreach(lc, columns)
		types[n++] = TupleDescAttr(desc, lfirst_int(lc) - 1)->atttypid;
	statement->params = dbscale_params_create(count, types, state->placement.known);
	if (returning)
		statement->reader = dbscale_row_reader_create(desc, retrieved, state->placement.known,
													  statement->target.label);
	return statement;
}

static const RemoteParams *
bind_row(RowStatement *statement, ItemPointer ctid, TupleTableSlot *slot)
{
	int			count = statement->params->count;
	Datum	   *values = palloc(sizeof(Datum) * Max(count, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(count, 1));
	int			n = 0;
	ListCell   *lc;

	if (count == 0)
		return REMOTE_NO_PARAMS;
	if (statement->by_ctid)
	{
		values[n] = PointerGetDatum(ctid);
		nulls[n++] = false;
	}
	foreach(lc, statement->columns)
	{
		values[n] = slot_getattr(slot, lfirst_int(lc), &nulls[n]);
		n++;
	}
	return dbscale_params_set(statement->params, values, nulls);
}

/* The row that RETURNING gave, in `slot`; it must live as long as the slot. */
static void
store_returned(RowStatement *statement, const RemoteRow *row, TupleTableSlot *slot)
{
	HeapTuple	tuple = dbscale_row_reader_tuple(statement->reader, row);
	MemoryContext caller = MemoryContextSwitchTo(slot->tts_mcxt);

	tuple = heap_copytuple(tuple);
	ExecForceStoreHeapTuple(tuple, slot, true);
	MemoryContextSwitchTo(caller);
}

static void
put_off(ModifyState *state, RowStatement *statement, ItemPointer ctid, TupleTableSlot *slot)
{
	MemoryContext caller;

	MemoryContextReset(state->row_context);
	caller = MemoryContextSwitchTo(state->row_context);
	dbscale_writes_add(state->run, &statement->target, bind_row(statement, ctid, slot));
	MemoryContextSwitchTo(caller);
}

/*
 * Runs the statement for one row and waits; true if the node did something.  Where
 * the outcome is known it is put off instead.
 */
static bool
execute_for_row(ModifyState *state, RowStatement *statement, ItemPointer ctid,
				TupleTableSlot *slot, TupleTableSlot *returned)
{
	MemoryContext caller;
	RemoteConnection *conn;
	RemoteStatement *remote;
	RemoteRow	row;
	int			flags = REMOTE_PREPARE;
	uint64		count;

	if (state->deferred)
	{
		put_off(state, statement, ctid, slot);
		return true;
	}
	dbscale_run_before_write(state->run);
	dbscale_run_note_write(state->run, statement->target.foreign_table);

	MemoryContextReset(state->row_context);
	caller = MemoryContextSwitchTo(state->row_context);
	if (statement->reader && statement->reader->binary)
		flags |= REMOTE_BINARY;
	conn = dbscale_transaction_connection(statement->target.serverid, state->userid, REMOTE_WRITE);
	remote = dbscale_remote_send(conn, statement->target.sql, bind_row(statement, ctid, slot),
								 flags, statement->target.label);
	if (statement->reader && dbscale_remote_next_row(remote, &row))
		store_returned(statement, &row, returned);
	count = dbscale_remote_finish(remote);
	dbscale_remote_close(remote);
	MemoryContextSwitchTo(caller);
	return count > 0;
}

/* ---- beginning ---- */

static ModifyState *
create_state(EState *estate, ResultRelInfo *rinfo)
{
	ModifyState *state = palloc0(sizeof(ModifyState));
	Oid			check_as = DBSCALE_RESULT_CHECK_AS_USER(rinfo, estate);

	state->rel = rinfo->ri_RelationDesc;
	state->rinfo = rinfo;
	state->run = dbscale_run_get(estate);
	state->userid = OidIsValid(check_as) ? check_as : GetUserId();
	state->row_context = AllocSetContextCreate(estate->es_query_cxt, "dbscale modify row",
											   ALLOCSET_SMALL_SIZES);
	dbscale_placement_init(&state->placement, state->rel);
	return state;
}

/* A system column other than tableoid, which core fills in, is known to the node only. */
static bool
names_system_column(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
		return ((Var *) node)->varattno < 0 &&
			((Var *) node)->varattno != TableOidAttributeNumber;
	return expression_tree_walker(node, names_system_column, context);
}

static bool
on_conflict_do_nothing(ModifyTable *plan)
{
	if (plan == NULL || plan->onConflictAction == ONCONFLICT_NONE)
		return false;
	if (plan->onConflictAction != ONCONFLICT_NOTHING)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("ON CONFLICT DO UPDATE is not possible on foreign tables"),
				 errhint("Use a statement that dbscale can send to a shard whole.")));
	return true;
}

/* INSERT into this very table, or rows routed here by core. */
static void
begin_insert_state(ModifyState *state, ModifyTable *plan, bool feedback)
{
	TupleDesc	desc = RelationGetDescr(state->rel);
	List	   *columns = dbscale_writable_columns(desc);
	bool		do_nothing = on_conflict_do_nothing(plan);
	List	   *retrieved = NIL;
	char	   *sql;

	state->returning = feedback;
	if (state->placement.known)
		state->returning = plan != NULL && names_system_column((Node *) plan->returningLists, NULL);
	if (!do_nothing && !state->returning)
	{
		state->loader = dbscale_loader_of_run(state->run, state->userid);
		return;
	}
	sql = dbscale_insert_sql(RelationGetRelid(state->rel), desc, columns, do_nothing,
							 state->returning, &retrieved);
	state->statement = create_statement(state, RelationGetRelid(state->rel), sql, false,
										columns, state->returning, retrieved);
}

/* A row of a shard, as the statement has found it. */
typedef struct WrittenRow
{
	Oid			foreign_table;
	ItemPointerData ctid;
	uint16		padding;
} WrittenRow;

static HTAB *
create_written(EState *estate)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(WrittenRow);
	ctl.entrysize = sizeof(WrittenRow);
	ctl.hcxt = estate->es_query_cxt;
	return hash_create("dbscale rows written", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/*
 * A row that a join meets twice, or that two parts of a statement (WITH) would write,
 * is written once, as in any table.
 */
static bool
written_before(ModifyState *state, ItemPointer ctid)
{
	bool		found = false;
	WrittenRow	row;

	if (!state->placement.known)
		return false;
	if (state->run->written == NULL)
		state->run->written = create_written(state->run->estate);
	memset(&row, 0, sizeof(row));
	row.foreign_table = state->placement.foreign_table;
	row.ctid = *ctid;
	(void) hash_search(state->run->written, &row, HASH_ENTER, &found);
	return found;
}

/* Is a column of the partition key among those an UPDATE sets? */
static bool
sets_key(ModifyState *state, List *columns)
{
	if (state->placement.known)
		return list_member_int(columns, state->placement.key_attno);
	return state->rel->rd_rel->relispartition;
}

static void
begin_modify(ModifyTableState *mtstate, ResultRelInfo *rinfo, List *fdw_private,
			 int subplan_index, int eflags)
{
	ModifyState *state;
	CmdType		operation = mtstate->operation;
	List	   *columns;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	state = create_state(mtstate->ps.state, rinfo);
	rinfo->ri_FdwState = state;
	state->returning = boolVal(list_nth(fdw_private, MODIFY_HAS_RETURNING));
	if (operation == CMD_INSERT)
	{
		begin_insert_state(state, (ModifyTable *) mtstate->ps.plan, state->returning);
		return;
	}

	/* what an UPDATE returns is known; what a DELETE returns comes from the node */
	if (operation == CMD_UPDATE && state->placement.known)
		state->returning = names_system_column((Node *) ((ModifyTable *) mtstate->ps.plan)->returningLists,
											   NULL);
	state->deferred = state->placement.known && !state->returning;

	columns = list_nth(fdw_private, MODIFY_TARGET_ATTRS);
	state->sets_key = operation == CMD_UPDATE && sets_key(state, columns);
	columns = without_generated(RelationGetDescr(state->rel), columns);
	state->statement = create_statement(state, RelationGetRelid(state->rel),
										strVal(list_nth(fdw_private, MODIFY_SQL)), true,
										operation == CMD_UPDATE ? columns : NIL, state->returning,
										list_nth(fdw_private, MODIFY_RETRIEVED_ATTRS));
	state->ctid_attno = ExecFindJunkAttributeInTlist(outerPlanState(mtstate)->plan->targetlist, "ctid");
	if (!AttributeNumberIsValid(state->ctid_attno))
		elog(ERROR, "could not find junk ctid column");
}

/*
 * Rows routed by core, or COPY.  A table that the same statement updates cannot
 * also take rows that core moves into it: it might update them once more.
 */
static void
begin_insert(ModifyTableState *mtstate, ResultRelInfo *rinfo)
{
	ModifyTable *plan = castNode(ModifyTable, mtstate->ps.plan);
	ModifyState *state;
	bool		feedback;

	if (plan && plan->operation == CMD_UPDATE &&
		(rinfo->ri_usesFdwDirectModify || rinfo->ri_FdwState))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot route tuples into foreign table to be updated \"%s\"",
						RelationGetRelationName(rinfo->ri_RelationDesc))));
	state = create_state(mtstate->ps.state, rinfo);
	state->routed = rinfo->ri_RootResultRelInfo != NULL;
	feedback = rinfo->ri_returningList != NIL || rinfo->ri_WithCheckOptions != NIL ||
		(rinfo->ri_TrigDesc && (rinfo->ri_TrigDesc->trig_insert_after_row ||
								rinfo->ri_TrigDesc->trig_insert_new_table));
	begin_insert_state(state, plan, feedback);
	rinfo->ri_FdwState = state;
}

/* ---- rows ---- */

/* The foreign table an inserted row belongs into. */
static Oid
place_row(ModifyState *state, TupleTableSlot *slot)
{
	int			shard;

	if (!state->placement.known)
		return RelationGetRelid(state->rel);
	shard = dbscale_placement_route(&state->placement, slot);
	if (shard == state->placement.shard)
		return RelationGetRelid(state->rel);
	if (shard < 0 || !state->routed)
		dbscale_placement_refuse(&state->placement, shard);
	/* the directory has changed since core routed the row */
	if (state->loader != NULL)
		return dbscale_placement_table(&state->placement, shard);
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("the row's shard key was assigned to another shard meanwhile"),
			 errhint("Try the statement again.")));
}

static TupleTableSlot *
exec_insert(EState *estate, ResultRelInfo *rinfo, TupleTableSlot *slot, TupleTableSlot *planSlot)
{
	ModifyState *state = rinfo->ri_FdwState;
	Oid			foreign_table = place_row(state, slot);

	dbscale_security_check_row(estate, rinfo, slot, true);
	if (state->loader == NULL)
		return execute_for_row(state, state->statement, NULL, slot, slot) ? slot : NULL;
	dbscale_run_before_write(state->run);
	dbscale_loader_add_row(state->loader, foreign_table, state->rel, slot);
	return slot;
}

static ItemPointer
row_ctid(ModifyState *state, TupleTableSlot *planSlot)
{
	bool		isnull;
	Datum		ctid = ExecGetJunkAttribute(planSlot, state->ctid_attno, &isnull);

	if (isnull)
		elog(ERROR, "ctid is NULL");
	return (ItemPointer) DatumGetPointer(ctid);
}

static RowStatement *
find_move(ModifyState *state, Oid foreign_table)
{
	TupleDesc	desc = RelationGetDescr(state->rel);
	List	   *columns;
	List	   *retrieved = NIL;
	RowStatement *statement;
	ListCell   *lc;
	MemoryContext caller;
	char	   *sql;

	foreach(lc, state->moves)
	{
		statement = lfirst(lc);
		if (statement->target.foreign_table == foreign_table)
			return statement;
	}
	caller = MemoryContextSwitchTo(state->run->estate->es_query_cxt);
	columns = dbscale_writable_columns(desc);
	sql = dbscale_insert_sql(foreign_table, desc, columns, false, state->returning, &retrieved);
	statement = create_statement(state, foreign_table, sql, false, columns,
								 state->returning, retrieved);
	state->moves = lappend(state->moves, statement);
	MemoryContextSwitchTo(caller);
	return statement;
}

static RowStatement *
delete_statement(ModifyState *state)
{
	Oid			relid = RelationGetRelid(state->rel);
	MemoryContext caller;

	if (state->delete_row == NULL)
	{
		caller = MemoryContextSwitchTo(state->run->estate->es_query_cxt);
		state->delete_row = create_statement(state, relid,
											 psprintf("DELETE FROM %s WHERE ctid = $1",
													  dbscale_remote_table_name(relid)),
											 true, NIL, false, NIL);
		MemoryContextSwitchTo(caller);
	}
	return state->delete_row;
}

/* Delete here, insert there; a row that is gone already is not inserted. */
static TupleTableSlot *
move_row(ModifyState *state, int shard, ItemPointer ctid, TupleTableSlot *slot)
{
	Oid			target;

	if (shard < 0)
		dbscale_placement_refuse(&state->placement, shard);
	target = dbscale_placement_table(&state->placement, shard);
	if (!execute_for_row(state, delete_statement(state), ctid, slot, NULL))
		return NULL;
	return execute_for_row(state, find_move(state, target), NULL, slot, slot) ? slot : NULL;
}

static TupleTableSlot *
exec_update(EState *estate, ResultRelInfo *rinfo, TupleTableSlot *slot, TupleTableSlot *planSlot)
{
	ModifyState *state = rinfo->ri_FdwState;
	ItemPointer ctid = row_ctid(state, planSlot);

	if (written_before(state, ctid))
		return NULL;
	dbscale_security_check_row(estate, rinfo, slot, false);
	if (state->sets_key && state->placement.known)
	{
		int			shard = dbscale_placement_route(&state->placement, slot);

		if (shard != state->placement.shard)
			return move_row(state, shard, ctid, slot);
	}
	else if (state->sets_key)
		(void) ExecPartitionCheck(rinfo, slot, estate, true);
	return execute_for_row(state, state->statement, ctid, slot, slot) ? slot : NULL;
}

static TupleTableSlot *
exec_delete(EState *estate, ResultRelInfo *rinfo, TupleTableSlot *slot, TupleTableSlot *planSlot)
{
	ModifyState *state = rinfo->ri_FdwState;
	ItemPointer ctid = row_ctid(state, planSlot);

	if (written_before(state, ctid))
		return NULL;
	return execute_for_row(state, state->statement, ctid, planSlot, slot) ? slot : NULL;
}

/* The statement's errors belong to the statement: wait for what was streamed. */
static void
end_modify(EState *estate, ResultRelInfo *rinfo)
{
	ModifyState *state = rinfo->ri_FdwState;

	if (state == NULL)
		return;
	if (state->loader != NULL)
		dbscale_loader_sync(state->loader);
	dbscale_writes_flush(state->run);
}

void
dbscale_modify_set_callbacks(FdwRoutine *routine)
{
	routine->BeginForeignModify = begin_modify;
	routine->ExecForeignInsert = exec_insert;
	routine->ExecForeignUpdate = exec_update;
	routine->ExecForeignDelete = exec_delete;
	routine->EndForeignModify = end_modify;
	routine->BeginForeignInsert = begin_insert;
	routine->EndForeignInsert = end_modify;
	/* the loader makes the batches, for COPY too */
	routine->ExecForeignBatchInsert = NULL;
	routine->GetForeignModifyBatchSize = NULL;
}
