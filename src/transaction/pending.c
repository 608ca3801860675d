/*
 * pending.c
 *		Writers that have rows buffered, and when they must send them.
 *
 * A buffered row belongs to the subtransaction in which it was buffered.  So buffers
 * are flushed before any other statement goes out, before a subtransaction starts
 * (at the level of its parent: the new level's savepoint must not cover them),
 * before one ends, and at pre-commit.  What an aborted subtransaction registered is
 * forgotten with it.
 */
#include "transaction/internal.h"

#include "access/xact.h"
#include "nodes/pg_list.h"
#include "utils/memutils.h"

typedef struct Pending
{
	DbscaleFlushCallback callback;
	void	   *arg;
	int			nest_level;
} Pending;

static List *pending = NIL;		/* of Pending *, in TopTransactionContext */
static bool flushing = false;
static int	flush_level = 0;	/* while flushing: the level the rows belong to */

void
dbscale_transaction_add_pending(DbscaleFlushCallback callback, void *arg)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	Pending    *p = palloc(sizeof(Pending));

	p->callback = callback;
	p->arg = arg;
	p->nest_level = GetCurrentTransactionNestLevel();
	pending = lappend(pending, p);
	MemoryContextSwitchTo(old);
}

void
dbscale_transaction_remove_pending(DbscaleFlushCallback callback, void *arg)
{
	ListCell   *lc;

	foreach(lc, pending)
	{
		Pending    *p = lfirst(lc);

		if (p->callback == callback && p->arg == arg)
		{
			pending = foreach_delete_current(pending, lc);
			pfree(p);
			break;
		}
	}
}

/* The callbacks may use connections, add and remove: they see `flushing`. */
void
pending_flush_at(int nest_level)
{
	List	   *todo;
	ListCell   *lc;

	if (pending == NIL || flushing)
		return;
	todo = list_copy(pending);
	flushing = true;
	flush_level = nest_level;
	foreach(lc, todo)
	{
		Pending    *p = lfirst(lc);

		if (list_member_ptr(pending, p))
			p->callback(p->arg);
	}
	flushing = false;
	list_free(todo);
}

void
dbscale_transaction_flush_pending(void)
{
	pending_flush_at(GetCurrentTransactionNestLevel());
}

/* The nesting level for which a connection is wanted now. */
int
pending_nest_level(void)
{
	return flushing ? flush_level : GetCurrentTransactionNestLevel();
}

bool
pending_exists(void)
{
	return pending != NIL;
}

void
pending_end_transaction(void)
{
	pending = NIL;				/* the memory goes with the transaction */
	flushing = false;
}

void
pending_commit_sub(int nest_level)
{
	ListCell   *lc;

	foreach(lc, pending)
	{
		Pending    *p = lfirst(lc);

		p->nest_level = Min(p->nest_level, nest_level - 1);
	}
}

void
pending_abort_sub(int nest_level)
{
	ListCell   *lc;

	flushing = false;
	foreach(lc, pending)
	{
		Pending    *p = lfirst(lc);

		if (p->nest_level >= nest_level)
			pending = foreach_delete_current(pending, lc);
	}
}
