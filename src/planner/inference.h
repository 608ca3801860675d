/*
 * inference.h
 *		Which key value the distributed tables of a statement are pinned to.
 */
#ifndef DBSCALE_INFERENCE_H
#define DBSCALE_INFERENCE_H

#include "catalog/metadata.h"
#include "nodes/bitmapset.h"
#include "nodes/parsenodes.h"

/*
 * The expression (free of columns) that every distributed table of the query, at
 * every level, has its shard key compared equal with; NULL when there is no such
 * expression.  All tables must be of one group.
 */
extern Expr *dbscale_infer_key(Query *query);

/* What each shard can answer of a query by itself, the shards' rows together being all. */
typedef struct Colocation
{
	const TableGroup *group;
	Oid			table;			/* one of its tables, whose rows decide where a row is found */
	Bitmapset  *keys_of;		/* entries whose shard key is the same, and the shard's, on every row; none
								 * where a FULL join is in their place */
	List	   *values;			/* of marks or row-free expressions that the key is one of, an array standing
								 * for its elements; NIL: any */
} Colocation;

/* False when rows of one shard may meet rows of another. */
extern bool dbscale_infer_colocation(Query *query, Colocation *result);

/* What a condition compares the shard key of the table written with; NULL if it doesn't. */
extern Node *dbscale_infer_compared_key(Query *query, Node *condition);

/*
 * Places for what is computed before the shards are asked: Params of this number and up, and of
 * kind PARAM_SUBLINK (fanout_subquery.c).
 */
#define DBSCALE_FIRST_MARK 1000000
extern bool dbscale_is_mark(Node *node);

/* True when the expression mentions no column, subquery or aggregate. */
extern bool dbscale_is_row_free(Node *node);

#endif							/* DBSCALE_INFERENCE_H */
