/*
 * ddl.h
 *		Commands on nodes and distributed tables, and DDL carried to the nodes.
 */
#ifndef DBSCALE_DDL_H
#define DBSCALE_DDL_H

#include "executor/executor.h"

/*
 * Run one command on the node that holds each shard of the table ("%s" in
 * `command` is the shard table's qualified, quoted name), in the current
 * transaction, all nodes at the same time.
 */
extern void dbscale_ddl_run_on_shards(const DistributedTable *table, const char *command);
/* Run one command on every node that is enabled, in the current transaction. */
extern void dbscale_ddl_run_on_nodes(const char *command);
/* The user whose mapping is used for DDL and maintenance on a node. */
extern Oid	dbscale_ddl_node_user(const ShardNode *node);

/*
 * Name of an index on shard N, from dbscale.index_name (recorded if new); palloc'd.
 */
extern char *dbscale_ddl_shard_index_name(Oid relid, const char *index, int shard);
extern char *dbscale_ddl_shard_table_name(const DistributedTable *table, int shard);

/* CREATE INDEX for one shard of an index of the parent; see shard_sql.c. */
extern char *dbscale_ddl_shard_index_sql(const DistributedTable *table, Oid index, int shard);

/* Adds one shard (catalog row, node tables, foreign tables) to a range or list group. */
extern int	dbscale_ddl_add_shard(Oid relation, const char *bounds_json, const char *node);

extern void dbscale_utility_init(void);	/* the ProcessUtility hook */

#endif							/* DBSCALE_DDL_H */
