/*
 * cleanup.c
 *		Objects on nodes that are to go: records, and working through them.
 *
 * A row of dbscale.cleanup names a table, a function, a publication, or a foreign key
 * that is to be validated.  It is worked through when its job is not under way any
 * more, or by the job itself at its end.
 *
 *	1. The row is committed before the object is made, so there is no object without a
 *	   row.  (One without an object is harmless: IF EXISTS.)
 *	2. The object is dropped and the row deleted by one transaction, in two phases over
 *	   the node; so when the row is gone the object is, and the row never outlives the
 *	   object it speaks of.  Only then can the name be recorded, and used, again.
 *	3. The switch of a move deletes the rows of what has become the shard in the
 *	   transaction that makes it so.  As a second guard, a table that the catalog
 *	   places on the node is never dropped, nor a function that a trigger there calls.
 *	4. Old tables have after_xid, the switch: they are dropped when no snapshot in the
 *	   database is left that does not see it, since a reader with such a snapshot may
 *	   have looked up the old place.  Who reads on the node just then has a lock there,
 *	   for which we wait a second, and try again later.
 */
#include "rebalance/internal.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#define DROP_LOCK_TIMEOUT "1s"

DBSCALE_FUNCTION(dbscale_run_cleanup);

/* ---- records ---- */

static void
insert_record(const Move *move, const char *node, const char *kind, const char *name, const char *after)
{
	/* before the object is made, and with the switch: see move.c */
	ForceSyncCommit();
	if (dbscale_ddl_execute_as_owner(psprintf("INSERT INTO dbscale.cleanup (node, kind, name, job, after_xid)"
											  " VALUES (%s, %s, %s, " INT64_FORMAT ", %s) ON CONFLICT DO NOTHING",
											  quote_literal_cstr(node), quote_literal_cstr(kind),
											  quote_literal_cstr(name), move->job, after)) == 1)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("%s \"%s\" on node \"%s\" is still to be removed", kind, name, node),
			 errdetail("An earlier move has left it, or another one is under way."),
			 errhint("The table dbscale.cleanup has what is to be removed; the maintenance worker does it as soon as nobody needs it.")));
}

void
cleanup_record(const Move *move, const char *node, const char *kind, const char *name)
{
	insert_record(move, node, kind, name, "NULL");
}

void
cleanup_record_later(const Move *move, const char *node, const char *kind, const char *name)
{
	insert_record(move, node, kind, name, "pg_current_xact_id()");
}

void
cleanup_forget(const Move *move, const char *node)
{
	(void) dbscale_ddl_execute_as_owner(psprintf("DELETE FROM dbscale.cleanup WHERE node = %s AND kind IN ('table', 'function') AND job = " INT64_FORMAT,
												 quote_literal_cstr(node), move->job));
}

/* Whoever moves his shard may not read the table himself. */
bool
cleanup_exists(const char *node, const char *kind, const char *name)
{
	return dbscale_ddl_execute_as_owner(psprintf("SELECT 1 FROM dbscale.cleanup WHERE node = %s AND kind = %s AND name = %s",
												 quote_literal_cstr(node), quote_literal_cstr(kind),
												 quote_literal_cstr(name))) > 0;
}

/* ---- what is due ---- */

/* Does every snapshot that anybody in this database has see the transaction? */
static bool
is_seen_by_all(const char *xid)
{
	FullTransactionId fxid = FullTransactionIdFromU64(strtou64(xid, NULL, 10));
	Relation	rel = table_open(dbscale_relation_oid("cleanup"), AccessShareLock);
	TransactionId oldest = GetOldestNonRemovableTransactionId(rel);
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());
	uint32		age = (uint32) next - oldest;

	table_close(rel, AccessShareLock);
	return U64FromFullTransactionId(fxid) < next - age;
}

bool
cleanup_waits_for(const char *node, const char *name, int pid)
{
	PGPROC	   *proc = pid != 0 ? BackendPidGetProc(pid) : NULL;
	TransactionId xmin = proc != NULL ? proc->xmin : InvalidTransactionId;
	char	   *after;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	after = dbscale_ddl_query_value(psprintf("SELECT after_xid FROM dbscale.cleanup WHERE node = %s AND kind = 'table' AND name = %s",
											 quote_literal_cstr(node), quote_literal_cstr(name)));
	xmin = after != NULL && TransactionIdIsNormal(xmin) &&
		!TransactionIdFollows(xmin, (TransactionId) strtou64(after, NULL, 10)) ? xmin : InvalidTransactionId;
	PopActiveSnapshot();
	CommitTransactionCommand();
	return TransactionIdIsValid(xmin);
}

List *
dbscale_cleanup_due(int64 job)
{
	List	   *due = NIL;
	ListCell   *lc;

	/* functions last: triggers of the tables call them */
	foreach(lc, dbscale_ddl_query_rows(psprintf("SELECT node, kind, name, job, after_xid FROM dbscale.cleanup"
												" WHERE job = " INT64_FORMAT " OR " INT64_FORMAT " = 0"
												" ORDER BY kind = 'function', kind, recorded_at", job, job)))
	{
		char	  **row = lfirst(lc);
		CleanupRecord *record = palloc(sizeof(CleanupRecord));

		record->node = row[0];
		record->kind = row[1];
		record->name = row[2];
		record->job = strtoll(row[3], NULL, 10);
		if ((job == 0 && board_has_job(record->job)) || (row[4] != NULL && !is_seen_by_all(row[4])))
			continue;
		due = lappend(due, record);
	}
	return due;
}

/* ---- doing it ---- */

/* A shard's table, or what a counter has beside it. */
static bool
is_placed(const char *node, const char *name)
{
	return dbscale_ddl_query_value(psprintf("SELECT 1 FROM dbscale.distributed_table t JOIN dbscale.shard s USING (group_id)"
											" LEFT JOIN dbscale.counter c ON t.relation IN (c.source, c.target)"
											" LEFT JOIN LATERAL (VALUES (c.source, 'deltas'), (c.source, 'fold'), (c.target, 'orphans'), (c.target, 'lock'))"
											" o(beside, kind) ON o.beside = t.relation"
											" WHERE s.node = %s AND %s IN (t.stored_name || '_' || s.shard, c.counter || '_' || o.kind || '_' || s.shard)",
											quote_literal_cstr(node), quote_literal_cstr(name))) != NULL;
}

static void
drop_table(const CleanupRecord *record, RemoteConnection *conn)
{
	if (is_placed(record->node, record->name))
	{
		ereport(WARNING,
				(errmsg("dbscale: table \"%s\" on node \"%s\" was to be dropped, but is a shard", record->name,
						record->node)));
		return;
	}
	(void) dbscale_remote_execute(conn, psprintf("DROP TABLE IF EXISTS %s CASCADE",
												 quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA, record->name)),
								  REMOTE_NO_PARAMS, record->name);
}

/* One that a shard's triggers call cannot be dropped: PostgreSQL sees to that. */
static void
drop_function(const CleanupRecord *record, RemoteConnection *conn)
{
	if (is_placed(record->node, record->name))
	{
		ereport(WARNING,
				(errmsg("dbscale: function \"%s\" on node \"%s\" was to be dropped, but belongs to a shard", record->name,
						record->node)));
		return;
	}
	(void) dbscale_remote_execute(conn, psprintf("DROP FUNCTION IF EXISTS %s",
												 quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA, record->name)),
								  REMOTE_NO_PARAMS, record->name);
}

static void
drop_publication(const CleanupRecord *record, RemoteConnection *conn)
{
	(void) dbscale_remote_execute(conn, psprintf("DROP PUBLICATION IF EXISTS %s", quote_identifier(record->name)),
								  REMOTE_NO_PARAMS, record->name);
}

/* The table may have gone, or moved on, and the constraint with it. */
static void
validate_foreign_key(const CleanupRecord *record, RemoteConnection *conn)
{
	char	   *table = pstrdup(record->name);
	char	   *constraint = strchr(table, '.');
	char	   *there;

	/* a dot in the table's name: the constraint's begins behind the shard's number */
	while (constraint != NULL && strchr("0123456789", constraint[-1]) == NULL)
		constraint = strchr(constraint + 1, '.');
	if (constraint == NULL)
		return;
	*constraint++ = '\0';
	if (!is_placed(record->node, table))
		return;
	there = dbscale_remote_query_value(conn,
									   psprintf("SELECT 1 FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid"
												" WHERE c.relnamespace = to_regnamespace('%s') AND c.relname = %s"
												" AND k.conname = %s AND NOT k.convalidated", DBSCALE_SHARDS_SCHEMA,
												quote_literal_cstr(table), quote_literal_cstr(constraint)),
									   REMOTE_NO_PARAMS);
	if (there != NULL)
		(void) dbscale_remote_execute(conn, psprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s",
													 quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA, table),
													 quote_identifier(constraint)), REMOTE_NO_PARAMS, table);
}

static const struct
{
	const char *kind;
	void		(*run) (const CleanupRecord *record, RemoteConnection *conn);
}			kinds[] =
{
	{"table", drop_table},
	{"function", drop_function},
	{"publication", drop_publication},
	{"foreign key", validate_foreign_key},
};

/* In a transaction, which commits both or none; false if somebody else is at it. */
bool
dbscale_cleanup_do(const CleanupRecord *record)
{
	const ShardNode *node = dbscale_catalog_node(record->node);

	(void) set_config_option("lock_timeout", DROP_LOCK_TIMEOUT, PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	if (dbscale_ddl_execute_as_owner(psprintf("DELETE FROM dbscale.cleanup WHERE node = %s AND kind = %s AND name = %s"
											  " AND job = " INT64_FORMAT, quote_literal_cstr(record->node),
											  quote_literal_cstr(record->kind), quote_literal_cstr(record->name),
											  record->job)) != 1)
		return false;
	if (node == NULL)
		return true;			/* it was removed, and what is on it is not ours any more */
	for (int i = 0; i < lengthof(kinds); i++)
		if (strcmp(record->kind, kinds[i].kind) == 0)
			kinds[i].run(record, dbscale_transaction_connection(node->serverid, dbscale_ddl_node_user(node),
																REMOTE_WRITE));
	return true;
}

/* One record in a transaction of its own; what fails is for the maintenance worker. */
static void
try_record(const CleanupRecord *record, MemoryContext context)
{
	PG_TRY();
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		(void) dbscale_cleanup_do(record);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		EmitErrorReport();
		FlushErrorState();
		AbortCurrentTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
}

/* A copy of the list that survives the transaction. */
static List *
copy_records(List *records, MemoryContext context)
{
	MemoryContext caller = MemoryContextSwitchTo(context);
	List	   *copy = NIL;
	ListCell   *lc;

	foreach(lc, records)
	{
		CleanupRecord *record = palloc(sizeof(CleanupRecord));

		*record = *(CleanupRecord *) lfirst(lc);
		record->node = pstrdup(record->node);
		record->kind = pstrdup(record->kind);
		record->name = pstrdup(record->name);
		copy = lappend(copy, record);
	}
	MemoryContextSwitchTo(caller);
	return copy;
}

void
cleanup_run(int64 job, MemoryContext context)
{
	List	   *records;
	ListCell   *lc;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	records = copy_records(dbscale_cleanup_due(job), context);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	foreach(lc, records)
		try_record(lfirst(lc), context);
}

/* run_cleanup() → how much is left: all that is due, at once and in this transaction. */
Datum
dbscale_run_cleanup(PG_FUNCTION_ARGS)
{
	ListCell   *lc;
	char	   *left;

	foreach(lc, dbscale_cleanup_due(0))
		(void) dbscale_cleanup_do(lfirst(lc));
	left = dbscale_ddl_query_value("SELECT count(*) FROM dbscale.cleanup");
	PG_RETURN_INT32(atoi(left));
}
