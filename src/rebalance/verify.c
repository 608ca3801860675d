/*
 * verify.c
 *		Is the copy what the shard is?  Nobody is blocked for the answer.
 *
 * The rows of source and target are compared as of one snapshot S of the source:
 *
 *	1. A session of the source opens S, and reads the position L to which the log had
 *	   grown when it had done so.
 *	2. What S sees is applied to the target, and nothing else: application stops before
 *	   the first transaction that S does not see.  A mark, written after 1, is one.
 *	3. If it stops at a transaction that commits before L, S is given up, and all is done
 *	   again with another one.
 *	4. The target opens a snapshot of its own.  Application goes on, while both nodes count
 *	   their rows under the two snapshots, and add up a hash of each row's text.
 *
 * Why the target then has what S sees:
 *	a. A transaction that S sees had written its commit record before S was opened, so
 *	   before L.
 *	b. So where application stops at one that commits at L or later, as the mark does,
 *	   all that S sees have come before it, and have been applied.
 *	c. Transactions commit in the order of the log, but others see them in the order in
 *	   which they leave the list of those in progress, which may be another.  So S may see
 *	   one and not see another that is before it in the log: this is what 3 finds.  (A
 *	   transaction that S does not see, and that commits before L, need not mean that; but
 *	   to know it the log would have to be read on.)  It takes a commit in the very moment
 *	   in which S is opened, which on a busy shard happens, but not time after time.
 *
 * The sum does not depend on the order of rows, and a row that is there twice, or is
 * missing, changes count and sum.  Hashes are of 64 bits and added up as numeric, so
 * nothing overflows.  No transaction is waited for.
 */
#include "rebalance/internal.h"

#include "catalog/progress.h"
#include "miscadmin.h"
#include "utils/builtins.h"

static void
append_checksum(StringInfo sql, const char *table, const char *columns, bool first)
{
	appendStringInfo(sql, "%sSELECT count(*) AS n, sum(hashtextextended(ROW(%s)::text COLLATE \"C\", 0)::numeric) AS h FROM ONLY %s",
					 first ? "" : " UNION ALL ", columns, table);
}

/*
 * One row a table: its place in the list, the count, the sum; of the sources' tables
 * together, or of those of the parts.
 */
static char *
checksum_sql(const Move *move, bool parts)
{
	StringInfoData sql;
	ListCell   *lc,
			   *lc2;

	initStringInfo(&sql);
	foreach(lc, move->tables)
	{
		MoveMember *table = lfirst(lc);
		bool		first = true;

		appendStringInfo(&sql, "%sSELECT %d, sum(n), sum(h) FROM (", foreach_current_index(lc) > 0 ? " UNION ALL " : "",
						 foreach_current_index(lc));
		for (int i = 0; parts && i < list_length(move->parts); i++, first = false)
			append_checksum(&sql, table->targets[i], table->columns, first);
		foreach(lc2, move->members)
		{
			MoveMember *member = lfirst(lc2);

			if (parts || member->relid != table->relid)
				continue;
			append_checksum(&sql, member->table, member->columns, first);
			first = false;
		}
		appendStringInfoString(&sql, ") s");
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

	forthree(lc, move->tables, lc2, source, lc3, target)
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

/* Step 1: S, and L. */
static char *
open_snapshot(RemoteStream *source, XLogRecPtr *position)
{
	List	   *rows;

	(void) dbscale_stream_value(source, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
	dbscale_stream_send(source, "SELECT pg_current_snapshot(), pg_current_wal_insert_lsn()");
	rows = dbscale_stream_rows(source);
	*position = move_parse_lsn(((char **) linitial(rows))[1]);
	return ((char **) linitial(rows))[0];
}

/* Steps 1 to 3: the session with the snapshot that has been applied up to. */
static RemoteStream *
apply_up_to_snapshot(Move *move)
{
	RemoteStream *source = move_open_stream(move, &move->source, false);

	for (;;)
	{
		XLogRecPtr	position;

		(void) apply_up_to_mark(move->apply);
		apply_hold(move->apply, open_snapshot(source, &position));
		(void) apply_up_to_mark(move->apply);
		if (apply_held_at(move->apply) >= position)
			return source;
		ereport(DEBUG1, errmsg("dbscale: the snapshot for the comparison is opened again"));
		apply_hold(move->apply, NULL);
		(void) dbscale_stream_value(source, "ROLLBACK");
	}
}

void
move_verify(Move *move)
{
	RemoteStream *target = move_open_stream(move, &move->target, false);
	RemoteStream *source = apply_up_to_snapshot(move);

	(void) dbscale_stream_value(target, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
	(void) dbscale_stream_value(target, "SELECT 1");
	apply_hold(move->apply, NULL);

	dbscale_stream_send(source, checksum_sql(move, false));
	dbscale_stream_send(target, checksum_sql(move, true));
	while (!dbscale_stream_is_done(source) || !dbscale_stream_is_done(target))
	{
		if (!apply_take(move->apply))
			apply_wait(move->apply, list_make2(source, target), 100);
	}
	compare(move, dbscale_stream_rows(source), dbscale_stream_rows(target));
	dbscale_stream_close(source);
	dbscale_stream_close(target);
}
