/*
 * placement.c
 *		On which nodes new shards are put.
 *
 * Shards are dealt out one by one, each to the node that would then have the fewest
 * shards of the group for its capacity: so the node that is fullest in the end is as
 * little full as it can be, and a group's shards, which are written and read together,
 * are on all nodes.  Among equals the node is taken that has the fewest shards of all
 * groups for its capacity, or tables of one shard would all be on one node; and then the
 * first.  With equal capacities and nodes equally full that is one after the other.
 *
 *		capacities 1, 1, 2 and 8 shards of a group: 2, 2, 4
 *
 * Bytes play no part, since a new shard has none, and the nodes need not be asked: what
 * rebalance_plan finds later is a matter of what is in the shards.
 */
#include "ddl/ddl.h"

#include "utils/builtins.h"

typedef struct PlacementNode
{
	NameData	name;
	double		capacity;
	int			of_group;		/* shards */
	int			of_all;			/* shards of all groups, those too */
} PlacementNode;

struct ShardPlacement
{
	int			count;
	PlacementNode *nodes;
};

void
dbscale_placement_put(ShardPlacement *placement, const char *node)
{
	for (int i = 0; i < placement->count; i++)
	{
		if (strcmp(NameStr(placement->nodes[i].name), node) != 0)
			continue;
		placement->nodes[i].of_group++;
		placement->nodes[i].of_all++;
	}
}

static void
count_group(ShardPlacement *placement, const TableGroup *group, bool is_ours)
{
	for (int i = 0; i < group->nshards; i++)
	{
		for (int n = 0; n < placement->count; n++)
		{
			PlacementNode *node = &placement->nodes[n];

			if (strcmp(NameStr(node->name), NameStr(group->shards[i].node->name)) != 0)
				continue;
			node->of_all++;
			node->of_group += is_ours;
		}
	}
}

static void
count_shards(ShardPlacement *placement, int group_id)
{
	List	   *seen = NIL;
	ListCell   *lc;

	foreach(lc, dbscale_catalog_tables())
	{
		const TableGroup *group = ((const DistributedTable *) lfirst(lc))->group;

		if (group == NULL || list_member_int(seen, group->id))
			continue;
		seen = lappend_int(seen, group->id);
		count_group(placement, group, group->id == group_id);
	}
}

ShardPlacement *
dbscale_placement_begin(int group_id)
{
	ShardPlacement *placement = palloc0(sizeof(ShardPlacement));
	List	   *nodes = dbscale_catalog_nodes();
	ListCell   *lc;

	placement->nodes = palloc0(sizeof(PlacementNode) * Max(list_length(nodes), 1));
	foreach(lc, nodes)
	{
		const ShardNode *node = lfirst(lc);
		PlacementNode *to;

		if (!node->enabled || node->draining)
			continue;
		to = &placement->nodes[placement->count++];
		to->name = node->name;
		to->capacity = node->capacity;
	}
	count_shards(placement, group_id);
	return placement;
}

static bool
is_emptier(const PlacementNode *a, const PlacementNode *b)
{
	/* multiplied, not divided: capacities that are equal must give equal numbers */
	double		then_a = (a->of_group + 1) * b->capacity;
	double		then_b = (b->of_group + 1) * a->capacity;

	if (then_a != then_b)
		return then_a < then_b;
	return a->of_all * b->capacity < b->of_all * a->capacity;
}

const char *
dbscale_placement_next(ShardPlacement *placement)
{
	PlacementNode *best = NULL;

	if (placement->count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there is no node that can hold shards"),
				 errdetail("No node is enabled and not being drained."),
				 errhint("Add one with dbscale.add_node() or dbscale.add_local_node().")));
	for (int i = 0; i < placement->count; i++)
		if (best == NULL || is_emptier(&placement->nodes[i], best))
			best = &placement->nodes[i];
	best->of_group++;
	best->of_all++;
	return NameStr(best->name);
}
