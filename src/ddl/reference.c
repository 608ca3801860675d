/*
 * reference.c
 *		Reference tables: an ordinary table here, and a copy of it on every node.
 *
 * Reads of the table itself are local; the copies are there for joins and foreign
 * keys on the nodes.  Triggers keep them equal, in the writer's own transaction:
 *
 *	  dbscale_replicate			 AFTER each row: an inserted row goes into a buffer for
 *								 COPY; a changed or deleted one is a statement by the
 *								 primary key of its OLD version, sent to all nodes
 *	  dbscale_replicate_end		 AFTER the statement: what is buffered is sent, and the
 *								 nodes' answers are read
 *	  dbscale_replicate_truncate AFTER TRUNCATE
 *
 * The order of changes is kept: the buffer is sent before a statement follows it.
 * Should anything else go to a node meanwhile, or a savepoint be set, transaction/
 * calls the flush callback first.  After an abort the state goes with the memory
 * context of its (sub)transaction.
 *
 * A row that another transaction has just committed may still be prepared on the nodes:
 * before its change is sent, transaction/copies.c waits for that.
 *
 * The copies have no foreign keys of their own: the coordinator checks them, and its
 * cascades arrive as changes like any other.  So each statement must find its row,
 * and if one does not, the copy has been tampered with and an error says so.
 *
 * A node that is disabled would miss the change, so the change is refused.
 */
#include "ddl/ddl.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "catalog/progress.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

DBSCALE_FUNCTION(dbscale_distribute_reference);
DBSCALE_FUNCTION(dbscale_replicate_reference);

#define BUFFER_SIZE (64 * 1024)
#define MAX_STATEMENTS 256

/* A statement under way: its node and table are for the error message. */
typedef struct SentChange
{
	RemoteStatement *stmt;
	const char *node;
	Oid			relid;
} SentChange;

/* What this (sub)transaction has buffered and sent, and not yet heard of. */
typedef struct Replication
{
	MemoryContext context;
	Oid			relid;			/* whose rows are in the buffer */
	StringInfoData rows;		/* COPY text */
	List	   *sent;			/* of SentChange * */
	bool		pending;		/* transaction/ knows us */
	bool		flushing;
} Replication;

static Replication *current = NULL;

static const char *const trigger_names[] = {
	"dbscale_replicate", "dbscale_replicate_end", "dbscale_replicate_truncate"
};

bool
dbscale_ddl_is_replication_trigger(const char *name)
{
	for (int i = 0; i < lengthof(trigger_names); i++)
		if (strcmp(name, trigger_names[i]) == 0)
			return true;
	return false;
}

bool
dbscale_ddl_has_primary_key(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	bool		has;

	(void) RelationGetIndexList(rel);	/* sets rd_pkindex */
	has = OidIsValid(rel->rd_pkindex);
	table_close(rel, NoLock);
	return has;
}

/* All nodes; an error if one cannot take part. */
static List *
require_all_nodes(Oid relid)
{
	List	   *nodes = dbscale_catalog_nodes();
	ListCell   *lc;

	foreach(lc, nodes)
	{
		const ShardNode *node = lfirst(lc);

		if (!node->enabled)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot change reference table \"%s\" while node \"%s\" is disabled",
							get_rel_name(relid), NameStr(node->name)),
					 errdetail("The node's copy of the table would miss the change."),
					 errhint("Enable the node with dbscale.enable_node('%s'), or remove it.",
							 NameStr(node->name))));
	}
	return nodes;
}

static RemoteConnection *
connection_to(const ShardNode *node)
{
	return dbscale_transaction_connection(node->serverid, dbscale_ddl_node_user(node), REMOTE_WRITE);
}

/* One value in COPY's text format. */
static void
append_copy_text(StringInfo buf, const char *text)
{
	for (const char *p = text; *p != '\0'; p++)
	{
		switch (*p)
		{
			case '\b':
				appendStringInfoString(buf, "\\b");
				break;
			case '\f':
				appendStringInfoString(buf, "\\f");
				break;
			case '\n':
				appendStringInfoString(buf, "\\n");
				break;
			case '\r':
				appendStringInfoString(buf, "\\r");
				break;
			case '\t':
				appendStringInfoString(buf, "\\t");
				break;
			case '\v':
				appendStringInfoString(buf, "\\v");
				break;
			case '\\':
				appendStringInfoString(buf, "\\\\");
				break;
			default:
				appendStringInfoCharMacro(buf, *p);
		}
	}
}

static char *
value_text(TupleTableSlot *slot, AttrNumber attno)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, attno, &isnull);
	Oid			output;
	bool		is_varlena;

	if (isnull)
		return NULL;
	getTypeOutputInfo(TupleDescAttr(slot->tts_tupleDescriptor, attno - 1)->atttypid,
					  &output, &is_varlena);
	return OidOutputFunctionCall(output, value);
}

static bool
is_written(Form_pg_attribute att)
{
	return !att->attisdropped && att->attgenerated == '\0';
}

static void
append_row(StringInfo buf, TupleTableSlot *slot)
{
	TupleDesc	desc = slot->tts_tupleDescriptor;
	bool		first = true;

	for (int i = 0; i < desc->natts; i++)
	{
		char	   *text;

		if (!is_written(TupleDescAttr(desc, i)))
			continue;
		if (!first)
			appendStringInfoChar(buf, '\t');
		first = false;
		text = value_text(slot, i + 1);
		if (text == NULL)
			appendStringInfoString(buf, "\\N");
		else
			append_copy_text(buf, text);
	}
	appendStringInfoChar(buf, '\n');
}

static char *
copy_command(const DistributedTable *table)
{
	return psprintf("COPY %s (%s) FROM STDIN", dbscale_ddl_shard_table_name(table, -1),
					dbscale_ddl_column_list(table->relid));
}

static void
copy_to_nodes(const DistributedTable *table, List *conns, StringInfo rows)
{
	char	   *sql = copy_command(table);
	ListCell   *lc;

	foreach(lc, conns)
	{
		dbscale_remote_copy_begin(lfirst(lc), sql, NULL);
		dbscale_remote_copy_data(lfirst(lc), rows->data, rows->len);
		dbscale_remote_copy_end(lfirst(lc));
	}
}

/* ---- changes, as they happen ---- */

static void
forget_current(void *arg)
{
	if (current == arg)
		current = NULL;
}

static void flush_current(void *arg);

static Replication *
replication(void)
{
	MemoryContext context;
	MemoryContextCallback *callback;

	if (current != NULL)
		return current;
	context = AllocSetContextCreate(CurTransactionContext, "dbscale replication",
									ALLOCSET_DEFAULT_SIZES);
	current = MemoryContextAllocZero(context, sizeof(Replication));
	current->context = context;
	callback = MemoryContextAllocZero(context, sizeof(MemoryContextCallback));
	callback->func = forget_current;
	callback->arg = current;
	MemoryContextRegisterResetCallback(context, callback);
	return current;
}

static void
send_rows(Replication *r)
{
	const DistributedTable *table;
	List	   *conns = NIL;
	ListCell   *lc;

	if (!OidIsValid(r->relid) || r->rows.len == 0)
		return;
	table = dbscale_catalog_require_table(r->relid);
	foreach(lc, require_all_nodes(r->relid))
		conns = lappend(conns, connection_to(lfirst(lc)));
	copy_to_nodes(table, conns, &r->rows);
	resetStringInfo(&r->rows);
}

/*
 * What is left of the wait in send_change: this transaction's snapshot on the node is
 * older than the row.
 */
static void
refuse_missing_row(const SentChange *change)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("a row of reference table \"%s\" is not on node \"%s\" yet",
					get_rel_name(change->relid), change->node),
			 errdetail("This transaction's snapshot on the node is older than the row; or the copy there differs from the table."),
			 errhint("Retry the transaction. If that does not help, make the copies anew with dbscale.undistribute_table() and dbscale.distribute_reference().")));
}

/* Every change sent must have found its one row on its node. */
static void
read_answers(Replication *r)
{
	ListCell   *lc;

	foreach(lc, r->sent)
	{
		SentChange *change = lfirst(lc);
		uint64		rows = dbscale_remote_finish(change->stmt);

		dbscale_remote_close(change->stmt);
		if (rows == 0)
			refuse_missing_row(change);
		if (rows != 1)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the copy of reference table \"%s\" on node \"%s\" differs from the table",
							get_rel_name(change->relid), change->node),
					 errdetail("A changed row was found " UINT64_FORMAT " times there.", rows),
					 errhint("Use dbscale.undistribute_table() and dbscale.distribute_reference() to make the copies anew.")));
	}
	list_free_deep(r->sent);
	r->sent = NIL;
}

/* Send what is buffered, and hear of everything; the state is then done with. */
static void
flush_all(Replication *r)
{
	MemoryContext old;

	if (r->flushing)
		return;
	r->flushing = true;
	old = MemoryContextSwitchTo(r->context);
	send_rows(r);
	read_answers(r);
	MemoryContextSwitchTo(old);
	r->flushing = false;
	if (r->pending)
		dbscale_transaction_remove_pending(flush_current, NULL);
	MemoryContextDelete(r->context);
}

static void
flush_current(void *arg)
{
	if (current != NULL)
		flush_all(current);
}

static void
announce(Replication *r, Oid relid)
{
	dbscale_transaction_writes_copies(relid);
	if (!r->pending)
		dbscale_transaction_add_pending(flush_current, NULL);
	r->pending = true;
}

static void
replicate_insert(Relation rel, TupleTableSlot *slot)
{
	Replication *r = replication();

	if (r->relid != RelationGetRelid(rel))
	{
		MemoryContext old;

		if (r->rows.len > 0)
		{
			flush_all(r);
			r = replication();
		}
		old = MemoryContextSwitchTo(r->context);
		if (r->rows.data == NULL)
			initStringInfo(&r->rows);
		MemoryContextSwitchTo(old);
		r->relid = RelationGetRelid(rel);
		(void) require_all_nodes(r->relid);
	}
	append_row(&r->rows, slot);
	announce(r, r->relid);
	if (r->rows.len >= BUFFER_SIZE)
		flush_all(r);
}

/* "column = $n", the values appended to `values`; `separator` goes between. */
static void
append_assignment(StringInfo sql, const char *separator, TupleTableSlot *slot,
				  AttrNumber attno, List **values)
{
	char	   *text = value_text(slot, attno);

	*values = lappend(*values, text);
	appendStringInfo(sql, "%s%s = $%d", separator,
					 quote_identifier(NameStr(TupleDescAttr(slot->tts_tupleDescriptor, attno - 1)->attname)),
					 list_length(*values));
}

/* WHERE the primary key has the values of the old row. */
static void
append_key(StringInfo sql, Relation rel, TupleTableSlot *old, List **values)
{
	Bitmapset  *key = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY);
	const char *separator = " WHERE ";
	int			i = -1;

	if (bms_is_empty(key))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("reference table \"%s\" has no primary key", RelationGetRelationName(rel)),
				 errdetail("Changed rows are found on the nodes by it."),
				 errhint("Add a primary key to the table.")));
	while ((i = bms_next_member(key, i)) >= 0)
	{
		append_assignment(sql, separator, old, i + FirstLowInvalidHeapAttributeNumber, values);
		separator = " AND ";
	}
}

static char *
change_sql(const DistributedTable *table, Relation rel, TupleTableSlot *old,
		   TupleTableSlot *new, List **values)
{
	TupleDesc	desc = RelationGetDescr(rel);
	const char *separator = " SET ";
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "%s %s", new ? "UPDATE" : "DELETE FROM",
					 dbscale_ddl_shard_table_name(table, -1));
	for (int i = 0; new != NULL && i < desc->natts; i++)
	{
		if (!is_written(TupleDescAttr(desc, i)))
			continue;
		append_assignment(&sql, separator, new, i + 1, values);
		separator = ", ";
	}
	append_key(&sql, rel, old, values);
	return sql.data;
}

static void
send_change(Replication *r, Oid relid, const char *sql, const RemoteParams *params)
{
	List	   *conns = NIL;
	ListCell   *lc;

	foreach(lc, require_all_nodes(relid))
		conns = lappend(conns, connection_to(lfirst(lc)));
	dbscale_transaction_await_copies(relid, conns);
	foreach(lc, conns)
	{
		RemoteConnection *conn = lfirst(lc);
		SentChange *change = palloc(sizeof(SentChange));

		change->node = pstrdup(dbscale_remote_node_name(conn));
		change->relid = relid;
		change->stmt = dbscale_remote_send(conn, sql, params, REMOTE_PREPARE, NULL);
		r->sent = lappend(r->sent, change);
	}
}

/* new NULL: a deletion */
static void
replicate_change(Relation rel, TupleTableSlot *old, TupleTableSlot *new)
{
	const DistributedTable *table = dbscale_catalog_require_table(RelationGetRelid(rel));
	Replication *r = replication();
	MemoryContext caller = CurrentMemoryContext;
	List	   *values = NIL;
	char	   *sql = change_sql(table, rel, old, new, &values);
	RemoteParams params = {0};
	const char **texts = palloc(sizeof(char *) * list_length(values));
	ListCell   *lc;

	foreach(lc, values)
		texts[foreach_current_index(lc)] = lfirst(lc);
	params.count = list_length(values);
	params.values = texts;

	r->flushing = true;			/* our own connections: nothing to flush for them */
	MemoryContextSwitchTo(r->context);
	send_rows(r);
	send_change(r, table->relid, sql, &params);
	MemoryContextSwitchTo(caller);
	r->flushing = false;
	announce(r, table->relid);
	if (list_length(r->sent) >= MAX_STATEMENTS)
		flush_all(r);
}

static void
replicate_truncate(Oid relid)
{
	const DistributedTable *table = dbscale_catalog_require_table(relid);
	List	   *batch = NIL;
	ListCell   *lc;

	foreach(lc, require_all_nodes(relid))
		batch = dbscale_ddl_send(batch, lfirst(lc),
								 psprintf("TRUNCATE %s", dbscale_ddl_shard_table_name(table, -1)), NULL);
	dbscale_ddl_finish(batch);
}

Datum
dbscale_replicate_reference(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("replicate_reference() must be called by an AFTER trigger"),
				 errdetail("It is the trigger function of reference tables."),
				 errhint("Use dbscale.distribute_reference().")));

	/* a trigger left behind by a restored dump, on a table that is no reference table */
	if (dbscale_catalog_table(RelationGetRelid(data->tg_relation)) == NULL)
		PG_RETURN_POINTER(NULL);

	if (TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		replicate_truncate(RelationGetRelid(data->tg_relation));
	else if (TRIGGER_FIRED_FOR_STATEMENT(data->tg_event))
		flush_current(NULL);
	else if (TRIGGER_FIRED_BY_INSERT(data->tg_event))
		replicate_insert(data->tg_relation, data->tg_trigslot);
	else
		replicate_change(data->tg_relation, data->tg_trigslot,
						 TRIGGER_FIRED_BY_UPDATE(data->tg_event) ? data->tg_newslot : NULL);
	PG_RETURN_POINTER(NULL);
}

/* ---- making and dropping the copies ---- */

static void
create_copies(const DistributedTable *table, List *nodes)
{
	List	   *batch = NIL;
	ListCell   *lc;

	foreach(lc, nodes)
		batch = dbscale_ddl_send(batch, lfirst(lc), dbscale_ddl_shard_table_sql(table, -1), NULL);
	dbscale_ddl_finish(batch);
}

static void
finish_copies(const DistributedTable *table, List *nodes)
{
	List	   *commands = dbscale_ddl_shard_finish_sql(table, -1);
	List	   *batch = NIL;
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, nodes)
	{
		foreach(lc2, commands)
			batch = dbscale_ddl_send(batch, lfirst(lc), lfirst(lc2), NULL);
	}
	dbscale_ddl_finish(batch);
}

static void
copy_all_rows(const DistributedTable *table, List *nodes)
{
	Relation	rel = table_open(table->relid, NoLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "dbscale row",
													  ALLOCSET_DEFAULT_SIZES);
	StringInfoData rows;
	List	   *conns = NIL;
	ListCell   *lc;

	foreach(lc, nodes)
		conns = lappend(conns, connection_to(lfirst(lc)));
	initStringInfo(&rows);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		MemoryContext old = MemoryContextSwitchTo(row_context);

		append_row(&rows, slot);
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
		CHECK_FOR_INTERRUPTS();
		if (rows.len < BUFFER_SIZE)
			continue;
		copy_to_nodes(table, conns, &rows);
		dbscale_progress_add_bytes(rows.len);
		resetStringInfo(&rows);
	}
	if (rows.len > 0)
		copy_to_nodes(table, conns, &rows);
	dbscale_remote_sync_all(conns);
	MemoryContextDelete(row_context);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
}

static void
copy_to(const DistributedTable *table, List *nodes)
{
	create_copies(table, nodes);
	copy_all_rows(table, nodes);
	finish_copies(table, nodes);
}

void
dbscale_ddl_copy_references_to(const ShardNode *node)
{
	ListCell   *lc;

	foreach(lc, dbscale_catalog_tables())
	{
		const DistributedTable *table = lfirst(lc);

		if (!table->is_reference)
			continue;
		/* writers wait until the node is known to them */
		LockRelationOid(table->relid, ShareRowExclusiveLock);
		copy_to(table, list_make1((void *) node));
	}
}

static void
create_trigger(Oid relid, const char *sql)
{
	RawStmt    *raw = linitial_node(RawStmt, pg_parse_query(sql));

	(void) CreateTriggerFiringOn((CreateTrigStmt *) raw->stmt, sql, relid, InvalidOid, InvalidOid,
								 InvalidOid, InvalidOid, InvalidOid, NULL, false, false,
								 TRIGGER_FIRES_ALWAYS);
	CommandCounterIncrement();
}

static void
create_triggers(Oid relid)
{
	static const char *const events[] = {
		"INSERT OR UPDATE OR DELETE", "INSERT OR UPDATE OR DELETE", "TRUNCATE"
	};
	char	   *name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
												  get_rel_name(relid));

	for (int i = 0; i < lengthof(events); i++)
		create_trigger(relid, psprintf("CREATE TRIGGER %s AFTER %s ON %s FOR EACH %s EXECUTE FUNCTION dbscale.replicate_reference()",
									   trigger_names[i], events[i], name, i == 0 ? "ROW" : "STATEMENT"));
}

static void
check_primary_key(Relation rel)
{
	List	   *indexes = RelationGetIndexList(rel);

	list_free(indexes);
	if (!OidIsValid(rel->rd_pkindex) || bms_is_empty(RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("table \"%s\" has no primary key", RelationGetRelationName(rel)),
				 errdetail("The copies of a reference table find changed rows by it."),
				 errhint("Add a primary key to the table.")));
}

Datum
dbscale_distribute_reference(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Relation	rel = dbscale_ddl_open_for_command(relid, "distribute");
	List	   *nodes;
	char	   *stored;
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(dbscale_extension_owner(), context | SECURITY_LOCAL_USERID_CHANGE);
	dbscale_ddl_check_table(rel, 0);
	check_primary_key(rel);
	nodes = require_all_nodes(relid);
	(void) dbscale_progress_begin("distribute reference", relid, 1,
								  (int64) RelationGetNumberOfBlocks(rel) * BLCKSZ);
	stored = dbscale_ddl_new_stored_name(RelationGetRelationName(rel),
										 get_namespace_name(RelationGetNamespace(rel)));
	table_close(rel, NoLock);
	(void) dbscale_ddl_execute_as_owner(
		psprintf("INSERT INTO dbscale.distributed_table (relation, stored_name) VALUES (%u, %s)",
				 relid, quote_literal_cstr(stored)));
	dbscale_catalog_changed(list_make1_oid(relid));

	dbscale_progress_step("copying rows");
	copy_to(dbscale_catalog_require_table(relid), nodes);
	create_triggers(relid);
	dbscale_catalog_changed(list_make1_oid(relid));
	dbscale_progress_end();
	SetUserIdAndSecContext(user, context);
	PG_RETURN_VOID();
}

void
dbscale_ddl_undistribute_reference(const DistributedTable *table)
{
	Oid			relid = table->relid;
	List	   *batch = NIL;
	ListCell   *lc;

	foreach(lc, require_all_nodes(relid))
		batch = dbscale_ddl_send(batch, lfirst(lc),
								 psprintf("DROP TABLE %s", dbscale_ddl_shard_table_name(table, -1)), NULL);
	dbscale_ddl_finish(batch);
	for (int i = 0; i < lengthof(trigger_names); i++)
	{
		ObjectAddress address;
		Oid			trigger = get_trigger_oid(relid, trigger_names[i], true);

		if (!OidIsValid(trigger))
			continue;
		ObjectAddressSet(address, TriggerRelationId, trigger);
		performDeletion(&address, DROP_RESTRICT, PERFORM_DELETION_INTERNAL | PERFORM_DELETION_QUIETLY);
	}
	dbscale_ddl_forget_table(relid);
	dbscale_catalog_changed(list_make1_oid(relid));
}
