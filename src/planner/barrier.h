/*
 * barrier.h
 *		Statements that must have read everything before they write.
 */
#ifndef DBSCALE_BARRIER_H
#define DBSCALE_BARRIER_H

#include "base/base.h"
#include "nodes/plannodes.h"

extern void dbscale_barrier_add(PlannedStmt *plan);

#endif							/* DBSCALE_BARRIER_H */
