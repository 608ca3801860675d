/*
 * reshard.c
 *		Shards that are split and merged: a move whose target is on the source's node.
 *
 * A split makes *parts* of one *source*, a merge one part of two sources, which are on one
 * node by then.  All steps are those of a move (move.c, which says why a crash loses
 * nothing): tables for the parts, the copy, the log, the comparison, the switch.  The
 * first part has the number of the source (of a merge: that of the shard merged into),
 * others get new ones; until the switch its tables have a number that is free, too.
 *
 * Why no row is lost or is in the wrong part, beside what cutover.c says:
 *	1. What decides on a row's part is fixed when the job begins (parts.c).  Whatever would
 *	   decide otherwise at the end (bounds, entries of the directory, counters, the
 *	   tables' definitions) is part of what the cut-over compares in its step 1.
 *	2. The locks there are AccessExclusiveLock, on the group's tables and on the sources'
 *	   foreign tables.  Who finds a key's shard has a lock on the table from before, until
 *	   his transaction ends; so nobody is between finding a shard, or planning with one,
 *	   and using it.  Plans of before are made anew, for the tables were changed.
 *	3. The guard's lock on the sources' tables is ACCESS EXCLUSIVE in the end: they are dropped with
 *	   the switch, whose transaction must not wait long for anybody.  The guard lets go
 *	   before that.  Who then comes first is a statement whose client is gone, since those
 *	   of others wait for 2; what it writes goes with the table, as if it had failed.
 *	4. The switch is one transaction, in two phases over the node: there the sources'
 *	   tables are dropped and the first part's take their names; here the catalog's rows
 *	   and the foreign tables are changed, and dbscale.cleanup forgets the parts' tables.
 *	5. A transaction that keeps an older snapshot is refused by the shard's rows of the
 *	   catalog (catalog.c): the switch updates all that are left, new ones too.
 *	6. Two jobs do not use one number: it is locked like a shard on the move, and what is
 *	   in dbscale.cleanup is not given to anybody.
 *	7. Counters: mostly both tables are in the group, and a counter's key has the shard key,
 *	   so a row and what counts it are in one part.  Until the switch the sources' triggers
 *	   count, and what they write comes in the log like all else; the parts have none.  The
 *	   guard folds what is pending (cutover.c, 4), so that tables of deltas are empty when
 *	   4 drops them with the sources' tables and functions, and makes the parts' own, under
 *	   their last numbers: nothing of it is there when the switch fails.  A fold that comes
 *	   between the guard's end and the switch has nothing to fold but what 3 speaks of.
 *	   Whoever asks for a counter's shards, to fold them or to read what is pending, locks
 *	   its table here first: 2 waits for him, so that he does not ask for what has gone.
 *	   Counters whose other table is elsewhere: reshard_counters.c.
 *
 * What becomes of what is found by reshard_plan.c.
 */
#include "rebalance/internal.h"

#include "access/xact.h"
#include "counter/counter.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* ---- the request ---- */

static void
check_shard(const DistributedTable *table, const Shard *shard)
{
	(void) dbscale_catalog_require_node(NameStr(shard->node->name), true);
	if (shard->node->draining)
		move_refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
					psprintf("node \"%s\" is being drained", NameStr(shard->node->name)), "It takes no new shards.",
					psprintf("Move shard %d to another node first.", shard->number));
}

static void
plan_checked(Reshaping *plan, const JobRequest *request, const DistributedTable *table)
{
	ListCell   *lc;

	reshard_plan(plan, request, table);
	foreach(lc, plan->sources)
		check_shard(table, dbscale_ddl_require_shard(table, lfirst_int(lc)));
}

void
reshard_check_arguments(const JobRequest *request)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(request->relation);
	Reshaping	plan = {NIL, NIL};

	dbscale_ddl_check_owner(table->group);
	plan_checked(&plan, request, table);
}

static int
take_number(const DistributedTable *table, Bitmapset **taken)
{
	int			number = dbscale_ddl_new_shard_number(table, *taken);

	*taken = bms_add_member(*taken, number);
	return number;
}

/* Those that are kept first: they are used again and again as the others are. */
static void
number_parts(const Reshaping *plan, const DistributedTable *table)
{
	Bitmapset  *taken = NULL;
	ListCell   *lc;

	foreach(lc, plan->parts)
	{
		Part	   *part = lfirst(lc);

		if (part->number == NEW_NUMBER)
			part->number = part->build = take_number(table, &taken);
	}
	foreach(lc, plan->parts)
	{
		Part	   *part = lfirst(lc);

		if (list_member_int(plan->sources, part->number))
			part->build = take_number(table, &taken);
	}
}

/* The sources are on one node, or they would not be read under one snapshot. */
static void
check_same_node(const Reshaping *plan, const DistributedTable *table)
{
	const ShardNode *node = dbscale_ddl_require_shard(table, linitial_int(plan->sources))->node;
	ListCell   *lc;

	foreach(lc, plan->sources)
		if (dbscale_ddl_require_shard(table, lfirst_int(lc))->node != node)
			move_refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
				   psprintf("shards %d and %d of table \"%s\" are on different nodes", linitial_int(plan->sources),
							lfirst_int(lc), get_rel_name(table->relid)),
				   "One of them was moved meanwhile.", "Merge them again.");
}

void
reshard_check(Move *move, const JobRequest *request)
{
	const DistributedTable *table = move_open_group(move->relid);
	MemoryContext caller = MemoryContextSwitchTo(move->context);
	Reshaping	plan = {NIL, NIL};

	plan_checked(&plan, request, table);
	check_same_node(&plan, table);
	number_parts(&plan, table);
	move->reshards = true;
	move->group_id = table->group->id;
	move->sources = plan.sources;
	move->parts = plan.parts;
	move->counted_with = dbscale_counter_tables_apart(table->group);
	move->shard = linitial_int(plan.sources);
	move_fill_node(&move->source, dbscale_ddl_require_shard(table, move->shard)->node);
	move->target = move->source;
	MemoryContextSwitchTo(caller);
	if (list_length(move->parts) > 1)
		move->router = parts_router(move, table);
	move_fill_in(move, table);
}

void
reshard_append_definition(const Move *move, const DistributedTable *table, StringInfo text)
{
	ListCell   *lc,
			   *lc2;

	foreach(lc, move->sources)
	{
		int			shard = lfirst_int(lc);

		appendStringInfo(text, "%s\n", dbscale_ddl_query_value(psprintf("SELECT concat_ws(' ', hash_from, hash_to, label, bounds, pinned)"
																   " FROM dbscale.shard WHERE group_id = %d AND shard = %d",
																   table->group->id, shard)));
		foreach(lc2, dbscale_ddl_query_rows(psprintf("SELECT key FROM dbscale.directory WHERE group_id = %d AND shard = %d ORDER BY key",
													 table->group->id, shard)))
			appendStringInfo(text, "%s\n", quote_literal_cstr(((char **) lfirst(lc2))[0]));
	}
}

/* ---- the switch ---- */

static bool
is_source(const Move *move, int number)
{
	return list_member_int(move->sources, number);
}

static List *
part_numbers(const Move *move)
{
	List	   *numbers = NIL;
	ListCell   *lc;

	foreach(lc, move->parts)
		numbers = lappend_int(numbers, ((Part *) lfirst(lc))->number);
	return numbers;
}

static bool
is_part(const Move *move, int number)
{
	return list_member_int(part_numbers(move), number);
}

static void
run_on_node(Move *move, const MoveMember *member, const char *sql)
{
	(void) dbscale_remote_execute(move_connection(&move->source, REMOTE_WRITE), sql, REMOTE_NO_PARAMS, member->stored);
}

/* What counters have to do where these shards (numbers) are, as the catalog is now. */
static void
run_counters(const Move *move, List *numbers, ShardMoment moment)
{
	const TableGroup *group = dbscale_catalog_require_distributed(move->relid)->group;
	ListCell   *lc;

	foreach(lc, numbers)
		dbscale_ddl_run_shard_hook(group, dbscale_catalog_shard(group, lfirst_int(lc)), moment);
}

/* Referencing tables first; then who takes a source's number takes its names. */
static void
switch_node(Move *move)
{
	ListCell   *lc,
			   *lc2,
			   *lc3;

	dbscale_remote_queue_command(move_connection(&move->source, REMOTE_WRITE),
								 psprintf("SET LOCAL lock_timeout = %d", dbscale_move_lock_timeout));
	run_counters(move, move->sources, SHARD_RECEIVING);
	for (int i = list_length(move->members) - 1; i >= 0; i--)
	{
		MoveMember *member = list_nth(move->members, i);

		run_on_node(move, member, psprintf("DROP TABLE %s CASCADE", member->table));
	}
	run_counters(move, move->sources, SHARD_LEFT);
	foreach(lc, move->tables)
	{
		MoveMember *member = lfirst(lc);

		foreach(lc2, move->parts)
		{
			Part	   *part = lfirst(lc2);

			if (part->build == part->number)
				continue;
			foreach(lc3, dbscale_ddl_shard_rename_sql(dbscale_catalog_require_distributed(member->relid),
													  part->build, part->number))
				run_on_node(move, member, lfirst(lc3));
		}
	}
}

/* Foreign tables whose shard ends, or whose bounds change; a hash partition's do not. */
static void
detach_foreign_tables(const Move *move, bool bounds_change)
{
	ListCell   *lc;

	foreach(lc, move->members)
	{
		MoveMember *member = lfirst(lc);

		if (bounds_change || !is_part(move, member->shard))
			dbscale_ddl_detach_shard(member->foreign_table);
	}
}

static void
attach_foreign_tables(const Move *move, bool bounds_change)
{
	ListCell   *lc,
			   *lc2;

	foreach(lc, move->tables)
	{
		foreach(lc2, move->parts)
		{
			Part	   *part = lfirst(lc2);

			if (bounds_change || !is_source(move, part->number))
				dbscale_ddl_attach_shard(((MoveMember *) lfirst(lc))->relid, part->number);
		}
	}
}

static const char *
literal_or_null(const char *text)
{
	return text ? quote_literal_cstr(text) : "NULL";
}

/* New rows are inserted like the source's; all are updated, which says that the shard is new (5). */
static void
write_part(const Move *move, const Part *part)
{
	ListCell   *lc;

	if (!is_source(move, part->number))
		(void) dbscale_ddl_execute_as_owner(
			psprintf("INSERT INTO dbscale.shard (group_id, shard, node, pinned) SELECT group_id, %d, node, pinned"
					 " FROM dbscale.shard WHERE group_id = %d AND shard = %d", part->number, move->group_id, move->shard));
	if (dbscale_ddl_execute_as_owner(
			psprintf("UPDATE dbscale.shard SET hash_from = %s, hash_to = %s, bounds = %s, label = %s WHERE group_id = %d AND shard = %d",
					 part->has_hash ? psprintf("%u", part->hash_from) : "NULL",
					 part->has_hash ? psprintf("%u", part->hash_to) : "NULL",
					 literal_or_null(part->bounds), literal_or_null(part->label), move->group_id, part->number)) != 1)
		elog(ERROR, "shard %d of group %d is not in the catalog", part->number, move->group_id);
	foreach(lc, part->keys)
		(void) dbscale_ddl_execute_as_owner(
			psprintf("INSERT INTO dbscale.directory (group_id, key, shard) VALUES (%d, %s, %d)"
					 " ON CONFLICT (group_id, key) DO UPDATE SET shard = EXCLUDED.shard",
					 move->group_id, quote_literal_cstr(lfirst(lc)), part->number));
}

/* A shard that was merged; its keys are the other's. */
static void
delete_source(const Move *move, int number)
{
	const Part *part = linitial(move->parts);

	(void) dbscale_ddl_execute_as_owner(psprintf("UPDATE dbscale.directory SET shard = %d WHERE group_id = %d AND shard = %d",
												 part->number, move->group_id, number));
	(void) dbscale_ddl_execute_as_owner(psprintf("DELETE FROM dbscale.shard WHERE group_id = %d AND shard = %d",
												 move->group_id, number));
}

static void
delete_home_entries(const Move *move)
{
	ListCell   *lc;

	foreach(lc, move->parts)
	{
		const Part *part = lfirst(lc);

		if (part->home_key != NULL)
			(void) dbscale_ddl_execute_as_owner(psprintf("DELETE FROM dbscale.directory WHERE group_id = %d AND key = %s",
														 move->group_id, quote_literal_cstr(part->home_key)));
	}
}

/* A number that somebody else has taken meanwhile: with another the job may succeed. */
static void
check_numbers(const Move *move, const DistributedTable *table)
{
	ListCell   *lc;

	foreach(lc, move->parts)
	{
		Part	   *part = lfirst(lc);

		if (!is_source(move, part->number) && dbscale_catalog_shard(table->group, part->number) != NULL)
			move_refuse(ERRCODE_MOVE_AGAIN, psprintf("shard %d of table \"%s\" was added meanwhile", part->number,
												get_rel_name(table->relid)),
				   "A part was to get its number.", "Try again.");
	}
}

/* Argument 4: everything but the locks. */
void
reshard_switch(Move *move)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(move->relid);
	bool		bounds_change = !reshard_is_hashed(table->group);
	List	   *parents = list_copy(table->group->tables);
	ListCell   *lc;

	ForceSyncCommit();			/* as the records of cleanup.c */
	check_numbers(move, table);
	reshard_set_aside(move);
	(void) dbscale_stream_value(move->guard, "ROLLBACK");	/* by 3 */
	switch_node(move);
	detach_foreign_tables(move, bounds_change);
	foreach(lc, move->parts)
		write_part(move, lfirst(lc));
	foreach(lc, move->sources)
		if (!is_part(move, lfirst_int(lc)))
			delete_source(move, lfirst_int(lc));
	delete_home_entries(move);
	dbscale_catalog_changed(parents);
	CommandCounterIncrement();
	attach_foreign_tables(move, bounds_change);
	dbscale_catalog_changed(parents);
	CommandCounterIncrement();
	run_counters(move, part_numbers(move), SHARD_MADE);
	reshard_put_back(move);
	cleanup_forget(move, NameStr(move->target.name));
}
