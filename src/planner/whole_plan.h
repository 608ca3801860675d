/*
 * whole_plan.h
 *		The plan of a statement that is one custom scan.
 */
#ifndef DBSCALE_PLANNER_WHOLE_PLAN_H
#define DBSCALE_PLANNER_WHOLE_PLAN_H

#include "base/base.h"
#include "nodes/extensible.h"
#include "nodes/plannodes.h"

typedef struct WholePlan
{
	CustomScanMethods *methods;
	List	   *private;
	List	   *exprs;
	List	   *rtable;			/* relations whose privileges the executor checks */
	List	   *perminfos;		/* the same from 16 on */
	PlannedStmt *source;		/* plan of the rows that it takes; NULL: none */
	bool		modifies_with;	/* has a data-modifying WITH */
	bool		scrolls;		/* can go back */
} WholePlan;

/* What the statement returns: the entries of its target list, or of RETURNING. */
extern List *dbscale_visible_columns(Query *query);
extern PlannedStmt *dbscale_whole_plan(Query *query, const WholePlan *parts);

#endif							/* DBSCALE_PLANNER_WHOLE_PLAN_H */
