/*
 * ship.h
 *		What a statement must be for a node to run it.
 */
#ifndef DBSCALE_PLANNER_SHIP_H
#define DBSCALE_PLANNER_SHIP_H

#include "catalog/metadata.h"
#include "nodes/parsenodes.h"

/* When PostgreSQL would compute an expression that mentions no row: see extract.c. */
typedef enum ComputedWhen
{
	COMPUTED_ALWAYS,
	COMPUTED_FOR_ROWS,
	COMPUTED_IN_BRANCH
} ComputedWhen;

typedef struct Shipment
{
	const char *reason;			/* why not; NULL so far */
	bool		reference_too;	/* reference tables may be named */
	List	   *relations;		/* OIDs of the tables met */
	List	   *rtable;			/* relations whose privileges the executor checks */
	List	   *perminfos;		/* the same from 16 on */
	bool		locks_rows;
	bool		seen_user;
	Oid			check_as_user;
	bool		writes_too;		/* data-modifying WITH may be there */
	bool		single_row;		/* INSERT … VALUES of one row: volatile is computed here too */
	bool		literals_too;	/* constants that a plan hardly depends on become parameters */
	bool		eager;			/* only shards can do it: early rather than not at all */
	const Query *level;			/* whose expressions are looked at */
	ComputedWhen when;
	List	   *params;			/* expressions of the remote statement's parameters */
} Shipment;

/* 18 has an entry for grouped expressions, which printing does not need: a copy without. */
extern Query *dbscale_ship_normalize(Query *query);
/* True, with the reason, when a query's or a subquery's kind or FROM is not for nodes. */
extern bool dbscale_ship_check(Node *node, Shipment *shipment);
/* True when the query, at any level, names a distributed table; a walker. */
extern bool dbscale_ship_names_distributed(Node *node, void *context);
/* A copy with what mentions no row taken out into `params`. */
extern Node *dbscale_ship_extract(Node *node, Shipment *shipment);
/* The same of a condition as in WHERE. */
extern Node *dbscale_ship_extract_condition(Node *node, Shipment *shipment);
/* A parameter of a node's statement with its collation, if that is not its type's. */
extern Node *dbscale_ship_collated(Param *param);
extern Node *dbscale_ship_without_collation(Node *node);
/* Constants that it writes become parameters as well. */
extern void dbscale_ship_extract_written(Query *query, Shipment *shipment);
/* Which operand, 0 or 1, is a constant that a column is compared equal with; -1: none. */
extern int	dbscale_ship_compared_literal(OpExpr *op);
/* Does the statement write its target list, rather than rows from elsewhere? */
extern bool dbscale_ship_writes_literals(const Query *query);
/* The constant that the column is set to; NULL: something else. */
extern Const *dbscale_ship_written_literal(const TargetEntry *tle);
/* True, with the reason, when something in it is not certain to mean the same on a node. */
extern bool dbscale_ship_find_local(Node *node, Shipment *shipment);

/* An entry of the range table that is nothing now; its position stays. */
extern void dbscale_blank_entry(RangeTblEntry *rte);
/* unnest() of an array, for a range table entry of several such functions. */
extern RangeTblFunction *dbscale_unnest_function(Node *array, Oid element, Oid collation);

/* Every node has it, under the same name and with the same meaning. */
extern bool dbscale_ship_is_builtin(Oid oid);
/* Its values are names of this database's objects, or it is of this database itself. */
extern bool dbscale_ship_is_local_type(Oid type);
/* Values of an enum travel by their labels, which the column's type has on the node too. */
extern bool dbscale_ship_is_enum(Oid type);

#endif							/* DBSCALE_PLANNER_SHIP_H */
