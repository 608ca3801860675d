/*
 * router.h
 *		Private to routing/: how keys are hashed, and the strategies.
 */
#ifndef DBSCALE_ROUTER_H
#define DBSCALE_ROUTER_H

#include "routing/routing.h"
#include "fmgr.h"

/*
 * Hash and equality of one key type under one collation.  The integer types are
 * hashed as int8, so that equal values of different width have equal hashes.
 */
typedef struct KeyHasher
{
	Oid			type;			/* what the functions take: int8 for all integers */
	Oid			collation;		/* of the calls */
	Oid			equivalence;	/* InvalidOid unless equal is not "same bytes" */
	FmgrInfo   *hash;			/* extended; both belong to the type cache */
	FmgrInfo   *equal;
} KeyHasher;

extern void dbscale_hasher_init(KeyHasher *hasher, Oid type, Oid collation);
/* The key (of type `from`) as the hasher's functions take it. */
extern Datum dbscale_hasher_key(const KeyHasher *hasher, Oid from, Datum key);
extern uint64 dbscale_hasher_hash(const KeyHasher *hasher, Datum key);
extern bool dbscale_hasher_equal(const KeyHasher *hasher, Datum a, Datum b);

/* The types that share an operator family with this one, itself included; NULL if none can. */
typedef struct KeyTypeFamily
{
	int			ntypes;
	Oid			types[3];
} KeyTypeFamily;

extern const KeyTypeFamily *dbscale_key_type_family(Oid type);

/* One strategy: NULL keys have their own rule in each. -1: no shard takes the key. */
typedef struct RoutingStrategy
{
	int			(*route) (const DistributedTable *table, Datum key);
	int			(*route_null) (const DistributedTable *table);
} RoutingStrategy;

extern const RoutingStrategy dbscale_hash_strategy;
extern const RoutingStrategy dbscale_range_strategy;
extern const RoutingStrategy dbscale_list_strategy;

/* Directory entry first, then the hash ranges; the key is the hasher's. */
extern int	dbscale_route_hash(const TableGroup *group, const KeyHasher *hasher, Datum key);

#endif							/* DBSCALE_ROUTER_H */
