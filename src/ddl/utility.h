/*
 * utility.h
 *		DDL on distributed tables: what utility.c and the files beside it share.
 */
#ifndef DBSCALE_UTILITY_H
#define DBSCALE_UTILITY_H

#include "ddl/ddl.h"
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"
#include "tcop/utility.h"

/* One call of ProcessUtility; a handler may give it another statement (a copy). */
typedef struct UtilityCall
{
	PlannedStmt *pstmt;
	const char *query;
	bool		read_only_tree;
	ProcessUtilityContext context;
	ParamListInfo params;
	QueryEnvironment *environment;
	DestReceiver *dest;
	QueryCompletion *qc;
} UtilityCall;

/* Do what PostgreSQL does. */
extern void dbscale_utility_core(UtilityCall *call);
/* Take a copy of the statement that may be changed. */
extern Node *dbscale_utility_own_statement(UtilityCall *call);
/* The table's OID if it is distributed (or a reference table); errors if it is a shard. */
extern const DistributedTable *dbscale_utility_target(RangeVar *relation, const char *command);
/* "COMMAND is not supported for distributed table ..." */
extern void dbscale_utility_refuse(Oid relid, const char *command, const char *hint) __attribute__((noreturn));
extern void dbscale_utility_require_owner(Oid relid);

/* True while a command with CASCADE runs, for drop.c. */
extern bool dbscale_utility_cascade;

/* What a table is like before core changes it, and sending the nodes the difference (propagate.c). */
typedef struct TableState TableState;
extern TableState *dbscale_propagate_state(Oid relid);
extern void dbscale_propagate_changes(const TableState *before);

/* Extended statistics (statistics.c). */
extern List *dbscale_statistics_of(Oid relid);	/* OIDs */
extern char *dbscale_statistics_target(Oid statistics);	/* "-1": the default */
/* Have they been made on the shards?  In a restored dump, before they are here. */
extern bool dbscale_statistics_are_stored(Oid statistics);
extern char *dbscale_statistics_create_sql(const DistributedTable *table, Oid statistics, int shard);
extern char *dbscale_statistics_target_sql(Oid statistics, int shard);
extern void dbscale_statistics_dropped(const char *schema, const char *name);
extern void dbscale_statistics_schema_renamed(const char *from, const char *to);
extern void dbscale_utility_create_statistics(UtilityCall *call);
extern void dbscale_utility_alter_statistics(UtilityCall *call);
extern void dbscale_utility_rename_statistics(UtilityCall *call, List *names);

/* Handlers (alter_table.c, maintenance.c). */
extern void dbscale_utility_alter_table(UtilityCall *call);
extern void dbscale_utility_rename(UtilityCall *call);
extern void dbscale_utility_vacuum(UtilityCall *call);
extern void dbscale_utility_reindex(UtilityCall *call);

/* ALTER TABLE's foreign keys (alter_foreign_key.c). */
extern void dbscale_alter_add_foreign_key(const DistributedTable *table, Constraint *constraint);
extern bool dbscale_alter_has_foreign_key(Oid relid, const char *name);
extern void dbscale_alter_drop_foreign_key(const DistributedTable *table, const char *name);
extern void dbscale_alter_rename_foreign_key(const DistributedTable *table, const char *from, const char *to);
extern void dbscale_alter_validate_foreign_key(const DistributedTable *table, const char *name);
/* Drop the foreign keys to a table for whose columns it has no unique index any more. */
extern void dbscale_alter_drop_unbacked_foreign_keys(Oid relid);
/* After a table or schema was renamed, or a column (then from and to are not NULL). */
extern void dbscale_alter_refresh_foreign_keys(Oid relid, const char *from, const char *to);
/* Forget the foreign keys over a column that is gone; an error if others need it and not cascade. */
extern void dbscale_alter_forget_column(Oid relid, const char *column, bool cascade);

/*
 * Run on every shard what `make` returns for it (NULL: nothing), all nodes at the
 * same time; for a reference table it is called with shard -1, for each node.
 */
typedef char *(*ShardCommand) (const DistributedTable *table, int shard, void *arg);
extern void dbscale_ddl_run_for_shards(const DistributedTable *table, ShardCommand make, void *arg);
/* A % in text that becomes part of a command for dbscale_ddl_run_on_shards. */
extern char *dbscale_ddl_escape_percent(const char *text);

#endif							/* DBSCALE_UTILITY_H */
