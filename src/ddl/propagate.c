/*
 * propagate.c
 *		Carrying a change of a table to its shards.
 *
 * A table's state is its columns (number, name, NOT NULL, what ANALYZE is told of them),
 * its CHECK constraints, its indexes and its extended statistics, as the catalog has them.  It is taken before PostgreSQL runs the
 * command and compared with what is there afterwards; the difference becomes the
 * shards' commands.  So "ALTER TABLE posts ADD COLUMN IF NOT EXISTS a int, ADD b
 * serial CHECK (b > 0)" needs no reading of its text: the column b and a CHECK
 * constraint are new, and go to the shards as the catalog describes them, with every
 * name qualified.  What has gone is left to drop.c.
 */
#include "ddl/utility.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_attrdef.h"
#include "catalog/pg_constraint.h"
#include "lib/stringinfo.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

typedef struct ColumnState
{
	AttrNumber	number;
	char	   *name;
	bool		not_null;
	char	   *statistics;		/* the target; "-1": the default */
	char	   *options;		/* or NULL */
} ColumnState;

typedef struct CheckState
{
	Oid			oid;
	char	   *name;
	bool		validated;
} CheckState;

typedef struct StatisticsState
{
	Oid			oid;
	char	   *target;
} StatisticsState;

struct TableState
{
	Oid			relid;
	List	   *columns;		/* of ColumnState * */
	List	   *checks;			/* of CheckState * */
	List	   *indexes;		/* OIDs */
	List	   *statistics;		/* of StatisticsState * */
};

static List *
read_columns(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	List	   *columns = NIL;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		ColumnState *column;

		if (att->attisdropped)
			continue;
		column = palloc(sizeof(ColumnState));
		column->number = att->attnum;
		column->name = pstrdup(NameStr(att->attname));
		column->not_null = att->attnotnull;
		column->statistics = dbscale_ddl_column_statistics(RelationGetRelid(rel), att->attnum);
		column->options = dbscale_ddl_column_options(RelationGetRelid(rel), att->attnum);
		columns = lappend(columns, column);
	}
	return columns;
}

static List *
read_checks(Oid relid)
{
	ListCell   *lc;
	List	   *checks = NIL;

	foreach(lc, dbscale_ddl_constraints_of(relid))
	{
		Form_pg_constraint form = (Form_pg_constraint) GETSTRUCT((HeapTuple) lfirst(lc));
		CheckState *check;

		if (form->contype != CONSTRAINT_CHECK)
			continue;
		check = palloc(sizeof(CheckState));
		check->oid = form->oid;
		check->name = pstrdup(NameStr(form->conname));
		check->validated = form->convalidated;
		checks = lappend(checks, check);
	}
	return checks;
}

static List *
read_statistics(Oid relid)
{
	List	   *list = NIL;
	ListCell   *lc;

	foreach(lc, dbscale_statistics_of(relid))
	{
		StatisticsState *state = palloc(sizeof(StatisticsState));

		state->oid = lfirst_oid(lc);
		state->target = dbscale_statistics_target(state->oid);
		list = lappend(list, state);
	}
	return list;
}

TableState *
dbscale_propagate_state(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	TableState *state = palloc(sizeof(TableState));

	state->relid = relid;
	state->columns = read_columns(rel);
	state->checks = read_checks(relid);
	state->indexes = list_copy(RelationGetIndexList(rel));
	state->statistics = read_statistics(relid);
	table_close(rel, NoLock);
	return state;
}

static ColumnState *
find_column(List *columns, AttrNumber number)
{
	ListCell   *lc;

	foreach(lc, columns)
		if (((ColumnState *) lfirst(lc))->number == number)
			return lfirst(lc);
	return NULL;
}

static CheckState *
find_check(List *checks, Oid oid)
{
	ListCell   *lc;

	foreach(lc, checks)
		if (((CheckState *) lfirst(lc))->oid == oid)
			return lfirst(lc);
	return NULL;
}

static StatisticsState *
find_statistics(List *statistics, Oid oid)
{
	ListCell   *lc;

	foreach(lc, statistics)
		if (((StatisticsState *) lfirst(lc))->oid == oid)
			return lfirst(lc);
	return NULL;
}

static bool
table_has_rows(Oid relid)
{
	return dbscale_ddl_query_value(psprintf("SELECT 1 FROM %s LIMIT 1",
											quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
																	   get_rel_name(relid)))) != NULL;
}

/*
 * What a new column's default gives the rows that are there: evaluated once, as
 * ALTER TABLE does for all but volatile expressions.  NULL: nothing.
 */
static char *
default_of_new_column(Relation rel, Form_pg_attribute att)
{
	Node	   *expression = NULL;
	char	   *text;

	if (att->attgenerated)
		return NULL;
	if (!att->attidentity)
		expression = build_column_default(rel, att->attnum);
	if (!att->attidentity && expression == NULL)
		return NULL;
	if (att->attidentity || contain_volatile_functions(expression))
	{
		if (table_has_rows(RelationGetRelid(rel)))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("column \"%s\" cannot be added to distributed table \"%s\" with this default",
							NameStr(att->attname), RelationGetRelationName(rel)),
					 errdetail("The default has another value for each row, and the table has rows."),
					 errhint("Add the column without a default, set the default, and update the rows.")));
		return NULL;
	}
	text = dbscale_ddl_query_value(psprintf("SELECT pg_catalog.pg_get_expr(adbin, adrelid) FROM pg_catalog.pg_attrdef WHERE adrelid = %u AND adnum = %d",
											RelationGetRelid(rel), att->attnum));
	if (text == NULL)			/* a default of the column's domain */
		return NULL;
	return dbscale_ddl_query_value(psprintf("SELECT CAST(%s AS %s)", text,
											format_type_extended(att->atttypid, att->atttypmod,
																 FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY)));
}

/* The node's default exists only to fill the rows that are there. */
static void
add_column(const DistributedTable *table, Relation rel, Form_pg_attribute att)
{
	StringInfoData sql;
	char	   *value = default_of_new_column(rel, att);
	int			level = dbscale_ddl_set_safe_path();

	initStringInfo(&sql);
	dbscale_ddl_append_column(&sql, rel, att);
	if (value)
		appendStringInfo(&sql, " DEFAULT %s", quote_literal_cstr(value));
	AtEOXact_GUC(true, level);
	dbscale_ddl_run_on_shards(table, psprintf("ALTER TABLE %%s ADD COLUMN %s",
											  dbscale_ddl_escape_percent(sql.data)));
	if (value)
		dbscale_ddl_run_on_shards(table, psprintf("ALTER TABLE %%s ALTER COLUMN %s DROP DEFAULT",
												  dbscale_ddl_escape_percent(quote_identifier(NameStr(att->attname)))));
}

/* What ANALYZE is told of a column. */
static void
carry_column_statistics(const DistributedTable *table, AttrNumber attno, const char *name, const ColumnState *old)
{
	char	   *statistics = dbscale_ddl_column_statistics(table->relid, attno);
	char	   *options = dbscale_ddl_column_options(table->relid, attno);

	if (strcmp(statistics, old->statistics) != 0)
		dbscale_ddl_run_on_shards(table, psprintf("ALTER TABLE %%s ALTER COLUMN %s SET STATISTICS %s", name, statistics));
	if (strcmp(options ? options : "", old->options ? old->options : "") == 0)
		return;
	dbscale_ddl_run_on_shards(table, psprintf("ALTER TABLE %%s ALTER COLUMN %s RESET (n_distinct, n_distinct_inherited)", name));
	if (options != NULL)
		dbscale_ddl_run_on_shards(table, psprintf("ALTER TABLE %%s ALTER COLUMN %s SET (%s)", name, options));
}

static void
carry_columns(const DistributedTable *table, Relation rel, const TableState *before)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		ColumnState *old = find_column(before->columns, att->attnum);
		char	   *name = dbscale_ddl_escape_percent(quote_identifier(NameStr(att->attname)));

		if (att->attisdropped)
			continue;
		if (old == NULL)
		{
			add_column(table, rel, att);
			continue;
		}
		if (strcmp(old->name, NameStr(att->attname)) != 0)
			dbscale_ddl_run_on_shards(table, psprintf("ALTER TABLE %%s RENAME COLUMN %s TO %s",
													  dbscale_ddl_escape_percent(quote_identifier(old->name)), name));
		if (old->not_null != att->attnotnull)
			dbscale_ddl_run_on_shards(table, psprintf("ALTER TABLE %%s ALTER COLUMN %s %s NOT NULL",
													  name, att->attnotnull ? "SET" : "DROP"));
		carry_column_statistics(table, att->attnum, name, old);
	}
}

static void
carry_check(const DistributedTable *table, CheckState *check, CheckState *old)
{
	char	   *name = dbscale_ddl_escape_percent(quote_identifier(check->name));

	if (old == NULL)
	{
		int			level = dbscale_ddl_set_safe_path();
		char	   *definition = TextDatumGetCString(DirectFunctionCall1(pg_get_constraintdef,
																		 ObjectIdGetDatum(check->oid)));

		AtEOXact_GUC(true, level);
		dbscale_ddl_run_on_shards(table, psprintf("ALTER TABLE %%s ADD CONSTRAINT %s %s", name,
												  dbscale_ddl_escape_percent(definition)));
		return;
	}
	if (strcmp(old->name, check->name) != 0)
		dbscale_ddl_run_on_shards(table, psprintf("ALTER TABLE %%s RENAME CONSTRAINT %s TO %s",
												  dbscale_ddl_escape_percent(quote_identifier(old->name)), name));
	if (!old->validated && check->validated)
		dbscale_ddl_run_on_shards(table, psprintf("ALTER TABLE %%s VALIDATE CONSTRAINT %s", name));
}

static char *
index_command(const DistributedTable *table, int shard, void *arg)
{
	return dbscale_ddl_shard_index_sql(table, *(Oid *) arg, shard);
}

static char *
constraint_command(const DistributedTable *table, int shard, void *arg)
{
	return dbscale_ddl_shard_constraint_sql(table, *(Oid *) arg, shard);
}

static char *
create_statistics_command(const DistributedTable *table, int shard, void *arg)
{
	return dbscale_statistics_create_sql(table, *(Oid *) arg, shard);
}

static char *
statistics_target_command(const DistributedTable *table, int shard, void *arg)
{
	return dbscale_statistics_target_sql(*(Oid *) arg, shard);
}

static void
carry_statistics(const DistributedTable *table, StatisticsState *state, StatisticsState *old)
{
	if (old == NULL && !dbscale_statistics_are_stored(state->oid))
		dbscale_ddl_run_for_shards(table, create_statistics_command, &state->oid);
	if (strcmp(state->target, old ? old->target : "-1") != 0)
		dbscale_ddl_run_for_shards(table, statistics_target_command, &state->oid);
}

void
dbscale_propagate_changes(const TableState *before)
{
	const DistributedTable *table;
	Relation	rel;
	ListCell   *lc;

	CommandCounterIncrement();
	table = dbscale_catalog_require_table(before->relid);
	rel = table_open(before->relid, AccessShareLock);
	carry_columns(table, rel, before);
	foreach(lc, read_checks(before->relid))
	{
		CheckState *check = lfirst(lc);

		carry_check(table, check, find_check(before->checks, check->oid));
	}
	foreach(lc, list_copy(RelationGetIndexList(rel)))
	{
		Oid			index = lfirst_oid(lc);

		if (list_member_oid(before->indexes, index))
			continue;
		dbscale_ddl_run_for_shards(table, index_command, &index);
		dbscale_ddl_run_for_shards(table, constraint_command, &index);
	}
	foreach(lc, read_statistics(before->relid))
	{
		StatisticsState *state = lfirst(lc);

		carry_statistics(table, state, find_statistics(before->statistics, state->oid));
	}
	table_close(rel, NoLock);
}
