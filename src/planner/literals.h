/*
 * literals.h
 *		The constants of a query, taken out of it and put back.
 */
#ifndef DBSCALE_PLANNER_LITERALS_H
#define DBSCALE_PLANNER_LITERALS_H

#include "base/base.h"
#include "nodes/parsenodes.h"
#include "nodes/primnodes.h"

/* More than these stay where they are. */
#define MAX_LITERALS 32

typedef struct Literals
{
	int			count;			/* of places */
	Node	  **places[MAX_LITERALS];
	Node	   *originals[MAX_LITERALS];	/* what stood there */
	int			nvalues;		/* of different values */
	Const	   *values[MAX_LITERALS];
} Literals;

/* In place.  Until they are put back the query is a statement with parameters. */
extern void dbscale_literals_lift(Query *query, Literals *literals);
extern void dbscale_literals_put_back(const Literals *literals);
/* The list with the values for their parameters. */
extern List *dbscale_literals_fill(const Literals *literals, List *exprs);

#endif							/* DBSCALE_PLANNER_LITERALS_H */
