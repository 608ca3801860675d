/*
 * drain.c
 *		Jobs that are made of moves: drain_node and rebalance.
 *
 * Both only write rows: one of the whole, one for each move, which waits.  What they
 * return can be seen in dbscale.jobs and waited for when the transaction has
 * committed, and from then on the maintenance worker runs the moves, so many at a time
 * as dbscale.max_moves says.
 */
#include "rebalance/internal.h"
#include "rebalance/plan.h"

#include "catalog/pg_authid.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

DBSCALE_FUNCTION(dbscale_drain_node);
DBSCALE_FUNCTION(dbscale_rebalance);

static int64
insert_parent(const char *kind, int steps)
{
	int64		job = nextval_internal(dbscale_relation_oid("job_job_seq"), false);

	(void) dbscale_ddl_execute_as_owner(
		psprintf("INSERT INTO dbscale.job (job, kind, state, steps, finished_at, requested_by)"
				 " VALUES (" INT64_FORMAT ", %s, %s, %d, %s, %s)", job, quote_literal_cstr(kind),
				 steps > 0 ? "'running'" : "'done'", steps, steps > 0 ? "NULL" : "clock_timestamp()",
				 quote_literal_cstr(GetUserNameFromId(GetUserId(), false))));
	return job;
}

static void
insert_step(int64 parent, const PlannedMove *move)
{
	char	   *schema = get_namespace_name(get_rel_namespace(move->relation));

	(void) dbscale_ddl_execute_as_owner(
		psprintf("INSERT INTO dbscale.job (kind, relation, state, started_at, parent, relation_id, shard, from_node, to_node, requested_by)"
				 " VALUES ('move', %s, 'waiting', NULL, " INT64_FORMAT ", %u, %d, %s, %s, %s)",
				 quote_literal_cstr(quote_qualified_identifier(schema, get_rel_name(move->relation))),
				 parent, move->relation, move->shard, quote_literal_cstr(NameStr(move->from_node)),
				 quote_literal_cstr(NameStr(move->to_node)),
				 quote_literal_cstr(GetUserNameFromId(GetUserId(), false))));
}

/* The plan as a job of this kind. */
static int64
insert_job(const char *kind, List *plan)
{
	int64		job;
	ListCell   *lc;

	job = insert_parent(kind, list_length(plan));
	foreach(lc, plan)
		insert_step(job, lfirst(lc));
	return job;
}

/* drain_node(node name) → job */
Datum
dbscale_drain_node(PG_FUNCTION_ARGS)
{
	char	   *node = NameStr(*PG_GETARG_NAME(0));
	int64		job;

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to drain a node"),
				 errdetail("Only a superuser may change nodes.")));
	(void) dbscale_ddl_execute("LOCK TABLE dbscale.node, dbscale.shard IN SHARE ROW EXCLUSIVE MODE");
	job = insert_job("drain", dbscale_rebalance_drain_plan(node));
	(void) dbscale_ddl_execute_as_owner(psprintf("UPDATE dbscale.node SET state = 'draining' WHERE node = %s",
												 quote_literal_cstr(node)));
	PG_RETURN_INT64(job);
}

/* rebalance(by text) → job */
Datum
dbscale_rebalance(PG_FUNCTION_ARGS)
{
	List	   *plan = dbscale_rebalance_plan(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	ListCell   *lc;

	foreach(lc, plan)
		dbscale_ddl_check_owner(dbscale_catalog_require_distributed(((PlannedMove *) lfirst(lc))->relation)->group);
	PG_RETURN_INT64(insert_job("rebalance", plan));
}

/*
 * Not while a former job moves shards; nor for an hour after one that somebody did not
 * want, or that could not be done: the plan would be the same again.
 */
static bool
may_rebalance(void)
{
	return dbscale_ddl_query_value("SELECT 1 FROM dbscale.job WHERE state IN ('waiting', 'running')"
								   " OR (kind = 'rebalance' AND state IN ('failed', 'cancelled')"
								   " AND finished_at > now() - interval '1 hour') LIMIT 1") == NULL;
}

/* For the maintenance worker. */
void
dbscale_jobs_rebalance_if_due(void)
{
	if (dbscale_rebalance_is_due(dbscale_auto_rebalance && may_rebalance()))
		(void) insert_job("rebalance", dbscale_rebalance_plan("bytes"));
}
