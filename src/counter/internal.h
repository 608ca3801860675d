/*
 * internal.h
 *		What the files of counter/ share: a counter's definition, the places where it
 *		is kept, and the SQL made from both.
 */
#ifndef DBSCALE_COUNTER_INTERNAL_H
#define DBSCALE_COUNTER_INTERNAL_H

#include "catalog/metadata.h"
#include "counter/counter.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/timestamp.h"

typedef enum CounterAggregate
{
	COUNTER_COUNT,
	COUNTER_SUM,
	COUNTER_MIN,
	COUNTER_MAX
} CounterAggregate;

/* One row of dbscale.counter; names are bare, not quoted.  In the caller's context. */
typedef struct Counter
{
	const char *name;
	Oid			target;
	const char *column;
	Oid			source;
	List	   *target_key;		/* of char * */
	List	   *source_key;		/* of char *, parallel */
	CounterAggregate aggregate;
	const char *value;			/* column, or NULL */
	const char *filter;			/* as deparsed, or NULL */
	bool		buffered;
	const char *fingerprint;	/* of the generated SQL that is installed; NULL: none yet */
	bool		suspended;		/* by suspend.c: nothing is installed */
	/* found out when it is read: */
	const char *type;			/* of the target's column, with its typmod */
	const char *value_type;		/* of the value column, or NULL */
	bool		has_foreign_key;	/* no source row can be without its target */
} Counter;

/*
 * Where a counter's tables are: plain tables of this database (group NULL), or
 * shard `number` of a table group, on its node.
 */
typedef struct CounterPlace
{
	const TableGroup *group;
	const Shard *shard;
} CounterPlace;

/* Commands on the coordinator (run.c); results are in the caller's memory context. */
extern void dbscale_counter_execute(const char *sql);
extern uint64 dbscale_counter_execute_as(Oid user, const char *sql);
extern char *dbscale_counter_query(const char *sql);
extern List *dbscale_counter_query_rows(const char *sql, int *natts);
/* True while such a command runs, whose DDL is not to be looked at. */
extern int	dbscale_counter_internal;

/* Settings that make text mean the same in every session, until AtEOXact_GUC(true, result). */
extern int	dbscale_counter_safe_session(void);

/* Places (run.c). */
extern List *dbscale_counter_places(Oid relid);	/* of CounterPlace * */
extern CounterPlace *dbscale_counter_first_place(const Counter *counter);
/* The qualified, quoted name of a table at a place; its bare name as a base for others. */
extern char *dbscale_counter_table_at(const CounterPlace *place, Oid relid);
extern char *dbscale_counter_base_at(const CounterPlace *place, Oid relid);
/* First column of the first row of a query that runs at the place, or NULL. */
extern char *dbscale_counter_query_at(const CounterPlace *place, const char *sql);

extern List *dbscale_counter_query_places(List *places, const Counter *counter,
										  char *(*make) (const CounterPlace *place, const Counter *counter), int natts);

/* One command a place, all nodes at the same time; then their counts are added up. */
typedef struct CounterBatch CounterBatch;
extern CounterBatch *dbscale_counter_batch(void);
extern void dbscale_counter_send(CounterBatch *batch, const CounterPlace *place, Oid user, const char *sql);
extern void dbscale_counter_send_all(CounterBatch *batch, const CounterPlace *place, Oid user, List *commands);
extern uint64 dbscale_counter_finish(CounterBatch *batch);

/* The catalog (catalog.c). */
extern Counter *dbscale_counter_get(const char *name, bool missing_ok);
/* The same without what has to be found out. */
extern List *dbscale_counter_list_names(const char *condition);
extern List *dbscale_counter_list(const char *condition);	/* of Counter *; NULL: all */
/* Those that are not suspended. */
extern List *dbscale_counters_of_source(Oid source);
extern List *dbscale_counters_of_target(Oid target);
extern void dbscale_counter_find_out(Counter *counter);
extern void dbscale_counter_insert(const Counter *counter);
extern const char *dbscale_counter_aggregate_name(CounterAggregate aggregate);
extern char *dbscale_counter_name_array(List *names);
extern Oid	dbscale_counter_owner(Oid relid);

/* Whether a counter can be kept (check.c): errors, before anything is changed. */
extern Node *dbscale_counter_parse_filter(Oid source, const char *filter);
extern char *dbscale_counter_print_filter(Oid source, Node *expression);
extern void dbscale_counter_check(Counter *counter);
/* Is the target's key unique, also without this index? */
extern void dbscale_counter_check_unique(const Counter *counter, Oid without);

/* The SQL (triggers.c, queries.c); every list is of char *. */
extern List *dbscale_counter_source_sql(const CounterPlace *place, Oid source, List *counters);
extern List *dbscale_counter_target_sql(const CounterPlace *place, Oid target, List *counters);
/* DROP FUNCTION for the one that a table's triggers call. */
extern List *dbscale_counter_drop_functions_sql(const CounterPlace *place, Oid relid);
extern List *dbscale_counter_buffer_sql(const CounterPlace *place, const Counter *counter);
extern List *dbscale_counter_drop_buffer_sql(const CounterPlace *place, const Counter *counter);
extern char *dbscale_counter_fold_call(const CounterPlace *place, const Counter *counter);
/* Fold all there is, where nobody else is at the tables: an error if anything is left. */
extern List *dbscale_counter_empty_buffer_sql(const CounterPlace *place, const Counter *counter);
extern char *dbscale_counter_lock_sql(const CounterPlace *place, const Counter *counter);
extern List *dbscale_counter_repair_sql(const CounterPlace *place, const Counter *counter);
extern char *dbscale_counter_verify_sql(const CounterPlace *place, const Counter *counter);
extern char *dbscale_counter_pending_sql(const CounterPlace *place, const Counter *counter);
extern char *dbscale_counter_value_sql(const CounterPlace *place, const Counter *counter, List *values);

/*
 * Pieces of SQL (pieces.c).  In all of it the target's table has the alias target_,
 * the source's the alias source_, and a set of keys has the columns k1, k2, ...
 */
#define COUNTING "dbscale_shards.counting"	/* 'on' while a counter's own SQL writes the column */
#define MOVING "dbscale_shards.moving"	/* 'on' while rows move between shards, counters and all */
extern bool dbscale_counter_same_names(List *a, List *b);
/* The value of a target without source rows. */
extern const char *dbscale_counter_empty(const Counter *counter);
extern bool dbscale_counter_is_extreme(const Counter *counter);
/* count(*), sum("v") ...; with FILTER if the filter is not in the WHERE. */
extern char *dbscale_counter_aggregate_call(const Counter *counter, bool with_filter);
/* A scalar subquery: what the source's rows say of the key of `row`. */
extern char *dbscale_counter_true_value(const CounterPlace *place, const Counter *counter, const char *row, bool row_has_k);
/* "a", "b" with a prefix before each; k1, k2 ...; "f1" AS k1, ...; "f1" IS NOT NULL AND ... */
extern char *dbscale_counter_list_columns(List *names, const char *prefix);
extern char *dbscale_counter_list_k(int count, const char *prefix);
extern char *dbscale_counter_as_k(List *names);
extern char *dbscale_counter_not_null(List *names);
/* target_."id" = d.k1 AND ... */
extern char *dbscale_counter_join_k(List *names, const char *alias, const char *k_alias);
/* Beside a counter's source; not qualified, not quoted. */
#define COUNTER_DELTAS "deltas"
#define COUNTER_FOLD "fold"
extern char *dbscale_counter_bare_name(const CounterPlace *place, const Counter *counter, const char *kind);
extern char *dbscale_counter_buffer_name(const CounterPlace *place, const Counter *counter);
extern char *dbscale_counter_fold_name(const CounterPlace *place, const Counter *counter);
/* A name of at most 63 bytes, different for different bases. */
extern char *dbscale_counter_object_name(const char *base, const char *suffix);

/* All that keeps a counter which has its row, and its values; both tables are locked (commands.c). */
extern void dbscale_counter_keep(Counter *counter);

/* last_fold.c; 0: not since the server's start. */
extern TimestampTz dbscale_counter_last_fold(Oid serverid);
extern void dbscale_counter_last_fold_init(void);

/* Make what keeps a table's counters, as the catalog is now (install.c). */
extern void dbscale_counter_install_source(Oid source);
extern void dbscale_counter_install_target(Oid target);
extern void dbscale_counter_install_buffers(Oid source, Oid target);
extern char *dbscale_counter_fingerprint(Oid source, Oid target);
extern void dbscale_counter_set_fingerprint(Oid source, Oid target);
extern void dbscale_counter_forget(const Counter *counter);
extern void dbscale_counter_drop(const Counter *counter, List *places);

#endif							/* DBSCALE_COUNTER_INTERNAL_H */
