/*
 * assign.c
 *		A key of many rows is brought to another shard while it is read and written.
 *
 * To copy the key's rows alone would keep readers and writers of all keys waiting at the
 * switch, as long as the target takes to insert them and the source to delete them.
 * Shards are exchanged for others in a moment (reshard.c).  So it takes up to three
 * steps, each of which is a whole job of another kind:
 *
 *		isolate		the key gets a shard N of its own, with an entry of the directory and
 *					no hash, on the source's node; its old shard is made anew without it
 *		move		N goes to the target's node, unless it is there
 *		merge		N and the target become one shard, which takes the entry; N is no more.
 *					The entry goes too when the target has the key's hash
 *
 * More is copied than the key: its old shard, and the target.
 *
 *	1. Each step ends with one switch, for which cutover.c and reshard.c have the
 *	   arguments.  So at each moment, between two steps too, all of the key's rows are in
 *	   one shard, which is the one that the catalog names.
 *	2. What the next step is, is not remembered but seen: by where the catalog has the key,
 *	   in the transaction in which the step's shards are locked for it.  Steps that are
 *	   done are not done again, whoever has done them.
 *	3. A worker that is killed leaves what move.c says of a move; the job is put back and
 *	   goes on by 2.  Only the switch of the last step says in the job's row that the job
 *	   has ended: if the others did, it would be taken for done.
 *	4. The target may not be split, merged or moved by others while a step is under way:
 *	   its number is locked like those that the step is about.  Between two steps it may
 *	   be; if it is gone then, that is an error.
 *	5. A step that is cancelled, or fails, leaves what was before the step.  After the first
 *	   one the key has a shard of its own, like one that was isolated, and the error
 *	   says so.  Calling assign_key again goes on from there, to that shard or to another.
 *	6. That each node can send its log is asked before the first step.
 */
#include "rebalance/internal.h"

#include "access/xact.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

static Datum
key_of(const JobRequest *request, const DistributedTable *table)
{
	return dbscale_key_from_text(table->group->key_type, request->argument);
}

bool
assign_next(JobRequest *request)
{
	const DistributedTable *table = move_open_group(request->relation);
	Datum		key;
	const Shard *shard;
	const Shard *target;

	/* when the job has waited, it may be distributed anew */
	dbscale_ddl_check_directory(request->relation);
	key = key_of(request, table);
	shard = dbscale_ddl_require_shard(table, dbscale_route_key(table, key, false));
	target = dbscale_ddl_require_shard(table, request->number);
	if (shard == target)
		return false;
	request->of_assign = true;
	request->shard = shard->number;
	request->node = target->node->name;
	if (!reshard_has_entry_alone(table, key))
		request->kind = JOB_ISOLATE;
	else
		request->kind = shard->node != target->node ? JOB_MOVE : JOB_MERGE;
	return true;
}

void
assign_check_target(Move *move, const JobRequest *step)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(move->relid);
	const Shard *target = dbscale_ddl_require_shard(table, step->number);
	MoveNode	node;

	move_fill_node(&node, dbscale_catalog_require_node(NameStr(target->node->name), true));
	if (target->node->draining)
		move_refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
					psprintf("node \"%s\" is being drained", NameStr(node.name)), "It takes no new shards.",
					"Choose a shard on another node.");
	if (node.serverid != move->source.serverid)
		move_check_log(move, &node);
}

/* In a transaction: the shard, if the table is still there, or NULL. */
static const Shard *
shard_now(const JobRequest *request)
{
	const DistributedTable *table = dbscale_catalog_table(request->relation);

	if (table == NULL || table->is_reference || !reshard_is_hashed(table->group))
		return NULL;
	return dbscale_catalog_shard(table->group, dbscale_route_key(table, key_of(request, table), false));
}

void
assign_explain(const JobRequest *request, ErrorData *error)
{
	const Shard *shard;
	MemoryContext caller = CurrentMemoryContext;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	shard = shard_now(request);
	MemoryContextSwitchTo(caller);
	if (shard != NULL && shard->number != request->shard)
	{
		error->detail = psprintf("%s%sThe key is in shard %d by now, on node \"%s\".", error->detail ? error->detail : "",
								 error->detail ? " " : "", shard->number, NameStr(shard->node->name));
		error->hint = psprintf("Call dbscale.assign_key again to go on from there, or with shard %d to bring it back.",
							   request->shard);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
}
