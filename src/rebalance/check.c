/*
 * check.c
 *		What must be so before a shard moves, found out before anything is touched.
 *
 * First what the catalog knows, which the caller of move_shard is told at once, then
 * what only the source node knows: whether it can decode its log, whether we may ask
 * for that, and whether rows of the shard's tables can be told apart.
 */
#include "rebalance/internal.h"

#include "access/table.h"
#include "catalog/progress.h"
#include "counter/counter.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

void
move_refuse(int sqlstate, const char *message, const char *detail, const char *hint)
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
	if (shard->node->serverid == target->serverid)
		move_refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			   psprintf("shard %d of table \"%s\" is on node \"%s\" already", shard->number, name,
						NameStr(target->name)),
			   "There is nothing to move.", "Name another node.");
	if (shard->pinned)
		move_refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			   psprintf("shard %d of table \"%s\" is pinned to node \"%s\"", shard->number, name,
						NameStr(shard->node->name)),
			   "Its bounds were given together with a node, which its rows never leave.",
			   "Rows of other values can be placed with dbscale.add_shard.");
	if (target->draining)
		move_refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
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

void
move_fill_node(MoveNode *to, const ShardNode *node)
{
	to->name = node->name;
	to->serverid = node->serverid;
	to->userid = dbscale_ddl_node_user(node);
}

/* Where the key is among the columns that are copied. */
static int
key_position(const DistributedTable *table)
{
	Relation	rel = table_open(table->relid, NoLock);
	int			position = 0;

	for (int i = 0; i < table->key_attno - 1; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);

		if (!att->attisdropped && att->attgenerated == '\0')
			position++;
	}
	table_close(rel, NoLock);
	return position;
}

static MoveMember *
make_member(const Move *move, const DistributedTable *table, const Shard *shard)
{
	MoveMember *member = palloc0(sizeof(MoveMember));
	ListCell   *lc;

	member->shard = shard->number;
	member->key = get_attname(table->relid, table->key_attno, false);
	member->key_position = key_position(table);
	member->targets = palloc(sizeof(char *) * list_length(move->parts));
	foreach(lc, move->parts)
		member->targets[foreach_current_index(lc)] =
			dbscale_ddl_shard_table_name(table, ((Part *) lfirst(lc))->build);
	member->relid = table->relid;
	member->foreign_table = dbscale_catalog_foreign_table(table, shard->number);
	member->stored = psprintf("%s_%d", table->stored_name, shard->number);
	member->table = dbscale_ddl_shard_table_name(table, shard->number);
	member->columns = dbscale_ddl_column_list(table->relid);
	if (!OidIsValid(member->foreign_table))
		move_refuse(ERRCODE_UNDEFINED_TABLE,
			   psprintf("shard %d of table \"%s\" has no foreign table", shard->number,
						get_rel_name(table->relid)),
			   "The catalog and the tables do not agree.", "dbscale.check() compares them.");
	return member;
}

const DistributedTable *
move_open_group(Oid relid)
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

/* A column that came and went leaves this behind. */
static int
count_attributes(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	int			count = RelationGetNumberOfAttributes(rel);

	table_close(rel, NoLock);
	return count;
}

static void
append_shard(StringInfo text, const Move *move, const DistributedTable *table, int number)
{
	const Shard *shard = dbscale_ddl_require_shard(table, number);
	ListCell   *lc;

	if (table->group->id != move->group_id || shard->node->serverid != move->source.serverid)
		move_refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			   psprintf("shard %d of table \"%s\" is not where it was", number, get_rel_name(move->relid)),
			   "It was moved meanwhile, or its table was distributed anew.", "dbscale.shards shows where it is.");
	foreach(lc, dbscale_ddl_order_members(table->group))
	{
		const DistributedTable *member = lfirst(lc);

		appendStringInfo(text, "%u %u %d ", member->relid,
						 dbscale_catalog_foreign_table(member, number), count_attributes(member->relid));
		appendStringInfo(text, "%s;\n", dbscale_ddl_shard_table_sql(member, number));
		append_all(text, dbscale_ddl_shard_finish_sql(member, number));
		append_all(text, dbscale_ddl_shard_foreign_keys_sql(member, number));
	}
	foreach(lc, dbscale_counter_objects(table->group, shard))
		appendStringInfo(text, "%s;\n", ((CounterObject *) lfirst(lc))->name);
}

/*
 * The commands that make the sources' tables: as long as they are the same, nobody has
 * changed the tables, or which tables the group has; nor are there other counters.
 */
char *
move_definition(const Move *move)
{
	const DistributedTable *table = move_open_group(move->relid);
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, move->sources)
		append_shard(&text, move, table, lfirst_int(lc));
	if (move->reshards)
		reshard_append_definition(move, table, &text);
	return text.data;
}

/* Locks the tables until the transaction's end; they are what they were, or the job begins again. */
void
move_require_definition(const Move *move)
{
	if (strcmp(move_definition(move), move->definition) == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_MOVE_AGAIN),
			 errmsg("the definition of the tables of shard %d has changed while it moved", move->shard),
			 errdetail("The copy on node \"%s\" was made from the old one.", NameStr(move->target.name)),
			 errhint("Move the shard again.")));
}

/* In the move's context. */
void
move_fill_in(Move *move, const DistributedTable *table)
{
	MemoryContext caller = MemoryContextSwitchTo(move->context);
	ListCell   *lc,
			   *lc2;

	foreach(lc, dbscale_ddl_order_members(table->group))
	{
		foreach(lc2, move->sources)
		{
			MoveMember *member = make_member(move, lfirst(lc), dbscale_ddl_require_shard(table, lfirst_int(lc2)));

			move->members = lappend(move->members, member);
			if (member->shard == move->shard)
				move->tables = lappend(move->tables, member);
		}
	}
	move->definition = move_definition(move);
	move->publication = psprintf("dbscale_move_" INT64_FORMAT, move->job);
	MemoryContextSwitchTo(caller);
}

/* In a transaction: fills in what the move is about, in its context. */
void
move_check(Move *move, const char *node)
{
	const DistributedTable *table = move_open_group(move->relid);
	const Shard *shard = dbscale_ddl_require_shard(table, move->shard);
	const ShardNode *target = dbscale_catalog_require_node(node, true);
	MemoryContext caller;
	Part	   *part;

	check_nodes(table, shard, target);
	move_fill_node(&move->source, shard->node);
	move_fill_node(&move->target, target);
	move->group_id = table->group->id;
	caller = MemoryContextSwitchTo(move->context);
	part = palloc0(sizeof(Part));
	part->number = part->build = move->shard;
	move->parts = list_make1(part);
	move->sources = list_make1_int(move->shard);
	move->counter_objects = dbscale_counter_objects(table->group, shard);
	move->counted_with = dbscale_counter_tables_apart(table->group);
	MemoryContextSwitchTo(caller);
	move_fill_in(move, table);
}

/* ---- what the source knows ---- */

static void
require(bool condition, const Move *move, const MoveNode *node, const char *detail, const char *hint)
{
	if (condition)
		return;
	if (move->reshards)
		move_refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			   psprintf("shard %d of table \"%s\" cannot be split or merged on node \"%s\"",
						move->shard, get_rel_name(move->relid), NameStr(node->name)),
			   detail, psprintf("%s.", hint));
	move_refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
		   psprintf("shard %d of table \"%s\" cannot be moved online from node \"%s\"",
					move->shard, get_rel_name(move->relid), NameStr(node->name)),
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

/*
 * The first of the tables whose rows are told apart by something else than columns among
 * which the shard key is: the log of an UPDATE or DELETE would not say of which part it is.
 */
static char *
table_without_key_in_identity(const Move *move, RemoteConnection *source)
{
	ListCell   *lc;

	foreach(lc, move->members)
	{
		MoveMember *member = lfirst(lc);
		char	   *name = dbscale_remote_query_value(source,
													  psprintf("SELECT c.relname FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid AND"
															   " CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END"
															   " WHERE c.oid = %s::regclass AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid"
															   " AND a.attname = %s AND a.attnum = ANY (i.indkey))",
															   quote_literal_cstr(member->table), quote_literal_cstr(member->key)),
													  REMOTE_NO_PARAMS);

		if (name != NULL)
			return name;
	}
	return NULL;
}

static bool
holds(RemoteConnection *source, const char *condition)
{
	char	   *value = dbscale_remote_query_value(source, psprintf("SELECT %s", condition), REMOTE_NO_PARAMS);

	return value != NULL && value[0] == 't';
}

void
move_check_log(const Move *move, const MoveNode *node)
{
	RemoteConnection *source = move_connection(node, REMOTE_READ);

	require(holds(source, "current_setting('wal_level') = 'logical'"), move, node,
			"The node's wal_level is not logical.", "Set wal_level = logical there and restart it");
	require(holds(source, "rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user"), move, node,
			"The role that dbscale uses there may not replicate.", "Run ALTER ROLE ... REPLICATION there");
	require(holds(source, "has_database_privilege(current_database(), 'CREATE')"), move, node,
			"The role that dbscale uses there may not create publications.", "Grant CREATE on the database to it");
	require(holds(source, "current_setting('max_replication_slots')::int > "
				  " (SELECT count(*) FROM pg_replication_slots)"), move, node,
			"The node has no replication slot left.", "Raise max_replication_slots there");
	require(holds(source, "current_setting('max_wal_senders')::int > "
				  " (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender')"), move, node,
			"The node has no WAL sender left.", "Raise max_wal_senders there");
}

void
move_check_source(Move *move)
{
	RemoteConnection *source = move_connection(&move->source, REMOTE_READ);
	char	   *name;
	int64		done;
	int64		total;

	move_check_log(move, &move->source);
	name = table_without_identity(move, source);
	if (name != NULL)
		require(false, move, &move->source, psprintf("Table \"%s\" has no primary key, and its replica identity is not FULL.", name),
				"Add a primary key, or set REPLICA IDENTITY FULL before the table is distributed");
	name = incomparable_column(move, source);
	if (name != NULL)
		require(false, move, &move->source, psprintf("Column \"%s\" has a type without equality, and the whole row is its table's replica identity.", name),
				"Add a primary key");

	name = move->reshards ? table_without_key_in_identity(move, source) : NULL;
	if (name != NULL)
		require(false, move, &move->source, psprintf("The replica identity of table \"%s\" does not have the shard key.", name),
				"Use the primary key as replica identity");

	name = dbscale_remote_query_value(source,
									  psprintf("SELECT sum(pg_table_size(t)) FROM unnest(ARRAY[%s]::regclass[]) t",
											   table_list(move)), REMOTE_NO_PARAMS);
	dbscale_progress_read(&done, &total);
	dbscale_progress_set_total(done + (name ? strtoll(name, NULL, 10) : 0));
}
