/*
 * suspend.c
 *		Counters of tables that are distributed, or become plain tables again.
 *
 * A counter is kept where its tables' rows are, so it cannot be kept while one of the
 * two is distributed and the other is not.  But one is distributed after the other.
 * Between the two the counter is *suspended*: nothing keeps it.  That cannot be seen
 * from outside, and loses nothing:
 *
 *	1. Both tables are locked against everybody, readers too, when the first of them is
 *	   about to be distributed, until the transaction ends: only it can write to them.
 *	2. No transaction commits with a suspended counter: a deferred constraint trigger on
 *	   dbscale.counter refuses it.  So what others know is a counter that is kept where
 *	   the tables were, and then one that is kept where they are.
 *	3. When the second one has followed, all that keeps the counter is made where the
 *	   tables are now, and its values are computed, as by create_counter.  So it does not
 *	   matter what the transaction has written in between, nor what was pending.
 *
 * Outside of a transaction block there is no second command, so there the first is
 * refused at once, before its rows have been copied for an hour.
 *
 * A counter whose tables are not colocated is kept wherever they are, so it is suspended
 * only while one of them is converted: afterwards 3 holds, for where the tables are then.
 * They may be colocated then, or both plain: it becomes such a counter, in mode buffered.
 * And a buffered one may become apart when both tables are distributed, not colocated.
 * Carriers are held out first, and what one has prepared is waited for.
 */
#include "counter/internal.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

static Oid
other_table(const Counter *counter, Oid relid)
{
	return counter->source == relid ? counter->target : counter->source;
}

static void
refuse_alone(const Counter *counter, Oid relid, bool to_shards)
{
	const char *command = to_shards ? "distribute" : "undistribute";
	const char *other = get_rel_name(other_table(counter, relid));

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s table \"%s\" alone", command, get_rel_name(relid)),
			 errdetail("Counter \"%s\" is kept by triggers on it and on table \"%s\", so both must be in the same place.",
					   counter->name, other),
			 to_shards ?
			 errhint("Begin a transaction, distribute both tables in it, colocated, and commit; or use dbscale.drop_counter('%s') first.",
					 counter->name) :
			 errhint("Begin a transaction, undistribute both tables in it, and commit; or use dbscale.drop_counter('%s') first.",
					 counter->name)));
}

/* One that is not apart is where both its tables are. */
static void
check_together(const Counter *counter, Oid relid, bool to_shards)
{
	const DistributedTable *source = dbscale_catalog_table(counter->source);
	const DistributedTable *target = dbscale_catalog_table(counter->target);

	if (counter->apart || (dbscale_counter_is_sharded(counter->source) == dbscale_counter_is_sharded(counter->target) &&
						   (!dbscale_counter_is_sharded(counter->source) || source->group->id == target->group->id)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s table \"%s\" while it has counters", to_shards ? "distribute" : "undistribute", get_rel_name(relid)),
			 errdetail("The other table of counter \"%s\" is not colocated with it.", counter->name),
			 errhint("Use dbscale.drop_counter('%s') first, and dbscale.create_counter() afterwards.", counter->name)));
}

static List *
counters_of(Oid relid, bool suspended)
{
	return dbscale_counter_list_names(psprintf("%u IN (source, target) AND suspended = %s", relid, suspended ? "true" : "false"));
}

/* Where the tables are now; the catalog has the counters as suspended. */
static void
take_away(List *counters)
{
	CounterBatch *batch = dbscale_counter_batch();
	List	   *sources = NIL;
	List	   *targets = NIL;
	ListCell   *lc;
	ListCell   *lp;

	foreach(lc, counters)
	{
		const Counter *counter = lfirst(lc);

		sources = list_append_unique_oid(sources, counter->source);
		targets = list_append_unique_oid(targets, counter->target);
		if (counter->buffered)
			foreach(lp, dbscale_counter_delta_places(counter))
				dbscale_counter_send_all(batch, lfirst(lp), InvalidOid, dbscale_counter_drop_buffer_sql(lfirst(lp), counter));
		if (counter->apart)
			foreach(lp, dbscale_counter_places(counter->target))
				dbscale_counter_send_all(batch, lfirst(lp), InvalidOid, dbscale_counter_drop_orphans_sql(lfirst(lp), counter));
	}
	(void) dbscale_counter_finish(batch);
	foreach(lc, sources)
		dbscale_counter_install_source(lfirst_oid(lc));
	foreach(lc, targets)
		dbscale_counter_install_target(lfirst_oid(lc));
}

static void
suspend(List *counters, Oid relid, bool to_shards)
{
	ListCell   *lc;

	foreach(lc, counters)
	{
		check_together(lfirst(lc), relid, to_shards);
		if (other_table(lfirst(lc), relid) != relid && !((Counter *) lfirst(lc))->apart && !IsTransactionBlock())
			refuse_alone(lfirst(lc), relid, to_shards);
	}
	foreach(lc, counters)
		LockRelationOid(other_table(lfirst(lc), relid), AccessExclusiveLock);
	foreach(lc, counters)
	{
		const Counter *counter = lfirst(lc);

		if (counter->apart)
			dbscale_counter_hold(counter, list_concat(dbscale_counter_places(counter->source), dbscale_counter_places(counter->target)), false);
	}
	dbscale_counter_execute(psprintf("UPDATE dbscale.counter SET suspended = true WHERE %u IN (source, target)", relid));
	take_away(counters);
}

void
dbscale_counter_suspend(Oid relid, bool to_shards)
{
	List	   *counters;
	Oid			user;
	int			context;

	/* what is there already, the command will say */
	if (dbscale_counter_is_sharded(relid) == to_shards)
		return;
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(dbscale_extension_owner(), context | SECURITY_LOCAL_USERID_CHANGE);
	counters = counters_of(relid, false);
	if (counters != NIL)
		suspend(counters, relid, to_shards);
	SetUserIdAndSecContext(user, context);
}

/* As the extension's owner. */
void
dbscale_counter_resume(Oid relid)
{
	ListCell   *lc;

	CommandCounterIncrement();
	foreach(lc, counters_of(relid, true))
	{
		Counter    *counter = lfirst(lc);

		if (!counter->apart && dbscale_counter_is_sharded(counter->source) != dbscale_counter_is_sharded(counter->target))
			continue;
		counter->apart = counter->buffered && dbscale_counter_is_apart(counter);
		dbscale_counter_check(counter);
		dbscale_counter_execute(psprintf("UPDATE dbscale.counter SET suspended = false, apart = %s WHERE counter = %s",
										 counter->apart ? "true" : "false", quote_literal_cstr(counter->name)));
		dbscale_counter_keep(counter);
	}
}
