/*
 * source.c
 *		The trigger function of a table that counters read (triggers.c explains it).
 *
 * It is SECURITY DEFINER: who writes the source need not be able to write deltas or
 * targets.  So no name in it may mean what the writer's search_path says.  A SET clause
 * sees to that, at the price of as many instructions as the INSERT of a delta takes.
 * Where rows are only appended, the quick cases go without: all their names are
 * qualified, operators and the types of variables too, and transition tables come before
 * any other table of their names.  (They write to a table of ours alone, on which no
 * trigger of a user's would run with the writer's path.)  What follows them then sets
 * the path itself, and puts it back; an error does so in any case.
 *
 * The triggers have no WHEN, which is parsed in every statement anew: the function
 * looks itself whether rows move between shards.
 */
#include "counter/groups.h"

#include "utils/builtins.h"

/* The statements for few and for many rows are planned apart: a plan is kept for the session. */
#define FEW_ROWS 100

/* Of a statement's rows, so many become deltas without being added up. */
#define ROWS_AS_THEY_ARE 4

#define IS_MOVING "pg_catalog.current_setting('" MOVING "', true) OPERATOR(pg_catalog.=) 'on'"

/* From here, and until here, names are PostgreSQL's own; without the SET clause. */
#define SAFE_PATH_ON "path := pg_catalog.current_setting('search_path');\n" \
	"ignored := pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);\n"
#define SAFE_PATH_OFF "ignored := pg_catalog.set_config('search_path', path, true);\n"

static char *
new_value(const Counter *counter, int n)
{
	const char *column = quote_identifier(counter->column);

	if (dbscale_counter_is_extreme(counter))
		return psprintf("%s = %s(target_.%s, l.x%d)", column,
						counter->aggregate == COUNTER_MIN ? "least" : "greatest", column, n + 1);
	return psprintf("%s = coalesce(target_.%s, 0) + l.x%d", column, column, n + 1);
}

static char *
add_statement(const CounterGroup *group, Operation op)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "WITH d AS MATERIALIZED (%s), l AS MATERIALIZED (%s) UPDATE %s AS target_ SET ",
					 dbscale_counter_deltas_to_add(group, op), dbscale_counter_locked(group, "d"), group->table);
	for (int n = 0; n < list_length(group->counters); n++)
		appendStringInfo(&sql, "%s%s", n ? ", " : "", new_value(dbscale_counter_nth(group, n), n));
	appendStringInfo(&sql, " FROM l WHERE %s;\n", dbscale_counter_join_k(group->target_key, "target_", "l"));
	return sql.data;
}

/* The same for one row that points to one target: nothing to group, and no order to keep. */
static char *
add_one_statement(const CounterGroup *group, Operation op)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "UPDATE %s AS target_ SET ", group->table);
	for (int n = 0; n < list_length(group->counters); n++)
		appendStringInfo(&sql, "%s%s", n ? ", " : "", new_value(dbscale_counter_nth(group, n), n));
	appendStringInfo(&sql, " FROM (%s) l WHERE %s;\n", dbscale_counter_deltas(group, op, true),
					 dbscale_counter_join_k(group->target_key, "target_", "l"));
	return sql.data;
}

/* By 3: what of min and max may have gone is computed. */
static void
append_recompute(StringInfo sql, const CounterGroup *group, Operation op)
{
	StringInfoData set;
	StringInfoData where;

	if (op == ON_INSERT || group->buffered)
		return;
	initStringInfo(&set);
	initStringInfo(&where);
	for (int n = 0; n < list_length(group->counters); n++)
	{
		const Counter *counter = dbscale_counter_nth(group, n);
		const char *column = quote_identifier(counter->column);
		const char *sign = counter->aggregate == COUNTER_MIN ? "<" : ">";
		char	   *gone;

		if (!dbscale_counter_is_extreme(counter))
			continue;
		gone = psprintf("(d.o%d %s= target_.%s AND (d.x%d IS NULL OR d.o%d %s d.x%d))",
						n + 1, sign, column, n + 1, n + 1, sign, n + 1);
		appendStringInfo(&set, "%s%s = CASE WHEN %s THEN %s ELSE target_.%s END", set.len ? ", " : "", column, gone,
						 dbscale_counter_true_value(group->place, counter, "target_", false), column);
		appendStringInfo(&where, "%s%s", where.len ? " OR " : "", gone);
	}
	if (set.len == 0)
		return;
	appendStringInfo(sql, "UPDATE %s AS target_ SET %s FROM (%s) d WHERE %s AND (%s);\n"
					 "IF FOUND AND current_setting('transaction_isolation') NOT LIKE 'read%%' THEN\n"
					 "  RAISE EXCEPTION USING ERRCODE = '0A000',\n"
					 "    MESSAGE = 'the least or greatest row of a counter cannot be taken away in a transaction that is '"
					 " || current_setting('transaction_isolation'),\n"
					 "    DETAIL = 'The next one would be looked for in a snapshot that may be too old.',\n"
					 "    HINT = 'Use a transaction that is read committed.';\nEND IF;\n",
					 group->table, set.data, dbscale_counter_deltas_to_add(group, op),
					 dbscale_counter_join_k(group->target_key, "target_", "d"), where.data);
}

static void
append_compute_made(StringInfo sql, const CounterGroup *group, Operation op)
{
	char	   *keys = dbscale_counter_keys_to_compute(group, op);

	appendStringInfo(sql, "IF made_all OR cardinality(made) > 0 THEN\n"
					 "PERFORM FROM (WITH d AS MATERIALIZED (%s) %s) x;\n%sEND IF;\n",
					 keys, dbscale_counter_locked(group, "d"), dbscale_counter_compute_statement(group, keys));
}

/* By 4, under REPEATABLE READ: a target that is not visible may be there all the same. */
static void
append_check_snapshot(StringInfo sql, const CounterGroup *group, Operation op)
{
	appendStringInfo(sql, "IF current_setting('transaction_isolation') NOT LIKE 'read%%' AND EXISTS (SELECT FROM (%s) d"
					 " WHERE NOT EXISTS (SELECT FROM %s AS target_ WHERE %s)) THEN\n"
					 "  RAISE EXCEPTION USING ERRCODE = '40001',\n"
					 "    MESSAGE = 'could not serialize access: a counted row refers to a row that the transaction does not see',\n"
					 "    DETAIL = 'It may have been inserted after the transaction began, and would not be counted.',\n"
					 "    HINT = 'Retry, or use a transaction that is read committed.';\nEND IF;\n",
					 dbscale_counter_deltas(group, op, false), group->table, dbscale_counter_join_k(group->target_key, "target_", "d"));
}

static char *
buffer_of(const CounterGroup *group)
{
	return dbscale_counter_buffer_name(group->place, linitial(group->counters));
}

static char *
append_statement(const CounterGroup *group, const char *deltas)
{
	const char *k = dbscale_counter_list_k(group->nkeys, "");

	return psprintf("INSERT INTO %s (%s, delta) SELECT %s, x1 FROM (%s) d;\n", buffer_of(group), k, k, deltas);
}

/* A sum with NaN in it could never be subtracted from again.  (Its names are qualified, as append_rows() needs it.) */
static void
append_check_finite(StringInfo sql, List *counters)
{
	ListCell   *lc;

	foreach(lc, counters)
	{
		const Counter *counter = lfirst(lc);

		if (counter->aggregate != COUNTER_SUM || strncmp(counter->value_type, "numeric", 7) != 0)
			continue;
		appendStringInfo(sql, "IF EXISTS (SELECT FROM new_rows WHERE %s OPERATOR(pg_catalog.=) ANY ('{NaN,Infinity,-Infinity}'::numeric[])) THEN\n"
						 "  RAISE EXCEPTION USING ERRCODE = '22003', MESSAGE = %s,\n"
						 "    DETAIL = 'NaN and infinity cannot be subtracted again.', HINT = 'Insert finite numbers.';\nEND IF;\n",
						 quote_identifier(counter->value),
						 quote_literal_cstr(psprintf("counter \"%s\" cannot add values that are not finite", counter->name)));
	}
}

static const char *
rows_of(Operation op)
{
	return op == ON_DELETE ? "old_rows" : "new_rows";
}

/*
 * one: there is one row at most, and nothing that 6 speaks of; where append_one_row() has
 * taken those, there is not.  few: FEW_ROWS at most.
 */
static void
append_count_rows(StringInfo sql, Operation op, bool simple)
{
	const char *rows = rows_of(op);

	if (!simple)
		appendStringInfo(sql, "PERFORM FROM %s OFFSET 1 LIMIT 1;\none := NOT FOUND AND NOT made_all AND made = '{}';\nfew := one;\nIF NOT one THEN ", rows);
	appendStringInfo(sql, "few := (SELECT count(*) FROM (SELECT FROM %s LIMIT %d) x) <= %d;%s\n", rows, FEW_ROWS + 1, FEW_ROWS,
					 simple ? "" : " END IF;");
}

/* Is one row, inserted or deleted, one statement for each group, and no more? */
static bool
one_is_simple(List *groups, Operation op)
{
	ListCell   *lc;

	if (op == ON_UPDATE)
		return false;
	foreach(lc, groups)
	{
		const CounterGroup *group = lfirst(lc);

		if (group->locks)
			return false;
		for (int n = 0; n < list_length(group->counters) && op == ON_DELETE; n++)
			if (dbscale_counter_is_extreme(dbscale_counter_nth(group, n)))
				return false;
		if (!group->buffered && list_length(dbscale_counter_source_keys(group)) > 1)
			return false;
	}
	return true;
}

/* Does a row, inserted or deleted, only mean a row for each counter's table of deltas? */
static bool
only_appends(List *groups)
{
	ListCell   *lc;

	foreach(lc, groups)
	{
		const CounterGroup *group = lfirst(lc);

		if (!group->buffered || group->locks)
			return false;
	}
	return true;
}

/* Where append_rows() is used, is every name in it qualified? */
static bool
is_qualified(List *groups)
{
	ListCell   *lc;

	foreach(lc, groups)
	{
		const char *filter = dbscale_counter_nth(lfirst(lc), 0)->filter;

		if (filter && !dbscale_counter_filter_is_plain(filter))
			return false;
	}
	return only_appends(groups);
}

static void
append_operation(StringInfo sql, List *groups, List *counters, Operation op)
{
	ListCell   *lc;
	bool		simple = one_is_simple(groups, op);

	if (op != ON_DELETE)
		append_check_finite(sql, counters);
	foreach(lc, groups)
	{
		const CounterGroup *group = lfirst(lc);

		if (!group->locks)
			continue;
		dbscale_counter_append_locks(sql, group, psprintf("SELECT %s FROM (%s) d", dbscale_counter_list_k(group->nkeys, ""),
										  dbscale_counter_deltas(group, op, false)), false);
		append_check_snapshot(sql, group, op);
	}
	if (!only_appends(groups))
		append_count_rows(sql, op, simple);
	foreach(lc, groups)
	{
		const CounterGroup *group = lfirst(lc);

		if (!group->buffered)
			continue;
		if (op == ON_UPDATE || simple)
			appendStringInfoString(sql, append_statement(group, dbscale_counter_deltas_to_add(group, op)));
		else
			appendStringInfo(sql, "IF one THEN\n%sELSE\n%sEND IF;\n", append_statement(group, dbscale_counter_deltas(group, op, true)),
							 append_statement(group, dbscale_counter_deltas_to_add(group, op)));
	}
	foreach(lc, groups)
	{
		const CounterGroup *group = lfirst(lc);

		if (!group->buffered)
		{
			char	   *statement = add_statement(group, op);

			if (op != ON_UPDATE && !simple && list_length(dbscale_counter_source_keys(group)) == 1)
				appendStringInfo(sql, "IF one THEN\n%sELSIF", add_one_statement(group, op));
			else
				appendStringInfoString(sql, "IF");
			appendStringInfo(sql, " few THEN\n%sELSE\n%sEND IF;\n", statement, statement);
			append_recompute(sql, group, op);
		}
		if (group->computes)
			append_compute_made(sql, group, op);
	}
}

/* IF it is this operation, in a transaction that has made no target, and no shard is on the move. */
static char *
if_undisturbed(const CounterPlace *place, Operation op)
{
	return psprintf("IF TG_OP OPERATOR(pg_catalog.=) '%s'"
					" AND (pg_catalog.current_setting('dbscale_shards.made', true) OPERATOR(pg_catalog.<>) '') IS NOT TRUE%s THEN\n",
					op == ON_INSERT ? "INSERT" : "DELETE", place->group ? " AND (" IS_MOVING ") IS NOT TRUE" : "");
}

/*
 * Where rows are only appended: the first ones as they are, so that one row is one plain
 * statement and no look whether it is one; of more the rest is added up.  Every scan of
 * a transition table gives its rows in the same order.
 */
static void
append_rows(StringInfo sql, const CounterPlace *place, List *groups, List *counters, Operation op)
{
	ListCell   *lc;

	appendStringInfoString(sql, if_undisturbed(place, op));
	if (op == ON_INSERT)
		append_check_finite(sql, counters);
	foreach(lc, groups)
	{
		const CounterGroup *group = lfirst(lc);
		char	   *rows = dbscale_counter_each_row(group, op);
		char	   *buffer = buffer_of(group);
		char	   *k = dbscale_counter_list_k(group->nkeys, "");

		appendStringInfo(sql, "INSERT INTO %s (%s, delta, made_at) SELECT q.*, pg_catalog.transaction_timestamp() FROM (%s) q LIMIT %d;\n"
						 "GET DIAGNOSTICS appended = ROW_COUNT;\nIF appended OPERATOR(pg_catalog.=) %d THEN\n"
						 "INSERT INTO %s (%s, delta) SELECT %s, pg_catalog.sum(x1) FROM (%s OFFSET %d) q"
						 " GROUP BY %s HAVING pg_catalog.sum(x1) OPERATOR(pg_catalog.<>) 0;\nEND IF;\n",
						 buffer, k, rows, ROWS_AS_THEY_ARE, ROWS_AS_THEY_ARE, buffer, k, k, rows, ROWS_AS_THEY_ARE, k);
	}
	appendStringInfoString(sql, "RETURN NULL;\nEND IF;\n");
}

/*
 * One row, in a transaction that has made no target: what is done most often, by as few
 * expressions as can be, of which plpgsql prepares each anew in every transaction.
 */
static void
append_one_row(StringInfo sql, const CounterPlace *place, List *groups, List *counters, Operation op)
{
	ListCell   *lc;
	bool		adds = false;

	appendStringInfo(sql, "%sPERFORM FROM %s OFFSET 1 LIMIT 1;\nIF NOT FOUND THEN\n", if_undisturbed(place, op), rows_of(op));
	if (op == ON_INSERT)
		append_check_finite(sql, counters);
	foreach(lc, groups)
	{
		const CounterGroup *group = lfirst(lc);

		if (group->buffered)
			appendStringInfoString(sql, append_statement(group, dbscale_counter_deltas(group, op, true)));
		else
			appendStringInfo(sql, "%s%s", adds ? "" : COUNTING_ON, add_one_statement(group, op));
		adds |= !group->buffered;
	}
	appendStringInfo(sql, "%sRETURN NULL;\nEND IF;\nEND IF;\n", adds ? COUNTING_OFF : "");
}

static const char *const truncate_check = "IF current_setting('transaction_isolation') NOT LIKE 'read%' THEN\n"
"  RAISE EXCEPTION USING ERRCODE = '0A000',\n"
"    MESSAGE = 'a table with a buffered counter cannot be truncated in a transaction that is '"
" || current_setting('transaction_isolation'),\n"
"    DETAIL = 'What the counter has pending may be newer than the transaction''s snapshot.',\n"
"    HINT = 'Use a transaction that is read committed.';\nEND IF;\n";

/* Before TRUNCATE of the source: what its rows say is taken away (5 of carry.c). */
static void
append_before_truncate(StringInfo sql, List *groups)
{
	ListCell   *lc;
	bool		any = false;

	foreach(lc, groups)
	{
		const CounterGroup *group = lfirst(lc);
		const char *k = dbscale_counter_list_k(group->nkeys, "");

		if (!group->apart)
			continue;
		if (!any)
			appendStringInfo(sql, "IF TG_WHEN = 'BEFORE' THEN\n%s", truncate_check);
		any = true;
		appendStringInfo(sql, "INSERT INTO %s (%s, delta) SELECT %s, - x FROM (%s) a WHERE x <> 0;\n",
						 buffer_of(group), k, k, dbscale_counter_true_values(group->place, linitial(group->counters)));
	}
	if (any)
		appendStringInfoString(sql, "EXIT counted;\nEND IF;\n");
}

/* TRUNCATE of the source: every target has the empty value. */
static void
append_truncate(StringInfo sql, List *groups)
{
	ListCell   *lc;

	foreach(lc, groups)
	{
		const CounterGroup *group = lfirst(lc);
		StringInfoData set;
		StringInfoData where;

		if (group->apart)
			continue;
		initStringInfo(&set);
		initStringInfo(&where);
		for (int n = 0; n < list_length(group->counters); n++)
		{
			const Counter *counter = dbscale_counter_nth(group, n);
			const char *column = quote_identifier(counter->column);

			appendStringInfo(&set, "%s%s = %s", n ? ", " : "", column, dbscale_counter_empty(counter));
			appendStringInfo(&where, "%starget_.%s IS DISTINCT FROM %s", n ? " OR " : "", column, dbscale_counter_empty(counter));
		}
		if (group->buffered)
			appendStringInfo(sql, "%sDELETE FROM %s;\n", truncate_check, buffer_of(group));
		appendStringInfo(sql, "PERFORM FROM (SELECT FROM %s AS target_ WHERE %s ORDER BY %s FOR NO KEY UPDATE) x;\n"
						 "UPDATE %s AS target_ SET %s WHERE %s;\n",
						 group->table, where.data, dbscale_counter_list_columns(group->target_key, "target_."),
						 group->table, set.data, where.data);
	}
}

/* Whatever is no quick case, in a block that is left by EXIT counted. */
static void
append_counted(StringInfo body, List *groups, List *counters)
{
	static const char *const operations[] = {
		"INSERT", "DELETE", "UPDATE"
	};

	append_before_truncate(body, groups);
	/* where tables count one another, our UPDATEs fire this again: those of no row end it */
	appendStringInfoString(body, "IF TG_OP = 'UPDATE' THEN\nPERFORM FROM new_rows LIMIT 1;\nIF NOT FOUND THEN EXIT counted; END IF;\nEND IF;\n");
	/* an assignment is much faster than PERFORM, which is a query */
	appendStringInfo(body, COUNTING_ON
					 "made := '{}';\nmade_all := false;\n"
					 "ignored := current_setting('dbscale_shards.made', true);\n"
					 "IF ignored = '*' THEN made_all := true;\n"
					 "ELSIF ignored <> '' THEN made := string_to_array(ignored, ',')::integer[];\nEND IF;\n");
	for (Operation op = ON_INSERT; op <= ON_UPDATE; op++)
	{
		appendStringInfo(body, "%s TG_OP = '%s' THEN\n", op == ON_INSERT ? "IF" : "ELSIF", operations[op]);
		append_operation(body, groups, counters, op);
	}
	appendStringInfoString(body, "ELSE\n");
	append_truncate(body, groups);
	appendStringInfoString(body, "END IF;\n" COUNTING_OFF);
}

static char *
source_body(const CounterPlace *place, List *groups, List *counters)
{
	bool		qualified = is_qualified(groups);
	StringInfoData body;

	initStringInfo(&body);
	for (Operation op = ON_INSERT; op <= ON_DELETE; op++)
	{
		if (only_appends(groups))
			append_rows(&body, place, groups, counters, op);
		else if (one_is_simple(groups, op))
			append_one_row(&body, place, groups, counters, op);
	}
	if (place->group)
		appendStringInfoString(&body, "IF " IS_MOVING " THEN RETURN NULL; END IF;\n");
	appendStringInfo(&body, "%s<<counted>>\nBEGIN\n", qualified ? SAFE_PATH_ON : "");
	append_counted(&body, groups, counters);
	appendStringInfo(&body, "END counted;\n%sRETURN NULL;\n", qualified ? SAFE_PATH_OFF : "");
	return body.data;
}

List *
dbscale_counter_source_sql(const CounterPlace *place, Oid source, List *counters)
{
	static const char *const events[] = {
		"INSERT", "DELETE", "UPDATE", "TRUNCATE"
	};
	static const char *const rows[] = {
		"REFERENCING NEW TABLE AS new_rows", "REFERENCING OLD TABLE AS old_rows",
		"REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows", ""
	};
	char	   *table = dbscale_counter_table_at(place, source);
	char	   *function = dbscale_counter_function_name(place, source, false);
	List	   *groups = dbscale_counter_make_groups(place, counters);
	List	   *commands;

	if (counters == NIL)
		return dbscale_counter_drop_function(table, function, dbscale_counter_source_triggers,
											 lengthof(dbscale_counter_source_triggers));
	commands = dbscale_counter_create_function(place, function, dbscale_counter_owner(((Counter *) linitial(counters))->target),
							   "path pg_catalog.text;\nmade integer[];\nmade_all boolean;\none boolean;\nfew boolean;\nn integer;\nappended bigint;\n",
							   source_body(place, groups, counters), !is_qualified(groups));
	for (int i = 0; i < lengthof(events); i++)
		commands = lappend(commands, psprintf("CREATE OR REPLACE TRIGGER %s AFTER %s ON %s %s FOR EACH STATEMENT"
											  " EXECUTE FUNCTION %s()", dbscale_counter_source_triggers[i], events[i], table, rows[i],
											  function));
	if (!dbscale_counter_any_apart(groups))
		return lappend(commands, psprintf("DROP TRIGGER IF EXISTS \"%s\" ON %s", dbscale_counter_source_triggers[4], table));
	return lappend(commands, psprintf("CREATE OR REPLACE TRIGGER \"%s\" BEFORE TRUNCATE ON %s FOR EACH STATEMENT"
									  " EXECUTE FUNCTION %s()", dbscale_counter_source_triggers[4], table, function));
}
