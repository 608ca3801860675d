/*
 * plan.h
 *		The contract between planner/ and executor/: what a plan of dbscale carries,
 *		and the text of a statement as a shard gets it.
 */
#ifndef DBSCALE_PLAN_H
#define DBSCALE_PLAN_H

#include "catalog/metadata.h"
#include "nodes/extensible.h"
#include "nodes/parsenodes.h"

/*
 * A statement's text with holes where the names of shard tables go, so that one
 * plan serves every shard: pieces[0] table[0] pieces[1] table[1] ... pieces[n].
 * `tables` holds positions in the task's list of relations.
 */
typedef struct ShardSql
{
	List	   *pieces;			/* of String */
	List	   *tables;			/* of int, one fewer than pieces */
} ShardSql;

/* A statement that one shard answers whole. */
typedef struct RouterTask
{
	CmdType		command;
	Oid			key_table;		/* the distributed table whose key decides */
	List	   *relations;		/* OIDs of the distributed tables it names */
	List	   *targets;		/* OIDs of the tables written, in WITH too */
	bool		inserts;		/* a row of the key may be inserted */
	bool		locks_rows;		/* has FOR UPDATE and the like: needs a transaction */
	bool		has_result;		/* returns rows */
	Oid			check_as_user;	/* whose mapping is used; InvalidOid: the current user */
	int			parameters;		/* how many of the plan's custom_exprs are the shard
								 * statement's parameters, $1 first */
	int			key_expr;		/* position of the key in custom_exprs: one of the
								 * parameters, or the one expression after them */
	ShardSql	sql;
} RouterTask;

/*
 * A query, or the part of one, that every shard answers for itself: the shards'
 * branches of a node go as one statement,
 *
 *     prefix  branch UNION ALL branch …  suffix
 *
 * where prefix and suffix, if there are any, combine the branches' rows on the node
 * ("SELECT c1, sum(c2) FROM (" … ") AS rows (c1, c2) GROUP BY c1").  A statement that
 * writes goes to each shard by itself instead, where rows may go with it.
 */
typedef struct FanoutTask
{
	CmdType		command;
	Oid			key_table;		/* a distributed table of the group: gives the shards */
	List	   *relations;		/* OIDs of the tables named, reference tables too */
	Oid			target;			/* the table written, or InvalidOid */
	bool		locks_rows;		/* has FOR UPDATE and the like */
	bool		has_result;		/* returns rows */
	Oid			check_as_user;	/* whose mapping is used; InvalidOid: the current user */
	int			parameters;		/* so many of the expressions are $1 … of the shards' statement */
	List	   *keys;			/* positions of the expressions that the key is one of; an
								 * array stands for its elements; NIL: all shards */
	ShardSql	sql;			/* one shard's branch */
	char	   *with;			/* "WITH … ", what the branches share; or NULL */
	char	   *prefix;			/* of a node's statement; NULL: the branches' rows as they are */
	char	   *suffix;
	List	   *origin_tables;	/* OIDs: of which table each column of the result is */
	List	   *origin_columns; /* and which column of it; 0: of none */
	List	   *row_types;		/* OIDs: columns of the rows that are sent, as arrays, after the
								 * parameters; see write_scan.c */
	int			route_column;	/* which of them has the shard key; -1: all rows go to all shards */
	bool		inserts;		/* rows of any key may be inserted: each needs a shard */
	bool		every_shard;	/* shards that get no row are asked as well */
	double		rows;			/* estimate of what all shards send */
	char	   *strategy;		/* for EXPLAIN: what the shards do */
	char	   *reason;			/* for EXPLAIN VERBOSE: why they don't do more, or NULL */
} FanoutTask;

extern List *dbscale_plan_pack_fanout(const FanoutTask *task);
extern FanoutTask *dbscale_plan_unpack_fanout(List *private);

extern List *dbscale_plan_pack_router(const RouterTask *task);
extern RouterTask *dbscale_plan_unpack_router(List *private);

/*
 * The statement's text for the shards of its tables.  Each range table entry of a
 * relation in `relations` becomes a hole.  The query is not changed.  No pieces at
 * all: the statement's text depends on the shard in another way, too.
 */
extern ShardSql dbscale_plan_deparse(Query *query, List *relations);

/* The text for one shard number. */
extern char *dbscale_plan_shard_sql(const ShardSql *sql, List *relations, int shard);

/*
 * A foreign scan's fdw_private with the reason why it is one, as its last item, which
 * postgres_fdw must not see; and the two taken apart again (NULL: there is none).
 */
extern List *dbscale_plan_add_reason(List *private, const char *reason);
extern const char *dbscale_plan_split_reason(List *private, List **rest);

/* Made by executor/, put in plans by planner/. */
extern CustomScanMethods dbscale_router_scan_methods;

/*
 * Its custom_private is a packed FanoutTask and its custom_exprs are the task's
 * expressions: the parameters, then keys that are not among them.  With scanrelid 0;
 * custom_scan_tlist describes the rows, in the order of the statement's columns.
 */
extern CustomScanMethods dbscale_fanout_scan_methods;

/*
 * A statement that writes to several shards, each its own part: a packed FanoutTask and
 * the task's expressions as above.  Where it has row_types, its first custom_plans is
 * the plan of the rows, whose columns they are.
 */
extern CustomScanMethods dbscale_write_scan_methods;

#endif							/* DBSCALE_PLAN_H */
