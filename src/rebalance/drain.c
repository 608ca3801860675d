/*
 * drain.c
 *		Jobs that are made of moves: drain_node and rebalance.
 *
 * Both only write rows: one of the whole, one for each move, which waits.  What they
 * return can be seen in dbscale.jobs and waited for when the transaction has
 * committed, and from then on the maintenance worker runs the moves, so many at a time
 * as dbscale.max_moves says.  The shards of a node that is drained go, one by one, to
 * the node that has the fewest of the same table group, and of these to the one that has
 * the fewest in all.
 */
#include "rebalance/internal.h"

#include "catalog/pg_authid.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

DBSCALE_FUNCTION(dbscale_drain_node);
DBSCALE_FUNCTION(dbscale_rebalance);

/* How many shards a node has, moves that are planned included. */
typedef struct NodeLoad
{
	const ShardNode *node;
	int			in_group;
	int			in_all;
} NodeLoad;

static int64
insert_parent(const char *kind, int steps)
{
	int64		job = nextval_internal(dbscale_relation_oid("job_job_seq"), false);

	(void) dbscale_ddl_execute_as_owner(
		psprintf("INSERT INTO dbscale.job (job, kind, state, steps, finished_at, requested_by)"
				 " VALUES (" INT64_FORMAT ", %s, %s, %d, %s, %s)", job, quote_literal_cstr(kind),
				 steps > 0 ? "'running'" : "'done'", steps, steps > 0 ? "NULL" : "clock_timestamp()",
				 quote_literal_cstr(GetUserNameFromId(GetUserId(), false))));
	return job;
}

static void
insert_step(int64 parent, Oid relid, int shard, const char *from, const char *to)
{
	(void) dbscale_ddl_execute_as_owner(
		psprintf("INSERT INTO dbscale.job (kind, relation, state, started_at, parent, relation_id, shard, from_node, to_node, requested_by)"
				 " VALUES ('move', %s, 'waiting', NULL, " INT64_FORMAT ", %u, %d, %s, %s, %s)",
				 quote_literal_cstr(quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
															   get_rel_name(relid))),
				 parent, relid, shard, quote_literal_cstr(from), quote_literal_cstr(to),
				 quote_literal_cstr(GetUserNameFromId(GetUserId(), false))));
}

/* ---- drain ---- */

/* One table for each group. */
static List *
groups(void)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, dbscale_catalog_tables())
	{
		const DistributedTable *table = lfirst(lc);

		if (table->group != NULL && linitial_oid(table->group->tables) == table->relid)
			result = lappend(result, (void *) table);
	}
	return result;
}

/* The nodes that shards can go to, with what they have. */
static List *
targets_beside(const ShardNode *drained)
{
	List	   *loads = NIL;
	ListCell   *lc,
			   *lc2;

	foreach(lc, dbscale_catalog_nodes())
	{
		const ShardNode *node = lfirst(lc);
		NodeLoad   *load;

		if (node == drained || !node->enabled || node->draining)
			continue;
		load = palloc0(sizeof(NodeLoad));
		load->node = node;
		foreach(lc2, groups())
		{
			const TableGroup *group = ((DistributedTable *) lfirst(lc2))->group;

			for (int i = 0; i < group->nshards; i++)
				load->in_all += group->shards[i].node == node;
		}
		loads = lappend(loads, load);
	}
	return loads;
}

static NodeLoad *
emptiest(List *loads)
{
	NodeLoad   *best = linitial(loads);
	ListCell   *lc;

	foreach(lc, loads)
	{
		NodeLoad   *load = lfirst(lc);

		if (load->in_group < best->in_group ||
			(load->in_group == best->in_group && load->in_all < best->in_all))
			best = load;
	}
	return best;
}

static void
check_pinned(const ShardNode *node)
{
	ListCell   *lc;

	foreach(lc, groups())
	{
		const DistributedTable *table = lfirst(lc);

		for (int i = 0; i < table->group->nshards; i++)
			if (table->group->shards[i].node == node && table->group->shards[i].pinned)
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("node \"%s\" cannot be drained", NameStr(node->name)),
						 errdetail("Shard %d of table \"%s\" is pinned to it.", table->group->shards[i].number,
								   get_rel_name(table->relid)),
						 errhint("Rows of a pinned shard never leave their node.")));
	}
}

static int
count_shards(const ShardNode *node)
{
	int			count = 0;
	ListCell   *lc;

	foreach(lc, groups())
	{
		const TableGroup *group = ((DistributedTable *) lfirst(lc))->group;

		for (int i = 0; i < group->nshards; i++)
			count += group->shards[i].node == node;
	}
	return count;
}

static void
plan_drain(int64 job, const ShardNode *node, List *loads)
{
	ListCell   *lc,
			   *lc2;

	foreach(lc, groups())
	{
		const DistributedTable *table = lfirst(lc);
		const TableGroup *group = table->group;

		foreach(lc2, loads)
		{
			NodeLoad   *load = lfirst(lc2);

			load->in_group = 0;
			for (int i = 0; i < group->nshards; i++)
				load->in_group += group->shards[i].node == load->node;
		}
		for (int i = 0; i < group->nshards; i++)
		{
			NodeLoad   *to;

			if (group->shards[i].node != node)
				continue;
			to = emptiest(loads);
			to->in_group++;
			to->in_all++;
			insert_step(job, table->relid, group->shards[i].number, NameStr(node->name), NameStr(to->node->name));
		}
	}
}

/* drain_node(node name) → job */
Datum
dbscale_drain_node(PG_FUNCTION_ARGS)
{
	const ShardNode *node;
	List	   *loads;
	int			shards;
	int64		job;

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to drain a node"),
				 errdetail("Only a superuser may change nodes.")));
	(void) dbscale_ddl_execute("LOCK TABLE dbscale.node, dbscale.shard IN SHARE ROW EXCLUSIVE MODE");
	node = dbscale_catalog_require_node(NameStr(*PG_GETARG_NAME(0)), true);
	check_pinned(node);
	shards = count_shards(node);
	loads = targets_beside(node);
	if (shards > 0 && loads == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there is no node to which the shards of node \"%s\" could go", NameStr(node->name)),
				 errdetail("No other node is enabled and not being drained."),
				 errhint("Add one with dbscale.add_node() or dbscale.add_local_node().")));
	job = insert_parent("drain", shards);
	plan_drain(job, node, loads);
	(void) dbscale_ddl_execute_as_owner(psprintf("UPDATE dbscale.node SET state = 'draining' WHERE node = %s",
												 quote_literal_cstr(NameStr(node->name))));
	PG_RETURN_INT64(job);
}

/* ---- rebalance ---- */

/* rebalance(by text) → job: the moves of rebalance_plan(by) */
Datum
dbscale_rebalance(PG_FUNCTION_ARGS)
{
	List	   *plan = dbscale_ddl_query_rows(
		psprintf("SELECT relation::oid, shard, from_node, to_node FROM dbscale.rebalance_plan(%s) ORDER BY step",
				 quote_literal_cstr(text_to_cstring(PG_GETARG_TEXT_PP(0)))));
	int64		job;
	ListCell   *lc;

	foreach(lc, plan)
		dbscale_ddl_check_owner(dbscale_catalog_require_distributed(atooid(((char **) lfirst(lc))[0]))->group);
	job = insert_parent("rebalance", list_length(plan));
	foreach(lc, plan)
	{
		char	  **row = lfirst(lc);

		insert_step(job, atooid(row[0]), atoi(row[1]), row[2], row[3]);
	}
	PG_RETURN_INT64(job);
}
