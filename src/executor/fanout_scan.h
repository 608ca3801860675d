/*
 * fanout_scan.h
 *		The custom scan that reads many shards.
 */
#ifndef DBSCALE_FANOUT_SCAN_H
#define DBSCALE_FANOUT_SCAN_H

#include "base/base.h"

extern void dbscale_fanout_scan_init(void);

#endif							/* DBSCALE_FANOUT_SCAN_H */
