/*
 * apart_read.c
 *		Reading counters whose tables are not colocated: counter_value, verify_counter.
 *
 * They ask many nodes, one after the other, and must not see a delta in two places or in
 * none: 8 and 10 of carry.c.
 */
#include "counter/internal.h"

#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

DBSCALE_FUNCTION(dbscale_counter_parts);

typedef struct Reading
{
	MemoryContext context;
	ResourceOwner owner;
} Reading;

/* By 8 and 10 of carry.c: what this locks is let go by end_reading. */
static Reading
begin_reading(const Counter *counter)
{
	Reading		reading = {CurrentMemoryContext, CurrentResourceOwner};

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(reading.context);
	dbscale_counter_lock_places(counter);
	return reading;
}

static void
end_reading(const Reading *reading)
{
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(reading->context);
	CurrentResourceOwner = reading->owner;
}

/* What is pending of the key is added to what its row has. */
static char *
add_pending(const Counter *counter, List *sources, const char *value, List *key)
{
	StringInfoData sum;
	ListCell   *lc;

	initStringInfo(&sum);
	appendStringInfo(&sum, "SELECT (%s::numeric", quote_literal_cstr(value));
	foreach(lc, sources)
		appendStringInfo(&sum, " + %s", quote_literal_cstr(dbscale_counter_query_at(lfirst(lc),
																				  dbscale_counter_pending_of_sql(lfirst(lc), counter, key))));
	appendStringInfoString(&sum, ")::text");
	return sum.data;
}

/* NULL where the target has no such row. */
char *
dbscale_counter_value_apart(const Counter *counter, List *key)
{
	Reading		reading = begin_reading(counter);
	CounterPlace *place = dbscale_counter_place_of(counter, key);
	List	   *sources = dbscale_counter_places(counter->source);
	char	   *value = NULL;
	char	   *sum = NULL;

	if (place)
	{
		dbscale_counter_hold(counter, lappend(list_copy(sources), place), true);
		value = dbscale_counter_query_at(place, dbscale_counter_value_sql(place, counter, key));
	}
	if (value)
		sum = add_pending(counter, sources, value, key);
	end_reading(&reading);
	return sum ? dbscale_counter_query(sum) : NULL;
}

List *
dbscale_counter_verify_apart(const Counter *counter)
{
	return dbscale_counter_query_rows(psprintf("SELECT key, coalesce(sum(stored), 0)::text, coalesce(sum(carried), 0)::text"
											   " FROM dbscale.counter_parts(%s) GROUP BY key"
											   " HAVING coalesce(sum(stored), 0) <> coalesce(sum(carried), 0)"
											   " OR bool_or(orphan) AND bool_or(NOT orphan) ORDER BY key", quote_literal_cstr(counter->name)), NULL);
}

static void
put_parts(Tuplestorestate *store, TupleDesc desc, List *rows)
{
	ListCell   *lc;

	foreach(lc, rows)
	{
		char	  **row = lfirst(lc);
		Datum		values[4] = {0};
		bool		nulls[4] = {false, row[1] == NULL, row[2] == NULL, row[3] == NULL};

		values[0] = DirectFunctionCall1(jsonb_in, CStringGetDatum(row[0]));
		for (int n = 1; n <= 2; n++)
			if (row[n])
				values[n] = DirectFunctionCall3(numeric_in, CStringGetDatum(row[n]), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
		values[3] = BoolGetDatum(row[3] && row[3][0] == 't');
		tuplestore_putvalues(store, desc, values, nulls);
	}
}

/* What the shards say to verify_counter, which adds it up; for dbscale's owner. */
Datum
dbscale_counter_parts(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Counter    *counter = dbscale_counter_get(NameStr(*PG_GETARG_NAME(0)), false);
	List	   *sources;
	List	   *targets;
	Reading		reading;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	if (!counter->apart)
		return (Datum) 0;
	reading = begin_reading(counter);
	sources = dbscale_counter_places(counter->source);
	targets = dbscale_counter_places(counter->target);
	dbscale_counter_hold(counter, list_concat(list_copy(sources), targets), true);
	for (int i = 0; i < 2; i++)
		foreach(lc, i ? targets : sources)
		{
			MemoryContext rows = AllocSetContextCreate(reading.context, "dbscale counter parts", ALLOCSET_DEFAULT_SIZES);

			MemoryContextSwitchTo(rows);
			put_parts(result->setResult, result->setDesc,
					  dbscale_counter_rows_at(lfirst(lc), (i ? dbscale_counter_target_parts_sql : dbscale_counter_source_parts_sql) (lfirst(lc), counter),
											  4, false));
			MemoryContextSwitchTo(reading.context);
			MemoryContextDelete(rows);
		}
	end_reading(&reading);
	return (Datum) 0;
}
