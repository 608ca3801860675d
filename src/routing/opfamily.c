/*
 * opfamily.c
 *		A table group's operator family.
 *
 * For group 7 with an int8 key these are, all in schema dbscale:
 *
 *		group_7_ops(int8, int8), (int4, int8), (int2, int8)		functions over dbscale_shard_hash
 *		group_7_ops		operator family: = for all pairs of the integer types, support
 *						function 1 of core's own family, support function 2 from above
 *		group_7_ops		its operator class for the key's type
 *
 * Support function 1 must be core's: the planner may pick any hash family that has
 * the operator for a hash join.  Function 2 has no other use than partitioning.
 *
 * They are ordinary objects, not the extension's, so that pg_dump writes them.
 */
#include "routing/router.h"

#include "access/hash.h"
#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_proc.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

static char *
family_name(int group_id)
{
	return psprintf(DBSCALE_SCHEMA ".group_%d_ops", group_id);
}

/* Creating operator classes and C functions needs a superuser: the extension's owner. */
static void
run_as_owner(const char *sql)
{
	Oid			saved_user;
	int			saved_context;
	int			nest_level;

	GetUserIdAndSecContext(&saved_user, &saved_context);
	SetUserIdAndSecContext(dbscale_extension_owner(),
						   saved_context | SECURITY_LOCAL_USERID_CHANGE);
	nest_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("client_min_messages", "warning", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (SPI_connect() != SPI_OK_CONNECT ||
		SPI_execute(sql, false, 0) != SPI_OK_UTILITY ||
		SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not run: %s", sql);
	AtEOXact_GUC(true, nest_level);
	SetUserIdAndSecContext(saved_user, saved_context);
}

static const KeyTypeFamily *
require_types(Oid key_type)
{
	const KeyTypeFamily *types = dbscale_key_type_family(key_type);

	if (types == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("type %s cannot be a shard key of strategy hash or directory",
						format_type_be(key_type)),
				 errdetail("The types that can are smallint, integer, bigint, text, varchar, char(n), uuid, numeric, date, timestamp, timestamptz and bytea.")));
	return types;
}

/* The class's own type: the key's, but text for varchar. */
static Oid
class_type(const KeyTypeFamily *types, Oid key_type)
{
	for (int i = 0; i < types->ntypes; i++)
	{
		if (types->types[i] == key_type)
			return key_type;
	}
	return types->types[0];
}

static void
create_function(const char *family, Oid type)
{
	run_as_owner(psprintf("CREATE FUNCTION %s(%s, pg_catalog.int8) RETURNS pg_catalog.int8 "
						  "LANGUAGE c STABLE STRICT PARALLEL SAFE AS '$libdir/dbscale', 'dbscale_shard_hash'",
						  family, format_type_be_qualified(type)));
}

/*
 * OPERATOR and FUNCTION items.  A class names items of its own type only; the
 * family gets what crosses types and what belongs to the other types.
 */
static void
append_operator(StringInfo sql, Oid left, Oid right)
{
	/* All our types' equality operators are pg_catalog's "=". */
	appendStringInfo(sql, "%s OPERATOR 1 pg_catalog.= (%s, %s)",
					 sql->len ? "," : "",
					 format_type_be_qualified(left), format_type_be_qualified(right));
}

static void
append_functions(StringInfo sql, const char *family, Oid type)
{
	char	   *name = format_type_be_qualified(type);
	Oid			class = GetDefaultOpClass(type, HASH_AM_OID);
	Oid			input = get_opclass_input_type(class);
	Oid			hash = get_opfamily_proc(get_opclass_family(class), input, input,
										 HASHSTANDARD_PROC);

	appendStringInfo(sql, ", FUNCTION 1 (%s, %s) %s", name, name,
					 format_procedure_qualified(hash));
	appendStringInfo(sql, ", FUNCTION 2 (%s, %s) %s(%s, pg_catalog.int8)", name, name,
					 family, name);
}

static void
create_class(const char *family, Oid type)
{
	StringInfoData items;

	initStringInfo(&items);
	append_operator(&items, type, type);
	append_functions(&items, family, type);
	run_as_owner(psprintf("CREATE OPERATOR CLASS %s FOR TYPE %s USING hash FAMILY %s AS %s",
						  family, format_type_be_qualified(type), family, items.data));
}

static void
add_other_types(const char *family, const KeyTypeFamily *types, Oid class_type)
{
	StringInfoData items;

	initStringInfo(&items);
	for (int i = 0; i < types->ntypes; i++)
	{
		for (int j = 0; j < types->ntypes; j++)
		{
			if (i != j || types->types[i] != class_type)
				append_operator(&items, types->types[i], types->types[j]);
		}
		if (types->types[i] != class_type)
			append_functions(&items, family, types->types[i]);
	}
	if (items.len > 0)
		run_as_owner(psprintf("ALTER OPERATOR FAMILY %s USING hash ADD %s", family, items.data));
}

Oid
dbscale_routing_create_opfamily(int group_id, Oid key_type)
{
	const KeyTypeFamily *types = require_types(key_type);
	char	   *family = family_name(group_id);
	Oid			type = class_type(types, key_type);

	for (int i = 0; i < types->ntypes; i++)
		create_function(family, types->types[i]);
	run_as_owner(psprintf("CREATE OPERATOR FAMILY %s USING hash", family));
	create_class(family, type);
	add_other_types(family, types, type);
	return get_opclass_oid(HASH_AM_OID, textToQualifiedNameList(cstring_to_text(family)), false);
}

/* The support functions, as "schema.name(types)"; the group may be gone from the catalog. */
static List *
list_functions(int group_id)
{
	char	   *name = psprintf("group_%d_ops", group_id);
	Oid			schema = get_namespace_oid(DBSCALE_SCHEMA, false);
	CatCList   *found = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(name));
	List	   *functions = NIL;

	for (int i = 0; i < found->n_members; i++)
	{
		Form_pg_proc form = (Form_pg_proc) GETSTRUCT(&found->members[i]->tuple);

		if (form->pronamespace == schema)
			functions = lappend(functions, format_procedure_qualified(form->oid));
	}
	ReleaseSysCacheList(found);
	return functions;
}

/* Refused by core while a table is still partitioned by the class. */
void
dbscale_routing_drop_opfamily(int group_id)
{
	List	   *functions = list_functions(group_id);
	ListCell   *lc;

	run_as_owner(psprintf("DROP OPERATOR FAMILY IF EXISTS %s USING hash", family_name(group_id)));
	foreach(lc, functions)
		run_as_owner(psprintf("DROP FUNCTION %s", (char *) lfirst(lc)));
}
