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

/*
 * 16 hides every symbol of an extension that is not marked PGDLLEXPORT, and its
 * PG_FUNCTION_INFO_V1 marks the function; we hide them on 15 too (the Makefile
 * gives 15's empty PGDLLEXPORT its meaning), so the function is declared first.
 */
#include "fmgr.h"
#define DBSCALE_FUNCTION(name) \
	PGDLLEXPORT Datum name(PG_FUNCTION_ARGS); \
	PG_FUNCTION_INFO_V1(name)

#endif							/* DBSCALE_COMPAT_H */
