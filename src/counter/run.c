/*
 * run.c
 *		Where counters are kept, and running SQL there.
 *
 * A counter of plain tables is kept in this database, by SPI.  One of distributed
 * tables is kept shard by shard, on the nodes: each shard is a place of its own, and
 * commands for places go out in the current transaction, to all nodes at the same
 * time.  The SQL is the same for both; only the tables' names differ.
 *
 * (ddl/ has functions like the first ones here; it is our peer, so we have our own.)
 */
#include "counter/internal.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "routing/routing.h"
#include "transaction/transaction.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

int			dbscale_counter_internal = 0;
static bool reads_latest = false;

/* What text SQL is made from, and read as, must not depend on the session. */
int
dbscale_counter_safe_session(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"client_min_messages", "warning"},
		{"datestyle", "ISO, MDY"},
		{"intervalstyle", "postgres"},
		{"row_security", "off"},
		{COUNTING, "on"},		/* we may write counters' columns */
	};
	int			level = NewGUCNestLevel();

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	return level;
}

/* Runs it and leaves SPI connected; the caller reads SPI_tuptable and calls finish. */
static int
start(const char *sql)
{
	int			level;

	SPI_connect();
	level = dbscale_counter_safe_session();
	dbscale_counter_internal++;
	PG_TRY();
	{
		if ((reads_latest ? dbscale_execute_latest(sql) : SPI_execute(sql, false, 0)) < 0)
			elog(ERROR, "could not run an internal command");
	}
	PG_FINALLY();
	{
		dbscale_counter_internal--;
	}
	PG_END_TRY();
	return level;
}

static void
finish(int level)
{
	AtEOXact_GUC(true, level);
	SPI_finish();
}

void
dbscale_counter_with_latest(void (*what) (void *argument), void *argument)
{
	bool		outer = reads_latest;

	reads_latest = true;
	PG_TRY();
	{
		what(argument);
	}
	PG_FINALLY();
	{
		reads_latest = outer;
	}
	PG_END_TRY();
}

uint64
dbscale_counter_execute_as(Oid user, const char *sql)
{
	Oid			current;
	int			context;
	int			level;
	uint64		rows;

	GetUserIdAndSecContext(&current, &context);
	SetUserIdAndSecContext(user, context | SECURITY_LOCAL_USERID_CHANGE);
	level = start(sql);
	rows = SPI_processed;
	finish(level);
	SetUserIdAndSecContext(current, context);
	return rows;
}

void
dbscale_counter_execute(const char *sql)
{
	(void) dbscale_counter_execute_as(dbscale_extension_owner(), sql);
}

List *
dbscale_counter_query_rows(const char *sql, int *natts)
{
	MemoryContext caller = CurrentMemoryContext;
	int			level = start(sql);
	List	   *rows = NIL;

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		TupleDesc	desc = SPI_tuptable->tupdesc;
		MemoryContext old = MemoryContextSwitchTo(caller);
		char	  **row = palloc0(desc->natts * sizeof(char *));

		if (natts)
			*natts = desc->natts;
		for (int n = 0; n < desc->natts; n++)
			row[n] = SPI_getvalue(SPI_tuptable->vals[i], desc, n + 1);
		/* SPI_getvalue allocates in the current context, which is the caller's */
		rows = lappend(rows, row);
		MemoryContextSwitchTo(old);
	}
	finish(level);
	return rows;
}

char *
dbscale_counter_query(const char *sql)
{
	List	   *rows = dbscale_counter_query_rows(sql, NULL);

	return rows ? ((char **) linitial(rows))[0] : NULL;
}

/* ---- places ---- */

static CounterPlace *
make_place(const TableGroup *group, const Shard *shard)
{
	CounterPlace *place = palloc(sizeof(CounterPlace));

	place->group = group;
	place->shard = shard;
	return place;
}

static const TableGroup *
group_of(Oid relid)
{
	const DistributedTable *table = dbscale_catalog_table(relid);

	return table ? table->group : NULL;
}

List *
dbscale_counter_places(Oid relid)
{
	const TableGroup *group = group_of(relid);
	List	   *places = NIL;

	if (group == NULL)
		return list_make1(make_place(NULL, NULL));
	/* a shard may have moved since: catalog.c says what who looks up a node relies on */
	dbscale_catalog_refresh();
	group = group_of(relid);
	for (int i = 0; i < group->nshards; i++)
		places = lappend(places, make_place(group, &group->shards[i]));
	return places;
}

/* NULL when the group has no shard (yet). */
CounterPlace *
dbscale_counter_first_place(Oid relid)
{
	const TableGroup *group = group_of(relid);

	if (group == NULL)
		return make_place(NULL, NULL);
	return group->nshards > 0 ? make_place(group, &group->shards[0]) : NULL;
}

CounterPlace *
dbscale_counter_place_of(const Counter *counter, List *key)
{
	const TableGroup *group = group_of(counter->target);
	const DistributedTable *table;
	char	   *column;
	const Shard *shard = NULL;
	ListCell   *lc;

	if (group == NULL)
		return make_place(NULL, NULL);
	table = dbscale_catalog_table(counter->target);
	column = get_attname(table->relid, table->key_attno, false);
	foreach(lc, counter->target_key)
	{
		int			number;

		if (strcmp(lfirst(lc), column) != 0)
			continue;
		number = dbscale_route_any_key(table, CStringGetTextDatum(list_nth(key, foreach_current_index(lc))), TEXTOID, false);
		shard = number < 0 ? NULL : dbscale_catalog_shard(table->group, number);
	}
	return shard ? make_place(table->group, shard) : NULL;
}

List *
dbscale_counter_delta_places(const Counter *counter)
{
	return dbscale_counter_places(counter->apart ? counter->source : counter->target);
}

bool
dbscale_counter_is_at(const CounterPlace *place, Oid relid)
{
	const TableGroup *group = group_of(relid);

	return place->group ? group != NULL && group->id == place->group->id : group == NULL;
}

bool
dbscale_counter_is_sharded(Oid relid)
{
	return group_of(relid) != NULL;
}

Oid
dbscale_counter_server_of(const CounterPlace *place)
{
	return place->group ? place->shard->node->serverid : InvalidOid;
}

char *
dbscale_counter_base_at(const CounterPlace *place, Oid relid)
{
	if (place->group == NULL)
		return get_rel_name(relid);
	return psprintf("%s_%d", dbscale_catalog_require_table(relid)->stored_name, place->shard->number);
}

char *
dbscale_counter_table_at(const CounterPlace *place, Oid relid)
{
	return quote_qualified_identifier(place->group ? DBSCALE_SHARDS_SCHEMA :
									  get_namespace_name(get_rel_namespace(relid)),
									  dbscale_counter_base_at(place, relid));
}

static RemoteConnection *
connection_to(const CounterPlace *place, RemoteUse use)
{
	const ShardNode *node = dbscale_catalog_require_node(NameStr(place->shard->node->name), true);

	const DistributedTable *table = place->group->tables ? dbscale_catalog_table(linitial_oid(place->group->tables)) : NULL;

	if (use == REMOTE_READ && table)
		dbscale_catalog_check_snapshot(table, place->shard);
	return dbscale_transaction_connection(node->serverid, GetForeignServer(node->serverid)->owner, use);
}

char *
dbscale_counter_query_at(const CounterPlace *place, const char *sql)
{
	if (place->group == NULL)
		return dbscale_counter_query(sql);
	return dbscale_remote_query_value(connection_to(place, REMOTE_READ), sql, REMOTE_NO_PARAMS);
}

static List *
read_rows(RemoteStatement *stmt, int natts)
{
	List	   *rows = NIL;
	RemoteRow	remote;

	while (dbscale_remote_next_row(stmt, &remote))
	{
		char	  **row = palloc0(natts * sizeof(char *));

		for (int n = 0; n < natts; n++)
			row[n] = remote.values[n] ? pstrdup(remote.values[n]) : NULL;
		rows = lappend(rows, row);
	}
	dbscale_remote_close(stmt);
	return rows;
}

List *
dbscale_counter_rows_at(const CounterPlace *place, const char *sql, int natts, bool write)
{
	if (place->group == NULL)
		return dbscale_counter_query_rows(sql, NULL);
	return read_rows(dbscale_remote_send(connection_to(place, write ? REMOTE_WRITE : REMOTE_READ), sql,
										 REMOTE_NO_PARAMS, 0, NULL), natts);
}

/*
 * The rows (char **, with natts columns) of one query a place: all nodes are asked
 * before the first answers.
 */
List *
dbscale_counter_query_places(List *places, const Counter *counter,
							 char *(*make) (const CounterPlace *place, const Counter *counter), int natts)
{
	List	   *statements = NIL;
	List	   *rows = NIL;
	ListCell   *lc;

	foreach(lc, places)
	{
		const CounterPlace *place = lfirst(lc);
		char	   *sql = make(place, counter);

		if (place->group == NULL)
			rows = list_concat(rows, dbscale_counter_query_rows(sql, NULL));
		else
			statements = lappend(statements, dbscale_remote_send(connection_to(place, REMOTE_READ), sql,
																 REMOTE_NO_PARAMS, 0, NULL));
	}
	foreach(lc, statements)
		rows = list_concat(rows, read_rows(lfirst(lc), natts));
	return rows;
}

/* ---- many commands ---- */

#define BATCH_LENGTH 256

struct CounterBatch
{
	List	   *statements;		/* of RemoteStatement *, not yet awaited */
	uint64		rows;
};

CounterBatch *
dbscale_counter_batch(void)
{
	return palloc0(sizeof(CounterBatch));
}

static void
await(CounterBatch *batch)
{
	ListCell   *lc;

	foreach(lc, batch->statements)
	{
		batch->rows += dbscale_remote_finish(lfirst(lc));
		dbscale_remote_close(lfirst(lc));
	}
	list_free(batch->statements);
	batch->statements = NIL;
}

void
dbscale_counter_send(CounterBatch *batch, const CounterPlace *place, Oid user, const char *sql)
{
	if (place->group == NULL)
	{
		batch->rows += dbscale_counter_execute_as(OidIsValid(user) ? user : dbscale_extension_owner(), sql);
		return;
	}
	if (list_length(batch->statements) >= BATCH_LENGTH)
		await(batch);
	batch->statements = lappend(batch->statements,
								dbscale_remote_send(connection_to(place, REMOTE_WRITE), sql, REMOTE_NO_PARAMS, 0, NULL));
}

void
dbscale_counter_send_all(CounterBatch *batch, const CounterPlace *place, Oid user, List *commands)
{
	ListCell   *lc;

	foreach(lc, commands)
		dbscale_counter_send(batch, place, user, lfirst(lc));
}

uint64
dbscale_counter_finish(CounterBatch *batch)
{
	await(batch);
	return batch->rows;
}
