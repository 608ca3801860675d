/*
 * install.c
 *		Making, on the coordinator or on every shard, what keeps a table's counters.
 *
 * A table's functions speak of all its counters, so they are made anew whenever one
 * of these comes, goes or changes; where none is left, they and their triggers go.
 */
#include "counter/internal.h"

#include "utils/builtins.h"
#include "utils/lsyscache.h"

static void
install(Oid relid, List *(*make) (const CounterPlace *place, Oid relid, List *counters), List *counters)
{
	CounterBatch *batch;
	ListCell   *lc;

	if (get_rel_name(relid) == NULL)
		return;
	batch = dbscale_counter_batch();
	foreach(lc, dbscale_counter_places(relid))
		dbscale_counter_send_all(batch, lfirst(lc), InvalidOid, make(lfirst(lc), relid, counters));
	(void) dbscale_counter_finish(batch);
}

void
dbscale_counter_install_source(Oid source)
{
	install(source, dbscale_counter_source_sql, dbscale_counters_of_source(source));
}

void
dbscale_counter_install_target(Oid target)
{
	install(target, dbscale_counter_target_sql, dbscale_counters_of_target(target));
}

/* Tables of deltas and the functions that fold them, for all counters of these two tables. */
void
dbscale_counter_install_buffers(Oid source, Oid target)
{
	CounterBatch *batch = dbscale_counter_batch();
	ListCell   *lc;
	ListCell   *lp;

	foreach(lc, dbscale_counter_list(psprintf("source = %u AND target = %u AND mode = 'buffered' AND NOT suspended", source, target)))
	{
		Counter    *counter = lfirst(lc);

		foreach(lp, dbscale_counter_delta_places(counter))
			dbscale_counter_send_all(batch, lfirst(lp), InvalidOid, dbscale_counter_buffer_sql(lfirst(lp), counter));
		foreach(lp, counter->apart ? dbscale_counter_places(target) : NIL)
			dbscale_counter_send_all(batch, lfirst(lp), InvalidOid, dbscale_counter_orphans_sql(lfirst(lp), counter));
	}
	(void) dbscale_counter_finish(batch);
}

/* Of what the two tables' functions are now to be; the same as long as they need no change. */
char *
dbscale_counter_fingerprint(Oid source, Oid target)
{
	List	   *sources = dbscale_counters_of_source(source);
	List	   *targets = dbscale_counters_of_target(target);
	CounterPlace *source_place = dbscale_counter_first_place(source);
	CounterPlace *target_place = dbscale_counter_first_place(target);
	StringInfoData sql;
	ListCell   *lc;

	if (source_place == NULL || target_place == NULL)
		return pstrdup("");
	initStringInfo(&sql);
	foreach(lc, list_concat(dbscale_counter_source_sql(source_place, source, sources),
							dbscale_counter_target_sql(target_place, target, targets)))
		appendStringInfo(&sql, "%s;", (char *) lfirst(lc));
	return dbscale_counter_query(psprintf("SELECT md5(%s)", quote_literal_cstr(sql.data)));
}

void
dbscale_counter_set_fingerprint(Oid source, Oid target)
{
	dbscale_counter_execute(psprintf("UPDATE dbscale.counter SET fingerprint = %s WHERE source = %u AND target = %u",
									 quote_literal_cstr(dbscale_counter_fingerprint(source, target)), source, target));
}

void
dbscale_counter_forget(const Counter *counter)
{
	dbscale_counter_execute(psprintf("DELETE FROM dbscale.counter WHERE counter = %s", quote_literal_cstr(counter->name)));
}

/* Its row in the catalog and all that was made for it; its tables may be gone (the places are where they were). */
void
dbscale_counter_drop(const Counter *counter, List *target_places, List *source_places)
{
	CounterBatch *batch = dbscale_counter_batch();
	ListCell   *lc;

	dbscale_counter_forget(counter);
	dbscale_counter_install_source(counter->source);
	dbscale_counter_install_target(counter->target);
	if (counter->buffered)
		foreach(lc, counter->apart ? source_places : target_places)
			dbscale_counter_send_all(batch, lfirst(lc), InvalidOid, dbscale_counter_drop_buffer_sql(lfirst(lc), counter));
	if (counter->apart)
		foreach(lc, target_places)
			dbscale_counter_send_all(batch, lfirst(lc), InvalidOid, dbscale_counter_drop_orphans_sql(lfirst(lc), counter));
	(void) dbscale_counter_finish(batch);
}
