/*
 * write.h
 *		The plan of a statement that writes to many shards, each its own part.
 */
#ifndef DBSCALE_PLANNER_WRITE_H
#define DBSCALE_PLANNER_WRITE_H

#include "base/base.h"
#include "nodes/params.h"
#include "nodes/plannodes.h"

/* Why a shard cannot do what the statement, or a part of it in WITH, writes; else NULL. */
extern const char *dbscale_write_check(Query *query);
/* Make it a statement for a shard's table; changes the query. */
extern void dbscale_write_adapt(Query *query);

/* Is it, or a part of it in WITH, one of those that only shards can do? */
extern bool dbscale_write_is_for_shards(Query *query);

/* How the rows that a write takes are planned. */
typedef PlannedStmt *(*SourcePlanner) (Query *query, ParamListInfo params);

/* NULL, with a reason, when the shards cannot do it by themselves. */
extern PlannedStmt *dbscale_write_plan(Query *query, ParamListInfo params, SourcePlanner plan_source,
									   const char **reason);

#endif							/* DBSCALE_PLANNER_WRITE_H */
