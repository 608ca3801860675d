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
 *	2. How the steps follow each other, and what a kill or a cancel leaves, is as for all
 *	   jobs of several steps (steps.c).  After the first one the key has a shard of its own,
 *	   like one that was isolated; calling assign_key again goes on from there, to that
 *	   shard or to another.
 *	3. That each node can send its log is asked before the first step.
 */
#include "rebalance/internal.h"

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
	request->locks_target = true;
	request->shard = shard->number;
	request->node = target->node->name;
	if (!reshard_has_entry_alone(table, key))
		request->kind = JOB_ISOLATE;
	else
		request->kind = shard->node != target->node ? JOB_MOVE : JOB_MERGE;
	request->goes_on = request->kind != JOB_MERGE;
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
