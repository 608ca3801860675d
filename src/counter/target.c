/*
 * target.c
 *		The trigger function of a table that has counters (triggers.c explains it).
 */
#include "counter/groups.h"

#include "utils/builtins.h"

static char *
key_changed(List *names)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	foreach(lc, names)
		appendStringInfo(&sql, "%sOLD.%s IS DISTINCT FROM NEW.%s", foreach_current_index(lc) ? " OR " : "",
						 quote_identifier(lfirst(lc)), quote_identifier(lfirst(lc)));
	return sql.data;
}

static void
append_guard(StringInfo sql, List *counters)
{
	ListCell   *lc;

	foreach(lc, counters)
	{
		const Counter *counter = lfirst(lc);
		const char *column = quote_identifier(counter->column);

		appendStringInfo(sql, "IF TG_OP = 'UPDATE' AND current_setting('" COUNTING "', true) IS DISTINCT FROM 'on' AND OLD.%s IS DISTINCT FROM NEW.%s THEN\n"
						 "  RAISE EXCEPTION USING ERRCODE = '428C9', MESSAGE = %s, DETAIL = %s, HINT = %s;\nEND IF;\n",
						 column, column,
						 quote_literal_cstr(psprintf("column \"%s\" can only be written by its counter", counter->column)),
						 quote_literal_cstr(psprintf("It is kept by counter \"%s\".", counter->name)),
						 quote_literal_cstr(psprintf("dbscale.repair_counter('%s') computes it anew; dbscale.drop_counter('%s') makes it an ordinary column.",
													 counter->name, counter->name)));
	}
}

/* By 6: the setting that ends with the transaction; a long list becomes '*'. */
static void
append_remember_made(StringInfo sql, const CounterGroup *group, const char *keys)
{
	appendStringInfo(sql, "PERFORM set_config('dbscale_shards.made', CASE WHEN was = '*' OR length(was) > 10000 OR many THEN '*'"
					 " ELSE concat_ws(',', nullif(was, ''), hashes) END, true)\n"
					 "FROM (SELECT coalesce(current_setting('dbscale_shards.made', true), '') AS was, hashes, many\n"
					 "  FROM (SELECT string_agg(hash_record(ROW(%d, %s))::text, ',') AS hashes, count(*) > 1000 AS many"
					 " FROM (%s LIMIT 1001) d) e) f;\n",
					 group->lock_class, dbscale_counter_list_k(group->nkeys, ""), keys);
}

/* ---- what is kept of keys without a row (6 and 7 of carry.c) ---- */

/* The rows of these keys that are there take what was kept for them; the keys' locks are held. */
static void
append_take(StringInfo sql, const CounterGroup *group, const char *keys)
{
	const Counter *counter = linitial(group->counters);
	const char *column = pstrdup(quote_identifier(counter->column));

	appendStringInfo(sql, COUNTING_ON
					 "WITH gone AS (DELETE FROM %s o USING (%s) d, %s AS target_ WHERE %s AND %s RETURNING %s, o.value)\n"
					 "UPDATE %s AS target_ SET %s = coalesce(target_.%s, 0) + gone.value FROM gone WHERE %s;\n"
					 COUNTING_OFF,
					 dbscale_counter_orphans_name(group->place, counter), keys, group->table,
					 dbscale_counter_same_k(group->nkeys, "o", "d"),
					 dbscale_counter_join_k(group->target_key, "target_", "d"), dbscale_counter_list_k(group->nkeys, "o."),
					 group->table, column, column, dbscale_counter_join_k(group->target_key, "target_", "gone"));
}

/* The rows (k1, ... and x) have gone: what they had is kept. */
static void
append_keep(StringInfo sql, const CounterGroup *group, const char *rows)
{
	const char *k = dbscale_counter_list_k(group->nkeys, "");

	appendStringInfo(sql, "INSERT INTO %s AS o (%s, value) SELECT %s, x FROM (%s) d WHERE x <> 0\n"
					 "ON CONFLICT (%s) DO UPDATE SET value = o.value + excluded.value;\n",
					 dbscale_counter_orphans_name(group->place, linitial(group->counters)), k, k, rows, k);
}

static char *
rows_of(const CounterGroup *group, const char *table)
{
	const Counter *counter = linitial(group->counters);

	return psprintf("SELECT %s, %s AS x FROM %s WHERE %s", dbscale_counter_as_k(group->target_key),
					quote_identifier(counter->column), table, dbscale_counter_not_null(group->target_key));
}

static void
append_apart_changed(StringInfo sql, const CounterGroup *group, bool statement)
{
	const char *k = dbscale_counter_list_k(group->nkeys, "");
	const Counter *counter = linitial(group->counters);
	char	   *old;
	char	   *keys;

	if (statement)
	{
		keys = psprintf("SELECT %s FROM new_rows WHERE %s", dbscale_counter_as_k(group->target_key),
						dbscale_counter_not_null(group->target_key));
		dbscale_counter_append_locks(sql, group, keys, true);
		append_take(sql, group, keys);
		return;
	}
	old = psprintf("SELECT k.* FROM (SELECT %s, OLD.%s) k(%s, x) WHERE %s AND (%s)",
				   dbscale_counter_list_columns(group->target_key, "OLD."), quote_identifier(counter->column), k,
				   key_changed(group->target_key), dbscale_counter_k_not_null(group->nkeys));
	keys = psprintf("SELECT %s FROM (%s) o UNION SELECT k.* FROM (SELECT %s) k(%s) WHERE %s AND (%s)", k, old,
					dbscale_counter_list_columns(group->target_key, "NEW."), k, key_changed(group->target_key),
					dbscale_counter_k_not_null(group->nkeys));
	dbscale_counter_append_locks(sql, group, keys, true);
	append_keep(sql, group, old);
	append_take(sql, group, keys);
}

/* DELETE, after it, and TRUNCATE, before it: no other row of these counters needs anything. */
static void
append_gone(StringInfo sql, List *groups)
{
	bool		any = false;
	ListCell   *lc;

	foreach(lc, groups)
	{
		const CounterGroup *group = lfirst(lc);
		char	   *keys;

		if (!group->apart)
			continue;
		keys = psprintf("SELECT %s FROM old_rows WHERE %s", dbscale_counter_as_k(group->target_key),
						dbscale_counter_not_null(group->target_key));
		appendStringInfoString(sql, "IF TG_OP = 'DELETE' THEN\n");
		dbscale_counter_append_locks(sql, group, keys, true);
		append_keep(sql, group, rows_of(group, "old_rows"));
		/* a trigger of the user's may have made it again */
		append_take(sql, group, keys);
		appendStringInfo(sql, "ELSIF TG_OP = 'TRUNCATE' THEN\n"
						 "IF current_setting('transaction_isolation') NOT LIKE 'read%%' THEN\n"
						 "  RAISE EXCEPTION USING ERRCODE = '0A000',\n"
						 "    MESSAGE = 'a table with a counter cannot be truncated in a transaction that is '"
						 " || current_setting('transaction_isolation'),\n"
						 "    DETAIL = 'Its rows may be newer than the transaction''s snapshot.',\n"
						 "    HINT = 'Use a transaction that is read committed.';\nEND IF;\n");
		append_keep(sql, group, rows_of(group, group->table));
		appendStringInfoString(sql, "END IF;\n");
		any = true;
	}
	if (any)
		appendStringInfoString(sql, "IF TG_OP IN ('DELETE', 'TRUNCATE') THEN RETURN NULL; END IF;\n");
}

/* By 4, 6 and 8: what a new target row has. */
static void
append_made(StringInfo sql, List *groups, bool statement)
{
	ListCell   *lc;

	foreach(lc, groups)
	{
		const CounterGroup *group = lfirst(lc);
		char	   *keys;

		if (group->apart)
		{
			append_apart_changed(sql, group, statement);
			continue;
		}
		if (statement)
			keys = psprintf("SELECT %s FROM new_rows WHERE %s", dbscale_counter_as_k(group->target_key),
							dbscale_counter_not_null(group->target_key));
		else
			keys = psprintf("SELECT k.* FROM (SELECT %s) k(%s) WHERE %s",
							dbscale_counter_list_columns(group->target_key, "NEW."),
							dbscale_counter_list_k(group->nkeys, ""), key_changed(group->target_key));
		if (group->locks)
			dbscale_counter_append_locks(sql, group, keys, true);
		append_remember_made(sql, group, keys);
		appendStringInfo(sql, COUNTING_ON "%s"
						 COUNTING_OFF, dbscale_counter_compute_statement(group, keys));
	}
}

/* Those whose value in a new target row is computed; others begin empty, and their sources add to them. */
static List *
computed_counters(List *counters)
{
	List	   *computed = NIL;
	ListCell   *lc;

	foreach(lc, counters)
	{
		Counter    *counter = lfirst(lc);

		if (!counter->has_foreign_key || counter->buffered)
			computed = lappend(computed, counter);
	}
	return computed;
}

static char *
target_body(List *groups, List *counters)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	append_gone(&sql, groups);
	appendStringInfoString(&sql, "IF TG_WHEN = 'BEFORE' THEN\n");
	append_guard(&sql, counters);
	foreach(lc, counters)
	{
		const Counter *counter = lfirst(lc);

		appendStringInfo(&sql, "IF TG_OP = 'INSERT' OR %s THEN\n  NEW.%s := %s;\nEND IF;\n", key_changed(counter->target_key),
						 quote_identifier(counter->column), dbscale_counter_empty(counter));
	}
	appendStringInfoString(&sql, "RETURN NEW;\nEND IF;\n");
	if (groups != NIL)
	{
		appendStringInfo(&sql, "IF current_setting('transaction_isolation') NOT LIKE 'read%%' THEN\n"
						 "  RAISE EXCEPTION USING ERRCODE = '0A000', MESSAGE = 'a row of %s cannot be inserted, nor its key be changed,"
						 " in a transaction that is ' || current_setting('transaction_isolation'),\n"
						 "    DETAIL = %s, HINT = 'Use a transaction that is read committed.';\nEND IF;\nIF TG_LEVEL = 'STATEMENT' THEN\n",
						 "'||TG_TABLE_NAME||'",
						 quote_literal_cstr("Its counters are computed from rows that may be newer than the transaction's snapshot."));
		append_made(&sql, groups, true);
		appendStringInfoString(&sql, "ELSE\n");
		append_made(&sql, groups, false);
		appendStringInfoString(&sql, "END IF;\n");
	}
	appendStringInfoString(&sql, "RETURN NULL;\n");
	return sql.data;
}

/* Any counter's key changes, or (with_columns) what only counters may write. */
static char *
update_condition(List *counters, bool with_columns)
{
	StringInfoData keys;
	StringInfoData columns;
	List	   *seen = NIL;
	ListCell   *lc;

	initStringInfo(&keys);
	initStringInfo(&columns);
	foreach(lc, counters)
	{
		const Counter *counter = lfirst(lc);
		const char *column = quote_identifier(counter->column);

		appendStringInfo(&columns, "%sOLD.%s IS DISTINCT FROM NEW.%s", columns.len ? " OR " : "", column, column);
		if (dbscale_counter_has_names(seen, counter->target_key))
			continue;
		seen = lappend(seen, counter->target_key);
		appendStringInfo(&keys, "%s%s", keys.len ? " OR " : "", key_changed(counter->target_key));
	}
	if (!with_columns)
		return keys.data;
	return psprintf("%s OR (%s) AND pg_catalog.current_setting('" COUNTING "', true) IS DISTINCT FROM 'on'",
					keys.data, columns.data);
}

static char *
insert_condition(List *counters)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	foreach(lc, counters)
	{
		const Counter *counter = lfirst(lc);

		appendStringInfo(&sql, "%sNEW.%s IS DISTINCT FROM %s", sql.len ? " OR " : "", quote_identifier(counter->column),
						 dbscale_counter_empty(counter));
	}
	return sql.data;
}

List *
dbscale_counter_target_sql(const CounterPlace *place, Oid target, List *counters)
{
	char	   *table = dbscale_counter_table_at(place, target);
	char	   *function = dbscale_counter_function_name(place, target, true);
	List	   *groups = dbscale_counter_make_groups(place, computed_counters(counters));
	List	   *commands;

	if (counters == NIL)
		return dbscale_counter_drop_function(table, function, dbscale_counter_target_triggers,
											 lengthof(dbscale_counter_target_triggers));
	commands = dbscale_counter_create_function(place, function, dbscale_counter_owner(target), "n integer;\n", target_body(groups, counters), true);
	commands = lappend(commands, psprintf("CREATE OR REPLACE TRIGGER \"%s\" BEFORE INSERT ON %s FOR EACH ROW %s"
										  " EXECUTE FUNCTION %s()", dbscale_counter_target_triggers[0], table,
										  dbscale_counter_when(place, insert_condition(counters)), function));
	commands = lappend(commands, psprintf("CREATE OR REPLACE TRIGGER \"%s\" BEFORE UPDATE ON %s FOR EACH ROW %s"
										  " EXECUTE FUNCTION %s()", dbscale_counter_target_triggers[1], table,
										  dbscale_counter_when(place, update_condition(counters, true)), function));
	if (!dbscale_counter_any_apart(groups))
	{
		commands = lappend(commands, psprintf("DROP TRIGGER IF EXISTS %s ON %s", dbscale_counter_target_triggers[4], table));
		commands = lappend(commands, psprintf("DROP TRIGGER IF EXISTS \"%s\" ON %s", dbscale_counter_target_triggers[5], table));
	}
	else
	{
		commands = lappend(commands, psprintf("CREATE OR REPLACE TRIGGER %s AFTER DELETE ON %s REFERENCING OLD TABLE AS old_rows"
											  " FOR EACH STATEMENT %s EXECUTE FUNCTION %s()", dbscale_counter_target_triggers[4], table,
											  dbscale_counter_when(place, NULL), function));
		commands = lappend(commands, psprintf("CREATE OR REPLACE TRIGGER \"%s\" BEFORE TRUNCATE ON %s"
											  " FOR EACH STATEMENT %s EXECUTE FUNCTION %s()", dbscale_counter_target_triggers[5], table,
											  dbscale_counter_when(place, NULL), function));
	}
	if (groups == NIL)
	{
		commands = lappend(commands, psprintf("DROP TRIGGER IF EXISTS %s ON %s", dbscale_counter_target_triggers[2], table));
		return lappend(commands, psprintf("DROP TRIGGER IF EXISTS %s ON %s", dbscale_counter_target_triggers[3], table));
	}
	commands = lappend(commands, psprintf("CREATE OR REPLACE TRIGGER %s AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows"
										  " FOR EACH STATEMENT %s EXECUTE FUNCTION %s()", dbscale_counter_target_triggers[2], table,
										  dbscale_counter_when(place, NULL), function));
	return lappend(commands, psprintf("CREATE OR REPLACE TRIGGER %s AFTER UPDATE ON %s FOR EACH ROW %s"
									  " EXECUTE FUNCTION %s()", dbscale_counter_target_triggers[3], table,
									  dbscale_counter_when(place, update_condition(computed_counters(counters), false)), function));
}
