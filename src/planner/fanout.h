/*
 * fanout.h
 *		The plan of a query that many shards answer, each a part.
 */
#ifndef DBSCALE_PLANNER_FANOUT_H
#define DBSCALE_PLANNER_FANOUT_H

#include "planner/inference.h"
#include "planner/ship.h"
#include "plan/plan.h"

/*
 * The statement with each query level that the shards can answer replaced by a scan of
 * what they send; a copy.  Notes the reasons (see fallback.h) for the other levels.
 */
extern Query *dbscale_fanout_rewrite(Query *query, List **reasons);

/* ---- between the files of the fan-out ---- */

/* One level on its way: what the shards get, and what is computed above. */
typedef struct FanoutLevel
{
	Query	   *query;			/* as it was */
	Query	   *shard;			/* the shards' query */
	List	   *columns;		/* its target list, as columns are added */
	List	   *combine;		/* of String: by what function a node combines the column, and
								 * after a comma its further arguments; or FANOUT_… below */
	Query	   *above;			/* the query above, without its range table */
	const char *strategy;
	const char *reason;			/* why no more was pushed down */
	List	   *subqueries;		/* what the marks stand for: see fanout_subquery.c */
	CommonTableExpr *small;		/* a side that goes to the shards: see fanout_broadcast.c; or NULL */
	Colocation	colocation;
	Shipment	shipment;
} FanoutLevel;

/* For a column that rows are grouped by, and for one whose parts no node can combine. */
#define FANOUT_GROUPED ""
#define FANOUT_NOT_COMBINED "-"

/* The placeholder's position in the range table above. */
#define FANOUT_RTI 1

/* A Var of the placeholder for an expression that the shards compute. */
extern Var *dbscale_fanout_column(FanoutLevel *level, Expr *expr, const char *combine);
/* The expression with the level's columns replaced by the placeholder's. */
extern Node *dbscale_fanout_replace_columns(FanoutLevel *level, Node *node);
/* Fill in shard, columns and above; false with the reason if it can't be done this way. */
extern bool dbscale_fanout_split_whole(FanoutLevel *level);
extern bool dbscale_fanout_split_partial(FanoutLevel *level);
extern bool dbscale_fanout_split_rows(FanoutLevel *level, List *conditions_above);
/* Is each row of the level's result made from rows of one shard?  With the reason if not. */
extern bool dbscale_fanout_is_whole(FanoutLevel *level);
/* Is one of the clause's expressions the shard key?  Of the level's own query. */
extern bool dbscale_fanout_contains_key(FanoutLevel *level, List *clause);
extern bool dbscale_fanout_is_key(FanoutLevel *level, Node *expr);
/* The shards' text of level->shard, and the expressions that it needs; false with the reason. */
extern bool dbscale_fanout_finish_shard_query(FanoutLevel *level, FanoutTask *task, List **exprs);
/*
 * The aggregate, which has no DISTINCT and no ORDER BY, put together from parts that are
 * added to the level's columns; NULL if it can't be.
 */
extern Node *dbscale_fanout_split_aggregate(FanoutLevel *level, Aggref *agg);
/* Text around a node's branches that combines their rows. */
extern void dbscale_fanout_node_text(const FanoutLevel *level, FanoutTask *task);

/* Can the query go to the shards, joined as it is?  Fills in placement and shipment. */
extern bool dbscale_fanout_place(FanoutLevel *level, Query *query);
extern bool dbscale_fanout_is_remote_condition(Node *condition);
/* The task of a placeholder's entry; NULL if it is something else. */
extern FanoutTask *dbscale_fanout_task_of(RangeTblEntry *rte);

/* ---- estimates ---- */

extern double dbscale_fanout_table_rows(Oid relid);
extern double dbscale_fanout_selectivity(Node *condition, List *rtable);
extern double dbscale_fanout_estimate_rows(const FanoutLevel *level);
extern void dbscale_fanout_origins(const FanoutLevel *level, FanoutTask *task);
extern void dbscale_fanout_estimate_init(void);

/* ---- joins and subqueries ---- */

/* Would a plan be refused in which what one node sends is needed before others are asked? */
extern bool dbscale_fanout_takes_one_step(void);

/*
 * A copy in which a small side of a join is arrays, the given subqueries, of what is to be
 * in the level's WITH; NULL if none is small.
 */
extern Query *dbscale_fanout_broadcast(Query *query, List **subqueries, CommonTableExpr **small);
/*
 * What all of a node's branches read is read once: the arrays of a small side become a
 * WITH of the node's statement, whose text is returned.  Changes the query.
 */
extern char *dbscale_fanout_share_small(Query *shipped, int first_param);
/*
 * A shard's part of a statement that is joined with the arrays on the node, and the text
 * around the parts that does it; NULL if it can't be done.
 */
extern Query *dbscale_fanout_gather(const Query *shipped, int first_param, char **prefix, char **suffix);
/* Put WITH that is read once in its place, at all levels; changes the query. */
extern bool dbscale_fanout_inline_with(Node *query, void *context);
/*
 * Put the tables that can't be joined on the shards into subqueries of their own; a table
 * that is joined with nothing only on demand.
 */
extern bool dbscale_fanout_separate(Query *query, bool also_alone);
/* Make EXISTS in WHERE, where it can be said so, value IN (SELECT …). */
extern void dbscale_fanout_exists_as_in(Query *query);
/* Put the tables of EXISTS and NOT EXISTS in WHERE into subqueries of their own. */
extern void dbscale_fanout_separate_exists(Query *query);
/* ARRAY(query), value operator ANY (array), and of what arrays are made. */
extern SubLink *dbscale_fanout_array_of(Query *query);
extern Node *dbscale_fanout_any(Oid operator, Oid collation, Node *value, Node *array);
extern bool dbscale_fanout_can_be_array(Oid type);
/* value IN (SELECT …), which depends on no row, as value = ANY (ARRAY(SELECT …)); NULL if it can't be. */
extern Node *dbscale_fanout_any_of_array(SubLink *link);
/* UPDATE and DELETE that core plans, with conditions by which shards send, and lock, fewer rows. */
extern Query *dbscale_fanout_narrow(Query *query, List **reasons);
/* Does it need anything of the queries around it: a column, an aggregate, a CTE? */
extern bool dbscale_fanout_needs_outside(Node *query);
/* The same of an expression of the level. */
extern bool dbscale_fanout_mentions_outside(Node *expr);
/* A copy with marks in the places of subqueries that depend on no row. */
extern Query *dbscale_fanout_mark_subqueries(Query *query, List **subqueries);
/*
 * A copy with marks in the places of columns of the queries around it, as the level sees these;
 * NULL if it needs something else of them.
 */
extern Query *dbscale_fanout_mark_outer(Query *query, List **columns);
/* The mark of the subquery of that number. */
extern Param *dbscale_fanout_mark(int number, Oid type, Oid collation);
extern Query *dbscale_fanout_unmark(Query *query, List *subqueries);
extern Query *dbscale_fanout_marks_to_params(Query *query, List *subqueries, int first);

extern void dbscale_fanout_init(void);

#endif							/* DBSCALE_PLANNER_FANOUT_H */
