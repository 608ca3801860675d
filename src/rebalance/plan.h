/*
 * plan.h
 *		Which shards should be on another node.
 */
#ifndef DBSCALE_REBALANCE_PLAN_H
#define DBSCALE_REBALANCE_PLAN_H

#include "ddl/ddl.h"

/* One shard of a group, with the tables of all of its members, from node to node. */
typedef struct PlannedMove
{
	int			group_id;
	Oid			relation;		/* one of the group's tables, which stands for all */
	int			shard;
	NameData	from_node;
	NameData	to_node;
	int64		bytes;			/* of all tables of the shard, with their indexes */
} PlannedMove;

/*
 * What to move so that every node has its fair share (plan.c), in the order in which
 * to do it: a list of PlannedMove *, NIL when all is well.  `by` is 'bytes', 'rows',
 * 'shards' or 'load'.  Asks the nodes for sizes; an error if one does not answer.
 */
extern List *dbscale_rebalance_plan(const char *by);
/* The moves that empty the node; an error if it holds what may not leave it. */
extern List *dbscale_rebalance_drain_plan(const char *node);

/*
 * Is it time for what dbscale.auto_rebalance promises?  The setting is on, the time is
 * in dbscale.auto_rebalance_window, and there was a plan (by bytes) at this look and at
 * the one before, by the same backend: a passing peak is not chased.  To be called in a
 * transaction, with pauses (it asks all nodes for sizes; a minute is often enough).
 * Without may_look it is not, and the next look is the first.
 */
extern bool dbscale_rebalance_is_due(bool may_look);

#endif							/* DBSCALE_REBALANCE_PLAN_H */
