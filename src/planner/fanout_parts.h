/*
 * fanout_parts.h
 *		The sides of a level's joins, each as a query of its own.
 */
#ifndef DBSCALE_PLANNER_FANOUT_PARTS_H
#define DBSCALE_PLANNER_FANOUT_PARTS_H

#include "planner/fanout.h"

typedef struct Part
{
	List	   *units;			/* of join tree nodes */
	Bitmapset  *members;		/* range table positions in them */
	List	   *conditions;		/* that mention no other table */
	Query	   *query;			/* the subquery it becomes */
	List	   *attnos;			/* of List (varno, attno), in the order of its columns */
	double		rows;			/* as expected; -1: not known yet */
	Index		rti;			/* where it stands in the level */
	bool		placed;			/* in the join tree already */
	bool		local;			/* shards know nothing of it, and it stays as it is */
} Part;

/* What plain (inner) joins join, and on which conditions. */
extern void parts_add_units(Node *node, List **units, List **conditions);
/* Positions of the entries in a unit, those of joins included. */
extern Bitmapset *parts_members_of(Node *node);
extern Bitmapset *parts_members_of_all(List *units);
/* Parts that can be pushed down; units that cannot are left over. */
extern List *parts_make(Query *level, List *units, List *conditions, List **left_over);
extern bool parts_is_placeable(Query *level, List *units, Bitmapset *members, List *conditions);
/* Units of one part, with those of the conditions that are its own. */
extern Part *parts_make_one(Query *level, List *units, List *conditions);
/* The same of units that no shard has a part of; NULL if they do not stand by themselves. */
extern Part *parts_make_local(Query *level, List *units, List *conditions);
extern void parts_fill(Part *part, Query *level, List *conditions);
extern Part *parts_find(List *parts, int varno);
extern bool parts_are_connected(List *conditions, Bitmapset *a, Bitmapset *b);
/* The query, whose columns of the parts become the parts' columns; NULL if one cannot. */
extern Query *parts_use(Query *query, List *parts);
/* Is the first small enough to be sent to where the second is? */
extern bool parts_is_small_beside(Part *small, Part *big);
/* A copy of a condition of theirs that no join of others is between. */
extern Node *parts_keep_joins(Node *condition, Bitmapset *members);
/* Does the condition compare values that can be sent as an array? */
extern bool parts_can_filter(const OpExpr *op);
/* What stands for the part's column in its own query. */
extern Expr *parts_expression(Part *part, Var *var);
/* column = ANY (ARRAY(SELECT value FROM small)): see fanout_join.c. */
extern Node *parts_filter(const OpExpr *op, Expr *column, Part *small, Expr *value);
/* Has it a LATERAL item? */
extern bool parts_look_aside(Query *query);
/* Can the level be taken apart at all? */
extern bool parts_can_be_made(Query *query);
/* Joins that are in parts, or taken apart, list columns that nobody asks for here. */
extern void parts_blank_joins(Query *query, List *kept_units);

#endif							/* DBSCALE_PLANNER_FANOUT_PARTS_H */
