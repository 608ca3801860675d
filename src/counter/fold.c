/*
 * fold.c
 *		What the maintenance worker does for buffered counters, in a transaction a node.
 */
#include "counter/internal.h"

#include "foreign/foreign.h"
#include "transaction/transaction.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#define MANY_DEAD_ROWS 2000

typedef void (*AppendBuffer) (StringInfo sql, const CounterPlace *place, const Counter *counter);

/* What is said of each table of deltas on one node (InvalidOid: here) of such counters, or NULL. */
static char *
for_buffers(Oid serverid, AppendBuffer append, const char *condition)
{
	StringInfoData sql;
	ListCell   *lc;
	ListCell   *lp;

	initStringInfo(&sql);
	foreach(lc, dbscale_counter_list_names(psprintf("mode = 'buffered' AND NOT suspended AND %s", condition)))
	{
		Counter    *counter = lfirst(lc);

		/* the worker waits for nobody: the next time, then */
		if (!dbscale_counter_try_tables(counter))
			continue;
		foreach(lp, dbscale_counter_delta_places(counter))
		{
			CounterPlace *place = lfirst(lp);

			if (dbscale_counter_server_of(place) == serverid)
				append(&sql, place, counter);
		}
	}
	return sql.len ? sql.data : NULL;
}

/* Calls of the fold functions, added up. */
static void
append_fold(StringInfo sql, const CounterPlace *place, const Counter *counter)
{
	appendStringInfo(sql, "%s%s", sql->len ? " + " : "SELECT ", dbscale_counter_fold_call(place, counter));
}

static char *
fold_calls(Oid serverid)
{
	return for_buffers(serverid, append_fold, "NOT apart");
}

static void
append_name(StringInfo sql, const CounterPlace *place, const Counter *counter)
{
	appendStringInfo(sql, "%s(%s)", sql->len ? ", " : "", quote_literal_cstr(dbscale_counter_buffer_name(place, counter)));
}

/*
 * Tables of deltas on one node (InvalidOid: here) that have many dead rows: VACUUM
 * commands, in the caller's context.
 */
List *
dbscale_counter_vacuums(Oid serverid, Oid userid)
{
	char	   *sql = for_buffers(serverid, append_name, "true");
	List	   *commands = NIL;
	ListCell   *lc;

	if (sql == NULL)
		return NIL;
	sql = psprintf("SELECT 'VACUUM ' || t.name FROM (VALUES %s) t(name)"
				   " WHERE pg_catalog.pg_stat_get_dead_tuples(pg_catalog.to_regclass(t.name)) > %d", sql, MANY_DEAD_ROWS);
	if (!OidIsValid(serverid))
	{
		foreach(lc, dbscale_counter_query_rows(sql, NULL))
			commands = lappend(commands, ((char **) lfirst(lc))[0]);
	}
	else
	{
		RemoteStatement *stmt = dbscale_remote_send(dbscale_transaction_connection(serverid, userid, REMOTE_READ_ALONE), sql,
													REMOTE_NO_PARAMS, 0, NULL);
		RemoteRow	row;

		while (dbscale_remote_next_row(stmt, &row))
			commands = lappend(commands, pstrdup(row.values[0]));
		dbscale_remote_close(stmt);
	}
	return commands;
}

/* The first `rows` rows of each table of deltas, or fewer. */
static void
append_peek(StringInfo sql, const CounterPlace *place, const Counter *counter)
{
	appendStringInfo(sql, "%s(SELECT pg_catalog.count(*) FROM (SELECT FROM %s LIMIT n) d)", sql->len ? ", " : "",
					 dbscale_counter_buffer_name(place, counter));
}

bool
dbscale_counter_has_many_at(Oid serverid, Oid userid, int rows)
{
	char	   *counts = for_buffers(serverid, append_peek, "true");
	char	   *sql;

	if (counts == NULL)
		return false;
	sql = psprintf("SELECT 1 FROM (VALUES (%d)) v(n) WHERE GREATEST(%s) >= n", rows, counts);
	if (!OidIsValid(serverid))
		return dbscale_counter_query(sql) != NULL;
	return dbscale_remote_query_value(dbscale_transaction_connection(serverid, userid, REMOTE_READ_ALONE), sql,
									  REMOTE_NO_PARAMS) != NULL;
}

bool
dbscale_counter_any_buffered(void)
{
	return dbscale_counter_query("SELECT 1 FROM dbscale.counter WHERE mode = 'buffered' LIMIT 1") != NULL;
}

void
dbscale_counter_fold_at(Oid serverid, Oid userid)
{
	char	   *sql = fold_calls(serverid);

	if (sql == NULL)
		return;
	if (!OidIsValid(serverid))
		dbscale_counter_execute(sql);
	else
		(void) dbscale_remote_execute(dbscale_transaction_connection(serverid, userid, REMOTE_WRITE), sql,
									  REMOTE_NO_PARAMS, NULL);
}
