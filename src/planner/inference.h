/*
 * inference.h
 *		Which key value the distributed tables of a statement are pinned to.
 */
#ifndef DBSCALE_INFERENCE_H
#define DBSCALE_INFERENCE_H

#include "catalog/metadata.h"
#include "nodes/parsenodes.h"

/*
 * The expression (free of columns) that every distributed table of the query, at
 * every level, has its shard key compared equal with; NULL when there is no such
 * expression.  All tables must be of one group.
 */
extern Expr *dbscale_infer_key(Query *query);

/* True when the expression mentions no column, subquery or aggregate. */
extern bool dbscale_is_row_free(Node *node);

#endif							/* DBSCALE_INFERENCE_H */
