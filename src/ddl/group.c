/*
 * group.c
 *		What commands on the rows of a whole table group share: locking its tables,
 *		their order by foreign keys, and rows on their way between two nodes.
 */
#include "ddl/ddl.h"

#include "access/xact.h"
#include "commands/tablecmds.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* Rows on their way to the other node are sent in pieces of this size. */
#define COPY_PIECE 65536

void
dbscale_ddl_check_owner(const TableGroup *group)
{
	ListCell   *lc;

	foreach(lc, group->tables)
		if (!dbscale_owns_relation(lfirst_oid(lc)))
			aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(lfirst_oid(lc)));
}

/*
 * Lock the group's tables in the order of their OIDs; look again whether they are
 * still the same, for a table may have been colocated while we waited.
 */
const DistributedTable *
dbscale_ddl_lock_group(Oid relid, const char *command)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(relid);
	List	   *locked = NIL;

	for (;;)
	{
		List	   *members = list_difference_oid(table->group->tables, locked);
		ListCell   *lc;

		if (members == NIL)
			return table;
		dbscale_ddl_check_owner(table->group);
		list_sort(members, list_oid_cmp);
		foreach(lc, members)
		{
			Relation	rel;

			LockRelationOid(lfirst_oid(lc), AccessExclusiveLock);
			rel = RelationIdGetRelation(lfirst_oid(lc));
			if (rel != NULL)
			{
				CheckTableNotInUse(rel, command);
				RelationClose(rel);
			}
		}
		locked = list_concat(locked, members);
		table = dbscale_catalog_require_distributed(relid);
	}
}

void
dbscale_ddl_check_isolation(const char *command)
{
	if (!IsolationUsesXactSnapshot())
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s cannot be used in a transaction that is %s", command,
					IsolationIsSerializable() ? "serializable" : "repeatable read"),
			 errdetail("Rows that are newer than the transaction's snapshot would be left behind."),
			 errhint("Use a transaction that is read committed.")));
}

const Shard *
dbscale_ddl_require_shard(const DistributedTable *table, int number)
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

List *
dbscale_ddl_order_members(const TableGroup *group)
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

void
dbscale_ddl_copy_rows(RemoteConnection *from, const char *query, const RemoteParams *params,
					  RemoteConnection *to, const char *copy)
{
	RemoteStatement *rows = dbscale_remote_send(from, query, params, 0, NULL);
	StringInfoData buffer;
	RemoteRow	row;

	dbscale_remote_copy_begin(to, copy, NULL);
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
