/*
 * worker.h
 *		The launcher and a database's maintenance worker.
 */
#ifndef DBSCALE_WORKER_H
#define DBSCALE_WORKER_H

#include "ddl/ddl.h"

/* Shared memory, the launcher's registration, and the hook for DROP DATABASE. */
extern void dbscale_worker_init(void);

#endif							/* DBSCALE_WORKER_H */
