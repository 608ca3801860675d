/*
 * foreign_keys.c
 *		Foreign keys of distributed tables: enforced on the shards.
 *
 * Core has no foreign keys on (or to) a partitioned table with foreign partitions.
 * A row's shard can check one by itself in two cases: the referenced table is a
 * reference table, of which every node has a copy; or it is colocated, and the
 * constraint holds the shard keys of both tables against each other, so that the
 * referenced row is in the shard of the same number.
 *
 * The constraint is dropped on the coordinator, where dbscale.foreign_key keeps its
 * definition, and made on every shard.
 */
#include "ddl/ddl.h"

#include "access/htup_details.h"
#include "catalog/pg_constraint.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

static HeapTuple
constraint_tuple(Oid constraint)
{
	HeapTuple	tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(constraint));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for constraint %u", constraint);
	return tuple;
}

/* The attribute numbers in an array column of pg_constraint; 0 of them for NULL. */
static AttrNumber *
attribute_numbers(HeapTuple tuple, int column, int *count)
{
	bool		isnull;
	Datum		datum = SysCacheGetAttr(CONSTROID, tuple, column, &isnull);
	ArrayType  *array;

	*count = 0;
	if (isnull)
		return NULL;
	array = DatumGetArrayTypeP(datum);
	*count = ARR_DIMS(array)[0];
	return (AttrNumber *) ARR_DATA_PTR(array);
}

static int
position_of(AttrNumber attno, const AttrNumber *list, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (list[i] == attno)
			return i;
	}
	return -1;
}

static char *
column_name(Oid relid, AttrNumber attno)
{
	return get_attname(relid, attno, false);
}

/* The referenced row must be in the shard of the same number. */
static void
check_colocated(Form_pg_constraint form, HeapTuple tuple, AttrNumber key, AttrNumber referenced_key)
{
	int			n;
	AttrNumber *mine = attribute_numbers(tuple, Anum_pg_constraint_conkey, &n);
	AttrNumber *theirs = attribute_numbers(tuple, Anum_pg_constraint_confkey, &n);
	int			position = position_of(key, mine, n);

	if (position < 0 || theirs[position] != referenced_key)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("foreign key constraint \"%s\" of table \"%s\" does not join the shard keys",
						NameStr(form->conname), get_rel_name(form->conrelid)),
				 errdetail("Shards can check it only when \"%s\" of \"%s\" references \"%s\" of \"%s\".",
						   column_name(form->conrelid, key), get_rel_name(form->conrelid),
						   column_name(form->confrelid, referenced_key), get_rel_name(form->confrelid)),
				 errhint("Add the shard key to both sides of the constraint, or drop the constraint.")));
}

/* What an action may not do on a shard: change the key, or use a default. */
static const char *
impossible_action(Form_pg_constraint form, HeapTuple tuple, AttrNumber key)
{
	int			n;
	int			nset;
	AttrNumber *mine = attribute_numbers(tuple, Anum_pg_constraint_conkey, &n);
	AttrNumber *set = attribute_numbers(tuple, Anum_pg_constraint_confdelsetcols, &nset);
	bool		has_key = position_of(key, mine, n) >= 0;
	bool		sets_key = nset > 0 ? position_of(key, set, nset) >= 0 : has_key;

	if (form->confdeltype == FKCONSTR_ACTION_SETDEFAULT)
		return "ON DELETE SET DEFAULT";
	if (form->confupdtype == FKCONSTR_ACTION_SETDEFAULT)
		return "ON UPDATE SET DEFAULT";
	if (form->confdeltype == FKCONSTR_ACTION_SETNULL && sets_key)
		return "ON DELETE SET NULL";
	if (form->confupdtype == FKCONSTR_ACTION_SETNULL && has_key)
		return "ON UPDATE SET NULL";
	if (form->confupdtype == FKCONSTR_ACTION_CASCADE && has_key)
		return "ON UPDATE CASCADE";
	return NULL;
}

static void
check_actions(Form_pg_constraint form, HeapTuple tuple, AttrNumber key)
{
	const char *action = impossible_action(form, tuple, key);

	if (action == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("foreign key constraint \"%s\" of table \"%s\" has %s",
					NameStr(form->conname), get_rel_name(form->conrelid), action),
			 errdetail("A shard has no column defaults, and may not change a row's shard key by itself."),
			 errhint("Drop the constraint and add it again with another action.")));
}

void
dbscale_ddl_check_foreign_key(Oid constraint, AttrNumber key, int group_id)
{
	HeapTuple	tuple = constraint_tuple(constraint);
	Form_pg_constraint form = (Form_pg_constraint) GETSTRUCT(tuple);
	const DistributedTable *referenced = dbscale_catalog_table(form->confrelid);

	if (form->confrelid == form->conrelid)
		check_colocated(form, tuple, key, key);
	else if (referenced == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("foreign key constraint \"%s\" of table \"%s\" references the local table \"%s\"",
						NameStr(form->conname), get_rel_name(form->conrelid),
						get_rel_name(form->confrelid)),
				 errdetail("The shards, which check the constraint, cannot see it."),
				 errhint("Make \"%s\" a reference table with dbscale.distribute_reference, or distribute it first, on the key.",
						 get_rel_name(form->confrelid))));
	else if (!referenced->is_reference)
	{
		if (referenced->group->id != group_id)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("foreign key constraint \"%s\" of table \"%s\" references the table \"%s\", which is not colocated",
							NameStr(form->conname), get_rel_name(form->conrelid),
							get_rel_name(form->confrelid)),
					 errdetail("The referenced row may be on another node."),
					 errhint("Distribute \"%s\" with colocate_with => '%s', or drop the constraint.",
							 get_rel_name(form->conrelid), get_rel_name(form->confrelid))));
		check_colocated(form, tuple, key, referenced->key_attno);
	}
	check_actions(form, tuple, key);
	ReleaseSysCache(tuple);
}

void
dbscale_ddl_remember_foreign_key(Oid constraint)
{
	HeapTuple	tuple = constraint_tuple(constraint);
	Form_pg_constraint form = (Form_pg_constraint) GETSTRUCT(tuple);
	int			level = dbscale_ddl_set_safe_path();
	char	   *definition;

	definition = TextDatumGetCString(DirectFunctionCall1(pg_get_constraintdef,
														 ObjectIdGetDatum(constraint)));
	AtEOXact_GUC(true, level);
	(void) dbscale_ddl_execute_as_owner(
		psprintf("INSERT INTO dbscale.foreign_key (relation, name, referenced, definition)"
				 " VALUES (%u, %s, %u, %s)", form->conrelid,
				 quote_literal_cstr(NameStr(form->conname)), form->confrelid,
				 quote_literal_cstr(definition)));
	ReleaseSysCache(tuple);
}

/* First place in `text` where `what` begins outside of double quotes, or NULL. */
static const char *
find_unquoted(const char *text, const char *what)
{
	bool		quoted = false;

	for (const char *p = text; *p != '\0'; p++)
	{
		if (*p == '"')
			quoted = !quoted;
		else if (!quoted && strncmp(p, what, strlen(what)) == 0)
			return p;
	}
	return NULL;
}

/* The definition with the referenced table's name replaced. */
static char *
retarget(const char *definition, const char *referenced)
{
	const char *word = " REFERENCES ";
	const char *name = find_unquoted(definition, word);
	const char *columns;

	if (name == NULL)
		elog(ERROR, "unexpected definition of a foreign key");
	name += strlen(word);
	columns = find_unquoted(name, "(");
	if (columns == NULL)
		elog(ERROR, "unexpected definition of a foreign key");
	return psprintf("%s%s%s", pnstrdup(definition, name - definition), referenced, columns);
}

List *
dbscale_ddl_shard_foreign_keys_sql(const DistributedTable *table, int shard)
{
	char	   *from = psprintf("FROM (SELECT *, row_number() OVER (ORDER BY name) AS n"
								" FROM dbscale.foreign_key WHERE relation = %u) f WHERE n =",
								table->relid);
	List	   *list = NIL;

	for (int n = 1;; n++)
	{
		char	   *name = dbscale_ddl_query_value(psprintf("SELECT name %s %d", from, n));
		char	   *definition;
		Oid			referenced;
		const DistributedTable *target;

		if (name == NULL)
			return list;
		definition = dbscale_ddl_query_value(psprintf("SELECT definition %s %d", from, n));
		referenced = atooid(dbscale_ddl_query_value(psprintf("SELECT referenced::oid %s %d", from, n)));
		target = dbscale_catalog_require_table(referenced);
		list = lappend(list, psprintf("ALTER TABLE %s ADD CONSTRAINT %s %s",
									  dbscale_ddl_shard_table_name(table, shard),
									  quote_identifier(name),
									  retarget(definition,
											   dbscale_ddl_shard_table_name(target, target->is_reference ? -1 : shard))));
	}
}
