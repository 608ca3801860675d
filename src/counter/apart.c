/*
 * apart.c
 *		Counters whose tables are not colocated, as SQL (carry.c explains it).
 */
#include "counter/groups.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

static char *
k_columns(const Counter *counter, const char *suffix)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	foreach(lc, counter->source_key)
		appendStringInfo(&sql, "%sk%d %s%s", foreach_current_index(lc) ? ", " : "", foreach_current_index(lc) + 1,
						 dbscale_counter_key_type(counter, lfirst(lc)), suffix);
	return sql.data;
}

/* "a1 bigint[], a2 text[]" with such a prefix and separator. */
static char *
arrays(const Counter *counter, const char *prefix, const char *separator)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	foreach(lc, counter->source_key)
		appendStringInfo(&sql, "%s%s%d %s[]", foreach_current_index(lc) ? separator : "", prefix, foreach_current_index(lc) + 1,
						 dbscale_counter_key_type(counter, lfirst(lc)));
	return sql.data;
}

static char *
numbered(const Counter *counter, const char *before, const char *after)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int n = 1; n <= list_length(counter->target_key); n++)
		appendStringInfo(&sql, "%s%s%d%s", n > 1 ? ", " : "", before, n, after);
	return sql.data;
}

/*
 * By 4 of carry.c: of these keys those that a carrier may write for now, with what their
 * rows have (NULL: there is no row); it waits for nobody.
 */
static char *
lock_body(const CounterPlace *place, const Counter *counter)
{
	char	   *table = dbscale_counter_table_at(place, counter->target);
	char	   *k = dbscale_counter_list_k(list_length(counter->target_key), "");
	char	   *join = dbscale_counter_join_k(counter->target_key, "target_", "d");
	char	   *locked = numbered(counter, "l", "");
	const char *column = quote_identifier(counter->column);
	int			class = dbscale_counter_lock_class(table, counter->target_key);

	return psprintf("\n#variable_conflict use_column\nDECLARE\n%s;\nBEGIN\n"
					"BEGIN\nLOCK TABLE %s, %s IN ROW EXCLUSIVE MODE NOWAIT;\nEXCEPTION WHEN lock_not_available THEN\nRETURN;\nEND;\n"
					"IF NOT pg_try_advisory_xact_lock_shared(%d, 0) THEN RETURN; END IF;\n"
					"SELECT %s INTO %s FROM unnest(%s) d(%s) WHERE pg_try_advisory_xact_lock_shared(%d, hash_record(ROW(%s)));\n"
					"RETURN QUERY SELECT x.* FROM (SELECT d.*, coalesce(target_.%s, 0)::numeric FROM unnest(%s) d(%s) JOIN %s AS target_ ON %s ORDER BY %s"
					" FOR NO KEY UPDATE OF target_ SKIP LOCKED) x;\n"
					"RETURN QUERY SELECT d.*, NULL::numeric FROM unnest(%s) d(%s) WHERE NOT EXISTS (SELECT FROM %s AS target_ WHERE %s);\nEND;\n",
					arrays(counter, "l", ";\n"), table, dbscale_counter_orphans_name(place, counter), class + 1,
					numbered(counter, "array_agg(d.k", ")"), locked, numbered(counter, "a", ""), k, class, k,
					column, locked, k, table, join, dbscale_counter_list_columns(counter->target_key, "target_."),
					locked, k, table, join);
}

/* Beside the target: what is kept of keys without a row, and the function above. */
List *
dbscale_counter_orphans_sql(const CounterPlace *place, const Counter *counter)
{
	char	   *orphans = dbscale_counter_orphans_name(place, counter);
	char	   *lock = dbscale_counter_lock_name(place, counter);
	List	   *commands;

	commands = list_make1(psprintf("CREATE TABLE IF NOT EXISTS %s (%s, value %s NOT NULL, PRIMARY KEY (%s))", orphans,
								   k_columns(counter, ""), dbscale_counter_delta_type(counter),
								   dbscale_counter_list_k(list_length(counter->target_key), "")));
	commands = lappend(commands, psprintf("CREATE OR REPLACE FUNCTION %s(%s) RETURNS TABLE (%s, value numeric) LANGUAGE plpgsql SECURITY DEFINER"
										  " SET search_path = pg_catalog, pg_temp AS %s", lock, arrays(counter, "a", ", "),
										  k_columns(counter, ""), quote_literal_cstr(lock_body(place, counter))));
	commands = lappend(commands, psprintf("REVOKE ALL ON FUNCTION %s FROM PUBLIC", lock));
	if (place->group == NULL)
	{
		const char *owner = quote_identifier(GetUserNameFromId(dbscale_counter_owner(counter->target), false));

		commands = lappend(commands, psprintf("ALTER TABLE %s OWNER TO %s", orphans, owner));
		commands = lappend(commands, psprintf("ALTER FUNCTION %s OWNER TO %s", lock, owner));
	}
	return commands;
}

/* Of the keys in v: FROM the function above, and the same where nothing need be locked; k1, ... and value. */
char *
dbscale_counter_lock_call(const CounterPlace *place, const Counter *counter)
{
	return psprintf("%s(%s)", dbscale_counter_lock_name(place, counter), numbered(counter, "ARRAY(SELECT k", " FROM v)"));
}

char *
dbscale_counter_values_sql(const CounterPlace *place, const Counter *counter)
{
	return psprintf("(SELECT %s, target_.%s::numeric AS value FROM v LEFT JOIN %s AS target_ ON %s)",
					dbscale_counter_list_k(list_length(counter->target_key), "v."), quote_identifier(counter->column),
					dbscale_counter_table_at(place, counter->target), dbscale_counter_join_k(counter->target_key, "target_", "v"));
}

/* Does this value (or NULL) fit into the counter's column? */
char *
dbscale_counter_fits_sql(const Counter *counter, const char *value)
{
	Oid			type;
	int32		typmod;
	Oid			collation;
	int			precision;
	int			scale;

	get_atttypetypmodcoll(counter->target, get_attnum(counter->target, counter->column), &type, &typmod, &collation);
	if (type == NUMERICOID && typmod < 0)
		return pstrdup("true");
	if (type != NUMERICOID)
		return psprintf("coalesce(%s BETWEEN %s, true)", value, type == INT2OID ? "-32768 AND 32767" :
						type == INT4OID ? "-2147483648 AND 2147483647" : "-9223372036854775808 AND 9223372036854775807");
	precision = ((typmod - VARHDRSZ) >> 16) & 0xffff;
	scale = dbscale_counter_scale(typmod);
	return psprintf("coalesce(abs(round(%s, %d)) < '1e%d'::numeric, true)", value, scale, precision - scale);
}

List *
dbscale_counter_drop_orphans_sql(const CounterPlace *place, const Counter *counter)
{
	return list_make2(psprintf("DROP FUNCTION IF EXISTS %s", dbscale_counter_lock_name(place, counter)),
					  psprintf("DROP TABLE IF EXISTS %s", dbscale_counter_orphans_name(place, counter)));
}

/* What the source's rows say becomes pending. */
char *
dbscale_counter_enqueue_sql(const CounterPlace *place, const Counter *counter)
{
	char	   *k = dbscale_counter_list_k(list_length(counter->target_key), "");

	return psprintf("INSERT INTO %s (%s, delta) SELECT %s, x FROM (%s) a WHERE x <> 0",
					dbscale_counter_buffer_name(place, counter), k, k, dbscale_counter_true_values(place, counter));
}

/* {"id": 7} as text, from columns with this prefix */
static char *
key_object(const Counter *counter, const char *prefix, bool own_names)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "pg_catalog.jsonb_build_object(");
	foreach(lc, counter->target_key)
		appendStringInfo(&sql, "%s%s, %s%s", foreach_current_index(lc) ? ", " : "", quote_literal_cstr(lfirst(lc)), prefix,
						 own_names ? quote_identifier(lfirst(lc)) : psprintf("k%d", foreach_current_index(lc) + 1));
	appendStringInfoString(&sql, ")::text");
	return sql.data;
}

char *
dbscale_counter_key_object(const Counter *counter, const char *prefix)
{
	return key_object(counter, prefix, false);
}

/*
 * Of counter_parts(): key, what is stored, what was carried there, is it kept for a row
 * that is not there?  By 8, of a source what its rows say without what is pending.
 */
char *
dbscale_counter_source_parts_sql(const CounterPlace *place, const Counter *counter)
{
	char	   *k = dbscale_counter_list_k(list_length(counter->target_key), "");

	return psprintf("SELECT %s, NULL::text, sum(x)::text, NULL::text FROM (%s UNION ALL SELECT %s, - delta FROM %s) a GROUP BY %s",
					key_object(counter, "", false), dbscale_counter_true_values(place, counter), k,
					dbscale_counter_buffer_name(place, counter), k);
}

char *
dbscale_counter_target_parts_sql(const CounterPlace *place, const Counter *counter)
{
	return psprintf("SELECT %s, %s::text, NULL::text, 'f' FROM %s AS target_ WHERE %s UNION ALL SELECT %s, value::text, NULL, 't' FROM %s",
					key_object(counter, "target_.", true), quote_identifier(counter->column),
					dbscale_counter_table_at(place, counter->target), dbscale_counter_not_null(counter->target_key),
					key_object(counter, "", false), dbscale_counter_orphans_name(place, counter));
}

/* What is pending of one key; values are of char *. */
char *
dbscale_counter_pending_of_sql(const CounterPlace *place, const Counter *counter, List *values)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT coalesce(sum(delta), 0)::text FROM %s WHERE ", dbscale_counter_buffer_name(place, counter));
	foreach(lc, values)
		appendStringInfo(&sql, "%sk%d = %s", foreach_current_index(lc) ? " AND " : "", foreach_current_index(lc) + 1,
						 quote_literal_cstr(lfirst(lc)));
	return sql.data;
}
