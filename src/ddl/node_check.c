/*
 * node_check.c
 *		Whether a database can be a node.
 *
 * The same query is run here and there, and the answers are compared: encoding and
 * collation must agree, because rows that the node has sorted are merged here; and
 * the server must be able to prepare transactions, because writes are atomic over
 * nodes.  A node carries a mark, the comment of its schema dbscale_shards: by it a
 * database that is a node already is known under any name and address.
 */
#include "ddl/nodes.h"

#include "access/xlog.h"
#include "catalog/pg_control.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"

/* Columns of the query below. */
enum
{
	FACT_ENCODING,
	FACT_PROVIDER,
	FACT_COLLATE,
	FACT_CTYPE,
	FACT_LOCALE,
	FACT_RULES,
	FACT_COLLATION_VERSION,
	FACT_SERVER,				/* system identifier and start time: the same only on one server */
	FACT_DATABASE,
	FACT_PREPARED,
	FACT_WAL_LEVEL,
	FACT_EXTENSION,
	FACT_MARK,
	FACT_TABLES,
	FACT_COUNT
};

#define J(column) "j OPERATOR(pg_catalog.->>) '" column "'"

static const char facts_sql[] =
"SELECT pg_catalog.pg_encoding_to_char(d.encoding), " J("datlocprovider") ", " J("datcollate") ", " J("datctype") ", "
"COALESCE(" J("datlocale") ", " J("daticulocale") "), " J("daticurules") ", " J("datcollversion") ", "
"(SELECT system_identifier FROM pg_catalog.pg_control_system()) || ' ' || extract(epoch FROM pg_catalog.pg_postmaster_start_time()), "
"d.datname, pg_catalog.current_setting('max_prepared_transactions'), pg_catalog.current_setting('wal_level'), "
"(SELECT 1 FROM pg_catalog.pg_extension WHERE extname = 'dbscale'), "
"(SELECT pg_catalog.obj_description(oid, 'pg_namespace') FROM pg_catalog.pg_namespace WHERE nspname = 'dbscale_shards'), "
"(SELECT pg_catalog.count(*) FROM pg_catalog.pg_class WHERE relnamespace IN "
"(SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'dbscale_shards')) "
"FROM pg_catalog.pg_database d, LATERAL (SELECT pg_catalog.to_jsonb(d) AS j) x WHERE d.datname = pg_catalog.current_database()";

/* The facts as text; NULL for SQL NULL. */
static char **
local_facts(void)
{
	MemoryContext caller = CurrentMemoryContext;
	char	  **facts = palloc0(sizeof(char *) * FACT_COUNT);
	int			level;

	SPI_connect();
	level = dbscale_ddl_set_safe_path();
	if (SPI_execute(facts_sql, true, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not read the facts about this database");
	for (int i = 0; i < FACT_COUNT; i++)
	{
		char	   *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1);

		facts[i] = value ? MemoryContextStrdup(caller, value) : NULL;
	}
	AtEOXact_GUC(true, level);
	SPI_finish();
	return facts;
}

static char **
remote_facts(RemoteConnection *conn)
{
	char	  **facts = palloc0(sizeof(char *) * FACT_COUNT);
	RemoteStatement *stmt = dbscale_remote_send(conn, facts_sql, REMOTE_NO_PARAMS, 0, NULL);
	RemoteRow	row;

	if (!dbscale_remote_next_row(stmt, &row) || row.nfields != FACT_COUNT)
		elog(ERROR, "could not read the facts about a node");
	for (int i = 0; i < FACT_COUNT; i++)
		facts[i] = row.values[i] ? pstrdup(row.values[i]) : NULL;
	dbscale_remote_close(stmt);
	return facts;
}

static bool
same_text(const char *a, const char *b)
{
	return (a == NULL && b == NULL) || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

/* "libc, C, C" and the like, for messages. */
static char *
describe_locale(char **facts)
{
	const char *provider = facts[FACT_PROVIDER];
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, "provider %s, collate \"%s\", ctype \"%s\"",
					 provider[0] == 'i' ? "icu" : provider[0] == 'b' ? "builtin" : "libc",
					 facts[FACT_COLLATE], facts[FACT_CTYPE]);
	if (facts[FACT_LOCALE])
		appendStringInfo(&text, ", locale \"%s\"", facts[FACT_LOCALE]);
	if (facts[FACT_RULES])
		appendStringInfo(&text, ", rules \"%s\"", facts[FACT_RULES]);
	return text.data;
}

static void
check_version(const char *node, RemoteConnection *conn)
{
	int			version = dbscale_remote_version(conn);

	if (version < 150000)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("node \"%s\" is too old", node),
				 errdetail("It runs PostgreSQL %d, and a node needs 15 or later.", version / 10000)));
}

static void
check_locale(const char *node, char **ours, char **theirs)
{
	if (!same_text(ours[FACT_ENCODING], theirs[FACT_ENCODING]))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("node \"%s\" has another encoding", node),
				 errdetail("Its database has encoding %s, the coordinator's %s.",
						   theirs[FACT_ENCODING], ours[FACT_ENCODING]),
				 errhint("Create the node's database with TEMPLATE template0 ENCODING '%s'.",
						 ours[FACT_ENCODING])));

	for (int i = FACT_PROVIDER; i <= FACT_RULES; i++)
		if (!same_text(ours[i], theirs[i]))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("node \"%s\" has another collation", node),
					 errdetail("Its database has %s; the coordinator's has %s.",
							   describe_locale(theirs), describe_locale(ours)),
					 errhint("Rows sorted by nodes are merged on the coordinator: create the node's database with the same locale.")));

	if (ours[FACT_COLLATION_VERSION] && theirs[FACT_COLLATION_VERSION] &&
		!same_text(ours[FACT_COLLATION_VERSION], theirs[FACT_COLLATION_VERSION]))
		ereport(WARNING,
				(errmsg("node \"%s\" has another version of the collation", node),
				 errdetail("Its database's is %s, the coordinator's %s; the order of some strings may differ.",
						   theirs[FACT_COLLATION_VERSION], ours[FACT_COLLATION_VERSION])));
}

static void
check_identity(const char *node, char **ours, char **theirs)
{
	ListCell   *lc;

	if (same_text(ours[FACT_SERVER], theirs[FACT_SERVER]) &&
		same_text(ours[FACT_DATABASE], theirs[FACT_DATABASE]))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("node \"%s\" is the coordinator itself", node),
				 errdetail("Its database is the one that this session is connected to."),
				 errhint("Use another database; dbscale.add_local_node() creates one in this server.")));

	if (theirs[FACT_EXTENSION])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("node \"%s\" is a coordinator", node),
				 errdetail("Its database has the extension dbscale."),
				 errhint("Use a database without it: nothing of dbscale is installed on a node.")));

	foreach(lc, dbscale_catalog_nodes())
	{
		const ShardNode *other = lfirst(lc);

		if (strcmp(NameStr(other->name), node) != 0 &&
			same_text(theirs[FACT_MARK], dbscale_node_mark(NameStr(other->name))))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("database \"%s\" is a node already", theirs[FACT_DATABASE]),
					 errdetail("It was added as node \"%s\".", NameStr(other->name))));
	}

	if (strcmp(theirs[FACT_TABLES], "0") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("schema \"%s\" of node \"%s\" is not empty", DBSCALE_SHARDS_SCHEMA, node),
				 errdetail("The database holds shards of another coordinator, or of an earlier one."),
				 errhint("Use another database, or drop the schema there if nobody needs it.")));
}

static void
check_settings(const char *node, char **theirs)
{
	if (strcmp(theirs[FACT_PREPARED], "0") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("node \"%s\" cannot prepare transactions", node),
				 errdetail("Its max_prepared_transactions is 0, and writes that touch several nodes are prepared on each."),
				 errhint("Set max_prepared_transactions to at least max_connections in its postgresql.conf, and restart it.")));

	if (strcmp(theirs[FACT_WAL_LEVEL], "logical") != 0)
		ereport(NOTICE,
				(errmsg("node \"%s\" has wal_level %s", node, theirs[FACT_WAL_LEVEL]),
				 errdetail("Shards cannot be moved from it while they are written to."),
				 errhint("Set wal_level to logical in its postgresql.conf, and restart it.")));
}

char *
dbscale_node_mark(const char *node)
{
	return psprintf("dbscale: node \"%s\" of coordinator " UINT64_FORMAT "/%u",
					node, GetSystemIdentifier(), MyDatabaseId);
}

void
dbscale_node_check(const char *node, Oid serverid, Oid userid)
{
	RemoteConnection *conn = dbscale_remote_connect(serverid, userid);
	char	  **ours,
			  **theirs;

	check_version(node, conn);
	ours = local_facts();
	theirs = remote_facts(conn);
	check_locale(node, ours, theirs);
	check_identity(node, ours, theirs);
	check_settings(node, theirs);
}
