/*
 * functions.c
 *		shard_for() and node_for().
 */
#include "routing/router.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

DBSCALE_FUNCTION(dbscale_shard_for);
DBSCALE_FUNCTION(dbscale_node_for);

/* The message does not show the key: it may be anybody's data. */
static void
report_no_shard(const DistributedTable *table, bool isnull)
{
	const char *relation = get_rel_name(table->relid);
	const char *key = get_attname(table->relid, table->key_attno, true);

	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 isnull ?
			 errmsg("table \"%s\" has no shard for a null key", relation) :
			 errmsg("table \"%s\" has no shard for this key", relation),
			 errdetail("It is distributed by %s of \"%s\", and the key is outside the bounds of every shard.",
					   dbscale_strategy_name(table->group->strategy), key ? key : "?"),
			 isnull && table->group->strategy == SHARD_RANGE ?
			 errhint("Rows of a table distributed by range must have a key.") :
			 errhint("Use dbscale.add_shard() to add one.")));
}

/* Arguments: relation regclass, key anyelement (or text). */
static const Shard *
route_arguments(FunctionCallInfo fcinfo)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(PG_GETARG_OID(0));
	bool		isnull = PG_ARGISNULL(1);
	Oid			type = get_fn_expr_argtype(fcinfo->flinfo, 1);
	int			number;
	const Shard *shard;

	if (!OidIsValid(type))
		elog(ERROR, "could not determine the type of the key");
	number = dbscale_route_any_key(table, isnull ? (Datum) 0 : PG_GETARG_DATUM(1), type, isnull);
	if (number < 0)
		report_no_shard(table, isnull);
	shard = dbscale_catalog_shard(table->group, number);
	if (shard == NULL)
		elog(ERROR, "shard %d of table group %d does not exist", number, table->group->id);
	return shard;
}

Datum
dbscale_shard_for(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	PG_RETURN_INT32(route_arguments(fcinfo)->number);
}

Datum
dbscale_node_for(PG_FUNCTION_ARGS)
{
	Name		name;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	name = palloc(NAMEDATALEN);
	memcpy(name, &route_arguments(fcinfo)->node->name, NAMEDATALEN);
	PG_RETURN_NAME(name);
}
