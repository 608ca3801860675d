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

/* Same, for a value that keys are compared with: -1 also where no key can be equal to it. */
extern int	dbscale_route_compared_key(const DistributedTable *table, Datum key, Oid type, bool isnull);

/* Cast a value of any type to the table's key type. */
extern Datum dbscale_cast_key(const DistributedTable *table, Datum key, Oid type);

/* hash, directory: the shard of the key's hash, whatever the directory says. */
extern int	dbscale_hash_home(const DistributedTable *table, Datum key);
/* The directory's entry for an equal key, as it is stored, or NULL. */
extern const char *dbscale_directory_find(const DistributedTable *table, Datum key);

/* hash, directory: are these the same key? */
extern bool dbscale_keys_equal(const DistributedTable *table, Datum a, Datum b);

/* Canonical text of a key, as stored in dbscale.directory, and back. */
extern char *dbscale_key_to_text(Oid type, Datum key);
extern Datum dbscale_key_from_text(Oid type, const char *text);

/* True when the type can be a hash key; the built-in types listed in the docs. */
extern bool dbscale_type_is_hashable(Oid type);

/* Hash of a key as the ranges use it (the upper half of the type's 64-bit hash). */
extern uint32 dbscale_hash_key(Oid type, Oid collation, Datum key);

/*
 * Create the group's operator family, operator class and support functions, all of
 * name dbscale.group_N_ops, as the extension's owner.  Returns the OID of the
 * operator class, which is for key_type (text for varchar).
 */
extern Oid	dbscale_routing_create_opfamily(int group_id, Oid key_type);
/* Fails while a table is partitioned by it; the group may be gone from the catalog. */
extern void dbscale_routing_drop_opfamily(int group_id);

#endif							/* DBSCALE_ROUTING_H */
