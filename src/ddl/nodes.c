/*
 * nodes.c
 *		add_node, add_local_node, remove_node, disable_node, enable_node,
 *		set_node_capacity, grant_node_access.
 *
 * A node is three things: a foreign server of the node's name, user mappings on it,
 * and a row of dbscale.node.  Adding one makes the server and the caller's mapping,
 * connects and checks through them (node_check.c), and only then registers it and
 * makes the schema on the node; a failure on the way rolls all of that back.
 *
 * Options with passwords in them never become SQL text here, because SQL text shows
 * in the context of errors: mappings are made by calling the command's own function.
 */
#include "ddl/nodes.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/syscache.h"

DBSCALE_FUNCTION(dbscale_add_node);
DBSCALE_FUNCTION(dbscale_add_local_node);
DBSCALE_FUNCTION(dbscale_remove_node);
DBSCALE_FUNCTION(dbscale_set_node_state);
DBSCALE_FUNCTION(dbscale_set_node_capacity);
DBSCALE_FUNCTION(dbscale_grant_node_access);

/* As the CHECK of dbscale.node has it. */
#define MAX_CAPACITY 1000000

/* Options that belong to the user mapping; all others are the server's. */
static const char *const mapping_options[] = {
	"user", "password", "sslpassword", "password_required", NULL
};

static void
require_superuser(const char *what)
{
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to %s", what),
				 errdetail("Nodes hold connection data of other servers: only a superuser may change them.")));
}

static char *
required_name(FunctionCallInfo fcinfo, int arg, const char *what)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", what)));
	return NameStr(*PG_GETARG_NAME(arg));
}

static char *
required_text(FunctionCallInfo fcinfo, int arg, const char *what)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", what)));
	return text_to_cstring(PG_GETARG_TEXT_PP(arg));
}

static DefElem *
option(const char *name, const char *value)
{
	return makeDefElem(pstrdup(name), (Node *) makeString(pstrdup(value)), -1);
}

static bool
has_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
		if (strcmp(((DefElem *) lfirst(lc))->defname, name) == 0)
			return true;
	return false;
}

/* Split 'key=value' strings into the server's and the mapping's options. */
static void
split_options(ArrayType *array, List **server, List **mapping)
{
	Datum	   *items;
	bool	   *nulls;
	int			count;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &items, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		char	   *item = nulls[i] ? NULL : TextDatumGetCString(items[i]);
		char	   *equals = item ? strchr(item, '=') : NULL;
		List	  **list = server;

		if (equals == NULL || equals == item)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option %d is not of the form key=value", i + 1)));
		*equals = '\0';
		for (int k = 0; mapping_options[k]; k++)
			if (strcmp(item, mapping_options[k]) == 0)
				list = mapping;
		*list = lappend(*list, option(item, equals + 1));
	}
}

static Oid
create_server(const char *node, List *options)
{
	CreateForeignServerStmt *stmt = makeNode(CreateForeignServerStmt);
	Oid			serverid;

	stmt->servername = pstrdup(node);
	stmt->fdwname = DBSCALE_FDW_NAME;
	stmt->options = options;
	serverid = CreateForeignServer(stmt).objectId;
	CommandCounterIncrement();
	return serverid;
}

static RoleSpec *
role_spec(Oid roleid)
{
	RoleSpec   *spec = makeNode(RoleSpec);

	spec->location = -1;
	if (OidIsValid(roleid))
	{
		spec->roletype = ROLESPEC_CSTRING;
		spec->rolename = GetUserNameFromId(roleid, false);
	}
	else
		spec->roletype = ROLESPEC_PUBLIC;
	return spec;
}

static void
drop_mapping(const char *node, Oid roleid)
{
	DropUserMappingStmt *drop = makeNode(DropUserMappingStmt);

	drop->user = role_spec(roleid);
	drop->servername = pstrdup(node);
	RemoveUserMapping(drop);
	CommandCounterIncrement();
}

/* A mapping with these options, instead of any that the role has on the node. */
static void
set_mapping(const char *node, Oid roleid, List *options)
{
	CreateUserMappingStmt *create = makeNode(CreateUserMappingStmt);

	if (SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(roleid),
							  ObjectIdGetDatum(get_foreign_server_oid(node, false))))
		drop_mapping(node, roleid);
	create->user = role_spec(roleid);
	create->servername = pstrdup(node);
	create->options = options;
	CreateUserMapping(create);
	CommandCounterIncrement();
}

/* Roles with a mapping on the server: a list of OIDs, 0 for PUBLIC. */
static List *
mapped_roles(Oid serverid)
{
	Relation	rel = table_open(UserMappingRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	List	   *roles = NIL;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_user_mapping form = (Form_pg_user_mapping) GETSTRUCT(tuple);

		if (form->umserver == serverid)
			roles = lappend_oid(roles, form->umuser);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return roles;
}

/* Whoever may use another node may use the new one, in the same way. */
static void
copy_mappings(const char *node, Oid serverid)
{
	List	   *done = mapped_roles(serverid);
	ListCell   *lc,
			   *lc2;

	foreach(lc, dbscale_catalog_nodes())
	{
		const ShardNode *other = lfirst(lc);

		if (other->serverid == serverid)
			continue;
		foreach(lc2, mapped_roles(other->serverid))
		{
			Oid			roleid = lfirst_oid(lc2);

			if (list_member_oid(done, roleid))
				continue;
			set_mapping(node, roleid,
						copyObject(GetUserMapping(roleid, other->serverid)->options));
			if (OidIsValid(roleid))
				dbscale_ddl_execute(psprintf("GRANT USAGE ON FOREIGN SERVER %s TO %s",
											 quote_identifier(node),
											 quote_identifier(GetUserNameFromId(roleid, false))));
			done = lappend_oid(done, roleid);
		}
	}
}

static void
check_name_is_free(const char *node)
{
	if (node[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("the node's name must not be empty")));
	if (dbscale_catalog_node(node))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("node \"%s\" already exists", node)));
	if (OidIsValid(get_foreign_server_oid(node, true)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("foreign server \"%s\" already exists", node),
				 errdetail("A node is a foreign server of the same name."),
				 errhint("Choose another name for the node.")));
}

/* Nodes are added one at a time, and not while a table is being distributed. */
static void
lock_nodes(void)
{
	dbscale_ddl_execute("LOCK TABLE dbscale.node, dbscale.distributed_table IN SHARE ROW EXCLUSIVE MODE");
}

/* The node's row, its schema, the mappings of others, the reference tables. */
static void
register_node(const char *node, Oid serverid, Oid userid, bool local)
{
	RemoteConnection *conn;

	dbscale_ddl_execute(psprintf("INSERT INTO dbscale.node (node, is_local) VALUES (%s, %s)",
								 quote_literal_cstr(node), local ? "true" : "false"));
	copy_mappings(node, serverid);

	conn = dbscale_transaction_connection(serverid, userid, REMOTE_WRITE);
	dbscale_remote_execute(conn, "CREATE SCHEMA IF NOT EXISTS " DBSCALE_SHARDS_SCHEMA,
						   REMOTE_NO_PARAMS, NULL);
	dbscale_remote_execute(conn, psprintf("COMMENT ON SCHEMA " DBSCALE_SHARDS_SCHEMA " IS %s",
										  quote_literal_cstr(dbscale_node_mark(node))),
						   REMOTE_NO_PARAMS, NULL);
	CommandCounterIncrement();
	dbscale_ddl_copy_references_to(dbscale_catalog_require_node(node, true));
}

/*
 * An error is logged with the statement, and the statement has a password: not while
 * this lasts.  It ends with AtEOXact_GUC, or with the transaction.
 */
static int
hide_statement(void)
{
	int			level = NewGUCNestLevel();

	(void) set_config_option("log_min_error_statement", "panic", PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	return level;
}

Datum
dbscale_add_node(PG_FUNCTION_ARGS)
{
	char	   *node = required_name(fcinfo, 0, "the node's name");
	char	   *host = required_text(fcinfo, 1, "host");
	int			port = PG_ARGISNULL(2) ? 5432 : PG_GETARG_INT32(2);
	char	   *dbname = required_text(fcinfo, 3, "dbname");
	List	   *server = NIL;
	List	   *mapping = NIL;
	Oid			serverid;
	int			level = hide_statement();

	require_superuser("add a node");
	if (port < 1 || port > 65535)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("port %d is outside 1 to 65535", port)));
	lock_nodes();
	check_name_is_free(node);

	server = list_make3(option("host", host), option("port", psprintf("%d", port)),
						option("dbname", dbname));
	if (!PG_ARGISNULL(4))
		split_options(PG_GETARG_ARRAYTYPE_P(4), &server, &mapping);
	if (!has_option(mapping, "user"))
		mapping = lappend(mapping, option("user", GetUserNameFromId(GetUserId(), false)));

	serverid = create_server(node, server);
	set_mapping(node, GetUserId(), mapping);
	dbscale_node_check(node, serverid, GetUserId());
	register_node(node, serverid, GetUserId(), false);
	AtEOXact_GUC(true, level);
	PG_RETURN_VOID();
}

/* Give the failure to reach our own server a hint: usually pg_hba.conf wants a password. */
static void
connect_to_self(Oid serverid)
{
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		(void) dbscale_remote_connect(serverid, GetUserId());
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		FlushErrorState();
		edata->hint = psprintf("A local node is reached over the server's own socket as role \"%s\": allow that in pg_hba.conf (peer or trust), or use dbscale.add_node() with user and password.",
							   GetUserNameFromId(GetUserId(), false));
		ReThrowError(edata);
	}
	PG_END_TRY();
}

Datum
dbscale_add_local_node(PG_FUNCTION_ARGS)
{
	char	   *node = required_name(fcinfo, 0, "the node's name");
	Oid			userid = GetUserId();
	List	   *server;
	Oid			serverid;

	require_superuser("add a node");
	lock_nodes();
	check_name_is_free(node);
	if (strcmp(GetConfigOption("max_prepared_transactions", false, false), "0") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this server cannot prepare transactions"),
				 errdetail("Its max_prepared_transactions is 0, and writes that touch several nodes are prepared on each."),
				 errhint("Set max_prepared_transactions to at least max_connections in postgresql.conf, and restart the server.")));

	server = list_make3(option("host", dbscale_local_host()),
						option("port", GetConfigOption("port", false, false)),
						option("dbname", get_database_name(MyDatabaseId)));
	serverid = create_server(node, server);
	set_mapping(node, userid, list_make1(option("user", GetUserNameFromId(userid, false))));
	connect_to_self(serverid);
	dbscale_node_set_database(node, dbscale_local_database_create(node, serverid, userid));
	dbscale_node_check(node, serverid, userid);
	register_node(node, serverid, userid, true);
	PG_RETURN_VOID();
}

/* Refused while the node holds shards: the message lists the first tables. */
static void
check_holds_no_shards(const char *node)
{
	char	   *tables = dbscale_ddl_query_value(psprintf(
		"SELECT pg_catalog.string_agg(line, ', ') FROM (SELECT pg_catalog.format('%%s (%%s)', relation, count(*)) AS line "
		"FROM dbscale.shard JOIN dbscale.distributed_table USING (group_id) "
		"WHERE node = %s GROUP BY relation ORDER BY relation::text LIMIT 10) t",
		quote_literal_cstr(node)));
	char	   *shards = dbscale_ddl_query_value(psprintf(
		"SELECT nullif(count(*), 0) FROM dbscale.shard WHERE node = %s", quote_literal_cstr(node)));

	if (shards)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("node \"%s\" holds shards", node),
				 errdetail("Tables and their shards on it: %s.", tables ? tables : shards),
				 errhint("Undistribute or drop these tables first.")));
}

/* What dbscale made on the node: the copies of reference tables, and its schema. */
static void
clean_node(const ShardNode *node)
{
	RemoteConnection *conn = dbscale_transaction_connection(node->serverid, GetUserId(), REMOTE_WRITE);
	char	   *left;
	ListCell   *lc;

	foreach(lc, dbscale_catalog_tables())
	{
		const DistributedTable *table = lfirst(lc);

		if (table->is_reference)
			dbscale_remote_execute(conn, psprintf("DROP TABLE IF EXISTS %s CASCADE",
												  quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA, table->stored_name)),
								   REMOTE_NO_PARAMS, NULL);
	}
	left = dbscale_remote_query_value(conn,
									  "SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
									  "WHERE n.nspname = 'dbscale_shards'", REMOTE_NO_PARAMS);
	if (left == NULL || strcmp(left, "0") == 0)
		dbscale_remote_execute(conn, "DROP SCHEMA IF EXISTS " DBSCALE_SHARDS_SCHEMA,
							   REMOTE_NO_PARAMS, NULL);
	else
		ereport(NOTICE,
				(errmsg("schema \"%s\" is left on node \"%s\"", DBSCALE_SHARDS_SCHEMA, NameStr(node->name)),
				 errdetail("It has relations in it that dbscale does not know.")));
}

/*
 * A node that is gone for good must be removable too, so failing to connect is a
 * NOTICE here.  Only connecting: once connected, errors are errors.
 */
static bool
can_connect(const ShardNode *node)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile bool connected = false;

	if (!node->enabled)
	{
		ereport(NOTICE,
				(errmsg("node \"%s\" is disabled: nothing is cleaned up on it", NameStr(node->name))));
		return false;
	}
	PG_TRY();
	{
		(void) dbscale_remote_connect(node->serverid, GetUserId());
		connected = true;
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(edata->sqlerrcode) != ERRCODE_CONNECTION_EXCEPTION)
			PG_RE_THROW();
		FlushErrorState();
		ereport(NOTICE,
				(errmsg("node \"%s\" cannot be reached: nothing is cleaned up on it", NameStr(node->name)),
				 errdetail_internal("%s", edata->message)));
		FreeErrorData(edata);
	}
	PG_END_TRY();
	return connected;
}

Datum
dbscale_remove_node(PG_FUNCTION_ARGS)
{
	char	   *name = required_name(fcinfo, 0, "the node's name");
	const ShardNode *node;
	ListCell   *lc;

	require_superuser("remove a node");
	lock_nodes();
	node = dbscale_catalog_require_node(name, false);
	check_holds_no_shards(name);

	if (can_connect(node))
	{
		if (!node->local || IsTransactionBlock())
			clean_node(node);
		if (node->local)
			dbscale_local_database_drop(name, node->serverid, GetUserId());
	}
	dbscale_ddl_execute(psprintf("DELETE FROM dbscale.node WHERE node = %s", quote_literal_cstr(name)));
	foreach(lc, mapped_roles(node->serverid))
		drop_mapping(name, lfirst_oid(lc));
	dbscale_ddl_execute(psprintf("DROP SERVER %s CASCADE", quote_identifier(name)));
	PG_RETURN_VOID();
}

/* disable_node and enable_node; enabling checks that the node answers. */
Datum
dbscale_set_node_state(PG_FUNCTION_ARGS)
{
	char	   *name = required_name(fcinfo, 0, "the node's name");
	char	   *state = text_to_cstring(PG_GETARG_TEXT_PP(1));
	bool		enable = strcmp(state, "enabled") == 0;
	const ShardNode *node;

	require_superuser(enable ? "enable a node" : "disable a node");
	node = dbscale_catalog_require_node(name, false);
	dbscale_ddl_execute(psprintf("UPDATE dbscale.node SET state = %s WHERE node = %s",
								 quote_literal_cstr(state), quote_literal_cstr(name)));
	/* connections to a disabled node are refused, so it is asked once it is not */
	if (enable && !node->enabled)
		(void) dbscale_remote_query_value(dbscale_remote_connect(node->serverid, dbscale_ddl_node_user(node)),
										  "SELECT 1", REMOTE_NO_PARAMS);
	PG_RETURN_VOID();
}

Datum
dbscale_set_node_capacity(PG_FUNCTION_ARGS)
{
	char	   *name = required_name(fcinfo, 0, "the node's name");
	float4		capacity;

	require_superuser("set a node's capacity");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the node's capacity must not be NULL")));
	capacity = PG_GETARG_FLOAT4(1);
	/* written so that NaN is refused */
	if (!(capacity > 0 && capacity <= MAX_CAPACITY))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a node's capacity must be above 0 and at most %d", MAX_CAPACITY),
				 errdetail("It is relative to that of the other nodes, which is 1 by default."),
				 errhint("To keep shards off a node, disable or drain it.")));
	(void) dbscale_catalog_require_node(name, false);
	dbscale_ddl_execute(psprintf("UPDATE dbscale.node SET capacity = %s WHERE node = %s",
								 quote_literal_cstr(DatumGetCString(DirectFunctionCall1(float4out, Float4GetDatum(capacity)))),
								 quote_literal_cstr(name)));
	PG_RETURN_VOID();
}

static const char *
option_value(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst(lc);

		if (strcmp(def->defname, name) == 0)
			return defGetString(def);
	}
	return NULL;
}

/*
 * The options for a role on one node.  Without a password of its own it becomes the
 * node's service user, as the server's owner is.  If that one has no password either,
 * the role rides on what lets the owner in (trust, peer, a certificate), which core's
 * rule forbids to all but superusers; a superuser calling this function is the
 * explicit permission that password_required 'false' stands for.
 */
static List *
granted_options(const ShardNode *node, const char *remote_user, const char *password)
{
	Oid			owner = dbscale_ddl_node_user(node);
	List	   *service = GetUserMapping(owner, node->serverid)->options;
	const char *user = option_value(service, "user");
	List	   *options;

	if (remote_user == NULL && password == NULL)
		password = option_value(service, "password");
	if (remote_user == NULL)
		remote_user = user ? user : GetUserNameFromId(owner, false);
	options = list_make1(option("user", remote_user));
	if (password)
		return lappend(options, option("password", password));
	return lappend(options, option("password_required", "false"));
}

Datum
dbscale_grant_node_access(PG_FUNCTION_ARGS)
{
	Oid			roleid;
	char	   *remote_user = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *password = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	int			level = hide_statement();
	ListCell   *lc;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("role must not be NULL")));
	roleid = PG_GETARG_OID(0);
	require_superuser("grant access to nodes");
	if (dbscale_catalog_nodes() == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there are no nodes"),
				 errhint("Add one with dbscale.add_node() or dbscale.add_local_node().")));

	foreach(lc, dbscale_catalog_nodes())
	{
		const ShardNode *node = lfirst(lc);
		const char *name = NameStr(node->name);

		/* the owner's own mapping is the service user's: never overwritten by itself */
		if (roleid == dbscale_ddl_node_user(node) && remote_user == NULL && password == NULL)
			continue;
		set_mapping(name, roleid, granted_options(node, remote_user, password));
		dbscale_ddl_execute(psprintf("GRANT USAGE ON FOREIGN SERVER %s TO %s",
									 quote_identifier(name),
									 quote_identifier(GetUserNameFromId(roleid, false))));
	}
	AtEOXact_GUC(true, level);
	PG_RETURN_VOID();
}
