/*
 * router.h
 *		The plan of a statement that one shard answers whole.
 */
#ifndef DBSCALE_PLANNER_ROUTER_H
#define DBSCALE_PLANNER_ROUTER_H

#include "planner/inference.h"
#include "nodes/plannodes.h"

/* NULL, with a reason for EXPLAIN and tests, when the statement can't be routed. */
extern PlannedStmt *dbscale_router_plan(Query *query, int cursor_options, const char **reason);

#endif							/* DBSCALE_PLANNER_ROUTER_H */
