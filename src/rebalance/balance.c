/*
 * balance.c
 *		Which shards to move so that every node has its fair share: as few bytes as
 *		possible for an imbalance of at most the threshold.
 *
 * Nouns.  A node's *share* is its part, by capacity, of the weight of all shards; where
 * shards that may not leave a node weigh more than that, they are its share, and the
 * other nodes share the rest.  Its *bound* is the share plus the threshold.  Its *excess*
 * is what it holds above the bound.  A shard is *moved* while it is elsewhere than at its
 * *origin*, the node that really holds it; that costs its bytes, wherever it is.  A shard of a
 * node that is to be emptied has no origin: it has to go somewhere, so where is free.
 *
 * The best answer is a bin packing problem, so it is approached:
 *
 *	place	Shards without an origin, the heaviest first, go where the node is then the
 *			least full.
 *	repair	While a node has excess: the best step, out of the fullest such node.  A step
 *			moves a shard to another node, or exchanges it for a lighter one; it takes
 *			away excess, leaves no node as full as the first one was, and, where it does
 *			not bring both nodes within their bounds, takes away either the whole weight
 *			that it moves or a hundredth of a mean share.  When there is no such step and
 *			shards are few: one that pushes other shards out of its new node.
 *	thrift	Greedy steps overshoot.  Moved shards go home where the bound lets them; and
 *			one or two go home for one or two others that leave in their place, with
 *			fewer bytes.
 *	spread	Among moves of the same bytes, those that spread each group of tables most
 *			evenly: a moved shard to another node, two in each other's place, or a sibling
 *			of the same origin, no larger, in its stead.
 *
 * Repair, thrift and spread repeat until there is no step to repair.  What "the best
 * step" is decides how many bytes it costs in the end.  So all is done for each of the
 * rules in balance_repair.c, then some times more with costs distorted at random (from a
 * fixed seed: a plan is the same each time), and the best outcome is taken.
 *
 * An example: nodes A (6, 5, 4), B (9) and C (6).  Shares are 10, bounds 11, and A's
 * excess is 4.  Of the steps that end it, moving the 4 to C costs least.  Were the 4 a 3
 * and a 1, the 5 would go; thrift then finds that it may come home for the 3 and the 1
 * to leave: 4 bytes in place of 5.
 *
 * A second plan is empty when the first has been carried out:
 *	1. The loop ends when there is no step to repair with, in this file's sense.
 *	2. Whether there is a step depends on the weights on the nodes alone, not on origins
 *	   or costs, which have changed; nor on the rule.
 *	3. So in the second plan nothing is repaired, and thrift and spread, which touch
 *	   moved shards only, have nothing to do either.
 * Also, neither thrift nor spread lets a node be above its bound that was not, nor higher
 * than it was; so the excess only falls, and the loop ends.
 *
 * Weights are whole numbers, so sums of them are exact and independent of their order.
 */
#include "rebalance/balance.h"

#include "common/pg_prng.h"
#include "miscadmin.h"

#include <float.h>

/* A step that leaves a node above its bound must at least take off this part of a mean share. */
#define WORTH 0.01
/* How often all is tried with biased costs. */
#define RANDOM_TRIES 64

double
dbscale_balance_extra_cost(const Balance *b, int shard, int to)
{
	if (shard < 0 || b->origin[shard] < 0)
		return 0;
	return (to == b->origin[shard] ? 0 : balance_bytes(b, shard)) -
		(balance_is_moved(b, shard) ? balance_bytes(b, shard) : 0);
}

void
dbscale_balance_relocate(Balance *b, int shard, int to)
{
	const BalanceShard *s = &b->problem->shards[shard];
	int		   *counts = &b->counts[s->group * b->problem->nnodes];

	if (b->place[shard] >= 0)
	{
		b->load[b->place[shard]] -= s->weight;
		counts[b->place[shard]]--;
	}
	b->place[shard] = to;
	b->load[to] += s->weight;
	counts[to]++;
}

/*
 * Fair shares.  Nodes whose fixed shards weigh more than their part of the rest have
 * these as their share; each that is found lowers the others' level.
 */
static void
compute_shares(Balance *b)
{
	const BalanceProblem *p = b->problem;
	double	   *fixed = palloc0(sizeof(double) * p->nnodes);
	bool	   *full = palloc0(sizeof(bool) * p->nnodes);
	double		total = 0;
	double		capacity = 0;
	bool		found = true;
	int			takers = 0;

	for (int i = 0; i < p->nshards; i++)
	{
		const BalanceShard *shard = &p->shards[i];

		/* what stays on a node that is emptied is nobody's burden */
		if (!shard->fixed || p->nodes[shard->node].takes)
			total += shard->weight;
		if (shard->fixed)
			fixed[shard->node] += shard->weight;
	}
	for (int n = 0; n < p->nnodes; n++)
	{
		if (!p->nodes[n].takes)
			continue;
		capacity += p->nodes[n].capacity;
		takers++;
	}
	b->worth = WORTH * total / takers;
	while (found)
	{
		found = false;
		for (int n = 0; n < p->nnodes; n++)
		{
			if (!p->nodes[n].takes || full[n] || fixed[n] * capacity <= p->nodes[n].capacity * total)
				continue;
			full[n] = found = true;
			total -= fixed[n];
			capacity -= p->nodes[n].capacity;
		}
	}
	for (int n = 0; n < p->nnodes; n++)
	{
		/* with nothing to share any number will do */
		b->share[n] = full[n] ? fixed[n] :
			total > 0 ? total * p->nodes[n].capacity / capacity : p->nodes[n].capacity;
		b->bound[n] = p->nodes[n].takes ? b->share[n] * (1 + p->threshold) * (1 + BALANCE_EPSILON) : DBL_MAX;
	}
	pfree(fixed);
	pfree(full);
}

/* ---- place ---- */

static int
compare_weights(const void *a, const void *b, void *balance)
{
	int			x = *(const int *) a;
	int			y = *(const int *) b;

	if (balance_weight(balance, x) != balance_weight(balance, y))
		return balance_weight(balance, x) > balance_weight(balance, y) ? -1 : 1;
	return x - y;
}

/* The node that is the least full with the shard; of equals the one with fewer of its group. */
static int
least_full_node(const Balance *b, int shard)
{
	const BalanceProblem *p = b->problem;
	const int  *counts = &b->counts[p->shards[shard].group * p->nnodes];
	int			best = -1;
	double		best_full = 0;

	for (int n = 0; n < p->nnodes; n++)
	{
		double		full = balance_fullness(b, n, b->load[n] + balance_weight(b, shard));

		if (!p->nodes[n].takes)
			continue;
		if (best < 0 || full < best_full ||
			(full == best_full && counts[n] / p->nodes[n].capacity < counts[best] / p->nodes[best].capacity))
		{
			best = n;
			best_full = full;
		}
	}
	return best;
}

static void
place_homeless(Balance *b)
{
	const BalanceProblem *p = b->problem;
	int		   *homeless = palloc(sizeof(int) * Max(p->nshards, 1));
	int			count = 0;

	for (int i = 0; i < p->nshards; i++)
	{
		const BalanceShard *shard = &p->shards[i];

		if (!shard->fixed && !p->nodes[shard->node].takes)
		{
			b->origin[i] = -1;
			homeless[count++] = i;
		}
		else
			dbscale_balance_relocate(b, i, b->origin[i] = shard->node);
	}
	qsort_arg(homeless, count, sizeof(int), compare_weights, b);
	for (int i = 0; i < count; i++)
		dbscale_balance_relocate(b, homeless[i], least_full_node(b, homeless[i]));
	pfree(homeless);
}

/* ---- all of it ---- */

static Balance *
create_balance(const BalanceProblem *p)
{
	Balance    *b = palloc0(sizeof(Balance));
	int			nshards = Max(p->nshards, 1);

	b->problem = p;
	b->place = palloc(sizeof(int) * nshards);
	b->origin = palloc(sizeof(int) * nshards);
	b->bias = palloc(sizeof(double) * nshards);
	b->load = palloc0(sizeof(double) * p->nnodes);
	b->share = palloc(sizeof(double) * p->nnodes);
	b->bound = palloc(sizeof(double) * p->nnodes);
	b->cap = palloc(sizeof(double) * p->nnodes);
	b->counts = palloc0(sizeof(int) * Max(p->ngroups, 1) * p->nnodes);
	for (int i = 0; i < p->nshards; i++)
	{
		b->place[i] = -1;
		b->bias[i] = 1;
	}
	compute_shares(b);
	place_homeless(b);
	return b;
}

static void
free_balance(Balance *b)
{
	pfree(b->place);
	pfree(b->origin);
	pfree(b->bias);
	pfree(b->load);
	pfree(b->share);
	pfree(b->bound);
	pfree(b->cap);
	pfree(b->counts);
	pfree(b);
}

/* The order of outcomes: how full the fullest node is, all excess, bytes. */
static bool
is_better_outcome(const Balance *a, const Balance *b)
{
	double		worst[2] = {0};
	double		over[2] = {0};
	double		cost[2] = {0};
	const Balance *both[] = {a, b};

	for (int k = 0; k < 2; k++)
	{
		for (int n = 0; n < a->problem->nnodes; n++)
		{
			double		e = balance_excess(both[k], n, both[k]->load[n]);

			over[k] += e;
			worst[k] = Max(worst[k], e / both[k]->share[n]);
		}
		for (int i = 0; i < a->problem->nshards; i++)
			cost[k] += balance_is_moved(both[k], i) ? balance_bytes(both[k], i) : 0;
	}
	if (worst[0] != worst[1])
		return worst[0] < worst[1];
	if (over[0] != over[1])
		return over[0] < over[1];
	return cost[0] < cost[1];
}

static bool
is_unchanged(const Balance *b)
{
	for (int i = 0; i < b->problem->nshards; i++)
	{
		if (b->place[i] != b->problem->shards[i].node)
			return false;
	}
	return true;
}

/* Try once from the start; the better of this outcome and the best one is kept. */
static Balance *
try_solve(const BalanceProblem *problem, const BalanceRule *rule, pg_prng_state *random, Balance *best)
{
	Balance    *b = create_balance(problem);

	for (int i = 0; random != NULL && i < problem->nshards; i++)
		b->bias[i] = 0.5 + 1.5 * pg_prng_double(random);
	do
	{
		dbscale_balance_thrift(b);
		dbscale_balance_spread(b);
	} while (dbscale_balance_repair(b, rule));
	if (best == NULL)
		return b;
	b->evaluations += best->evaluations;
	best->evaluations = b->evaluations;
	if (!is_better_outcome(b, best))
	{
		free_balance(b);
		return best;
	}
	free_balance(best);
	return b;
}

int *
dbscale_balance(const BalanceProblem *problem)
{
	Balance    *best = NULL;
	pg_prng_state random;

	pg_prng_seed(&random, problem->nshards);
	for (int i = 0; i < dbscale_balance_rules_count; i++)
		best = try_solve(problem, &dbscale_balance_rules[i], NULL, best);
	for (int i = 0; i < RANDOM_TRIES && !is_unchanged(best) && best->evaluations < BALANCE_MAX_EVALUATIONS; i++)
		best = try_solve(problem, &dbscale_balance_rules[i % dbscale_balance_rules_count], &random, best);
	return best->place;
}
