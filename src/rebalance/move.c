/*
 * move.c
 *		A shard's move while it is read and written, from beginning to end.
 *
 * Nouns: the shard's tables (one for each table of the group) go from the *source* to
 * the *target*.  All of it is done by a worker that belongs to the job, in many
 * transactions; what it makes on nodes it records first (dbscale.cleanup), so that
 * whoever finds the job without its worker knows what to undo.
 *
 *	checking      the catalog's rows, and what the source can do      check.c
 *	preparing     tables on the target, a publication on the source
 *	copying       rows, under the snapshot of a temporary slot        copy.c
 *	indexing      indexes, constraints, statistics
 *	catching up   what the source's log has since                     apply.c
 *	verifying     count and checksum at one position of the log       verify.c
 *	switching     locks, the last of the log, the catalog             cutover.c
 *	cleaning up   the publication; the old tables, when nobody needs them
 *
 * Why a crash at any point loses nothing:
 *	1. Until the switch the source's tables are the shard.  The target's are known
 *	   to nobody, and recorded to be dropped; who undoes the job drops them, and the
 *	   publication.  The slot is temporary.  Nothing is taken up in the middle: what
 *	   the copy lacks is known to the slot alone, which is gone.
 *	2. The switch is one transaction of the coordinator: the catalog names the target,
 *	   the target's records are deleted, the source's tables are recorded.  Before its
 *	   commit 1 holds; after it only cleaning up is left, which can be repeated.
 *	3. An object is dropped, and its record deleted, in one two-phase transaction; and
 *	   a record can not be made while there is one of that name.  So no record is left
 *	   that speaks of another object of the same name, made later.
 *
 *	4. What the argument needs to be on disk is there before anybody acts on it: the
 *	   records and the switch are committed synchronously here, whatever
 *	   synchronous_commit says, and so is the copy on the target (move_write_target).
 *
 * DDL on the tables is not kept waiting by a move, which may take hours, but makes it
 * begin again: whatever is made on the target, and at last the cut-over, compares the
 * definitions of the tables, under a lock that DDL conflicts with, with those at the start.
 * (The cut-over alone would not find a column that was added before the target's tables
 * were made, and dropped after.)
 */
#include "rebalance/internal.h"

#include "access/xact.h"
#include "catalog/progress.h"
#include "counter/counter.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

/* Behind by less than this, or by less than ten times as much for so many rounds: near enough. */
#define NEAR_MS 100
#define PATIENT_ROUNDS 20

void
move_reload_settings(void)
{
	if (!ConfigReloadPending)
		return;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
}

void
move_begin(Move *move)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	MemoryContextSwitchTo(CurTransactionContext);
}

void
move_commit(Move *move)
{
	CommitTransactionCommand();
	MemoryContextSwitchTo(move->context);
}

RemoteStream *
move_open_stream(Move *move, const MoveNode *node, bool replication)
{
	RemoteStream *stream;

	move_begin(move);			/* the server's options are looked up */
	MemoryContextSwitchTo(move->context);
	stream = dbscale_stream_open(node->serverid, node->userid, replication);
	move_commit(move);
	return stream;
}

/*
 * A transaction that writes the copy.  From the switch on the target's tables are the
 * shard, whose rows were safe on the source's disk: so they have to be on the target's,
 * also where it commits asynchronously by default.
 */
RemoteConnection *
move_write_target(Move *move)
{
	RemoteConnection *target;

	move_begin(move);
	target = move_connection(&move->target, REMOTE_WRITE);
	dbscale_remote_queue_command(target, "SELECT pg_catalog.set_config('synchronous_commit', 'on', true)"
								 " WHERE pg_catalog.current_setting('synchronous_commit') = 'off'");
	return target;
}

RemoteConnection *
move_connection(const MoveNode *node, RemoteUse use)
{
	return dbscale_transaction_connection(node->serverid, node->userid, use);
}

/* Commands for all tables on the target, in one transaction there. */
static void
run_on_target(Move *move, List *(*commands) (const DistributedTable *table, int shard))
{
	ListCell   *lc,
			   *lc2,
			   *lc3;

	move_begin(move);
	PushActiveSnapshot(GetTransactionSnapshot());
	move_require_definition(move);
	foreach(lc, move->tables)
	{
		MoveMember *member = lfirst(lc);

		foreach(lc2, move->parts)
		{
			foreach(lc3, commands(dbscale_catalog_require_distributed(member->relid), ((Part *) lfirst(lc2))->build))
				(void) dbscale_remote_execute(move_connection(&move->target, REMOTE_WRITE), lfirst(lc3),
											  REMOTE_NO_PARAMS, member->stored);
		}
	}
	PopActiveSnapshot();
	move_commit(move);
}

static List *
table_commands(const DistributedTable *table, int shard)
{
	return list_make1(dbscale_ddl_shard_table_sql(table, shard));
}

/* With statistics, or the first queries after the switch would be planned blindly. */
static List *
finish_commands(const DistributedTable *table, int shard)
{
	return lappend(dbscale_ddl_shard_finish_sql(table, shard),
				   psprintf("ANALYZE %s", dbscale_ddl_shard_table_name(table, shard)));
}

/* The bare names of the tables that are made on the target. */
static List *
names_on_target(const Move *move)
{
	List	   *names = NIL;
	ListCell   *lc,
			   *lc2;

	foreach(lc, move->tables)
	{
		const DistributedTable *table = dbscale_catalog_require_distributed(((MoveMember *) lfirst(lc))->relid);

		foreach(lc2, move->parts)
			names = lappend(names, psprintf("%s_%d", table->stored_name, ((Part *) lfirst(lc2))->build));
	}
	return names;
}

/* Nothing is made before it is recorded. */
static void
record_objects(Move *move)
{
	ListCell   *lc;

	move_begin(move);
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(lc, names_on_target(move))
		cleanup_record(move, NameStr(move->target.name), "table", lfirst(lc));
	/* made at the switch */
	foreach(lc, move->counter_objects)
	{
		CounterObject *object = lfirst(lc);

		cleanup_record(move, NameStr(move->target.name), object->kind, object->name);
	}
	cleanup_record(move, NameStr(move->source.name), "publication", move->publication);
	PopActiveSnapshot();
	move_commit(move);
}

static bool
names_are_free(Move *move)
{
	bool		free = true;
	ListCell   *lc;

	move_begin(move);
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(lc, names_on_target(move))
		free &= !cleanup_exists(NameStr(move->target.name), "table", lfirst(lc));
	foreach(lc, move->counter_objects)
	{
		CounterObject *object = lfirst(lc);

		free &= !cleanup_exists(NameStr(move->target.name), object->kind, object->name);
	}
	/* of an attempt before this one, too, whose node could not be told */
	free &= !cleanup_exists(NameStr(move->source.name), "publication", move->publication);
	PopActiveSnapshot();
	move_commit(move);
	return free;
}

/*
 * The shard was there before, and its old tables wait for their last readers.  The
 * caller of move_shard may be one of these, when he has moved it away in the same
 * statement: he would wait for himself.
 */
static void
wait_for_names(Move *move)
{
	for (int turn = 0; !names_are_free(move); turn++)
	{
		dbscale_progress_step("waiting for old tables on the target to be dropped");
		if (turn % 10 == 0)		/* a second: what fails is logged */
		{
			cleanup_run(move->job, move->context);	/* of an attempt before this one */
			cleanup_run(0, move->context);
			if (names_are_free(move))
				return;
		}
		if (cleanup_waits_for(NameStr(move->target.name), ((MoveMember *) linitial(move->members))->stored,
							  board_caller()))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("shard %d was on node \"%s\" when the statement began", move->shard,
							NameStr(move->target.name)),
					 errdetail("Its tables there are kept for the statement that moves it back."),
					 errhint("Move it in a statement of its own.")));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 100, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

static void
create_publication(Move *move)
{
	StringInfoData sql;
	ListCell   *lc;

	move_begin(move);
	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE PUBLICATION %s FOR TABLE ", quote_identifier(move->publication));
	foreach(lc, move->members)
		appendStringInfo(&sql, "%sONLY %s", foreach_current_index(lc) > 0 ? ", " : "",
						 ((MoveMember *) lfirst(lc))->table);
	(void) dbscale_remote_execute(move_connection(&move->source, REMOTE_WRITE), sql.data, REMOTE_NO_PARAMS, NULL);
	move_commit(move);
}

static void
catch_up(Move *move)
{
	for (int round = 0;; round++)
	{
		long		behind = apply_up_to_mark(move->apply);

		if (behind <= NEAR_MS || (round >= PATIENT_ROUNDS && behind <= 10 * NEAR_MS))
			return;
	}
}

void
move_online(Move *move)
{
	wait_for_names(move);
	dbscale_progress_step("preparing");
	record_objects(move);
	DEBUG_POINT("move_recorded");
	run_on_target(move, table_commands);
	DEBUG_POINT("move_tables_made");
	create_publication(move);
	DEBUG_POINT("move_published");
	move_copy(move);
	DEBUG_POINT("move_copied");
	dbscale_progress_step("creating indexes");
	run_on_target(move, finish_commands);
	DEBUG_POINT("move_indexed");
	dbscale_progress_step("catching up");
	apply_start(move->apply);
	catch_up(move);
	DEBUG_POINT("move_caught_up");
	if (dbscale_verify_moves)
	{
		dbscale_progress_step("verifying");
		move_verify(move);
		catch_up(move);
		DEBUG_POINT("move_verified");
	}
	dbscale_progress_step("switching");
	move_switch(move);
	DEBUG_POINT("move_switched");
}
