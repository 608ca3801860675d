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
#define FEW_PAGES 2000

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

/* The table of deltas, and the target that is folded into beside it. */
static void
append_names(StringInfo sql, const CounterPlace *place, const Counter *counter)
{
	appendStringInfo(sql, "%s(%s, %s)", sql->len ? ", " : "", quote_literal_cstr(dbscale_counter_buffer_name(place, counter)),
					 counter->apart ? "NULL" : quote_literal_cstr(dbscale_counter_table_at(place, counter->target)));
}

/*
 * VACUUM commands on one node (InvalidOid: here), in the caller's context: for tables of
 * deltas that have many dead rows, and for their targets.
 *
 * Why targets: while sessions write for one hot row, the foreign key's checks hold it
 * locked, so every fold leaves a version of it that says by a multixact who did.  Each
 * further check passes all these versions, at 4,000 instructions each, until the page is
 * pruned, which PostgreSQL does by itself only when the page is nearly full: some hundred
 * versions later, if the row is short.  VACUUM prunes it now.  The worker has no time for
 * more than FEW_PAGES that are not known to be all visible (dead rows may be in as many
 * others), nor for a lock.
 */
List *
dbscale_counter_vacuums(Oid serverid, Oid userid)
{
	char	   *sql = for_buffers(serverid, append_names, "true");
	List	   *commands = NIL;
	ListCell   *lc;

	if (sql == NULL)
		return NIL;
	/* targets come first, so that who sees deltas vacuumed knows (our tests do) */
	sql = psprintf("WITH busy AS (SELECT * FROM (VALUES %s) t(deltas, target)"
				   " WHERE pg_catalog.pg_stat_get_dead_tuples(pg_catalog.to_regclass(deltas)) > %d)"
				   " SELECT 'VACUUM (SKIP_LOCKED, TRUNCATE false, PROCESS_TOAST false) ' || target AS command, 1 AS n"
				   " FROM busy JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(target)"
				   " WHERE pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::int - c.relallvisible"
				   " + pg_catalog.pg_stat_get_dead_tuples(c.oid) <= %d"
				   " UNION SELECT 'VACUUM ' || deltas, 2 FROM busy ORDER BY n", sql, MANY_DEAD_ROWS, FEW_PAGES);
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
