/*
 * counters.c
 *		The maintenance worker's task of folding buffered counters.
 *
 * One transaction a node, so a node that does not answer does not keep the others
 * from going on.  A database without buffered counters is looked at once a second.
 * Then counters whose tables are apart are carried, in one transaction for each pair of
 * nodes (counter/carry.c).
 * Where folds are rare, it is looked in between whether so much is pending that one is
 * due all the same (dbscale.counter_fold_rows).
 * Also once a second, tables of deltas with many dead rows are vacuumed: they fill
 * much faster than autovacuum comes round.  So are the targets of these, if that takes
 * no time (counter/fold.c).
 * A node that was not told yet how a transaction ended, a split's say, has its locks still.
 * It is this process that tells it, in another task, so here no lock is waited for long
 * (maintenance.c).
 * A counter may be dropped, or its shard's old place be cleaned up, between a look into
 * the catalog and its use on a node; who looks again knows.
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
#define LOOK_EARLY_MS 200

/* One node's, or the coordinator's (node NULL), in a context that outlives transactions. */
typedef struct Vacuums
{
	const NodeRef *node;
	MemoryContext context;
	List	   *commands;
	const char *command;		/* the one to run now */
} Vacuums;

static const char *
name_of(const NodeRef *node)
{
	return node ? NameStr(node->name) : "coordinator";
}

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
	PG_TRY();
	{
		PortalContext = vacuums->context;
		ProcessUtility(statement, vacuums->command, false, PROCESS_UTILITY_TOPLEVEL, NULL, NULL, None_Receiver, NULL);
	}
	PG_FINALLY();
	{
		PortalContext = portal;
	}
	PG_END_TRY();
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
	(void) dbscale_maintenance_attempt_again("look at counters", name, look_for_vacuums, &vacuums);
	foreach(lc, vacuums.commands)
	{
		vacuums.command = lfirst(lc);
		(void) dbscale_maintenance_attempt_again("vacuum of counters", name, vacuum, &vacuums);
	}
	MemoryContextDelete(vacuums.context);
}

/* ---- carrying ---- */

/* Transactions in a row for one pair of nodes, before others have their turn. */
#define MANY_CARRIES 50

/* In a context that outlives transactions. */
typedef struct Carries
{
	const NodeRef *node;		/* of the source; NULL: here */
	MemoryContext context;
	List	   *counters;		/* of char * */
	const char *counter;
	List	   *targets;		/* OIDs of servers, of this counter */
	Oid			target;
	bool		more;
} Carries;

static Oid
server_of(const NodeRef *node)
{
	return node ? node->serverid : InvalidOid;
}

static void
look_for_carries(void *arg)
{
	Carries    *carries = arg;
	ListCell   *lc;

	foreach(lc, dbscale_counter_to_carry(server_of(carries->node)))
	{
		MemoryContext old = MemoryContextSwitchTo(carries->context);

		carries->counters = lappend(carries->counters, pstrdup(lfirst(lc)));
		MemoryContextSwitchTo(old);
	}
}

static void
look_for_targets(void *arg)
{
	Carries    *carries = arg;
	List	   *targets = dbscale_counter_carry_targets(carries->counter);
	MemoryContext old = MemoryContextSwitchTo(carries->context);

	carries->targets = list_copy(targets);
	MemoryContextSwitchTo(old);
}

static void
carry(void *arg)
{
	Carries    *carries = arg;

	carries->more = dbscale_counter_carry(carries->counter, server_of(carries->node), carries->target);
}

static void
carry_counter(Carries *carries)
{
	ListCell   *lc;

	if (!dbscale_maintenance_attempt_again("look at counters to carry", carries->counter, look_for_targets, carries))
		return;
	foreach(lc, carries->targets)
	{
		char		subject[2 * NAMEDATALEN + 32];

		carries->target = lfirst_oid(lc);
		snprintf(subject, sizeof(subject), "%s of %s to %u", carries->counter, name_of(carries->node), carries->target);
		for (int i = 0; i < MANY_CARRIES; i++)
		{
			carries->more = false;
			if (!dbscale_maintenance_attempt_again("carry of counters", subject, carry, carries) || !carries->more)
				break;
		}
	}
}

static void
carry_from(const NodeRef *node)
{
	Carries		carries = {node};
	ListCell   *lc;

	carries.context = AllocSetContextCreate(TopMemoryContext, "dbscale carry", ALLOCSET_DEFAULT_SIZES);
	(void) dbscale_maintenance_attempt_again("look at counters to carry", name_of(node), look_for_carries, &carries);
	foreach(lc, carries.counters)
	{
		carries.counter = lfirst(lc);
		carry_counter(&carries);
	}
	MemoryContextDelete(carries.context);
}

static bool
fold_on(NodeRef *node)
{
	if (!dbscale_maintenance_attempt_again("fold of counters", name_of(node), fold, node))
		return false;
	carry_from(node);
	dbscale_counter_note_fold(node ? node->serverid : InvalidOid);
	return true;
}

static void
look_after(NodeRef *node, bool vacuums)
{
	if (fold_on(node) && vacuums)
		vacuum_all(node, name_of(node));
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
	if (!dbscale_maintenance_attempt_again("counters", "catalog", look_for_counters, &any) || !any)
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

typedef struct Peek
{
	const NodeRef *node;		/* NULL: the coordinator */
	bool		any;			/* buffered counters at all */
	bool		many;
} Peek;

static void
peek(void *arg)
{
	Peek	   *look = arg;

	look->any = dbscale_counter_any_buffered();
	look->many = look->any &&
		dbscale_counter_has_many_at(look->node ? look->node->serverid : InvalidOid,
									look->node ? look->node->userid : InvalidOid, dbscale_counter_fold_rows);
}

/* False where there is no reason to look at the other nodes. */
static bool
fold_if_many(NodeRef *node)
{
	Peek		look = {node};

	if (!dbscale_maintenance_attempt_again("look at pending counters", name_of(node), peek, &look))
		return true;
	if (look.many)
		(void) fold_on(node);
	return look.any;
}

void
dbscale_fold_early_task(void)
{
	ListCell   *lc;

	/* the setting of 0 turns folding off, not only folding in time */
	if (dbscale_counter_fold_rows == 0 || dbscale_counter_fold_interval <= LOOK_EARLY_MS)
		return;
	if (fold_if_many(NULL))
		foreach(lc, dbscale_maintenance_nodes())
			(void) fold_if_many(lfirst(lc));
}
