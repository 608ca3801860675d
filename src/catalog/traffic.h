/*
 * traffic.h
 *		How many statements read and wrote each shard since the server's start.
 */
#ifndef DBSCALE_TRAFFIC_H
#define DBSCALE_TRAFFIC_H

#include "base/base.h"

/* A statement is sent to the shard; takes no lock but the first time for a shard. */
extern void dbscale_traffic_count(int group_id, int shard, bool writes);

/* What has been counted; false when the shard is not counted (see traffic.c). */
extern bool dbscale_traffic_get(int group_id, int shard, int64 *reads, int64 *writes);

/*
 * Begin at zero: for a shard that has become another one under the same number (split
 * or merged), or (group_id 0) for all shards of this database.
 */
extern void dbscale_traffic_forget(int group_id, int shard);

/* Requests the shared memory; called once at load, after the settings. */
extern void dbscale_traffic_init(void);

#endif							/* DBSCALE_TRAFFIC_H */
