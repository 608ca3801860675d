/*
 * wrapper.h
 *		dbscale_fdw: postgres_fdw's planner over dbscale's executor callbacks.
 */
#ifndef DBSCALE_WRAPPER_H
#define DBSCALE_WRAPPER_H

#include "transaction/transaction.h"
#include "routing/routing.h"
#include "access/tupdesc.h"
#include "executor/tuptable.h"
#include "utils/rel.h"

/*
 * Bulk load into the shards of one table, used by COPY and INSERT through the
 * parent and by distribute_table: rows are encoded for COPY, buffered by shard and
 * streamed to all nodes at the same time.  Memory is bounded by
 * dbscale.copy_buffer_size per shard.
 */
typedef struct ShardLoader ShardLoader;

/* `rel` gives the columns (generated ones are left to the node). */
extern ShardLoader *dbscale_loader_begin(Relation rel, Oid userid);
/* Add a row to one shard table: `foreign_table` says which and where. */
extern void dbscale_loader_add(ShardLoader *loader, Oid foreign_table, TupleTableSlot *slot);
extern void dbscale_loader_flush(ShardLoader *loader);
extern void dbscale_loader_end(ShardLoader *loader);	/* flushes and waits; raises errors */

extern void dbscale_executor_init(void);

#endif							/* DBSCALE_WRAPPER_H */
