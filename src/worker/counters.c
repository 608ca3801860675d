/*
 * counters.c
 *		The maintenance worker's task of folding buffered counters.
 *
 * One transaction a node, so a node that does not answer does not keep the others
 * from going on.  A database without buffered counters is looked at once a second.
 */
#include "worker/registry.h"

#include "counter/counter.h"
#include "utils/timestamp.h"

#define LOOK_MS 1000

static void
look_for_counters(void *arg)
{
	*(bool *) arg = dbscale_counter_any_buffered();
}

static void
fold_here(void *arg)
{
	dbscale_counter_fold_at(InvalidOid, InvalidOid);
}

static void
fold_on_node(void *arg)
{
	const NodeRef *node = arg;

	dbscale_counter_fold_at(node->serverid, node->userid);
}

void
dbscale_fold_task(void)
{
	static TimestampTz looked = 0;
	TimestampTz now = GetCurrentTimestamp();
	bool		any = false;
	ListCell   *lc;

	if (now < TimestampTzPlusMilliseconds(looked, LOOK_MS))
		return;
	if (!dbscale_maintenance_attempt("counters", "catalog", look_for_counters, &any) || !any)
	{
		looked = now;
		return;
	}
	(void) dbscale_maintenance_attempt("fold of counters", "coordinator", fold_here, NULL);
	foreach(lc, dbscale_maintenance_nodes())
	{
		NodeRef    *node = lfirst(lc);

		(void) dbscale_maintenance_attempt("fold of counters", NameStr(node->name), fold_on_node, node);
	}
}
