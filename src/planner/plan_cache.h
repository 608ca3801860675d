/*
 * plan_cache.h
 *		Plans of routed statements that were planned before.
 */
#ifndef DBSCALE_PLANNER_PLAN_CACHE_H
#define DBSCALE_PLANNER_PLAN_CACHE_H

#include "base/base.h"
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"

/* A statement over distributed tables, with no query in it: then plan it by the next. */
extern bool dbscale_plan_cache_takes(Query *query, int cursor_options);
/* The router's plan; NULL, with a reason, when the statement can't be routed. */
extern PlannedStmt *dbscale_plan_cache_route(Query *query, const char **reason);

#endif							/* DBSCALE_PLANNER_PLAN_CACHE_H */
