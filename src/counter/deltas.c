/*
 * deltas.c
 *		What rows add to counters, as SQL (triggers.c explains it).
 *
 * A *part* is a query over the rows of before or of after a statement, grouped by one
 * key of the source; where there are several, another GROUP BY is put over them.
 */
#include "counter/groups.h"

#include "common/hashfn.h"
#include "utils/builtins.h"

#define MAX_KEY_LOCKS 64

static CounterGroup *
find_group(List *groups, const Counter *counter)
{
	ListCell   *lc;

	foreach(lc, groups)
	{
		CounterGroup *group = lfirst(lc);

		if (group->target == counter->target && !group->buffered && !counter->buffered &&
			dbscale_counter_same_names(group->target_key, counter->target_key))
			return group;
	}
	return NULL;
}

/* Sources and targets of one key agree on this number, which is the same after a restart. */
int
dbscale_counter_lock_class(const char *table, List *target_key)
{
	char	   *name = psprintf("%s(%s)", table, dbscale_counter_list_columns(target_key, ""));

	return (int) (hash_bytes((unsigned char *) name, strlen(name)) & 0x7ffffffe);
}

/* The counters come in the order of their targets' OIDs. */
List *
dbscale_counter_make_groups(const CounterPlace *place, List *counters)
{
	List	   *groups = NIL;
	ListCell   *lc;

	foreach(lc, counters)
	{
		Counter    *counter = lfirst(lc);
		CounterGroup *group = find_group(groups, counter);

		if (group == NULL)
		{
			group = palloc0(sizeof(CounterGroup));
			group->place = place;
			group->target = counter->target;
			group->target_key = counter->target_key;
			group->buffered = counter->buffered;
			group->nkeys = list_length(counter->target_key);
			group->apart = counter->apart;
			if (!group->apart || dbscale_counter_is_at(place, counter->target))
			{
				group->table = dbscale_counter_table_at(place, counter->target);
				group->lock_class = dbscale_counter_lock_class(group->table, group->target_key);
			}
			groups = lappend(groups, group);
		}
		group->counters = lappend(group->counters, counter);
		group->locks |= !counter->has_foreign_key && !counter->apart;
		group->computes |= (!counter->has_foreign_key || counter->buffered) && !counter->apart;
	}
	return groups;
}

bool
dbscale_counter_any_apart(List *groups)
{
	ListCell   *lc;

	foreach(lc, groups)
		if (((CounterGroup *) lfirst(lc))->apart)
			return true;
	return false;
}

Counter *
dbscale_counter_nth(const CounterGroup *group, int n)
{
	return list_nth(group->counters, n);
}

/* ---- deltas ---- */

static const char *
zero(const Counter *counter)
{
	if (dbscale_counter_is_extreme(counter))
		return psprintf("NULL::%s", counter->value_type);
	return "0";
}

/* What one row says of a counter: no aggregate is needed. */
static char *
value_of_one(const Counter *counter, bool where_has_filter)
{
	char	   *value = counter->value ? pstrdup(quote_identifier(counter->value)) : NULL;

	if (counter->aggregate == COUNTER_COUNT)
		value = value ? psprintf("CASE WHEN %s IS NULL THEN 0 ELSE 1 END", value) : pstrdup("1");
	if (counter->filter == NULL || where_has_filter)
		return value;
	return psprintf("CASE WHEN (%s) THEN %s ELSE %s END", counter->filter, value, zero(counter));
}

/* What the rows say of one counter: xN, what was added, and for min and max oN, what was taken. */
static void
append_delta(StringInfo sql, const Counter *counter, int n, bool counts, bool where_has_filter, bool old, bool one)
{
	char	   *call;

	if (!counts)
		call = pstrdup(zero(counter));
	else
		call = one ? value_of_one(counter, where_has_filter) : dbscale_counter_aggregate_call(counter, !where_has_filter);
	if (counts && counter->aggregate == COUNTER_SUM)
		call = psprintf("coalesce(%s, 0)", call);

	if (!dbscale_counter_is_extreme(counter))
		appendStringInfo(sql, ", %s%s AS x%d", old && counts ? "- " : "", call, n + 1);
	else
		appendStringInfo(sql, ", %s AS x%d, %s AS o%d", old ? zero(counter) : call, n + 1,
						 old ? call : zero(counter), n + 1);
}

/* Deltas of the counters that have these columns of the source as their key, by key. */
static void
append_part(StringInfo sql, const CounterGroup *group, List *source_key, bool old, bool one)
{
	const char *filter = NULL;
	bool		common = true;	/* the counters' filters are equal: it goes to WHERE */
	bool		first = true;

	for (int n = 0; n < list_length(group->counters); n++)
	{
		const Counter *counter = dbscale_counter_nth(group, n);

		if (!dbscale_counter_same_names(counter->source_key, source_key))
			continue;
		if (first)
			filter = counter->filter;
		else if ((filter == NULL) != (counter->filter == NULL) || (filter && strcmp(filter, counter->filter) != 0))
			common = false;
		first = false;
	}
	appendStringInfo(sql, "SELECT %s", dbscale_counter_as_k(source_key));
	for (int n = 0; n < list_length(group->counters); n++)
	{
		const Counter *counter = dbscale_counter_nth(group, n);

		append_delta(sql, counter, n, dbscale_counter_same_names(counter->source_key, source_key), common, old, one);
	}
	appendStringInfo(sql, " FROM %s WHERE %s", old ? "old_rows" : "new_rows", dbscale_counter_not_null(source_key));
	if (common && filter)
		appendStringInfo(sql, " AND (%s)", filter);
	if (!one)
		appendStringInfo(sql, " GROUP BY %s", dbscale_counter_list_columns(source_key, ""));
}

bool
dbscale_counter_has_names(List *lists, List *names)
{
	ListCell   *lc;

	foreach(lc, lists)
		if (dbscale_counter_same_names(lfirst(lc), names))
			return true;
	return false;
}

/* The ways from the source to the targets: a list of lists of column names. */
List *
dbscale_counter_source_keys(const CounterGroup *group)
{
	List	   *keys = NIL;

	for (int n = 0; n < list_length(group->counters); n++)
		if (!dbscale_counter_has_names(keys, dbscale_counter_nth(group, n)->source_key))
			keys = lappend(keys, dbscale_counter_nth(group, n)->source_key);
	return keys;
}

static char *
parts(const CounterGroup *group, Operation op, bool one, int *count)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	*count = 0;
	foreach(lc, dbscale_counter_source_keys(group))
		for (int old = 0; old <= 1; old++)
		{
			if (op == (old ? ON_INSERT : ON_DELETE))
				continue;
			if ((*count)++ > 0)
				appendStringInfoString(&sql, " UNION ALL ");
			append_part(&sql, group, lfirst(lc), old, one);
		}
	return sql.data;
}

static const char *
fold_parts(const Counter *counter, int n)
{
	const char *call = counter->aggregate == COUNTER_MIN ? "min" : "max";

	if (!dbscale_counter_is_extreme(counter))
		return psprintf(", sum(x%d) AS x%d", n + 1, n + 1);
	return psprintf(", %s(x%d) AS x%d, %s(o%d) AS o%d", call, n + 1, n + 1, call, n + 1, n + 1);
}

/*
 * A query of k1, ..., x1, [o1,] ...: one row for each key that something changes for.
 * (Where the extremes of what was taken and of what was added are the same, the
 * target's cannot change.)
 */
char *
dbscale_counter_deltas(const CounterGroup *group, Operation op, bool one)
{
	StringInfoData sql;
	int			count;
	char	   *inner = parts(group, op, one, &count);
	char	   *keys = dbscale_counter_list_k(group->nkeys, "");

	initStringInfo(&sql);
	if (count > 1)
	{
		appendStringInfo(&sql, "SELECT %s", keys);
		for (int n = 0; n < list_length(group->counters); n++)
			appendStringInfoString(&sql, fold_parts(dbscale_counter_nth(group, n), n));
		appendStringInfo(&sql, " FROM (%s) p GROUP BY %s", inner, keys);
		inner = pstrdup(sql.data);
		resetStringInfo(&sql);
	}
	appendStringInfo(&sql, "SELECT * FROM (%s) q WHERE ", inner);
	for (int n = 0; n < list_length(group->counters); n++)
		appendStringInfo(&sql, dbscale_counter_is_extreme(dbscale_counter_nth(group, n)) ?
						 "%sx%d IS DISTINCT FROM o%d" : "%sx%d <> 0", n ? " OR " : "", n + 1, n + 1);
	return sql.data;
}

/*
 * What a buffered counter's rows say one by one: k1, ... and x1, of those that say
 * anything.  Every name is qualified (source.c).
 */
char *
dbscale_counter_each_row(const CounterGroup *group, Operation op)
{
	const Counter *counter = dbscale_counter_nth(group, 0);
	const char *value = counter->value ? pstrdup(quote_identifier(counter->value)) : NULL;
	bool		old = op == ON_DELETE;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s, ", dbscale_counter_as_k(counter->source_key));
	if (counter->aggregate == COUNTER_COUNT)
		appendStringInfo(&sql, "(%d)::%s", old ? -1 : 1, dbscale_counter_delta_type(counter));
	else
		appendStringInfo(&sql, "%s%s::%s", old ? "OPERATOR(pg_catalog.-) " : "", value, dbscale_counter_delta_type(counter));
	appendStringInfo(&sql, " AS x1 FROM %s WHERE %s", old ? "old_rows" : "new_rows", dbscale_counter_not_null(counter->source_key));
	if (value)
		appendStringInfo(&sql, " AND %s IS NOT NULL", value);
	if (counter->aggregate == COUNTER_SUM)
		appendStringInfo(&sql, " AND %s OPERATOR(pg_catalog.<>) 0", value);
	if (counter->filter)
		appendStringInfo(&sql, " AND (%s)", counter->filter);
	return sql.data;
}

/* By 6: is the key among those whose targets this transaction has made? */
static char *
made_condition(const CounterGroup *group)
{
	return psprintf("(made_all OR hash_record(ROW(%d, %s)) = ANY (made))",
					group->lock_class, dbscale_counter_list_k(group->nkeys, ""));
}

char *
dbscale_counter_deltas_to_add(const CounterGroup *group, Operation op)
{
	char	   *query = dbscale_counter_deltas(group, op, false);

	if (!group->computes)
		return query;
	return psprintf("SELECT * FROM (%s) r WHERE NOT %s", query, made_condition(group));
}

char *
dbscale_counter_keys_to_compute(const CounterGroup *group, Operation op)
{
	return psprintf("SELECT %s FROM (%s) r WHERE %s", dbscale_counter_list_k(group->nkeys, ""),
					dbscale_counter_deltas(group, op, false), made_condition(group));
}

/* Lock the targets of the query's keys, in order: a query with the same columns. */
char *
dbscale_counter_locked(const CounterGroup *group, const char *query_name)
{
	return psprintf("SELECT %s.* FROM %s JOIN %s AS target_ ON %s ORDER BY %s FOR NO KEY UPDATE OF target_",
					query_name, query_name, group->table,
					dbscale_counter_join_k(group->target_key, "target_", query_name),
					dbscale_counter_list_columns(group->target_key, "target_."));
}

/* SET a = v.x1, ... FROM (the keys with their true values) v: what the targets' rows should have. */
char *
dbscale_counter_compute_statement(const CounterGroup *group, const char *keys)
{
	StringInfoData sql;
	StringInfoData set;
	StringInfoData differs;
	char	   *buffer = group->buffered ? dbscale_counter_buffer_name(group->place, linitial(group->counters)) : NULL;

	initStringInfo(&sql);
	initStringInfo(&set);
	initStringInfo(&differs);
	if (buffer)
	{
		StringInfoData join;

		initStringInfo(&join);
		for (int n = 1; n <= group->nkeys; n++)
			appendStringInfo(&join, "%sb.k%d = d.k%d", n > 1 ? " AND " : "", n, n);
		appendStringInfo(&sql, "WITH gone AS (DELETE FROM %s b USING (%s) d WHERE %s) ", buffer, keys, join.data);
	}
	appendStringInfo(&sql, "UPDATE %s AS target_ SET ", group->table);
	for (int n = 0; n < list_length(group->counters); n++)
	{
		const char *column = quote_identifier(dbscale_counter_nth(group, n)->column);

		appendStringInfo(&set, "%s%s = v.x%d", n ? ", " : "", column, n + 1);
		appendStringInfo(&differs, "%starget_.%s IS DISTINCT FROM v.x%d", n ? " OR " : "", column, n + 1);
	}
	appendStringInfo(&sql, "%s FROM (SELECT %s", set.data, dbscale_counter_list_k(group->nkeys, "d."));
	for (int n = 0; n < list_length(group->counters); n++)
		appendStringInfo(&sql, ", %s AS x%d",
						 dbscale_counter_true_value(group->place, dbscale_counter_nth(group, n), "d", true), n + 1);
	appendStringInfo(&sql, " FROM (%s) d) v WHERE %s AND (%s);\n", keys,
					 dbscale_counter_join_k(group->target_key, "target_", "v"), differs.data);
	return sql.data;
}

/* By 4 and 5: `keys` is a query of k1, ... */
void
dbscale_counter_append_locks(StringInfo sql, const CounterGroup *group, const char *keys, bool is_target)
{
	int			class = group->lock_class;

	appendStringInfo(sql, "n := coalesce(nullif(current_setting('dbscale_shards.locked', true), ''), '0')::integer"
					 " + (SELECT count(*) FROM (%s LIMIT %d) d);\n"
					 "PERFORM pg_advisory_xact_lock_shared(%d, %d);\n"
					 "IF n <= %d THEN\n"
					 "  PERFORM %s(%d, h) FROM (SELECT DISTINCT hash_record(ROW(%s)) AS h FROM (%s) d ORDER BY 1) x;\n"
					 "ELSE PERFORM pg_advisory_xact_lock(%d, %d);\nEND IF;\n"
					 "ignored := set_config('dbscale_shards.locked', n::text, true);\n",
					 keys, MAX_KEY_LOCKS + 1, class + 1, is_target ? 1 : 0, MAX_KEY_LOCKS,
					 is_target ? "pg_advisory_xact_lock" : "pg_advisory_xact_lock_shared", class,
					 dbscale_counter_list_k(group->nkeys, ""), keys, class + 1, is_target ? 0 : 1);
}
