/*
 * reshard_plan.c
 *		Of which shards a split, an isolation or a merge makes which: numbers and bounds.
 *
 * Of a hash group the parts share the source's range of hashes.  Entries of the directory
 * stay with the source's number, and so do null keys, which shard 0 has.  A key that is
 * isolated gets a range of one hash, or, if it has an entry (and in directory groups), an
 * entry and no hash.  Nothing else moves: other shards' rows are not looked at.
 */
#include "rebalance/internal.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#define MAX_PARTS 256
static void
cannot_split(const DistributedTable *table, int shard, const char *detail, const char *hint)
{
	move_refuse(ERRCODE_INVALID_PARAMETER_VALUE,
		   psprintf("cannot split shard %d of table \"%s\"", shard, get_rel_name(table->relid)), detail, hint);
}

/* ---- the catalog's rows ---- */

static char *
shard_column(const DistributedTable *table, int shard, const char *expression)
{
	return dbscale_ddl_query_value(psprintf("SELECT %s FROM dbscale.shard WHERE group_id = %d AND shard = %d",
											expression, table->group->id, shard));
}

/* The bounds of a range shard. */
static char *
bound_of(const DistributedTable *table, int shard, const char *which)
{
	return shard_column(table, shard, psprintf("bounds ->> '%s'", which));
}

/* The values of a list shard: of char **, NULL for null. */
static List *
values_of(const DistributedTable *table, int shard)
{
	return dbscale_ddl_query_rows(psprintf("SELECT jsonb_array_elements_text(bounds -> 'values') FROM dbscale.shard"
										   " WHERE group_id = %d AND shard = %d", table->group->id, shard));
}

/* How many entries of the directory a shard has. */
static int
count_entries(const TableGroup *group, int shard)
{
	int			count = 0;
	ListCell   *lc;

	foreach(lc, group->directory)
		count += ((const DirectoryEntry *) lfirst(lc))->shard == shard;
	return count;
}

/* ---- parts ---- */

static Part *
add_part(Reshaping *plan, int number)
{
	Part	   *part = palloc0(sizeof(Part));

	part->number = number;
	plan->parts = lappend(plan->parts, part);
	return part;
}

/* The first part has the source's number. */
static Part *
add_next_part(Reshaping *plan, int shard)
{
	return add_part(plan, plan->parts == NIL ? shard : NEW_NUMBER);
}

static void
set_hashes(Part *part, uint64 from, uint64 to)
{
	part->has_hash = true;
	part->hash_from = (uint32) from;
	part->hash_to = (uint32) to;
}

static char *
range_json(const DistributedTable *table, const char *from, const char *to)
{
	return dbscale_ddl_parse_range(table->group->key_type,
								   dbscale_ddl_query_value(psprintf("SELECT jsonb_build_object('from', %s::text, 'to', %s::text)",
																	quote_literal_cstr(from), quote_literal_cstr(to))))->json;
}

static char *
list_json(List *values, int from, int to)
{
	StringInfoData array;

	initStringInfo(&array);
	for (int i = from; i < to; i++)
	{
		char	   *value = ((char **) list_nth(values, i))[0];

		appendStringInfo(&array, "%s%s", array.len > 0 ? ", " : "", value ? quote_literal_cstr(value) : "NULL");
	}
	return dbscale_ddl_query_value(psprintf("SELECT jsonb_build_object('values', ARRAY[%s]::text[])", array.data));
}

/* The job outlives what the catalog's lookups return. */
static char *
copy_label(const Shard *shard)
{
	return shard->label ? pstrdup(shard->label) : NULL;
}

/* ---- split ---- */

static uint64
parse_hash(const char *bound)
{
	char	   *end;
	uint64		value = strtou64(bound, &end, 10);

	if (*bound == '\0' || *end != '\0' || value > PG_UINT32_MAX)
		move_refuse(ERRCODE_INVALID_PARAMETER_VALUE, psprintf("\"%s\" is no hash", bound),
			   "Shards of the strategies hash and directory are split at a hash, from 0 to 4294967295.",
			   "Leave the bound out to split in the middle.");
	return value;
}

static void
split_hashes(Reshaping *plan, const JobRequest *request, const DistributedTable *table, const Shard *shard)
{
	uint64		from = shard->hash_from;
	uint64		all = (uint64) shard->hash_to - from + 1;

	if (!shard->has_hash)
		cannot_split(table, shard->number, "It has no range of hashes, only keys that are assigned to it.",
					 "Give keys other shards with dbscale.assign_key or dbscale.isolate_key.");
	if (request->has_argument)
	{
		uint64		bound = parse_hash(request->argument);

		if (bound <= from || bound > shard->hash_to)
			cannot_split(table, shard->number, psprintf("It has the hashes from %u to %u.", shard->hash_from, shard->hash_to),
						 "The bound is the first hash of the second part.");
		set_hashes(add_next_part(plan, shard->number), from, bound - 1);
		set_hashes(add_next_part(plan, shard->number), bound, shard->hash_to);
		return;
	}
	if (all < request->number)
		cannot_split(table, shard->number, psprintf("It has only " UINT64_FORMAT " hashes.", all), "Split it into fewer parts.");
	for (int i = 0; i < request->number; i++)
		set_hashes(add_next_part(plan, shard->number), from + all * i / request->number,
				   from + all * (i + 1) / request->number - 1);
}

/* Is a less than b, in the key's type? */
static bool
is_less(Oid type, const char *a, const char *b)
{
	char	   *name = format_type_be_qualified(type);

	return dbscale_ddl_query_value(psprintf("SELECT 1 WHERE %s::%s < %s::%s", quote_literal_cstr(a), name,
											quote_literal_cstr(b), name)) != NULL;
}

/* The end of part i of n that share a range. */
static char *
cut(const DistributedTable *table, int shard, const char *from, const char *to, int i, int n)
{
	Oid			type = table->group->key_type;
	char	   *name = format_type_be_qualified(type);
	const char *formula;

	if (dbscale_ddl_query_value(psprintf("SELECT 1 FROM unnest(ARRAY[%s, %s]) b WHERE lower(b) IN ('infinity', '-infinity', 'nan')",
										 quote_literal_cstr(from), quote_literal_cstr(to))) != NULL)
		cannot_split(table, shard, "Its range has no middle, for it is not finite.", "Give a bound.");
	if (type == DATEOID)
		formula = "f + ((t - f) * %d::bigint / %d)::integer";
	else if (type == TIMESTAMPOID || type == TIMESTAMPTZOID)
		formula = "f + (t - f) * (%d::float8 / %d)";
	else if (type == NUMERICOID)
		formula = "f + (t - f) * %d / %d";
	else
		formula = "floor(f::numeric + (t::numeric - f::numeric) * %d / %d)";
	return dbscale_ddl_query_value(psprintf("SELECT (%s)::%s FROM (SELECT %s::%s AS f, %s::%s AS t) x",
											psprintf(formula, i, n), name, quote_literal_cstr(from), name,
											quote_literal_cstr(to), name));
}

/* Parts between these bounds; an error unless they ascend. */
static void
add_ranges(Reshaping *plan, const DistributedTable *table, int shard, List *bounds)
{
	for (int i = 0; i + 1 < list_length(bounds); i++)
	{
		char	   *from = list_nth(bounds, i);
		char	   *to = list_nth(bounds, i + 1);

		if (!is_less(table->group->key_type, from, to))
			cannot_split(table, shard, psprintf("A part from %s to %s would have no keys.", from, to),
						 psprintf("The shard is from %s to %s.", (char *) linitial(bounds), (char *) llast(bounds)));
		add_next_part(plan, shard)->bounds = range_json(table, from, to);
	}
}

static void
split_range(Reshaping *plan, const JobRequest *request, const DistributedTable *table, const Shard *shard)
{
	char	   *from = bound_of(table, shard->number, "from");
	char	   *to = bound_of(table, shard->number, "to");
	List	   *bounds = list_make1(from);

	if (request->has_argument)
		bounds = lappend(bounds, dbscale_key_to_text(table->group->key_type,
													 dbscale_key_from_text(table->group->key_type, request->argument)));
	else
		for (int i = 1; i < request->number; i++)
			bounds = lappend(bounds, cut(table, shard->number, from, to, i, request->number));
	add_ranges(plan, table, shard->number, lappend(bounds, to));
}

static void
split_list(Reshaping *plan, const JobRequest *request, const DistributedTable *table, const Shard *shard)
{
	List	   *values = values_of(table, shard->number);
	int			count = list_length(values);

	if (request->has_argument)
		cannot_split(table, shard->number, "A list has no bound.", "Leave it out, or use dbscale.isolate_key for one value.");
	if (count < request->number)
		cannot_split(table, shard->number, psprintf("It has %d values.", count), "Split it into fewer parts.");
	for (int i = 0; i < request->number; i++)
	{
		Part	   *part = add_next_part(plan, shard->number);

		part->bounds = list_json(values, count * i / request->number, count * (i + 1) / request->number);
		part->label = i == 0 ? copy_label(shard) : psprintf("%s %d", shard->label, i + 1);
	}
}

static void
plan_split(Reshaping *plan, const JobRequest *request, const DistributedTable *table, const Shard *shard)
{
	if (request->number < 2 || request->number > MAX_PARTS)
		cannot_split(table, shard->number, psprintf("A shard is split into 2 to %d parts, not %d.", MAX_PARTS, request->number),
					 "Give another number of parts.");
	if (request->has_argument && request->number != 2)
		cannot_split(table, shard->number, "A bound makes two parts.", "Leave out the number of parts, or the bound.");
	plan->sources = list_make1_int(shard->number);
	if (reshard_is_hashed(table->group))
		split_hashes(plan, request, table, shard);
	else if (table->group->strategy == SHARD_RANGE)
		split_range(plan, request, table, shard);
	else
		split_list(plan, request, table, shard);
}

/* ---- isolate ---- */

/* The key behind this one, or NULL: there is always one between. */
static char *
next_key(Oid type, const char *key)
{
	char	   *name = format_type_be_qualified(type);

	if (type != INT2OID && type != INT4OID && type != INT8OID && type != DATEOID)
		return NULL;
	return dbscale_ddl_query_value(psprintf("SELECT (%s::%s%s + 1)::%s", quote_literal_cstr(key), name,
											type == DATEOID ? "" : "::numeric", name));
}

static void
isolate_hash(Reshaping *plan, const DistributedTable *table, const Shard *shard, Datum key, const char *text, bool by_entry)
{
	const char *entry = dbscale_directory_find(table, key);
	uint32		hash = dbscale_hash_key(table->group->key_type, table->key_collation, key);
	Part	   *rest;

	if (entry != NULL || by_entry || table->group->strategy == SHARD_DIRECTORY)
	{
		rest = add_part(plan, shard->number);
		rest->has_hash = shard->has_hash;
		rest->hash_from = shard->hash_from;
		rest->hash_to = shard->hash_to;
		add_part(plan, NEW_NUMBER)->keys = list_make1(pstrdup(entry ? entry : text));
		return;
	}
	if (hash > shard->hash_from)
		set_hashes(add_part(plan, shard->number), shard->hash_from, (uint64) hash - 1);
	set_hashes(add_part(plan, NEW_NUMBER), hash, hash);
	if (hash < shard->hash_to)
		set_hashes(add_part(plan, hash > shard->hash_from ? NEW_NUMBER : shard->number), (uint64) hash + 1, shard->hash_to);
	if (list_length(plan->parts) == 1)	/* entries of the directory are all that stays */
		add_part(plan, shard->number);
}

static void
isolate_range(Reshaping *plan, const DistributedTable *table, const Shard *shard, const char *key)
{
	Oid			type = table->group->key_type;
	char	   *from = bound_of(table, shard->number, "from");
	char	   *to = bound_of(table, shard->number, "to");
	char	   *next = next_key(type, key);
	bool		first = !is_less(type, from, key);

	if (next == NULL)
		move_refuse(ERRCODE_FEATURE_NOT_SUPPORTED,
			   psprintf("cannot isolate a key of table \"%s\"", get_rel_name(table->relid)),
			   psprintf("It is distributed by range, and of type %s there is no next value.", format_type_be(type)),
			   "Use dbscale.split_shard with bounds.");
	if (!first)
		add_part(plan, shard->number)->bounds = range_json(table, from, key);
	add_part(plan, NEW_NUMBER)->bounds = range_json(table, key, next);
	if (is_less(type, next, to))
		add_part(plan, first ? shard->number : NEW_NUMBER)->bounds = range_json(table, next, to);
}

static void
isolate_value(Reshaping *plan, const DistributedTable *table, const Shard *shard, const char *key)
{
	List	   *others = NIL;
	ListCell   *lc;
	Part	   *part;
	char	  **value = palloc(sizeof(char *));

	foreach(lc, values_of(table, shard->number))
	{
		char	  **row = lfirst(lc);

		if (row[0] == NULL || strcmp(row[0], key) != 0)
			others = lappend(others, row);
	}
	part = add_part(plan, shard->number);
	part->bounds = list_json(others, 0, list_length(others));
	part->label = copy_label(shard);
	*value = unconstify(char *, key);
	part = add_part(plan, NEW_NUMBER);
	part->bounds = list_json(list_make1(value), 0, 1);
	part->label = pstrdup(key);
}

static void
plan_isolate(Reshaping *plan, const JobRequest *request, const DistributedTable *table, const Shard *shard)
{
	Datum		key = dbscale_key_from_text(table->group->key_type, request->argument);

	if (dbscale_route_key(table, key, false) != shard->number)
		move_refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the key is in another shard now",
			   psprintf("It was in shard %d.", shard->number), "Call dbscale.isolate_key again.");
	if (!request->of_assign && reshard_shard_of_key_alone(table, key) >= 0)
		move_refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the key has a shard of its own already",
			   psprintf("It is shard %d.", shard->number), "There is nothing to do.");
	plan->sources = list_make1_int(shard->number);
	if (reshard_is_hashed(table->group))
		isolate_hash(plan, table, shard, key, request->argument, request->of_assign);
	else if (table->group->strategy == SHARD_RANGE)
		isolate_range(plan, table, shard, request->argument);
	else
		isolate_value(plan, table, shard, request->argument);
}

/* Shard 0 is merged into no other: it has the null keys. */
bool
reshard_has_entry_alone(const DistributedTable *table, Datum key)
{
	const Shard *shard = dbscale_ddl_require_shard(table, dbscale_route_key(table, key, false));

	return dbscale_directory_find(table, key) != NULL && shard->number != 0 && !shard->has_hash &&
		count_entries(table->group, shard->number) == 1;
}

int
reshard_shard_of_key_alone(const DistributedTable *table, Datum key)
{
	int			number = dbscale_route_key(table, key, false);
	const Shard *shard = number >= 0 ? dbscale_catalog_shard(table->group, number) : NULL;
	char	   *next;
	bool		alone;

	if (shard == NULL)
		return -1;
	if (reshard_is_hashed(table->group))
	{
		bool		entry = dbscale_directory_find(table, key) != NULL;

		alone = entry ? !shard->has_hash && count_entries(table->group, number) == 1 :
			shard->has_hash && shard->hash_from == shard->hash_to && count_entries(table->group, number) == 0;
	}
	else if (table->group->strategy == SHARD_RANGE)
	{
		next = next_key(table->group->key_type, bound_of(table, number, "from"));
		alone = next != NULL && !is_less(table->group->key_type, next, bound_of(table, number, "to"));
	}
	else
		alone = list_length(values_of(table, number)) == 1;
	return alone ? number : -1;
}

/* ---- merge ---- */

static void
cannot_merge(const DistributedTable *table, const Shard *shard, const Shard *into, const char *detail, const char *hint)
{
	move_refuse(ERRCODE_INVALID_PARAMETER_VALUE,
		   psprintf("cannot merge shard %d of table \"%s\" into shard %d", shard->number, get_rel_name(table->relid), into->number),
		   detail, hint);
}

/* Which shards could it be merged with: numbers, in words. */
static char *
neighbours(const DistributedTable *table, const Shard *shard)
{
	char	   *list;

	if (reshard_is_hashed(table->group))
		list = dbscale_ddl_query_value(
			psprintf("SELECT string_agg(o.shard::text, ' or ' ORDER BY o.shard) FROM dbscale.shard s JOIN dbscale.shard o USING (group_id)"
					 " WHERE s.group_id = %d AND s.shard = %d AND (o.hash_to + 1 = s.hash_from OR s.hash_to + 1 = o.hash_from)",
					 table->group->id, shard->number));
	else
		list = dbscale_ddl_query_value(
			psprintf("SELECT string_agg(o.shard::text, ' or ' ORDER BY o.shard) FROM dbscale.shard s JOIN dbscale.shard o USING (group_id)"
					 " WHERE s.group_id = %d AND s.shard = %d AND (o.bounds ->> 'to' = s.bounds ->> 'from' OR s.bounds ->> 'to' = o.bounds ->> 'from')",
					 table->group->id, shard->number));
	return list ? psprintf("Shard %d can be merged with shard %s.", shard->number, list) :
		psprintf("Shard %d has no neighbour.", shard->number);
}

static void
merge_hashes(Part *part, const DistributedTable *table, const Shard *shard, const Shard *into)
{
	if (shard->number == 0)
		cannot_merge(table, shard, into, "Rows whose key is null are always in shard 0.",
					 psprintf("Merge shard %d into shard 0.", into->number));
	if (shard->has_hash && into->has_hash)
	{
		if ((uint64) shard->hash_to + 1 != into->hash_from && (uint64) into->hash_to + 1 != shard->hash_from)
			cannot_merge(table, shard, into, "Their ranges of hashes are not neighbours.", neighbours(table, shard));
		set_hashes(part, Min(shard->hash_from, into->hash_from), Max(shard->hash_to, into->hash_to));
	}
	else if (shard->has_hash || into->has_hash)
	{
		const Shard *one = shard->has_hash ? shard : into;

		set_hashes(part, one->hash_from, one->hash_to);
	}
}

static void
merge_ranges(Part *part, const DistributedTable *table, const Shard *shard, const Shard *into)
{
	char	   *from = bound_of(table, shard->number, "from");
	char	   *to = bound_of(table, shard->number, "to");
	char	   *into_from = bound_of(table, into->number, "from");
	char	   *into_to = bound_of(table, into->number, "to");

	if (strcmp(to, into_from) == 0)
		part->bounds = range_json(table, from, into_to);
	else if (strcmp(into_to, from) == 0)
		part->bounds = range_json(table, into_from, to);
	else
		cannot_merge(table, shard, into, "Their ranges are not neighbours.", neighbours(table, shard));
}

static void
merge_lists(Part *part, const DistributedTable *table, const Shard *shard, const Shard *into)
{
	List	   *values = list_concat(values_of(table, into->number), values_of(table, shard->number));

	if (shard->pinned != into->pinned || (shard->pinned && shard->node != into->node))
		cannot_merge(table, shard, into, "One of them is pinned to a node, and the other is not pinned to the same.",
					 "Rows of pinned values never leave their node.");
	part->bounds = list_json(values, 0, list_length(values));
	part->label = copy_label(into);
}

static void
plan_merge(Reshaping *plan, const JobRequest *request, const DistributedTable *table, const Shard *shard)
{
	const Shard *into = dbscale_ddl_require_shard(table, request->number);
	Part	   *part = add_part(plan, into->number);

	if (shard == into)
		cannot_merge(table, shard, into, "They are one shard.", "Name two.");
	plan->sources = list_make2_int(into->number, shard->number);
	if (request->of_assign)
	{
		Datum		key = dbscale_key_from_text(table->group->key_type, request->argument);

		if (dbscale_hash_home(table, key) == into->number)
			part->home_key = pstrdup(dbscale_directory_find(table, key));
	}
	if (reshard_is_hashed(table->group))
		merge_hashes(part, table, shard, into);
	else if (table->group->strategy == SHARD_RANGE)
		merge_ranges(part, table, shard, into);
	else
		merge_lists(part, table, shard, into);
}

void
reshard_plan(Reshaping *plan, const JobRequest *request, const DistributedTable *table)
{
	const Shard *shard = dbscale_ddl_require_shard(table, request->shard);

	if (request->kind == JOB_SPLIT)
		plan_split(plan, request, table, shard);
	else if (request->kind == JOB_ISOLATE)
		plan_isolate(plan, request, table, shard);
	else
		plan_merge(plan, request, table, shard);
}
