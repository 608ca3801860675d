/*
 * progress.h
 *		How far the long operations of this server are: the view dbscale.jobs.
 */
#ifndef DBSCALE_PROGRESS_H
#define DBSCALE_PROGRESS_H

#include "base/base.h"

/*
 * A long operation (distribute_table, undistribute_table, ...) begins: it is seen
 * in dbscale.jobs by every session until its transaction ends.  `steps` is how many
 * times progress_step will be called; total_bytes may be 0 when nobody knows.
 * Returns the job's number.  Operations may nest; the calls below speak of the
 * innermost.  After an error nothing need be called.
 */
extern int64 dbscale_progress_begin(const char *kind, Oid relation, int steps,
									int64 total_bytes);
/* The next step, in words: 'copying rows', 'creating indexes'. */
extern void dbscale_progress_step(const char *step);
/* The same step in other words. */
extern void dbscale_progress_restate(const char *step);
extern void dbscale_progress_add_bytes(int64 bytes);
/* It is complete: writes the row of dbscale.job, in the current transaction. */
extern void dbscale_progress_end(void);

/*
 * The same for an operation of many transactions, whose row of dbscale.job is there
 * already: it is seen until detach, or until the process ends.
 */
extern void dbscale_progress_attach(int64 job, const char *kind, Oid relation, int steps);
extern void dbscale_progress_detach(void);
extern void dbscale_progress_set_total(int64 bytes);
/* Bytes of write-ahead log that are still to be applied. */
extern void dbscale_progress_set_lag(int64 bytes);
extern void dbscale_progress_read(int64 *done_bytes, int64 *total_bytes);

/* Requests the shared memory; called once at load. */
extern void dbscale_progress_init(void);

#endif							/* DBSCALE_PROGRESS_H */
