/*
 * counters.c
 *		The maintenance worker's task of folding buffered counters.
 *
 * One transaction a node, so a node that does not answer does not keep the others
 * from going on.  A database without buffered counters is looked at once a second.
 * Also once a second, tables of deltas with many dead rows are vacuumed: they fill
 * much faster than autovacuum comes round.
 */
#include "worker/registry.h"

#include "access/xact.h"
#include "counter/counter.h"
#include "remote/remote.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/timestamp.h"

#define LOOK_MS 1000

/* One node's, or the coordinator's (node NULL), in a context that outlives transactions. */
typedef struct Vacuums
{
	const NodeRef *node;
	MemoryContext context;
	List	   *commands;
	const char *command;		/* the one to run now */
} Vacuums;

static void
look_for_counters(void *arg)
{
	*(bool *) arg = dbscale_counter_any_buffered();
}

static void
fold(void *arg)
{
	const NodeRef *node = arg;

	if (node)
		dbscale_counter_fold_at(node->serverid, node->userid);
	else
		dbscale_counter_fold_at(InvalidOid, InvalidOid);
}

static void
look_for_vacuums(void *arg)
{
	Vacuums    *vacuums = arg;
	List	   *commands = vacuums->node ? dbscale_counter_vacuums(vacuums->node->serverid, vacuums->node->userid) :
		dbscale_counter_vacuums(InvalidOid, InvalidOid);
	MemoryContext old = MemoryContextSwitchTo(vacuums->context);
	ListCell   *lc;

	foreach(lc, commands)
		vacuums->commands = lappend(vacuums->commands, pstrdup(lfirst(lc)));
	MemoryContextSwitchTo(old);
}

/* VACUUM ends the transaction that it is called in, and begins another. */
static void
vacuum_here(Vacuums *vacuums)
{
	MemoryContext old = MemoryContextSwitchTo(vacuums->context);
	MemoryContext portal = PortalContext;
	PlannedStmt *statement = makeNode(PlannedStmt);

	statement->commandType = CMD_UTILITY;
	statement->canSetTag = true;
	statement->utilityStmt = linitial_node(RawStmt, pg_parse_query(vacuums->command))->stmt;
	PortalContext = vacuums->context;
	ProcessUtility(statement, vacuums->command, false, PROCESS_UTILITY_TOPLEVEL, NULL, NULL, None_Receiver, NULL);
	PortalContext = portal;
	MemoryContextSwitchTo(old);
}

static void
vacuum(void *arg)
{
	Vacuums    *vacuums = arg;

	if (vacuums->node == NULL)
		vacuum_here(vacuums);
	else
		(void) dbscale_remote_execute(dbscale_remote_connect(vacuums->node->serverid, vacuums->node->userid),
									  vacuums->command, REMOTE_NO_PARAMS, NULL);
}

static void
vacuum_all(const NodeRef *node, const char *name)
{
	Vacuums		vacuums = {node};
	ListCell   *lc;

	vacuums.context = AllocSetContextCreate(TopMemoryContext, "dbscale vacuum", ALLOCSET_DEFAULT_SIZES);
	(void) dbscale_maintenance_attempt("look at counters", name, look_for_vacuums, &vacuums);
	foreach(lc, vacuums.commands)
	{
		vacuums.command = lfirst(lc);
		(void) dbscale_maintenance_attempt("vacuum of counters", name, vacuum, &vacuums);
	}
	MemoryContextDelete(vacuums.context);
}

static void
look_after(NodeRef *node, bool vacuums)
{
	const char *name = node ? NameStr(node->name) : "coordinator";

	if (dbscale_maintenance_attempt("fold of counters", name, fold, node) && vacuums)
		vacuum_all(node, name);
}

void
dbscale_fold_task(void)
{
	static TimestampTz looked = 0;
	static TimestampTz vacuumed = 0;
	TimestampTz now = GetCurrentTimestamp();
	bool		any = false;
	bool		vacuums = now >= TimestampTzPlusMilliseconds(vacuumed, LOOK_MS);
	ListCell   *lc;

	if (now < TimestampTzPlusMilliseconds(looked, LOOK_MS))
		return;
	if (!dbscale_maintenance_attempt("counters", "catalog", look_for_counters, &any) || !any)
	{
		looked = now;
		return;
	}
	look_after(NULL, vacuums);
	foreach(lc, dbscale_maintenance_nodes())
		look_after(lfirst(lc), vacuums);
	if (vacuums)
		vacuumed = now;
}
