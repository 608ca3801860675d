/*
 * cutover.c
 *		The moment at which the shard is on the target: the switch.
 *
 * Everything before it kept nobody waiting; here writers of the shard wait, for as long
 * as the last of the source's log takes.  The order, and what each step rules out:
 *
 *	1. ShareUpdateExclusiveLock on the group's tables, and on those with which these share
 *	   a counter: no DDL is under way, and none begins.  The definitions are compared with
 *	   those the copy was made from.
 *	2. ExclusiveLock on the shard's foreign tables.  Whoever writes the shard, or locks
 *	   rows of it, has a conflicting lock from before he looks up its node until his
 *	   transaction has ended; so no such transaction is under way here, and the next
 *	   one will look up the node when we are done.  Readers are not concerned.
 *	3. EXCLUSIVE lock on the source's tables, by the *guard*, a session there.  A
 *	   transaction that has committed here but is still only prepared there (the node
 *	   was slow) has released the locks of 2: it is waited for.  So is a backend of the
 *	   node that goes on with a statement whose client is gone.  And who writes to the
 *	   node by himself, past dbscale, is kept out.
 *	4. What buffered counters of the tables have pending is folded, by the guard, and
 *	   committed: that is a change of the tables like any other, and comes in the log.
 *	   The commit ends 3, so the lock is taken anew, and so on, until there is nothing to
 *	   fold: the transaction that has the lock has written nothing, and the tables of
 *	   deltas are empty.  Nothing can be added to them now, for who does so has written
 *	   a source's table.  Other folds (the maintenance worker's) lock the target's table
 *	   first: they are waited for by 3, also when they are only prepared, or give up.
 *	   Mostly that is two turns.  What may come between the two is what 3 speaks of:
 *	   an orphaned statement; so it is not assumed that nothing does.
 *	   Counters whose tables are not colocated are not folded; carriers of theirs that
 *	   are not at their end on the source are waited for (counter/carry.c, 10).
 *	5. A mark in the source's log, after 3 and 4: what comes before it is all there will
 *	   ever be.  It is applied and committed on the target.
 *	6. Foreign keys on the target, NOT VALID, which checks no row (those that are there
 *	   were checked by the source).  Not before: their actions (ON DELETE CASCADE) and
 *	   the changes that the source's actions left in the log would get in each other's
 *	   way.
 *	7. With them what keeps the tables' counters: triggers, functions, empty tables of
 *	   deltas.  Not before, for the same reason: the source's triggers have counted, and
 *	   the counters' columns come in the log like all others.  And not after 8, when
 *	   there may be writers.  What counters that are not colocated have pending, or keep of
 *	   keys without a row, is copied now, by the guard's session: by 3 and 4 nobody can
 *	   change it there, nor, by 2, will anybody begin to if the guard is lost.  Which counters there are cannot change: to make or drop
 *	   one takes a lock on the tables that conflicts with 1, and is part of what is
 *	   compared there.  All of it is recorded since before the copy, so that it goes if
 *	   the worker does; if the switch fails otherwise, it is taken back.
 *	8. One transaction here: dbscale.shard and the foreign tables name the target; the
 *	   target's records in dbscale.cleanup are deleted, and the source's tables are
 *	   recorded there, with what counters have beside them.  Its commit is the switch.
 *	9. Then the locks go: first those of 1 and 2, last the guard's (its session ends).
 *
 * The locks of 1 and 2 are held by the session, over several transactions, since steps 5
 * to 7 commit on the target.  All locks are waited for no longer than
 * dbscale.move_lock_timeout: who waits for a lock makes those queue who come after him.
 * When one is not to be had, all are released, and after a pause, in which the log is
 * followed as before, it is tried again.
 *
 * A split or merge takes AccessExclusiveLock in 1 (on the group's tables) and 2, so readers
 * wait as well, and does 7 in the transaction of 8, within which the guard lets go: reshard.c.
 *
 * A reader that looked up the source before 8 goes on there: the tables stay until every
 * snapshot is gone that does not see 8 (cleanup.c).  So does a fold that looked it up
 * before: it finds nothing to fold.
 */
#include "rebalance/internal.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/progress.h"
#include "counter/counter.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* Between two tries, in which others get on, as many times the timeout of the locks. */
#define PAUSE_FACTOR 5

/* ---- the catalog ---- */

/* The foreign table's server, as ALTER FOREIGN TABLE has no command for it. */
static void
set_server(Oid foreign_table, Oid serverid)
{
	Relation	rel = table_open(ForeignTableRelationId, RowExclusiveLock);
	HeapTuple	tuple = SearchSysCacheCopy1(FOREIGNTABLEREL, ObjectIdGetDatum(foreign_table));
	Form_pg_foreign_table form;
	Oid			old;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for foreign table %u", foreign_table);
	form = (Form_pg_foreign_table) GETSTRUCT(tuple);
	old = form->ftserver;
	form->ftserver = serverid;
	CatalogTupleUpdate(rel, &tuple->t_self, tuple);
	(void) changeDependencyFor(RelationRelationId, foreign_table, ForeignServerRelationId, old, serverid);
	table_close(rel, RowExclusiveLock);
	CacheInvalidateRelcacheByRelid(foreign_table);
}

/* Step 8's heart: in the current transaction. */
void
placement_switch(int group_id, int shard, List *foreign_tables, const char *node)
{
	const ShardNode *target = dbscale_catalog_require_node(node, true);
	ListCell   *lc;

	if (dbscale_ddl_execute_as_owner(psprintf("UPDATE dbscale.shard SET node = %s WHERE group_id = %d AND shard = %d",
											  quote_literal_cstr(node), group_id, shard)) != 1)
		elog(ERROR, "shard %d of group %d is not in the catalog", shard, group_id);
	foreach(lc, foreign_tables)
		set_server(lfirst_oid(lc), target->serverid);
	CommandCounterIncrement();
}

/* ---- locks ---- */

static void
lock_relation(Oid relid, LOCKMODE mode)
{
	LockRelId	id = {relid, MyDatabaseId};

	LockRelationIdForSession(&id, mode);
}

static void
unlock_all(void)
{
	LockReleaseAll(DEFAULT_LOCKMETHOD, true);
}

static List *
relids_of(const Move *move, bool foreign_tables)
{
	List	   *relids = NIL;
	ListCell   *lc;

	foreach(lc, move->members)
	{
		MoveMember *member = lfirst(lc);

		relids = list_append_unique_oid(relids, foreign_tables ? member->foreign_table : member->relid);
	}
	if (!foreign_tables)
		relids = list_concat_unique_oid(relids, move->counted_with);
	list_sort(relids, list_oid_cmp);
	return relids;
}

static void
lock_relations(const Move *move, bool foreign_tables, LOCKMODE mode)
{
	ListCell   *lc;

	foreach(lc, relids_of(move, foreign_tables))
		lock_relation(lfirst_oid(lc), list_member_oid(move->counted_with, lfirst_oid(lc)) ? ShareUpdateExclusiveLock : mode);
}

/* What step 4 runs on the source, while the catalog can be read. */
static void
note_leaving(Move *move)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(move->relid);
	StringInfoData sql;
	ListCell   *lc,
			   *lc2;

	initStringInfo(&sql);
	foreach(lc, move->sources)
		foreach(lc2, dbscale_counter_shard_sql(table->group, dbscale_ddl_require_shard(table, lfirst_int(lc)), SHARD_LEAVING))
			appendStringInfo(&sql, "%s;\n", (char *) lfirst(lc2));
	move->leaving = sql.len > 0 ? MemoryContextStrdup(move->context, sql.data) : NULL;
}

/* Steps 1 and 2. */
static void
lock_here(Move *move)
{
	move_begin(move);
	PushActiveSnapshot(GetTransactionSnapshot());
	lock_relations(move, false, move->reshards ? AccessExclusiveLock : ShareUpdateExclusiveLock);
	dbscale_catalog_refresh();
	move_require_definition(move);
	lock_relations(move, true, move->reshards ? AccessExclusiveLock : ExclusiveLock);
	note_leaving(move);
	PopActiveSnapshot();
	move_commit(move);
}

/* Step 3. */
static void
lock_source_tables(Move *move, const char *before, const char *mode)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfo(&sql, "%sLOCK TABLE ", before);
	foreach(lc, move->members)
		appendStringInfo(&sql, "%sONLY %s", foreach_current_index(lc) > 0 ? ", " : "",
						 ((MoveMember *) lfirst(lc))->table);
	appendStringInfo(&sql, " IN %s MODE", mode);
	(void) dbscale_stream_value(move->guard, sql.data);
}

static void
begin_and_lock(Move *move)
{
	lock_source_tables(move, psprintf("BEGIN; SET LOCAL lock_timeout = %d; ", dbscale_move_lock_timeout), "EXCLUSIVE");
}

/* Step 4, a turn of it: false if there was nothing to fold. */
static bool
fold_source(Move *move)
{
	return dbscale_stream_value(move->guard, psprintf("%sSELECT pg_catalog.pg_current_xact_id_if_assigned()",
													  move->leaving)) != NULL;
}

/*
 * Steps 3 and 4.  Tables that are split or merged are dropped with the switch, so their
 * readers are waited for too; only now, for a transaction with that lock has an id.
 */
static void
lock_source(Move *move)
{
	begin_and_lock(move);
	while (move->leaving != NULL && fold_source(move))
	{
		(void) dbscale_stream_value(move->guard, "COMMIT");
		DEBUG_POINT("move_folded");
		begin_and_lock(move);
	}
	if (move->reshards)
		lock_source_tables(move, "", "ACCESS EXCLUSIVE");
}

/* ---- foreign keys ---- */

static bool
ends_with(const char *text, const char *end)
{
	size_t		length = strlen(text);

	return length >= strlen(end) && strcmp(text + length - strlen(end), end) == 0;
}

static char *
foreign_key_name(const MoveMember *member, int n)
{
	return dbscale_ddl_query_value(psprintf("SELECT name FROM dbscale.foreign_key WHERE relation = %u"
											" ORDER BY name OFFSET %d LIMIT 1", member->relid, n));
}

static List *
foreign_keys_sql(const MoveMember *member, const Part *part)
{
	return dbscale_ddl_shard_foreign_keys_sql(dbscale_catalog_require_distributed(member->relid), part->build);
}

/* Step 6, in a transaction. */
static void
add_foreign_keys(Move *move, const MoveMember *member)
{
	ListCell   *lc,
			   *lc2;

	foreach(lc, move->parts)
	{
		foreach(lc2, foreign_keys_sql(member, lfirst(lc)))
		{
			char	   *sql = lfirst(lc2);

			(void) dbscale_remote_execute(move_connection(&move->target, REMOTE_WRITE),
										  ends_with(sql, " NOT VALID") ? sql : psprintf("%s NOT VALID", sql),
										  REMOTE_NO_PARAMS, member->stored);
		}
	}
}

/* With step 8: those that the source has validated are to be so again. */
static void
record_part_foreign_keys(Move *move, const MoveMember *member, const Part *part)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(member->relid);
	ListCell   *lc;

	foreach(lc, foreign_keys_sql(member, part))
		if (!ends_with(lfirst(lc), " NOT VALID"))
			cleanup_record(move, NameStr(move->target.name), "foreign key",
						   psprintf("%s_%d.%s", table->stored_name, part->number,
									foreign_key_name(member, foreach_current_index(lc))));
}

static void
forget_foreign_keys(const Move *move, const MoveMember *member)
{
	(void) dbscale_ddl_execute_as_owner(psprintf("DELETE FROM dbscale.cleanup WHERE node = %s AND kind = 'foreign key' AND starts_with(name, %s)",
												 quote_literal_cstr(NameStr(move->source.name)),
												 quote_literal_cstr(psprintf("%s.", member->stored))));
}

static void
record_foreign_keys(Move *move)
{
	ListCell   *lc,
			   *lc2;

	foreach(lc, move->members)
		forget_foreign_keys(move, lfirst(lc));
	foreach(lc, move->tables)
		foreach(lc2, move->parts)
			record_part_foreign_keys(move, lfirst(lc), lfirst(lc2));
}

static bool
has_foreign_keys(const Move *move)
{
	ListCell   *lc;

	foreach(lc, move->members)
		if (foreign_key_name(lfirst(lc), 0) != NULL)
			return true;
	return false;
}

static void
make_triggers(Move *move)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(move->relid);
	Shard		shard = *dbscale_ddl_require_shard(table, move->shard);

	shard.node = dbscale_catalog_require_node(NameStr(move->target.name), true);
	dbscale_ddl_run_shard_hook(table->group, &shard, SHARD_MADE);
}

static void
copy_object(Move *move, const CounterObject *object)
{
	RemoteConnection *target = move_connection(&move->target, REMOTE_WRITE);
	const char *data;
	int			length;

	dbscale_stream_copy_out(move->guard, psprintf("COPY (%s) TO STDOUT", object->rows));
	dbscale_remote_copy_begin(target, psprintf("COPY %s (%s) FROM STDIN",
											   quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA, object->name), object->columns), object->name);
	while (dbscale_stream_copy_row(move->guard, &data, &length))
	{
		CHECK_FOR_INTERRUPTS();
		dbscale_remote_copy_data(target, data, length);
	}
	dbscale_remote_copy_end(target);
	dbscale_remote_sync(target);
}

/* What counters have beside the tables, and no log tells. */
static void
copy_counter_rows(Move *move)
{
	ListCell   *lc;

	foreach(lc, move->counter_objects)
		if (((CounterObject *) lfirst(lc))->rows != NULL)
			copy_object(move, lfirst(lc));
}

/* The functions' triggers go with them. */
static void
drop_triggers(Move *move)
{
	ListCell   *lc;

	foreach(lc, move->counter_objects)
	{
		CounterObject *object = lfirst(lc);

		(void) dbscale_remote_execute(move_connection(&move->target, REMOTE_WRITE),
									  psprintf("DROP %s IF EXISTS %s CASCADE", object->kind,
											   quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA, object->name)),
									  REMOTE_NO_PARAMS, NULL);
	}
}

/* Steps 6 and 7. */
static bool
make_keys_and_triggers(Move *move)
{
	bool		any;
	ListCell   *lc;

	(void) move_write_target(move);
	PushActiveSnapshot(GetTransactionSnapshot());
	any = has_foreign_keys(move) || move->counter_objects != NIL;
	if (any)
	{
		foreach(lc, move->tables)
			add_foreign_keys(move, lfirst(lc));
		if (!move->reshards)
		{
			make_triggers(move);
			copy_counter_rows(move);
		}
	}
	PopActiveSnapshot();
	move_commit(move);
	return any;
}

static void
drop_foreign_keys(Move *move, const MoveMember *member)
{
	char	   *name;

	for (int n = 0; (name = foreign_key_name(member, n)) != NULL; n++)
		for (int i = 0; i < list_length(move->parts); i++)
			(void) dbscale_remote_execute(move_connection(&move->target, REMOTE_WRITE),
										  psprintf("ALTER TABLE %s DROP CONSTRAINT IF EXISTS %s", member->targets[i],
												   quote_identifier(name)), REMOTE_NO_PARAMS, member->stored);
}

/* The switch did not come to pass, and application goes on, which they would disturb. */
static void
drop_keys_and_triggers(Move *move)
{
	ListCell   *lc;

	move_begin(move);
	PushActiveSnapshot(GetTransactionSnapshot());
	drop_triggers(move);
	foreach(lc, move->tables)
		drop_foreign_keys(move, lfirst(lc));
	PopActiveSnapshot();
	move_commit(move);
}

/* ---- the switch ---- */

/* A move's part of step 8. */
static void
switch_place(Move *move)
{
	ListCell   *lc;

	placement_switch(move->group_id, move->shard, relids_of(move, true), NameStr(move->target.name));
	cleanup_forget(move, NameStr(move->target.name));
	foreach(lc, move->members)
		cleanup_record_later(move, NameStr(move->source.name), "table", ((MoveMember *) lfirst(lc))->stored);
	foreach(lc, move->counter_objects)
	{
		CounterObject *object = lfirst(lc);

		cleanup_record_later(move, NameStr(move->source.name), object->kind, object->name);
	}
}

/* Step 8. */
static void
switch_catalog(Move *move)
{
	move_begin(move);
	PushActiveSnapshot(GetTransactionSnapshot());
	if (move->reshards)
		reshard_switch(move);
	else
		switch_place(move);
	record_foreign_keys(move);
	if (!move->goes_on)
		(void) dbscale_ddl_execute_as_owner(psprintf("UPDATE dbscale.job SET step = 'cleaning up' WHERE job = " INT64_FORMAT,
													 move->job));
	PopActiveSnapshot();
	DEBUG_POINT("move_before_switch");
	move_commit(move);
	move->switched = true;
}

static void
set_lock_timeout(int ms)
{
	SetConfigOption("lock_timeout", psprintf("%d", ms), PGC_SUSET, PGC_S_SESSION);
}

/* All steps; errors leave locks behind, which the caller releases. */
static void
switch_now(Move *move, volatile bool *finished)
{
	lock_here(move);
	DEBUG_POINT("move_locked");
	lock_source(move);
	DEBUG_POINT("move_source_locked");
	(void) apply_up_to_mark(move->apply);
	*finished = make_keys_and_triggers(move);
	DEBUG_POINT("move_finished");
	switch_catalog(move);
}

/*
 * False: a lock was not to be had.  Other errors are the caller's; so is a timeout in
 * the midst of changes that were taken from the stream and are now rolled back.
 */
static bool
try_to_switch(Move *move)
{
	volatile bool finished = false;
	volatile bool done = false;
	TimestampTz start = GetCurrentTimestamp();

	set_lock_timeout(dbscale_move_lock_timeout);
	PG_TRY();
	{
		switch_now(move, &finished);
		done = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(move->context);
		error = CopyErrorData();
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE || move->switched || !apply_is_idle(move->apply))
			PG_RE_THROW();
		FlushErrorState();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(move->context);
	}
	PG_END_TRY();
	unlock_all();
	(void) dbscale_stream_value(move->guard, "ROLLBACK");
	set_lock_timeout(0);
	if (finished && !done)
		drop_keys_and_triggers(move);
	if (done)
		ereport(DEBUG1, errmsg("dbscale: writers of shard %d waited for %ld ms at most", move->shard,
							   TimestampDifferenceMilliseconds(start, GetCurrentTimestamp())));
	return done;
}

void
move_switch(Move *move)
{
	move->guard = move_open_stream(move, &move->source, false);
	while (!try_to_switch(move))
	{
		TimestampTz start = GetCurrentTimestamp();
		int			pause = dbscale_move_lock_timeout * PAUSE_FACTOR;

		dbscale_progress_step(move->reshards ? "waiting for transactions that use the tables" :
							  "waiting for transactions that write to the shard");
		while (!TimestampDifferenceExceeds(start, GetCurrentTimestamp(), pause))
		{
			(void) apply_up_to_mark(move->apply);
			apply_wait(move->apply, NIL, Min(pause, 1000));
		}
	}
}
