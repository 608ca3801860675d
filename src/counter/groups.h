/*
 * groups.h
 *		Groups of counters that one statement keeps, and the SQL made of them: what the
 *		files that write trigger functions share.
 */
#ifndef DBSCALE_COUNTER_GROUPS_H
#define DBSCALE_COUNTER_GROUPS_H

#include "counter/internal.h"

/* Counters that one statement keeps. */
typedef struct CounterGroup
{
	const CounterPlace *place;
	Oid			target;
	List	   *target_key;
	List	   *counters;		/* of Counter *; one if buffered */
	bool		buffered;
	bool		apart;			/* one counter, whose tables are not colocated */
	bool		locks;			/* by 4 of triggers.c: no foreign key */
	bool		computes;		/* by 4, 6 or 8: new targets get their value from the source */
	const char *table;			/* the target's, qualified; NULL where it is elsewhere */
	int			lock_class;
	int			nkeys;
} CounterGroup;

typedef enum Operation
{
	ON_INSERT,
	ON_DELETE,
	ON_UPDATE
} Operation;

/* Counters into groups, in their order. */
extern List *dbscale_counter_make_groups(const CounterPlace *place, List *counters);
extern bool dbscale_counter_any_apart(List *groups);
extern int	dbscale_counter_lock_class(const char *table, List *target_key);
extern Counter *dbscale_counter_nth(const CounterGroup *group, int n);
extern bool dbscale_counter_has_names(List *lists, List *names);
/* The ways from the source to the targets: a list of lists of column names. */
extern List *dbscale_counter_source_keys(const CounterGroup *group);

/*
 * A query of k1, ..., x1, [o1,] ...: one row for each key that something changes for.
 * one: there is one row, so nothing to group.  deltas_to_add leaves out the keys that
 * 6 of triggers.c speaks of, keys_to_compute has them alone.
 */
extern char *dbscale_counter_deltas(const CounterGroup *group, Operation op, bool one);
extern char *dbscale_counter_deltas_to_add(const CounterGroup *group, Operation op);
extern char *dbscale_counter_keys_to_compute(const CounterGroup *group, Operation op);
/* Of a buffered counter: k1, ... and x1 of each row that says anything; every name is qualified. */
extern char *dbscale_counter_each_row(const CounterGroup *group, Operation op);
/* Lock the targets of a query's keys, in order: a query with the same columns. */
extern char *dbscale_counter_locked(const CounterGroup *group, const char *query_name);
/* Give the targets of these keys (a query) their true values. */
extern char *dbscale_counter_compute_statement(const CounterGroup *group, const char *keys);
/* The advisory locks of 4 and 5, on these keys. */
extern void dbscale_counter_append_locks(StringInfo sql, const CounterGroup *group, const char *keys, bool is_target);

/* Functions and triggers (triggers.c).  relid is of the table that has the triggers. */
#define COUNTER_SOURCE_TRIGGERS 5
#define COUNTER_TARGET_TRIGGERS 6
extern const char *const dbscale_counter_source_triggers[COUNTER_SOURCE_TRIGGERS];
extern const char *const dbscale_counter_target_triggers[COUNTER_TARGET_TRIGGERS];
/* On a node: not qualified, not quoted. */
extern char *dbscale_counter_shard_function(const CounterPlace *place, Oid relid, bool is_target);
extern char *dbscale_counter_function_name(const CounterPlace *place, Oid relid, bool is_target);
extern List *dbscale_counter_create_function(const CounterPlace *place, const char *name, Oid owner, const char *declare, const char *body,
											bool sets_path);
extern List *dbscale_counter_drop_function(const char *table, const char *function, const char *const *triggers, int count);
/* A trigger's WHEN, or nothing.  Only shards move; then their counters' triggers are quiet. */
extern char *dbscale_counter_when(const CounterPlace *place, const char *condition);

#endif							/* DBSCALE_COUNTER_GROUPS_H */
