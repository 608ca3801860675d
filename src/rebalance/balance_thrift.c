/*
 * balance_thrift.c
 *		Fewer bytes for the same balance, and for the same bytes groups more evenly
 *		spread; see balance.c.
 *
 * Nothing here lets a node rise above its *cap*: its bound, or what it held before if
 * that was more.
 */
#include "rebalance/balance.h"

#include "miscadmin.h"

static void
set_caps(Balance *b)
{
	for (int n = 0; n < b->problem->nnodes; n++)
		b->cap[n] = Max(b->bound[n], b->load[n]);
}

/* ---- thrift ---- */

static bool
has_budget(Balance *b)
{
	CHECK_FOR_INTERRUPTS();
	return ++b->evaluations < BALANCE_MAX_EVALUATIONS;
}

/* Another node than its own and its origin that has room for the shard, the least full; or -1. */
static int
find_room(const Balance *b, int shard)
{
	const BalanceProblem *p = b->problem;
	int			best = -1;

	for (int n = 0; n < p->nnodes; n++)
	{
		double		load = b->load[n] + balance_weight(b, shard);

		if (n == b->place[shard] || n == b->origin[shard] || !p->nodes[n].takes || load > b->cap[n])
			continue;
		if (best < 0 || balance_fullness(b, n, load) < balance_fullness(b, best, b->load[best] + balance_weight(b, shard)))
			best = n;
	}
	return best;
}

/* Does the shard, which leaves its node, find room?  It is relocated if so. */
static bool
try_leave(Balance *b, int shard)
{
	int			to = shard < 0 ? -1 : find_room(b, shard);

	if (to >= 0)
		dbscale_balance_relocate(b, shard, to);
	return shard < 0 || to >= 0;
}

/*
 * Let one or two moved shards of a node come home, for one or two that are on it to
 * leave.  Done if it costs fewer bytes and all find room.
 */
static bool
try_exchange(Balance *b, int home, int home2, int leaver, int leaver2)
{
	int			node = b->origin[home];
	int			place = b->place[home];
	int			place2 = home2 < 0 ? -1 : b->place[home2];
	double		cost = 0;

	b->evaluations++;
	if (leaver >= 0 && !balance_is_moved(b, leaver))
		cost += dbscale_balance_extra_cost(b, leaver, -1);
	if (leaver2 >= 0 && !balance_is_moved(b, leaver2))
		cost += dbscale_balance_extra_cost(b, leaver2, -1);
	if (cost >= balance_bytes(b, home) + balance_bytes(b, home2) ||
		b->load[node] + balance_weight(b, home) + balance_weight(b, home2) -
		balance_weight(b, leaver) - balance_weight(b, leaver2) > b->cap[node])
		return false;
	dbscale_balance_relocate(b, home, node);
	if (home2 >= 0)
		dbscale_balance_relocate(b, home2, node);
	/* the heavier first */
	if (balance_weight(b, leaver2) > balance_weight(b, leaver))
	{
		int			heavier = leaver2;

		leaver2 = leaver;
		leaver = heavier;
	}
	if (try_leave(b, leaver))
	{
		if (try_leave(b, leaver2))
			return true;
		dbscale_balance_relocate(b, leaver, node);
	}
	dbscale_balance_relocate(b, home, place);
	if (home2 >= 0)
		dbscale_balance_relocate(b, home2, place2);
	return false;
}

/* One exchange of the shards that left the node, for one or for two of those on it. */
static bool
thrift_on_node(Balance *b, const int *gone, int ngone, const int *here, int nhere)
{
	for (int i = 0; i < ngone; i++)
	{
		if (try_exchange(b, gone[i], -1, -1, -1))
			return true;
	}
	for (int i = 0; i < ngone; i++)
	{
		for (int j = 0; j < nhere && has_budget(b); j++)
		{
			if (try_exchange(b, gone[i], -1, here[j], -1))
				return true;
		}
	}
	for (int i = 0; i < ngone; i++)
	{
		for (int k = i + 1; k < ngone; k++)
		{
			for (int j = 0; j < nhere && has_budget(b); j++)
			{
				if (try_exchange(b, gone[i], gone[k], here[j], -1))
					return true;
			}
		}
		for (int j = 0; j < nhere; j++)
		{
			for (int k = j + 1; k < nhere && has_budget(b); k++)
			{
				if (try_exchange(b, gone[i], -1, here[j], here[k]))
					return true;
			}
		}
	}
	return false;
}

static bool
thrift_once(Balance *b)
{
	const BalanceProblem *p = b->problem;
	int		   *gone = palloc(sizeof(int) * Max(p->nshards, 1));
	int		   *here = palloc(sizeof(int) * Max(p->nshards, 1));
	bool		found = false;

	for (int n = 0; n < p->nnodes && !found; n++)
	{
		int			ngone = 0;
		int			nhere = 0;

		for (int i = 0; i < p->nshards; i++)
		{
			if (b->origin[i] == n && b->place[i] != n)
				gone[ngone++] = i;
			else if (b->place[i] == n && !p->shards[i].fixed)
				here[nhere++] = i;
		}
		found = thrift_on_node(b, gone, ngone, here, nhere);
	}
	pfree(gone);
	pfree(here);
	return found;
}

void
dbscale_balance_thrift(Balance *b)
{
	set_caps(b);
	while (thrift_once(b))
		CHECK_FOR_INTERRUPTS();
}

/* ---- spread ---- */

/* How far the group is from even, as a sum of squares; what it changes by if a shard moves. */
static double
spread_change(const Balance *b, int group, int from, int to)
{
	const BalanceProblem *p = b->problem;
	const int  *counts = &b->counts[group * p->nnodes];

	return (1 + 2 * counts[to]) / p->nodes[to].capacity +
		(1 - 2 * counts[from]) / p->nodes[from].capacity;
}

static bool
fits(const Balance *b, int node, double more)
{
	return more <= 0 || b->load[node] + more <= b->cap[node];
}

/* A shard that moves anyhow, to a node where fewer of its group are. */
static bool
try_other_target(Balance *b, int shard)
{
	const BalanceProblem *p = b->problem;

	for (int n = 0; n < p->nnodes; n++)
	{
		if (n == b->place[shard] || n == b->origin[shard] || !p->nodes[n].takes ||
			!fits(b, n, balance_weight(b, shard)) ||
			spread_change(b, p->shards[shard].group, b->place[shard], n) > -BALANCE_EPSILON)
			continue;
		dbscale_balance_relocate(b, shard, n);
		return true;
	}
	return false;
}

/*
 * Two shards of different groups in each other's place, if that costs nothing: both are
 * moved, or one is and the other, no larger, is at that one's origin.
 */
static bool
try_swap(Balance *b, int shard, int other)
{
	const BalanceProblem *p = b->problem;
	int			at = b->place[shard];
	int			other_at = b->place[other];
	double		more = balance_weight(b, other) - balance_weight(b, shard);

	if (at == other_at || p->shards[shard].group == p->shards[other].group ||
		p->shards[other].fixed || !p->nodes[other_at].takes ||
		dbscale_balance_extra_cost(b, shard, other_at) + dbscale_balance_extra_cost(b, other, at) > 0 ||
		!fits(b, at, more) || !fits(b, other_at, -more) ||
		spread_change(b, p->shards[shard].group, at, other_at) +
		spread_change(b, p->shards[other].group, other_at, at) > -BALANCE_EPSILON)
		return false;
	dbscale_balance_relocate(b, shard, other_at);
	dbscale_balance_relocate(b, other, at);
	return true;
}

static bool
spread_once(Balance *b)
{
	int			nshards = b->problem->nshards;
	bool		found = false;

	for (int i = 0; i < nshards; i++)
	{
		if (b->place[i] == b->origin[i] || b->problem->shards[i].fixed)
			continue;
		found |= try_other_target(b, i);
		for (int j = 0; j < nshards && has_budget(b); j++)
			found |= b->place[i] != b->origin[i] && try_swap(b, i, j);
	}
	return found;
}

void
dbscale_balance_spread(Balance *b)
{
	set_caps(b);
	while (b->evaluations < BALANCE_MAX_EVALUATIONS && spread_once(b))
		CHECK_FOR_INTERRUPTS();
}
