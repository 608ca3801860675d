/*
 * session.c
 *		The node's session: settings that change results are the coordinator's.
 *
 * Some are the same for ever and told once, when the connection is made: names are
 * always qualified, values travel in the unambiguous forms, the node's own limits and
 * defaults do not apply.
 * Others follow this session and are told again whenever they have changed: the
 * time zone, the order of day and month, the lock timeout, the parallel workers of a
 * statement.  A rollback on the node may undo them, so whoever sees one (or an error)
 * forgets that they are known.  They travel in a group of their own ahead of the
 * statement, so that a failing statement outside a transaction does not undo them.
 */
#include "remote/internal.h"

#include <ctype.h>

#include "access/xlog.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/builtins.h"

typedef struct FixedSetting
{
	const char *name;
	const char *value;
} FixedSetting;

static const FixedSetting fixed_settings[] = {
	{"search_path", "pg_catalog"},
	{"IntervalStyle", "postgres"},
	{"extra_float_digits", "3"},
	{"bytea_output", "hex"},
	{"array_nulls", "on"},
	{"xmloption", "content"},
	{"transform_null_equals", "off"},
	/* a statement may have a branch for each shard, and would be compiled as often */
	{"jit", "off"},
	/* cursors are read to their end */
	{"cursor_tuple_fraction", "1"},
	{"standard_conforming_strings", "on"},
	{"client_min_messages", "error"},
	{"statement_timeout", "0"},
	{"idle_in_transaction_session_timeout", "0"},
	{"idle_session_timeout", "0"},
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_read_only", "off"},
	{"default_transaction_deferrable", "off"}
};

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

/* The deadlock detector finds this backend by the application name. */
static char *
application_name(void)
{
	return psprintf("dbscale " UINT64_FORMAT " %u %d", GetSystemIdentifier(), MyDatabaseId, MyProcPid);
}

/* What follows this session is now told. */
static void
note_session(RemoteConnection *conn)
{
	strlcpy(conn->timezone, pg_get_timezone_name(session_timezone), sizeof(conn->timezone));
	conn->date_order = DateOrder;
	conn->lock_timeout = LockTimeout;
	conn->parallel_workers = dbscale_node_parallel_workers;
	conn->settings_known = true;
}

/* " -c name=value", with what separates options escaped. */
static void
append_option(StringInfo options, const char *name, const char *value)
{
	appendStringInfo(options, " -c %s=", name);
	for (; *value != '\0'; value++)
	{
		if (*value == '\\' || isspace((unsigned char) *value))
			appendStringInfoChar(options, '\\');
		appendStringInfoChar(options, *value);
	}
}

/*
 * The settings as libpq's connection parameter "options", after what the server's own
 * options say there: a new connection needs no round trip, and no statement, for them.
 */
char *
remote_session_startup(RemoteConnection *conn, const char *options_of_server)
{
	StringInfoData options;

	initStringInfo(&options);
	if (options_of_server)
		appendStringInfoString(&options, options_of_server);
	if (conn->plain_startup)
		return options.data;
	for (int i = 0; i < lengthof(fixed_settings); i++)
		append_option(&options, fixed_settings[i].name, fixed_settings[i].value);
	append_option(&options, "application_name", application_name());
	append_option(&options, "TimeZone", pg_get_timezone_name(session_timezone));
	append_option(&options, "DateStyle", psprintf("ISO,%s", date_order_name(DateOrder)));
	append_option(&options, "lock_timeout", psprintf("%d", LockTimeout));
	note_session(conn);
	/* not among them, for then they would be what the session goes back to */
	conn->parallel_workers = -1;
	return options.data;
}

/* A pooler says so, each in its own words, where it does not pass options on. */
bool
remote_session_startup_refused(const RemoteConnection *conn)
{
	return !conn->plain_startup && strstr(PQerrorMessage(conn->pg), "startup parameter") != NULL;
}

static char *
fixed_settings_statement(void)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT pg_catalog.set_config(s.name, s.value, false) FROM (VALUES ('application_name', %s)",
					 quote_literal_cstr(application_name()));
	for (int i = 0; i < lengthof(fixed_settings); i++)
		appendStringInfo(&sql, ", ('%s', '%s')", fixed_settings[i].name, fixed_settings[i].value);
	appendStringInfoString(&sql, ") AS s (name, value)");
	return sql.data;
}

/*
 * Sent with the connection's first statement; an error in it surfaces there.  A pooler
 * may have dropped the startup's options without a word, which shows in the application
 * name that the session reports: then all is told by statements.
 */
void
remote_session_setup(RemoteConnection *conn)
{
	const char *reported = PQparameterStatus(conn->pg, "application_name");
	bool		sent = true;

	if (reported == NULL || strcmp(reported, application_name()) != 0)
	{
		conn->settings_known = false;
		conn->workers_told = false;
		sent = remote_send_command(conn, fixed_settings_statement(), NULL) && remote_send_sync(conn);
	}
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

	note_session(conn);
	return psprintf("SELECT pg_catalog.set_config('TimeZone', %s, false), "
					"pg_catalog.set_config('DateStyle', 'ISO, %s', false), "
					"pg_catalog.set_config('lock_timeout', '%d', false)%s",
					quote_literal_cstr(zone), date_order_name(DateOrder), LockTimeout,
					set_parallel_workers(conn));
}
