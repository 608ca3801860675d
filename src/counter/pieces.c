/*
 * pieces.c
 *		Pieces of the SQL that keeps counters.
 */
#include "counter/internal.h"

#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

bool
dbscale_counter_same_names(List *a, List *b)
{
	ListCell   *la;
	ListCell   *lb;

	if (list_length(a) != list_length(b))
		return false;
	forboth(la, a, lb, b)
		if (strcmp(lfirst(la), lfirst(lb)) != 0)
			return false;
	return true;
}

bool
dbscale_counter_is_extreme(const Counter *counter)
{
	return counter->aggregate == COUNTER_MIN || counter->aggregate == COUNTER_MAX;
}

const char *
dbscale_counter_empty(const Counter *counter)
{
	return dbscale_counter_is_extreme(counter) ? "NULL" : "0";
}

char *
dbscale_counter_aggregate_call(const Counter *counter, bool with_filter)
{
	char	   *call = psprintf("%s(%s)", dbscale_counter_aggregate_name(counter->aggregate),
								counter->value ? quote_identifier(counter->value) : "*");

	if (!with_filter || counter->filter == NULL)
		return call;
	return psprintf("%s FILTER (WHERE (%s))", call, counter->filter);
}

/* What `make` makes of each name (quoted, and its number from 1), put together. */
static char *
each(List *names, const char *separator, char *(*make) (const char *name, int n, const char *argument),
	 const char *argument)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	foreach(lc, names)
		appendStringInfo(&sql, "%s%s", foreach_current_index(lc) ? separator : "",
						 make(quote_identifier(lfirst(lc)), foreach_current_index(lc) + 1, argument));
	return sql.data;
}

static char *
make_prefixed(const char *name, int n, const char *prefix)
{
	return psprintf("%s%s", prefix, name);
}

static char *
make_as_k(const char *name, int n, const char *argument)
{
	return psprintf("%s AS k%d", name, n);
}

static char *
make_not_null(const char *name, int n, const char *argument)
{
	return psprintf("%s IS NOT NULL", name);
}

char *
dbscale_counter_list_columns(List *names, const char *prefix)
{
	return each(names, ", ", make_prefixed, prefix);
}

char *
dbscale_counter_as_k(List *names)
{
	return each(names, ", ", make_as_k, NULL);
}

char *
dbscale_counter_not_null(List *names)
{
	return each(names, " AND ", make_not_null, NULL);
}

char *
dbscale_counter_list_k(int count, const char *prefix)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int n = 1; n <= count; n++)
		appendStringInfo(&sql, "%s%sk%d", n > 1 ? ", " : "", prefix, n);
	return sql.data;
}

char *
dbscale_counter_k_not_null(int count)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int n = 1; n <= count; n++)
		appendStringInfo(&sql, "%sk%d IS NOT NULL", n > 1 ? " AND " : "", n);
	return sql.data;
}

char *
dbscale_counter_join_k(List *names, const char *alias, const char *k_alias)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	foreach(lc, names)
		appendStringInfo(&sql, "%s%s.%s = %s.k%d", foreach_current_index(lc) ? " AND " : "",
						 alias, quote_identifier(lfirst(lc)), k_alias, foreach_current_index(lc) + 1);
	return sql.data;
}

char *
dbscale_counter_true_value(const CounterPlace *place, const Counter *counter, const char *row, bool row_has_k)
{
	StringInfoData sql;
	ListCell   *ls;
	ListCell   *lt;

	initStringInfo(&sql);
	appendStringInfo(&sql, "(SELECT coalesce(%s, %s) FROM %s AS source_ WHERE ",
					 dbscale_counter_aggregate_call(counter, false), dbscale_counter_empty(counter),
					 dbscale_counter_table_at(place, counter->source));
	forboth(ls, counter->source_key, lt, counter->target_key)
		appendStringInfo(&sql, "%ssource_.%s = %s.%s", foreach_current_index(ls) ? " AND " : "",
						 quote_identifier(lfirst(ls)), row,
						 row_has_k ? psprintf("k%d", foreach_current_index(ls) + 1) : quote_identifier(lfirst(lt)));
	if (counter->filter)
		appendStringInfo(&sql, " AND (%s)", counter->filter);
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

char *
dbscale_counter_object_name(const char *base, const char *suffix)
{
	int			room = NAMEDATALEN - 1 - strlen(suffix);
	uint32		hash;

	if ((int) strlen(base) <= room)
		return psprintf("%s%s", base, suffix);
	hash = hash_bytes((const unsigned char *) base, strlen(base));
	room -= 9;
	return psprintf("%.*s_%08x%s", pg_mbcliplen(base, strlen(base), room), base, hash, suffix);
}

char *
dbscale_counter_bare_name(const CounterPlace *place, const Counter *counter, const char *kind)
{
	return place->group == NULL ? psprintf("%s_%s", counter->name, kind) :
		psprintf("%s_%s_%d", counter->name, kind, place->shard->number);
}

char *
dbscale_counter_buffer_name(const CounterPlace *place, const Counter *counter)
{
	return quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA, dbscale_counter_bare_name(place, counter, COUNTER_DELTAS));
}

char *
dbscale_counter_fold_name(const CounterPlace *place, const Counter *counter)
{
	return quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA, dbscale_counter_bare_name(place, counter, COUNTER_FOLD));
}

char *
dbscale_counter_orphans_name(const CounterPlace *place, const Counter *counter)
{
	return quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA, dbscale_counter_bare_name(place, counter, COUNTER_ORPHANS));
}

char *
dbscale_counter_lock_name(const CounterPlace *place, const Counter *counter)
{
	return quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA, dbscale_counter_bare_name(place, counter, COUNTER_LOCK));
}
