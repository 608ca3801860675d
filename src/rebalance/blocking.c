/*
 * blocking.c
 *		A shard's move in one transaction, which keeps readers and writers waiting.
 *
 * For sources that do not decode their log and tables whose rows have no identity.  As
 * with assign_key, all tables of the group are locked against everybody, the source's
 * tables against what is still prepared there, and everything (tables on the target,
 * rows, indexes, the source's tables dropped, the catalog) is one transaction, in two
 * phases over both nodes.  So it may be part of a larger one, and be rolled back.
 * What buffered counters have pending is folded under the locks, before the rows are
 * copied; the triggers come to the target after the rows, which were counted before.
 * Counters whose tables are not colocated: counter/carry.c, 10 and 11.
 */
#include "rebalance/internal.h"

#include "catalog/progress.h"
#include "counter/counter.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

typedef struct BlockingMove
{
	List	   *members;		/* of const DistributedTable *, referenced tables first */
	int			shard;
	const ShardNode *source;
	const ShardNode *target;
} BlockingMove;

static const TableGroup *
group_of(const BlockingMove *move)
{
	return ((const DistributedTable *) linitial(move->members))->group;
}

static RemoteConnection *
connection_for(const ShardNode *node)
{
	return dbscale_transaction_connection(node->serverid, dbscale_ddl_node_user(node), REMOTE_WRITE);
}

static void
run(const ShardNode *node, const char *sql)
{
	(void) dbscale_remote_execute(connection_for(node), sql, REMOTE_NO_PARAMS, NULL);
}

static void
run_all(const ShardNode *node, List *commands)
{
	ListCell   *lc;

	foreach(lc, commands)
		run(node, lfirst(lc));
}

/* DDL on these would change the triggers that are made. */
static void
lock_counted_with(const TableGroup *group)
{
	List	   *tables = dbscale_counter_tables_apart(group);
	ListCell   *lc;

	list_sort(tables, list_oid_cmp);
	foreach(lc, tables)
		LockRelationOid(lfirst_oid(lc), ShareUpdateExclusiveLock);
}

static List *
lock_foreign_tables(const BlockingMove *move)
{
	List	   *relids = NIL;
	ListCell   *lc;

	foreach(lc, move->members)
		relids = lappend_oid(relids, dbscale_catalog_foreign_table(lfirst(lc), move->shard));
	list_sort(relids, list_oid_cmp);
	foreach(lc, relids)
		LockRelationOid(lfirst_oid(lc), AccessExclusiveLock);
	return relids;
}

static void
check_name_is_free(const BlockingMove *move, const char *kind, const char *name)
{
	if (!cleanup_exists(NameStr(move->target->name), kind, name))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("%s \"%s\" on node \"%s\" is still to be removed", kind, name, NameStr(move->target->name)),
			 errdetail("An earlier move has left it, and a reader may still need it."),
			 errhint("The maintenance worker drops it as soon as possible; dbscale.run_cleanup() tries at once.")));
}

static void
check_target_is_free(const BlockingMove *move)
{
	const TableGroup *group = group_of(move);
	ListCell   *lc;

	foreach(lc, move->members)
		check_name_is_free(move, "table", psprintf("%s_%d", ((const DistributedTable *) lfirst(lc))->stored_name, move->shard));
	foreach(lc, dbscale_counter_objects(group, dbscale_catalog_shard(group, move->shard)))
	{
		CounterObject *object = lfirst(lc);

		check_name_is_free(move, object->kind, object->name);
	}
}

/* What counters have to do on one of the nodes. */
static void
run_counter_sql(const BlockingMove *move, const ShardNode *node, ShardMoment moment)
{
	const TableGroup *group = group_of(move);
	Shard		shard = *dbscale_catalog_shard(group, move->shard);

	shard.node = node;
	dbscale_ddl_run_shard_hook(group, &shard, moment);
}

static void
copy_member(const BlockingMove *move, const DistributedTable *member)
{
	char	   *columns = dbscale_ddl_column_list(member->relid);
	char	   *table = dbscale_ddl_shard_table_name(member, move->shard);

	run(move->target, dbscale_ddl_shard_table_sql(member, move->shard));
	dbscale_ddl_copy_rows(connection_for(move->source), psprintf("SELECT %s FROM ONLY %s", columns, table),
						  REMOTE_NO_PARAMS, connection_for(move->target),
						  psprintf("COPY %s (%s) FROM STDIN", table, columns));
	run_all(move->target, dbscale_ddl_shard_finish_sql(member, move->shard));
	run(move->target, psprintf("ANALYZE %s", table));
}

static void
copy_counter_rows(const BlockingMove *move)
{
	const TableGroup *group = group_of(move);
	ListCell   *lc;

	foreach(lc, dbscale_counter_objects(group, dbscale_catalog_shard(group, move->shard)))
	{
		CounterObject *object = lfirst(lc);

		if (object->rows == NULL)
			continue;
		dbscale_ddl_copy_rows(connection_for(move->source), object->rows, REMOTE_NO_PARAMS, connection_for(move->target),
							  psprintf("COPY %s (%s) FROM STDIN",
									   quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA, object->name), object->columns));
	}
}

static void
move_rows(const BlockingMove *move)
{
	ListCell   *lc;

	check_target_is_free(move);
	foreach(lc, move->members)
		run(move->source, psprintf("LOCK TABLE ONLY %s IN EXCLUSIVE MODE", dbscale_ddl_shard_table_name(lfirst(lc), move->shard)));
	run_counter_sql(move, move->source, SHARD_LEAVING);
	dbscale_progress_step("copying rows");
	foreach(lc, move->members)
		copy_member(move, lfirst(lc));
	dbscale_progress_step("adding foreign keys");
	foreach(lc, move->members)
		run_all(move->target, dbscale_ddl_shard_foreign_keys_sql(lfirst(lc), move->shard));
	run_counter_sql(move, move->target, SHARD_MADE);
	copy_counter_rows(move);
	for (int i = list_length(move->members) - 1; i >= 0; i--)
		run(move->source, psprintf("DROP TABLE %s CASCADE",
								   dbscale_ddl_shard_table_name(list_nth(move->members, i), move->shard)));
	run_counter_sql(move, move->source, SHARD_LEFT);
}

void
move_shard_blocking(Oid relid, int number, const char *node)
{
	BlockingMove move = {NIL, number};
	const DistributedTable *table;
	List	   *foreign_tables;

	dbscale_ddl_check_isolation("move_shard");
	table = dbscale_ddl_lock_group(relid, "move_shard");
	/* what was true before the lock may not be any more */
	move_check_arguments(relid, number, node);
	move.source = dbscale_ddl_require_shard(table, number)->node;
	move.target = dbscale_catalog_require_node(node, true);
	move.members = dbscale_ddl_order_members(table->group);
	lock_counted_with(table->group);
	foreign_tables = lock_foreign_tables(&move);
	(void) dbscale_progress_begin("move", relid, 2, 0);
	move_rows(&move);
	DEBUG_POINT("move_blocking_copied");
	placement_switch(table->group->id, number, foreign_tables, NameStr(move.target->name));
	dbscale_progress_end();
}
