/*
 * assign_key.c
 *		A directory entry, and the key's rows with it.
 *
 * assign_key('posts', 42, 5) moves the rows of key 42 from the shard where they are to
 * shard 5, in posts and in every table colocated with it, and writes the directory's
 * entry (or deletes it, when shard 5 is where the key's hash belongs), all in one
 * transaction over the nodes.  Who waits for what:
 *
 * 1. AccessExclusiveLock on the group's tables, and on the foreign tables of both
 *    shards: nobody here reads or writes the key's rows meanwhile, and plans made
 *    before are made anew.  The catalog is read again under the locks.
 * 2. EXCLUSIVE lock on the source's tables on the node.  A transaction that has
 *    committed here but is still only prepared there has released the locks of 1
 *    already; its rows would be left behind if we did not wait for it.
 * 3. A snapshot taken before 2 would miss these rows too, hence READ COMMITTED only.
 *
 * Foreign keys hold at every moment: rows are inserted into referenced tables first,
 * and deleted from referencing tables first.
 *
 * This is for few rows, and for whoever is in a transaction.  A key of many rows is
 * brought to its shard while it is read and written: rebalance/assign.c.
 */
#include "ddl/ddl.h"

#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

typedef struct KeyMove
{
	const DistributedTable *table;
	Datum		key;
	char	   *key_text;
	const Shard *source;
	const Shard *target;
	List	   *members;		/* of const DistributedTable *, referenced tables first */
	List	   *tables;			/* of KeyTable *: the members', and what counters have beside them */
} KeyMove;

void
dbscale_ddl_check_directory(Oid relid)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(relid);
	ShardStrategy strategy = table->group->strategy;

	if (strategy == SHARD_HASH || strategy == SHARD_DIRECTORY)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("cannot assign a key of table \"%s\" to a shard", get_rel_name(table->relid)),
			 errdetail("It is distributed by %s: the bounds of its shards decide where a key is.",
					   dbscale_strategy_name(strategy)),
			 errhint("Only tables distributed by hash or directory have a directory of keys.")));
}

static void
lock_foreign_table(const DistributedTable *table, int number)
{
	Oid			foreign_table = dbscale_catalog_foreign_table(table, number);

	if (OidIsValid(foreign_table))
		LockRelationOid(foreign_table, AccessExclusiveLock);
}

static RemoteConnection *
connection_for(const ShardNode *node)
{
	return dbscale_transaction_connection(node->serverid, dbscale_ddl_node_user(node), REMOTE_WRITE);
}

static RemoteParams *
key_parameter(const KeyMove *move)
{
	RemoteParams *params = palloc0(sizeof(RemoteParams));
	const char **values = palloc(sizeof(char *));

	values[0] = move->key_text;
	params->count = 1;
	params->values = values;
	return params;
}

static List *
key_tables(const KeyMove *move)
{
	List	   *tables = NIL;
	ListCell   *lc;

	foreach(lc, move->members)
	{
		const DistributedTable *member = lfirst(lc);
		KeyTable   *table = palloc(sizeof(KeyTable));

		table->from = dbscale_ddl_shard_table_name(member, move->source->number);
		table->to = dbscale_ddl_shard_table_name(member, move->target->number);
		table->columns = dbscale_ddl_column_list(member->relid);
		/* $1 gets the column's type */
		table->condition = psprintf("%s OPERATOR(pg_catalog.=) $1", quote_identifier(get_attname(member->relid, member->key_attno, false)));
		tables = lappend(tables, table);
	}
	if (dbscale_ddl_key_tables_hook)
		tables = list_concat(tables, dbscale_ddl_key_tables_hook(move->table->group, move->source, move->target));
	return tables;
}

static char *
select_rows(const KeyTable *table)
{
	return psprintf("SELECT %s FROM %s WHERE %s", table->columns, table->from, table->condition);
}

static void
lock_source(const KeyMove *move)
{
	ListCell   *lc;

	foreach(lc, move->members)
	{
		const DistributedTable *member = lfirst(lc);

		(void) dbscale_remote_execute(connection_for(move->source->node),
									  psprintf("LOCK TABLE ONLY %s IN EXCLUSIVE MODE",
											   dbscale_ddl_shard_table_name(member, move->source->number)),
									  REMOTE_NO_PARAMS, NULL);
	}
}

static void
insert_on_node(const KeyMove *move, const KeyTable *table)
{
	(void) dbscale_remote_execute(connection_for(move->source->node),
								  psprintf("INSERT INTO %s (%s) %s", table->to, table->columns, select_rows(table)),
								  key_parameter(move), NULL);
}

static void
copy_between_nodes(const KeyMove *move, const KeyTable *table)
{
	dbscale_ddl_copy_rows(connection_for(move->source->node), select_rows(table), key_parameter(move),
						  connection_for(move->target->node),
						  psprintf("COPY %s (%s) FROM STDIN", table->to, table->columns));
}

/* The triggers that keep counters are quiet meanwhile: these move with their rows. */
static void
set_moving(const KeyMove *move, bool moving)
{
	const char *sql = psprintf("SET LOCAL dbscale_shards.moving = '%s'", moving ? "on" : "");

	(void) dbscale_remote_execute(connection_for(move->source->node), sql, REMOTE_NO_PARAMS, NULL);
	if (move->target->node != move->source->node)
		(void) dbscale_remote_execute(connection_for(move->target->node), sql, REMOTE_NO_PARAMS, NULL);
}

/* Nodes in one order: what counters wait for there others may want on both. */
static void
prepare_counters(const KeyMove *move)
{
	const TableGroup *group = move->table->group;
	bool		source_first = move->source->node->serverid <= move->target->node->serverid;

	if (source_first)
		dbscale_ddl_run_shard_hook(group, move->source, SHARD_LEAVING);
	dbscale_ddl_run_shard_hook(group, move->target, SHARD_RECEIVING);
	if (!source_first)
		dbscale_ddl_run_shard_hook(group, move->source, SHARD_LEAVING);
}

static void
move_rows(const KeyMove *move)
{
	bool		same_node = move->source->node == move->target->node;
	ListCell   *lc;

	lock_source(move);
	prepare_counters(move);
	set_moving(move, true);
	foreach(lc, move->tables)
	{
		if (same_node)
			insert_on_node(move, lfirst(lc));
		else
			copy_between_nodes(move, lfirst(lc));
	}
	for (int i = list_length(move->tables) - 1; i >= 0; i--)
	{
		const KeyTable *table = list_nth(move->tables, i);

		(void) dbscale_remote_execute(connection_for(move->source->node),
									  psprintf("DELETE FROM %s WHERE %s", table->from, table->condition),
									  key_parameter(move), NULL);
	}
	set_moving(move, false);
}

/* An entry for a key that is at home would say nothing. */
static void
write_directory(const KeyMove *move)
{
	int			group_id = move->table->group->id;
	const char *entry = dbscale_directory_find(move->table, move->key);

	if (entry != NULL)
		(void) dbscale_ddl_execute_as_owner(
			psprintf("DELETE FROM dbscale.directory WHERE group_id = %d AND key = %s",
					 group_id, quote_literal_cstr(entry)));
	if (dbscale_hash_home(move->table, move->key) != move->target->number)
		(void) dbscale_ddl_execute_as_owner(
			psprintf("INSERT INTO dbscale.directory (group_id, key, shard) VALUES (%d, %s, %d)",
					 group_id, quote_literal_cstr(move->key_text), move->target->number));
}

static void
assign_key(const DistributedTable *table, Datum key, int number)
{
	KeyMove		move = {table, key};
	ListCell   *lc;

	move.target = dbscale_ddl_require_shard(table, number);
	move.source = dbscale_ddl_require_shard(table, dbscale_route_key(table, key, false));
	if (move.source == move.target)
		return;
	(void) dbscale_catalog_require_node(NameStr(move.source->node->name), true);
	(void) dbscale_catalog_require_node(NameStr(move.target->node->name), true);

	move.key_text = dbscale_key_to_text(table->group->key_type, key);
	move.members = dbscale_ddl_order_members(table->group);
	move.tables = key_tables(&move);
	foreach(lc, move.members)
	{
		lock_foreign_table(lfirst(lc), move.source->number);
		lock_foreign_table(lfirst(lc), move.target->number);
	}
	move_rows(&move);
	DEBUG_POINT("assign_key_rows_moved");
	write_directory(&move);
}

void
dbscale_ddl_assign_key(Oid relid, Datum value, Oid type, int shard)
{
	const DistributedTable *table = dbscale_ddl_lock_group(relid, "assign_key");
	Datum		key = dbscale_cast_key(table, value, type);
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(dbscale_extension_owner(), context | SECURITY_LOCAL_USERID_CHANGE);
	assign_key(table, key, shard);
	SetUserIdAndSecContext(user, context);
}
