/*
 * carry.c
 *		Counters whose tables are not colocated.
 *
 * Likes are sharded by who likes, posts by their author; or one of the two is a table
 * of the coordinator.  A writer of likes does not reach the post's node, so such a
 * counter, which the code calls *apart*, is buffered.  Three things stand beside its
 * tables:
 *
 *		X_deltas_N, the *outbox*, beside each shard of the source: what its trigger
 *			appends, in the writer's transaction on that node
 *		X_orphans_N beside each shard of the target: for keys without a row, what has
 *			been carried for them
 *		X_lock_N(), there too, for the carrier
 *
 * A *carrier* (the maintenance worker, or fold_counter) takes deltas out of the outboxes
 * of one node and adds them to the targets of one node, in one transaction over the two:
 *
 *		hold:	an advisory lock of the counter, exclusively, on both nodes
 *		look:	which keys are pending?  Which of them live on the target's node?
 *		lock:	there, these keys; those whose value would not fit into the column are left
 *		take:	DELETE of their deltas, which returns the sums
 *		apply:	UPDATE of the rows that are there; the rest goes to the orphans
 *
 * 1. A delta is applied exactly once.  Taking and applying is one transaction, committed
 *	  in two phases where it has two nodes (transaction/): a crash of anybody at any
 *	  point leaves it undone, or done, or prepared on a node until recovery does on that
 *	  node what was decided.  So there is nothing to number, nor any mark of what has
 *	  been applied that a move or a restore could lose.
 *
 * 2. No delta is missed.  Take deletes rows that it sees, by what is in them, not by a
 *	  number: a writer who commits late has his deltas taken by a later carrier.
 *
 * 3. A carrier waits for nobody: each lock is tried for, and what cannot be had is left
 *	  pending.  So it can be part of no deadlock, and holds up no writer for longer than
 *	  its transaction lasts.  What it has locked stays locked while it is prepared.
 *
 * Invariant: what has been carried for a key, since the counter was computed, is in the
 * column of the key's row if there is one, else in the orphans (no row there means 0).
 * Two kinds of transactions could break it: a carrier, and one that makes, deletes or
 * rekeys a row of the target.
 *
 * 4. They exclude each other key by key, by the advisory locks of 4 and 5 of triggers.c:
 *	  carriers take a key's lock shared (they exclude one another by 'hold'), and the
 *	  target's triggers take it exclusively; both until they commit.  A carrier first
 *	  has the lock and then looks, in later statements, whether the row is there.  Let
 *	  T insert post 7.  If T had the lock first the carrier does not get it.  If the
 *	  carrier did, it may not see T's row, which is not committed, and adds to the
 *	  orphans; T's trigger waits for the carrier's end, and then finds that.  Let T
 *	  delete post 7: until T has the lock, it has the row locked; the carrier sees the
 *	  row and cannot lock it: the key stays pending.  If it has locked it first, T waits
 *	  and then deletes, and keeps, the new version.
 *
 * 5. TRUNCATE has its table for itself, and a carrier has the target locked in ROW
 *	  EXCLUSIVE MODE.  Before the target is emptied its trigger keeps all values as
 *	  orphans; before the source is, its trigger appends what takes its rows away.
 *
 * 6. A row that is made takes what is kept for its key; one that is deleted leaves its
 *	  value; one that is rekeyed does both.  These are additions, and every one is
 *	  followed by a look whether a row is there, since triggers of users may make rows
 *	  between a write and our trigger.
 *
 * 7. Under REPEATABLE READ a transaction's snapshot can be older than the locks: rows of
 *	  the target cannot be inserted or rekeyed then, nor either table truncated.  A
 *	  DELETE can be: it has the newest version of its row, or fails.
 *
 * Reading.  What one source shard says minus what is pending there is what has been
 * carried from it: with a snapshot of that shard it is the same whatever is written, for
 * rows and deltas are committed together.  Only a carrier changes it.
 *
 * 8. So verify_counter and counter_value (apart_read.c) hold carriers out: they take the
 *	  lock of 'hold' shared on all the nodes concerned, then read, and need not read at
 *	  one moment.  A carrier that is prepared on a node still has it there: they wait for
 *	  its end.  The locks are taken in a subtransaction that is rolled back when all is
 *	  read, so that a reader's transaction does not keep carriers out.  A carrier can
 *	  starve only while readers overlap without a pause.
 *
 * 9. create_counter and repair_counter lock both tables against writers, everywhere, and
 *	  hold carriers out.  Then they set all columns to 0, forget orphans and deltas, put
 *	  what the source's rows say into the outboxes, and carry it: no key needs a lock of
 *	  its own.  drop_counter carries what is left, as far as it fits into the column.
 *
 * A shard of either table moves, and with it its outbox, or its orphans: their rows are
 * copied at the switch (rebalance/cutover.c, 4 and 7; rebalance/blocking.c), when nobody
 * can change them any more.  A delta that were carried from the old outbox after that
 * would be carried again from the new one; one carried to the old target would be lost.
 *
 * 10. A carrier is a writer as others are: it has a lock on the foreign table of each of
 *	  its shards until its transaction ends, and looked up where they are after it got
 *	  that.  A move has locked the foreign tables against all writers before it copies,
 *	  and until the switch has committed.  So a carrier that runs here began after the
 *	  switch, and goes to the new place, or has ended before the copy.  In the latter case
 *	  it may still be prepared on the node, or its COMMIT be on the way there: there it has
 *	  'hold', which the move takes after the foreign tables' locks: it waits.  Once it has
 *	  had it nothing is left there that could commit, so it does not matter if the move's
 *	  session there, and with it the lock, is lost later.
 *
 * 11. Readers lock the foreign tables too, so a shard is where they have found it while
 *	  they read.  And a move, or assign_key, that is committed here but not yet on a node
 *	  has 'hold' there: rows of the source are not seen in two places, nor in none.
 *
 * 12. assign_key moves a key's rows between two shards.  What is kept of the key without a
 *	  row is beside the target's shard, and moves as its rows do; both shards' foreign
 *	  tables are locked, so no carrier routes the key meanwhile.  What is pending for
 *	  others in a source's rows that leave stays in the outbox where it is: it is what has
 *	  not been carried yet, wherever the rows are.
 *
 * 13. Where shards of either table are split or merged, carriers and readers are shut out by
 *	  the locks of the tables themselves (hold.c), so which shards there are, and where a
 *	  key belongs, does not change under them.  What becomes of outboxes and orphans has
 *	  its argument in rebalance/reshard_counters.c.
 *
 * A key that no shard takes (range, list) stays pending until there is one.
 */
#include "counter/internal.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* Keys of one look, and how many keys one transaction locks at most. */
#define PAGE 500
#define PAGE_ALONE 10000

typedef struct Carry
{
	const Counter *counter;
	List	   *sources;		/* places on one node */
	List	   *targets;		/* the same */
	bool		alone;			/* both tables are locked, and carriers held out */
	int			nkeys;
	char	  **types;			/* of the key's columns */
	bool		lenient;		/* alone, and what does not fit stays where it is */
	MemoryContext context;		/* of what is found out */
	bool		more;			/* out: another transaction may find more */
	int			nstuck;			/* out: keys whose value would not fit into the column */
	char	   *stuck;			/* out: the first of them, as jsonb */
} Carry;

typedef struct CarriedKey
{
	char	  **k;
	char	   *delta;			/* or NULL */
	const CounterPlace *place;	/* of its target */
} CarriedKey;

/* ---- a carrier ---- */

static Carry
make_carry(const Counter *counter, List *sources, List *targets, bool alone)
{
	Carry		carry = {counter, sources, targets, alone, list_length(counter->source_key)};

	carry.context = CurrentMemoryContext;
	carry.types = palloc(carry.nkeys * sizeof(char *));
	for (int n = 0; n < carry.nkeys; n++)
		carry.types[n] = dbscale_counter_key_type(counter, list_nth(counter->source_key, n));
	return carry;
}

static char *
literal(const Carry *carry, const char *value, int n)
{
	return psprintf("%s::%s", quote_literal_cstr(value), carry->types[n]);
}

/* ('1'::bigint, 'a'::text), ...; with what is to be added as the last column if it is known. */
static char *
values_of(const Carry *carry, List *keys)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	foreach(lc, keys)
	{
		const CarriedKey *key = lfirst(lc);

		appendStringInfoString(&sql, foreach_current_index(lc) ? ", (" : "(");
		for (int n = 0; n < carry->nkeys; n++)
			appendStringInfo(&sql, "%s%s", n ? ", " : "", literal(carry, key->k[n], n));
		if (key->delta)
			appendStringInfo(&sql, ", %s::%s", quote_literal_cstr(key->delta), dbscale_counter_delta_type(carry->counter));
		appendStringInfoChar(&sql, ')');
	}
	return sql.data;
}

/* k1::text, ... with such a prefix */
static char *
k_as_text(const Carry *carry, const char *prefix)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int n = 1; n <= carry->nkeys; n++)
		appendStringInfo(&sql, "%s%sk%d::text", n > 1 ? ", " : "", prefix, n);
	return sql.data;
}

/* Where the key's target lives, if it is one of the carrier's places; else NULL. */
static const CounterPlace *
target_of(const Carry *carry, char **k)
{
	List	   *key = NIL;
	const CounterPlace *place;
	ListCell   *lc;

	for (int n = 0; n < carry->nkeys; n++)
		key = lappend(key, k[n]);
	place = dbscale_counter_place_of(carry->counter, key);
	foreach(lc, place ? carry->targets : NIL)
	{
		const CounterPlace *target = lfirst(lc);

		if (place->group == NULL || target->shard->number == place->shard->number)
			return target;
	}
	return NULL;
}

static CarriedKey *
make_key(char **k, char *delta, const CounterPlace *place)
{
	CarriedKey *key = palloc(sizeof(CarriedKey));

	key->k = k;
	key->delta = delta;
	key->place = place;
	return key;
}

/* The next pending keys in their order, after this one, with what is pending: of char **. */
static List *
look(const Carry *carry, char **after)
{
	StringInfoData sql;
	ListCell   *lc;
	char	   *k = dbscale_counter_list_k(carry->nkeys, "");

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s, x::text FROM (SELECT %s, sum(delta) AS x FROM (", k_as_text(carry, ""), k);
	foreach(lc, carry->sources)
		appendStringInfo(&sql, "%sSELECT %s, delta FROM %s", foreach_current_index(lc) ? " UNION ALL " : "", k,
						 dbscale_counter_buffer_name(lfirst(lc), carry->counter));
	appendStringInfoString(&sql, ") b");
	if (after)
	{
		appendStringInfo(&sql, " WHERE ROW(%s) > ROW(", k);
		for (int n = 0; n < carry->nkeys; n++)
			appendStringInfo(&sql, "%s%s", n ? ", " : "", literal(carry, after[n], n));
		appendStringInfoChar(&sql, ')');
	}
	appendStringInfo(&sql, " GROUP BY %s ORDER BY %s LIMIT %d) d", k, k, carry->alone ? PAGE_ALONE : PAGE);
	return dbscale_counter_rows_at(linitial(carry->sources), sql.data, carry->nkeys + 1, false);
}

static List *
keys_at(List *keys, const CounterPlace *place)
{
	List	   *found = NIL;
	ListCell   *lc;

	foreach(lc, keys)
		if (((CarriedKey *) lfirst(lc))->place == place)
			found = lappend(found, lfirst(lc));
	return found;
}

/* The keys as lock_keys wants them: with the SQL of where their values are. */
static char *
lock_sql(const Carry *carry, const CounterPlace *place, List *keys)
{
	const Counter *counter = carry->counter;

	return psprintf("WITH v(%s, x) AS (VALUES %s) SELECT %s, (%s)::text, %s FROM %s l JOIN v ON %s",
					dbscale_counter_list_k(carry->nkeys, ""), values_of(carry, keys), k_as_text(carry, "l."),
					dbscale_counter_fits_sql(counter, "l.value + v.x"), dbscale_counter_key_object(counter, "l."),
					carry->alone ? dbscale_counter_values_sql(place, counter) : dbscale_counter_lock_call(place, counter),
					dbscale_counter_same_k(carry->nkeys, "l", "v"));
}

/*
 * Of these keys, with what is pending for them, those that can be carried: that could be
 * locked, by 4, or need not be (alone), and whose value will fit into the column.  (What
 * is pending now is looked at.  Where more comes until it is taken, and that does not
 * fit, the transaction fails, and the next one sees it here.)
 */
static List *
lock_keys(Carry *carry, List *keys)
{
	List	   *locked = NIL;
	ListCell   *lc;
	ListCell   *lr;

	foreach(lc, carry->targets)
	{
		const CounterPlace *place = lfirst(lc);
		List	   *here = keys_at(keys, place);

		if (here == NIL)
			continue;
		foreach(lr, dbscale_counter_rows_at(place, lock_sql(carry, place, here), carry->nkeys + 2, false))
		{
			char	  **row = lfirst(lr);

			if (row[carry->nkeys][0] == 't')
				locked = lappend(locked, make_key(row, NULL, place));
			else if (carry->nstuck++ == 0)
				carry->stuck = MemoryContextStrdup(carry->context, row[carry->nkeys + 1]);
		}
	}
	return locked;
}

/* Nobody else is at the tables: what does not fit is the command's error. */
static List *
take_all_keys(List *keys)
{
	ListCell   *lc;

	foreach(lc, keys)
		((CarriedKey *) lfirst(lc))->delta = NULL;
	return keys;
}

/* Deltas of these keys are pending no more: the keys with their sums. */
static List *
take(const Carry *carry, List *keys)
{
	StringInfoData sql;
	StringInfoData gone;
	List	   *taken = NIL;
	ListCell   *lc;
	char	   *k = dbscale_counter_list_k(carry->nkeys, "");

	initStringInfo(&sql);
	initStringInfo(&gone);
	appendStringInfo(&sql, "WITH d(%s) AS (VALUES %s)", k, values_of(carry, keys));
	foreach(lc, carry->sources)
	{
		int			n = foreach_current_index(lc) + 1;

		appendStringInfo(&sql, ", g%d AS (DELETE FROM %s b USING d WHERE %s RETURNING %s, b.delta)", n,
						 dbscale_counter_buffer_name(lfirst(lc), carry->counter),
						 dbscale_counter_same_k(carry->nkeys, "b", "d"), dbscale_counter_list_k(carry->nkeys, "b."));
		appendStringInfo(&gone, "%sSELECT * FROM g%d", n > 1 ? " UNION ALL " : "", n);
	}
	appendStringInfo(&sql, " SELECT %s, x::text FROM (SELECT %s, sum(delta) AS x FROM (%s) g GROUP BY %s) s WHERE x <> 0",
					 k_as_text(carry, ""), k, gone.data, k);
	foreach(lc, dbscale_counter_rows_at(linitial(carry->sources), sql.data, carry->nkeys + 1, true))
	{
		char	  **row = lfirst(lc);

		taken = lappend(taken, make_key(row, row[carry->nkeys], target_of(carry, row)));
	}
	return taken;
}

static List *
apply_sql(const Carry *carry, const CounterPlace *place, List *keys)
{
	const Counter *counter = carry->counter;
	char	   *table = dbscale_counter_table_at(place, counter->target);
	char	   *orphans = dbscale_counter_orphans_name(place, counter);
	char	   *column = pstrdup(quote_identifier(counter->column));
	char	   *k = dbscale_counter_list_k(carry->nkeys, "");
	char	   *join = dbscale_counter_join_k(counter->target_key, "target_", "d");
	char	   *d = psprintf("d(%s, x) AS (VALUES %s)", k, values_of(carry, keys));
	List	   *commands = NIL;

	if (place->group)
		commands = lappend(commands, pstrdup("SET LOCAL " COUNTING " = 'on'"));
	commands = lappend(commands, psprintf("WITH %s, u AS (UPDATE %s AS target_ SET %s = coalesce(target_.%s, 0) + d.x FROM d WHERE %s)"
										  " INSERT INTO %s AS o (%s, value) SELECT * FROM d WHERE NOT EXISTS (SELECT FROM %s AS target_ WHERE %s)"
										  " ON CONFLICT (%s) DO UPDATE SET value = o.value + excluded.value",
										  d, table, column, column, join, orphans, k, table, join, k));
	commands = lappend(commands, psprintf("WITH %s DELETE FROM %s o USING d WHERE %s AND o.value = 0", d, orphans,
										  dbscale_counter_same_k(carry->nkeys, "o", "d")));
	if (place->group)
		commands = lappend(commands, pstrdup("SET LOCAL " COUNTING " = ''"));
	return commands;
}

static void
apply(const Carry *carry, List *keys)
{
	CounterBatch *batch = dbscale_counter_batch();
	ListCell   *lc;

	foreach(lc, carry->targets)
	{
		List	   *here = keys_at(keys, lfirst(lc));

		if (here != NIL)
			dbscale_counter_send_all(batch, lfirst(lc), dbscale_counter_owner(carry->counter->target),
									 apply_sql(carry, lfirst(lc), here));
	}
	(void) dbscale_counter_finish(batch);
}

/* Keys of a page that live at the carrier's target. */
static List *
keys_of_page(const Carry *carry, List *page)
{
	List	   *keys = NIL;
	ListCell   *lc;

	foreach(lc, page)
	{
		const CounterPlace *place = target_of(carry, lfirst(lc));

		if (place)
			keys = lappend(keys, make_key(lfirst(lc), ((char **) lfirst(lc))[carry->nkeys], place));
	}
	return keys;
}

/* How many keys had something to carry. */
static uint64
run(Carry *carry)
{
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "dbscale carry", ALLOCSET_DEFAULT_SIZES);
	MemoryContext pages[2];		/* what was looked at last is where the next look begins */
	MemoryContext caller = MemoryContextSwitchTo(work);
	char	  **after = NULL;
	uint64		carried = 0;
	int			size = carry->alone ? PAGE_ALONE : PAGE;

	for (int i = 0; i < 2; i++)
		pages[i] = AllocSetContextCreate(work, "dbscale carry page", ALLOCSET_DEFAULT_SIZES);
	for (int i = 0;; i = 1 - i)
	{
		List	   *page;
		List	   *keys;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(pages[i]);
		MemoryContextSwitchTo(pages[i]);
		page = look(carry, after);
		keys = keys_of_page(carry, page);
		keys = carry->alone && !carry->lenient ? take_all_keys(keys) : lock_keys(carry, keys);
		if (keys != NIL)
		{
			List	   *taken;

			DEBUG_POINT("carry_locked");
			taken = take(carry, keys);
			DEBUG_POINT("carry_taken");
			apply(carry, taken);
			DEBUG_POINT("carry_applied");
			carried += list_length(keys);
		}
		carry->more = list_length(page) == size && carried > 0;
		if (list_length(page) < size || (!carry->alone && carried > 0))
			break;
		after = llast(page);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(work);
	return carried;
}

/*
 * From one node to one, in this transaction: a carrier as others are.  Locks first (10),
 * then what they protect is looked up: where the tables are, and whether the counter is
 * still what it was.
 */
static uint64
carry_between(const Counter *known, Oid source_server, Oid target_server, bool *more)
{
	List	   *sources;
	List	   *targets;
	Counter    *counter;
	uint64		carried;
	Carry		carry;

	*more = false;
	if (!dbscale_counter_try_tables(known))
		return 0;
	sources = dbscale_counter_try_places(known->source, source_server);
	targets = dbscale_counter_try_places(known->target, target_server);
	if (sources == NIL || targets == NIL ||
		!dbscale_counter_try_hold(known, list_make2(linitial(sources), linitial(targets))))
		return 0;
	counter = dbscale_counter_get(known->name, true);
	if (counter == NULL || !counter->apart || counter->suspended ||
		counter->source != known->source || counter->target != known->target)
		return 0;
	carry = make_carry(counter, sources, targets, false);
	carried = run(&carry);
	*more = carry.more;
	if (carry.nstuck > 0 || !carry.more)
		dbscale_counter_note_stuck(counter, source_server, target_server, carry.nstuck, carry.stuck);
	return carried;
}

/* ---- the worker ---- */

/* The counters that have something pending on this node (InvalidOid: here): of char *. */
List *
dbscale_counter_to_carry(Oid serverid)
{
	List	   *names = NIL;
	ListCell   *lc;
	ListCell   *lp;

	foreach(lc, dbscale_counter_list_names("apart AND NOT suspended"))
	{
		const Counter *counter = lfirst(lc);
		List	   *sources;
		StringInfoData sql;

		/* the next time, then */
		if (!dbscale_counter_try_tables(counter))
			continue;
		sources = dbscale_counter_places_on(dbscale_counter_places(counter->source), serverid);
		if (sources == NIL)
			continue;
		initStringInfo(&sql);
		foreach(lp, sources)
			appendStringInfo(&sql, "%sEXISTS (SELECT FROM %s)", sql.len ? " OR " : "SELECT (",
							 dbscale_counter_buffer_name(lfirst(lp), counter));
		appendStringInfoString(&sql, ")::text");
		if (((char **) linitial(dbscale_counter_rows_at(linitial(sources), sql.data, 1, false)))[0][0] == 't')
			names = lappend(names, pstrdup(counter->name));
	}
	return names;
}

/* The nodes where a counter's targets are (InvalidOid: here); not those that are disabled. */
List *
dbscale_counter_carry_targets(const char *name)
{
	Counter    *counter = dbscale_counter_get(name, true);
	List	   *servers = NIL;
	ListCell   *lc;

	if (counter == NULL || !counter->apart)
		return NIL;
	foreach(lc, dbscale_counter_one_a_node(dbscale_counter_places(counter->target)))
	{
		const CounterPlace *place = lfirst(lc);

		if (place->group == NULL || place->shard->node->enabled)
			servers = lappend_oid(servers, dbscale_counter_server_of(place));
	}
	return servers;
}

/* True when there may be more to carry at once. */
bool
dbscale_counter_carry(const char *name, Oid source_server, Oid target_server)
{
	Counter    *counter = dbscale_counter_get(name, true);
	bool		more = false;

	if (counter != NULL && counter->apart)
		(void) carry_between(counter, source_server, target_server, &more);
	return more;
}

/* ---- commands ---- */

uint64
dbscale_counter_carry_some(const Counter *counter)
{
	List	   *sources = dbscale_counter_one_a_node(dbscale_counter_places(counter->source));
	List	   *targets = dbscale_counter_one_a_node(dbscale_counter_places(counter->target));
	uint64		carried = 0;
	bool		more;
	ListCell   *ls;
	ListCell   *lt;

	foreach(ls, sources)
		foreach(lt, targets)
			carried += carry_between(counter, dbscale_counter_server_of(lfirst(ls)), dbscale_counter_server_of(lfirst(lt)), &more);
	return carried;
}

/*
 * Carriers are held out first: they have the tables locked, but wait for nobody.  (A
 * transaction that has committed here and is still only prepared on a node has its locks
 * there; it is waited for.)
 */
void
dbscale_counter_lock_apart(const Counter *counter)
{
	CounterBatch *batch = dbscale_counter_batch();
	Oid			tables[2];

	dbscale_counter_hold(counter, list_concat(dbscale_counter_places(counter->source), dbscale_counter_places(counter->target)), false);
	tables[0] = Min(counter->source, counter->target);
	tables[1] = Max(counter->source, counter->target);
	for (int i = 0; i < (tables[0] == tables[1] ? 1 : 2); i++)
	{
		ListCell   *lc;

		foreach(lc, dbscale_counter_places(tables[i]))
			dbscale_counter_send(batch, lfirst(lc), InvalidOid, psprintf("LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE",
																		 dbscale_counter_table_at(lfirst(lc), tables[i])));
	}
	(void) dbscale_counter_finish(batch);
}

void
dbscale_counter_carry_all(const Counter *counter, bool lenient)
{
	List	   *sources = dbscale_counter_places(counter->source);
	List	   *targets = dbscale_counter_places(counter->target);
	ListCell   *ls;

	/* to all nodes at once: deltas are taken node by node */
	if (sources == NIL || targets == NIL)
		return;
	foreach(ls, dbscale_counter_one_a_node(sources))
	{
		Carry		carry = make_carry(counter, dbscale_counter_places_on(sources, dbscale_counter_server_of(lfirst(ls))), targets, true);

		carry.lenient = lenient;
		(void) run(&carry);
	}
}

void
dbscale_counter_compute_apart(const Counter *counter)
{
	CounterBatch *batch = dbscale_counter_batch();
	const char *column = pstrdup(quote_identifier(counter->column));
	ListCell   *lc;

	foreach(lc, dbscale_counter_places(counter->target))
	{
		CounterPlace *place = lfirst(lc);
		List	   *commands = NIL;

		if (place->group)
			commands = lappend(commands, pstrdup("SET LOCAL " COUNTING " = 'on'"));
		commands = lappend(commands, psprintf("UPDATE %s SET %s = 0 WHERE %s IS DISTINCT FROM 0",
											  dbscale_counter_table_at(place, counter->target), column, column));
		commands = lappend(commands, psprintf("DELETE FROM %s", dbscale_counter_orphans_name(place, counter)));
		if (place->group)
			commands = lappend(commands, pstrdup("SET LOCAL " COUNTING " = ''"));
		dbscale_counter_send_all(batch, place, dbscale_counter_owner(counter->target), commands);
	}
	/* after that: where a table counts its own rows, the sources' triggers have seen it */
	(void) dbscale_counter_finish(batch);
	foreach(lc, dbscale_counter_places(counter->source))
	{
		dbscale_counter_send(batch, lfirst(lc), InvalidOid,
							 psprintf("DELETE FROM %s", dbscale_counter_buffer_name(lfirst(lc), counter)));
		dbscale_counter_send(batch, lfirst(lc), InvalidOid, dbscale_counter_enqueue_sql(lfirst(lc), counter));
	}
	(void) dbscale_counter_finish(batch);
	dbscale_counter_carry_all(counter, false);
	dbscale_counter_forget_stuck(counter);
}
