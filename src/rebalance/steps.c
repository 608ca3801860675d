/*
 * steps.c
 *		Jobs of more than one step: a merge of shards on two nodes (the first moves, then
 *		they are merged), a key that is isolated on another node (its shard is made, then
 *		moves), a key that is assigned (assign.c).
 *
 * Each step is a whole job of another kind, which ends with a switch.
 *
 *	1. What the next step is, is not remembered but seen: by where the catalog has the shard
 *	   or the key, in the transaction in which the step's shards are locked for it.  Steps
 *	   that are done are not done again, whoever has done them.
 *	2. A worker that is killed leaves what move.c says of a move; the job is put back and
 *	   goes on by 1.  Only the switch of the last step says in the job's row that the job
 *	   has ended: if the others did, it would be taken for done.
 *	3. The shard that a step is on the way to may not be split, merged or moved by others
 *	   while the step is under way: its number is locked like those that the step is about.
 *	   Between two steps it may be; if it is gone then, that is an error.
 *	4. A step that is cancelled, or fails, leaves what was before the step.  The error says
 *	   what the steps before it have done.
 */
#include "rebalance/internal.h"

#include "access/xact.h"
#include "utils/snapmgr.h"

static void
merge_next(JobRequest *request, const DistributedTable *table)
{
	const Shard *target = dbscale_ddl_require_shard(table, request->number);

	request->locks_target = true;
	if (dbscale_ddl_require_shard(table, request->shard)->node == target->node)
		return;
	request->kind = JOB_MOVE;
	request->node = target->node->name;
	request->goes_on = true;
}

static bool
is_there(const JobRequest *request, int shard)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(request->relation);

	return strcmp(NameStr(dbscale_ddl_require_shard(table, shard)->node->name), NameStr(request->node)) == 0;
}

/* False: the key's shard is where it is to be. */
static bool
isolate_next(JobRequest *request, const DistributedTable *table)
{
	int			own;

	if (request->number == 0)
		return true;
	own = reshard_shard_of_key_alone(table, dbscale_key_from_text(table->group->key_type, request->argument));
	if (own < 0)
	{
		request->goes_on = !is_there(request, request->shard);
		return true;
	}
	request->kind = JOB_MOVE;
	request->shard = own;
	return !is_there(request, own);
}

bool
steps_next(JobRequest *request)
{
	if (request->kind == JOB_ASSIGN)
		return assign_next(request);
	if (request->kind == JOB_ISOLATE)
		return isolate_next(request, move_open_group(request->relation));
	if (request->kind == JOB_MERGE)
		merge_next(request, move_open_group(request->relation));
	return true;
}

int
steps_count(const JobRequest *request, const ShardNode *from)
{
	if (request->kind == JOB_ASSIGN)
		return 3;
	return request->kind != JOB_MOVE && strcmp(NameStr(request->node), NameStr(from->name)) != 0 ? 2 : 1;
}

/* ---- what to tell of a job that failed on the way ---- */

static void
add_detail(ErrorData *error, const char *detail, const char *hint)
{
	error->detail = psprintf("%s%s%s", error->detail ? error->detail : "", error->detail ? " " : "", detail);
	error->hint = pstrdup(hint);
}

static void
explain_merge(const JobRequest *request, const TableGroup *group, ErrorData *error)
{
	const Shard *shard = dbscale_catalog_shard(group, request->shard);
	const Shard *target = dbscale_catalog_shard(group, request->number);

	if (shard != NULL && target != NULL && shard->node == target->node)
		add_detail(error, psprintf("Shard %d is on node \"%s\" by now.", shard->number, NameStr(shard->node->name)),
				   "Call dbscale.merge_shards again to go on from there.");
}

static void
explain_key(const JobRequest *request, const TableGroup *group, ErrorData *error)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(request->relation);
	Datum		key = dbscale_key_from_text(group->key_type, request->argument);
	const Shard *shard = dbscale_catalog_shard(group, dbscale_route_key(table, key, false));

	if (shard == NULL || shard->number == request->shard)
		return;
	add_detail(error, psprintf("The key is in shard %d by now, on node \"%s\".", shard->number, NameStr(shard->node->name)),
			   request->kind == JOB_ISOLATE ? "Call dbscale.isolate_key again to go on from there." :
			   psprintf("Call dbscale.assign_key again to go on from there, or with shard %d to bring it back.", request->shard));
}

void
steps_explain(const JobRequest *request, ErrorData *error)
{
	MemoryContext caller = CurrentMemoryContext;
	const DistributedTable *table;

	if (request->steps <= 1)
		return;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(caller);
	table = dbscale_catalog_table(request->relation);
	if (table != NULL && !table->is_reference)
	{
		if (request->kind == JOB_MERGE)
			explain_merge(request, table->group, error);
		else if (request->kind == JOB_ISOLATE || reshard_is_hashed(table->group))
			explain_key(request, table->group, error);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
}
