/*
 * local_node.c
 *		The databases of local nodes: created and dropped in this server.
 *
 * CREATE DATABASE and DROP DATABASE cannot run in a transaction block, and a
 * function always runs in one.  So they are sent over a connection of remote/, as
 * statements to this very server: the node's foreign server is made to lead to the
 * current database for as long as that takes, and to the node's own afterwards.
 *
 * Their work stays when the calling transaction is rolled back.  What that leaves
 * behind is an empty database with a comment that names its node; the next
 * add_local_node() of that name takes it.  A database with anything in it is never
 * taken and never dropped: a new node then gets a name with a number.
 */
#include "ddl/nodes.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "utils/builtins.h"
#include "utils/varlena.h"

/* The comment on a local node's database: what makes a leftover known as ours. */
static char *
database_mark(const char *node)
{
	return psprintf("dbscale: node \"%s\" of database \"%s\" (%u)", node,
					get_database_name(MyDatabaseId), MyDatabaseId);
}

char *
dbscale_local_host(void)
{
	char	   *directories = pstrdup(Unix_socket_directories ? Unix_socket_directories : "");
	List	   *list;

	if (!SplitDirectoriesString(directories, ',', &list) || list == NIL)
		return "localhost";
	return linitial(list);
}

static char *
database_value(const char *format, const char *database)
{
	return dbscale_ddl_query_value(psprintf(format, quote_literal_cstr(database)));
}

/* The text of CREATE DATABASE: like the current one, whatever its locale provider. */
static char *
create_database_sql(const char *database)
{
	return dbscale_ddl_query_value(psprintf(
		"SELECT pg_catalog.format('CREATE DATABASE %%I TEMPLATE template0 ENCODING %%L LC_COLLATE %%L LC_CTYPE %%L', "
		"  %s, pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate, d.datctype) "
		"|| CASE d.datlocprovider "
		"   WHEN 'i' THEN pg_catalog.format(' LOCALE_PROVIDER icu ICU_LOCALE %%L', l.locale) "
		"     || COALESCE(pg_catalog.format(' ICU_RULES %%L', l.rules), '') "
		"   WHEN 'b' THEN pg_catalog.format(' LOCALE_PROVIDER builtin BUILTIN_LOCALE %%L', l.locale) "
		"   ELSE ' LOCALE_PROVIDER libc' END "
		"FROM pg_catalog.pg_database d, LATERAL (SELECT pg_catalog.to_jsonb(d) AS j) x, "
		"LATERAL (SELECT COALESCE(j OPERATOR(pg_catalog.->>) 'datlocale', j OPERATOR(pg_catalog.->>) 'daticulocale') AS locale, "
		"  j OPERATOR(pg_catalog.->>) 'daticurules' AS rules) l "
		"WHERE d.datname = pg_catalog.current_database()",
		quote_literal_cstr(database)));
}

char *
dbscale_node_option(Oid serverid, const char *name)
{
	ForeignServer *server = GetForeignServer(serverid);
	ListCell   *lc;

	foreach(lc, server->options)
	{
		DefElem    *option = lfirst(lc);

		if (strcmp(option->defname, name) == 0)
			return defGetString(option);
	}
	return NULL;
}

void
dbscale_node_set_database(const char *node, const char *dbname)
{
	dbscale_ddl_execute(psprintf("ALTER SERVER %s OPTIONS (SET dbname %s)",
								 quote_identifier(node), quote_literal_cstr(dbname)));
	CommandCounterIncrement();
}

/* A statement to this server outside our transaction: the server leads to our own database. */
static void
run_outside(Oid serverid, Oid userid, const char *sql)
{
	RemoteConnection *conn = dbscale_remote_connect(serverid, userid);

	dbscale_remote_execute(conn, sql, REMOTE_NO_PARAMS, NULL);
}

/* True when the database holds nothing of a user's and nothing of dbscale's. */
static bool
database_is_empty(const char *node, const char *database, Oid serverid, Oid userid)
{
	RemoteConnection *conn;
	char	   *found;

	dbscale_remote_disconnect(dbscale_remote_connect(serverid, userid));
	dbscale_node_set_database(node, database);
	conn = dbscale_remote_connect(serverid, userid);
	found = dbscale_remote_query_value(conn,
									   "SELECT 1 FROM pg_catalog.pg_class c "
									   "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
									   "WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' LIMIT 1",
									   REMOTE_NO_PARAMS);
	dbscale_remote_disconnect(conn);
	dbscale_node_set_database(node, get_database_name(MyDatabaseId));
	return found == NULL;
}

/* A leftover of ours may be taken when no node uses it and nothing is in it. */
static bool
can_take(const char *node, const char *database, Oid serverid, Oid userid)
{
	char	   *mark = database_value("SELECT pg_catalog.shobj_description(oid, 'pg_database') "
									  "FROM pg_catalog.pg_database WHERE datname = %s", database);

	if (mark == NULL || strcmp(mark, database_mark(node)) != 0)
		return false;
	return database_is_empty(node, database, serverid, userid);
}

char *
dbscale_local_database_create(const char *node, Oid serverid, Oid userid)
{
	char	   *base = psprintf("dbscale_%s", get_database_name(MyDatabaseId));

	for (int i = 1;; i++)
	{
		char		suffix[16];
		char	   *database;

		snprintf(suffix, sizeof(suffix), "%d", i);
		database = makeObjectName(base, node, i == 1 ? NULL : suffix);
		if (!database_value("SELECT 1 FROM pg_catalog.pg_database WHERE datname = %s", database))
		{
			run_outside(serverid, userid, create_database_sql(database));
			run_outside(serverid, userid,
						psprintf("COMMENT ON DATABASE %s IS %s", quote_identifier(database),
								 quote_literal_cstr(database_mark(node))));
			return database;
		}
		if (can_take(node, database, serverid, userid))
			return database;
	}
}

void
dbscale_local_database_drop(const char *node, Oid serverid, Oid userid)
{
	char	   *database = dbscale_node_option(serverid, "dbname");

	/*
	 * In a transaction block the user may still roll back, and then the node
	 * would be back without its database.
	 */
	if (IsTransactionBlock())
	{
		ereport(NOTICE,
				(errmsg("database \"%s\" of local node \"%s\" is left", database, node),
				 errhint("After the transaction has been committed, run DROP DATABASE %s WITH (FORCE).",
						 quote_identifier(database))));
		return;
	}

	/* FORCE: other sessions may hold idle connections to the node. */
	dbscale_remote_disconnect(dbscale_remote_connect(serverid, userid));
	dbscale_node_set_database(node, get_database_name(MyDatabaseId));
	run_outside(serverid, userid,
				psprintf("DROP DATABASE IF EXISTS %s WITH (FORCE)", quote_identifier(database)));
}
