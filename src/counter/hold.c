/*
 * hold.c
 *		What keeps carriers, readers and moves of apart counters out of each other's way.
 *
 * Three kinds of locks, always in this order:
 *
 *		here, on the counter's two tables, ACCESS SHARE, until the transaction ends:
 *			which shards there are, and which keys they have, cannot change.  Carriers
 *			and readers take it; splits, merges and assign_key exclude both.
 *		here, on a shard's foreign table (or the plain table), as every writer has one:
 *			where the shard is cannot change while somebody has it.  Who wants to know
 *			takes the lock first and then looks.  Carriers take ROW EXCLUSIVE, readers
 *			ROW SHARE; whatever moves a shard, or keys of it, excludes both.
 *		'hold', an advisory lock of the counter on each node concerned: a carrier that
 *			is only prepared on a node, its end decided here, still has it there.
 *
 * carry.c has the arguments.
 */
#include "counter/internal.h"

#include "common/hashfn.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"

/* The first of the locks above; false: a split, a merge or assign_key is at it, or waits for it, or DDL. */
bool
dbscale_counter_try_tables(const Counter *counter)
{
	return ConditionalLockRelationOid(counter->target, AccessShareLock) &&
		(counter->source == counter->target || ConditionalLockRelationOid(counter->source, AccessShareLock));
}

/* ---- places by node ---- */

static CounterPlace *
place_on(List *places, Oid serverid)
{
	ListCell   *lc;

	foreach(lc, places)
		if (dbscale_counter_server_of(lfirst(lc)) == serverid)
			return lfirst(lc);
	return NULL;
}

List *
dbscale_counter_places_on(List *places, Oid serverid)
{
	List	   *found = NIL;
	ListCell   *lc;

	foreach(lc, places)
		if (dbscale_counter_server_of(lfirst(lc)) == serverid)
			found = lappend(found, lfirst(lc));
	return found;
}

List *
dbscale_counter_one_a_node(List *places)
{
	List	   *found = NIL;
	ListCell   *lc;

	foreach(lc, places)
		if (place_on(found, dbscale_counter_server_of(lfirst(lc))) == NULL)
			found = lappend(found, lfirst(lc));
	return found;
}

/* ---- where a table is ---- */

/* The relation here that stands for what is at the place; InvalidOid: there is none any more. */
static Oid
relation_at(const CounterPlace *place, Oid relid)
{
	const DistributedTable *table = dbscale_catalog_table(relid);

	if (place->group == NULL)
		return relid;
	return table && table->group ? dbscale_catalog_foreign_table(table, place->shard->number) : InvalidOid;
}

static int
number_of(const CounterPlace *place)
{
	return place->group ? place->shard->number : -1;
}

/*
 * The places of a table on this node as they are, and remain, while the transaction
 * lasts; without those that somebody else has locked: it waits for nobody.
 */
List *
dbscale_counter_try_places(Oid relid, Oid serverid)
{
	List	   *locked = NIL;
	List	   *places = NIL;
	ListCell   *lc;

	foreach(lc, dbscale_counter_places_on(dbscale_counter_places(relid), serverid))
	{
		Oid			relation = relation_at(lfirst(lc), relid);

		if (OidIsValid(relation) && ConditionalLockRelationOid(relation, RowExclusiveLock))
			locked = lappend_int(locked, number_of(lfirst(lc)));
	}
	foreach(lc, dbscale_counter_places_on(dbscale_counter_places(relid), serverid))
		if (list_member_int(locked, number_of(lfirst(lc))))
			places = lappend(places, lfirst(lc));
	return places;
}

/* From here on both tables are where they are, until the (sub)transaction ends. */
void
dbscale_counter_lock_places(const Counter *counter)
{
	List	   *relations = NIL;
	ListCell   *lc;

	foreach(lc, dbscale_counter_places(counter->source))
		relations = list_append_unique_oid(relations, relation_at(lfirst(lc), counter->source));
	foreach(lc, dbscale_counter_places(counter->target))
		relations = list_append_unique_oid(relations, relation_at(lfirst(lc), counter->target));
	list_sort(relations, list_oid_cmp);
	foreach(lc, relations)
		if (OidIsValid(lfirst_oid(lc)))
			LockRelationOid(lfirst_oid(lc), RowShareLock);
}

/* ---- hold ---- */

static char *
hold_call(const Counter *counter, const char *function)
{
	static const char *const class = "dbscale carrier";

	return psprintf("SELECT pg_catalog.%s(%d, %d)::text", function, (int) hash_bytes((const unsigned char *) class, strlen(class)),
					(int) hash_bytes((const unsigned char *) counter->name, strlen(counter->name)));
}

char *
dbscale_counter_hold_sql(const Counter *counter)
{
	return hold_call(counter, "pg_advisory_xact_lock");
}

void
dbscale_counter_hold(const Counter *counter, List *places, bool shared)
{
	char	   *sql = shared ? hold_call(counter, "pg_advisory_xact_lock_shared") : dbscale_counter_hold_sql(counter);
	ListCell   *lc;

	foreach(lc, dbscale_counter_one_a_node(places))
		(void) dbscale_counter_rows_at(lfirst(lc), sql, 1, !shared);
}

bool
dbscale_counter_try_hold(const Counter *counter, List *places)
{
	char	   *sql = hold_call(counter, "pg_try_advisory_xact_lock");
	ListCell   *lc;

	foreach(lc, dbscale_counter_one_a_node(places))
	{
		List	   *rows = dbscale_counter_rows_at(lfirst(lc), sql, 1, false);

		if (((char **) linitial(rows))[0][0] != 't')
			return false;
	}
	return true;
}
