/*
 * copy.c
 *		The first copy of a shard's rows, under the snapshot of a replication slot.
 *
 * One session on the source does all that must fit together.  In a transaction it
 * creates the slot, whose snapshot becomes the transaction's: it sees exactly what was
 * committed before the position from which the slot streams.  It sends the tables'
 * rows by COPY, ends the transaction, and later streams what came after.  The slot is
 * temporary, so that it ends with the session, whoever dies.
 *
 * The rows pass through this process to the target.  Each PIECE is a transaction of
 * its own there: on a server that holds both nodes, or other shards on the move, a
 * long one would keep every new slot waiting.
 *
 * Of a shard that is split each row goes to its part, which is found here, by its key.
 *
 * Creating a slot waits for all transactions that write on the source's server, since
 * what they wrote before cannot be decoded.  The job's step says for whom, and after
 * dbscale.move_start_timeout the move is given up.
 */
#include "rebalance/internal.h"

#include "access/xlog.h"
#include "catalog/progress.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define PIECE (64 * 1024 * 1024)
/* Rows for one of several parts are sent when they are so many bytes. */
#define COLLECTED (1024 * 1024)
#define REPORT (64 * 1024)
#define LAG_CHECK_MS 5000
#define BLOCKER_CHECK_MS 1000

/* What has been sent, to hold it against dbscale.move_rate_limit. */
typedef struct Pace
{
	TimestampTz since;
	int64		bytes;
	int64		unreported;
	TimestampTz lag_checked;
} Pace;

void
move_check_lag(const Move *move, const char *retained)
{
	if (retained == NULL || strtoll(retained, NULL, 10) / (1024 * 1024) < dbscale_max_move_lag)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("the move keeps node \"%s\" from recycling too much of its log", NameStr(move->source.name)),
			 errdetail("It is %s bytes; the limit is %d MB (dbscale.max_move_lag).", retained, dbscale_max_move_lag),
			 errhint("Move the shard when less is written, or raise the limit.")));
}

static void
check_lag(const Move *move)
{
	move_check_lag(move, dbscale_stream_value(move->side,
											  psprintf("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)"
													   " FROM pg_replication_slots WHERE slot_name = %s",
													   quote_literal_cstr(move->slot))));
}

/* Sleep as long as what was sent is ahead of the limit. */
static void
keep_pace(Pace *pace)
{
	for (;;)
	{
		int64		allowed_ms = dbscale_move_rate_limit == 0 ? 0 :
			pace->bytes / ((int64) dbscale_move_rate_limit * 1024 * 1024 / 1000);
		long		early = allowed_ms - TimestampDifferenceMilliseconds(pace->since, GetCurrentTimestamp());

		if (early <= 0)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(early, 1000), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

static void
note_bytes(Move *move, Pace *pace, int length)
{
	TimestampTz now;

	pace->bytes += length;
	pace->unreported += length;
	if (pace->unreported < REPORT)
		return;
	dbscale_progress_add_bytes(pace->unreported);
	pace->unreported = 0;
	move_reload_settings();
	keep_pace(pace);
	now = GetCurrentTimestamp();
	if (!TimestampDifferenceExceeds(pace->lag_checked, now, LAG_CHECK_MS))
		return;
	pace->lag_checked = now;
	check_lag(move);
}

static void
copy_begin(RemoteConnection *target, const MoveMember *member, int part)
{
	dbscale_remote_copy_begin(target, psprintf("COPY %s (%s) FROM STDIN", member->targets[part], member->columns),
							  member->stored);
}

static void
copy_end(RemoteConnection *target)
{
	dbscale_remote_copy_end(target);
	dbscale_remote_sync(target);
}

/* One transaction on the target; true while there is more. */
static bool
copy_piece(Move *move, MoveMember *member, Pace *pace)
{
	RemoteConnection *target;
	int64		start = pace->bytes;
	const char *data;
	int			length;
	bool		more = false;

	target = move_write_target(move);
	copy_begin(target, member, 0);
	while (pace->bytes - start < PIECE && (more = dbscale_stream_copy_row(move->stream, &data, &length)))
	{
		CHECK_FOR_INTERRUPTS();
		dbscale_remote_copy_data(target, data, length);
		note_bytes(move, pace, length);
	}
	copy_end(target);
	move_commit(move);
	return more;
}

/* Rows that wait for one of the parts. */
static void
flush_rows(RemoteConnection *target, const MoveMember *member, int part, StringInfo rows)
{
	if (rows->len == 0)
		return;
	copy_begin(target, member, part);
	dbscale_remote_copy_data(target, rows->data, rows->len);
	copy_end(target);
	resetStringInfo(rows);
}

/* The same for several parts: a connection has one COPY at a time, so rows are collected. */
static bool
copy_piece_to_parts(Move *move, MoveMember *member, Pace *pace)
{
	RemoteConnection *target = move_write_target(move);
	int			nparts = list_length(move->parts);
	StringInfoData *rows = palloc(sizeof(StringInfoData) * nparts);
	int64		start = pace->bytes;
	const char *data;
	int			length;
	bool		more = false;

	for (int i = 0; i < nparts; i++)
		initStringInfo(&rows[i]);
	while (pace->bytes - start < PIECE && (more = dbscale_stream_copy_row(move->stream, &data, &length)))
	{
		int			part = parts_route_line(move, member->key_position, data, length);

		CHECK_FOR_INTERRUPTS();
		appendBinaryStringInfo(&rows[part], data, length);
		if (rows[part].len >= COLLECTED)
			flush_rows(target, member, part, &rows[part]);
		note_bytes(move, pace, length);
	}
	for (int i = 0; i < nparts; i++)
		flush_rows(target, member, i, &rows[i]);
	move_commit(move);
	return more;
}

/* pg_replication_slots names them for the whole server, which others may use too. */
static char *
slot_name(const Move *move)
{
	return psprintf("dbscale_" UINT64_FORMAT "_%u_" INT64_FORMAT, GetSystemIdentifier(), MyDatabaseId, move->job);
}

XLogRecPtr
move_parse_lsn(const char *text)
{
	uint32		high,
				low;

	if (text == NULL || sscanf(text, "%X/%X", &high, &low) != 2)
		elog(ERROR, "invalid position in the log of a node");
	return ((uint64) high << 32) | low;
}

/* For whose end this process of the source waits, in words. */
static char *
transaction_in_the_way(Move *move, const char *pid)
{
	char	   *who = dbscale_stream_value(move->side,
										   psprintf("SELECT CASE WHEN p.gid IS NOT NULL THEN format('prepared transaction \"%%s\"', p.gid)"
													" WHEN h.pid IS NOT NULL THEN concat('process ', h.pid, ' in database \"' || a.datname || '\"') END"
													" FROM pg_locks w LEFT JOIN pg_prepared_xacts p ON p.transaction = w.transactionid"
													" LEFT JOIN pg_locks h ON h.locktype = 'transactionid' AND h.transactionid = w.transactionid AND h.granted"
													" LEFT JOIN pg_stat_activity a ON a.pid = h.pid"
													" WHERE w.pid = %s AND w.locktype = 'transactionid' AND NOT w.granted LIMIT 1", pid));

	return who ? who : "transactions";
}

static void
give_up_waiting(Move *move, const char *who)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("transactions on node \"%s\" did not end in time for the move to begin", NameStr(move->source.name)),
			 errdetail("It has waited %d s (dbscale.move_start_timeout), at last for %s there, which was writing when the move began.",
					   dbscale_move_start_timeout, who),
			 errhint("End that transaction, or raise the limit; then move the shard again.")));
}

/* While the slot is made: show what is waited for, and that not for ever. */
static void
wait_for_slot(Move *move, const char *pid)
{
	TimestampTz start = GetCurrentTimestamp();

	for (;;)
	{
		char	   *who;

		dbscale_stream_wait(list_make1(move->stream), BLOCKER_CHECK_MS);
		if (dbscale_stream_is_done(move->stream))
			return;
		move_reload_settings();
		who = transaction_in_the_way(move, pid);
		dbscale_progress_restate(psprintf("waiting for %s on the source", who));
		check_lag(move);
		if (dbscale_move_start_timeout > 0 &&
			TimestampDifferenceExceeds(start, GetCurrentTimestamp(), dbscale_move_start_timeout * 1000))
			give_up_waiting(move, who);
	}
}

/* In a transaction of the stream; returns from where the slot streams. */
static XLogRecPtr
create_slot(Move *move)
{
	char	   *pid = dbscale_stream_value(move->stream, "SELECT pg_backend_pid()");
	List	   *rows;

	(void) dbscale_stream_value(move->stream, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
	dbscale_stream_send(move->stream, psprintf("CREATE_REPLICATION_SLOT %s TEMPORARY LOGICAL pgoutput (SNAPSHOT 'use')",
											   quote_identifier(move->slot)));
	wait_for_slot(move, pid);
	rows = dbscale_stream_rows(move->stream);
	return move_parse_lsn(rows == NIL ? NULL : ((char **) linitial(rows))[1]);
}

void
move_copy(Move *move)
{
	Pace		pace = {GetCurrentTimestamp(), 0, 0, GetCurrentTimestamp()};
	XLogRecPtr	start;
	ListCell   *lc;

	move->slot = slot_name(move);
	move->stream = move_open_stream(move, &move->source, true);
	move->side = move_open_stream(move, &move->source, false);
	dbscale_progress_step("waiting for transactions on the source");
	start = create_slot(move);
	DEBUG_POINT("move_slot_created");
	dbscale_progress_step("copying rows");
	foreach(lc, move->members)
	{
		MoveMember *member = lfirst(lc);

		dbscale_stream_copy_out(move->stream, psprintf("COPY %s (%s) TO STDOUT", member->table, member->columns));
		while (move->router ? copy_piece_to_parts(move, member, &pace) : copy_piece(move, member, &pace))
			;
	}
	dbscale_progress_add_bytes(pace.unreported);
	(void) dbscale_stream_value(move->stream, "COMMIT");
	move->apply = apply_create(move, start);
}
