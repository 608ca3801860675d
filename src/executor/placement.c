/*
 * placement.c
 *		Is a row about to be written in the shard it belongs to?
 *
 * Core trusts a foreign table to check its own partition constraint, and
 * postgres_fdw does not.  Every row written to a shard is therefore routed here
 * once more, from the catalog.  Foreign tables that are no shard of a distributed
 * table (made by hand) are not checked on INSERT, and by core's partition
 * constraint when an UPDATE changes their key.
 */
#include "executor/internal.h"

#include "utils/builtins.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"

void
dbscale_placement_init(Placement *placement, Relation foreign_table)
{
	const DistributedTable *table;
	char	   *key;

	placement->foreign_table = RelationGetRelid(foreign_table);
	placement->key_attno = InvalidAttrNumber;
	table = dbscale_catalog_owner_of(placement->foreign_table, &placement->shard);
	placement->known = table != NULL && !table->is_reference;
	if (!placement->known)
		return;
	placement->parent = table->relid;
	key = get_attname(table->relid, table->key_attno, false);
	placement->key_attno = get_attnum(placement->foreign_table, key);
	if (placement->key_attno == InvalidAttrNumber)
		elog(ERROR, "shard table \"%s\" has no column \"%s\"",
			 RelationGetRelationName(foreign_table), key);
}

int
dbscale_placement_route(const Placement *placement, TupleTableSlot *slot)
{
	const DistributedTable *table = dbscale_catalog_table(placement->parent);
	bool		isnull;
	Datum		key = slot_getattr(slot, placement->key_attno, &isnull);

	if (table == NULL)
		elog(ERROR, "table %u is not distributed any more", placement->parent);
	return dbscale_route_key(table, key, isnull);
}

Oid
dbscale_placement_table(const Placement *placement, int shard)
{
	const DistributedTable *table = dbscale_catalog_table(placement->parent);

	for (int i = 0; table != NULL && i < table->group->nshards; i++)
	{
		Oid			foreign_table = table->foreign_tables[i];

		if (table->group->shards[i].number != shard)
			continue;
		if (!OidIsValid(foreign_table))
			break;
		LockRelationOid(foreign_table, RowExclusiveLock);
		return foreign_table;
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("shard %d of table \"%s\" has no foreign table", shard,
					get_rel_name(placement->parent)),
			 errhint("dbscale.check() compares the catalog with the nodes.")));
}

void
dbscale_placement_refuse(const Placement *placement, int shard)
{
	if (shard < 0)
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("no partition of relation \"%s\" found for row",
						get_rel_name(placement->parent)),
				 errdetail("No shard takes the row's shard key."),
				 errhint("dbscale.add_shard adds one.")));
	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("new row for relation \"%s\" violates partition constraint",
					get_rel_name(placement->foreign_table)),
			 errdetail("The row's shard key belongs to shard %d.", shard),
			 errhint("Insert the row into table \"%s\".", get_rel_name(placement->parent))));
}

void
dbscale_refuse_key(const DistributedTable *table, Datum key, Oid type, bool isnull)
{
	Oid			output;
	bool		varlena;

	getTypeOutputInfo(type, &output, &varlena);
	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("no partition of relation \"%s\" found for row", get_rel_name(table->relid)),
			 errdetail("Partition key of the failing row contains (%s) = (%s).",
					   get_attname(table->relid, table->key_attno, false),
					   isnull ? "null" : OidOutputFunctionCall(output, key))));
}
