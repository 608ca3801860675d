/*
 * system_columns.h
 *		System columns of distributed tables that would not be what they are elsewhere.
 */
#ifndef DBSCALE_SYSTEM_COLUMNS_H
#define DBSCALE_SYSTEM_COLUMNS_H

#include "base/base.h"
#include "nodes/parsenodes.h"

extern void dbscale_system_columns_check(Query *query);

#endif							/* DBSCALE_SYSTEM_COLUMNS_H */
