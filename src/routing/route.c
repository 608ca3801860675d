/*
 * route.c
 *		From a key of any type to its shard.
 */
#include "routing/router.h"

#include "catalog/pg_type.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"

static const RoutingStrategy *const strategies[] = {
	[SHARD_HASH] = &dbscale_hash_strategy,
	[SHARD_DIRECTORY] = &dbscale_hash_strategy,
	[SHARD_RANGE] = &dbscale_range_strategy,
	[SHARD_LIST] = &dbscale_list_strategy,
};

int
dbscale_route_key(const DistributedTable *table, Datum key, bool isnull)
{
	const RoutingStrategy *strategy = strategies[table->group->strategy];

	return isnull ? strategy->route_null(table) : strategy->route(table, key);
}

static Datum
cast_through_text(Datum key, Oid from, Oid to)
{
	Oid			output;
	bool		is_varlena;

	getTypeOutputInfo(from, &output, &is_varlena);
	return dbscale_key_from_text(to, OidOutputFunctionCall(output, key));
}

/* A cast function may also take the type modifier and whether the cast is explicit. */
static Datum
call_cast_function(Oid function, Datum key)
{
	switch (get_func_nargs(function))
	{
		case 1:
			return OidFunctionCall1(function, key);
		case 2:
			return OidFunctionCall2(function, key, Int32GetDatum(-1));
		default:
			return OidFunctionCall3(function, key, Int32GetDatum(-1), BoolGetDatum(false));
	}
}

/* As an assignment casts, but text of any kind is read as the key's type. */
Datum
dbscale_cast_key(const DistributedTable *table, Datum key, Oid type)
{
	Oid			target = table->group->key_type;
	Oid			function;

	if (type == target)
		return key;
	/* the commonest, a number in a statement's text */
	if (type == INT4OID && target == INT8OID)
		return Int64GetDatum(DatumGetInt32(key));
	switch (find_coercion_pathway(target, type, COERCION_ASSIGNMENT, &function))
	{
		case COERCION_PATH_RELABELTYPE:
			return key;
		case COERCION_PATH_FUNC:
			return call_cast_function(function, key);
		case COERCION_PATH_COERCEVIAIO:
			return cast_through_text(key, type, target);
		default:
			break;
	}
	if (type == UNKNOWNOID || TypeCategory(type) == TYPCATEGORY_STRING)
		return cast_through_text(key, type, target);
	ereport(ERROR,
			(errcode(ERRCODE_CANNOT_COERCE),
			 errmsg("cannot cast type %s to %s, the type of the shard key of table \"%s\"",
					format_type_be(type), format_type_be(target), get_rel_name(table->relid)),
			 errhint("Cast the key to %s.", format_type_be(target))));
}

int
dbscale_route_any_key(const DistributedTable *table, Datum key, Oid type, bool isnull)
{
	if (!isnull)
		key = dbscale_cast_key(table, key, type);
	return dbscale_route_key(table, key, isnull);
}

/* Is it an integer that the key's type, a smaller one, does not have? */
static bool
is_out_of_range(Oid target, Datum key, Oid type)
{
	int64		value;

	if (type == INT8OID)
		value = DatumGetInt64(key);
	else if (type == INT4OID)
		value = DatumGetInt32(key);
	else
		return false;
	if (target == INT4OID)
		return value < PG_INT32_MIN || value > PG_INT32_MAX;
	return target == INT2OID && (value < PG_INT16_MIN || value > PG_INT16_MAX);
}

int
dbscale_route_compared_key(const DistributedTable *table, Datum key, Oid type, bool isnull)
{
	if (!isnull && is_out_of_range(table->group->key_type, key, type))
		return -1;
	return dbscale_route_any_key(table, key, type, isnull);
}
