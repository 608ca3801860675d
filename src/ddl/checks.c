/*
 * checks.c
 *		What a table must be to be distributed: all is checked before anything is touched.
 */
#include "ddl/ddl.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_tablespace.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "commands/tablecmds.h"
#include "commands/tablespace.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

/* The error all refusals share; detail and hint are sentences. */
static void
refuse(Relation rel, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot distribute table \"%s\"", RelationGetRelationName(rel)),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
}

static void
check_kind(Relation rel)
{
	Form_pg_class form = rel->rd_rel;

	if (form->relkind == RELKIND_PARTITIONED_TABLE)
		refuse(rel, "It is a partitioned table already.",
			   "Make an ordinary table of it; its shards will be its partitions.");
	if (form->relkind != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot distribute \"%s\"", RelationGetRelationName(rel)),
				 errdetail("Only ordinary tables can be distributed."),
				 errhint("Name a table made by CREATE TABLE.")));
	if (form->relispartition)
		refuse(rel, "It is a partition of another table.", "Detach it first.");
	if (form->relpersistence == RELPERSISTENCE_TEMP)
		refuse(rel, "It is a temporary table.", "Only permanent tables can be distributed.");
	if (form->relpersistence == RELPERSISTENCE_UNLOGGED)
		refuse(rel, "It is an unlogged table.", "Use ALTER TABLE ... SET LOGGED first.");
	if (form->relam != HEAP_TABLE_AM_OID)
		refuse(rel, "Its access method is not heap.", "Use a table of access method heap.");
	if (OidIsValid(form->reloftype))
		refuse(rel, "It is a typed table.", "Use ALTER TABLE ... NOT OF first.");
}

static void
check_surroundings(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	char	   *schema = get_namespace_name(RelationGetNamespace(rel));

	if (relid < FirstNormalObjectId || strcmp(schema, DBSCALE_SCHEMA) == 0 ||
		strcmp(schema, DBSCALE_SHARDS_SCHEMA) == 0)
		refuse(rel, "It belongs to the system.", "Only tables of users can be distributed.");
	if (OidIsValid(getExtensionOfObject(RelationRelationId, relid)))
		refuse(rel, psprintf("It belongs to the extension \"%s\".",
							 get_extension_name(getExtensionOfObject(RelationRelationId, relid))),
			   "Only tables that belong to no extension can be distributed.");
	if (has_superclass(relid) || find_inheritance_children(relid, NoLock) != NIL)
		refuse(rel, "It takes part in inheritance.", "Use ALTER TABLE ... NO INHERIT first.");
	if (rel->rd_rules != NULL)
		refuse(rel, "It has rules.", "Drop them, or use triggers instead.");
	if (GetRelationPublications(relid) != NIL)
		refuse(rel, "It is in a publication, which would see none of its changes any more.",
			   "Use ALTER PUBLICATION ... DROP TABLE first.");
	if (OidIsValid(rel->rd_rel->reltablespace))
		refuse(rel, psprintf("It is in the tablespace \"%s\", which nodes do not have.",
							 get_tablespace_name(rel->rd_rel->reltablespace)),
			   "Use ALTER TABLE ... SET TABLESPACE pg_default first.");
}

static void
check_triggers(Relation rel)
{
	for (int i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &rel->trigdesc->triggers[i];

		if (trigger->tgisinternal)
			continue;
		if (OidIsValid(trigger->tgconstraint))
			refuse(rel, psprintf("Trigger \"%s\" is a constraint trigger, which foreign partitions cannot have.",
								 trigger->tgname),
				   "Drop it, or make it an ordinary trigger.");
		if (trigger->tgoldtable != NULL || trigger->tgnewtable != NULL)
			refuse(rel, psprintf("Trigger \"%s\" has transition tables, which PostgreSQL cannot fill from foreign partitions.",
								 trigger->tgname),
				   "Use a row trigger without transition tables.");
	}
}

List *
dbscale_ddl_constraints_of(Oid relid)
{
	Relation	pg_constraint = table_open(ConstraintRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *list = NIL;

	ScanKeyInit(&key, Anum_pg_constraint_conrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(pg_constraint, ConstraintRelidTypidNameIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		list = lappend(list, heap_copytuple(tuple));
	systable_endscan(scan);
	table_close(pg_constraint, AccessShareLock);
	return list;
}

List *
dbscale_ddl_foreign_keys_of(Oid relid)
{
	List	   *list = NIL;
	ListCell   *lc;

	foreach(lc, dbscale_ddl_constraints_of(relid))
	{
		Form_pg_constraint form = (Form_pg_constraint) GETSTRUCT((HeapTuple) lfirst(lc));

		if (form->contype == CONSTRAINT_FOREIGN)
			list = lappend_oid(list, form->oid);
	}
	return list;
}

static void
check_constraints(Relation rel)
{
	ListCell   *lc;

	foreach(lc, dbscale_ddl_constraints_of(RelationGetRelid(rel)))
	{
		Form_pg_constraint form = (Form_pg_constraint) GETSTRUCT((HeapTuple) lfirst(lc));

		if (form->contype == CONSTRAINT_EXCLUSION)
			refuse(rel, psprintf("Constraint \"%s\" is an exclusion constraint, which cannot be checked over shards.",
								 NameStr(form->conname)),
				   "Drop the constraint.");
		if (form->contype == CONSTRAINT_CHECK && form->connoinherit)
			refuse(rel, psprintf("Constraint \"%s\" is NO INHERIT, and would not hold for partitions.",
								 NameStr(form->conname)),
				   "Add the constraint again without NO INHERIT.");
	}
}

/* Foreign keys of other tables to this one: only shards could check them. */
static void
check_referencing(Relation rel)
{
	List	   *rows = dbscale_ddl_query_rows(
		psprintf("SELECT conname, conrelid::regclass FROM pg_constraint"
				 " WHERE contype = 'f' AND confrelid = %u AND conrelid <> %u"
				 " ORDER BY 1, 2 LIMIT 1", RelationGetRelid(rel), RelationGetRelid(rel)));

	if (rows != NIL)
	{
		char	  **row = linitial(rows);

		refuse(rel, psprintf("Foreign key constraint \"%s\" of table %s references it.", row[0], row[1]),
			   psprintf("Drop the constraint; distribute this table, then %s colocated with it, and add the constraint again.",
						row[1]));
	}
}

/* A unique index enforces its columns on one shard, so they must tell the shard. */
static void
check_unique_index(Relation rel, Relation index, AttrNumber key)
{
	Oid			constraint = get_index_constraint(RelationGetRelid(index));
	const char *kind = OidIsValid(constraint) ?
		(index->rd_index->indisprimary ? "primary key" : "unique constraint") : "unique index";

	for (int i = 0; i < index->rd_index->indnkeyatts; i++)
	{
		if (index->rd_index->indkey.values[i] == key)
		{
			if (index->rd_indcollation[i] != TupleDescAttr(RelationGetDescr(rel), key - 1)->attcollation)
				refuse(rel, psprintf("The %s \"%s\" has another collation for the shard key than the column.",
									 kind, RelationGetRelationName(index)),
					   "Make the index with the column's collation.");
			return;
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot distribute table \"%s\"", RelationGetRelationName(rel)),
			 errdetail("The %s \"%s\" lacks column \"%s\", the shard key: uniqueness is enforced shard by shard.",
					   kind, RelationGetRelationName(index),
					   get_attname(RelationGetRelid(rel), key, false)),
			 errhint("Add column \"%s\" to it, or choose another key.",
					 get_attname(RelationGetRelid(rel), key, false))));
}

/* key 0: a reference table, whose copies are whole */
static void
check_indexes(Relation rel, AttrNumber key)
{
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (!index->rd_index->indisvalid)
			refuse(rel, psprintf("Index \"%s\" is not valid.", RelationGetRelationName(index)),
				   "Use REINDEX on it, or drop it.");
		if (OidIsValid(index->rd_rel->reltablespace))
			refuse(rel, psprintf("Index \"%s\" is in the tablespace \"%s\", which nodes do not have.",
								 RelationGetRelationName(index),
								 get_tablespace_name(index->rd_rel->reltablespace)),
				   "Use ALTER INDEX ... SET TABLESPACE pg_default first.");
		if (index->rd_index->indisunique && key != 0)
			check_unique_index(rel, index, key);
		index_close(index, AccessShareLock);
	}
}

Relation
dbscale_ddl_open_for_command(Oid relid, const char *command)
{
	Relation	rel = relation_open(relid, AccessExclusiveLock);

	if (!dbscale_owns_relation(relid))
		aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(rel->rd_rel->relkind),
					   RelationGetRelationName(rel));
	CheckTableNotInUse(rel, command);
	return rel;
}

/* The same for distribute_table and undistribute_table, which the table's counters come along with. */
Relation
dbscale_ddl_open_to_convert(Oid relid, const char *command, bool to_shards)
{
	Relation	rel = dbscale_ddl_open_for_command(relid, command);

	if (dbscale_ddl_before_hook == NULL)
		return rel;
	/* triggers of a table that is open cannot be dropped */
	table_close(rel, NoLock);
	dbscale_ddl_before_hook(relid, to_shards);
	return table_open(relid, NoLock);
}

static void
check_not_distributed(Relation rel)
{
	const DistributedTable *table = dbscale_catalog_table(RelationGetRelid(rel));

	if (table != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" is already %s", RelationGetRelationName(rel),
						table->is_reference ? "a reference table" : "distributed"),
				 errdetail("A table can be distributed once."),
				 errhint("Use dbscale.undistribute_table() first to distribute it in another way.")));
}

void
dbscale_ddl_check_table(Relation rel, AttrNumber key)
{
	check_not_distributed(rel);
	check_kind(rel);
	check_surroundings(rel);
	check_indexes(rel, key);
	if (key == 0)
		return;
	check_triggers(rel);
	check_constraints(rel);
	check_referencing(rel);
}

static bool
is_range_type(Oid type)
{
	switch (type)
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return true;
		default:
			return false;
	}
}

static bool
type_suits(Oid type, ShardStrategy strategy)
{
	if (strategy == SHARD_RANGE)
		return is_range_type(type);
	if (strategy == SHARD_LIST)
		return OidIsValid(lookup_type_cache(type, TYPECACHE_BTREE_OPFAMILY)->btree_opf) &&
			get_typtype(type) != TYPTYPE_PSEUDO;
	return dbscale_type_is_hashable(type);
}

AttrNumber
dbscale_ddl_check_key(Relation rel, const char *name, ShardStrategy strategy)
{
	AttrNumber	key = get_attnum(RelationGetRelid(rel), name);
	Form_pg_attribute att;

	check_not_distributed(rel);
	check_kind(rel);
	if (key == InvalidAttrNumber || key < 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of table \"%s\" does not exist", name,
						RelationGetRelationName(rel)),
				 errdetail("The shard key must be a column of the table."),
				 errhint("Name one of the table's columns.")));
	att = TupleDescAttr(RelationGetDescr(rel), key - 1);
	if (att->attgenerated != '\0')
		refuse(rel, psprintf("Column \"%s\" is generated, and cannot be the shard key.", name),
			   "Choose another key.");
	if (!type_suits(att->atttypid, strategy))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot distribute table \"%s\"", RelationGetRelationName(rel)),
				 errdetail("Column \"%s\" has type %s, which cannot be the key of strategy \"%s\".",
						   name, format_type_be(att->atttypid), dbscale_strategy_name(strategy)),
				 strategy == SHARD_RANGE ?
				 errhint("The key of a range must be an integer, numeric, date or timestamp.") :
				 errhint("Choose another key.")));
	return key;
}
