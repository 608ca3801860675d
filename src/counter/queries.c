/*
 * queries.c
 *		Folding, verifying, repairing and reading counters, as SQL.
 *
 * The deltas of a buffered counter stand in a table beside its source: the key's
 * columns k1, ..., the delta, and when it was made.  Rows are inserted by sources and
 * deleted by the fold, never updated.
 *
 * The fold never waits for a row: targets that somebody has locked keep their deltas
 * until the next time (SKIP LOCKED), so it can neither hold up writers nor deadlock
 * with them.  First it locks targets that have deltas, in order; then one statement,
 * whose snapshot is newer than the locks, deletes the deltas of these and adds them
 * up; then deltas whose target is not there are dropped (triggers.c, 8).  Rows come and
 * go by the thousand a second, so the worker vacuums these tables itself (fold.c): each
 * fold reads the whole table, dead rows too.
 */
#include "counter/internal.h"

#include "utils/builtins.h"

char *
dbscale_counter_key_type(const Counter *counter, const char *column)
{
	return dbscale_counter_query(psprintf("SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = %u AND attname = %s",
										  counter->source, quote_literal_cstr(column)));
}

const char *
dbscale_counter_delta_type(const Counter *counter)
{
	return counter->aggregate == COUNTER_COUNT ? "bigint" : "numeric";
}

static int
nkeys(const Counter *counter)
{
	return list_length(counter->target_key);
}

char *
dbscale_counter_same_k(int count, const char *a, const char *b)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int n = 1; n <= count; n++)
		appendStringInfo(&sql, "%s%s.k%d = %s.k%d", n > 1 ? " AND " : "", a, n, b, n);
	return sql.data;
}

static char *
fold_body(const CounterPlace *place, const Counter *counter)
{
	int			count = nkeys(counter);
	char	   *buffer = dbscale_counter_buffer_name(place, counter);
	char	   *table = dbscale_counter_table_at(place, counter->target);
	char	   *column = pstrdup(quote_identifier(counter->column));
	char	   *k = dbscale_counter_list_k(count, "");
	StringInfoData declare;
	StringInfoData aggregates;
	StringInfoData all;			/* the arrays of keys that have deltas, and of those that are locked */
	StringInfoData locked;
	StringInfoData body;
	ListCell   *lc;

	initStringInfo(&declare);
	initStringInfo(&aggregates);
	initStringInfo(&all);
	initStringInfo(&locked);
	foreach(lc, counter->source_key)
	{
		int			n = foreach_current_index(lc) + 1;
		const char *separator = n > 1 ? ", " : "";

		appendStringInfo(&declare, "a%d %s[];\nl%d %s[];\n", n, dbscale_counter_key_type(counter, lfirst(lc)), n, dbscale_counter_key_type(counter, lfirst(lc)));
		appendStringInfo(&aggregates, "%sarray_agg(k%d)", separator, n);
		appendStringInfo(&all, "%sa%d", separator, n);
		appendStringInfo(&locked, "%sl%d", separator, n);
	}
	initStringInfo(&body);
	appendStringInfo(&body, "\n#variable_conflict use_column\nDECLARE\ncounting text;\n"
					 "ignored text;\nfolded bigint := 0;\n%sBEGIN\n"
					 "BEGIN\nLOCK TABLE %s, %s IN ROW EXCLUSIVE MODE NOWAIT;\nEXCEPTION WHEN lock_not_available THEN\nRETURN 0;\nEND;\n"
					 "SELECT %s INTO %s FROM (SELECT DISTINCT %s FROM %s) d;\n"
					 "IF a1 IS NULL THEN RETURN 0; END IF;\n", declare.data, table, buffer, aggregates.data, all.data, k, buffer);
	appendStringInfo(&body, "SELECT %s INTO %s FROM (SELECT %s FROM unnest(%s) d(%s) JOIN %s AS target_ ON %s"
					 " ORDER BY %s FOR NO KEY UPDATE OF target_ SKIP LOCKED) x;\n",
					 aggregates.data, locked.data, dbscale_counter_list_k(count, "d."), all.data, k, table,
					 dbscale_counter_join_k(counter->target_key, "target_", "d"),
					 dbscale_counter_list_columns(counter->target_key, "target_."));
	appendStringInfo(&body, COUNTING_ON
					 "WITH gone AS (DELETE FROM %s b USING unnest(%s) d(%s) WHERE %s RETURNING %s, b.delta),\n"
					 "s AS (SELECT %s, sum(delta) AS x FROM gone GROUP BY %s)\n"
					 "UPDATE %s AS target_ SET %s = coalesce(target_.%s, 0) + s.x FROM s WHERE %s AND s.x <> 0;\n"
					 "GET DIAGNOSTICS folded = ROW_COUNT;\n"
					 COUNTING_OFF,
					 buffer, locked.data, k, dbscale_counter_same_k(count, "b", "d"), dbscale_counter_list_k(count, "b."),
					 k, k, table, column, column, dbscale_counter_join_k(counter->target_key, "target_", "s"));
	appendStringInfo(&body, "IF coalesce(cardinality(l1), 0) < cardinality(a1) THEN\n"
					 "DELETE FROM %s b USING (SELECT o.ctid AS at FROM %s o WHERE NOT EXISTS (SELECT FROM %s AS target_ WHERE %s)"
					 " FOR UPDATE OF o SKIP LOCKED) o WHERE b.ctid = o.at;\nEND IF;\nRETURN folded;\nEND;\n",
					 buffer, buffer, table, dbscale_counter_join_k(counter->target_key, "target_", "o"));
	return body.data;
}

List *
dbscale_counter_buffer_sql(const CounterPlace *place, const Counter *counter)
{
	char	   *buffer = dbscale_counter_buffer_name(place, counter);
	char	   *fold = dbscale_counter_fold_name(place, counter);
	List	   *commands;
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE TABLE IF NOT EXISTS %s (", buffer);
	foreach(lc, counter->source_key)
		appendStringInfo(&sql, "k%d %s NOT NULL, ", foreach_current_index(lc) + 1, dbscale_counter_key_type(counter, lfirst(lc)));
	appendStringInfo(&sql, "delta %s NOT NULL, made_at timestamptz NOT NULL DEFAULT pg_catalog.transaction_timestamp())"
					 " WITH (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0)", dbscale_counter_delta_type(counter));
	commands = list_make1(sql.data);
	/* for who publishes all tables: there is no key, and rows are deleted */
	commands = lappend(commands, psprintf("ALTER TABLE %s REPLICA IDENTITY FULL", buffer));
	if (place->group == NULL)
		commands = lappend(commands, psprintf("ALTER TABLE %s OWNER TO %s", buffer,
											  quote_identifier(GetUserNameFromId(dbscale_counter_owner(counter->target), false))));
	if (counter->apart)
		return commands;
	commands = lappend(commands, psprintf("CREATE OR REPLACE FUNCTION %s() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER"
										  " SET search_path = pg_catalog, pg_temp AS %s", fold,
										  quote_literal_cstr(fold_body(place, counter))));
	commands = lappend(commands, psprintf("REVOKE ALL ON FUNCTION %s() FROM PUBLIC", fold));
	if (place->group == NULL)
		commands = lappend(commands, psprintf("ALTER FUNCTION %s() OWNER TO %s", fold,
											  quote_identifier(GetUserNameFromId(dbscale_counter_owner(counter->target), false))));
	return commands;
}

List *
dbscale_counter_drop_buffer_sql(const CounterPlace *place, const Counter *counter)
{
	return list_make2(psprintf("DROP FUNCTION IF EXISTS %s()", dbscale_counter_fold_name(place, counter)),
					  psprintf("DROP TABLE IF EXISTS %s", dbscale_counter_buffer_name(place, counter)));
}

char *
dbscale_counter_fold_call(const CounterPlace *place, const Counter *counter)
{
	return psprintf("%s()", dbscale_counter_fold_name(place, counter));
}

char *
dbscale_counter_lock_sql(const CounterPlace *place, const Counter *counter)
{
	if (counter->source == counter->target)
		return psprintf("LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE", dbscale_counter_table_at(place, counter->source));
	return psprintf("LOCK TABLE ONLY %s, ONLY %s IN SHARE ROW EXCLUSIVE MODE", dbscale_counter_table_at(place, counter->source),
					dbscale_counter_table_at(place, counter->target));
}

char *
dbscale_counter_true_values(const CounterPlace *place, const Counter *counter)
{
	return psprintf("SELECT %s, %s AS x FROM %s AS source_ WHERE %s%s GROUP BY %s",
					dbscale_counter_as_k(counter->source_key), dbscale_counter_aggregate_call(counter, false),
					dbscale_counter_table_at(place, counter->source), dbscale_counter_not_null(counter->source_key),
					counter->filter ? psprintf(" AND (%s)", counter->filter) : "",
					dbscale_counter_list_columns(counter->source_key, ""));
}

static char *
do_statement(const char *statement)
{
	return psprintf("DO %s", quote_literal_cstr(psprintf("BEGIN %s; END", statement)));
}

/* Folds do not wait for what others have locked; here nobody has, or it is an error. */
List *
dbscale_counter_empty_buffer_sql(const CounterPlace *place, const Counter *counter)
{
	char	   *buffer = dbscale_counter_buffer_name(place, counter);

	return list_make2(psprintf("SELECT %s", dbscale_counter_fold_call(place, counter)),
					  do_statement(psprintf("IF EXISTS (SELECT FROM %s) THEN\n"
											"  RAISE EXCEPTION USING ERRCODE = '55P03', MESSAGE = %s,\n"
											"    DETAIL = 'Somebody else has a lock on its tables.', HINT = 'Try it again.';\nEND IF",
											buffer, quote_literal_cstr(psprintf("what counter \"%s\" has pending could not be folded",
																				counter->name)))));
}

/*
 * Both tables are locked against writers.  Of these commands only the UPDATE has a
 * count.  (The setting is on anyway in what run.c runs here.)
 */
List *
dbscale_counter_repair_sql(const CounterPlace *place, const Counter *counter)
{
	char	   *table = dbscale_counter_table_at(place, counter->target);
	char	   *column = pstrdup(quote_identifier(counter->column));
	List	   *commands = NIL;

	if (counter->buffered)
	{
		commands = lappend(commands, do_statement(psprintf("PERFORM %s", dbscale_counter_fold_call(place, counter))));
		commands = lappend(commands, do_statement(psprintf("DELETE FROM %s", dbscale_counter_buffer_name(place, counter))));
	}
	if (place->group)
		commands = lappend(commands, pstrdup("SET LOCAL " COUNTING " = 'on'"));
	commands = lappend(commands, psprintf("UPDATE %s AS target_ SET %s = coalesce(a.x, %s)"
										  " FROM %s AS t LEFT JOIN (%s) a ON %s"
										  " WHERE target_.ctid = t.ctid AND t.%s IS DISTINCT FROM coalesce(a.x, %s)",
										  table, column, dbscale_counter_empty(counter), table, dbscale_counter_true_values(place, counter),
										  dbscale_counter_join_k(counter->target_key, "t", "a"), column,
										  dbscale_counter_empty(counter)));
	if (place->group)
		commands = lappend(commands, pstrdup("SET LOCAL " COUNTING " = ''"));
	return commands;
}

/* One row for each target whose counter is wrong: key, stored, actual; all text. */
char *
dbscale_counter_verify_sql(const CounterPlace *place, const Counter *counter)
{
	char	   *column = pstrdup(quote_identifier(counter->column));
	StringInfoData key;
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&key);
	foreach(lc, counter->target_key)
		appendStringInfo(&key, "%s%s, target_.%s", foreach_current_index(lc) ? ", " : "",
						 quote_literal_cstr(lfirst(lc)), quote_identifier(lfirst(lc)));
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT key, stored::text, actual::text FROM (SELECT pg_catalog.jsonb_build_object(%s)::text AS key, ", key.data);
	if (counter->buffered)
		appendStringInfo(&sql, "target_.%s + coalesce(p.x, 0) AS stored", column);
	else
		appendStringInfo(&sql, "target_.%s AS stored", column);
	appendStringInfo(&sql, ", coalesce(a.x, %s) AS actual FROM %s AS target_ LEFT JOIN (%s) a ON %s",
					 dbscale_counter_empty(counter), dbscale_counter_table_at(place, counter->target),
					 dbscale_counter_true_values(place, counter), dbscale_counter_join_k(counter->target_key, "target_", "a"));
	if (counter->buffered)
		appendStringInfo(&sql, " LEFT JOIN (SELECT %s, sum(delta) AS x FROM %s GROUP BY %s) p ON %s",
						 dbscale_counter_list_k(nkeys(counter), ""), dbscale_counter_buffer_name(place, counter),
						 dbscale_counter_list_k(nkeys(counter), ""),
						 dbscale_counter_join_k(counter->target_key, "target_", "p"));
	appendStringInfoString(&sql, ") v WHERE stored IS DISTINCT FROM actual");
	return sql.data;
}

/* How many deltas, and for how many seconds the oldest has waited (by the node's clock). */
char *
dbscale_counter_pending_sql(const CounterPlace *place, const Counter *counter)
{
	return psprintf("SELECT pg_catalog.count(*)::text AS pending,"
					" coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.min(made_at)), 0)::text AS seconds FROM %s",
					dbscale_counter_buffer_name(place, counter));
}

/* values: of char *, literals to be */
char *
dbscale_counter_value_sql(const CounterPlace *place, const Counter *counter, List *values)
{
	StringInfoData sql;
	ListCell   *lc;
	ListCell   *lv;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT (target_.%s", quote_identifier(counter->column));
	if (counter->buffered && !counter->apart)
		appendStringInfo(&sql, " + coalesce((SELECT sum(d.delta) FROM %s d WHERE %s), 0)",
						 dbscale_counter_buffer_name(place, counter), dbscale_counter_join_k(counter->target_key, "target_", "d"));
	appendStringInfo(&sql, ")::text FROM %s AS target_ WHERE ", dbscale_counter_table_at(place, counter->target));
	forboth(lc, counter->target_key, lv, values)
		appendStringInfo(&sql, "%starget_.%s = %s", foreach_current_index(lc) ? " AND " : "",
						 quote_identifier(lfirst(lc)), quote_literal_cstr(lfirst(lv)));
	return sql.data;
}
