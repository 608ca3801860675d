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

/*
 * 16 renamed RelFileNode.  (The functions are declared here because their header
 * has the name of one of ours.)
 */
#include "utils/relcache.h"
#if PG_VERSION_NUM < 160000
#define rd_locator rd_node
#define table_relation_set_new_filelocator table_relation_set_new_filenode
extern Oid	GetNewRelFileNode(Oid reltablespace, Relation pg_class, char relpersistence);
#define dbscale_new_file_number(tablespace, pg_class, persistence) \
	GetNewRelFileNode(tablespace, pg_class, persistence)
#else
extern Oid	GetNewRelFileNumber(Oid reltablespace, Relation pg_class, char relpersistence);
#define dbscale_new_file_number(tablespace, pg_class, persistence) \
	GetNewRelFileNumber(tablespace, pg_class, persistence)
#endif

/* 17 gave reindex_relation the statement, for event triggers. */
#if PG_VERSION_NUM < 170000
#define dbscale_reindex_relation(relid, flags, params) reindex_relation(relid, flags, params)
#else
#define dbscale_reindex_relation(relid, flags, params) reindex_relation(NULL, relid, flags, params)
#endif

#endif							/* DBSCALE_COMPAT_H */
