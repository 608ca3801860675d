/*
 * ddl.h
 *		Commands on nodes and distributed tables, and DDL carried to the nodes.
 */
#ifndef DBSCALE_DDL_H
#define DBSCALE_DDL_H

#include "executor/executor.h"

/*
 * Commands that dbscale gives itself on the coordinator (internal.c).  While
 * dbscale_ddl_internal is not 0 the utility hook lets everything pass; who runs
 * SPI commands of his own counts it up in PG_TRY and down in PG_FINALLY.
 */
extern int	dbscale_ddl_internal;
/* search_path = pg_catalog, pg_temp until AtEOXact_GUC(true, result). */
extern int	dbscale_ddl_set_safe_path(void);
/* Run a command as the current user, or as the extension's owner; returns the rows processed. */
extern uint64 dbscale_ddl_execute(const char *sql);
extern uint64 dbscale_ddl_execute_as_owner(const char *sql);
/* First column of the first row as palloc'd text, or NULL. */
extern char *dbscale_ddl_query_value(const char *sql);

/* Create the copies of all reference tables on a node that has just been added. */
extern void dbscale_ddl_copy_references_to(const ShardNode *node);

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
