/*
 * base.h
 *		What every floor may use: versions, SQLSTATEs, settings, debug points.
 */
#ifndef DBSCALE_BASE_H
#define DBSCALE_BASE_H

#include "base/compat.h"

/* The schemas: our own objects, and the shard tables here and on the nodes. */
#define DBSCALE_SCHEMA "dbscale"
#define DBSCALE_SHARDS_SCHEMA "dbscale_shards"
#define DBSCALE_FDW_NAME "dbscale_fdw"

/*
 * Debug points: named places where the fault tests stop, fail or kill.  They
 * exist only in builds made with DEBUG_POINTS=1 and are driven by the setting
 * dbscale.debug_point, "NAME=kill" (SIGKILL to this backend), "NAME=error" or
 * "NAME=wait" (until the file dbscale_debug_NAME in the data directory, which
 * the point creates, has been removed).
 */
#ifdef DBSCALE_DEBUG_POINTS
extern void dbscale_debug_point(const char *name);
extern char *dbscale_debug_point_setting;
#define DEBUG_POINT(name) dbscale_debug_point(name)
#else
#define DEBUG_POINT(name) ((void) 0)
#endif

/* Settings, in the order of their names; see settings.c for what each does. */
extern bool dbscale_auto_rebalance;
extern int	dbscale_assign_key_online_rows;
extern int	dbscale_auto_rebalance_interval;	/* ms */
extern char *dbscale_auto_rebalance_window;	/* see dbscale_parse_window */
extern int	dbscale_commit_timeout;		/* ms */
extern int	dbscale_connect_timeout;	/* s */
extern bool dbscale_consistent_reads;
extern int	dbscale_copy_buffer_size;	/* kB */
extern int	dbscale_counter_fold_interval;	/* ms */
extern int	dbscale_counter_fold_rows;
extern int	dbscale_deadlock_interval;	/* ms */
extern int	dbscale_idle_connection_timeout;	/* s */
extern int	dbscale_max_counted_shards;
extern int	dbscale_max_move_lag;	/* MB */
extern int	dbscale_max_moves;
extern int	dbscale_move_lock_timeout;	/* ms */
extern int	dbscale_move_rate_limit;	/* MB a second; 0: no limit */
extern int	dbscale_move_start_timeout;	/* s; 0: none */
extern int	dbscale_node_parallel_workers;	/* -1: the node's own */
extern int	dbscale_premake_interval;	/* ms */
extern int	dbscale_premake_ranges;
extern int	dbscale_rebalance_threshold;	/* percent */
extern int	dbscale_recovery_interval;	/* ms */
extern bool dbscale_use_prepared_statements;
extern bool dbscale_verify_moves;

extern void dbscale_settings_init(void);

/*
 * "HH:MM-HH:MM" as minutes of the day, the second exclusive and perhaps the smaller
 * (over midnight); the whole day for NULL and "".  False: it is not of that form.
 */
extern bool dbscale_parse_window(const char *text, int *from, int *to);

/* Raises the error with the line to add unless dbscale was preloaded. */
extern bool dbscale_was_preloaded;
extern void dbscale_require_preload(void);

/*
 * Ask, at load, for zeroed shared memory and a lock to guard it; the pointers are
 * set when the server has started.  The name is the lock's too.
 */
struct LWLock;
extern void dbscale_shared_area(const char *name, Size size, void **memory, struct LWLock **lock);

/* SPI_execute() that sees what is committed by now under REPEATABLE READ too, as DDL sees the catalogs. */
extern int	dbscale_execute_latest(const char *sql);

/* OID of the extension's owner (who creates what needs a superuser). */
extern Oid	dbscale_extension_owner(void);
/* True when CREATE EXTENSION has been run in this database. */
extern bool dbscale_extension_exists(void);
/* OID of a relation in schema dbscale, or an internal error. */
extern Oid	dbscale_relation_oid(const char *name);

#endif							/* DBSCALE_BASE_H */
