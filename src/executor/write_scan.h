/*
 * write_scan.h
 *		The custom scan of a statement that writes to several shards.
 */
#ifndef DBSCALE_WRITE_SCAN_H
#define DBSCALE_WRITE_SCAN_H

#include "base/base.h"

extern void dbscale_write_scan_init(void);

#endif							/* DBSCALE_WRITE_SCAN_H */
