/*
 * premake.c
 *		The next ranges of tables distributed by range, made ahead of time.
 *
 * A table distributed by range with a step always has dbscale.premake_ranges empty
 * ranges behind its last row.  For keys that are dates or times an empty range
 * counts only if it lies in the future, so the ranges go on with the clock even when
 * nothing is written: with step '1 month' and two ranges to premake, in the middle
 * of May there are June and July.  (A table whose ranges ended more than 100 steps
 * ago is history, which nobody means to continue up to now.)
 *
 * One range is made in one transaction, and waits for the lock on the table no
 * longer than a second: who waits for that lock makes all that come after him wait.
 */
#include "worker/registry.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "transaction/transaction.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#define MAX_RANGES_A_RUN 128
#define HISTORY_STEPS 100

/* What an attempt is told, and what it found. */
typedef struct Premake
{
	int			group_id;
	bool		added;
} Premake;

typedef struct Range
{
	int			shard;
	bool		is_future;		/* begins later than now; always true for numbers */
} Range;

/* The ranges of a group, the last first. */
typedef struct Ranges
{
	int			count;
	Range	   *ranges;
	char	   *next;			/* bounds of the one to come, as JSON; NULL: there is none */
} Ranges;

static bool
is_datetime(Oid type)
{
	return type == DATEOID || type == TIMESTAMPOID || type == TIMESTAMPTZOID;
}

/*
 * Ranges by their upper ends, and the next one's bounds.  An upper end that is NULL
 * or infinite leaves nothing to make, and the cast fails for none of them.
 */
static char *
ranges_query(const TableGroup *group)
{
	const char *type = format_type_be_qualified(group->key_type);
	StringInfoData sql;

	initStringInfo(&sql);
	if (is_datetime(group->key_type))
		appendStringInfo(&sql,
						 "SELECT shard, lower > now() OR (upper + %d * $2::interval) < now(), "
						 "CASE WHEN isfinite(upper) THEN json_build_object('from', upper::text, 'to', ((upper + $2::interval)::%s)::text)::text END ",
						 HISTORY_STEPS, type);
	else
		appendStringInfo(&sql,
						 "SELECT shard, true, json_build_object('from', upper::text, 'to', ((upper + $2::numeric)::%s)::text)::text ",
						 type);
	appendStringInfo(&sql,
					 "FROM (SELECT shard, (bounds->>'from')::%s AS lower, (bounds->>'to')::%s AS upper "
					 "FROM dbscale.shard WHERE group_id = $1) s ORDER BY upper DESC NULLS FIRST",
					 type, type);
	return sql.data;
}

/* In the current memory context, which must not be SPI's. */
static Ranges
read_ranges(const TableGroup *group)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {INT4OID, TEXTOID};
	Datum		values[] = {Int32GetDatum(group->id), CStringGetTextDatum(group->step)};
	Ranges		result = {0};

	SPI_connect();
	if (SPI_execute_with_args(ranges_query(group), 2, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read ranges");
	result.count = SPI_processed;
	result.ranges = MemoryContextAlloc(context, sizeof(Range) * (SPI_processed + 1));
	for (int i = 0; i < result.count; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;

		result.ranges[i].shard = DatumGetInt32(SPI_getbinval(tuple, desc, 1, &isnull));
		result.ranges[i].is_future = DatumGetBool(SPI_getbinval(tuple, desc, 2, &isnull));
		if (i == 0)
		{
			char	   *next = SPI_getvalue(tuple, desc, 3);

			result.next = next ? MemoryContextStrdup(context, next) : NULL;
		}
	}
	SPI_finish();
	return result;
}

/* Whether any table of the group has a row in this shard. */
static bool
shard_has_rows(const TableGroup *group, int number)
{
	const Shard *shard = dbscale_catalog_shard(group, number);
	ListCell   *cell;

	if (shard == NULL)
		return true;
	foreach(cell, group->tables)
	{
		const DistributedTable *table = dbscale_catalog_table(lfirst_oid(cell));
		RemoteConnection *conn;
		char	   *value;

		if (table == NULL)
			continue;
		conn = dbscale_transaction_connection(shard->node->serverid,
											  dbscale_ddl_node_user(shard->node), REMOTE_READ);
		value = dbscale_remote_query_value(conn,
										   psprintf("SELECT EXISTS (SELECT FROM %s)",
													dbscale_ddl_shard_table_name(table, number)),
										   REMOTE_NO_PARAMS);
		if (value && value[0] == 't')
			return true;
	}
	return false;
}

/* From the last range back: are enough of them empty and in the future? */
static bool
has_enough_ranges(const TableGroup *group, const Ranges *ranges)
{
	for (int i = 0; i < ranges->count && i < dbscale_premake_ranges; i++)
	{
		if (!ranges->ranges[i].is_future || shard_has_rows(group, ranges->ranges[i].shard))
			return false;
	}
	return ranges->count >= dbscale_premake_ranges;
}

/* Make one range if one is missing. */
static void
premake_range(void *arg)
{
	Premake    *premake = arg;
	const TableGroup *group = dbscale_catalog_group(premake->group_id);
	Ranges		ranges;

	premake->added = false;
	if (group == NULL || group->tables == NIL)
		return;
	(void) set_config_option("lock_timeout", "1s", PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	ranges = read_ranges(group);
	if (ranges.next == NULL || has_enough_ranges(group, &ranges))
		return;
	(void) dbscale_ddl_add_shard(linitial_oid(group->tables), ranges.next, NULL);
	premake->added = true;
}

typedef struct GroupList
{
	MemoryContext context;
	List	   *groups;			/* ids of groups with a step */
	List	   *names;			/* a table of each, for messages */
} GroupList;

static void
list_groups(void *arg)
{
	GroupList  *list = arg;
	ListCell   *cell;

	foreach(cell, dbscale_catalog_tables())
	{
		const DistributedTable *table = lfirst(cell);
		MemoryContext previous;
		char	   *name;

		if (table->is_reference || table->group->strategy != SHARD_RANGE ||
			table->group->step == NULL || list_member_int(list->groups, table->group->id))
			continue;
		name = get_rel_name(table->relid);
		if (name == NULL)
			continue;
		previous = MemoryContextSwitchTo(list->context);
		list->groups = lappend_int(list->groups, table->group->id);
		list->names = lappend(list->names, pstrdup(name));
		MemoryContextSwitchTo(previous);
	}
}

void
dbscale_premake_task(void)
{
	GroupList	list = {CurrentMemoryContext, NIL, NIL};
	ListCell   *group;
	ListCell   *name;

	if (dbscale_premake_ranges == 0)
		return;
	dbscale_maintenance_attempt("catalog", "table_group", list_groups, &list);
	forboth(group, list.groups, name, list.names)
	{
		Premake		premake = {lfirst_int(group), true};

		for (int i = 0; i < MAX_RANGES_A_RUN && premake.added; i++)
		{
			if (!dbscale_maintenance_attempt("premaking ranges", lfirst(name),
											 premake_range, &premake))
				break;
		}
	}
}
