/*
 * router_scan.h
 *		The custom scan that runs a statement on one shard.
 */
#ifndef DBSCALE_ROUTER_SCAN_H
#define DBSCALE_ROUTER_SCAN_H

#include "base/base.h"

extern void dbscale_router_scan_init(void);

#endif							/* DBSCALE_ROUTER_SCAN_H */
