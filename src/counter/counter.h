/*
 * counter.h
 *		Denormalized counters: what the other floors need of them.
 */
#ifndef DBSCALE_COUNTER_H
#define DBSCALE_COUNTER_H

#include "catalog/metadata.h"

/* The utility hook; after dbscale_utility_init, whose hook is then called by ours. */
extern void dbscale_counter_init(void);

/* Are there buffered counters?  Fold what is pending on one node (InvalidOid: here). */
extern bool dbscale_counter_any_buffered(void);
extern void dbscale_counter_fold_at(Oid serverid, Oid userid);
/* Are so many deltas pending in one table there?  And: a fold there has committed. */
extern bool dbscale_counter_has_many_at(Oid serverid, Oid userid, int rows);
extern void dbscale_counter_note_fold(Oid serverid);
/* Counters whose tables are apart: what is pending on a node, where to, and a carrier's transaction. */
extern List *dbscale_counter_to_carry(Oid serverid);
extern List *dbscale_counter_carry_targets(const char *name);
extern bool dbscale_counter_carry(const char *name, Oid source_server, Oid target_server);
extern List *dbscale_counter_vacuums(Oid serverid, Oid userid);

/*
 * What counters have beside a shard's tables, and does not go with these: of
 * CounterObject *.  It is made anew on the target (SHARD_MADE); some of it has rows that
 * come along, read and copied after SHARD_LEAVING and before the switch.
 */
typedef struct CounterObject
{
	const char *kind;			/* as in dbscale.cleanup: "table" or "function" */
	char	   *name;			/* in dbscale_shards; bare */
	char	   *rows;			/* a query of what is copied, or NULL */
	const char *columns;		/* into these */
	int			key;			/* which of these, from 0, has the shard key that says where a row belongs; -1: none has */
} CounterObject;
extern List *dbscale_counter_objects(const TableGroup *group, const Shard *shard);
/* Tables outside of the group with which these share a counter: OIDs. */
extern List *dbscale_counter_tables_apart(const TableGroup *group);

/* For ddl/, which is our peer: dbscale.c puts them into its hooks (ddl.h says what they promise). */
extern void dbscale_counter_suspend(Oid relid, bool to_shards);
extern void dbscale_counter_resume(Oid relid);
extern List *dbscale_counter_shard_sql(const TableGroup *group, const Shard *shard, ShardMoment moment);
extern List *dbscale_counter_key_tables(const TableGroup *group, const Shard *source, const Shard *target);

#endif							/* DBSCALE_COUNTER_H */
