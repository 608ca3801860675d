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

#include "access/xact.h"
#include "commands/tablecmds.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* Rows on their way to the other node are sent in pieces of this size. */
#define COPY_PIECE 65536

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
check_owner(Oid relid)
{
	if (!dbscale_owns_relation(relid))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(relid));
}

/*
 * Lock the group's tables in the order of their OIDs; look again whether they are
 * still the same, for a table may have been colocated while we waited.
 */
static const DistributedTable *
lock_group(Oid relid)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(relid);
	List	   *locked = NIL;

	for (;;)
	{
		List	   *members = list_copy(table->group->tables);
		ListCell   *lc;

		members = list_difference_oid(members, locked);
		if (members == NIL)
			return table;
		list_sort(members, list_oid_cmp);
		foreach(lc, members)
		{
			Relation	rel;

			check_owner(lfirst_oid(lc));
			LockRelationOid(lfirst_oid(lc), AccessExclusiveLock);
			rel = RelationIdGetRelation(lfirst_oid(lc));
			if (rel != NULL)
			{
				CheckTableNotInUse(rel, "assign_key");
				RelationClose(rel);
			}
		}
		locked = list_concat(locked, members);
		table = dbscale_catalog_require_distributed(relid);
	}
}

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
check_isolation(void)
{
	if (!IsolationUsesXactSnapshot())
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("assign_key cannot be used in a transaction that is %s",
					IsolationIsSerializable() ? "serializable" : "repeatable read"),
			 errdetail("Rows that are newer than the transaction's snapshot would be left behind."),
			 errhint("Use a transaction that is read committed.")));
}

static const Shard *
require_shard(const DistributedTable *table, int number)
{
	const TableGroup *group = table->group;
	const Shard *shard = dbscale_catalog_shard(group, number);

	if (shard != NULL)
		return shard;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("table \"%s\" has no shard %d", get_rel_name(table->relid), number),
			 group->nshards > 0 ?
			 errdetail("It has %d shards, with numbers from %d to %d.", group->nshards,
					   group->shards[0].number, group->shards[group->nshards - 1].number) :
			 errdetail("It has no shards."),
			 errhint("The view dbscale.shards lists them.")));
}

static void
lock_foreign_table(const DistributedTable *table, int number)
{
	const Shard *shard = require_shard(table, number);
	Oid			foreign_table = table->foreign_tables[shard - table->group->shards];

	if (OidIsValid(foreign_table))
		LockRelationOid(foreign_table, AccessExclusiveLock);
}

/* Does the table reference one of these? */
static bool
references_one_of(Oid relid, List *references, List *relids)
{
	ListCell   *lc;

	foreach(lc, references)
	{
		char	  **row = lfirst(lc);

		if (atooid(row[0]) == relid && list_member_oid(relids, atooid(row[1])))
			return true;
	}
	return false;
}

/*
 * The group's tables, each after those it references.  Tables that reference each
 * other in a circle come last as they are: only deferred constraints allow these.
 */
static List *
order_members(const TableGroup *group)
{
	List	   *references = dbscale_ddl_query_rows(
		"SELECT relation::oid, referenced::oid FROM dbscale.foreign_key WHERE relation <> referenced");
	List	   *waiting = list_copy(group->tables);
	List	   *ordered = NIL;

	while (waiting != NIL)
	{
		Oid			next = linitial_oid(waiting);
		ListCell   *lc;

		foreach(lc, waiting)
		{
			if (!references_one_of(lfirst_oid(lc), references, waiting))
			{
				next = lfirst_oid(lc);
				break;
			}
		}
		ordered = lappend(ordered, (void *) dbscale_catalog_require_distributed(next));
		waiting = list_delete_oid(waiting, next);
	}
	return ordered;
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

/* One value in COPY's text format. */
static void
append_copy_value(StringInfo buffer, const char *value)
{
	if (value == NULL)
	{
		appendStringInfoString(buffer, "\\N");
		return;
	}
	for (; *value != '\0'; value++)
	{
		switch (*value)
		{
			case '\\':
				appendStringInfoString(buffer, "\\\\");
				break;
			case '\n':
				appendStringInfoString(buffer, "\\n");
				break;
			case '\r':
				appendStringInfoString(buffer, "\\r");
				break;
			case '\t':
				appendStringInfoString(buffer, "\\t");
				break;
			default:
				appendStringInfoCharMacro(buffer, *value);
		}
	}
}

static void
append_copy_row(StringInfo buffer, const RemoteRow *row)
{
	for (int i = 0; i < row->nfields; i++)
	{
		if (i > 0)
			appendStringInfoChar(buffer, '\t');
		append_copy_value(buffer, row->values[i]);
	}
	appendStringInfoChar(buffer, '\n');
}

/* From one node through this backend to the other, a piece at a time. */
static void
copy_between_nodes(const KeyMove *move, const DistributedTable *member)
{
	char	   *columns = dbscale_ddl_column_list(member->relid);
	RemoteConnection *to = connection_for(move->target->node);
	RemoteStatement *rows = dbscale_remote_send(connection_for(move->source->node),
												psprintf("SELECT %s %s", columns, from_source(move, member)),
												key_parameter(move), 0, NULL);
	StringInfoData buffer;
	RemoteRow	row;

	dbscale_remote_copy_begin(to, psprintf("COPY %s (%s) FROM STDIN",
										   dbscale_ddl_shard_table_name(member, move->target->number),
										   columns), NULL);
	initStringInfo(&buffer);
	while (dbscale_remote_next_row(rows, &row))
	{
		append_copy_row(&buffer, &row);
		if (buffer.len >= COPY_PIECE)
		{
			dbscale_remote_copy_data(to, buffer.data, buffer.len);
			resetStringInfo(&buffer);
		}
	}
	if (buffer.len > 0)
		dbscale_remote_copy_data(to, buffer.data, buffer.len);
	dbscale_remote_copy_end(to);
	dbscale_remote_sync(to);
	dbscale_remote_close(rows);
	pfree(buffer.data);
}

static void
move_rows(const KeyMove *move)
{
	bool		same_node = move->source->node == move->target->node;

	lock_source(move);
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

	move.target = require_shard(table, number);
	move.source = require_shard(table, dbscale_route_key(table, key, false));
	if (move.source == move.target)
		return;
	(void) dbscale_catalog_require_node(NameStr(move.source->node->name), true);
	(void) dbscale_catalog_require_node(NameStr(move.target->node->name), true);

	move.key_text = dbscale_key_to_text(table->group->key_type, key);
	move.members = order_members(table->group);
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
	check_isolation();
	check_strategy(dbscale_catalog_require_distributed(PG_GETARG_OID(0)));
	table = lock_group(PG_GETARG_OID(0));
	key = dbscale_cast_key(table, PG_GETARG_DATUM(1), get_fn_expr_argtype(fcinfo->flinfo, 1));

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(dbscale_extension_owner(), context | SECURITY_LOCAL_USERID_CHANGE);
	assign_key(table, key, PG_GETARG_INT32(2));
	SetUserIdAndSecContext(user, context);
	PG_RETURN_VOID();
}
