/*
 * drain.c
 *		Jobs that are made of moves: drain_node and rebalance.
 *
 * Both only write rows: one of the whole, one for each move, which waits.  What they
 * return can be seen in dbscale.jobs and waited for when the transaction has
 * committed, and from then on the maintenance worker runs the moves, so many at a time
 * as dbscale.max_moves says.
 *
 * When the moves of a drain are done, there may be shards on the node still: the parts of
 * one that was being split when the node began to drain, or one that was on its way there.
 * So a drain ends when nobody brings anything to the node any more, and nothing is left
 * on it; until then its plan is made again.
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

/* Of one node, or of all. */
static int64
insert_parent(const char *kind, const char *node, int steps)
{
	int64		job = nextval_internal(dbscale_relation_oid("job_job_seq"), false);

	(void) dbscale_ddl_execute_as_owner(
		psprintf("INSERT INTO dbscale.job (job, kind, from_node, state, steps, finished_at, requested_by)"
				 " VALUES (" INT64_FORMAT ", %s, %s, %s, %d, %s, %s)", job, quote_literal_cstr(kind),
				 node != NULL ? quote_literal_cstr(node) : "NULL",
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

static void
insert_steps(int64 job, List *plan)
{
	ListCell   *lc;

	foreach(lc, plan)
		insert_step(job, lfirst(lc));
}

/* The plan as a job of this kind. */
static int64
insert_job(const char *kind, const char *node, List *plan)
{
	int64		job = insert_parent(kind, node, list_length(plan));

	insert_steps(job, plan);
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
	job = insert_job("drain", node, dbscale_rebalance_drain_plan(node));
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
	PG_RETURN_INT64(insert_job("rebalance", NULL, plan));
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
		(void) insert_job("rebalance", NULL, dbscale_rebalance_plan("bytes"));
}

/* ---- the end of such jobs: the maintenance worker's part ---- */

/* Of a job p whose steps are s: */
#define STEPS \
	"(SELECT parent, count(*) AS steps, sum(done_bytes) AS bytes, count(*) FILTER (WHERE state = 'failed') AS failed," \
	" count(*) FILTER (WHERE state = 'cancelled') AS cancelled," \
	" count(*) FILTER (WHERE state IN ('waiting', 'running')) AS open FROM dbscale.job WHERE parent IS NOT NULL GROUP BY parent) s"
#define STEPS_HAVE_ENDED "p.job = s.parent AND p.state = 'running' AND s.open = 0"
/* never true but of a drain, whose node is from_node */
#define SOMEBODY_BRINGS_MORE \
	"EXISTS (SELECT FROM dbscale.job b WHERE p.kind = 'drain' AND b.to_node = p.from_node AND b.state IN ('waiting', 'running'))"
#define SHARDS_ARE_LEFT \
	"(p.kind = 'drain' AND s.failed = 0 AND s.cancelled = 0" \
	" AND EXISTS (SELECT FROM dbscale.shard h JOIN dbscale.node n USING (node) WHERE h.node = p.from_node AND n.state = 'draining'))"
#define CAN_GO_ON "(" SHARDS_ARE_LEFT " AND EXISTS (SELECT FROM dbscale.node WHERE state = 'enabled'))"

void
jobs_go_on_draining(void)
{
	ListCell   *lc;

	foreach(lc, dbscale_ddl_query_rows("SELECT p.job, p.from_node FROM dbscale.job p, " STEPS
									   " WHERE " STEPS_HAVE_ENDED " AND " CAN_GO_ON " AND NOT " SOMEBODY_BRINGS_MORE))
	{
		char	  **row = lfirst(lc);
		int64		job = strtoll(row[0], NULL, 10);
		List	   *plan = dbscale_rebalance_drain_plan(row[1]);

		insert_steps(job, plan);
		(void) dbscale_ddl_execute_as_owner(psprintf("UPDATE dbscale.job SET steps = steps + %d WHERE job = " INT64_FORMAT,
													 list_length(plan), job));
	}
}

void
jobs_end_parents(void)
{
	(void) dbscale_ddl_execute_as_owner("UPDATE dbscale.job p SET finished_at = clock_timestamp(),"
										" state = CASE WHEN s.failed > 0 OR " SHARDS_ARE_LEFT " THEN 'failed' WHEN s.cancelled > 0 THEN 'cancelled' ELSE 'done' END,"
										" error = CASE WHEN s.failed > 0 THEN s.failed || ' of ' || s.steps || ' moves failed'"
										" WHEN " SHARDS_ARE_LEFT " THEN 'no other node takes the shards that are left' END,"
										" done_bytes = s.bytes FROM " STEPS
										" WHERE " STEPS_HAVE_ENDED " AND NOT " CAN_GO_ON " AND NOT " SOMEBODY_BRINGS_MORE);
}
