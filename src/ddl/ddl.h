/*
 * ddl.h
 *		Commands on nodes and distributed tables, and DDL carried to the nodes.
 */
#ifndef DBSCALE_DDL_H
#define DBSCALE_DDL_H

#include "executor/wrapper.h"
#include "nodes/bitmapset.h"

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
/* All rows of a query: a list of char **, one string (NULL for SQL NULL) a column. */
extern List *dbscale_ddl_query_rows(const char *sql);

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
/*
 * One command of many (batch.c): sent to the node in its remote transaction, not
 * waited for until finish, so that all nodes work at the same time.  `label` names
 * the shard or table in errors, or is NULL.
 */
extern List *dbscale_ddl_send(List *batch, const ShardNode *node, const char *sql, const char *label);
extern void dbscale_ddl_finish(List *batch);
/* The user whose mapping is used for DDL and maintenance on a node. */
extern Oid	dbscale_ddl_node_user(const ShardNode *node);

/* Commands on the rows of a whole group (group.c). */

/* An error unless the current user owns all tables of the group. */
extern void dbscale_ddl_check_owner(const TableGroup *group);
/* AccessExclusiveLock on them all, for their owner; the catalog as it is then. */
extern const DistributedTable *dbscale_ddl_lock_group(Oid relid, const char *command);
/* An error in a transaction that keeps one snapshot. */
extern void dbscale_ddl_check_isolation(const char *command);
extern const Shard *dbscale_ddl_require_shard(const DistributedTable *table, int number);
/*
 * The group's tables (const DistributedTable *), each after those it references.  Tables
 * that reference each other in a circle come last as they are: only deferred
 * constraints allow these.
 */
extern List *dbscale_ddl_order_members(const TableGroup *group);
/* A query's rows into a COPY FROM STDIN in text format on another connection. */
extern void dbscale_ddl_copy_rows(RemoteConnection *from, const char *query, const RemoteParams *params,
								  RemoteConnection *to, const char *copy);

/*
 * A key to a shard, with its rows, in the current transaction (assign_key.c); the key as
 * a value of this type, or as text.  check_directory: an error for tables without one.
 */
extern void dbscale_ddl_assign_key(Oid relid, Datum value, Oid type, int shard);
extern void dbscale_ddl_check_directory(Oid relid);

/* Before a table is touched (checks.c): opens it, locked, for its owner alone. */
extern Relation dbscale_ddl_open_for_command(Oid relid, const char *command);
extern Relation dbscale_ddl_open_to_convert(Oid relid, const char *command, bool to_shards);
/* Errors for what cannot be distributed on this key, or (key 0) as a reference table. */
extern void dbscale_ddl_check_table(Relation rel, AttrNumber key);
extern AttrNumber dbscale_ddl_check_key(Relation rel, const char *name, ShardStrategy strategy);
/* OIDs of the table's own foreign key constraints. */
extern List *dbscale_ddl_foreign_keys_of(Oid relid);

/* Names on the nodes (shard_names.c). */

/*
 * The name (bare, not quoted) of an index on shard N, from dbscale.index_name,
 * where it is recorded if new.  shard -1: the index of a reference table's copies.
 */
extern char *dbscale_ddl_shard_index_name(Oid relid, const char *index, int shard);
/* The qualified, quoted name of shard N's table; shard -1: of a reference table's copy. */
extern char *dbscale_ddl_shard_table_name(const DistributedTable *table, int shard);
/* A base for names on the nodes that no table and no index uses yet. */
extern char *dbscale_ddl_new_stored_name(const char *name, const char *schema);

/*
 * Commands for one shard, each without a semicolon, from the parent's definition
 * (shard_sql.c).  shard -1: for a reference table's copy.
 */
extern char *dbscale_ddl_shard_table_sql(const DistributedTable *table, int shard);
/* Name, type, collation, NOT NULL ... of one column, under the safe search_path. */
extern void dbscale_ddl_append_column(StringInfo sql, Relation rel, Form_pg_attribute att);
/* A column's statistics target ("-1": the default), and its n_distinct options or NULL. */
extern char *dbscale_ddl_column_statistics(Oid relid, AttrNumber attno);
extern char *dbscale_ddl_column_options(Oid relid, AttrNumber attno);
/* ALTER TABLEs for what CREATE TABLE can't say (storage, statistics); a list of char *. */
extern List *dbscale_ddl_shard_alter_sql(const DistributedTable *table, int shard);
/* CREATE [UNIQUE] INDEX for an index of the parent; a constraint's index too. */
extern char *dbscale_ddl_shard_index_sql(const DistributedTable *table, Oid index, int shard);
/* ALTER TABLE ... ADD CONSTRAINT ... USING INDEX, or NULL if the index has no constraint. */
extern char *dbscale_ddl_shard_constraint_sql(const DistributedTable *table, Oid index, int shard);
/* Extended statistics (statistics.c). */
extern List *dbscale_ddl_shard_statistics_sql(const DistributedTable *table, int shard);
/* Indexes, constraints, statistics and what else ALTER TABLE adds, once the rows are there. */
extern List *dbscale_ddl_shard_finish_sql(const DistributedTable *table, int shard);
/* A heap table's storage parameters, as WITH (...) takes them, or NULL. */
extern char *dbscale_ddl_storage_parameters(Oid relid);
/* Column names, quoted and separated by commas, without generated columns. */
extern char *dbscale_ddl_column_list(Oid relid);

/*
 * Foreign keys of distributed tables (foreign_keys.c).  check raises an error unless
 * the constraint (of pg_constraint) can be enforced on the shards; remember writes
 * dbscale.foreign_key; shard_sql is the ALTER TABLE ... ADD CONSTRAINT for one shard.
 */
extern void dbscale_ddl_check_foreign_key(Oid constraint, AttrNumber key, int group_id);
extern void dbscale_ddl_remember_foreign_key(Oid constraint);
extern List *dbscale_ddl_shard_foreign_keys_sql(const DistributedTable *table, int shard);

/* Bounds of range and list shards (ranges.c). */
typedef struct ShardBounds
{
	char	   *json;			/* as dbscale.shard.bounds */
	char	   *label;			/* list: the shard's name, else NULL */
	char	   *node;			/* list: where it is pinned, else NULL */
} ShardBounds;

/* Lists of ShardBounds *.  bounds NULL: derived from the rows. */
extern List *dbscale_ddl_make_ranges(Oid relid, const char *key, Oid type,
									 const char *step, const char *bounds);
extern List *dbscale_ddl_parse_lists(Oid type, const char *bounds);
extern ShardBounds *dbscale_ddl_parse_range(Oid type, const char *bounds);
/* FOR VALUES ..., for a shard of any strategy. */
extern char *dbscale_ddl_partition_clause(ShardStrategy strategy, int shard, const char *json);

/*
 * From heap to partitioned table and back, in place (convert.c).  The rows are then
 * in a table of their own, which the caller reads and drops: its OID is returned.
 */
extern Oid	dbscale_ddl_convert_to_partitioned(Oid relid, ShardStrategy strategy,
											   AttrNumber key, Oid opclass, Oid collation);
/* The foreign tables are gone already; indexes are built by the caller (reindex). */
extern void dbscale_ddl_convert_to_heap(Oid relid);
/* pg_index.indisunique and indisprimary off (returns what was changed), and on again. */
extern List *dbscale_ddl_hide_unique(Oid relid);
extern void dbscale_ddl_show_unique(List *hidden);
/*
 * Mark the parent's indexes valid: they enforce nothing here, the shards' do.  For
 * the utility hook, after ALTER TABLE ONLY or CREATE INDEX ON ONLY in a restored dump.
 */
extern void dbscale_ddl_validate_parent_indexes(Oid relid);

/* The table's rows of pg_constraint, copied: a list of HeapTuple, by name. */
extern List *dbscale_ddl_constraints_of(Oid relid);

/* An error while a distributed table's foreign key references this one. */
extern void dbscale_ddl_check_unreferenced(Oid relid);
/* Delete the catalog's rows of a table; of a group that has no table any more. */
extern void dbscale_ddl_forget_table(Oid relid);
extern void dbscale_ddl_forget_group(int group_id, bool has_opfamily);
/* What keeps a reference table's copies equal to it. */
extern bool dbscale_ddl_is_replication_trigger(const char *name);
extern bool dbscale_ddl_has_primary_key(Oid relid);
extern void dbscale_ddl_undistribute_reference(const DistributedTable *table);

/*
 * Which nodes get new shards (placement.c): begin counts what the catalog has, for a group
 * that may be new; next says where the next shard of it goes, and put that one has been
 * put somewhere; an error if no node takes shards.
 */
typedef struct ShardPlacement ShardPlacement;
extern ShardPlacement *dbscale_placement_begin(int group_id);
extern const char *dbscale_placement_next(ShardPlacement *placement);
extern void dbscale_placement_put(ShardPlacement *placement, const char *node);

/*
 * For a split or merge: the foreign table of a shard whose row is in dbscale.shard, and
 * its end; the caller has the parent locked and tells of the change.
 */
extern void dbscale_ddl_attach_shard(Oid relid, int shard);
extern void dbscale_ddl_detach_shard(Oid foreign_table);
/* A number, not one of `taken`, that no shard of the group has and by which no tables of jobs are named. */
extern int	dbscale_ddl_new_shard_number(const DistributedTable *table, const Bitmapset *taken);
/* Commands that give a shard's table on its node, with indexes and statistics, the names of another number. */
extern List *dbscale_ddl_shard_rename_sql(const DistributedTable *table, int from, int to);

/* Adds one shard (catalog row, node tables, foreign tables) to a range or list group. */
extern int	dbscale_ddl_add_shard(Oid relation, const char *bounds_json, const char *node);

/*
 * What counter/, a peer, adds to our commands; dbscale.c puts it here (all may be NULL).
 * before is called when a table is locked and is to become a distributed table, or a
 * plain one again, before anything is done; after, when it has.  shard_sql returns
 * commands (char *) for the node of a shard (shard->node) at this moment.  A move
 * runs SHARD_LEAVING on the source when writers are shut out and before it waits for the
 * last change; SHARD_MADE on the target (a Shard with that node) when that is applied, so
 * under the locks of the switch: or the triggers would count what is applied again; and
 * SHARD_LEFT on the source when the old tables have been dropped.  Where a key moves
 * between two shards these get SHARD_LEAVING and SHARD_RECEIVING, under both shards' locks,
 * and key_tables returns what else has rows of the key (KeyTable *).
 */
extern void (*dbscale_ddl_before_hook) (Oid relid, bool to_shards);
extern void (*dbscale_ddl_after_hook) (Oid relid);
extern List *(*dbscale_ddl_shard_sql_hook) (const TableGroup *group, const Shard *shard, ShardMoment moment);
extern List *(*dbscale_ddl_key_tables_hook) (const TableGroup *group, const Shard *source, const Shard *target);
/* Run these commands on the shard's node, in the current transaction. */
extern void dbscale_ddl_run_shard_hook(const TableGroup *group, const Shard *shard, ShardMoment moment);

extern void dbscale_utility_init(void);	/* the ProcessUtility hook */

#endif							/* DBSCALE_DDL_H */
