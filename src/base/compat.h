/*
 * compat.h
 *		Every difference between PostgreSQL 15, 16, 17 and 18 that dbscale meets.
 *
 * No other file tests PG_VERSION_NUM.  Each shim names the version that changed.
 */
#ifndef DBSCALE_COMPAT_H
#define DBSCALE_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "dbscale needs PostgreSQL 15 or later"
#endif

/* 16 made every symbol of an extension hidden unless it says otherwise; we do so on 15 too. */

#endif							/* DBSCALE_COMPAT_H */
