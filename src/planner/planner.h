/*
 * planner.h
 *		dbscale's planner hook.
 */
#ifndef DBSCALE_PLANNER_H
#define DBSCALE_PLANNER_H

#include "catalog/metadata.h"

extern void dbscale_planner_init(void);

#endif							/* DBSCALE_PLANNER_H */
