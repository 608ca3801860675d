/*
 * run_on.c
 *		The same command on every shard or every node, in the current transaction.
 *
 * All statements are sent before the first result is awaited, so the nodes work at
 * the same time; the statements of one node follow each other in its pipeline.
 */
#include "ddl/utility.h"

#include "foreign/foreign.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

DBSCALE_FUNCTION(dbscale_run_on_nodes);
DBSCALE_FUNCTION(dbscale_run_on_shards);

/* One command that is under way. */
typedef struct Running
{
	const ShardNode *node;
	int			shard;			/* -1: of a node as a whole */
	RemoteStatement *statement;
} Running;

Oid
dbscale_ddl_node_user(const ShardNode *node)
{
	return GetForeignServer(node->serverid)->owner;
}

static void
require_enabled(const ShardNode *node)
{
	(void) dbscale_catalog_require_node(NameStr(node->name), true);
}

static Running *
start(const ShardNode *node, int shard, const char *sql, const char *label)
{
	RemoteConnection *conn;
	Running    *running = palloc(sizeof(Running));

	conn = dbscale_transaction_connection(node->serverid, dbscale_ddl_node_user(node),
										  REMOTE_WRITE);
	running->node = node;
	running->shard = shard;
	running->statement = dbscale_remote_send(conn, sql, REMOTE_NO_PARAMS, 0, label);
	return running;
}

/* `command` with every %s replaced, and %% by %. */
static char *
for_shard(const char *command, const char *table)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (const char *p = command; *p; p++)
	{
		if (p[0] == '%' && p[1] == 's')
			appendStringInfoString(&sql, table), p++;
		else if (p[0] == '%' && p[1] == '%')
			appendStringInfoChar(&sql, '%'), p++;
		else
			appendStringInfoChar(&sql, *p);
	}
	return sql.data;
}

static List *
start_on_nodes(const char *command)
{
	List	   *all = NIL;
	ListCell   *lc;

	foreach(lc, dbscale_catalog_nodes())
	{
		const ShardNode *node = lfirst(lc);

		if (node->enabled)
			all = lappend(all, start(node, -1, command, NULL));
	}
	return all;
}

/* A reference table has a copy on every node: none may miss the command. */
static void
require_all_enabled(void)
{
	ListCell   *lc;

	foreach(lc, dbscale_catalog_nodes())
		require_enabled(lfirst(lc));
}

/*
 * As every write does, whatever is run on shards keeps them from being moved, and looks
 * up their nodes after that; and from being split, by the lock on the table.
 */
static const DistributedTable *
lock_shards(const DistributedTable *table)
{
	Oid			relid = table->relid;

	LockRelationOid(relid, AccessShareLock);
	table = dbscale_catalog_require_distributed(relid);
	for (int i = 0; i < table->group->nshards; i++)
		if (OidIsValid(table->foreign_tables[i]))
			LockRelationOid(table->foreign_tables[i], RowExclusiveLock);
	dbscale_catalog_refresh();
	return dbscale_catalog_require_distributed(relid);
}

/* A reference table's copies count as shard -1 of every enabled node. */
static List *
start_on_shards(const DistributedTable *table, const char *command)
{
	List	   *all = NIL;

	if (table->is_reference)
		require_all_enabled();
	if (table->is_reference)
		return start_on_nodes(for_shard(command, dbscale_ddl_shard_table_name(table, -1)));

	table = lock_shards(table);
	for (int i = 0; i < table->group->nshards; i++)
		require_enabled(table->group->shards[i].node);
	for (int i = 0; i < table->group->nshards; i++)
	{
		const Shard *shard = &table->group->shards[i];
		char	   *name = dbscale_ddl_shard_table_name(table, shard->number);

		all = lappend(all, start(shard->node, shard->number, for_shard(command, name), name));
	}
	return all;
}

static void
finish_all(List *all)
{
	ListCell   *lc;

	foreach(lc, all)
	{
		Running    *running = lfirst(lc);

		(void) dbscale_remote_finish(running->statement);
		dbscale_remote_close(running->statement);
	}
}

void
dbscale_ddl_run_on_shards(const DistributedTable *table, const char *command)
{
	finish_all(start_on_shards(table, command));
}

void
dbscale_ddl_run_for_shards(const DistributedTable *table, ShardCommand make, void *arg)
{
	List	   *all = NIL;
	char	   *sql;

	if (table->is_reference)
	{
		require_all_enabled();
		sql = make(table, -1, arg);
		finish_all(sql ? start_on_nodes(sql) : NIL);
		return;
	}
	table = lock_shards(table);
	for (int i = 0; i < table->group->nshards; i++)
		require_enabled(table->group->shards[i].node);
	for (int i = 0; i < table->group->nshards; i++)
	{
		const Shard *shard = &table->group->shards[i];

		sql = make(table, shard->number, arg);
		if (sql)
			all = lappend(all, start(shard->node, shard->number, sql,
									 dbscale_ddl_shard_table_name(table, shard->number)));
	}
	finish_all(all);
}

char *
dbscale_ddl_escape_percent(const char *text)
{
	StringInfoData escaped;

	initStringInfo(&escaped);
	for (const char *p = text; *p; p++)
	{
		if (*p == '%')
			appendStringInfoChar(&escaped, '%');
		appendStringInfoChar(&escaped, *p);
	}
	return escaped.data;
}

void
dbscale_ddl_run_on_nodes(const char *command)
{
	finish_all(start_on_nodes(command));
}

/* The first column of the first row, or the number of rows that the command touched. */
static Datum
result_text(RemoteStatement *statement, bool *isnull)
{
	RemoteRow	row;
	char	   *text;

	*isnull = false;
	if (dbscale_remote_next_row(statement, &row))
	{
		*isnull = row.nfields == 0 || row.values[0] == NULL;
		text = *isnull ? NULL : pstrdup(row.values[0]);
		(void) dbscale_remote_finish(statement);
	}
	else
		text = psprintf(UINT64_FORMAT, dbscale_remote_finish(statement));
	return *isnull ? (Datum) 0 : CStringGetTextDatum(text);
}

/* Rows (shard, node, result), or (node, result) without shards. */
static void
return_results(ReturnSetInfo *rsinfo, List *all, bool with_shard)
{
	ListCell   *lc;

	foreach(lc, all)
	{
		Running    *running = lfirst(lc);
		Datum		values[3];
		bool		nulls[3] = {false, false, false};

		values[0] = Int32GetDatum(running->shard);
		nulls[0] = running->shard < 0;
		values[1] = NameGetDatum(&running->node->name);
		values[2] = result_text(running->statement, &nulls[2]);
		dbscale_remote_close(running->statement);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc,
							 with_shard ? values : values + 1,
							 with_shard ? nulls : nulls + 1);
	}
}

static char *
command_argument(FunctionCallInfo fcinfo, int arg)
{
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to run commands on nodes"),
				 errdetail("They run as the nodes' service user: only a superuser may give them.")));
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("command must not be NULL")));
	return text_to_cstring(PG_GETARG_TEXT_PP(arg));
}

Datum
dbscale_run_on_nodes(PG_FUNCTION_ARGS)
{
	char	   *command = command_argument(fcinfo, 0);

	InitMaterializedSRF(fcinfo, 0);
	return_results((ReturnSetInfo *) fcinfo->resultinfo, start_on_nodes(command), false);
	return (Datum) 0;
}

Datum
dbscale_run_on_shards(PG_FUNCTION_ARGS)
{
	char	   *command = command_argument(fcinfo, 1);

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("relation must not be NULL")));
	InitMaterializedSRF(fcinfo, 0);
	return_results((ReturnSetInfo *) fcinfo->resultinfo,
				   start_on_shards(dbscale_catalog_require_table(PG_GETARG_OID(0)), command), true);
	return (Datum) 0;
}
