/*
 * table_name.h
 *		Qualified names of tables, remembered.
 */
#ifndef DBSCALE_PLAN_TABLE_NAME_H
#define DBSCALE_PLAN_TABLE_NAME_H

#include "base/base.h"

/* The table's name with its schema, quoted where needed; a copy. */
extern char *dbscale_plan_table_name(Oid relid);

#endif							/* DBSCALE_PLAN_TABLE_NAME_H */
