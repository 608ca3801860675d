/*
 * recovery.c
 *		Resolving what a crash, or a node out of reach, left prepared.
 *
 * For one node, and with one resolver at a time (a lock that lasts until the end of
 * the transaction):
 *
 *	1. Read the prepared gids of this coordinator and database on the node.
 *	2. Skip those whose local transaction is in progress.
 *	3. Then read the log, with a snapshot taken now (whatever the isolation level).
 *	4. A row for the gid: COMMIT PREPARED.  None: ROLLBACK PREPARED.
 *	5. Read the prepared gids again, and delete the rows of step 3 whose gid is not
 *	   among them.
 *
 * Why this order:
 *	a. A gid seen in 1 was prepared before its local transaction's end.  If 2 finds
 *	   that transaction ended, the snapshot of 3, which is newer, sees its rows if it
 *	   committed; so "no row" in 3 means that it did not, and never will.  With 3
 *	   before 2 a commit between them would be taken for an abort.
 *	b. A gid prepared after 1 is not touched by this run.
 *	c. A row seen in 3 is of a committed transaction, so its gid had been prepared
 *	   before 3.  If it is not there in 5, it has been resolved since, and for a gid
 *	   with a row that can only have been a commit.  The gids of step 1 would not do:
 *	   a transaction that prepared and committed between 1 and 3 has a row, and is not
 *	   in 1, and may still have to be resolved.
 *	d. An xid given again after a crash (its first owner having written no WAL) can
 *	   only delay us in 2: the log is asked for the whole gid, random part included.
 *	   (That COMMIT PREPARED and the deletions pass through a gate is for readers; see
 *	   snapshots.c.)
 *	e. The backend that committed may be at COMMIT PREPARED itself: whoever comes
 *	   second finds the gid gone or busy, and both wanted the same.
 */
#include "transaction/internal.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/metadata.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "storage/lock.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

DBSCALE_FUNCTION(dbscale_recover_transactions);
DBSCALE_FUNCTION(dbscale_prepared_transactions);

/* Log rows deleted by one run on one node. */
#define CLEANUP_BATCH 10000

typedef struct PreparedRemote
{
	char	   *gid;
	char	   *owner;			/* the role on the node */
	char	   *database;
	char	   *prepared_at;
} PreparedRemote;

typedef struct LogRow
{
	char	   *gid;
	ItemPointerData tid;
} LogRow;

/* ---- reading ---- */

static List *
read_prepared(RemoteConnection *conn)
{
	const char *values[1];
	RemoteParams params = {0};
	RemoteStatement *stmt;
	RemoteRow	row;
	List	   *result = NIL;

	values[0] = gid_prefix();
	params.count = 1;
	params.values = values;
	stmt = dbscale_remote_send(conn,
							   "SELECT gid, owner, database, prepared"
							   " FROM pg_catalog.pg_prepared_xacts"
							   " WHERE database OPERATOR(pg_catalog.=) pg_catalog.current_database()"
							   " AND pg_catalog.starts_with(gid, $1) ORDER BY prepared",
							   &params, 0, NULL);
	while (dbscale_remote_next_row(stmt, &row))
	{
		PreparedRemote *p = palloc(sizeof(PreparedRemote));

		p->gid = pstrdup(row.values[0]);
		p->owner = pstrdup(row.values[1]);
		p->database = pstrdup(row.values[2]);
		p->prepared_at = pstrdup(row.values[3]);
		result = lappend(result, p);
	}
	dbscale_remote_close(stmt);
	return result;
}

/* Of LogRow *. */
static List *
read_log(Relation rel, const char *node, Snapshot snapshot)
{
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	List	   *rows = NIL;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		Datum		gid = slot_getattr(slot, 1, &isnull);
		Datum		name = slot_getattr(slot, 2, &isnull);
		LogRow	   *row;

		if (strcmp(NameStr(*DatumGetName(name)), node) != 0)
			continue;
		row = palloc(sizeof(LogRow));
		row->gid = TextDatumGetCString(gid);
		row->tid = slot->tts_tid;
		rows = lappend(rows, row);
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	return rows;
}

static List *
read_log_now(Relation rel, const char *node)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	List	   *rows = read_log(rel, node, snapshot);

	UnregisterSnapshot(snapshot);
	return rows;
}

static bool
log_has(List *log, const char *gid)
{
	ListCell   *lc;

	foreach(lc, log)
	{
		if (strcmp(((LogRow *) lfirst(lc))->gid, gid) == 0)
			return true;
	}
	return false;
}

/* In a reader, perhaps in parallel mode, where no other snapshot can be had. */
bool
log_has_any(const char *node, List *gids)
{
	Relation	rel = table_open(dbscale_relation_oid("transaction_log"), AccessShareLock);
	List	   *log = read_log(rel, node, SnapshotSelf);
	ListCell   *lc;

	table_close(rel, AccessShareLock);
	foreach(lc, gids)
	{
		if (log_has(log, lfirst(lc)))
			return true;
	}
	return false;
}

bool
node_has_doubt(RemoteConnection *conn)
{
	List	   *ended = NIL;
	ListCell   *lc;

	foreach(lc, read_prepared(conn))
	{
		PreparedRemote *p = lfirst(lc);

		if (!gid_is_in_progress(p->gid))
			ended = lappend(ended, p->gid);
	}
	return ended != NIL && log_has_any(dbscale_remote_node_name(conn), ended);
}

static bool
prepared_has(List *prepared, const char *gid)
{
	ListCell   *lc;

	foreach(lc, prepared)
	{
		if (strcmp(((PreparedRemote *) lfirst(lc))->gid, gid) == 0)
			return true;
	}
	return false;
}

/* The transaction id in a gid that begins as ours do. */
static bool
read_gid(const char *gid, uint64 *xid)
{
	const char *rest = gid + strlen(gid_prefix());
	char	   *end;

	*xid = strtou64(rest, &end, 10);
	return end != rest && *end == '_';
}

/* It has been given, and not so long ago that 32 bits of it mean another. */
static bool
xid_is_recent(uint64 xid)
{
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());

	return xid < next && next - xid <= PG_INT32_MAX;
}

/*
 * Is the gid's local transaction running?  A gid that can't be read is not ours to
 * resolve, and so counts as running.  An xid that has not been given yet is one that
 * a crash took back; its transaction has ended (while that ran, the counter was
 * beyond it).  Very old ones are answered here, for 32 bits can't tell their age.
 */
bool
gid_is_in_progress(const char *gid)
{
	uint64		xid;

	if (!read_gid(gid, &xid))
		return true;
	return xid_is_recent(xid) && TransactionIdIsInProgress((TransactionId) xid);
}

int
dbscale_transaction_backend_of(const char *gid)
{
	uint64		xid;

	if (strncmp(gid, gid_prefix(), strlen(gid_prefix())) != 0 || !read_gid(gid, &xid) ||
		!xid_is_recent(xid))
		return 0;
	return BackendXidGetPid((TransactionId) xid);
}

/* ---- resolving ---- */

/*
 * One resolver for the log at a time; an advisory lock, as it is no one's table lock.
 * False if somebody else is at it and we shall not wait.
 */
static bool
lock_recovery(Oid log_relid, bool wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0x64627363, log_relid, 2);
	return LockAcquire(&tag, ExclusiveLock, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

/* The name on the node of a local role with a mapping of its own. */
static const char *
remote_name(Oid roleid, Oid serverid)
{
	ListCell   *lc;

	foreach(lc, GetUserMapping(roleid, serverid)->options)
	{
		DefElem    *def = lfirst(lc);

		if (strcmp(def->defname, "user") == 0)
			return defGetString(def);
	}
	return GetUserNameFromId(roleid, true);
}

/* A local role that is `name` on the node, or InvalidOid. */
static Oid
local_role_of(const char *name, Oid serverid)
{
	Relation	rel = table_open(UserMappingRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	Oid			found = InvalidOid;

	while (!OidIsValid(found) && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_user_mapping mapping = (Form_pg_user_mapping) GETSTRUCT(tuple);
		const char *remote;

		if (mapping->umserver != serverid || !OidIsValid(mapping->umuser))
			continue;
		remote = remote_name(mapping->umuser, serverid);
		if (remote && strcmp(remote, name) == 0)
			found = mapping->umuser;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

static bool
try_resolve(RemoteConnection *conn, const char *command, int *sqlstate)
{
	bool		succeeded;

	(void) dbscale_remote_try_commands(list_make1(conn), list_make1((void *) command),
									   dbscale_commit_timeout, &succeeded, sqlstate);
	return succeeded;
}

/*
 * True if the transaction is resolved now, by us.  The node lets only the role that
 * prepared it (or a superuser) do so: where ours is refused, we go as that role.
 */
static bool
resolve_one(RemoteConnection *conn, const PreparedRemote *p, bool commit)
{
	char	   *command = psprintf("%s PREPARED %s", commit ? "COMMIT" : "ROLLBACK",
								   quote_literal_cstr(p->gid));
	Oid			serverid = dbscale_remote_server(conn);
	int			sqlstate;
	bool		succeeded;

	if (commit)
		gate_enter_commit();
	succeeded = try_resolve(conn, command, &sqlstate);
	if (!succeeded && sqlstate == ERRCODE_INSUFFICIENT_PRIVILEGE)
	{
		Oid			role = local_role_of(p->owner, serverid);

		if (OidIsValid(role))
			succeeded = try_resolve(dbscale_remote_connect(serverid, role), command, &sqlstate);
	}
	if (commit)
		gate_leave_commit();
	if (!succeeded && !prepared_is_gone(sqlstate))
		ereport(WARNING,
				(errcode(sqlstate),
				 errmsg("could not resolve prepared transaction \"%s\" on node \"%s\"",
						p->gid, dbscale_remote_node_name(conn)),
				 errdetail("It belongs to role \"%s\" of the node.", p->owner)));
	return succeeded;
}

static void
clean_log(Relation rel, List *log, List *prepared)
{
	ListCell   *lc;
	int			deleted = 0;

	foreach(lc, log)
	{
		LogRow	   *row = lfirst(lc);

		if (deleted >= CLEANUP_BATCH)
			break;
		if (prepared_has(prepared, row->gid))
			continue;
		if (deleted == 0)
			gate_enter_commit();	/* and stay; see snapshots.c */
		simple_heap_delete(rel, &row->tid);
		deleted++;
	}
}

static RemoteConnection *
connect_for_recovery(Oid serverid, Oid userid)
{
	RemoteConnection *conn = dbscale_remote_connect(serverid, userid);

	if (dbscale_remote_transaction_state(conn) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("prepared transactions on node \"%s\" cannot be resolved by a transaction that has used the node",
						dbscale_remote_node_name(conn)),
				 errhint("Do it in a transaction of its own.")));
	return conn;
}

/* Steps 2 to 4. */
static int
resolve_all(RemoteConnection *conn, Relation rel, List *prepared, List **log)
{
	List	   *ended = NIL;
	ListCell   *lc;
	int			resolved = 0;

	foreach(lc, prepared)
	{
		PreparedRemote *p = lfirst(lc);

		if (!gid_is_in_progress(p->gid))
			ended = lappend(ended, p);
	}
	*log = read_log_now(rel, dbscale_remote_node_name(conn));
	foreach(lc, ended)
	{
		PreparedRemote *p = lfirst(lc);

		resolved += resolve_one(conn, p, log_has(*log, p->gid));
	}
	return resolved;
}

int
dbscale_transaction_recover_node(Oid serverid, Oid userid, bool wait)
{
	Relation	rel;
	RemoteConnection *conn;
	List	   *log;
	int			resolved;

	if (RecoveryInProgress())
		return 0;
	rel = table_open(dbscale_relation_oid("transaction_log"), RowExclusiveLock);
	if (!lock_recovery(RelationGetRelid(rel), wait))
	{
		table_close(rel, NoLock);
		return 0;
	}
	conn = connect_for_recovery(serverid, userid);
	resolved = resolve_all(conn, rel, read_prepared(conn), &log);
	if (log != NIL)
		clean_log(rel, log, read_prepared(conn));
	table_close(rel, NoLock);
	return resolved;
}

/* ---- all nodes, from SQL ---- */

typedef void (*NodeAction) (const ShardNode *node, void *arg);

/*
 * Do it for every node that is enabled, each in a subtransaction: a node that can't
 * be reached is a warning, and the others are done.
 */
static void
for_each_node(NodeAction action, void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ListCell   *lc;

	foreach(lc, dbscale_catalog_nodes())
	{
		const ShardNode *node = lfirst(lc);

		if (!node->enabled)
			continue;
		BeginInternalSubTransaction(NULL);
		MemoryContextSwitchTo(context);
		PG_TRY();
		{
			action(node, arg);
			ReleaseCurrentSubTransaction();
		}
		PG_CATCH();
		{
			ErrorData  *error;

			MemoryContextSwitchTo(context);
			error = CopyErrorData();
			FlushErrorState();
			RollbackAndReleaseCurrentSubTransaction();
			if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
				ReThrowError(error);
			ereport(WARNING,
					(errcode(error->sqlerrcode), errmsg_internal("%s", error->message),
					 error->detail ? errdetail_internal("%s", error->detail) : 0));
		}
		PG_END_TRY();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
}

static void
recover_action(const ShardNode *node, void *arg)
{
	int		   *total = arg;

	*total += dbscale_transaction_recover_node(node->serverid,
											   GetForeignServer(node->serverid)->owner, true);
}

/* dbscale.recover_transactions() */
Datum
dbscale_recover_transactions(PG_FUNCTION_ARGS)
{
	int			total = 0;

	for_each_node(recover_action, &total);
	PG_RETURN_INT32(total);
}

static void
list_action(const ShardNode *node, void *arg)
{
	ReturnSetInfo *rsinfo = arg;
	RemoteConnection *conn = dbscale_transaction_connection(node->serverid,
															GetForeignServer(node->serverid)->owner,
															REMOTE_READ_ALONE);
	List	   *prepared = read_prepared(conn);
	List	   *running = NIL;
	Relation	rel;
	List	   *log;
	ListCell   *lc;

	foreach(lc, prepared)
		running = lappend_int(running, gid_is_in_progress(((PreparedRemote *) lfirst(lc))->gid));
	rel = table_open(dbscale_relation_oid("transaction_log"), AccessShareLock);
	log = read_log_now(rel, NameStr(node->name));
	table_close(rel, AccessShareLock);

	foreach(lc, prepared)
	{
		PreparedRemote *p = lfirst(lc);
		const char *state = log_has(log, p->gid) ? "committed" : "rolled back";
		Datum		values[5];
		bool		nulls[5] = {false};

		if (list_nth_int(running, foreach_current_index(lc)))
			state = "in progress";
		values[0] = NameGetDatum(&node->name);
		values[1] = CStringGetTextDatum(p->gid);
		values[2] = DirectFunctionCall1(namein, CStringGetDatum(p->database));
		values[3] = DirectFunctionCall3(timestamptz_in, CStringGetDatum(p->prepared_at),
										ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
		values[4] = CStringGetTextDatum(state);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/* dbscale.prepared_transactions(); the view dbscale.prepared is over it. */
Datum
dbscale_prepared_transactions(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	for_each_node(list_action, fcinfo->resultinfo);
	return (Datum) 0;
}
