/*
 * metadata.h
 *		Nodes, table groups, tables, shards and the directory: the catalog's
 *		tables in schema dbscale, seen through a cache of this backend.
 *
 * The structs are read-only.  They stay valid until the end of the transaction
 * in which they were fetched, even if the catalog changes meanwhile: a rebuilt
 * cache keeps what it replaces until then.  So fetch anew after taking a lock.
 */
#ifndef DBSCALE_METADATA_H
#define DBSCALE_METADATA_H

#include "base/base.h"
#include "access/attnum.h"
#include "access/transam.h"
#include "nodes/pg_list.h"

typedef enum ShardStrategy
{
	SHARD_HASH,
	SHARD_DIRECTORY,			/* as hash, meant to be steered by assign_key */
	SHARD_RANGE,
	SHARD_LIST
} ShardStrategy;

typedef struct ShardNode
{
	NameData	name;			/* the foreign server's name too */
	Oid			serverid;
	bool		enabled;
	bool		draining;
	bool		local;			/* a database of this server, made by add_local_node */
	float4		capacity;		/* weight of its fair share; above 0 */
} ShardNode;

typedef struct Shard
{
	int			number;
	const ShardNode *node;
	uint32		hash_from;		/* hash, directory: first and last value, inclusive */
	uint32		hash_to;
	bool		has_hash;		/* false for a shard that holds only directory keys */
	const char *label;			/* list: the name given in bounds, else NULL */
	bool		pinned;			/* may never leave its node */
	FullTransactionId moved_by; /* the transaction that last changed its row, which was a move;
								 * invalid: none did since the shard was made */
} Shard;

/* What counters have to do on a shard's node when the shard comes or goes. */
typedef enum ShardMoment
{
	SHARD_MADE,					/* its tables and rows are there: what keeps its counters */
	SHARD_LEAVING,				/* writers are shut out, rows not yet copied: fold what is pending */
	SHARD_RECEIVING,			/* the same where a key's rows come to a shard that is there */
	SHARD_LEFT					/* its tables have been dropped there: the rest */
} ShardMoment;

/* A table that has rows of a key, when the key goes from one shard to another. */
typedef struct KeyTable
{
	char	   *from;			/* on the source's node, qualified and quoted */
	char	   *to;				/* on the target's */
	char	   *columns;
	char	   *condition;		/* is it a row of key $1? */
} KeyTable;

typedef struct TableGroup
{
	int			id;
	ShardStrategy strategy;
	Oid			key_type;
	const char *opfamily;		/* name in schema dbscale; NULL for range and list */
	const char *step;			/* range: as given to distribute_table, else NULL */
	int			nshards;
	Shard	   *shards;			/* by number, ascending; numbers may have gaps */
	void	   *router;			/* private to routing/: built on first use */
	MemoryContext context;		/* where the cache's content lives */
	List	   *directory;		/* of DirectoryEntry *, as stored */
	List	   *tables;			/* OIDs of the member tables */
} TableGroup;

typedef struct DirectoryEntry
{
	const char *key;			/* the type's output under ISO, MDY and UTC */
	int			shard;
} DirectoryEntry;

typedef struct DistributedTable
{
	Oid			relid;
	bool		is_reference;
	const TableGroup *group;	/* NULL for a reference table */
	AttrNumber	key_attno;		/* of the parent; 0 for a reference table */
	Oid			key_collation;
	const char *stored_name;	/* base of the shard tables' names: stored_name_N, or the
								 * copy's whole name for a reference table */
	Oid		   *foreign_tables; /* parallel to group->shards; InvalidOid if missing */
} DistributedTable;

/*
 * The lookups.  All return NULL (or false) where there is nothing, and never throw for that.
 * What they return is good until the transaction's end; but two lookups may be of two
 * caches, so groups, nodes and shards of different lookups are compared by their ids, not
 * by their addresses.
 */
extern const DistributedTable *dbscale_catalog_table(Oid relid);
/* Has it shards, each with a part of its rows? */
extern bool dbscale_catalog_is_distributed(Oid relid);
extern const TableGroup *dbscale_catalog_group(int group_id);
extern const TableGroup *dbscale_catalog_group_by_opfamily(const char *opfamily);
extern const ShardNode *dbscale_catalog_node(const char *name);
extern const ShardNode *dbscale_catalog_node_by_server(Oid serverid);
extern List *dbscale_catalog_nodes(void);	/* of const ShardNode *, by name */
extern List *dbscale_catalog_tables(void);	/* of const DistributedTable * */
extern const Shard *dbscale_catalog_shard(const TableGroup *group, int number);
extern Oid	dbscale_catalog_foreign_table(const DistributedTable *table, int shard);	/* or InvalidOid */

/* The distributed table whose shard this foreign table is, and which shard. */
extern const DistributedTable *dbscale_catalog_owner_of(Oid foreign_table, int *shard);

/*
 * For whoever looks up the node of a shard to read from (catalog.c says why):
 * take in what others have changed, and an error where the transaction's snapshot is
 * older than the shard's last move.
 */
extern void dbscale_catalog_refresh(void);
extern void dbscale_catalog_check_snapshot(const DistributedTable *table, const Shard *shard);

/* True when nothing at all is registered: lets hooks return at once. */
extern bool dbscale_catalog_is_empty(void);

/*
 * The same lookups for commands: an error with SQLSTATE and hint where the
 * relation is not distributed, the node unknown (or not enabled), ...
 */
extern const DistributedTable *dbscale_catalog_require_table(Oid relid);
extern const DistributedTable *dbscale_catalog_require_distributed(Oid relid);	/* no reference table */
extern const ShardNode *dbscale_catalog_require_node(const char *name, bool must_be_enabled);

/*
 * Tell every backend that the catalog changed, and replan what reads the given
 * parents (a list of OIDs; NIL for none).  Triggers on the catalog's tables call
 * this as well, so that a row changed by hand is heard of.
 */
extern void dbscale_catalog_changed(List *parents);

/*
 * Counts the times the cache was read: what was computed from structs of one
 * generation may be kept for as long as this returns the same number.
 */
extern uint64 dbscale_catalog_generation(void);

extern const char *dbscale_strategy_name(ShardStrategy strategy);

/* Registers the invalidation callback; called once at load. */
extern void dbscale_catalog_init(void);

#endif							/* DBSCALE_METADATA_H */
