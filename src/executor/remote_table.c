/*
 * remote_table.c
 *		Names and statements of one shard table on its node.
 */
#include "executor/internal.h"

#include "access/sysattr.h"
#include "catalog/namespace.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

static const char *
find_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, name) == 0)
			return defGetString(def);
	}
	return NULL;
}

char *
dbscale_remote_table_name(Oid foreign_table)
{
	ForeignTable *table = GetForeignTable(foreign_table);
	const char *schema = find_option(table->options, "schema_name");
	const char *name = find_option(table->options, "table_name");

	if (schema == NULL)
		schema = get_namespace_name(get_rel_namespace(foreign_table));
	if (name == NULL)
		name = get_rel_name(foreign_table);
	return psprintf("%s.%s", quote_identifier(schema), quote_identifier(name));
}

const char *
dbscale_remote_column_name(Oid foreign_table, AttrNumber attno, const char *local)
{
	const char *name = find_option(GetForeignColumnOptions(foreign_table, attno), "column_name");

	return quote_identifier(name != NULL ? name : local);
}

char *
dbscale_remote_label(Oid foreign_table)
{
	char	   *name = get_rel_name(foreign_table);

	return name != NULL ? name : psprintf("%u", foreign_table);
}

List *
dbscale_writable_columns(TupleDesc desc)
{
	List	   *columns = NIL;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && att->attgenerated == '\0')
			columns = lappend_int(columns, i + 1);
	}
	return columns;
}

/* The column's name on the node.  The layout may be the parent's: names agree. */
static const char *
column_name(Oid foreign_table, TupleDesc desc, AttrNumber attno)
{
	const char *local = NameStr(TupleDescAttr(desc, attno - 1)->attname);
	AttrNumber	own = get_attnum(foreign_table, local);

	return dbscale_remote_column_name(foreign_table, own, local);
}

static void
append_columns(StringInfo sql, Oid foreign_table, TupleDesc desc, List *columns)
{
	ListCell   *lc;

	foreach(lc, columns)
		appendStringInfo(sql, "%s%s", foreach_current_index(lc) > 0 ? ", " : "",
						 column_name(foreign_table, desc, lfirst_int(lc)));
}

/* RETURNING everything, with the row's place; *retrieved gets the attribute numbers. */
static void
append_returning(StringInfo sql, Oid foreign_table, TupleDesc desc, List **retrieved)
{
	*retrieved = list_make1_int(SelfItemPointerAttributeNumber);
	appendStringInfoString(sql, " RETURNING ctid");
	for (int i = 0; i < desc->natts; i++)
	{
		if (TupleDescAttr(desc, i)->attisdropped)
			continue;
		*retrieved = lappend_int(*retrieved, i + 1);
		appendStringInfo(sql, ", %s", column_name(foreign_table, desc, i + 1));
	}
}

char *
dbscale_insert_sql(Oid foreign_table, TupleDesc desc, List *columns,
				   bool do_nothing, bool returning, List **retrieved)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO %s", dbscale_remote_table_name(foreign_table));
	if (columns == NIL)
		appendStringInfoString(&sql, " DEFAULT VALUES");
	else
	{
		appendStringInfoString(&sql, " (");
		append_columns(&sql, foreign_table, desc, columns);
		appendStringInfoString(&sql, ") VALUES (");
		for (int i = 1; i <= list_length(columns); i++)
			appendStringInfo(&sql, "%s$%d", i > 1 ? ", " : "", i);
		appendStringInfoChar(&sql, ')');
	}
	if (do_nothing)
		appendStringInfoString(&sql, " ON CONFLICT DO NOTHING");
	if (returning)
		append_returning(&sql, foreign_table, desc, retrieved);
	return sql.data;
}

char *
dbscale_copy_sql(Oid foreign_table, TupleDesc desc, List *columns, bool binary)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "COPY %s (", dbscale_remote_table_name(foreign_table));
	append_columns(&sql, foreign_table, desc, columns);
	appendStringInfo(&sql, ") FROM STDIN%s", binary ? " (FORMAT binary)" : "");
	return sql.data;
}
