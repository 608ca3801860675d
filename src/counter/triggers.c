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
 * with the empty value.  While rows move between shards with their counters
 * (assign_key), dbscale_shards.moving keeps all these triggers quiet; when a whole
 * shard moves, they come to the other node after its rows (rebalance/cutover.c).  Both
 * are ordinary settings that anybody may set in a session of his own: they keep
 * mistakes out, not the table's owner, who could drop the triggers.  (On a node nobody
 * but dbscale's role has a session.)
 */
#include "counter/groups.h"

#include "miscadmin.h"
#include "utils/builtins.h"

/* Those with a ~ begin late in the alphabet: they fire after the users' own BEFORE triggers. */
const char *const dbscale_counter_source_triggers[COUNTER_SOURCE_TRIGGERS] = {
	"dbscale_counter_insert", "dbscale_counter_delete", "dbscale_counter_update", "dbscale_counter_truncate",
	"~dbscale_counter_empty"
};

const char *const dbscale_counter_target_triggers[COUNTER_TARGET_TRIGGERS] = {
	"~dbscale_counter_begin", "~dbscale_counter_guard", "dbscale_counter_made", "dbscale_counter_rekeyed",
	"dbscale_counter_gone", "~dbscale_counter_all_gone"
};

static const char *
function_suffix(bool is_target)
{
	return is_target ? "_counter_target" : "_counter_source";
}

char *
dbscale_counter_shard_function(const CounterPlace *place, Oid relid, bool is_target)
{
	return dbscale_counter_object_name(dbscale_counter_base_at(place, relid), function_suffix(is_target));
}

/*
 * The function's qualified name.  On a node it follows from the shard's name; here
 * tables may be renamed, so a function that is there keeps its name.
 */
char *
dbscale_counter_function_name(const CounterPlace *place, Oid relid, bool is_target)
{
	const char *trigger = is_target ? dbscale_counter_target_triggers[0] : dbscale_counter_source_triggers[0];
	const char *suffix = function_suffix(is_target);
	char	   *base = dbscale_counter_base_at(place, relid);
	char	   *name;

	if (place->group != NULL)
		return quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA, dbscale_counter_shard_function(place, relid, is_target));
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

List *
dbscale_counter_create_function(const CounterPlace *place, const char *name, Oid owner, const char *declare, const char *body,
								bool sets_path)
{
	List	   *commands;
	char	   *text = psprintf("\n#variable_conflict use_column\nDECLARE\n"
								"counting pg_catalog.text;\nignored pg_catalog.text;\n%sBEGIN\n%sEND;\n",
								declare, body);

	commands = list_make1(psprintf("CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER%s AS %s", name,
								   sets_path ? " SET search_path = pg_catalog, pg_temp" : "", quote_literal_cstr(text)));
	/* whoever could name it in a trigger of his own could write the counters */
	commands = lappend(commands, psprintf("REVOKE ALL ON FUNCTION %s() FROM PUBLIC", name));
	if (place->group == NULL)
		commands = lappend(commands, psprintf("ALTER FUNCTION %s() OWNER TO %s", name,
											  quote_identifier(GetUserNameFromId(owner, false))));
	return commands;
}

List *
dbscale_counter_drop_function(const char *table, const char *function, const char *const *triggers, int count)
{
	List	   *commands = NIL;

	for (int i = 0; i < count; i++)
		commands = lappend(commands, psprintf("DROP TRIGGER IF EXISTS %s ON %s", quote_identifier(triggers[i]), table));
	return lappend(commands, psprintf("DROP FUNCTION IF EXISTS %s()", function));
}

/* The triggers' WHEN.  Only shards move; then their counters' triggers are quiet. */
char *
dbscale_counter_when(const CounterPlace *place, const char *condition)
{
	const char *quiet = "pg_catalog.current_setting('" MOVING "', true) IS DISTINCT FROM 'on'";

	if (place->group == NULL)
		return condition ? psprintf("WHEN (%s)", condition) : pstrdup("");
	return condition ? psprintf("WHEN (%s AND (%s))", quiet, condition) : psprintf("WHEN (%s)", quiet);
}

List *
dbscale_counter_drop_functions_sql(const CounterPlace *place, Oid relid)
{
	return list_make2(psprintf("DROP FUNCTION IF EXISTS %s()",
							   dbscale_counter_function_name(place, relid, false)),
					  psprintf("DROP FUNCTION IF EXISTS %s()",
							   dbscale_counter_function_name(place, relid, true)));
}
