/*
 * connection.c
 *		The cache of connections, and making one.
 *
 * A RemoteConnection, once made, stays at its address until the backend ends; what
 * comes and goes is the libpq connection in it.  It is replaced when it is asked
 * for outside a remote transaction and has been lost, is closed by the node, has
 * been unused for too long, or when its server or user mapping has changed.
 */
#include "remote/internal.h"

#include <poll.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/metadata.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

static HTAB *connections = NULL;
/* The same as a list, and how many of them are in remote transactions: for every statement asks. */
static dlist_head all_connections = DLIST_STATIC_INIT(all_connections);
static int	in_transactions = 0;
static List *libpq_options = NIL;	/* char *, in TopMemoryContext */

/* ---- losing and closing ---- */

static void
fail_queue(RemoteConnection *conn)
{
	while (!dlist_is_empty(&conn->queue))
	{
		QueueItem  *item = dlist_head_element(QueueItem, node, &conn->queue);
		RemoteStatement *stmt = item->statement;

		if (stmt)
		{
			stmt->error = remote_error_copy(remote_error_lost(conn, stmt->label), stmt->context);
			stmt->item = NULL;
		}
		if (item->outcome)
		{
			item->outcome->done = item->outcome->failed = true;
			item->outcome->sqlstate = ERRCODE_CONNECTION_FAILURE;
		}
		dlist_delete(&item->node);
	}
}

static void
close_connection(RemoteConnection *conn)
{
	fail_queue(conn);
	PQclear(conn->result);
	conn->result = NULL;
	if (conn->pg)
	{
		remote_forget_wait_set(conn);
		PQfinish(conn->pg);
		ReleaseExternalFD();
		conn->pg = NULL;
	}
	conn->commands = NIL;
	conn->group_error = conn->pending_error = NULL;
	conn->group_error_seen = false;
	conn->deallocate = NIL;
	conn->copy_label = NULL;
	remote_prepared_init(conn);
	dlist_init(&conn->queue);
	conn->mode = MODE_PIPELINE;
	conn->settings_known = false;
	MemoryContextReset(conn->context);
}

/* The connection is gone; who uses it from now on is told so, with this detail. */
void
remote_lose(RemoteConnection *conn, const char *detail)
{
	char	   *message = remote_clean_message(detail);

	if (conn->lost_detail)
		pfree(conn->lost_detail);
	conn->lost_detail = MemoryContextStrdup(TopMemoryContext, message);
	pfree(message);
	conn->broken = true;
	close_connection(conn);
}

void
dbscale_remote_mark_broken(RemoteConnection *conn)
{
	if (!conn->broken)
		remote_lose(conn, "");
}

static void
set_in_transaction(RemoteConnection *conn, bool value)
{
	in_transactions += (int) value - (int) conn->in_transaction;
	conn->in_transaction = value;
}

void
dbscale_remote_disconnect(RemoteConnection *conn)
{
	close_connection(conn);
	conn->broken = false;
	set_in_transaction(conn, false);
}

/* Backend exit. */
static void
close_all(int code, Datum arg)
{
	HASH_SEQ_STATUS seq;
	RemoteConnection *conn;

	hash_seq_init(&seq, connections);
	while ((conn = hash_seq_search(&seq)) != NULL)
	{
		if (conn->pg)
			PQfinish(conn->pg);
		conn->pg = NULL;
	}
}

/* ---- the parameters of a connection ---- */

/* The options that libpq itself would take, learnt once. */
static void
learn_libpq_options(void)
{
	PQconninfoOption *defaults = PQconndefaults();
	MemoryContext old;

	if (defaults == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	old = MemoryContextSwitchTo(TopMemoryContext);
	for (PQconninfoOption *o = defaults; o->keyword; o++)
	{
		if (strchr(o->dispchar, 'D') == NULL &&
			strcmp(o->keyword, "client_encoding") != 0 &&
			strcmp(o->keyword, "application_name") != 0 &&
			strcmp(o->keyword, "fallback_application_name") != 0)
			libpq_options = lappend(libpq_options, pstrdup(o->keyword));
	}
	MemoryContextSwitchTo(old);
	PQconninfoFree(defaults);
}

static bool
is_libpq_option(const char *name)
{
	ListCell   *lc;

	foreach(lc, libpq_options)
	{
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	}
	return false;
}

typedef struct ConnectionParams
{
	int			count;
	const char **keywords;
	const char **values;
} ConnectionParams;

static void
add_param(ConnectionParams *params, const char *keyword, const char *value)
{
	params->keywords[params->count] = keyword;
	params->values[params->count++] = value;
}

static void
add_options(ConnectionParams *params, List *options)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst(lc);

		if (is_libpq_option(def->defname) && strcmp(def->defname, "application_name") != 0)
			add_param(params, def->defname, defGetString(def));
	}
}

/* A machine that has died is noticed within half a minute or so, unless the server's options say else. */
static void
add_keepalives(ConnectionParams *params)
{
	add_param(params, "keepalives_idle", "20");
	add_param(params, "keepalives_interval", "5");
	add_param(params, "keepalives_count", "3");
	add_param(params, "tcp_user_timeout", "30000");
}

static const char *
last_value(const ConnectionParams *params, const char *keyword)
{
	for (int i = params->count - 1; i >= 0; i--)
	{
		if (strcmp(params->keywords[i], keyword) == 0)
			return params->values[i];
	}
	return NULL;
}

/* Of two equal keywords libpq takes the last. */
static ConnectionParams
connection_params(RemoteConnection *conn, ForeignServer *server, UserMapping *mapping)
{
	ConnectionParams params = {0};
	int			size = list_length(server->options) + list_length(mapping->options) + 8;

	if (libpq_options == NIL)
		learn_libpq_options();
	params.keywords = palloc0(size * sizeof(char *));
	params.values = palloc0(size * sizeof(char *));
	add_keepalives(&params);
	add_options(&params, server->options);
	add_options(&params, mapping->options);
	add_param(&params, "client_encoding", GetDatabaseEncodingName());
	add_param(&params, "options", remote_session_startup(conn, last_value(&params, "options")));
	if (conn->replication)
		add_param(&params, "replication", "database");
	return params;
}

/* ---- who may connect how ---- */

static const char *
mapping_option(UserMapping *mapping, const char *name)
{
	ListCell   *lc;

	foreach(lc, mapping->options)
	{
		DefElem    *def = lfirst(lc);

		if (strcmp(def->defname, name) == 0)
			return defGetString(def);
	}
	return NULL;
}

/* Must this user show that it was a password of his own that let him in? */
static bool
password_is_required(UserMapping *mapping)
{
	const char *option = mapping_option(mapping, "password_required");
	bool		required = true;

	if (superuser_arg(mapping->userid))
		return false;
	if (option)
		(void) parse_bool(option, &required);
	return required;
}

static void
refuse_password(const char *detail, const char *node)
{
	ereport(ERROR,
			(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
			 errmsg("password is required to connect to node \"%s\"", node),
			 errdetail("%s", detail),
			 errhint("Give a password with dbscale.grant_node_access, or have a superuser set password_required 'false' in the user mapping.")));
}

static UserMapping *
require_mapping(Oid userid, ForeignServer *server)
{
	if (!SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(userid),
							   ObjectIdGetDatum(server->serverid)) &&
		!SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
							   ObjectIdGetDatum(server->serverid)))
	{
		char	   *role = GetUserNameFromId(userid, false);

		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\" has no access to node \"%s\"", role, server->servername),
				 errdetail("There is no user mapping for the role on the foreign server of that name."),
				 errhint("Run SELECT dbscale.grant_node_access(%s).", quote_literal_cstr(role))));
	}
	return GetUserMapping(userid, server->serverid);
}

static void
require_enabled(Oid serverid)
{
	const ShardNode *node = dbscale_catalog_node_by_server(serverid);

	if (node && !node->enabled)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("node \"%s\" is disabled", NameStr(node->name)),
				 errhint("Run SELECT dbscale.enable_node(%s).",
						 quote_literal_cstr(NameStr(node->name)))));
}

/* A pooler before the node may lack prepared statements. */
static bool
may_prepare(ForeignServer *server)
{
	ListCell   *lc;

	foreach(lc, server->options)
	{
		DefElem    *def = lfirst(lc);

		if (strcmp(def->defname, REMOTE_PREPARED_OPTION) == 0)
			return defGetBoolean(def);
	}
	return true;
}

/* ---- connecting ---- */

static void
connect_failed(RemoteConnection *conn, const char *detail)
{
	char	   *message = remote_clean_message(detail);

	close_connection(conn);
	ereport(ERROR,
			(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
			 errmsg("could not connect to node \"%s\"", NameStr(conn->node_name)),
			 errdetail_internal("%s", message)));
}

/* One turn of the connection's state machine; waits for what libpq asked for. */
static void
poll_connection(RemoteConnection *conn, PostgresPollingStatusType status, TimestampTz deadline)
{
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
	int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT;
	int			rc;

	if (left <= 0)
		connect_failed(conn, psprintf("There was no answer within %d seconds (dbscale.connect_timeout).",
									  dbscale_connect_timeout));
	if (status == PGRES_POLLING_READING)
		events |= WL_SOCKET_READABLE;
	else
		events |= WL_SOCKET_CONNECTED;
	rc = WaitLatchOrSocket(MyLatch, events, PQsocket(conn->pg), left, PG_WAIT_EXTENSION);
	if (rc & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

static bool
wait_until_connected(RemoteConnection *conn)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   dbscale_connect_timeout * 1000L);
	PostgresPollingStatusType status = conn->polling;

	while (PQstatus(conn->pg) != CONNECTION_BAD && status != PGRES_POLLING_OK &&
		   status != PGRES_POLLING_FAILED)
	{
		poll_connection(conn, status, deadline);
		status = PQconnectPoll(conn->pg);
	}
	return PQstatus(conn->pg) == CONNECTION_OK;
}

/* Notices of a node have nobody to read them, and may hold values. */
static void
ignore_notice(void *arg, const PGresult *result)
{
}

static void
start_connecting(RemoteConnection *conn, ForeignServer *server, UserMapping *mapping)
{
	ConnectionParams params = connection_params(conn, server, mapping);

	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to node \"%s\"", server->servername),
				 errdetail("There are too many open files in this server process."),
				 errhint("Raise max_files_per_process or the operating system's limit.")));
	conn->pg = PQconnectStartParams(params.keywords, params.values, false);
	if (conn->pg == NULL)
	{
		ReleaseExternalFD();
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	}
	PQsetNoticeReceiver(conn->pg, ignore_notice, NULL);
	conn->polling = PGRES_POLLING_WRITING;
}

/*
 * An error or interrupt on the way leaves `broken` set, and so does not leave a
 * half-made connection for the next user.
 */
static void
begin_opening(RemoteConnection *conn)
{
	ForeignServer *server = GetForeignServer(conn->key.serverid);
	UserMapping *mapping = require_mapping(conn->key.userid, server);
	const char *password = mapping_option(mapping, "password");

	namestrcpy(&conn->node_name, server->servername);
	conn->server_hash = GetSysCacheHashValue1(FOREIGNSERVEROID, ObjectIdGetDatum(server->serverid));
	conn->mapping_hash = GetSysCacheHashValue1(USERMAPPINGOID, ObjectIdGetDatum(mapping->umid));
	if (password_is_required(mapping) && (password == NULL || password[0] == '\0'))
		refuse_password("The user mapping of a role that is not a superuser must have a password.",
						server->servername);

	conn->broken = true;
	conn->invalidated = false;
	conn->prepares = may_prepare(server);
	start_connecting(conn, server, mapping);
}

static void
finish_login(RemoteConnection *conn)
{
	ForeignServer *server = GetForeignServer(conn->key.serverid);
	UserMapping *mapping = require_mapping(conn->key.userid, server);
	bool		connected = wait_until_connected(conn);

	if (!connected && remote_session_startup_refused(conn))
	{
		conn->plain_startup = true;
		close_connection(conn);
		start_connecting(conn, server, mapping);
		connected = wait_until_connected(conn);
	}
	if (!connected)
		connect_failed(conn, PQerrorMessage(conn->pg));
	if (password_is_required(mapping) && !PQconnectionUsedPassword(conn->pg))
	{
		close_connection(conn);
		refuse_password("The node let the role in without asking for its password.",
						NameStr(conn->node_name));
	}
	if (PQsetnonblocking(conn->pg, 1) != 0)
		connect_failed(conn, PQerrorMessage(conn->pg));
}

static void
finish_opening(RemoteConnection *conn)
{
	finish_login(conn);
	if (!PQenterPipelineMode(conn->pg))
		connect_failed(conn, PQerrorMessage(conn->pg));
	remote_session_setup(conn);
	conn->broken = conn->pg == NULL;
}

void
remote_connect_apart(RemoteConnection *conn, Oid serverid, Oid userid)
{
	conn->key.serverid = serverid;
	conn->key.userid = userid;
	dlist_init(&conn->queue);
	remote_prepared_init(conn);
	require_enabled(serverid);
	begin_opening(conn);
	finish_login(conn);
	conn->broken = false;
}

/* Has anything come on a connection that should be quiet?  Then it is closing. */
static bool
is_stale(RemoteConnection *conn)
{
	struct pollfd fd = {.fd = PQsocket(conn->pg), .events = POLLIN};

	return PQstatus(conn->pg) != CONNECTION_OK || poll(&fd, 1, 0) != 0;
}

/* Outside a remote transaction: may the connection be used as it is? */
static bool
is_good(RemoteConnection *conn)
{
	TimestampTz now = GetCurrentStatementStartTimestamp();

	if (conn->pg == NULL || conn->broken)
		return false;
	if (conn->mode == MODE_PIPELINE)
		remote_pump(conn);
	if (conn->pg == NULL)
		return false;
	if (conn->mode != MODE_PIPELINE || !remote_is_idle(conn))
		return true;			/* busy with another statement: replaced another time */
	if (conn->invalidated ||
		TimestampDifferenceExceeds(conn->last_used, now, dbscale_idle_connection_timeout * 1000))
		return false;
	return !is_stale(conn);
}

/* ---- the cache ---- */

static void
invalidate(Datum arg, int cacheid, uint32 hash)
{
	HASH_SEQ_STATUS seq;
	RemoteConnection *conn;

	hash_seq_init(&seq, connections);
	while ((conn = hash_seq_search(&seq)) != NULL)
	{
		if (hash == 0 || hash == (cacheid == FOREIGNSERVEROID ? conn->server_hash : conn->mapping_hash))
			conn->invalidated = true;
	}
}

static void
create_cache(void)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(RemoteKey);
	ctl.entrysize = sizeof(RemoteConnection);
	ctl.hcxt = TopMemoryContext;
	connections = hash_create("dbscale connections", 16, &ctl,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, invalidate, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, invalidate, (Datum) 0);
	on_proc_exit(close_all, (Datum) 0);
}

static RemoteConnection *
lookup(Oid serverid, Oid userid)
{
	RemoteKey	key = {serverid, userid};
	RemoteConnection *conn;
	bool		found;

	if (connections == NULL)
		create_cache();
	conn = hash_search(connections, &key, HASH_ENTER, &found);
	if (!found)
	{
		memset((char *) conn + sizeof(RemoteKey), 0, sizeof(RemoteConnection) - sizeof(RemoteKey));
		dlist_push_tail(&all_connections, &conn->in_all);
		dlist_init(&conn->queue);
		remote_prepared_init(conn);
		conn->context = AllocSetContextCreate(TopMemoryContext, "dbscale connection",
											  ALLOCSET_DEFAULT_SIZES);
	}
	return conn;
}

/* Do both mappings give the same role, by the same means? */
static bool
same_access(UserMapping *a, UserMapping *b)
{
	ListCell   *lc;
	int			count = list_length(b->options);

	if (mapping_option(b, "password_required") != NULL)
		count--;
	foreach(lc, a->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);
		const char *other;

		if (strcmp(option->defname, "password_required") == 0)
			continue;
		other = mapping_option(b, option->defname);
		if (other == NULL || strcmp(other, defGetString(option)) != 0)
			return false;
		count--;
	}
	return count == 0;
}

/*
 * Within a transaction several users may act, by way of views and SECURITY DEFINER
 * functions.  Where the node knows them as one role, they share the connection of
 * the first, or one would not see, and would wait for, what another has written.
 * A user who needs a password shares only a connection that was made with his.
 */
static RemoteConnection *
find_shared(Oid serverid, Oid userid)
{
	UserMapping *mapping = NULL;
	dlist_iter	iter;

	if (in_transactions == 0)
		return NULL;
	dlist_foreach(iter, &all_connections)
	{
		RemoteConnection *conn = dlist_container(RemoteConnection, in_all, iter.cur);

		if (!conn->in_transaction || conn->pg == NULL || conn->key.serverid != serverid ||
			conn->key.userid == userid ||
			!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(conn->key.userid)))
			continue;
		if (mapping == NULL)
			mapping = require_mapping(userid, GetForeignServer(serverid));
		if (same_access(mapping, require_mapping(conn->key.userid, GetForeignServer(serverid))) &&
			(!password_is_required(mapping) || PQconnectionUsedPassword(conn->pg)))
			return conn;
	}
	return NULL;
}

/* Begun by this statement; what another one has left half made is made anew. */
static bool
is_opening(RemoteConnection *conn)
{
	return conn->pg != NULL && !conn->invalidated && conn->opening_since != 0 &&
		conn->opening_since == GetCurrentStatementStartTimestamp();
}

void
dbscale_remote_connect_ahead(Oid serverid, Oid userid)
{
	RemoteConnection *conn = lookup(serverid, userid);

	if (conn->pg != NULL || conn->in_transaction || find_shared(serverid, userid) != NULL)
		return;
	require_enabled(serverid);
	begin_opening(conn);
	/* the first turn sends who we are, as soon as the socket is connected */
	if (PQstatus(conn->pg) != CONNECTION_BAD)
		conn->polling = PQconnectPoll(conn->pg);
	conn->opening_since = GetCurrentStatementStartTimestamp();
}

RemoteConnection *
dbscale_remote_connect(Oid serverid, Oid userid)
{
	RemoteConnection *conn = lookup(serverid, userid);

	if (!conn->in_transaction)
	{
		RemoteConnection *shared = find_shared(serverid, userid);

		if (shared != NULL)
			return shared;
		require_enabled(serverid);
		if (is_opening(conn))
		{
			conn->opening_since = 0;
			finish_opening(conn);
		}
		else if (!is_good(conn))
		{
			close_connection(conn);
			begin_opening(conn);
			finish_opening(conn);
		}
	}
	conn->last_used = GetCurrentStatementStartTimestamp();
	return conn;
}

/* Collect the end of a COPY, raise what is pending, refuse a lost connection. */
void
remote_require_usable(RemoteConnection *conn)
{
	RemoteWait	wait = remote_wait_throwing();

	if (conn->pg && conn->mode != MODE_PIPELINE)
		(void) remote_copy_leave(conn, &wait, false);
	if (conn->pg == NULL)
		remote_raise(conn, remote_error_lost(conn, NULL));
	remote_raise_pending(conn);
}

List *
dbscale_remote_connections(void)
{
	List	   *result = NIL;
	dlist_iter	iter;

	dlist_foreach(iter, &all_connections)
	{
		RemoteConnection *conn = dlist_container(RemoteConnection, in_all, iter.cur);

		if (conn->pg)
			result = lappend(result, conn);
	}
	return result;
}

Oid
dbscale_remote_server(const RemoteConnection *conn)
{
	return conn->key.serverid;
}

Oid
dbscale_remote_user(const RemoteConnection *conn)
{
	return conn->key.userid;
}

const char *
dbscale_remote_node_name(const RemoteConnection *conn)
{
	return NameStr(conn->node_name);
}

bool
dbscale_remote_is_broken(const RemoteConnection *conn)
{
	return conn->broken;
}

int
dbscale_remote_version(const RemoteConnection *conn)
{
	return conn->pg ? PQserverVersion(conn->pg) : 0;
}

void *
dbscale_remote_transaction_state(RemoteConnection *conn)
{
	return conn->transaction_state;
}

/* A connection with a state is in a remote transaction, and is not replaced. */
void
dbscale_remote_set_transaction_state(RemoteConnection *conn, void *state)
{
	conn->transaction_state = state;
	set_in_transaction(conn, state != NULL);
}

void
dbscale_remote_init(void)
{
	/* The cache is made on first use, in the backend that has one. */
}
