/*
 * balance_repair.c
 *		Steps that take excess off nodes; see balance.c.
 *
 * Whether there is a step may depend on the weights on the nodes, and on nothing else:
 * this is why a second plan is empty.  Costs decide only which step is taken.
 */
#include "rebalance/balance.h"

#include "miscadmin.h"

/* Up to so many shards exchanges are looked at more often than they have to, and displacing is. */
#define SMALL_PROBLEM 256

/* A shard goes to a node, and perhaps another one of that node comes in exchange. */
struct BalanceStep
{
	int			shard;			/* -1: no step */
	int			to;
	int			back;			/* -1: none */
	double		gain;			/* excess taken away */
	double		cost;			/* bytes more than before, as they seem; may be negative */
	double		fullness;		/* of the target afterwards */
	bool		settles;		/* both nodes are within their bounds afterwards */
};

/* Fewest bytes for the excess; what ends it first. */
static bool
settles_cheaply(const BalanceStep *a, const BalanceStep *b)
{
	if (a->settles != b->settles)
		return a->settles;
	if (a->settles && a->cost != b->cost)
		return a->cost < b->cost;
	if (a->cost * b->gain != b->cost * a->gain)
		return a->cost * b->gain < b->cost * a->gain;
	if (a->gain != b->gain)
		return a->gain > b->gain;
	return a->fullness < b->fullness;
}

static bool
gains_cheaply(const BalanceStep *a, const BalanceStep *b)
{
	if (a->cost * b->gain != b->cost * a->gain)
		return a->cost * b->gain < b->cost * a->gain;
	if (a->gain != b->gain)
		return a->gain > b->gain;
	return a->fullness < b->fullness;
}

static bool
gains_most(const BalanceStep *a, const BalanceStep *b)
{
	if (a->gain != b->gain)
		return a->gain > b->gain;
	if (a->cost != b->cost)
		return a->cost < b->cost;
	return a->fullness < b->fullness;
}

/* As the first, but leaves room in the emptier nodes for what is large. */
static bool
fits_best(const BalanceStep *a, const BalanceStep *b)
{
	if (a->settles != b->settles)
		return a->settles;
	if (a->settles && a->cost != b->cost)
		return a->cost < b->cost;
	if (a->gain != b->gain)
		return a->gain > b->gain;
	if (a->cost != b->cost)
		return a->cost < b->cost;
	return a->fullness > b->fullness;
}

const BalanceRule dbscale_balance_rules[] = {
	{settles_cheaply, false},
	{gains_cheaply, false},
	{gains_most, false},
	{fits_best, false},
	{settles_cheaply, true},
	{gains_cheaply, true},
	{gains_most, true},
	{fits_best, true},
};
const int	dbscale_balance_rules_count = lengthof(dbscale_balance_rules);

/* Take the step for the best if it is one, whatever it costs, and the rule prefers it. */
static void
consider(Balance *b, const BalanceRule *rule, int shard, int to, int back, BalanceStep *best)
{
	int			from = b->place[shard];
	double		out = balance_weight(b, shard) - balance_weight(b, back);
	double		load_from = b->load[from] - out;
	double		load_to = b->load[to] + out;
	double		left = balance_excess(b, from, load_from) + balance_excess(b, to, load_to);
	BalanceStep step = {shard, to, back};

	b->evaluations++;
	step.gain = balance_excess(b, from, b->load[from]) + balance_excess(b, to, b->load[to]) - left;
	step.fullness = balance_fullness(b, to, load_to);
	step.settles = left <= 0;
	if (step.gain <= b->worth * BALANCE_EPSILON || step.fullness >= balance_fullness(b, from, b->load[from]))
		return;
	/* moving the heavy for a light gain is for reaching the bounds only */
	if (!step.settles && (back >= 0 || step.gain < out * (1 - BALANCE_EPSILON)) && step.gain < b->worth)
		return;
	step.cost = b->bias[shard] * (dbscale_balance_extra_cost(b, shard, to) + dbscale_balance_extra_cost(b, back, from));
	if (best->shard < 0 || rule->is_better(&step, best))
		*best = step;
}

/* The best step out of the node: moves, and exchanges as the rule says. */
static BalanceStep
best_step_from(Balance *b, const BalanceRule *rule, int from)
{
	const BalanceProblem *p = b->problem;
	BalanceStep best = {-1};

	for (int i = 0; i < p->nshards; i++)
	{
		if (b->place[i] != from || p->shards[i].fixed)
			continue;
		for (int n = 0; n < p->nnodes; n++)
		{
			if (n != from && p->nodes[n].takes)
				consider(b, rule, i, n, -1, &best);
		}
	}
	if (best.shard >= 0 && !(rule->exchanges_too && p->nshards <= SMALL_PROBLEM))
		return best;
	for (int i = 0; i < p->nshards; i++)
	{
		if (b->place[i] != from || p->shards[i].fixed)
			continue;
		CHECK_FOR_INTERRUPTS();
		for (int j = 0; j < p->nshards; j++)
		{
			if (b->place[j] != from && !p->shards[j].fixed && p->shards[j].weight < p->shards[i].weight)
				consider(b, rule, i, b->place[j], j, &best);
		}
	}
	return best;
}

/* One step, out of the fullest node that has a step; false if there is none. */
static bool
take_step(Balance *b, const BalanceRule *rule)
{
	int			nnodes = b->problem->nnodes;
	bool	   *tried = palloc0(sizeof(bool) * nnodes);
	BalanceStep step = {-1};

	while (step.shard < 0)
	{
		int			worst = -1;

		for (int n = 0; n < nnodes; n++)
		{
			if (!tried[n] && balance_excess(b, n, b->load[n]) > 0 &&
				(worst < 0 || balance_fullness(b, n, b->load[n]) > balance_fullness(b, worst, b->load[worst])))
				worst = n;
		}
		if (worst < 0)
			break;
		tried[worst] = true;
		step = best_step_from(b, rule, worst);
	}
	pfree(tried);
	if (step.shard < 0)
		return false;
	if (step.back >= 0)
		dbscale_balance_relocate(b, step.back, b->place[step.shard]);
	dbscale_balance_relocate(b, step.shard, step.to);
	return true;
}

/* The shard of the node to push out, and where to: the lightest that ends the excess, else the heaviest. */
static int
find_displaced(const Balance *b, int node, int except, int *to)
{
	const BalanceProblem *p = b->problem;
	double		over = balance_excess(b, node, b->load[node]);
	int			best = -1;

	for (int i = 0; i < p->nshards; i++)
	{
		double		w = p->shards[i].weight;
		int			target = -1;

		if (b->place[i] != node || i == except || p->shards[i].fixed || w <= 0)
			continue;
		for (int n = 0; n < p->nnodes; n++)
		{
			if (n != node && p->nodes[n].takes && b->load[n] + w <= b->bound[n] &&
				(target < 0 || balance_fullness(b, n, b->load[n] + w) < balance_fullness(b, target, b->load[target] + w)))
				target = n;
		}
		if (target < 0 || (best >= 0 && !(balance_weight(b, best) < over ? w > balance_weight(b, best) :
										  w >= over && w < balance_weight(b, best))))
			continue;
		best = i;
		*to = target;
	}
	return best;
}

/*
 * Move the shard, and push out of its new node what is then too much there.  The shards
 * pushed out are noted, with -1 after the last.  False, and undone, if there is no room
 * for them or too little is gained.  `step` gets gain and cost.
 */
static bool
displace(Balance *b, int shard, int to, int *displaced, BalanceStep *step)
{
	int			from = b->place[shard];
	double		before = balance_excess(b, from, b->load[from]) + balance_excess(b, to, b->load[to]);
	double		worst = balance_fullness(b, from, b->load[from]);
	int			n = 0;
	int			target;
	double		left;

	step->cost = dbscale_balance_extra_cost(b, shard, to);
	dbscale_balance_relocate(b, shard, to);
	while (balance_excess(b, to, b->load[to]) > 0)
	{
		displaced[n] = find_displaced(b, to, shard, &target);
		if (displaced[n] < 0)
			break;
		step->cost += dbscale_balance_extra_cost(b, displaced[n], target);
		dbscale_balance_relocate(b, displaced[n++], target);
	}
	displaced[n] = -1;
	step->cost *= b->bias[shard];
	left = balance_excess(b, from, b->load[from]) + balance_excess(b, to, b->load[to]);
	step->gain = before - left;
	step->settles = left <= 0;
	step->fullness = balance_fullness(b, to, b->load[to]);
	if (step->fullness < worst && step->gain > b->worth * BALANCE_EPSILON &&
		(step->settles || step->gain >= b->worth))
		return true;
	while (n > 0)
		dbscale_balance_relocate(b, displaced[--n], to);
	dbscale_balance_relocate(b, shard, from);
	return false;
}

/*
 * The last resort, for few and large shards: the best of all moves that push others
 * out.  What they gain depends on weights only, as with other steps.
 */
static bool
take_displacing_step(Balance *b, const BalanceRule *rule)
{
	const BalanceProblem *p = b->problem;
	int		   *displaced = palloc(sizeof(int) * (p->nshards + 1));
	BalanceStep best = {-1};

	for (int i = 0; i < p->nshards && p->nshards <= SMALL_PROBLEM; i++)
	{
		int			from = b->place[i];

		if (p->shards[i].fixed || balance_excess(b, from, b->load[from]) <= 0)
			continue;
		CHECK_FOR_INTERRUPTS();
		for (int n = 0; n < p->nnodes; n++)
		{
			BalanceStep step = {i, n, -1};

			b->evaluations += p->nshards;
			if (n == from || !p->nodes[n].takes || !displace(b, i, n, displaced, &step))
				continue;
			if (best.shard < 0 || rule->is_better(&step, &best))
				best = step;
			for (int k = 0; displaced[k] >= 0; k++)
				dbscale_balance_relocate(b, displaced[k], n);
			dbscale_balance_relocate(b, i, from);
		}
	}
	if (best.shard >= 0)
		(void) displace(b, best.shard, best.to, displaced, &best);
	pfree(displaced);
	return best.shard >= 0;
}

bool
dbscale_balance_repair(Balance *b, const BalanceRule *rule)
{
	bool		repaired = false;

	while (take_step(b, rule) || take_displacing_step(b, rule))
	{
		CHECK_FOR_INTERRUPTS();
		repaired = true;
	}
	return repaired;
}
