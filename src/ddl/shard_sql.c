/*
 * shard_sql.c
 *		Commands that make a shard's table on its node, from the parent's definition.
 *
 * A node's table has what a node enforces or stores: types, collations, NOT NULL,
 * CHECK constraints, generated columns, storage, indexes.  Defaults, identity,
 * triggers, policies and grants are the coordinator's, which evaluates them.
 *
 * Everything is deparsed under search_path = pg_catalog, so that all names of
 * other schemas are qualified, as they must be on a node.
 */
#include "ddl/ddl.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

static char *
generation_expression(Relation rel, AttrNumber attno)
{
	TupleConstr *constr = rel->rd_att->constr;

	for (int i = 0; constr != NULL && i < constr->num_defval; i++)
	{
		if (constr->defval[i].adnum == attno)
			return TextDatumGetCString(DirectFunctionCall2(pg_get_expr,
														   CStringGetTextDatum(constr->defval[i].adbin),
														   ObjectIdGetDatum(RelationGetRelid(rel))));
	}
	elog(ERROR, "generated column %d of \"%s\" has no expression",
		 attno, RelationGetRelationName(rel));
}

void
dbscale_ddl_append_column(StringInfo sql, Relation rel, Form_pg_attribute att)
{
	appendStringInfo(sql, "%s %s", quote_identifier(NameStr(att->attname)),
					 format_type_with_typemod(att->atttypid, att->atttypmod));
	if (att->attcompression == 'p' || att->attcompression == 'l')
		appendStringInfo(sql, " COMPRESSION %s", att->attcompression == 'p' ? "pglz" : "lz4");
	if (OidIsValid(att->attcollation) && att->attcollation != get_typcollation(att->atttypid))
		appendStringInfo(sql, " COLLATE %s", generate_collation_name(att->attcollation));
	if (att->attgenerated != '\0')
		appendStringInfo(sql, " GENERATED ALWAYS AS (%s) %s",
						 generation_expression(rel, att->attnum),
						 att->attgenerated == ATTRIBUTE_GENERATED_STORED ? "STORED" : "VIRTUAL");
	if (att->attnotnull)
		appendStringInfoString(sql, " NOT NULL");
}

/* CONSTRAINT name CHECK (...), for each CHECK constraint, after a comma. */
static void
append_checks(StringInfo sql, Oid relid)
{
	ListCell   *lc;

	foreach(lc, dbscale_ddl_constraints_of(relid))
	{
		Form_pg_constraint form = (Form_pg_constraint) GETSTRUCT((HeapTuple) lfirst(lc));

		/* NOT VALID ones follow by ALTER TABLE, when the rows are there */
		if (form->contype == CONSTRAINT_CHECK && form->convalidated)
			appendStringInfo(sql, ", CONSTRAINT %s %s", quote_identifier(NameStr(form->conname)),
							 TextDatumGetCString(DirectFunctionCall1(pg_get_constraintdef,
																	 ObjectIdGetDatum(form->oid))));
	}
}

/* Storage parameters as kept in dbscale.distributed_table: the text of WITH (...), or NULL. */
static char *
stored_parameters(Oid relid)
{
	return dbscale_ddl_query_value(
		psprintf("SELECT storage_parameters FROM dbscale.distributed_table WHERE relation = %u", relid));
}

char *
dbscale_ddl_storage_parameters(Oid relid)
{
	return dbscale_ddl_query_value(
		psprintf("SELECT string_agg(format('%%s%%I=%%L', prefix, split_part(o, '=', 1),"
				 " substr(o, strpos(o, '=') + 1)), ', ') FROM"
				 " (SELECT '' AS prefix, reloptions FROM pg_class WHERE oid = %u UNION ALL"
				 " SELECT 'toast.', t.reloptions FROM pg_class c JOIN pg_class t ON t.oid = c.reltoastrelid"
				 " WHERE c.oid = %u) r, unnest(r.reloptions) o", relid, relid));
}

char *
dbscale_ddl_shard_table_sql(const DistributedTable *table, int shard)
{
	Relation	rel = table_open(table->relid, NoLock);
	TupleDesc	desc = RelationGetDescr(rel);
	int			level = dbscale_ddl_set_safe_path();
	StringInfoData sql;
	char	   *parameters;
	bool		first = true;

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE TABLE %s (", dbscale_ddl_shard_table_name(table, shard));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped)
			continue;
		if (!first)
			appendStringInfoString(&sql, ", ");
		first = false;
		dbscale_ddl_append_column(&sql, rel, att);
	}
	append_checks(&sql, table->relid);
	appendStringInfoChar(&sql, ')');
	parameters = stored_parameters(table->relid);
	if (parameters != NULL)
		appendStringInfo(&sql, " WITH (%s)", parameters);
	AtEOXact_GUC(true, level);
	table_close(rel, NoLock);
	return sql.data;
}

static const char *
storage_name(char storage)
{
	switch (storage)
	{
		case TYPSTORAGE_PLAIN:
			return "PLAIN";
		case TYPSTORAGE_EXTERNAL:
			return "EXTERNAL";
		case TYPSTORAGE_EXTENDED:
			return "EXTENDED";
		default:
			return "MAIN";
	}
}

char *
dbscale_ddl_column_statistics(Oid relid, AttrNumber attno)
{
	return dbscale_ddl_query_value(
		psprintf("SELECT COALESCE(attstattarget, -1) FROM pg_attribute WHERE attrelid = %u AND attnum = %d", relid, attno));
}

char *
dbscale_ddl_column_options(Oid relid, AttrNumber attno)
{
	return dbscale_ddl_query_value(
		psprintf("SELECT string_agg(format('%%I=%%L', split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)), ', ')"
				 " FROM pg_attribute, unnest(attoptions) o WHERE o LIKE 'n\\_distinct%%'"
				 " AND attrelid = %u AND attnum = %d", relid, attno));
}

/* The ALTER COLUMNs for one column, from queries on pg_attribute that suit every version. */
static List *
column_alters(List *list, const char *name, Oid relid, Form_pg_attribute att)
{
	const char *column = quote_identifier(NameStr(att->attname));
	char	   *value;

	if (att->attstorage != get_typstorage(att->atttypid))
		list = lappend(list, psprintf("ALTER TABLE %s ALTER COLUMN %s SET STORAGE %s",
									  name, column, storage_name(att->attstorage)));
	value = dbscale_ddl_column_statistics(relid, att->attnum);
	if (strcmp(value, "-1") != 0)
		list = lappend(list, psprintf("ALTER TABLE %s ALTER COLUMN %s SET STATISTICS %s",
									  name, column, value));
	value = dbscale_ddl_column_options(relid, att->attnum);
	if (value != NULL)
		list = lappend(list, psprintf("ALTER TABLE %s ALTER COLUMN %s SET (%s)",
									  name, column, value));
	return list;
}

/* ADD CONSTRAINT for the CHECK constraints that are NOT VALID. */
static List *
unvalidated_checks(List *list, const char *name, Oid relid)
{
	ListCell   *lc;

	foreach(lc, dbscale_ddl_constraints_of(relid))
	{
		Form_pg_constraint form = (Form_pg_constraint) GETSTRUCT((HeapTuple) lfirst(lc));

		if (form->contype == CONSTRAINT_CHECK && !form->convalidated)
			list = lappend(list, psprintf("ALTER TABLE %s ADD CONSTRAINT %s %s", name,
										  quote_identifier(NameStr(form->conname)),
										  TextDatumGetCString(DirectFunctionCall1(pg_get_constraintdef,
																				  ObjectIdGetDatum(form->oid)))));
	}
	return list;
}

List *
dbscale_ddl_shard_alter_sql(const DistributedTable *table, int shard)
{
	char	   *name = dbscale_ddl_shard_table_name(table, shard);
	Relation	rel = table_open(table->relid, NoLock);
	TupleDesc	desc = RelationGetDescr(rel);
	int			level = dbscale_ddl_set_safe_path();
	List	   *list = NIL;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped)
			list = column_alters(list, name, table->relid, att);
	}
	list = unvalidated_checks(list, name, table->relid);
	if (rel->rd_rel->relreplident == REPLICA_IDENTITY_FULL)
		list = lappend(list, psprintf("ALTER TABLE %s REPLICA IDENTITY FULL", name));
	AtEOXact_GUC(true, level);
	table_close(rel, NoLock);
	return list;
}

/*
 * What pg_get_indexdef writes before USING; the rest of its text holds for a shard.
 */
static char *
index_prefix(Relation index, Relation rel)
{
	return psprintf("CREATE %sINDEX %s ON %s%s ",
					index->rd_index->indisunique ? "UNIQUE " : "",
					quote_identifier(RelationGetRelationName(index)),
					index->rd_rel->relkind == RELKIND_PARTITIONED_INDEX ? "ONLY " : "",
					quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
											   RelationGetRelationName(rel)));
}

char *
dbscale_ddl_shard_index_sql(const DistributedTable *table, Oid index, int shard)
{
	Relation	rel = table_open(table->relid, NoLock);
	Relation	index_rel = index_open(index, AccessShareLock);
	int			level = dbscale_ddl_set_safe_path();
	char	   *definition;
	char	   *prefix = index_prefix(index_rel, rel);
	char	   *sql;

	definition = TextDatumGetCString(DirectFunctionCall1(pg_get_indexdef, ObjectIdGetDatum(index)));
	if (strncmp(definition, prefix, strlen(prefix)) != 0)
		elog(ERROR, "unexpected definition of index \"%s\"", RelationGetRelationName(index_rel));
	sql = psprintf("CREATE %sINDEX %s ON %s %s",
				   index_rel->rd_index->indisunique ? "UNIQUE " : "",
				   quote_identifier(dbscale_ddl_shard_index_name(table->relid,
																 RelationGetRelationName(index_rel), shard)),
				   dbscale_ddl_shard_table_name(table, shard),
				   definition + strlen(prefix));
	AtEOXact_GUC(true, level);
	index_close(index_rel, NoLock);
	table_close(rel, NoLock);
	return sql;
}

char *
dbscale_ddl_shard_constraint_sql(const DistributedTable *table, Oid index, int shard)
{
	Oid			constraint = get_index_constraint(index);
	HeapTuple	tuple;
	Form_pg_constraint form;
	char	   *name;
	char	   *sql;

	if (!OidIsValid(constraint))
		return NULL;
	tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(constraint));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for constraint %u", constraint);
	form = (Form_pg_constraint) GETSTRUCT(tuple);
	name = dbscale_ddl_shard_index_name(table->relid, get_rel_name(index), shard);
	sql = psprintf("ALTER TABLE %s ADD CONSTRAINT %s %s USING INDEX %s%s%s",
				   dbscale_ddl_shard_table_name(table, shard), quote_identifier(name),
				   form->contype == CONSTRAINT_PRIMARY ? "PRIMARY KEY" : "UNIQUE",
				   quote_identifier(name),
				   form->condeferrable ? " DEFERRABLE" : "",
				   form->condeferred ? " INITIALLY DEFERRED" : "");
	ReleaseSysCache(tuple);
	return sql;
}

char *
dbscale_ddl_column_list(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	TupleDesc	desc = RelationGetDescr(rel);
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped || att->attgenerated != '\0')
			continue;
		appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "",
						 quote_identifier(NameStr(att->attname)));
	}
	table_close(rel, NoLock);
	return list.data;
}
