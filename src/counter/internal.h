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
	bool		apart;			/* its tables are not colocated: carry.c */
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
/*
 * DDL sees the catalogs as they are, whatever the transaction's snapshot: commands that `what` runs see
 * all that is committed, under REPEATABLE READ too.
 */
extern void dbscale_counter_with_latest(void (*what) (void *argument), void *argument);
/* True while such a command runs, whose DDL is not to be looked at. */
extern int	dbscale_counter_internal;

/* Settings that make text mean the same in every session, until AtEOXact_GUC(true, result). */
extern int	dbscale_counter_safe_session(void);

/* Places (run.c). */
extern List *dbscale_counter_places(Oid relid);	/* of CounterPlace * */
extern CounterPlace *dbscale_counter_first_place(Oid relid);
/* Where a counter's deltas are: beside its source. */
extern List *dbscale_counter_delta_places(const Counter *counter);
/* Is this relation's row kept at such a place?  (Of a counter's two tables, where they are apart.) */
extern bool dbscale_counter_is_at(const CounterPlace *place, Oid relid);
extern bool dbscale_counter_is_sharded(Oid relid);
/* Where the target's row with this key (of char *) is; NULL if no shard takes it. */
extern CounterPlace *dbscale_counter_place_of(const Counter *counter, List *key);
extern Oid	dbscale_counter_server_of(const CounterPlace *place);	/* InvalidOid: here */
/* The qualified, quoted name of a table at a place; its bare name as a base for others. */
extern char *dbscale_counter_table_at(const CounterPlace *place, Oid relid);
extern char *dbscale_counter_base_at(const CounterPlace *place, Oid relid);
/* First column of the first row of a query that runs at the place, or NULL. */
extern char *dbscale_counter_query_at(const CounterPlace *place, const char *sql);
/* All rows (char **, with natts columns); will the transaction write there? */
extern List *dbscale_counter_rows_at(const CounterPlace *place, const char *sql, int natts, bool write);

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
/* Those that are not suspended, and have both tables. */
extern List *dbscale_counters_of_source(Oid source);
extern List *dbscale_counters_of_target(Oid target);
extern void dbscale_counter_find_out(Counter *counter);
extern void dbscale_counter_insert(const Counter *counter);
extern const char *dbscale_counter_aggregate_name(CounterAggregate aggregate);
extern char *dbscale_counter_name_array(List *names);
extern Oid	dbscale_counter_owner(Oid relid);

/* Whether a counter can be kept (check.c): errors, before anything is changed. */
extern Node *dbscale_counter_parse_filter(Oid source, const char *filter);
extern bool dbscale_counter_filter_is_plain(const char *filter);
extern char *dbscale_counter_print_filter(Oid source, Node *expression);
extern void dbscale_counter_check(Counter *counter);
extern bool dbscale_counter_is_apart(const Counter *counter);
/* Digits behind the point that a numeric column of this typmod keeps. */
extern int	dbscale_counter_scale(int32 typmod);
/* Is the target's key unique, also without this index? */
extern bool dbscale_counter_is_unique(const Counter *counter, Oid without);
extern void dbscale_counter_check_unique(const Counter *counter, Oid without);

/* The SQL (triggers.c, queries.c); every list is of char *. */
extern List *dbscale_counter_source_sql(const CounterPlace *place, Oid source, List *counters);
extern List *dbscale_counter_target_sql(const CounterPlace *place, Oid target, List *counters);
/* DROP FUNCTION for the one that a table's triggers call. */
extern List *dbscale_counter_drop_functions_sql(const CounterPlace *place, Oid relid);
extern List *dbscale_counter_buffer_sql(const CounterPlace *place, const Counter *counter);
extern List *dbscale_counter_drop_buffer_sql(const CounterPlace *place, const Counter *counter);
extern char *dbscale_counter_key_type(const Counter *counter, const char *column);
extern const char *dbscale_counter_delta_type(const Counter *counter);
/* k1 = ... AND ... between two things that have k1, ... */
extern char *dbscale_counter_same_k(int count, const char *a, const char *b);
/* k1, ... and x: what the source's rows say, for every key that is in it. */
extern char *dbscale_counter_true_values(const CounterPlace *place, const Counter *counter);
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
/* In a trigger function: from here, and until here, it does; then as before. */
#define COUNTING_ON "counting := coalesce(current_setting('" COUNTING "', true), '');\nignored := set_config('" COUNTING "', 'on', true);\n"
#define COUNTING_OFF "ignored := set_config('" COUNTING "', counting, true);\n"
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
extern char *dbscale_counter_k_not_null(int count);
extern char *dbscale_counter_as_k(List *names);
extern char *dbscale_counter_not_null(List *names);
/* target_."id" = d.k1 AND ... */
extern char *dbscale_counter_join_k(List *names, const char *alias, const char *k_alias);
/* Beside a counter's source; not qualified, not quoted. */
#define COUNTER_DELTAS "deltas"
#define COUNTER_FOLD "fold"
/* Beside the target of one whose tables are apart. */
#define COUNTER_ORPHANS "orphans"
#define COUNTER_LOCK "lock"
extern char *dbscale_counter_bare_name(const CounterPlace *place, const Counter *counter, const char *kind);
extern char *dbscale_counter_buffer_name(const CounterPlace *place, const Counter *counter);
extern char *dbscale_counter_fold_name(const CounterPlace *place, const Counter *counter);
extern char *dbscale_counter_orphans_name(const CounterPlace *place, const Counter *counter);
extern char *dbscale_counter_lock_name(const CounterPlace *place, const Counter *counter);
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
extern void dbscale_counter_drop(const Counter *counter, List *target_places, List *source_places);

/* What a statement drops is noted from here until unwatch, in the current memory context (dropped.c). */
typedef struct CounterWatch CounterWatch;
extern CounterWatch *dbscale_counter_watch(void);
extern void dbscale_counter_unwatch(CounterWatch *ended);
/* Counters whose tables are gone are dropped; names of those that may have been harmed. */
extern List *dbscale_counter_dropped(const CounterWatch *ended);
/* One of our triggers is gone, and what it keeps is not. */
extern void dbscale_counter_refuse_triggers(const CounterWatch *ended);
extern void dbscale_counter_dropped_init(void);

/* Counters whose tables are apart (apart.c: their SQL; carry.c). */
extern List *dbscale_counter_orphans_sql(const CounterPlace *place, const Counter *counter);
extern char *dbscale_counter_lock_call(const CounterPlace *place, const Counter *counter);
extern char *dbscale_counter_values_sql(const CounterPlace *place, const Counter *counter);
extern char *dbscale_counter_fits_sql(const Counter *counter, const char *value);
extern char *dbscale_counter_key_object(const Counter *counter, const char *prefix);
extern List *dbscale_counter_drop_orphans_sql(const CounterPlace *place, const Counter *counter);
extern char *dbscale_counter_enqueue_sql(const CounterPlace *place, const Counter *counter);
extern char *dbscale_counter_source_parts_sql(const CounterPlace *place, const Counter *counter);
extern char *dbscale_counter_target_parts_sql(const CounterPlace *place, const Counter *counter);
extern char *dbscale_counter_pending_of_sql(const CounterPlace *place, const Counter *counter, List *values);
/* Carriers, readers and moves (hold.c). */
extern bool dbscale_counter_try_tables(const Counter *counter);
extern List *dbscale_counter_places_on(List *places, Oid serverid);
extern List *dbscale_counter_one_a_node(List *places);
extern List *dbscale_counter_try_places(Oid relid, Oid serverid);
extern void dbscale_counter_lock_places(const Counter *counter);
/* Hold carriers out, at these places' nodes, until the (sub)transaction ends. */
extern void dbscale_counter_hold(const Counter *counter, List *places, bool shared);
extern char *dbscale_counter_hold_sql(const Counter *counter);
extern bool dbscale_counter_try_hold(const Counter *counter, List *places);
/* Lock both tables against writers, on their nodes too, and hold carriers out. */
extern void dbscale_counter_lock_apart(const Counter *counter);
/* Under these locks: compute the counter anew; carry all that is pending (lenient: and fits). */
extern void dbscale_counter_compute_apart(const Counter *counter);
extern void dbscale_counter_carry_all(const Counter *counter, bool lenient);
/* Keys of which what is pending would not fit into the column, as the last carrier between two nodes found it (stuck.c). */
extern void dbscale_counter_note_stuck(const Counter *counter, Oid source_server, Oid target_server, int keys, const char *first);
extern void dbscale_counter_forget_stuck(const Counter *counter);
extern bool dbscale_counter_is_stuck(const Counter *counter);
extern void dbscale_counter_stuck_init(void);
/* As the worker does, in this transaction; how many keys were carried. */
extern uint64 dbscale_counter_carry_some(const Counter *counter);
/* Reading them (apart_read.c); the key is of char *. */
extern char *dbscale_counter_value_apart(const Counter *counter, List *key);
/* Keys with a wrong value: rows of key, stored, actual. */
extern List *dbscale_counter_verify_apart(const Counter *counter);

#endif							/* DBSCALE_COUNTER_INTERNAL_H */
