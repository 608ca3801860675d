/*
 * session.c
 *		The node's session: settings that change results are the coordinator's.
 *
 * Some are the same for ever and told once: names are always qualified, values
 * travel in the unambiguous forms, the node's own limits and defaults do not apply.
 * Others follow this session and are told again whenever they have changed: the
 * time zone, the order of day and month, the lock timeout, the parallel workers of a
 * statement.  A rollback on the node may undo them, so whoever sees one (or an error)
 * forgets that they are known.  They travel in a group of their own ahead of the
 * statement, so that a failing statement outside a transaction does not undo them.
 */
#include "remote/internal.h"

#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/builtins.h"

static const char fixed_settings[] =
"SELECT pg_catalog.set_config(s.name, s.value, false) FROM (VALUES "
"('search_path', 'pg_catalog'), "
"('IntervalStyle', 'postgres'), "
"('extra_float_digits', '3'), "
/* a statement may have a branch for each shard, and would be compiled as often */
"('jit', 'off'), "
/* cursors are read to their end */
"('cursor_tuple_fraction', '1'), "
"('standard_conforming_strings', 'on'), "
"('client_min_messages', 'error'), "
"('statement_timeout', '0'), "
"('idle_in_transaction_session_timeout', '0'), "
"('idle_session_timeout', '0'), "
"('default_transaction_isolation', 'read committed'), "
"('default_transaction_read_only', 'off'), "
"('default_transaction_deferrable', 'off')) AS s (name, value)";

static const char *
date_order_name(int order)
{
	switch (order)
	{
		case DATEORDER_YMD:
			return "YMD";
		case DATEORDER_DMY:
			return "DMY";
		default:
			return "MDY";
	}
}

/* Sent with the connection's first statement; an error in it surfaces there. */
void
remote_session_setup(RemoteConnection *conn)
{
	bool		sent;

	conn->settings_known = false;
	conn->workers_told = false;
	sent = remote_send_command(conn, fixed_settings, NULL) && remote_send_sync(conn);
	if (sent && PQserverVersion(conn->pg) >= 170000)
		sent = remote_send_command(conn, "SET transaction_timeout = 0", NULL) &&
			remote_send_sync(conn);
	if (!sent)
		remote_lose(conn, PQerrorMessage(conn->pg));
}

/*
 * One more column for the node's setting, or none while it was never ours.  It is NULL,
 * which stands for the node's own, even where we have said so before: a rollback may have
 * undone that.
 */
static const char *
set_parallel_workers(RemoteConnection *conn)
{
	const char *value = "NULL";

	if (dbscale_node_parallel_workers < 0 && !conn->workers_told)
		return "";
	conn->workers_told = true;
	if (dbscale_node_parallel_workers >= 0)
		value = psprintf("'%d'", dbscale_node_parallel_workers);
	return psprintf(", pg_catalog.set_config('max_parallel_workers_per_gather', %s, false)", value);
}

/*
 * The statement that tells the node what has changed in our session, palloc'd, or
 * NULL.  The caller sends it: from here on it is taken as told.
 */
char *
remote_session_changes(RemoteConnection *conn)
{
	const char *zone = pg_get_timezone_name(session_timezone);

	if (conn->settings_known && conn->date_order == DateOrder &&
		conn->lock_timeout == LockTimeout &&
		conn->parallel_workers == dbscale_node_parallel_workers && strcmp(conn->timezone, zone) == 0)
		return NULL;

	strlcpy(conn->timezone, zone, sizeof(conn->timezone));
	conn->date_order = DateOrder;
	conn->lock_timeout = LockTimeout;
	conn->parallel_workers = dbscale_node_parallel_workers;
	conn->settings_known = true;
	return psprintf("SELECT pg_catalog.set_config('TimeZone', %s, false), "
					"pg_catalog.set_config('DateStyle', 'ISO, %s', false), "
					"pg_catalog.set_config('lock_timeout', '%d', false)%s",
					quote_literal_cstr(zone), date_order_name(DateOrder), LockTimeout,
					set_parallel_workers(conn));
}
