/*
 * verify.c
 *		Is the copy what the shard is?  Nobody is blocked for the answer.
 *
 * The rows of source and target are compared as they were at one position P of the
 * source's log:
 *
 *	1. Application is stopped before the transactions that commit from now on.
 *	2. A second temporary slot is created; its consistent point is P, which is later
 *	   than 1, and its snapshot sees exactly what was committed before P.
 *	3. Exactly that is applied to the target, which then opens a snapshot of its own.
 *	4. Application goes on, while both nodes count their rows under the two snapshots,
 *	   and add up a hash of each row's text.
 *
 * The sum does not depend on the order of rows, and a row that is there twice, or is
 * missing, changes count and sum.  Hashes are of 64 bits and added up as numeric, so
 * nothing overflows.  Creating the slot waits for transactions that are writing on
 * the source's server when it begins; meanwhile nothing is applied, but the source
 * keeps what is to come.
 */
#include "rebalance/internal.h"

#include "catalog/progress.h"
#include "miscadmin.h"
#include "utils/builtins.h"

/* One row a table: its place in the list of members, the count, the sum. */
static char *
checksum_sql(const Move *move)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	foreach(lc, move->members)
	{
		MoveMember *member = lfirst(lc);

		appendStringInfo(&sql, "%sSELECT %d, count(*), sum(hashtextextended(ROW(%s)::text COLLATE \"C\", 0)::numeric) FROM ONLY %s",
						 foreach_current_index(lc) > 0 ? " UNION ALL " : "", foreach_current_index(lc),
						 member->columns, member->table);
	}
	appendStringInfoString(&sql, " ORDER BY 1");
	return sql.data;
}

static bool
same(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static void
compare(const Move *move, List *source, List *target)
{
	ListCell   *lc,
			   *lc2,
			   *lc3;

	forthree(lc, move->members, lc2, source, lc3, target)
	{
		MoveMember *member = lfirst(lc);
		char	  **s = lfirst(lc2);
		char	  **t = lfirst(lc3);

		if (same(s[1], t[1]) && same(s[2], t[2]))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the copy of \"%s\" on node \"%s\" differs from the shard on node \"%s\"",
						member->stored, NameStr(move->target.name), NameStr(move->source.name)),
				 errdetail("Rows and checksum are %s and %s there, and %s and %s here.", t[1], t[2] ? t[2] : "none",
						   s[1], s[2] ? s[2] : "none"),
				 errhint("The shard is where it was; nothing is lost. Please report this.")));
	}
}

/* Steps 1 and 2: the session with the snapshot of P. */
static RemoteStream *
snapshot_of_source(Move *move, XLogRecPtr *position)
{
	RemoteStream *source = move_open_stream(move, &move->source, true);
	List	   *rows;

	(void) apply_up_to_mark(move->apply);
	apply_stop_at(move->apply, move_parse_lsn(dbscale_stream_value(move->side,
																   "SELECT pg_current_wal_insert_lsn()")));
	(void) dbscale_stream_value(source, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
	dbscale_stream_send(source, psprintf("CREATE_REPLICATION_SLOT %s TEMPORARY LOGICAL pgoutput (SNAPSHOT 'use')",
										 quote_identifier(psprintf("%s_v", move->slot))));
	while (!dbscale_stream_is_done(source))
	{
		(void) apply_take(move->apply);
		apply_wait(move->apply, list_make1(source), 1000);
	}
	rows = dbscale_stream_rows(source);
	*position = move_parse_lsn(rows == NIL ? NULL : ((char **) linitial(rows))[1]);
	return source;
}

void
move_verify(Move *move)
{
	RemoteStream *target = move_open_stream(move, &move->target, false);
	RemoteStream *source;
	XLogRecPtr	position;
	char	   *sql = checksum_sql(move);

	source = snapshot_of_source(move, &position);
	apply_stop_at(move->apply, position);
	(void) apply_up_to_mark(move->apply);
	(void) dbscale_stream_value(target, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
	(void) dbscale_stream_value(target, "SELECT 1");
	apply_stop_at(move->apply, InvalidXLogRecPtr);

	dbscale_stream_send(source, sql);
	dbscale_stream_send(target, sql);
	while (!dbscale_stream_is_done(source) || !dbscale_stream_is_done(target))
	{
		if (!apply_take(move->apply))
			apply_wait(move->apply, list_make2(source, target), 100);
	}
	compare(move, dbscale_stream_rows(source), dbscale_stream_rows(target));
	dbscale_stream_close(source);
	dbscale_stream_close(target);
}
