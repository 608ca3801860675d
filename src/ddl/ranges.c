/*
 * ranges.c
 *		Bounds of range and list shards: from a step, from JSON, to PARTITION OF.
 *
 * A shard's bounds are kept as jsonb, {"from": …, "to": …} or {"values": […]},
 * where every value is the key's text in one form (ISO dates, UTC), so that it
 * reads the same in any session.  The arithmetic is SQL: PostgreSQL knows its
 * own calendar.
 *
 * Ranges begin at multiples of the step: years and months at the calendar's, days
 * and hours counted from Monday 2000-01-03, numbers from 0.  Dates of the local
 * time zone are meant, so "1 day" of a timestamptz begins at local midnight.
 */
#include "ddl/ddl.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

static bool
is_time_type(Oid type)
{
	return type == DATEOID || type == TIMESTAMPOID || type == TIMESTAMPTZOID;
}

/* The key's text in its one form; raises the type's error for a bad value. */
static char *
canonical(Oid type, const char *text)
{
	Oid			input;
	Oid			ioparam;

	getTypeInputInfo(type, &input, &ioparam);
	return dbscale_key_to_text(type, OidInputFunctionCall(input, pstrdup(text), ioparam, -1));
}

static void
bad_bounds(const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid bounds of shards"),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
}

#define RANGE_HINT "Give bounds such as {\"from\": \"2026-01-01\", \"to\": \"2027-01-01\"}."
#define LIST_HINT "Give bounds such as {\"us\": [\"us-east\", \"us-west\"], \"eu\": {\"values\": [\"eu-west\"], \"node\": \"n2\"}}."

static ShardBounds *
make_range(Oid type, const char *from, const char *to)
{
	ShardBounds *bounds = palloc0(sizeof(ShardBounds));

	if (from == NULL || to == NULL)
		bad_bounds("A range needs \"from\" and \"to\".", RANGE_HINT);
	from = canonical(type, from);
	to = canonical(type, to);
	bounds->json = dbscale_ddl_query_value(
		psprintf("SELECT jsonb_build_object('from', %s::text, 'to', %s::text)",
				 quote_literal_cstr(from), quote_literal_cstr(to)));
	return bounds;
}

static char *
checked_step(const char *step, Oid type)
{
	char	   *problem;

	/* its errors are the type's, about the text alone */
	(void) canonical(is_time_type(type) ? INTERVALOID : NUMERICOID, step);
	if (is_time_type(type))
		problem = dbscale_ddl_query_value(
			psprintf("SELECT CASE WHEN s <= interval '0' THEN 'The step must be greater than zero.'"
					 " WHEN %s AND s <> date_trunc('day', s) THEN 'The step of a date must be of whole days.' END"
					 " FROM (SELECT %s::interval AS s) x",
					 type == DATEOID ? "true" : "false", quote_literal_cstr(step)));
	else
		problem = dbscale_ddl_query_value(
			psprintf("SELECT CASE WHEN s <= 0 OR s = 'NaN' OR s = 'Infinity' THEN 'The step must be greater than zero.'"
					 " WHEN %s AND s <> trunc(s) THEN 'The step of an integer must be an integer.' END"
					 " FROM (SELECT %s::numeric AS s) x",
					 type == NUMERICOID ? "false" : "true", quote_literal_cstr(step)));
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid step \"%s\"", step),
				 errdetail("%s", problem),
				 errhint("Give a step such as '1 month' for a time, or '1000000' for a number.")));
	return quote_literal_cstr(step);
}

/* SQL for the start of the range that holds `value` (an expression). */
static char *
aligned(Oid type, const char *value, const char *step)
{
	if (!is_time_type(type))
		return psprintf("(floor((%s)::numeric / %s::numeric) * %s::numeric)", value, step, step);
	return psprintf("(SELECT CASE"
					" WHEN s = make_interval(months => m) AND m > 0 THEN"
					"  make_timestamp(1, 1, 1, 0, 0, 0) + make_interval(months => n - n %% m)"
					" WHEN m = 0 THEN date_bin(s, v, timestamp '2000-01-03')"
					" ELSE date_trunc('day', v) END"
					" FROM (SELECT (%s)::timestamp AS v, %s::interval AS s) x,"
					" LATERAL (SELECT (extract(year FROM s) * 12 + extract(month FROM s))::int AS m,"
					" (extract(year FROM v) * 12 + extract(month FROM v) - 13)::int AS n) y)",
					value, step);
}

/*
 * The ranges from `start`, a step each, as long as `more` (a condition on the
 * range's start "f") holds, and `extra` more; `limit` (may be NULL) cuts the last.
 */
static List *
series(Oid type, const char *step, const char *start, const char *more, int extra, const char *limit)
{
	const char *arithmetic = is_time_type(type) ? "timestamp" : "numeric";
	const char *unit = is_time_type(type) ? "interval" : "numeric";
	char	   *key_type = format_type_be_qualified(type);
	char	   *end = psprintf("b.start + (i + 1) * %s::%s", step, unit);
	List	   *rows;
	List	   *ranges = NIL;
	ListCell   *lc;

	if (limit != NULL)
		end = psprintf("least(%s, %s)", end, limit);
	rows = dbscale_ddl_query_rows(
		psprintf("SELECT f::%s, (%s)::%s FROM (SELECT %s::%s AS start) b, generate_series(0, %d) i,"
				 " LATERAL (SELECT b.start + i * %s::%s AS f, b.start + (i - %d) * %s::%s AS earlier) x"
				 " WHERE %s ORDER BY i",
				 key_type, end, key_type, start, arithmetic, DBSCALE_HASH_MODULUS,
				 step, unit, extra, step, unit, more));
	if (rows == NIL)
		bad_bounds("They make no range.", RANGE_HINT);
	if (list_length(rows) > DBSCALE_HASH_MODULUS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the step is too small for the table's range"),
				 errdetail("It makes more than %d shards.", DBSCALE_HASH_MODULUS),
				 errhint("Give a greater step, or bounds.")));
	foreach(lc, rows)
	{
		char	  **row = lfirst(lc);

		ranges = lappend(ranges, make_range(type, row[0], row[1]));
	}
	return ranges;
}

/* No number of steps leads to infinity. */
static void
check_finite(const char *value)
{
	if (dbscale_ddl_query_value(psprintf("SELECT 1 WHERE lower(%s) IN ('infinity', '-infinity', 'nan')",
										 quote_literal_cstr(value))) == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the ranges of the table have no end"),
			 errdetail("The shard key of a row is %s.", value),
			 errhint("Change the row, or choose another strategy.")));
}

/* Ranges over what the rows hold, or around now or zero, and some ahead. */
static List *
derived_ranges(Oid relid, const char *key, Oid type, const char *step)
{
	const char *arithmetic = is_time_type(type) ? "timestamp" : "numeric";
	List	   *rows = dbscale_ddl_query_rows(
		psprintf("SELECT min(%s), max(%s) FROM ONLY %s", quote_identifier(key), quote_identifier(key),
				 quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
											get_rel_name(relid))));
	char	  **extremes = linitial(rows);
	char	   *low = "now()";
	char	   *high = "now()";

	if (!is_time_type(type))
		low = high = "0";
	if (extremes[0] != NULL)
	{
		check_finite(extremes[0]);
		check_finite(extremes[1]);
		low = psprintf("%s::%s", quote_literal_cstr(extremes[0]), format_type_be_qualified(type));
		high = psprintf("%s::%s", quote_literal_cstr(extremes[1]), format_type_be_qualified(type));
	}
	return series(type, step, aligned(type, low, step),
				  psprintf("earlier <= (%s)::%s", high, arithmetic),
				  dbscale_premake_ranges, NULL);
}

/* bounds->>name, or NULL */
static char *
member(const char *bounds, const char *name)
{
	return dbscale_ddl_query_value(psprintf("SELECT %s::jsonb ->> %s", quote_literal_cstr(bounds),
											quote_literal_cstr(name)));
}

static void
check_members(const char *bounds)
{
	char	   *other = dbscale_ddl_query_value(
		psprintf("SELECT CASE WHEN jsonb_typeof(b) <> 'object' THEN 'They are not an object.' ELSE"
				 " (SELECT format('There is no member \"%%s\" of a range.', k) FROM jsonb_object_keys(b) k"
				 " WHERE k NOT IN ('from', 'to') LIMIT 1) END FROM (SELECT %s::jsonb AS b) x",
				 quote_literal_cstr(bounds)));

	if (other != NULL)
		bad_bounds(other, RANGE_HINT);
}

List *
dbscale_ddl_make_ranges(Oid relid, const char *key, Oid type, const char *step, const char *bounds)
{
	const char *arithmetic = is_time_type(type) ? "timestamp" : "numeric";
	ShardBounds *whole;
	char	   *from;
	char	   *to;
	char	   *quoted_type = format_type_be_qualified(type);

	step = checked_step(step, type);
	if (bounds == NULL)
		return derived_ranges(relid, key, type, step);
	whole = dbscale_ddl_parse_range(type, bounds);
	from = psprintf("%s::%s::%s", quote_literal_cstr(member(whole->json, "from")), quoted_type, arithmetic);
	to = psprintf("%s::%s::%s", quote_literal_cstr(member(whole->json, "to")), quoted_type, arithmetic);
	if (dbscale_ddl_query_value(psprintf("SELECT 1 WHERE %s < %s", from, to)) == NULL)
		bad_bounds("\"from\" is not less than \"to\".", RANGE_HINT);
	return series(type, step, from, psprintf("f < %s", to), 0, to);
}

ShardBounds *
dbscale_ddl_parse_range(Oid type, const char *bounds)
{
	check_members(bounds);
	return make_range(type, member(bounds, "from"), member(bounds, "to"));
}

/* The values of one list shard, each in its one form; a null stays. */
static char *
list_values(Oid type, const char *label, const char *values)
{
	List	   *rows;
	ListCell   *lc;
	StringInfoData array;

	if (values == NULL || values[0] != '[')
		bad_bounds(psprintf("The values of \"%s\" are not an array.", label), LIST_HINT);
	rows = dbscale_ddl_query_rows(psprintf("SELECT jsonb_array_elements_text(%s::jsonb)",
										   quote_literal_cstr(values)));
	if (rows == NIL)
		bad_bounds(psprintf("There are no values for \"%s\".", label), LIST_HINT);
	initStringInfo(&array);
	foreach(lc, rows)
	{
		char	   *value = ((char **) lfirst(lc))[0];

		appendStringInfo(&array, "%s%s", array.len > 0 ? ", " : "",
						 value ? quote_literal_cstr(canonical(type, value)) : "NULL");
	}
	return dbscale_ddl_query_value(psprintf("SELECT jsonb_build_object('values', ARRAY[%s]::text[])",
											array.data));
}

List *
dbscale_ddl_parse_lists(Oid type, const char *bounds)
{
	List	   *rows;
	List	   *lists = NIL;
	char	   *other;
	ListCell   *lc;

	if (dbscale_ddl_query_value(psprintf("SELECT 1 WHERE jsonb_typeof(%s::jsonb) = 'object'",
										 quote_literal_cstr(bounds))) == NULL)
		bad_bounds("They are not an object.", LIST_HINT);
	other = dbscale_ddl_query_value(
		psprintf("SELECT format('There is no member \"%%s\" of the list \"%%s\".', m, key) FROM jsonb_each(%s::jsonb),"
				 " LATERAL jsonb_object_keys(CASE WHEN jsonb_typeof(value) = 'object' THEN value ELSE '{}' END) m"
				 " WHERE m NOT IN ('values', 'node') LIMIT 1", quote_literal_cstr(bounds)));
	if (other != NULL)
		bad_bounds(other, LIST_HINT);
	rows = dbscale_ddl_query_rows(
		psprintf("SELECT key, CASE WHEN jsonb_typeof(value) = 'object' THEN value -> 'values' ELSE value END,"
				 " CASE WHEN jsonb_typeof(value) = 'object' THEN value ->> 'node' END"
				 " FROM jsonb_each(%s::jsonb)", quote_literal_cstr(bounds)));
	if (rows == NIL)
		bad_bounds("They name no shard.", LIST_HINT);
	foreach(lc, rows)
	{
		char	  **row = lfirst(lc);
		ShardBounds *one = palloc0(sizeof(ShardBounds));

		one->label = row[0];
		one->json = list_values(type, row[0], row[1]);
		one->node = row[2];
		lists = lappend(lists, one);
	}
	return lists;
}

char *
dbscale_ddl_partition_clause(ShardStrategy strategy, int shard, const char *json)
{
	if (strategy == SHARD_RANGE)
		return dbscale_ddl_query_value(
			psprintf("SELECT format('FOR VALUES FROM (%%L) TO (%%L)', b ->> 'from', b ->> 'to')"
					 " FROM (SELECT %s::jsonb AS b) x", quote_literal_cstr(json)));
	if (strategy == SHARD_LIST)
		return dbscale_ddl_query_value(
			psprintf("SELECT format('FOR VALUES IN (%%s)', string_agg(coalesce(quote_literal(v), 'NULL'), ', '))"
					 " FROM jsonb_array_elements_text(%s::jsonb -> 'values') v", quote_literal_cstr(json)));
	return psprintf("FOR VALUES WITH (MODULUS %d, REMAINDER %d)", DBSCALE_HASH_MODULUS, shard);
}
