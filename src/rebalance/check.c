/*
 * check.c
 *		What must be so before a shard moves, found out before anything is touched.
 *
 * First what the catalog knows, which the caller of move_shard is told at once, then
 * what only the source node knows: whether it can decode its log, whether we may ask
 * for that, and whether rows of the shard's tables can be told apart.
 */
#include "rebalance/internal.h"

#include "catalog/progress.h"
#include "counter/counter.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

static void
refuse(int sqlstate, const char *message, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(sqlstate), errmsg("%s", message), errdetail("%s", detail), errhint("%s", hint)));
}

/* Both must be enabled; and nothing else that the catalog forbids. */
static void
check_nodes(const DistributedTable *table, const Shard *shard, const ShardNode *target)
{
	const char *name = get_rel_name(table->relid);

	(void) dbscale_catalog_require_node(NameStr(shard->node->name), true);
	if (shard->node == target)
		refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			   psprintf("shard %d of table \"%s\" is on node \"%s\" already", shard->number, name,
						NameStr(target->name)),
			   "There is nothing to move.", "Name another node.");
	if (shard->pinned)
		refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			   psprintf("shard %d of table \"%s\" is pinned to node \"%s\"", shard->number, name,
						NameStr(shard->node->name)),
			   "Its bounds were given together with a node, which its rows never leave.",
			   "Rows of other values can be placed with dbscale.add_shard.");
	dbscale_counter_check_move(table->group, shard);
	if (target->draining)
		refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			   psprintf("node \"%s\" is being drained", NameStr(target->name)),
			   "It takes no new shards.",
			   psprintf("Run SELECT dbscale.enable_node(%s) to use it again.",
						quote_literal_cstr(NameStr(target->name))));
}

void
move_check_arguments(Oid relid, int shard, const char *node)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(relid);

	dbscale_ddl_check_owner(table->group);
	check_nodes(table, dbscale_ddl_require_shard(table, shard), dbscale_catalog_require_node(node, true));
}

/* ---- what is moved ---- */

static void
fill_node(MoveNode *to, const ShardNode *node)
{
	to->name = node->name;
	to->serverid = node->serverid;
	to->userid = dbscale_ddl_node_user(node);
}

static MoveMember *
make_member(const DistributedTable *table, const Shard *shard)
{
	MoveMember *member = palloc0(sizeof(MoveMember));

	member->relid = table->relid;
	member->foreign_table = table->foreign_tables[shard - table->group->shards];
	member->stored = psprintf("%s_%d", table->stored_name, shard->number);
	member->table = dbscale_ddl_shard_table_name(table, shard->number);
	member->columns = dbscale_ddl_column_list(table->relid);
	if (!OidIsValid(member->foreign_table))
		refuse(ERRCODE_UNDEFINED_TABLE,
			   psprintf("shard %d of table \"%s\" has no foreign table", shard->number,
						get_rel_name(table->relid)),
			   "The catalog and the tables do not agree.", "dbscale.check() compares them.");
	return member;
}

/* The group's tables, locked against being dropped until the transaction's end. */
static const DistributedTable *
open_group(Oid relid)
{
	const DistributedTable *table;
	ListCell   *lc;

	LockRelationOid(relid, AccessShareLock);
	table = dbscale_catalog_require_distributed(relid);
	foreach(lc, list_copy(table->group->tables))
		LockRelationOid(lfirst_oid(lc), AccessShareLock);
	return dbscale_catalog_require_distributed(relid);
}

static void
append_all(StringInfo text, List *commands)
{
	ListCell   *lc;

	foreach(lc, commands)
		appendStringInfo(text, "%s;\n", (char *) lfirst(lc));
}

/*
 * The commands that make the shard's tables: as long as they are the same, nobody has
 * changed the tables, or which tables the group has; nor are there other counters.
 */
char *
move_definition(const Move *move)
{
	const DistributedTable *table = open_group(move->relid);
	const Shard *shard = dbscale_ddl_require_shard(table, move->shard);
	StringInfoData text;
	ListCell   *lc;

	if (table->group->id != move->group_id || shard->node->serverid != move->source.serverid)
		refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			   psprintf("shard %d of table \"%s\" is not where it was", move->shard, get_rel_name(move->relid)),
			   "It was moved meanwhile, or its table was distributed anew.", "dbscale.shards shows where it is.");
	initStringInfo(&text);
	foreach(lc, dbscale_ddl_order_members(table->group))
	{
		const DistributedTable *member = lfirst(lc);

		appendStringInfo(&text, "%u %u ", member->relid,
						 member->foreign_tables[shard - member->group->shards]);
		appendStringInfo(&text, "%s;\n", dbscale_ddl_shard_table_sql(member, move->shard));
		append_all(&text, dbscale_ddl_shard_finish_sql(member, move->shard));
		append_all(&text, dbscale_ddl_shard_foreign_keys_sql(member, move->shard));
	}
	foreach(lc, dbscale_counter_objects(table->group, shard))
		appendStringInfo(&text, "%s;\n", ((CounterObject *) lfirst(lc))->name);
	return text.data;
}

/* In a transaction: fills in what the move is about, in its context. */
void
move_check(Move *move, const char *node)
{
	const DistributedTable *table = open_group(move->relid);
	const Shard *shard = dbscale_ddl_require_shard(table, move->shard);
	const ShardNode *target = dbscale_catalog_require_node(node, true);
	MemoryContext caller;
	ListCell   *lc;

	check_nodes(table, shard, target);
	fill_node(&move->source, shard->node);
	fill_node(&move->target, target);
	move->group_id = table->group->id;
	caller = MemoryContextSwitchTo(move->context);
	foreach(lc, dbscale_ddl_order_members(table->group))
	{
		const DistributedTable *member = lfirst(lc);

		move->members = lappend(move->members, make_member(member, shard));
	}
	move->counter_objects = dbscale_counter_objects(table->group, shard);
	move->definition = move_definition(move);
	move->publication = psprintf("dbscale_move_" INT64_FORMAT, move->job);
	MemoryContextSwitchTo(caller);
}

/* ---- what the source knows ---- */

static void
require(bool condition, const Move *move, const char *detail, const char *hint)
{
	if (condition)
		return;
	refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
		   psprintf("shard %d of table \"%s\" cannot be moved online from node \"%s\"",
					move->shard, get_rel_name(move->relid), NameStr(move->source.name)),
		   detail, psprintf("%s, or use method => 'blocking'.", hint));
}

static char *
table_list(const Move *move)
{
	StringInfoData list;
	ListCell   *lc;

	initStringInfo(&list);
	foreach(lc, move->members)
	{
		MoveMember *member = lfirst(lc);

		appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "", quote_literal_cstr(member->table));
	}
	return list.data;
}

/* The first of the tables whose rows have no identity in the log. */
static char *
table_without_identity(const Move *move, RemoteConnection *source)
{
	return dbscale_remote_query_value(source,
									  psprintf("SELECT c.relname FROM pg_class c WHERE c.oid = ANY (ARRAY[%s]::regclass[])"
											   " AND NOT CASE c.relreplident WHEN 'f' THEN true"
											   " WHEN 'd' THEN EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate)"
											   " WHEN 'i' THEN EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident)"
											   " ELSE false END LIMIT 1", table_list(move)), REMOTE_NO_PARAMS);
}

/* Columns that cannot be compared, where a whole row is its identity. */
static char *
incomparable_column(const Move *move, RemoteConnection *source)
{
	return dbscale_remote_query_value(source,
									  psprintf("SELECT c.relname || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
											   " WHERE c.oid = ANY (ARRAY[%s]::regclass[]) AND c.relreplident = 'f'"
											   " AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''"
											   " AND a.atttypid = ANY ('{json,xml,point,path,polygon,line,circle,box,lseg}'::regtype[]) LIMIT 1",
											   table_list(move)), REMOTE_NO_PARAMS);
}

static bool
holds(RemoteConnection *source, const char *condition)
{
	char	   *value = dbscale_remote_query_value(source, psprintf("SELECT %s", condition), REMOTE_NO_PARAMS);

	return value != NULL && value[0] == 't';
}

void
move_check_source(Move *move)
{
	RemoteConnection *source = move_connection(&move->source, REMOTE_READ);
	char	   *name;

	require(holds(source, "current_setting('wal_level') = 'logical'"), move,
			"The node's wal_level is not logical.", "Set wal_level = logical there and restart it");
	require(holds(source, "rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user"), move,
			"The role that dbscale uses there may not replicate.", "Run ALTER ROLE ... REPLICATION there");
	require(holds(source, "has_database_privilege(current_database(), 'CREATE')"), move,
			"The role that dbscale uses there may not create publications.", "Grant CREATE on the database to it");
	require(holds(source, "current_setting('max_replication_slots')::int > "
				  " (SELECT count(*) FROM pg_replication_slots)"), move,
			"The node has no replication slot left.", "Raise max_replication_slots there");
	require(holds(source, "current_setting('max_wal_senders')::int > "
				  " (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender')"), move,
			"The node has no WAL sender left.", "Raise max_wal_senders there");

	name = table_without_identity(move, source);
	if (name != NULL)
		require(false, move, psprintf("Table \"%s\" has no primary key, and its replica identity is not FULL.", name),
				"Add a primary key, or run ALTER TABLE ... REPLICA IDENTITY FULL");
	name = incomparable_column(move, source);
	if (name != NULL)
		require(false, move, psprintf("Column \"%s\" has a type without equality, and the whole row is its table's replica identity.", name),
				"Add a primary key");

	name = dbscale_remote_query_value(source,
									  psprintf("SELECT sum(pg_table_size(t)) FROM unnest(ARRAY[%s]::regclass[]) t",
											   table_list(move)), REMOTE_NO_PARAMS);
	dbscale_progress_set_total(name ? strtoll(name, NULL, 10) : 0);
}
