/*
 * batch.c
 *		Many commands on many nodes: all are sent before the first is awaited.  And the
 *		hooks of counter/.
 */
#include "ddl/ddl.h"

void		(*dbscale_ddl_before_hook) (Oid relid, bool to_shards) = NULL;
void		(*dbscale_ddl_after_hook) (Oid relid) = NULL;
List	   *(*dbscale_ddl_shard_sql_hook) (const TableGroup *group, const Shard *shard, ShardMoment moment) = NULL;
List	   *(*dbscale_ddl_key_tables_hook) (const TableGroup *group, const Shard *source, const Shard *target) = NULL;

/* A node's results are read when so many commands are under way in all. */
#define BATCH_LENGTH 512

List *
dbscale_ddl_send(List *batch, const ShardNode *node, const char *sql, const char *label)
{
	RemoteConnection *conn;

	if (list_length(batch) >= BATCH_LENGTH)
	{
		dbscale_ddl_finish(batch);
		batch = NIL;
	}
	conn = dbscale_transaction_connection(node->serverid, dbscale_ddl_node_user(node), REMOTE_WRITE);
	return lappend(batch, dbscale_remote_send(conn, sql, REMOTE_NO_PARAMS, 0, label));
}

void
dbscale_ddl_finish(List *batch)
{
	ListCell   *lc;

	foreach(lc, batch)
	{
		RemoteStatement *stmt = lfirst(lc);

		(void) dbscale_remote_finish(stmt);
		dbscale_remote_close(stmt);
	}
	list_free(batch);
}

void
dbscale_ddl_run_shard_hook(const TableGroup *group, const Shard *shard, ShardMoment moment)
{
	List	   *batch = NIL;
	ListCell   *lc;

	if (dbscale_ddl_shard_sql_hook == NULL)
		return;
	foreach(lc, dbscale_ddl_shard_sql_hook(group, shard, moment))
		batch = dbscale_ddl_send(batch, shard->node, lfirst(lc), NULL);
	dbscale_ddl_finish(batch);
}
