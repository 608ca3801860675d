/*
 * fallback.h
 *		Why a table is read or written through its foreign tables: told in EXPLAIN.
 */
#ifndef DBSCALE_PLANNER_FALLBACK_H
#define DBSCALE_PLANNER_FALLBACK_H

#include "catalog/metadata.h"
#include "nodes/plannodes.h"

/* The list with the reason for those distributed tables of the level that have none yet. */
extern List *dbscale_fallback_note(List *reasons, Query *query, const char *reason);
/* The same of the statement's levels. */
extern List *dbscale_fallback_note_all(List *reasons, Query *query, const char *reason);

/* Put the reasons into the plan's foreign scans. */
extern void dbscale_fallback_tell(PlannedStmt *plan, List *reasons);

#endif							/* DBSCALE_PLANNER_FALLBACK_H */
