/*
 * reshard_counters.c
 *		What counters whose tables are not colocated have beside a shard that is split or
 *		merged, and what becomes of it.
 *
 * counter/carry.c has the nouns: beside a shard of the source, in its *outbox*, is what is
 * pending for targets anywhere; beside a shard of the target are *orphans*, what was
 * carried for keys without a row.  Either table's group may be split.  Before the sources'
 * tables are dropped all of this is *put aside*: into a table for each kind, with a column
 * that says which part a row is for.  When the parts are there it is put beside them.
 *
 * Why each delta is carried once, and no orphan is lost or where it is not looked for:
 *	1. An outbox has what has not been carried yet, of rows that may be gone, or be anywhere
 *	   (carry.c, 12): it belongs to the source's table, not to some of its rows.  All of it
 *	   goes to the part that keeps the number; a merge puts both outboxes there.  Readers
 *	   take what all shards' rows say, and from it what is pending at all of them, so which
 *	   part it is does not matter to them.
 *	2. An orphan goes to the part that has its key, by the router that has placed the rows
 *	   (parts.c), so it is where carriers will look for it.  Two shards never have one key.
 *	3. Nobody carries or reads meanwhile.  Who does has the counter's tables locked here until
 *	   his transaction ends, in ACCESS SHARE MODE (hold.c), and the switch has one of them in
 *	   ACCESS EXCLUSIVE MODE: he is waited for, and who comes later comes after the switch.
 *	   Who has ended here and is only prepared on the node has 'hold' there, which the guard
 *	   takes (cutover.c, 4): he is waited for too.  There is nobody between the two.
 *	4. What is put aside is what there is while the guard has its locks: it is the guard's
 *	   session that reads, so nothing is if that is lost.  The orphaned statement of which 3
 *	   of reshard.c speaks may write when the guard has let go: to a source's table, to an
 *	   outbox, to orphans.  All of these are dropped, and nothing of what it wrote is copied:
 *	   it has failed as a whole, with its deltas.  Were the tables kept, and the rows in them
 *	   changed, its deltas would be carried without its rows.
 *	5. It is the transaction of the switch that puts aside and puts back.  So a crash of
 *	   anybody leaves the sources with what they had, or the parts with it, and never both
 *	   nor the table between.  That one's name has a number which the job has to itself
 *	   (reshard.c, 6).
 *	6. Where the switch is committed here and not yet on the node, its transaction has 'hold'
 *	   there: carriers go away, and readers wait.
 *	7. The other table's shards are not touched: nothing beside them speaks of this one's.
 *	   It is locked against DDL, which would change the triggers that are made here, and
 *	   whoever uses it goes on.
 *
 * It costs readers and writers the time that it takes to copy twice what is pending (added
 * up by key) and all orphans.  It waits for no node but the shard's own.
 */
#include "rebalance/internal.h"

#include "counter/counter.h"
#include "utils/builtins.h"

/* Of CounterObject *, as they are or would be beside a shard of this number; always in one order. */
static List *
objects_beside(const Move *move, int number)
{
	const TableGroup *group = dbscale_catalog_require_distributed(move->relid)->group;
	Shard		shard = *dbscale_catalog_shard(group, move->shard);

	shard.number = number;
	return dbscale_counter_objects(group, &shard);
}

/* The part that keeps the number has another until the switch, which nothing else has. */
static List *
objects_aside(const Move *move)
{
	ListCell   *lc;

	foreach(lc, move->parts)
	{
		const Part *part = lfirst(lc);

		if (part->number == move->shard)
			return objects_beside(move, part->build);
	}
	elog(ERROR, "no part keeps the number of shard %d", move->shard);
}

static char *
qualified(const CounterObject *object)
{
	return quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA, object->name);
}

static void
run_on_node(const Move *move, const char *sql)
{
	(void) dbscale_remote_execute(move_connection(&move->source, REMOTE_WRITE), sql, REMOTE_NO_PARAMS, NULL);
}

/* By 1 and 2: the number of the part for which a line of COPY is. */
static int
part_for(const Move *move, const CounterObject *object, const char *line, int length)
{
	if (object->key < 0 || move->router == NULL)
		return move->shard;
	return ((const Part *) list_nth(move->parts, parts_route_line(move, object->key, line, length)))->number;
}

static void
copy_aside(Move *move, const CounterObject *object, const CounterObject *aside)
{
	RemoteConnection *node = move_connection(&move->source, REMOTE_WRITE);
	StringInfoData row;
	const char *data;
	int			length;

	initStringInfo(&row);
	dbscale_stream_copy_out(move->guard, psprintf("COPY (%s) TO STDOUT", object->rows));
	dbscale_remote_copy_begin(node, psprintf("COPY %s (%s, part) FROM STDIN", qualified(aside), aside->columns), aside->name);
	while (dbscale_stream_copy_row(move->guard, &data, &length))
	{
		CHECK_FOR_INTERRUPTS();
		resetStringInfo(&row);
		/* without the end of the line */
		appendBinaryStringInfo(&row, data, length - 1);
		appendStringInfo(&row, "\t%d\n", part_for(move, object, data, length));
		dbscale_remote_copy_data(node, row.data, row.len);
	}
	dbscale_remote_copy_end(node);
	dbscale_remote_sync(node);
}

void
reshard_set_aside(Move *move)
{
	List	   *asides = objects_aside(move);
	ListCell   *lc,
			   *lo,
			   *la;

	foreach(lc, move->sources)
	{
		forboth(lo, objects_beside(move, lfirst_int(lc)), la, asides)
		{
			const CounterObject *object = lfirst(lo);

			if (object->rows == NULL)
				continue;
			if (foreach_current_index(lc) == 0)
				run_on_node(move, psprintf("CREATE TABLE %s (LIKE %s, part integer NOT NULL)", qualified(lfirst(la)), qualified(object)));
			copy_aside(move, object, lfirst(la));
		}
	}
}

void
reshard_put_back(Move *move)
{
	List	   *asides = objects_aside(move);
	ListCell   *lc,
			   *lo,
			   *la;

	foreach(lc, move->parts)
	{
		int			number = ((const Part *) lfirst(lc))->number;

		forboth(lo, objects_beside(move, number), la, asides)
		{
			const CounterObject *object = lfirst(lo);

			if (object->rows != NULL)
				run_on_node(move, psprintf("INSERT INTO %s (%s) SELECT %s FROM %s WHERE part = %d", qualified(object),
										   object->columns, object->columns, qualified(lfirst(la)), number));
		}
	}
	foreach(la, asides)
		if (((const CounterObject *) lfirst(la))->rows != NULL)
			run_on_node(move, psprintf("DROP TABLE %s", qualified(lfirst(la))));
}
