/*
 * apply.c
 *		What is written to the source meanwhile, applied to the target.
 *
 * The source's transactions come whole and in the order of their commits.  Many small
 * ones are applied in one transaction of the target, as large as BATCH_ROWS says, and
 * at the latest when nothing more has come; one that is large is one transaction there
 * too.  Each change is a prepared statement that names its row by the replica identity
 * and must find exactly one: anything else means that the copy is not what the source
 * is, and the move fails.
 *
 * Where a shard is split, a change goes to the part of its row's key.  An UPDATE that
 * changes the key may be one of two parts: then the row is brought to the other, and
 * changed there.  (The key is part of the identity, which check.c sees to, so the old key
 * comes with such an UPDATE.)
 *
 * The position up to which the target has committed is confirmed to the source, which
 * may then recycle its log.  Nothing else need be remembered: slot and process end
 * together, and who begins again begins with an empty target.
 *
 * Marks.  "Has everything been applied?" is asked by writing a mark into the source's
 * log (pg_logical_emit_message, in a transaction of its own) and waiting until it
 * comes back through the stream.
 *	1. What was committed before the mark was written has its commit record before the
 *	   mark's, so it has come before the mark does.
 *	2. The mark's own commit is flushed (synchronous_commit is on for it), and with it
 *	   everything before it in the log, of asynchronous commits too; the source only
 *	   streams what has been flushed.
 * How long it took is how far we are behind.
 */
#include "rebalance/internal.h"

#include "access/xact.h"
#include "catalog/progress.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define BATCH_ROWS 2000
#define IN_FLIGHT 256
/* The source ends a session that says nothing for wal_sender_timeout. */
#define FEEDBACK_MS 5000
#define MARK_PREFIX "dbscale"

/* A table of the source, and the statements for its copy. */
typedef struct ApplyTable
{
	uint32		id;
	MoveMember *member;
	ChangeRelation *source;
	int			key;			/* the shard key, among the source's columns */
	char	  **insert_sql;		/* for each part */
} ApplyTable;

struct Apply
{
	Move	   *move;
	List	   *tables;			/* of ApplyTable * */
	MemoryContext batch;		/* of what is being applied; reset at its commit */
	RemoteConnection *target;	/* NULL: no transaction is open */
	List	   *statements;		/* sent and not yet read */
	int			rows;			/* in the open transaction */
	bool		within;			/* a transaction of the source */
	XLogRecPtr	applied;		/* all before it is committed on the target */
	XLogRecPtr	came;			/* the end of the last transaction that came */
	const char *snapshot;		/* see apply_hold */
	const char *held;			/* the message that waits */
	int			held_length;
	XLogRecPtr	held_at;		/* its transaction's commit */
	int64		marks;			/* written */
	int64		mark_seen;
	TimestampTz feedback_at;
};

/* ---- statements ---- */

static char *
insert_sql(const ChangeRelation *source, const char *table)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO %s (", table);
	for (int i = 0; i < source->ncolumns; i++)
		appendStringInfo(&sql, "%s%s", i > 0 ? ", " : "", quote_identifier(source->columns[i]));
	appendStringInfoString(&sql, ") VALUES (");
	for (int i = 0; i < source->ncolumns; i++)
		appendStringInfo(&sql, "%s$%d", i > 0 ? ", " : "", i + 1);
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

/* Parameters are collected beside the text. */
typedef struct Statement
{
	StringInfoData sql;
	int			count;
	const char **values;
} Statement;

static void
begin_statement(Statement *statement, int columns)
{
	initStringInfo(&statement->sql);
	statement->count = 0;
	statement->values = palloc(sizeof(char *) * Max(2 * columns, 1));
}

static void
append_parameter(Statement *statement, const char *value)
{
	statement->values[statement->count++] = value;
	appendStringInfo(&statement->sql, "$%d", statement->count);
}

/* The row of the old key, or of the old row where all of it is the identity. */
static void
append_identity(Statement *statement, const ApplyTable *table, int part, const ChangeTuple *tuple)
{
	const ChangeRelation *source = table->source;
	bool		whole = source->identity == REPLICA_IDENTITY_FULL;
	bool		first = true;

	appendStringInfoString(&statement->sql, " WHERE ");
	if (whole)
		appendStringInfo(&statement->sql, "ctid = (SELECT ctid FROM ONLY %s WHERE ", table->member->targets[part]);
	for (int i = 0; i < source->ncolumns; i++)
	{
		if (!whole && !source->is_key[i])
			continue;
		if (tuple->kinds[i] == 'u' || (!whole && tuple->kinds[i] == 'n'))
			elog(ERROR, "the identity of a row of \"%s\" did not come", table->member->stored);
		appendStringInfo(&statement->sql, "%s%s %s ", first ? "" : " AND ", quote_identifier(source->columns[i]),
						 whole ? "IS NOT DISTINCT FROM" : "=");
		append_parameter(statement, tuple->values[i]);
		first = false;
	}
	if (first)
		elog(ERROR, "rows of \"%s\" have no identity", table->member->stored);
	if (whole)
		appendStringInfoString(&statement->sql, " LIMIT 1)");
}

/* ---- the target ---- */

static void
open_batch(Apply *apply)
{
	MemoryContext caller = CurrentMemoryContext;

	if (apply->target != NULL)
		return;
	apply->target = move_write_target(apply->move);
	MemoryContextSwitchTo(caller);
	dbscale_remote_queue_command(apply->target, "SET CONSTRAINTS ALL DEFERRED");
	apply->rows = 0;
}

static void
finish_statements(Apply *apply)
{
	ListCell   *lc;

	foreach(lc, apply->statements)
	{
		if (dbscale_remote_finish(lfirst(lc)) != 1)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("a row that was changed on node \"%s\" is not on node \"%s\"",
							NameStr(apply->move->source.name), NameStr(apply->move->target.name)),
					 errdetail("The copy of shard %d is not what the shard is.", apply->move->shard),
					 errhint("The shard is where it was; nothing is lost.")));
		dbscale_remote_close(lfirst(lc));
	}
	list_free(apply->statements);
	apply->statements = NIL;
}

static void
send_change(Apply *apply, const ApplyTable *table, const char *sql, const char **values, int count)
{
	RemoteParams params = {count, NULL, values, NULL, NULL};

	open_batch(apply);
	apply->statements = lappend(apply->statements,
								dbscale_remote_send(apply->target, sql, &params, REMOTE_PREPARE,
													table->member->stored));
	apply->rows++;
	if (list_length(apply->statements) >= IN_FLIGHT)
		finish_statements(apply);
}

/* Write position, flush position, apply position, time, and whether an answer is wanted. */
static void
send_feedback(Apply *apply)
{
	StringInfoData message;

	initStringInfo(&message);
	pq_sendbyte(&message, 'r');
	pq_sendint64(&message, apply->applied);
	pq_sendint64(&message, apply->applied);
	pq_sendint64(&message, apply->applied);
	pq_sendint64(&message, GetCurrentTimestamp());
	pq_sendbyte(&message, 0);
	dbscale_stream_put(apply->move->stream, message.data, message.len);
	pfree(message.data);
	apply->feedback_at = GetCurrentTimestamp();
}

/* Between two transactions of the source: what was applied so far is committed. */
static void
commit_batch(Apply *apply)
{
	if (apply->target != NULL)
	{
		finish_statements(apply);
		move_commit(apply->move);
		apply->target = NULL;
		apply->applied = apply->came;
		send_feedback(apply);
	}
	else
		apply->applied = Max(apply->applied, apply->came);
	MemoryContextReset(apply->batch);
}

/* ---- changes ---- */

static MoveMember *
find_member(const Move *move, const ChangeRelation *relation)
{
	ListCell   *lc;

	foreach(lc, move->members)
	{
		MoveMember *member = lfirst(lc);

		if (strcmp(relation->schema, DBSCALE_SHARDS_SCHEMA) == 0 && strcmp(relation->name, member->stored) == 0)
			return member;
	}
	ereport(ERROR,
			(errcode(ERRCODE_MOVE_AGAIN),
			 errmsg("table \"%s\" on node \"%s\" is not one of those that are moved", relation->name,
					NameStr(move->source.name)),
			 errdetail("It was renamed while shard %d moved.", move->shard)));
}

static ApplyTable *
find_table(Apply *apply, uint32 id)
{
	ListCell   *lc;

	foreach(lc, apply->tables)
	{
		ApplyTable *table = lfirst(lc);

		if (table->id == id)
			return table;
	}
	return NULL;
}

static ApplyTable *
require_table(Apply *apply, uint32 id)
{
	ApplyTable *table = find_table(apply, id);

	if (table == NULL)
		elog(ERROR, "a change of a table came that was not described");
	return table;
}

static int
find_column(const Move *move, const ChangeRelation *relation, const char *name)
{
	for (int i = 0; i < relation->ncolumns; i++)
		if (strcmp(relation->columns[i], name) == 0)
			return i;
	ereport(ERROR,
			(errcode(ERRCODE_MOVE_AGAIN),
			 errmsg("the shard key of table \"%s\" was renamed while shard %d was copied", relation->name, move->shard),
			 errdetail("It was \"%s\".", name)));
}

/* A table that is described again was altered; what it was altered to, the cut-over finds. */
static void
describe_table(Apply *apply, ChangeRelation *relation)
{
	ApplyTable *table = find_table(apply, relation->id);

	if (table == NULL)
	{
		table = palloc0(sizeof(ApplyTable));
		table->id = relation->id;
		apply->tables = lappend(apply->tables, table);
	}
	table->member = find_member(apply->move, relation);
	table->source = relation;
	table->key = find_column(apply->move, relation, table->member->key);
	table->insert_sql = palloc(sizeof(char *) * list_length(apply->move->parts));
	for (int i = 0; i < list_length(apply->move->parts); i++)
		table->insert_sql[i] = insert_sql(relation, table->member->targets[i]);
}

/* Of a row, or of its identity; what is unchanged and was not sent is in the other tuple. */
static int
part_of(Apply *apply, const ApplyTable *table, const ChangeTuple *tuple, const ChangeTuple *other)
{
	if (apply->move->router == NULL)
		return 0;
	open_batch(apply);			/* types are looked up */
	if (tuple->kinds[table->key] == 'u')
		tuple = other;
	if (tuple == NULL || tuple->kinds[table->key] == 'u')
		elog(ERROR, "the key of a row of \"%s\" did not come", table->member->stored);
	return parts_route(apply->move, tuple->values[table->key]);
}

/* An UPDATE of the key: the row as it is goes to the other part first. */
static void
change_part(Apply *apply, const ApplyTable *table, const ChangeTuple *identity, int from, int to)
{
	const MoveMember *member = table->member;
	Statement	statement;

	begin_statement(&statement, identity->ncolumns);
	appendStringInfo(&statement.sql, "WITH gone AS (DELETE FROM ONLY %s", member->targets[from]);
	append_identity(&statement, table, from, identity);
	appendStringInfo(&statement.sql, " RETURNING %s) INSERT INTO %s (%s) SELECT %s FROM gone",
					 member->columns, member->targets[to], member->columns, member->columns);
	send_change(apply, table, statement.sql.data, statement.values, statement.count);
}

static void
apply_insert(Apply *apply, const ApplyTable *table, const ChangeTuple *tuple)
{
	int			part = part_of(apply, table, tuple, NULL);

	send_change(apply, table, table->insert_sql[part], tuple->values, tuple->ncolumns);
}

static void
apply_update(Apply *apply, const ApplyTable *table, const Change *change)
{
	const ChangeTuple *tuple = change->new_tuple;
	const ChangeTuple *identity = change->old_tuple ? change->old_tuple : tuple;
	int			part = part_of(apply, table, tuple, identity);
	int			old_part = part_of(apply, table, identity, tuple);
	Statement	statement;
	bool		first = true;

	if (part != old_part)
		change_part(apply, table, identity, old_part, part);
	begin_statement(&statement, tuple->ncolumns);
	appendStringInfo(&statement.sql, "UPDATE ONLY %s SET ", table->member->targets[part]);
	for (int i = 0; i < tuple->ncolumns; i++)
	{
		if (tuple->kinds[i] == 'u')
			continue;
		appendStringInfo(&statement.sql, "%s%s = ", first ? "" : ", ", quote_identifier(table->source->columns[i]));
		append_parameter(&statement, tuple->values[i]);
		first = false;
	}
	if (first)
		return;					/* nothing that is sent has changed */
	append_identity(&statement, table, part, identity);
	send_change(apply, table, statement.sql.data, statement.values, statement.count);
}

static void
apply_delete(Apply *apply, const ApplyTable *table, const Change *change)
{
	int			part = part_of(apply, table, change->old_tuple, NULL);
	Statement	statement;

	begin_statement(&statement, change->old_tuple->ncolumns);
	appendStringInfo(&statement.sql, "DELETE FROM ONLY %s", table->member->targets[part]);
	append_identity(&statement, table, part, change->old_tuple);
	send_change(apply, table, statement.sql.data, statement.values, statement.count);
}

/* Of two shards that are merged one may be truncated, and the part has the other's rows too. */
static void
check_truncate(const Apply *apply)
{
	if (list_length(apply->move->sources) == 1)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_MOVE_AGAIN),
			 errmsg("a shard was truncated while it was merged with another"),
			 errdetail("The copy has the rows of both."),
			 errhint("Merge the shards again.")));
}

static void
apply_truncate(Apply *apply, const Change *change)
{
	StringInfoData sql;
	ListCell   *lc;

	check_truncate(apply);
	initStringInfo(&sql);
	appendStringInfoString(&sql, "TRUNCATE ");
	foreach(lc, change->relations)
	{
		const MoveMember *member = require_table(apply, lfirst_oid(lc))->member;

		for (int i = 0; i < list_length(apply->move->parts); i++)
			appendStringInfo(&sql, "%sONLY %s", foreach_current_index(lc) + i > 0 ? ", " : "", member->targets[i]);
	}
	open_batch(apply);
	finish_statements(apply);
	(void) dbscale_remote_execute(apply->target, sql.data, REMOTE_NO_PARAMS, NULL);
	apply->rows++;
}

static void
see_mark(Apply *apply, const Change *change)
{
	char	   *dot = strchr(change->content, '.');

	if (strcmp(change->prefix, MARK_PREFIX) == 0 && dot != NULL &&
		strtoll(change->content, NULL, 10) == apply->move->job)
		apply->mark_seen = strtoll(dot + 1, NULL, 10);
}

/* Has this transaction ended for a snapshot "xmin:xmax:xid,xid..."? */
static bool
snapshot_sees(const char *snapshot, uint32 xid)
{
	char	   *rest;
	uint64		xmin = strtou64(snapshot, &rest, 10);
	uint64		xmax = strtou64(rest + 1, &rest, 10);
	/* the one of these 32 bits that is nearest */
	uint64		full = xmax + (int32) (xid - (uint32) xmax);

	if (full < xmin || full >= xmax)
		return full < xmin;
	while (*rest != '\0' && rest[1] != '\0')
	{
		if (strtou64(rest + 1, &rest, 10) == full)
			return false;
	}
	return true;
}

/* False: the transaction that begins here must wait. */
static bool
apply_change(Apply *apply, const Change *change)
{
	switch (change->kind)
	{
		case 'B':
			if (apply->snapshot != NULL && !snapshot_sees(apply->snapshot, change->xid))
			{
				apply->held_at = change->commit_lsn;
				return false;
			}
			apply->within = true;
			break;
		case 'C':
			apply->within = false;
			apply->came = change->end_lsn;
			if (apply->rows >= BATCH_ROWS)
				commit_batch(apply);
			break;
		case 'I':
			apply_insert(apply, require_table(apply, change->relation), change->new_tuple);
			break;
		case 'U':
			apply_update(apply, require_table(apply, change->relation), change);
			break;
		case 'D':
			apply_delete(apply, require_table(apply, change->relation), change);
			break;
		case 'T':
			apply_truncate(apply, change);
			break;
		case 'M':
			see_mark(apply, change);
			break;
		default:
			break;
	}
	return true;
}

/* ---- the stream ---- */

/* The source's position, when it is ahead of anything that concerns us. */
static void
take_keepalive(Apply *apply, const char *data, int length)
{
	StringInfoData message = {unconstify(char *, data), length, length, 1};
	XLogRecPtr	end = pq_getmsgint64(&message);

	(void) pq_getmsgint64(&message);
	if (!apply->within && apply->target == NULL)
		apply->applied = Max(apply->applied, end);
	if (pq_getmsgbyte(&message) != 0)
		send_feedback(apply);
}

/* One message; false if it must wait. */
static bool
take_message(Apply *apply, const char *data, int length)
{
	const int	header = 1 + 3 * sizeof(int64);
	MemoryContext caller;
	bool		taken;

	if (data[0] == 'k')
	{
		take_keepalive(apply, data, length);
		return true;
	}
	if (data[0] != 'w' || length <= header)
		return true;
	/* a table's description lives as long as the move */
	caller = MemoryContextSwitchTo(data[header] == 'R' ? apply->move->context : apply->batch);
	if (data[header] == 'R')
	{
		describe_table(apply, pgoutput_parse(data + header, length - header)->description);
		taken = true;
	}
	else
		taken = apply_change(apply, pgoutput_parse(data + header, length - header));
	MemoryContextSwitchTo(caller);
	/* a transaction of millions of rows is not to be kept in memory */
	if (apply->statements == NIL)
		MemoryContextReset(apply->batch);
	return taken;
}

bool
apply_take(Apply *apply)
{
	const char *data;
	int			length;
	bool		any = false;

	while (apply->held == NULL && dbscale_stream_message(apply->move->stream, &data, &length))
	{
		CHECK_FOR_INTERRUPTS();
		any = true;
		if (!take_message(apply, data, length))
		{
			apply->held = data;
			apply->held_length = length;
		}
	}
	if (!apply->within)
		commit_batch(apply);
	move_reload_settings();
	if (TimestampDifferenceExceeds(apply->feedback_at, GetCurrentTimestamp(), FEEDBACK_MS))
		send_feedback(apply);
	return any;
}

void
apply_wait(Apply *apply, List *others, long timeout)
{
	List	   *streams = list_copy(others);

	if (apply->held == NULL)
		streams = lappend(streams, apply->move->stream);
	dbscale_stream_wait(streams, timeout);
	list_free(streams);
}

/* What was held is looked at again. */
void
apply_hold(Apply *apply, const char *snapshot)
{
	const char *data = apply->held;

	apply->snapshot = snapshot;
	apply->held = NULL;
	if (data != NULL && !take_message(apply, data, apply->held_length))
		apply->held = data;
}

XLogRecPtr
apply_held_at(const Apply *apply)
{
	return apply->held ? apply->held_at : InvalidXLogRecPtr;
}

/* Write a mark; the source also tells how much of its log the slot keeps. */
static void
write_mark(Apply *apply)
{
	Move	   *move = apply->move;
	char	   *sql = psprintf("SELECT pg_logical_emit_message(true, '%s', '" INT64_FORMAT "." INT64_FORMAT "'),"
							   " (SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)"
							   " FROM pg_replication_slots WHERE slot_name = %s),"
							   " pg_wal_lsn_diff(pg_current_wal_lsn(), '%X/%X')",
							   MARK_PREFIX, move->job, ++apply->marks, quote_literal_cstr(move->slot),
							   LSN_FORMAT_ARGS(apply->applied));
	List	   *rows;
	char	  **row;

	dbscale_stream_send(move->side, sql);
	rows = dbscale_stream_rows(move->side);
	row = linitial(rows);
	move_check_lag(move, row[1]);
	dbscale_progress_set_lag(Max(strtoll(row[2], NULL, 10), 0));
}

/* Has it come, or is it behind a transaction that waits? */
long
apply_up_to_mark(Apply *apply)
{
	TimestampTz start = GetCurrentTimestamp();

	write_mark(apply);
	while (apply->held == NULL && (apply->mark_seen < apply->marks || apply->within))
	{
		if (!apply_take(apply))
			apply_wait(apply, NIL, 1000);
	}
	commit_batch(apply);
	return TimestampDifferenceMilliseconds(start, GetCurrentTimestamp());
}

Apply *
apply_create(Move *move, XLogRecPtr start)
{
	Apply	   *apply = palloc0(sizeof(Apply));

	apply->move = move;
	apply->applied = apply->came = start;
	apply->batch = AllocSetContextCreate(move->context, "dbscale apply", ALLOCSET_DEFAULT_SIZES);
	return apply;
}

void
apply_start(Apply *apply)
{
	Move	   *move = apply->move;

	dbscale_stream_start(move->stream,
						 psprintf("START_REPLICATION SLOT %s LOGICAL %X/%X (proto_version '1', publication_names %s, messages 'true')",
								  quote_identifier(move->slot), LSN_FORMAT_ARGS(apply->applied),
								  quote_literal_cstr(quote_identifier(move->publication))));
	(void) dbscale_stream_value(move->side, "SET synchronous_commit = local");
	apply->feedback_at = GetCurrentTimestamp();
}

bool
apply_is_idle(const Apply *apply)
{
	return apply->target == NULL && !apply->within;
}
