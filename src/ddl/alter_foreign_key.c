/*
 * alter_foreign_key.c
 *		ALTER TABLE ... ADD, DROP and RENAME of a foreign key on a distributed table.
 *
 * PostgreSQL never sees these commands: it refuses foreign keys on a parent with
 * foreign partitions.  The key is checked here as core would, and as the shards need
 * it (to a reference table, or to a colocated table with the shard keys against each
 * other); it is written to dbscale.foreign_key and made on every shard, where the
 * rows that are there are validated.
 */
#include "ddl/utility.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_constraint.h"
#include "commands/defrem.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "parser/parser.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"

static void
append_columns(StringInfo text, List *names)
{
	ListCell   *lc;

	foreach(lc, names)
		appendStringInfo(text, "%s%s", lc == list_head(names) ? "" : ", ",
						 quote_identifier(strVal(lfirst(lc))));
}

static const char *
action_name(char action)
{
	switch (action)
	{
		case FKCONSTR_ACTION_RESTRICT:
			return "RESTRICT";
		case FKCONSTR_ACTION_CASCADE:
			return "CASCADE";
		case FKCONSTR_ACTION_SETNULL:
			return "SET NULL";
		case FKCONSTR_ACTION_SETDEFAULT:
			return "SET DEFAULT";
		default:
			return "NO ACTION";
	}
}

/* As pg_get_constraintdef would print it. */
static char *
definition_of(Constraint *c, Oid referenced)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, "FOREIGN KEY (");
	append_columns(&text, c->fk_attrs);
	appendStringInfo(&text, ") REFERENCES %s(",
					 quote_qualified_identifier(get_namespace_name(get_rel_namespace(referenced)),
												get_rel_name(referenced)));
	append_columns(&text, c->pk_attrs);
	appendStringInfoChar(&text, ')');
	if (c->fk_matchtype == FKCONSTR_MATCH_FULL)
		appendStringInfoString(&text, " MATCH FULL");
	if (c->fk_upd_action && c->fk_upd_action != FKCONSTR_ACTION_NOACTION)
		appendStringInfo(&text, " ON UPDATE %s", action_name(c->fk_upd_action));
	if (c->fk_del_action && c->fk_del_action != FKCONSTR_ACTION_NOACTION)
	{
		appendStringInfo(&text, " ON DELETE %s", action_name(c->fk_del_action));
		if (c->fk_del_set_cols)
		{
			appendStringInfoString(&text, " (");
			append_columns(&text, c->fk_del_set_cols);
			appendStringInfoChar(&text, ')');
		}
	}
	if (c->deferrable)
		appendStringInfoString(&text, " DEFERRABLE");
	if (c->initdeferred)
		appendStringInfoString(&text, " INITIALLY DEFERRED");
	if (c->skip_validation)
		appendStringInfoString(&text, " NOT VALID");
	return text.data;
}

/* The constraint that a definition in dbscale.foreign_key describes. */
static Constraint *
parse_definition(const char *definition)
{
	List	   *parsed = raw_parser(psprintf("ALTER TABLE t ADD %s", definition), RAW_PARSE_DEFAULT);
	AlterTableStmt *stmt = castNode(AlterTableStmt, linitial_node(RawStmt, parsed)->stmt);

	return castNode(Constraint, linitial_node(AlterTableCmd, stmt->cmds)->def);
}

/* Names of the primary key's columns. */
static List *
primary_key_columns(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	Oid			index;
	Relation	index_rel;
	List	   *names = NIL;

	RelationGetIndexList(rel);
	index = rel->rd_pkindex;
	if (!OidIsValid(index))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no primary key for referenced table \"%s\"", get_rel_name(relid))));
	index_rel = index_open(index, AccessShareLock);
	for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(index_rel); i++)
		names = lappend(names, makeString(get_attname(relid, index_rel->rd_index->indkey.values[i], false)));
	index_close(index_rel, NoLock);
	table_close(rel, NoLock);
	return names;
}

static void
check_columns_exist(Oid relid, List *names)
{
	ListCell   *lc;

	foreach(lc, names)
		if (get_attnum(relid, strVal(lfirst(lc))) <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of \"%s\" does not exist", strVal(lfirst(lc)), get_rel_name(relid))));
}

static int
position_of(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(strVal(lfirst(lc)), name) == 0)
			return foreach_current_index(lc);
	return -1;
}

static void
refuse(const DistributedTable *table, Oid referenced, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("distributed table \"%s\" cannot have this foreign key to \"%s\"",
					get_rel_name(table->relid), get_rel_name(referenced)),
			 errdetail("%s", detail), errhint("%s", hint)));
}

/* The shard must see the referenced row. */
static void
check_target(const DistributedTable *table, Constraint *c, Oid referenced)
{
	const DistributedTable *target = dbscale_catalog_table(referenced);
	char	   *key = get_attname(table->relid, table->key_attno, false);
	int			position;

	if (target == NULL)
		refuse(table, referenced, "The referenced table is local, and the shards cannot see it.",
			   "Make it a reference table with dbscale.distribute_reference(), or distribute it on the key.");
	if (target->is_reference)
		return;
	if (target->group->id != table->group->id)
		refuse(table, referenced, "The tables are not colocated: the referenced row may be on another node.",
			   "Distribute one with colocate_with the other.");
	position = position_of(c->fk_attrs, key);
	if (position < 0 ||
		strcmp(strVal(list_nth(c->pk_attrs, position)),
			   get_attname(referenced, target->key_attno, false)) != 0)
		refuse(table, referenced, "It does not hold the shard keys of both tables against each other.",
			   "Add the shard key to both sides of the constraint.");
}

/* A shard has no defaults, and may not change a row's key. */
static void
check_actions(const DistributedTable *table, Constraint *c, Oid referenced)
{
	char	   *key = get_attname(table->relid, table->key_attno, false);
	bool		has_key = position_of(c->fk_attrs, key) >= 0;
	bool		delete_sets_key = c->fk_del_set_cols ? position_of(c->fk_del_set_cols, key) >= 0 : has_key;

	if (c->fk_del_action == FKCONSTR_ACTION_SETDEFAULT ||
		c->fk_upd_action == FKCONSTR_ACTION_SETDEFAULT ||
		(c->fk_del_action == FKCONSTR_ACTION_SETNULL && delete_sets_key) ||
		(has_key && (c->fk_upd_action == FKCONSTR_ACTION_SETNULL ||
					 c->fk_upd_action == FKCONSTR_ACTION_CASCADE)))
		refuse(table, referenced, "Its action would need a column default, or change the shard key of a row.",
			   "Use another ON DELETE or ON UPDATE action.");
}

static Oid
check_foreign_key(const DistributedTable *table, Constraint *c)
{
	Oid			referenced = RangeVarGetRelid(c->pktable, RowExclusiveLock, false);

	if (c->pk_attrs == NIL)
		c->pk_attrs = primary_key_columns(referenced);
	check_columns_exist(table->relid, c->fk_attrs);
	check_columns_exist(referenced, c->pk_attrs);
	if (list_length(c->fk_attrs) != list_length(c->pk_attrs))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FOREIGN_KEY),
				 errmsg("number of referencing and referenced columns for foreign key disagree")));
	if (pg_class_aclcheck(referenced, GetUserId(), ACL_REFERENCES) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(referenced));
	check_target(table, c, referenced);
	check_actions(table, c, referenced);
	return referenced;
}

static char *
new_name(const DistributedTable *table, Constraint *c)
{
	char	   *base = strVal(linitial(c->fk_attrs));

	for (int i = 0;; i++)
	{
		char	   *label = i == 0 ? "fkey" : psprintf("fkey%d", i);
		char	   *name = makeObjectName(get_rel_name(table->relid), base, label);

		if (!dbscale_alter_has_foreign_key(table->relid, name) &&
			!ConstraintNameIsUsed(CONSTRAINT_RELATION, table->relid, name))
			return name;
	}
}

/* The one of the table's foreign keys that has just been written to the catalog. */
static char *
foreign_key_command(const DistributedTable *table, int shard, void *arg)
{
	char	   *prefix = psprintf("ALTER TABLE %s ADD CONSTRAINT %s FOREIGN KEY",
								  dbscale_ddl_shard_table_name(table, shard),
								  quote_identifier((char *) arg));
	ListCell   *lc;

	foreach(lc, dbscale_ddl_shard_foreign_keys_sql(table, shard))
		if (strncmp(lfirst(lc), prefix, strlen(prefix)) == 0)
			return lfirst(lc);
	elog(ERROR, "foreign key \"%s\" is not in the catalog", (char *) arg);
}

void
dbscale_alter_add_foreign_key(const DistributedTable *table, Constraint *constraint)
{
	Oid			referenced;
	char	   *name;

	LockRelationOid(table->relid, ShareRowExclusiveLock);
	referenced = check_foreign_key(table, constraint);
	name = constraint->conname ? constraint->conname : new_name(table, constraint);
	if (dbscale_alter_has_foreign_key(table->relid, name) ||
		ConstraintNameIsUsed(CONSTRAINT_RELATION, table->relid, name))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("constraint \"%s\" for relation \"%s\" already exists", name, get_rel_name(table->relid))));
	dbscale_ddl_execute_as_owner(psprintf("INSERT INTO dbscale.foreign_key (relation, name, referenced, definition) VALUES (%u, %s, %u, %s)",
										  table->relid, quote_literal_cstr(name), referenced,
										  quote_literal_cstr(definition_of(constraint, referenced))));
	CommandCounterIncrement();
	dbscale_ddl_run_for_shards(table, foreign_key_command, name);
}

bool
dbscale_alter_has_foreign_key(Oid relid, const char *name)
{
	return dbscale_ddl_query_value(psprintf("SELECT 1 FROM dbscale.foreign_key WHERE relation = %u AND name = %s",
											relid, quote_literal_cstr(name))) != NULL;
}

void
dbscale_alter_drop_foreign_key(const DistributedTable *table, const char *name)
{
	LockRelationOid(table->relid, AccessExclusiveLock);
	dbscale_ddl_execute_as_owner(psprintf("DELETE FROM dbscale.foreign_key WHERE relation = %u AND name = %s",
										  table->relid, quote_literal_cstr(name)));
	dbscale_ddl_run_on_shards(table, psprintf("ALTER TABLE %%s DROP CONSTRAINT %s",
											  dbscale_ddl_escape_percent(quote_identifier(name))));
}

void
dbscale_alter_validate_foreign_key(const DistributedTable *table, const char *name)
{
	LockRelationOid(table->relid, ShareUpdateExclusiveLock);
	dbscale_ddl_run_on_shards(table, psprintf("ALTER TABLE %%s VALIDATE CONSTRAINT %s",
											  dbscale_ddl_escape_percent(quote_identifier(name))));
	dbscale_ddl_execute_as_owner(psprintf("UPDATE dbscale.foreign_key SET definition = regexp_replace(definition, ' NOT VALID$', '')"
										  " WHERE relation = %u AND name = %s", table->relid, quote_literal_cstr(name)));
}

void
dbscale_alter_rename_foreign_key(const DistributedTable *table, const char *from, const char *to)
{
	LockRelationOid(table->relid, AccessExclusiveLock);
	dbscale_ddl_execute_as_owner(psprintf("UPDATE dbscale.foreign_key SET name = %s WHERE relation = %u AND name = %s",
										  quote_literal_cstr(to), table->relid, quote_literal_cstr(from)));
	dbscale_ddl_run_on_shards(table, psprintf("ALTER TABLE %%s RENAME CONSTRAINT %s TO %s",
											  dbscale_ddl_escape_percent(quote_identifier(from)),
											  dbscale_ddl_escape_percent(quote_identifier(to))));
}

/* One row of dbscale.foreign_key, by its position among those that touch a table. */
typedef struct ForeignKeyRow
{
	Oid			relid;
	Oid			referenced;
	char	   *name;
	char	   *definition;
} ForeignKeyRow;

static bool
read_row(Oid relid, int position, ForeignKeyRow *row)
{
	char	   *filter = OidIsValid(relid) ? psprintf("WHERE relation = %u OR referenced = %u", relid, relid) : "";
	char	   *from = psprintf("FROM dbscale.foreign_key %s ORDER BY relation, name OFFSET %d LIMIT 1", filter, position);

	row->name = dbscale_ddl_query_value(psprintf("SELECT name %s", from));
	if (row->name == NULL)
		return false;
	row->relid = atooid(dbscale_ddl_query_value(psprintf("SELECT relation::oid %s", from)));
	row->referenced = atooid(dbscale_ddl_query_value(psprintf("SELECT referenced::oid %s", from)));
	row->definition = dbscale_ddl_query_value(psprintf("SELECT definition %s", from));
	return true;
}

static void
rename_in_list(List *names, const char *from, const char *to)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(strVal(lfirst(lc)), from) == 0)
			lfirst(lc) = makeString(pstrdup(to));
}

void
dbscale_alter_refresh_foreign_keys(Oid relid, const char *from, const char *to)
{
	ForeignKeyRow row;

	CommandCounterIncrement();
	for (int i = 0; read_row(relid, i, &row); i++)
	{
		Constraint *c = parse_definition(row.definition);

		if (from && row.relid == relid)
		{
			rename_in_list(c->fk_attrs, from, to);
			rename_in_list(c->fk_del_set_cols, from, to);
		}
		if (from && row.referenced == relid)
			rename_in_list(c->pk_attrs, from, to);
		dbscale_ddl_execute_as_owner(psprintf("UPDATE dbscale.foreign_key SET definition = %s WHERE relation = %u AND name = %s",
											  quote_literal_cstr(definition_of(c, row.referenced)),
											  row.relid, quote_literal_cstr(row.name)));
	}
}

void
dbscale_alter_forget_column(Oid relid, const char *column, bool cascade)
{
	ForeignKeyRow row;
	int			position = 0;

	while (read_row(relid, position, &row))
	{
		Constraint *c = parse_definition(row.definition);
		bool		mine = row.relid == relid && position_of(c->fk_attrs, column) >= 0;
		bool		theirs = row.referenced == relid && position_of(c->pk_attrs, column) >= 0;

		if (!mine && !theirs)
		{
			position++;
			continue;
		}
		if (theirs && !mine && !cascade)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("column \"%s\" of \"%s\" is referenced by a foreign key", column, get_rel_name(relid)),
					 errdetail("It is constraint \"%s\" of table \"%s\".", row.name, get_rel_name(row.relid)),
					 errhint("Use DROP ... CASCADE to drop the constraint too.")));
		dbscale_ddl_execute_as_owner(psprintf("DELETE FROM dbscale.foreign_key WHERE relation = %u AND name = %s",
											  row.relid, quote_literal_cstr(row.name)));
		CommandCounterIncrement();
	}
}

static bool
is_unique_on(Oid index, Oid relid, List *columns)
{
	Relation	rel = index_open(index, AccessShareLock);
	Form_pg_index form = rel->rd_index;
	bool		same = form->indisunique && form->indnkeyatts == list_length(columns);

	for (int i = 0; same && i < form->indnkeyatts; i++)
		same = form->indkey.values[i] > 0 &&
			position_of(columns, get_attname(relid, form->indkey.values[i], false)) >= 0;
	index_close(rel, AccessShareLock);
	return same;
}

static bool
has_unique_index_on(Oid relid, List *columns)
{
	Relation	rel = table_open(relid, AccessShareLock);
	List	   *indexes = RelationGetIndexList(rel);
	bool		found = false;
	ListCell   *lc;

	foreach(lc, indexes)
		found = found || is_unique_on(lfirst_oid(lc), relid, columns);
	table_close(rel, NoLock);
	return found;
}

void
dbscale_alter_drop_unbacked_foreign_keys(Oid relid)
{
	ForeignKeyRow row;
	int			position = 0;

	while (read_row(relid, position, &row))
	{
		if (row.referenced != relid ||
			has_unique_index_on(relid, parse_definition(row.definition)->pk_attrs))
		{
			position++;
			continue;
		}
		dbscale_alter_drop_foreign_key(dbscale_catalog_require_table(row.relid), row.name);
		CommandCounterIncrement();
	}
}
