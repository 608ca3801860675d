/*
 * catalog.c
 *		dbscale.counter: reading and writing its rows.
 *
 * The table holds names of columns, because a dump and restore changes attribute
 * numbers; the utility hook (hook.c) keeps them true when columns are renamed.
 */
#include "counter/internal.h"

#include "catalog/pg_class.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

static const char *const aggregate_names[] = {
	[COUNTER_COUNT] = "count",
	[COUNTER_SUM] = "sum",
	[COUNTER_MIN] = "min",
	[COUNTER_MAX] = "max",
};

const char *
dbscale_counter_aggregate_name(CounterAggregate aggregate)
{
	return aggregate_names[aggregate];
}

static CounterAggregate
aggregate_by_name(const char *name)
{
	for (int i = 0; i < lengthof(aggregate_names); i++)
		if (strcmp(name, aggregate_names[i]) == 0)
			return i;
	elog(ERROR, "unknown aggregate \"%s\" in dbscale.counter", name);
}

Oid
dbscale_counter_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* The first column of all rows: a list of char *. */
static List *
strings(const char *sql)
{
	List	   *list = NIL;
	ListCell   *lc;

	foreach(lc, dbscale_counter_query_rows(sql, NULL))
		list = lappend(list, ((char **) lfirst(lc))[0]);
	return list;
}

static List *
key_columns(const char *counter, const char *which)
{
	return strings(psprintf("SELECT k FROM dbscale.counter, unnest(%s) WITH ORDINALITY u(k, n) WHERE counter = %s ORDER BY n",
							which, quote_literal_cstr(counter)));
}

static char *
column_type(Oid relid, const char *column)
{
	return dbscale_counter_query(psprintf("SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
										  " WHERE attrelid = %u AND attname = %s AND NOT attisdropped",
										  relid, quote_literal_cstr(column)));
}

/* ARRAY['a', 'b']::name[] */
char *
dbscale_counter_name_array(List *names)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "ARRAY[");
	foreach(lc, names)
		appendStringInfo(&sql, "%s%s", foreach_current_index(lc) ? ", " : "", quote_literal_cstr(lfirst(lc)));
	appendStringInfoString(&sql, "]::name[]");
	return sql.data;
}

/* The same of a table here, in PostgreSQL's catalog. */
static bool
table_has_foreign_key(const Counter *counter)
{
	return dbscale_counter_query(psprintf("SELECT 1 FROM pg_catalog.pg_constraint c WHERE c.contype = 'f'"
										  " AND c.conrelid = %u AND c.confrelid = %u AND c.convalidated AND NOT c.condeferrable"
	/* 18 has foreign keys that are not enforced */
										  " AND coalesce((pg_catalog.to_jsonb(c) ->> 'conenforced')::boolean, true)"
										  " AND ARRAY(SELECT pg_catalog.quote_ident(a.attname) || '=' || pg_catalog.quote_ident(b.attname)"
										  " FROM unnest(c.conkey, c.confkey) u(x, y)"
										  " JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = u.x"
										  " JOIN pg_catalog.pg_attribute b ON b.attrelid = c.confrelid AND b.attnum = u.y ORDER BY 1)"
										  " = ARRAY(SELECT pg_catalog.quote_ident(u.x) || '=' || pg_catalog.quote_ident(u.y)"
										  " FROM unnest(%s, %s) u(x, y) ORDER BY 1) LIMIT 1",
										  counter->source, counter->target,
										  dbscale_counter_name_array(counter->source_key),
										  dbscale_counter_name_array(counter->target_key))) != NULL;
}

static bool
has_pair(const Constraint *key, const char *source_column, const char *target_column)
{
	ListCell   *ls;
	ListCell   *lt;

	forboth(ls, key->fk_attrs, lt, key->pk_attrs)
		if (strcmp(strVal(lfirst(ls)), source_column) == 0 && strcmp(strVal(lfirst(lt)), target_column) == 0)
			return true;
	return false;
}

/* `definition` is what the shards enforce, as dbscale.foreign_key has it. */
static bool
is_over_keys(const char *definition, const Counter *counter)
{
	List	   *parsed = raw_parser(psprintf("ALTER TABLE t ADD %s", definition), RAW_PARSE_DEFAULT);
	AlterTableStmt *stmt = castNode(AlterTableStmt, linitial_node(RawStmt, parsed)->stmt);
	Constraint *key = castNode(Constraint, linitial_node(AlterTableCmd, stmt->cmds)->def);
	ListCell   *ls;
	ListCell   *lt;

	/* one that is NOT ENFORCED (18) is not validated either */
	if (key->deferrable || key->skip_validation || list_length(key->fk_attrs) != list_length(counter->source_key))
		return false;
	forboth(ls, counter->source_key, lt, counter->target_key)
		if (!has_pair(key, lfirst(ls), lfirst(lt)))
			return false;
	return true;
}

/*
 * True when a foreign key over exactly the counter's columns is there, checked at the
 * end of each statement: then there is no source row whose target was not there first.
 * (On a shard that has just moved it says NOT VALID until the move has cleaned up: it
 * holds all the same, for the source had validated it.  So shards are not asked.)
 */
static bool
has_foreign_key(const Counter *counter)
{
	const DistributedTable *table = dbscale_catalog_table(counter->source);
	ListCell   *lc;

	if (table == NULL || table->is_reference)
		return table_has_foreign_key(counter);
	foreach(lc, strings(psprintf("SELECT definition FROM dbscale.foreign_key WHERE relation = %u AND referenced = %u",
								 counter->source, counter->target)))
		if (is_over_keys(lfirst(lc), counter))
			return true;
	return false;
}

void
dbscale_counter_find_out(Counter *counter)
{
	counter->type = column_type(counter->target, counter->column);
	counter->value_type = counter->value ? column_type(counter->source, counter->value) : NULL;
	counter->has_foreign_key = has_foreign_key(counter);
}

static Counter *
read_row(char **row)
{
	Counter    *counter = palloc0(sizeof(Counter));

	counter->name = row[0];
	counter->target = atooid(row[1]);
	counter->column = row[2];
	counter->source = atooid(row[3]);
	counter->aggregate = aggregate_by_name(row[4]);
	counter->value = row[5];
	counter->filter = row[6];
	counter->buffered = strcmp(row[7], "buffered") == 0;
	counter->fingerprint = row[8];
	counter->suspended = row[9][0] == 't';
	counter->apart = row[10][0] == 't';
	counter->target_key = key_columns(counter->name, "target_key");
	counter->source_key = key_columns(counter->name, "source_key");
	return counter;
}

/*
 * In the order of the targets' OIDs, which are the same for all sessions: triggers lock
 * rows in that order.
 */
List *
dbscale_counter_list_names(const char *condition)
{
	List	   *list = NIL;
	ListCell   *lc;

	foreach(lc, dbscale_counter_query_rows(
				psprintf("SELECT counter, target::oid, target_column, source::oid, aggregate, value_column, filter, mode, fingerprint, suspended, apart"
						 " FROM dbscale.counter WHERE %s ORDER BY target::oid, counter", condition ? condition : "true"), NULL))
		list = lappend(list, read_row(lfirst(lc)));
	return list;
}

List *
dbscale_counter_list(const char *condition)
{
	List	   *list = dbscale_counter_list_names(condition);
	ListCell   *lc;

	foreach(lc, list)
	{
		Counter    *counter = lfirst(lc);

		/* a table that is being dropped is there no more */
		if (get_rel_name(counter->target) && get_rel_name(counter->source))
			dbscale_counter_find_out(counter);
	}
	return list;
}

Counter *
dbscale_counter_get(const char *name, bool missing_ok)
{
	List	   *list = dbscale_counter_list(psprintf("counter = %s", quote_literal_cstr(name)));

	if (list == NIL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("counter \"%s\" does not exist", name),
				 errdetail("No counter of this database has that name."),
				 errhint("The view dbscale.counters lists them.")));
	return list ? linitial(list) : NULL;
}

/* Of one without its other table nothing can be made. */
static List *
with_tables(List *counters)
{
	List	   *list = NIL;
	ListCell   *lc;

	foreach(lc, counters)
	{
		const Counter *counter = lfirst(lc);

		if (get_rel_name(counter->target) && get_rel_name(counter->source))
			list = lappend(list, lfirst(lc));
	}
	return list;
}

List *
dbscale_counters_of_source(Oid source)
{
	return with_tables(dbscale_counter_list(psprintf("source = %u AND NOT suspended", source)));
}

List *
dbscale_counters_of_target(Oid target)
{
	return with_tables(dbscale_counter_list(psprintf("target = %u AND NOT suspended", target)));
}

static const char *
literal_or_null(const char *value)
{
	return value ? quote_literal_cstr(value) : "NULL";
}

void
dbscale_counter_insert(const Counter *counter)
{
	dbscale_counter_execute(psprintf("INSERT INTO dbscale.counter (counter, target, target_column, source, target_key, source_key,"
									 " aggregate, value_column, filter, mode, apart) VALUES (%s, %u, %s, %u, %s, %s, %s, %s, %s, %s, %s)",
									 quote_literal_cstr(counter->name), counter->target, quote_literal_cstr(counter->column),
									 counter->source, dbscale_counter_name_array(counter->target_key),
									 dbscale_counter_name_array(counter->source_key),
									 quote_literal_cstr(aggregate_names[counter->aggregate]),
									 literal_or_null(counter->value), literal_or_null(counter->filter),
									 counter->buffered ? "'buffered'" : "'sync'",
									 counter->apart ? "true" : "false"));
}
