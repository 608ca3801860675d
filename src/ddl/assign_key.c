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
} KeyMove;

DBSCALE_FUNCTION(dbscale_assign_key);

static void
check_strategy(const DistributedTable *table)
{
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
	const Shard *shard = dbscale_ddl_require_shard(table, number);
	Oid			foreign_table = table->foreign_tables[shard - table->group->shards];

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

/* FROM the source's table, with the key's rows alone; $1 gets the column's type. */
static char *
from_source(const KeyMove *move, const DistributedTable *member)
{
	return psprintf("FROM %s WHERE %s OPERATOR(pg_catalog.=) $1",
					dbscale_ddl_shard_table_name(member, move->source->number),
					quote_identifier(get_attname(member->relid, member->key_attno, false)));
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
insert_on_node(const KeyMove *move, const DistributedTable *member)
{
	char	   *columns = dbscale_ddl_column_list(member->relid);
	char	   *sql = psprintf("INSERT INTO %s (%s) SELECT %s %s",
							   dbscale_ddl_shard_table_name(member, move->target->number),
							   columns, columns, from_source(move, member));

	(void) dbscale_remote_execute(connection_for(move->source->node), sql, key_parameter(move), NULL);
}

static void
copy_between_nodes(const KeyMove *move, const DistributedTable *member)
{
	char	   *columns = dbscale_ddl_column_list(member->relid);

	dbscale_ddl_copy_rows(connection_for(move->source->node),
						  psprintf("SELECT %s %s", columns, from_source(move, member)), key_parameter(move),
						  connection_for(move->target->node),
						  psprintf("COPY %s (%s) FROM STDIN",
								   dbscale_ddl_shard_table_name(member, move->target->number), columns));
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

static void
move_rows(const KeyMove *move)
{
	bool		same_node = move->source->node == move->target->node;

	lock_source(move);
	dbscale_ddl_run_shard_hook(move->table->group, move->source, SHARD_LEAVING);
	set_moving(move, true);
	for (int i = 0; i < list_length(move->members); i++)
	{
		const DistributedTable *member = list_nth(move->members, i);

		if (same_node)
			insert_on_node(move, member);
		else
			copy_between_nodes(move, member);
	}
	for (int i = list_length(move->members) - 1; i >= 0; i--)
		(void) dbscale_remote_execute(connection_for(move->source->node),
									  psprintf("DELETE %s", from_source(move, list_nth(move->members, i))),
									  key_parameter(move), NULL);
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
	foreach(lc, move.members)
	{
		lock_foreign_table(lfirst(lc), move.source->number);
		lock_foreign_table(lfirst(lc), move.target->number);
	}
	move_rows(&move);
	DEBUG_POINT("assign_key_rows_moved");
	write_directory(&move);
}

static void
check_arguments(FunctionCallInfo fcinfo)
{
	static const char *const names[] = {"relation", "key", "shard"};

	for (int i = 0; i < lengthof(names); i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument \"%s\" must not be null", names[i]),
					 i == 1 ?
					 errdetail("Rows whose key is null are always in shard 0.") :
					 errdetail("The function cannot do without it."),
					 errhint("Give a value.")));
	}
}

/* Arguments: relation regclass, key anyelement (or text), shard int. */
Datum
dbscale_assign_key(PG_FUNCTION_ARGS)
{
	const DistributedTable *table;
	Oid			user;
	int			context;
	Datum		key;

	check_arguments(fcinfo);
	dbscale_ddl_check_isolation("assign_key");
	check_strategy(dbscale_catalog_require_distributed(PG_GETARG_OID(0)));
	table = dbscale_ddl_lock_group(PG_GETARG_OID(0), "assign_key");
	key = dbscale_cast_key(table, PG_GETARG_DATUM(1), get_fn_expr_argtype(fcinfo->flinfo, 1));

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(dbscale_extension_owner(), context | SECURITY_LOCAL_USERID_CHANGE);
	assign_key(table, key, PG_GETARG_INT32(2));
	SetUserIdAndSecContext(user, context);
	PG_RETURN_VOID();
}
