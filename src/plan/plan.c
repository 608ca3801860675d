/*
 * plan.c
 *		Tasks in and out of a plan's custom_private, which must be made of nodes
 *		that can be copied.
 */
#include "plan/plan.h"

#include "nodes/makefuncs.h"
#include "nodes/value.h"

/* Name of the DefElem that has the reason. */
#define REASON "dbscale.not_pushed_down"

/* Items of a router plan's custom_private. */
enum RouterPrivate
{
	ROUTER_COMMAND,				/* Integer */
	ROUTER_KEY_TABLE,			/* OID list of one */
	ROUTER_RELATIONS,			/* OID list */
	ROUTER_TARGETS,				/* OID list */
	ROUTER_INSERTS,				/* Boolean as Integer */
	ROUTER_LOCKS_ROWS,			/* Boolean as Integer */
	ROUTER_HAS_RESULT,			/* Boolean as Integer */
	ROUTER_CHECK_AS_USER,		/* OID list of one */
	ROUTER_PARAMETERS,			/* Integer */
	ROUTER_KEY_EXPR,			/* Integer */
	ROUTER_SQL_PIECES,			/* list of String */
	ROUTER_SQL_TABLES			/* integer list */
};

List *
dbscale_plan_pack_router(const RouterTask *task)
{
	List	   *private = NIL;

	private = lappend(private, makeInteger(task->command));
	private = lappend(private, list_make1_oid(task->key_table));
	private = lappend(private, task->relations);
	private = lappend(private, task->targets);
	private = lappend(private, makeInteger(task->inserts));
	private = lappend(private, makeInteger(task->locks_rows));
	private = lappend(private, makeInteger(task->has_result));
	private = lappend(private, list_make1_oid(task->check_as_user));
	private = lappend(private, makeInteger(task->parameters));
	private = lappend(private, makeInteger(task->key_expr));
	private = lappend(private, task->sql.pieces);
	private = lappend(private, task->sql.tables);
	return private;
}

RouterTask *
dbscale_plan_unpack_router(List *private)
{
	RouterTask *task = palloc0(sizeof(RouterTask));

	task->command = intVal(list_nth(private, ROUTER_COMMAND));
	task->key_table = linitial_oid(list_nth(private, ROUTER_KEY_TABLE));
	task->relations = list_nth(private, ROUTER_RELATIONS);
	task->targets = list_nth(private, ROUTER_TARGETS);
	task->inserts = intVal(list_nth(private, ROUTER_INSERTS)) != 0;
	task->locks_rows = intVal(list_nth(private, ROUTER_LOCKS_ROWS)) != 0;
	task->has_result = intVal(list_nth(private, ROUTER_HAS_RESULT)) != 0;
	task->check_as_user = linitial_oid(list_nth(private, ROUTER_CHECK_AS_USER));
	task->parameters = intVal(list_nth(private, ROUTER_PARAMETERS));
	task->key_expr = intVal(list_nth(private, ROUTER_KEY_EXPR));
	task->sql.pieces = list_nth(private, ROUTER_SQL_PIECES);
	task->sql.tables = list_nth(private, ROUTER_SQL_TABLES);
	return task;
}

/* Items of a fan-out plan's custom_private. */
enum FanoutPrivate
{
	FANOUT_COMMAND,				/* Integer */
	FANOUT_KEY_TABLE,			/* OID list of one */
	FANOUT_RELATIONS,			/* OID list */
	FANOUT_TARGET,				/* OID list of one */
	FANOUT_LOCKS_ROWS,			/* Boolean as Integer */
	FANOUT_HAS_RESULT,			/* Boolean as Integer */
	FANOUT_CHECK_AS_USER,		/* OID list of one */
	FANOUT_PARAMETERS,			/* Integer */
	FANOUT_KEYS,				/* integer list */
	FANOUT_SQL_PIECES,			/* list of String */
	FANOUT_SQL_TABLES,			/* integer list */
	FANOUT_WITH,				/* list of one String, or NIL */
	FANOUT_AROUND,				/* list of String: prefix and suffix, or NIL */
	FANOUT_ORIGIN_TABLES,		/* OID list */
	FANOUT_ORIGIN_COLUMNS,		/* integer list */
	FANOUT_ROW_TYPES,			/* OID list */
	FANOUT_ROUTE_COLUMN,		/* Integer */
	FANOUT_INSERTS,				/* Boolean as Integer */
	FANOUT_EVERY_SHARD,			/* Boolean as Integer */
	FANOUT_ROWS,				/* String: a Float of no fraction is read back as an Integer */
	FANOUT_STRATEGY,			/* String */
	FANOUT_REASON				/* list of one String, or NIL */
};

List *
dbscale_plan_pack_fanout(const FanoutTask *task)
{
	List	   *private = NIL;

	private = lappend(private, makeInteger(task->command));
	private = lappend(private, list_make1_oid(task->key_table));
	private = lappend(private, task->relations);
	private = lappend(private, list_make1_oid(task->target));
	private = lappend(private, makeInteger(task->locks_rows));
	private = lappend(private, makeInteger(task->has_result));
	private = lappend(private, list_make1_oid(task->check_as_user));
	private = lappend(private, makeInteger(task->parameters));
	private = lappend(private, task->keys);
	private = lappend(private, task->sql.pieces);
	private = lappend(private, task->sql.tables);
	private = lappend(private, task->with ? list_make1(makeString(task->with)) : NIL);
	private = lappend(private, task->prefix ?
					  list_make2(makeString(task->prefix), makeString(task->suffix)) : NIL);
	private = lappend(private, task->origin_tables);
	private = lappend(private, task->origin_columns);
	private = lappend(private, task->row_types);
	private = lappend(private, makeInteger(task->route_column));
	private = lappend(private, makeInteger(task->inserts));
	private = lappend(private, makeInteger(task->every_shard));
	private = lappend(private, makeString(psprintf("%.0f", task->rows)));
	private = lappend(private, makeString(task->strategy ? task->strategy : pstrdup("rows")));
	private = lappend(private, task->reason ? list_make1(makeString(task->reason)) : NIL);
	return private;
}

FanoutTask *
dbscale_plan_unpack_fanout(List *private)
{
	FanoutTask *task = palloc0(sizeof(FanoutTask));
	List	   *around = list_nth(private, FANOUT_AROUND);
	List	   *reason = list_nth(private, FANOUT_REASON);

	task->command = intVal(list_nth(private, FANOUT_COMMAND));
	task->key_table = linitial_oid(list_nth(private, FANOUT_KEY_TABLE));
	task->relations = list_nth(private, FANOUT_RELATIONS);
	task->target = linitial_oid(list_nth(private, FANOUT_TARGET));
	task->locks_rows = intVal(list_nth(private, FANOUT_LOCKS_ROWS)) != 0;
	task->has_result = intVal(list_nth(private, FANOUT_HAS_RESULT)) != 0;
	task->check_as_user = linitial_oid(list_nth(private, FANOUT_CHECK_AS_USER));
	task->parameters = intVal(list_nth(private, FANOUT_PARAMETERS));
	task->keys = list_nth(private, FANOUT_KEYS);
	task->sql.pieces = list_nth(private, FANOUT_SQL_PIECES);
	task->sql.tables = list_nth(private, FANOUT_SQL_TABLES);
	if (list_nth(private, FANOUT_WITH) != NIL)
		task->with = strVal(linitial(list_nth(private, FANOUT_WITH)));
	if (around != NIL)
	{
		task->prefix = strVal(linitial(around));
		task->suffix = strVal(lsecond(around));
	}
	task->origin_tables = list_nth(private, FANOUT_ORIGIN_TABLES);
	task->origin_columns = list_nth(private, FANOUT_ORIGIN_COLUMNS);
	task->row_types = list_nth(private, FANOUT_ROW_TYPES);
	task->route_column = intVal(list_nth(private, FANOUT_ROUTE_COLUMN));
	task->inserts = intVal(list_nth(private, FANOUT_INSERTS)) != 0;
	task->every_shard = intVal(list_nth(private, FANOUT_EVERY_SHARD)) != 0;
	task->rows = atof(strVal(list_nth(private, FANOUT_ROWS)));
	task->strategy = strVal(list_nth(private, FANOUT_STRATEGY));
	task->reason = reason != NIL ? strVal(linitial(reason)) : NULL;
	return task;
}

/* ---- reasons in foreign scans ---- */

List *
dbscale_plan_add_reason(List *private, const char *reason)
{
	return lappend(private, makeDefElem(pstrdup(REASON), (Node *) makeString(pstrdup(reason)), -1));
}

const char *
dbscale_plan_split_reason(List *private, List **rest)
{
	DefElem    *last = private == NIL ? NULL : llast(private);

	*rest = private;
	if (last == NULL || !IsA(last, DefElem) || strcmp(last->defname, REASON) != 0)
		return NULL;
	*rest = list_truncate(list_copy(private), list_length(private) - 1);
	return strVal(last->arg);
}
