/*
 * balance.h
 *		Private to rebalance/: which shard belongs on which node, as a function of
 *		numbers alone.
 */
#ifndef DBSCALE_BALANCE_H
#define DBSCALE_BALANCE_H

#include "base/base.h"

typedef struct BalanceNode
{
	double		capacity;		/* above 0; weight of the fair share */
	bool		takes;			/* false: what is on it leaves, and nothing comes */
} BalanceNode;

typedef struct BalanceShard
{
	int			node;			/* index of the node that holds it */
	int			group;			/* 0 ... ngroups - 1 */
	double		weight;			/* of what is to be balanced; a whole number, 0 or more */
	int64		bytes;			/* what moving it costs */
	bool		fixed;			/* stays where it is */
} BalanceShard;

typedef struct BalanceProblem
{
	int			nnodes;
	BalanceNode *nodes;
	int			ngroups;
	int			nshards;
	BalanceShard *shards;
	double		threshold;		/* 0.1: a node may have a tenth more than its fair share */
} BalanceProblem;

/* The node of every shard, palloc'd.  Some node must take shards. */
extern int *dbscale_balance(const BalanceProblem *problem);

/* ---- what the files balance*.c share ---- */

/* Work that one try may do, in comparisons; small problems need far less. */
#define BALANCE_MAX_EVALUATIONS INT64CONST(4000000)
/* Differences of sums that are nothing. */
#define BALANCE_EPSILON 1e-9

typedef struct Balance
{
	const BalanceProblem *problem;
	int		   *place;			/* by shard; -1: not placed yet */
	int		   *origin;			/* by shard; -1: it must leave, wherever it goes */
	double	   *load;			/* by node: weight on it */
	double	   *share;
	double	   *bound;
	double	   *cap;			/* in thrift and spread: the bound, or what it held if that was more */
	int		   *counts;			/* by group, then node: shards */
	double	   *bias;			/* by shard: how dear it seems to the rule; 1 is the truth */
	double		worth;
	int64		evaluations;
} Balance;

/*
 * What step of repair is the best; and whether an exchange is looked at even if there
 * is a move, or as the last resort only.
 */
typedef struct BalanceStep BalanceStep;
typedef struct BalanceRule
{
	bool		(*is_better) (const BalanceStep *a, const BalanceStep *b);
	bool		exchanges_too;
} BalanceRule;

extern const BalanceRule dbscale_balance_rules[];
extern const int dbscale_balance_rules_count;

/* balance_repair.c: false if there was nothing to do, or nothing to be done. */
extern bool dbscale_balance_repair(Balance *b, const BalanceRule *rule);
/* balance_thrift.c */
extern void dbscale_balance_thrift(Balance *b);
extern void dbscale_balance_spread(Balance *b);

/* Shard -1 weighs and costs nothing. */
static inline double
balance_weight(const Balance *b, int shard)
{
	return shard < 0 ? 0 : b->problem->shards[shard].weight;
}

/* An empty shard is not moved for nothing either. */
static inline double
balance_bytes(const Balance *b, int shard)
{
	return shard < 0 ? 0 : (double) b->problem->shards[shard].bytes + 1.0 / 1024;
}

static inline bool
balance_is_moved(const Balance *b, int shard)
{
	return b->origin[shard] >= 0 && b->place[shard] != b->origin[shard];
}

static inline double
balance_excess(const Balance *b, int node, double load)
{
	return Max(load - b->bound[node], 0);
}

static inline double
balance_fullness(const Balance *b, int node, double load)
{
	return load / b->share[node];
}

/* What moving the shard from where it is now adds to the bytes. */
extern double dbscale_balance_extra_cost(const Balance *b, int shard, int to);
extern void dbscale_balance_relocate(Balance *b, int shard, int to);

#endif							/* DBSCALE_BALANCE_H */
