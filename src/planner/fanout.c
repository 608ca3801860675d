/*
 * fanout.c
 *		The plan of a query that many shards answer, each a part.
 */
#include "planner/planner.h"

#include "fmgr.h"

/* Only a place in a query that was split; never called. */
DBSCALE_FUNCTION(dbscale_shard_rows);
Datum
dbscale_shard_rows(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("dbscale.shard_rows cannot be called"),
			 errdetail("It marks the place of a scan of shards in a query that the planner has split.")));
	PG_RETURN_NULL();
}
