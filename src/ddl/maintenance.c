/*
 * maintenance.c
 *		VACUUM, ANALYZE and REINDEX of distributed tables.
 *
 * VACUUM runs on the shards, on each node outside a transaction; PostgreSQL's own
 * would only warn that foreign tables cannot be vacuumed.
 *
 * ANALYZE runs on the shards too, and afterwards here for the parent alone, from one
 * sample of all shards that is no bigger than that of any table (executor/maintain.c).
 * PostgreSQL would go on and take one of that size from each partition; these have
 * what they need already: sizes from the nodes, and the statistics of the parent.
 * A reference table is analyzed here and, where somebody asks for it, on its nodes.
 */
#include "ddl/utility.h"

#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/* The options that mean something on a shard. */
static char *
vacuum_options(List *options)
{
	static const char *const carried[] = {"freeze", "full", "disable_page_skipping",
	"index_cleanup", "truncate", "process_toast", "skip_locked", "parallel"};
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, options)
	{
		DefElem    *option = lfirst(lc);

		for (int i = 0; i < lengthof(carried); i++)
		{
			if (strcmp(option->defname, carried[i]) != 0)
				continue;
			appendStringInfo(&text, "%s%s", text.len ? ", " : "", carried[i]);
			if (option->arg)
				appendStringInfo(&text, " %s", defGetString(option));
		}
	}
	return text.len ? psprintf(" (%s)", text.data) : "";
}

static bool
wants_analyze(List *options)
{
	ListCell   *lc;

	foreach(lc, options)
		if (strcmp(((DefElem *) lfirst(lc))->defname, "analyze") == 0)
			return defGetBoolean(lfirst(lc));
	return false;
}

/* One shard a node at a time, all nodes at the same time. */
static void
vacuum_shards(const DistributedTable *table, const char *options)
{
	int			done = 0;
	bool	   *started = palloc0(sizeof(bool) * table->group->nshards);

	while (done < table->group->nshards)
	{
		List	   *busy = NIL;
		List	   *statements = NIL;
		ListCell   *lc;

		for (int i = 0; i < table->group->nshards; i++)
		{
			const Shard *shard = &table->group->shards[i];
			RemoteConnection *conn;
			char	   *name;

			if (started[i] || list_member_oid(busy, shard->node->serverid))
				continue;
			(void) dbscale_catalog_require_node(NameStr(shard->node->name), true);
			name = dbscale_ddl_shard_table_name(table, shard->number);
			conn = dbscale_remote_connect(shard->node->serverid, dbscale_ddl_node_user(shard->node));
			statements = lappend(statements,
								 dbscale_remote_send(conn, psprintf("VACUUM%s %s", options, name),
													 REMOTE_NO_PARAMS, 0, name));
			busy = lappend_oid(busy, shard->node->serverid);
			started[i] = true;
			done++;
		}
		foreach(lc, statements)
		{
			(void) dbscale_remote_finish(lfirst(lc));
			dbscale_remote_close(lfirst(lc));
		}
	}
}

/* Moves the distributed tables out of the statement's list; returns them (OIDs). */
static List *
take_distributed(VacuumStmt *stmt, List **relations)
{
	List	   *oids = NIL;
	List	   *rest = NIL;
	ListCell   *lc;

	foreach(lc, stmt->rels)
	{
		VacuumRelation *relation = lfirst(lc);
		Oid			relid = OidIsValid(relation->oid) ? relation->oid :
			relation->relation ? RangeVarGetRelid(relation->relation, NoLock, true) : InvalidOid;
		const DistributedTable *table = OidIsValid(relid) ? dbscale_catalog_table(relid) : NULL;

		if (table == NULL || table->is_reference)
		{
			rest = lappend(rest, relation);
			continue;
		}
		oids = lappend_oid(oids, relid);
		*relations = lappend(*relations, relation);
	}
	stmt->rels = rest;
	return oids;
}

static char *
analyze_command(const DistributedTable *table, int shard, void *arg)
{
	VacuumRelation *relation = arg;
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfo(&sql, "ANALYZE %s", dbscale_ddl_shard_table_name(table, shard));
	foreach(lc, relation->va_cols)
		appendStringInfo(&sql, "%s%s", foreach_current_index(lc) == 0 ? " (" : ", ",
						 quote_identifier(strVal(lfirst(lc))));
	if (relation->va_cols != NIL)
		appendStringInfoChar(&sql, ')');
	return sql.data;
}

/* What is named by its OID is not expanded into its partitions. */
static void
analyze_shards(List *oids, List *relations)
{
	ListCell   *oid;
	ListCell   *lc;

	forboth(oid, oids, lc, relations)
	{
		/* of others core says that it skips them */
		if (dbscale_is_owner(lfirst_oid(oid)))
			dbscale_ddl_run_for_shards(dbscale_catalog_require_distributed(lfirst_oid(oid)), analyze_command,
									   lfirst(lc));
		((VacuumRelation *) lfirst(lc))->oid = lfirst_oid(oid);
	}
}

/* Of VacuumRelation *: the reference tables among these. */
static List *
reference_tables(List *relations)
{
	List	   *found = NIL;
	ListCell   *lc;

	foreach(lc, relations)
	{
		VacuumRelation *relation = lfirst(lc);
		Oid			relid = relation->relation ? RangeVarGetRelid(relation->relation, NoLock, true) : relation->oid;
		const DistributedTable *table = OidIsValid(relid) ? dbscale_catalog_table(relid) : NULL;

		if (table != NULL && table->is_reference && dbscale_is_owner(relid))
			found = lappend(found, relation);
	}
	return found;
}

/* On the nodes that are enabled. */
static void
analyze_copies(List *relations)
{
	List	   *batch = NIL;
	ListCell   *lc,
			   *lc2;

	foreach(lc, relations)
	{
		VacuumRelation *relation = lfirst(lc);
		Oid			relid = relation->relation ? RangeVarGetRelid(relation->relation, NoLock, true) : relation->oid;
		const DistributedTable *table = dbscale_catalog_require_table(relid);

		foreach(lc2, dbscale_catalog_nodes())
		{
			const ShardNode *node = lfirst(lc2);

			if (node->enabled)
				batch = dbscale_ddl_send(batch, node, analyze_command(table, -1, relation), NULL);
		}
	}
	dbscale_ddl_finish(batch);
}

static void
analyze(UtilityCall *call)
{
	VacuumStmt *stmt = castNode(VacuumStmt, dbscale_utility_own_statement(call));
	List	   *relations = NIL;
	List	   *oids = take_distributed(stmt, &relations);

	analyze_shards(oids, relations);
	analyze_copies(reference_tables(stmt->rels));
	stmt->rels = list_concat(relations, stmt->rels);
	dbscale_utility_core(call);
}

static void
vacuum_table(Oid relid, const char *options)
{
	if (!dbscale_is_owner(relid))
	{
		ereport(WARNING,
				(errmsg("permission denied to vacuum \"%s\", skipping it", get_rel_name(relid))));
		return;
	}
	vacuum_shards(dbscale_catalog_require_distributed(relid), options);
}

void
dbscale_utility_vacuum(UtilityCall *call)
{
	VacuumStmt *stmt = castNode(VacuumStmt, call->pstmt->utilityStmt);
	List	   *relations = NIL;
	List	   *oids;
	List	   *references;
	ListCell   *lc;
	MemoryContext context = CurrentMemoryContext;

	if (stmt->rels == NIL)
	{
		dbscale_utility_core(call);
		return;
	}
	if (!stmt->is_vacuumcmd)
	{
		analyze(call);
		return;
	}
	stmt = castNode(VacuumStmt, dbscale_utility_own_statement(call));
	oids = take_distributed(stmt, &relations);
	references = wants_analyze(stmt->options) ? reference_tables(stmt->rels) : NIL;
	if (oids != NIL || references != NIL)
		PreventInTransactionBlock(call->context == PROCESS_UTILITY_TOPLEVEL, "VACUUM");
	foreach(lc, oids)
		vacuum_table(lfirst_oid(lc), vacuum_options(stmt->options));
	if (stmt->rels != NIL)
		dbscale_utility_core(call);
	MemoryContextSwitchTo(context); /* VACUUM's transactions leave one that ends */
	analyze_copies(references);
	if (oids != NIL && wants_analyze(stmt->options))
	{
		stmt = castNode(VacuumStmt, dbscale_utility_own_statement(call));
		stmt->is_vacuumcmd = false;
		stmt->options = NIL;
		stmt->rels = relations;
		analyze_shards(oids, relations);
		dbscale_utility_core(call);
	}
}

static char *
reindex_command(const DistributedTable *table, int shard, void *arg)
{
	const char *index = arg;

	if (index == NULL)
		return psprintf("REINDEX TABLE %s", dbscale_ddl_shard_table_name(table, shard));
	return psprintf("REINDEX INDEX %s",
					quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA,
											   dbscale_ddl_shard_index_name(table->relid, index, shard)));
}

/* REINDEX TABLE or INDEX: on the shards; a reference table's also here. */
void
dbscale_utility_reindex(UtilityCall *call)
{
	ReindexStmt *stmt = castNode(ReindexStmt, call->pstmt->utilityStmt);
	bool		is_index = stmt->kind == REINDEX_OBJECT_INDEX;
	Oid			relid = stmt->relation ? RangeVarGetRelid(stmt->relation, NoLock, true) : InvalidOid;
	const DistributedTable *table = NULL;
	ListCell   *lc;

	if (OidIsValid(relid))
	{
		char		kind = get_rel_relkind(relid);

		if (!is_index)
			table = dbscale_catalog_table(relid);
		else if (kind == RELKIND_INDEX || kind == RELKIND_PARTITIONED_INDEX)
			table = dbscale_catalog_table(IndexGetRelation(relid, false));
	}
	if (table == NULL || table->is_reference)
	{
		dbscale_utility_core(call);
		return;
	}
	foreach(lc, stmt->params)
		if (strcmp(((DefElem *) lfirst(lc))->defname, "verbose") != 0)
			dbscale_utility_refuse(table->relid, "REINDEX with options", "Use REINDEX without options.");
	dbscale_utility_require_owner(table->relid);
	dbscale_ddl_run_for_shards(table, reindex_command, is_index ? get_rel_name(relid) : NULL);
}
