/*
 * inference_slots.h
 *		Slots and edges, between the files of key inference only.
 */
#ifndef DBSCALE_PLANNER_INFERENCE_SLOTS_H
#define DBSCALE_PLANNER_INFERENCE_SLOTS_H

#include "planner/inference.h"

typedef struct Slot
{
	Query	   *query;
	Index		rti;			/* 0: of a row that MERGE inserts, or of no name */
	AttrNumber	attno;
	bool		is_table;		/* the key of a table's rows, or of a row to be inserted */
	Expr	   *pin;			/* NULL: not pinned (yet) */
	List	   *made_of;		/* of int: the slots that, all pinned alike, pin this one */
	bool		may_be_null;	/* pinned or not: an outer join of a subquery fills it */
} Slot;

typedef struct Edge
{
	int			from;			/* slots */
	int			to;
} Edge;

typedef struct Inference
{
	List	   *slots;			/* of Slot * */
	List	   *edges;			/* of Edge * */
	List	   *full_edges;		/* of Edge *: see add_full_edges */
	Bitmapset  *full_joins;		/* range table indexes of their joins */
	const TableGroup *group;
	Oid			opfamily;		/* for hash and directory groups */
	List	   *levels;			/* enclosing queries, innermost first */
	bool		impossible;		/* tables of two groups, or a contradiction */
	bool		in_recursion;	/* WITH RECURSIVE may be followed: see add_recursion_slot */
	List	   *recursions;		/* of Recursion * */
} Inference;

/* A column of WITH RECURSIVE. */
typedef struct Recursion
{
	int			column;			/* slot, made of what the rows are that it starts from */
	List	   *steps;			/* of int: what it is made of in the rows that follow */
} Recursion;

extern int	dbscale_infer_add_slot(Inference *inf, Query *query, Index rti, AttrNumber attno, bool is_table);
/* A pin of the first restricts the second. */
extern void dbscale_infer_connect(Inference *inf, int from, int to);
/* Range table positions that an outer join may fill with NULLs. */
extern Bitmapset *dbscale_infer_nullable_entries(Node *jointree);

/*
 * Position of the slot that the expression is, or -1: a table's key, or a column that is
 * made of others, for which a slot is added.  Levels are the queries around it, innermost first.
 */
extern int	dbscale_infer_find_slot(Inference *inf, Node *node, List *levels);
/* Does each row that follows in a recursion have what it was taken to have? */
extern bool dbscale_infer_recursions_hold(Inference *inf);

#endif							/* DBSCALE_PLANNER_INFERENCE_SLOTS_H */
