/*
 * triggers.c
 *		The trigger functions that keep counters, as SQL.
 *
 * A table that counters read (a source) has one trigger function for all of them,
 * fired after each statement with the rows of before and after it (transition
 * tables).  A table that has counters (a target) has another.  They are plpgsql with
 * every name qualified, for plain tables here and for each shard on its node alike.
 * An example, likes counted in posts, after one INSERT:
 *
 *		WITH d AS MATERIALIZED (				-- a delta for each key
 *			SELECT * FROM (SELECT post_id AS k1, count(*) AS x1 FROM new_rows
 *						   WHERE post_id IS NOT NULL GROUP BY post_id) p WHERE x1 <> 0),
 *		l AS MATERIALIZED (						-- the targets, locked in the keys' order
 *			SELECT d.* FROM d JOIN posts AS target_ ON target_.id = d.k1
 *			ORDER BY target_.id FOR NO KEY UPDATE OF target_)
 *		UPDATE posts AS target_ SET like_count = target_.like_count + l.x1 FROM l
 *		WHERE target_.id = l.k1
 *
 * Counters of one source whose targets are found by the same columns of one table
 * are a *group*: one such statement sets them all, whatever columns of the source
 * point there (follows: followee and follower, both in users).  So:
 *
 * 1. Two statements cannot deadlock on counters alone.  Each locks a table's rows in
 *	  the order of their keys, for all counters at once, and tables in the order of
 *	  their OIDs.  A row is updated only after l has given it, so locked.
 *
 * 2. READ COMMITTED: a function's statement sees what was committed when it begins,
 *	  and LockRows and UPDATE follow a row to its newest version.  The delta is added
 *	  to what is there then, under the row's lock.
 *
 * 3. min and max: what is inserted raises or lowers the value, under the lock.  When
 *	  the extreme itself may have gone, a second statement, after the locks, so with
 *	  a snapshot that is newer than they are, computes it from the source's rows.  A
 *	  concurrent transaction that has inserted and not committed is not seen by it;
 *	  its trigger either waits for our lock and then applies what it inserted to our
 *	  result, or had the lock before us, and then has ended before we got it.  The
 *	  same holds for one that has deleted: it looks at our result.  Under REPEATABLE
 *	  READ the snapshot is older than the locks: refused.
 *
 * A source row may be there before its target unless a foreign key forbids it.  With
 * one (validated, immediate, over exactly these columns) a new target row has the
 * empty value, for no source row can point to it yet.  Without:
 *
 * 4. After the INSERT of a target (and after an UPDATE of its key) the value is
 *	  computed from the source's rows.  Both sides take advisory locks on the key
 *	  before they look: sources shared, targets exclusive, until they commit.  Let S
 *	  insert a like of post 7 and T insert post 7.  If S has the lock first, T waits
 *	  for S's end and then counts the like, and S has not seen the post.  If T has it
 *	  first, S waits, and then sees the post and adds to it; T did not see the like,
 *	  which is not committed.  Both look after they have the lock, in READ COMMITTED;
 *	  a snapshot that is older than the lock would see neither, so REPEATABLE READ is
 *	  refused: of targets always, of sources where a target is not visible.
 *
 * 5. The lock table is finite.  A transaction that has taken 64 of these locks takes
 *	  a coarse one instead: sources "bulk" exclusively, which targets hold shared,
 *	  targets "all" exclusively, which sources hold shared.  (PostgreSQL gives no
 *	  advisory lock that two sides share among themselves and not with each other, so
 *	  two bulk writers wait for each other.)
 *
 * 6. In one statement, rows of both tables can be written before either's trigger
 *	  fires (data-modifying WITH, triggers of users, a table that counts its own
 *	  rows).  Then a target's trigger has counted a row whose own trigger is yet to
 *	  fire.  So it leaves the keys that it has computed in a setting that ends with
 *	  the transaction; for these the source's trigger computes the value too, under
 *	  the row's lock, instead of adding to it, and both get the same.
 *
 * Buffered counters: the source's trigger appends its deltas to a table that nobody
 * else updates; dbscale_shards.X_fold() adds them to the targets (queries.c).
 *
 * 7. What is in the target plus what is pending is the true value, in every snapshot:
 *	  a delta is committed with the rows that it speaks of, and a fold deletes deltas
 *	  and adds them up in one statement, of rows that it has locked before.
 *
 * 8. A new target row takes its value from the source, as in 4 and 6, and deletes the
 *	  key's deltas in the same statement.  Those that are not committed then: without a
 *	  foreign key there are none, by 4.  With one, they would come from source rows
 *	  that pointed to an earlier row of that key; the deletion of this one has waited
 *	  for all who touched them.  A delta whose target is not there is thus of no use
 *	  to anybody, and the fold drops it.
 *
 * The counter's column is written by this SQL alone: a trigger refuses an UPDATE that
 * changes it, unless the setting dbscale_shards.counting is on, and INSERT begins
 * with the empty value.  While rows move between shards with their counters,
 * dbscale_shards.moving keeps all these triggers quiet.  Both are ordinary settings
 * that anybody may set in a session of his own: they keep mistakes out, not the
 * table's owner, who could drop the triggers.  (On a node nobody but dbscale's role
 * has a session.)
 */
#include "counter/internal.h"

#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#define MAX_KEY_LOCKS 64
/* The statements for few and for many rows are planned apart: a plan is kept for the session. */
#define FEW_ROWS 100
#define SOURCE_SUFFIX "_counter_source"
#define TARGET_SUFFIX "_counter_target"

/* Counters that one statement keeps. */
typedef struct CounterGroup
{
	const CounterPlace *place;
	Oid			target;
	List	   *target_key;
	List	   *counters;		/* of Counter *; one if buffered */
	bool		buffered;
	bool		locks;			/* by 4: no foreign key */
	bool		computes;		/* by 4, 6 or 8: new targets get their value from the source */
	const char *table;			/* the target's, qualified */
	int			lock_class;
	int			nkeys;
} CounterGroup;

typedef enum Operation
{
	ON_INSERT,
	ON_DELETE,
	ON_UPDATE
} Operation;

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
static int
lock_class(const char *table, List *target_key)
{
	char	   *name = psprintf("%s(%s)", table, dbscale_counter_list_columns(target_key, ""));

	return (int) (hash_bytes((unsigned char *) name, strlen(name)) & 0x7ffffffe);
}

/* The counters come in the order of their targets' OIDs. */
static List *
make_groups(const CounterPlace *place, List *counters)
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
			group->table = dbscale_counter_table_at(place, counter->target);
			group->lock_class = lock_class(group->table, group->target_key);
			groups = lappend(groups, group);
		}
		group->counters = lappend(group->counters, counter);
		group->locks |= !counter->has_foreign_key;
		group->computes |= !counter->has_foreign_key || counter->buffered;
	}
	return groups;
}

static Counter *
nth_counter(const CounterGroup *group, int n)
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
		const Counter *counter = nth_counter(group, n);

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
		const Counter *counter = nth_counter(group, n);

		append_delta(sql, counter, n, dbscale_counter_same_names(counter->source_key, source_key), common, old, one);
	}
	appendStringInfo(sql, " FROM %s WHERE %s", old ? "old_rows" : "new_rows", dbscale_counter_not_null(source_key));
	if (common && filter)
		appendStringInfo(sql, " AND (%s)", filter);
	if (!one)
		appendStringInfo(sql, " GROUP BY %s", dbscale_counter_list_columns(source_key, ""));
}

static bool
has_names(List *lists, List *names)
{
	ListCell   *lc;

	foreach(lc, lists)
		if (dbscale_counter_same_names(lfirst(lc), names))
			return true;
	return false;
}

/* The ways from the source to the targets: a list of lists of column names. */
static List *
source_keys(const CounterGroup *group)
{
	List	   *keys = NIL;

	for (int n = 0; n < list_length(group->counters); n++)
		if (!has_names(keys, nth_counter(group, n)->source_key))
			keys = lappend(keys, nth_counter(group, n)->source_key);
	return keys;
}

static char *
parts(const CounterGroup *group, Operation op, bool one, int *count)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	*count = 0;
	foreach(lc, source_keys(group))
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
static char *
deltas_of(const CounterGroup *group, Operation op, bool one)
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
			appendStringInfoString(&sql, fold_parts(nth_counter(group, n), n));
		appendStringInfo(&sql, " FROM (%s) p GROUP BY %s", inner, keys);
		inner = pstrdup(sql.data);
		resetStringInfo(&sql);
	}
	appendStringInfo(&sql, "SELECT * FROM (%s) q WHERE ", inner);
	for (int n = 0; n < list_length(group->counters); n++)
		appendStringInfo(&sql, dbscale_counter_is_extreme(nth_counter(group, n)) ?
						 "%sx%d IS DISTINCT FROM o%d" : "%sx%d <> 0", n ? " OR " : "", n + 1, n + 1);
	return sql.data;
}

static char *
deltas(const CounterGroup *group, Operation op)
{
	return deltas_of(group, op, false);
}

/* By 6: is the key among those whose targets this transaction has made? */
static char *
made_condition(const CounterGroup *group)
{
	return psprintf("(made_all OR hash_record(ROW(%d, %s)) = ANY (made))",
					group->lock_class, dbscale_counter_list_k(group->nkeys, ""));
}

static char *
deltas_to_add(const CounterGroup *group, Operation op)
{
	char	   *query = deltas(group, op);

	if (!group->computes)
		return query;
	return psprintf("SELECT * FROM (%s) r WHERE NOT %s", query, made_condition(group));
}

static char *
keys_to_compute(const CounterGroup *group, Operation op)
{
	return psprintf("SELECT %s FROM (%s) r WHERE %s", dbscale_counter_list_k(group->nkeys, ""),
					deltas(group, op), made_condition(group));
}

/* ---- the source's statements ---- */

static char *
new_value(const Counter *counter, int n)
{
	const char *column = quote_identifier(counter->column);

	if (dbscale_counter_is_extreme(counter))
		return psprintf("%s = %s(target_.%s, l.x%d)", column,
						counter->aggregate == COUNTER_MIN ? "least" : "greatest", column, n + 1);
	return psprintf("%s = coalesce(target_.%s, 0) + l.x%d", column, column, n + 1);
}

/* Lock the targets of the query's keys, in order: a query with the same columns. */
static char *
locked(const CounterGroup *group, const char *query_name)
{
	return psprintf("SELECT %s.* FROM %s JOIN %s AS target_ ON %s ORDER BY %s FOR NO KEY UPDATE OF target_",
					query_name, query_name, group->table,
					dbscale_counter_join_k(group->target_key, "target_", query_name),
					dbscale_counter_list_columns(group->target_key, "target_."));
}

static char *
add_statement(const CounterGroup *group, Operation op)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "WITH d AS MATERIALIZED (%s), l AS MATERIALIZED (%s) UPDATE %s AS target_ SET ",
					 deltas_to_add(group, op), locked(group, "d"), group->table);
	for (int n = 0; n < list_length(group->counters); n++)
		appendStringInfo(&sql, "%s%s", n ? ", " : "", new_value(nth_counter(group, n), n));
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
		appendStringInfo(&sql, "%s%s", n ? ", " : "", new_value(nth_counter(group, n), n));
	appendStringInfo(&sql, " FROM (%s) l WHERE %s;\n", deltas_of(group, op, true),
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
		const Counter *counter = nth_counter(group, n);
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
					 group->table, set.data, deltas_to_add(group, op),
					 dbscale_counter_join_k(group->target_key, "target_", "d"), where.data);
}

/* SET a = v.x1, ... FROM (the keys with their true values) v: what the targets' rows should have. */
static char *
compute_statement(const CounterGroup *group, const char *keys)
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
		const char *column = quote_identifier(nth_counter(group, n)->column);

		appendStringInfo(&set, "%s%s = v.x%d", n ? ", " : "", column, n + 1);
		appendStringInfo(&differs, "%starget_.%s IS DISTINCT FROM v.x%d", n ? " OR " : "", column, n + 1);
	}
	appendStringInfo(&sql, "%s FROM (SELECT %s", set.data, dbscale_counter_list_k(group->nkeys, "d."));
	for (int n = 0; n < list_length(group->counters); n++)
		appendStringInfo(&sql, ", %s AS x%d",
						 dbscale_counter_true_value(group->place, nth_counter(group, n), "d", true), n + 1);
	appendStringInfo(&sql, " FROM (%s) d) v WHERE %s AND (%s);\n", keys,
					 dbscale_counter_join_k(group->target_key, "target_", "v"), differs.data);
	return sql.data;
}

static void
append_compute_made(StringInfo sql, const CounterGroup *group, Operation op)
{
	char	   *keys = keys_to_compute(group, op);

	appendStringInfo(sql, "IF made_all OR cardinality(made) > 0 THEN\n"
					 "PERFORM FROM (WITH d AS MATERIALIZED (%s) %s) x;\n%sEND IF;\n",
					 keys, locked(group, "d"), compute_statement(group, keys));
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
					 deltas(group, op), group->table, dbscale_counter_join_k(group->target_key, "target_", "d"));
}

static char *
append_statement(const CounterGroup *group, const char *deltas)
{
	const char *k = dbscale_counter_list_k(group->nkeys, "");

	return psprintf("INSERT INTO %s (%s, delta) SELECT %s, x1 FROM (%s) d;\n",
					dbscale_counter_buffer_name(group->place, linitial(group->counters)), k, k, deltas);
}

/* By 4 and 5: `keys` is a query of k1, ... */
static void
append_locks(StringInfo sql, const CounterGroup *group, const char *keys, bool is_target)
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

/* A sum with NaN in it could never be subtracted from again. */
static void
append_check_finite(StringInfo sql, List *counters)
{
	ListCell   *lc;

	foreach(lc, counters)
	{
		const Counter *counter = lfirst(lc);

		if (counter->aggregate != COUNTER_SUM || strncmp(counter->value_type, "numeric", 7) != 0)
			continue;
		appendStringInfo(sql, "IF EXISTS (SELECT FROM new_rows WHERE %s IN ('NaN', 'Infinity', '-Infinity')) THEN\n"
						 "  RAISE EXCEPTION USING ERRCODE = '22003', MESSAGE = %s,\n"
						 "    DETAIL = 'NaN and infinity cannot be subtracted again.', HINT = 'Insert finite numbers.';\nEND IF;\n",
						 quote_identifier(counter->value),
						 quote_literal_cstr(psprintf("counter \"%s\" cannot add values that are not finite", counter->name)));
	}
}

/* one: there is one row at most, and nothing that 6 speaks of; few: FEW_ROWS at most. */
static void
append_count_rows(StringInfo sql, Operation op)
{
	const char *rows = op == ON_DELETE ? "old_rows" : "new_rows";

	appendStringInfo(sql, "PERFORM FROM %s OFFSET 1 LIMIT 1;\none := NOT FOUND AND NOT made_all AND made = '{}';\n"
					 "few := one;\nIF NOT one THEN few := (SELECT count(*) FROM (SELECT FROM %s LIMIT %d) x) <= %d; END IF;\n",
					 rows, rows, FEW_ROWS + 1, FEW_ROWS);
}

static void
append_operation(StringInfo sql, List *groups, List *counters, Operation op)
{
	ListCell   *lc;

	if (op != ON_DELETE)
		append_check_finite(sql, counters);
	foreach(lc, groups)
	{
		const CounterGroup *group = lfirst(lc);

		if (!group->locks)
			continue;
		append_locks(sql, group, psprintf("SELECT %s FROM (%s) d", dbscale_counter_list_k(group->nkeys, ""),
										  deltas(group, op)), false);
		append_check_snapshot(sql, group, op);
	}
	append_count_rows(sql, op);
	foreach(lc, groups)
	{
		const CounterGroup *group = lfirst(lc);

		if (!group->buffered)
			continue;
		if (op == ON_UPDATE)
			appendStringInfoString(sql, append_statement(group, deltas_to_add(group, op)));
		else
			appendStringInfo(sql, "IF one THEN\n%sELSE\n%sEND IF;\n", append_statement(group, deltas_of(group, op, true)),
							 append_statement(group, deltas_to_add(group, op)));
	}
	foreach(lc, groups)
	{
		const CounterGroup *group = lfirst(lc);

		if (!group->buffered)
		{
			char	   *statement = add_statement(group, op);

			if (op != ON_UPDATE && list_length(source_keys(group)) == 1)
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

		initStringInfo(&set);
		initStringInfo(&where);
		for (int n = 0; n < list_length(group->counters); n++)
		{
			const Counter *counter = nth_counter(group, n);
			const char *column = quote_identifier(counter->column);

			appendStringInfo(&set, "%s%s = %s", n ? ", " : "", column, dbscale_counter_empty(counter));
			appendStringInfo(&where, "%starget_.%s IS DISTINCT FROM %s", n ? " OR " : "", column, dbscale_counter_empty(counter));
		}
		if (group->buffered)
			appendStringInfo(sql, "IF current_setting('transaction_isolation') NOT LIKE 'read%%' THEN\n"
							 "  RAISE EXCEPTION USING ERRCODE = '0A000',\n"
							 "    MESSAGE = 'a table with a buffered counter cannot be truncated in a transaction that is '"
							 " || current_setting('transaction_isolation'),\n"
							 "    DETAIL = 'What the counter has pending may be newer than the transaction''s snapshot.',\n"
							 "    HINT = 'Use a transaction that is read committed.';\nEND IF;\nDELETE FROM %s;\n",
							 dbscale_counter_buffer_name(group->place, linitial(group->counters)));
		appendStringInfo(sql, "PERFORM FROM (SELECT FROM %s AS target_ WHERE %s ORDER BY %s FOR NO KEY UPDATE) x;\n"
						 "UPDATE %s AS target_ SET %s WHERE %s;\n",
						 group->table, where.data, dbscale_counter_list_columns(group->target_key, "target_."),
						 group->table, set.data, where.data);
	}
}

/* ---- functions and triggers ---- */

/*
 * The function's qualified name.  On a node it follows from the shard's name; here
 * tables may be renamed, so a function that is there keeps its name.
 */
static char *
function_name(const CounterPlace *place, Oid relid, const char *trigger, const char *suffix)
{
	char	   *base = dbscale_counter_base_at(place, relid);
	char	   *name;

	if (place->group != NULL)
		return quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA, dbscale_counter_object_name(base, suffix));
	name = dbscale_counter_query(psprintf("SELECT p.proname FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid"
										  " WHERE t.tgrelid = %u AND t.tgname = %s", relid, quote_literal_cstr(trigger)));
	for (int n = 0; name == NULL; n++)
	{
		char	   *candidate = dbscale_counter_object_name(base, n ? psprintf("_%d%s", n, suffix) : suffix);

		if (dbscale_counter_query(psprintf("SELECT 1 FROM pg_proc WHERE pronamespace = 'dbscale_shards'::regnamespace"
										   " AND proname = %s", quote_literal_cstr(candidate))) == NULL)
			name = candidate;
	}
	return quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA, name);
}

static List *
create_function(const CounterPlace *place, const char *name, Oid owner, const char *declare, const char *body)
{
	List	   *commands;
	char	   *text = psprintf("\n#variable_conflict use_column\nDECLARE\n"
								"counting text := coalesce(current_setting('" COUNTING "', true), '');\nignored text;\n%sBEGIN\n%sEND;\n",
								declare, body);

	commands = list_make1(psprintf("CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
								   " SET search_path = pg_catalog, pg_temp AS %s", name, quote_literal_cstr(text)));
	/* whoever could name it in a trigger of his own could write the counters */
	commands = lappend(commands, psprintf("REVOKE ALL ON FUNCTION %s() FROM PUBLIC", name));
	if (place->group == NULL)
		commands = lappend(commands, psprintf("ALTER FUNCTION %s() OWNER TO %s", name,
											  quote_identifier(GetUserNameFromId(owner, false))));
	return commands;
}

static List *
drop_function(const CounterPlace *place, const char *table, const char *function, const char *const *triggers, int count)
{
	List	   *commands = NIL;

	for (int i = 0; i < count; i++)
		commands = lappend(commands, psprintf("DROP TRIGGER IF EXISTS %s ON %s", quote_identifier(triggers[i]), table));
	return lappend(commands, psprintf("DROP FUNCTION IF EXISTS %s()", function));
}

static const char *const source_triggers[] = {
	"dbscale_counter_insert", "dbscale_counter_delete", "dbscale_counter_update", "dbscale_counter_truncate"
};

/* The first two begin late in the alphabet: they fire after the users' own BEFORE triggers. */
static const char *const target_triggers[] = {
	"~dbscale_counter_begin", "~dbscale_counter_guard", "dbscale_counter_made", "dbscale_counter_rekeyed"
};

/* The triggers' WHEN.  Only shards move; then their counters' triggers are quiet. */
static char *
when(const CounterPlace *place, const char *condition)
{
	const char *quiet = "pg_catalog.current_setting('" MOVING "', true) IS DISTINCT FROM 'on'";

	if (place->group == NULL)
		return condition ? psprintf("WHEN (%s)", condition) : pstrdup("");
	return condition ? psprintf("WHEN (%s AND (%s))", quiet, condition) : psprintf("WHEN (%s)", quiet);
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
	char	   *function = function_name(place, source, source_triggers[0], SOURCE_SUFFIX);
	List	   *groups = make_groups(place, counters);
	List	   *commands;
	StringInfoData body;

	if (counters == NIL)
		return drop_function(place, table, function, source_triggers, lengthof(source_triggers));
	initStringInfo(&body);
	/* where tables count one another, our UPDATEs fire this again: those of no row end it */
	appendStringInfoString(&body, "IF TG_OP = 'UPDATE' THEN\nPERFORM FROM new_rows LIMIT 1;\nIF NOT FOUND THEN RETURN NULL; END IF;\nEND IF;\n");
	/* an assignment is much faster than PERFORM, which is a query */
	appendStringInfo(&body, "ignored := set_config('" COUNTING "', 'on', true);\n"
					 "ignored := current_setting('dbscale_shards.made', true);\n"
					 "IF ignored = '*' THEN made_all := true;\n"
					 "ELSIF ignored <> '' THEN made := string_to_array(ignored, ',')::integer[];\nEND IF;\n");
	for (Operation op = ON_INSERT; op <= ON_UPDATE; op++)
	{
		appendStringInfo(&body, "%s TG_OP = '%s' THEN\n", op == ON_INSERT ? "IF" : "ELSIF", events[op]);
		append_operation(&body, groups, counters, op);
	}
	appendStringInfoString(&body, "ELSE\n");
	append_truncate(&body, groups);
	appendStringInfoString(&body, "END IF;\nignored := set_config('" COUNTING "', counting, true);\nRETURN NULL;\n");

	commands = create_function(place, function, dbscale_counter_owner(((Counter *) linitial(counters))->target),
							   "made integer[] := '{}';\nmade_all boolean := false;\none boolean;\nfew boolean;\nn integer;\n", body.data);
	for (int i = 0; i < lengthof(events); i++)
		commands = lappend(commands, psprintf("CREATE OR REPLACE TRIGGER %s AFTER %s ON %s %s FOR EACH STATEMENT %s"
											  " EXECUTE FUNCTION %s()", source_triggers[i], events[i], table, rows[i],
											  when(place, NULL), function));
	return commands;
}

/* ---- targets ---- */

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

		appendStringInfo(sql, "IF TG_OP = 'UPDATE' AND counting <> 'on' AND OLD.%s IS DISTINCT FROM NEW.%s THEN\n"
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

/* By 4, 6 and 8: what a new target row has. */
static void
append_made(StringInfo sql, List *groups, bool statement)
{
	ListCell   *lc;

	foreach(lc, groups)
	{
		const CounterGroup *group = lfirst(lc);
		char	   *keys;

		if (statement)
			keys = psprintf("SELECT %s FROM new_rows WHERE %s", dbscale_counter_as_k(group->target_key),
							dbscale_counter_not_null(group->target_key));
		else
			keys = psprintf("SELECT k.* FROM (SELECT %s) k(%s) WHERE %s",
							dbscale_counter_list_columns(group->target_key, "NEW."),
							dbscale_counter_list_k(group->nkeys, ""), key_changed(group->target_key));
		if (group->locks)
			append_locks(sql, group, keys, true);
		append_remember_made(sql, group, keys);
		appendStringInfo(sql, "ignored := set_config('" COUNTING "', 'on', true);\n%s"
						 "ignored := set_config('" COUNTING "', counting, true);\n", compute_statement(group, keys));
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
		if (has_names(seen, counter->target_key))
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
	char	   *function = function_name(place, target, target_triggers[0], TARGET_SUFFIX);
	List	   *groups = make_groups(place, computed_counters(counters));
	List	   *commands;

	if (counters == NIL)
		return drop_function(place, table, function, target_triggers, lengthof(target_triggers));
	commands = create_function(place, function, dbscale_counter_owner(target), "n integer;\n", target_body(groups, counters));
	commands = lappend(commands, psprintf("CREATE OR REPLACE TRIGGER \"%s\" BEFORE INSERT ON %s FOR EACH ROW %s"
										  " EXECUTE FUNCTION %s()", target_triggers[0], table,
										  when(place, insert_condition(counters)), function));
	commands = lappend(commands, psprintf("CREATE OR REPLACE TRIGGER \"%s\" BEFORE UPDATE ON %s FOR EACH ROW %s"
										  " EXECUTE FUNCTION %s()", target_triggers[1], table,
										  when(place, update_condition(counters, true)), function));
	if (groups == NIL)
	{
		commands = lappend(commands, psprintf("DROP TRIGGER IF EXISTS %s ON %s", target_triggers[2], table));
		return lappend(commands, psprintf("DROP TRIGGER IF EXISTS %s ON %s", target_triggers[3], table));
	}
	commands = lappend(commands, psprintf("CREATE OR REPLACE TRIGGER %s AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows"
										  " FOR EACH STATEMENT %s EXECUTE FUNCTION %s()", target_triggers[2], table,
										  when(place, NULL), function));
	return lappend(commands, psprintf("CREATE OR REPLACE TRIGGER %s AFTER UPDATE ON %s FOR EACH ROW %s"
									  " EXECUTE FUNCTION %s()", target_triggers[3], table,
									  when(place, update_condition(computed_counters(counters), false)), function));
}

List *
dbscale_counter_drop_functions_sql(const CounterPlace *place, Oid relid)
{
	return list_make2(psprintf("DROP FUNCTION IF EXISTS %s()",
							   function_name(place, relid, source_triggers[0], SOURCE_SUFFIX)),
					  psprintf("DROP FUNCTION IF EXISTS %s()",
							   function_name(place, relid, target_triggers[0], TARGET_SUFFIX)));
}
