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
extern List *dbscale_counter_vacuums(Oid serverid, Oid userid);

/*
 * What counters have beside a shard's tables, and does not go with these: of
 * CounterObject *.  Both functions raise an error where counters keep the shard from
 * moving.
 */
typedef struct CounterObject
{
	const char *kind;			/* as in dbscale.cleanup: "table" or "function" */
	char	   *name;			/* in dbscale_shards; bare */
} CounterObject;
extern List *dbscale_counter_objects(const TableGroup *group, const Shard *shard);
extern void dbscale_counter_check_move(const TableGroup *group, const Shard *shard);

/* For ddl/, which is our peer: dbscale.c puts them into its hooks (ddl.h says what they promise). */
extern void dbscale_counter_suspend(Oid relid, bool to_shards);
extern void dbscale_counter_resume(Oid relid);
extern List *dbscale_counter_shard_sql(const TableGroup *group, const Shard *shard, ShardMoment moment);

#endif							/* DBSCALE_COUNTER_H */
