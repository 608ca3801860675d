/*
 * rebalance.h
 *		Shards that move while they are written to, and the jobs that carry it out.
 */
#ifndef DBSCALE_REBALANCE_H
#define DBSCALE_REBALANCE_H

#include "ddl/ddl.h"

/* Shared memory; called once at load. */
extern void dbscale_rebalance_init(void);

/*
 * In a background worker that is connected to the database: carry out the job in this
 * slot of the board.  Returns when it has ended, well or not.
 */
extern Oid	dbscale_board_attach(int slot);	/* its database, or InvalidOid: nothing to do */
extern void dbscale_rebalance_run_job(void);

/*
 * The maintenance worker's part, each in a transaction of its own that the caller
 * began: restart or fail jobs whose worker is gone, and end those whose steps have;
 * start jobs that wait; work through one record of dbscale.cleanup.
 */
extern void dbscale_jobs_look_after(void);
extern void dbscale_jobs_start_waiting(void);
/* dbscale.auto_rebalance: a job, if one is due; to be called at its interval. */
extern void dbscale_jobs_rebalance_if_due(void);

typedef struct CleanupRecord
{
	char	   *node;
	char	   *kind;
	char	   *name;
	int64		job;
} CleanupRecord;

/* Of CleanupRecord *, those whose time has come; job 0: of all jobs that do not run. */
extern List *dbscale_cleanup_due(int64 job);
/* False when it is not possible at this moment (the object is locked). */
extern bool dbscale_cleanup_do(const CleanupRecord *record);

#endif							/* DBSCALE_REBALANCE_H */
