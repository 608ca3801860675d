/*
 * worker.h
 *		The launcher and a database's maintenance worker.
 */
#ifndef DBSCALE_WORKER_H
#define DBSCALE_WORKER_H

#include "ddl/ddl.h"

extern void dbscale_worker_init(void);	/* shared memory hooks, launcher registration */

#endif							/* DBSCALE_WORKER_H */
