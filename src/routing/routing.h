/*
 * routing.h
 *		From a key to its shard, for every strategy.
 */
#ifndef DBSCALE_ROUTING_H
#define DBSCALE_ROUTING_H

#include "catalog/metadata.h"

#define DBSCALE_HASH_MODULUS 4096

/* Shard number of a key of the group's type; -1 when no shard takes it (range, list). */
extern int	dbscale_route_key(const DistributedTable *table, Datum key, bool isnull);

/* Same, for a key of any type, cast to the key's type first (may throw on the cast). */
extern int	dbscale_route_any_key(const DistributedTable *table, Datum key, Oid type, bool isnull);

/* Cast a value of any type to the table's key type. */
extern Datum dbscale_cast_key(const DistributedTable *table, Datum key, Oid type);

/* Canonical text of a key, as stored in dbscale.directory, and back. */
extern char *dbscale_key_to_text(Oid type, Datum key);
extern Datum dbscale_key_from_text(Oid type, const char *text);

/* True when the type can be a hash key; the built-in types listed in the docs. */
extern bool dbscale_type_is_hashable(Oid type);

/* Hash of a key as the ranges use it (the upper half of the type's 64-bit hash). */
extern uint32 dbscale_hash_key(Oid type, Oid collation, Datum key);

/*
 * Create the group's operator family, its classes and support functions, as
 * the extension's owner: dbscale.group_N_ops.  The class for the key's type is
 * dbscale.group_N_ops_TYPE (or group_N_ops for the key type itself; see code).
 * Returns the OID of the operator class for key_type.
 */
extern Oid	dbscale_routing_create_opfamily(int group_id, Oid key_type);
extern void dbscale_routing_drop_opfamily(int group_id);

#endif							/* DBSCALE_ROUTING_H */
