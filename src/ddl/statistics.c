/*
 * statistics.c
 *		Extended statistics of distributed and reference tables.
 *
 * What CREATE STATISTICS makes here says which there are, and is filled by ANALYZE from
 * the sample of all shards, for what is planned here.  Each shard, and each copy of a
 * reference table, has an object of its own, which ANALYZE fills on the node, for what
 * is planned there.  All of these are in the schema dbscale_shards, so their names are
 * made as those of indexes are, and kept in dbscale.statistics_name.
 *
 * New ones, and changed targets, are found by propagate.c, and dropped ones by drop.c.
 * The name here (and its schema, which need not be the table's) may change: only the
 * row of dbscale.statistics_name follows.
 */
#include "ddl/utility.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_statistic_ext.h"
#include "commands/defrem.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

List *
dbscale_statistics_of(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	List	   *list = RelationGetStatExtList(rel);

	table_close(rel, NoLock);
	return list;
}

char *
dbscale_statistics_target(Oid statistics)
{
	return dbscale_ddl_query_value(psprintf("SELECT COALESCE(stxstattarget, -1) FROM pg_statistic_ext WHERE oid = %u",
											statistics));
}

/* Its schema and name here, palloc'd; the table's OID. */
static Oid
name_of(Oid statistics, char **schema, char **name)
{
	HeapTuple	tuple = SearchSysCache1(STATEXTOID, ObjectIdGetDatum(statistics));
	Form_pg_statistic_ext form;
	Oid			relid;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for statistics object %u", statistics);
	form = (Form_pg_statistic_ext) GETSTRUCT(tuple);
	*schema = get_namespace_name(form->stxnamespace);
	*name = pstrdup(NameStr(form->stxname));
	relid = form->stxrelid;
	ReleaseSysCache(tuple);
	return relid;
}

static char *
where_name(const char *schema, const char *name)
{
	return psprintf("schema_name = %s AND statistics_name = %s", quote_literal_cstr(schema),
					quote_literal_cstr(name));
}

/* The name on the shards without the shard's number, or NULL: they have none. */
static char *
stored_name(const char *schema, const char *name)
{
	return dbscale_ddl_query_value(psprintf("SELECT stored_name FROM dbscale.statistics_name WHERE %s",
											where_name(schema, name)));
}

bool
dbscale_statistics_are_stored(Oid statistics)
{
	char	   *schema;
	char	   *name;

	(void) name_of(statistics, &schema, &name);
	return stored_name(schema, name) != NULL;
}

static char *
name_on_shard(const char *stored, int shard)
{
	return quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA,
									  shard < 0 ? stored : psprintf("%s_%d", stored, shard));
}

/* The same, quoted and with its schema, for one shard (-1: a copy); recorded if it is new. */
static char *
shard_statistics_name(Oid statistics, int shard)
{
	char	   *schema;
	char	   *name;
	Oid			relid = name_of(statistics, &schema, &name);
	char	   *stored = stored_name(schema, name);

	if (stored == NULL)
	{
		stored = dbscale_ddl_new_stored_name(name, schema);
		(void) dbscale_ddl_execute_as_owner(
			psprintf("INSERT INTO dbscale.statistics_name (relation, schema_name, statistics_name, stored_name)"
					 " VALUES (%u, %s, %s, %s)", relid, quote_literal_cstr(schema), quote_literal_cstr(name),
					 quote_literal_cstr(stored)));
	}
	return name_on_shard(stored, shard);
}

/* What stands between the name and the table in CREATE STATISTICS: " (ndistinct) ON a, b". */
static char *
definition_of(Oid statistics)
{
	char	   *schema;
	char	   *name;
	Oid			relid = name_of(statistics, &schema, &name);
	int			level = dbscale_ddl_set_safe_path();
	char	   *command = TextDatumGetCString(DirectFunctionCall1(pg_get_statisticsobjdef, ObjectIdGetDatum(statistics)));
	char	   *before = psprintf("CREATE STATISTICS %s", quote_qualified_identifier(schema, name));
	char	   *after = psprintf(" FROM %s", quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
																		get_rel_name(relid)));
	int			length = strlen(command) - strlen(before) - strlen(after);

	AtEOXact_GUC(true, level);
	if (length < 0 || strncmp(command, before, strlen(before)) != 0 ||
		strcmp(command + strlen(before) + length, after) != 0)
		elog(ERROR, "unexpected definition of statistics object \"%s\"", name);
	return pnstrdup(command + strlen(before), length);
}

char *
dbscale_statistics_create_sql(const DistributedTable *table, Oid statistics, int shard)
{
	return psprintf("CREATE STATISTICS %s%s FROM %s", shard_statistics_name(statistics, shard),
					definition_of(statistics), dbscale_ddl_shard_table_name(table, shard));
}

char *
dbscale_statistics_target_sql(Oid statistics, int shard)
{
	return psprintf("ALTER STATISTICS %s SET STATISTICS %s", shard_statistics_name(statistics, shard),
					dbscale_statistics_target(statistics));
}

List *
dbscale_ddl_shard_statistics_sql(const DistributedTable *table, int shard)
{
	List	   *commands = NIL;
	ListCell   *lc;

	foreach(lc, dbscale_statistics_of(table->relid))
	{
		commands = lappend(commands, dbscale_statistics_create_sql(table, lfirst_oid(lc), shard));
		if (strcmp(dbscale_statistics_target(lfirst_oid(lc)), "-1") != 0)
			commands = lappend(commands, dbscale_statistics_target_sql(lfirst_oid(lc), shard));
	}
	return commands;
}

static char *
drop_command(const DistributedTable *table, int shard, void *arg)
{
	return psprintf("DROP STATISTICS IF EXISTS %s", name_on_shard(arg, shard));
}

/* It is gone here already, so it is found by its name. */
void
dbscale_statistics_dropped(const char *schema, const char *name)
{
	char	   *relid = dbscale_ddl_query_value(psprintf("SELECT relation::oid FROM dbscale.statistics_name WHERE %s",
														 where_name(schema, name)));

	if (relid == NULL)
		return;
	dbscale_ddl_run_for_shards(dbscale_catalog_require_table(atooid(relid)), drop_command, stored_name(schema, name));
	(void) dbscale_ddl_execute_as_owner(psprintf("DELETE FROM dbscale.statistics_name WHERE %s",
												 where_name(schema, name)));
}

/* ---- commands ---- */

void
dbscale_utility_create_statistics(UtilityCall *call)
{
	CreateStatsStmt *stmt = castNode(CreateStatsStmt, call->pstmt->utilityStmt);
	const DistributedTable *table = NULL;
	TableState *before;

	/* core takes one table, and says so */
	if (list_length(stmt->relations) == 1 && IsA(linitial(stmt->relations), RangeVar))
		table = dbscale_utility_target(linitial(stmt->relations), "CREATE STATISTICS");
	if (table == NULL)
	{
		dbscale_utility_core(call);
		return;
	}
	before = dbscale_propagate_state(table->relid);
	dbscale_utility_core(call);
	dbscale_propagate_changes(before);
}

/* The distributed (or reference) table of the statistics of this name, or NULL. */
static const DistributedTable *
table_of_statistics(List *names, Oid *statistics)
{
	char	   *schema;
	char	   *name;

	*statistics = get_statistics_object_oid(names, true);
	return OidIsValid(*statistics) ? dbscale_catalog_table(name_of(*statistics, &schema, &name)) : NULL;
}

void
dbscale_utility_alter_statistics(UtilityCall *call)
{
	AlterStatsStmt *stmt = castNode(AlterStatsStmt, call->pstmt->utilityStmt);
	Oid			statistics;
	const DistributedTable *table = table_of_statistics(stmt->defnames, &statistics);
	TableState *before;

	if (table == NULL)
	{
		dbscale_utility_core(call);
		return;
	}
	before = dbscale_propagate_state(table->relid);
	dbscale_utility_core(call);
	dbscale_propagate_changes(before);
}

/* RENAME or SET SCHEMA of a statistics object. */
void
dbscale_utility_rename_statistics(UtilityCall *call, List *names)
{
	Oid			statistics;
	const DistributedTable *table = table_of_statistics(names, &statistics);
	char	   *schema;
	char	   *name;
	char	   *where;

	if (table == NULL)
	{
		dbscale_utility_core(call);
		return;
	}
	(void) name_of(statistics, &schema, &name);
	where = where_name(schema, name);
	dbscale_utility_core(call);
	(void) name_of(statistics, &schema, &name);
	(void) dbscale_ddl_execute_as_owner(psprintf("UPDATE dbscale.statistics_name SET schema_name = %s, statistics_name = %s WHERE %s",
												 quote_literal_cstr(schema), quote_literal_cstr(name), where));
}

void
dbscale_statistics_schema_renamed(const char *from, const char *to)
{
	(void) dbscale_ddl_execute_as_owner(psprintf("UPDATE dbscale.statistics_name SET schema_name = %s WHERE schema_name = %s",
												 quote_literal_cstr(to), quote_literal_cstr(from)));
}
