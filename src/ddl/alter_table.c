/*
 * alter_table.c
 *		ALTER TABLE and RENAME on distributed tables.
 *
 * forms[] says of each form of ALTER TABLE what becomes of it: LOCAL ones concern
 * the coordinator alone (it evaluates defaults, fires triggers, checks policies),
 * CARRIED ones change what shards have too, and what is not in it is refused.
 */
#include "ddl/utility.h"

#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "lib/stringinfo.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

typedef enum FormAction
{
	FORM_LOCAL,					/* nothing to do on the nodes */
	FORM_LOCAL_TRIGGER,			/* same, but reference tables need their own triggers */
	FORM_CARRIED,				/* by comparing before and after, or by the event trigger */
	FORM_ADD_COLUMN,
	FORM_DROP_COLUMN,
	FORM_ADD_CONSTRAINT,
	FORM_DROP_CONSTRAINT,
	FORM_VALIDATE_CONSTRAINT,
	FORM_OWNER,
	FORM_REFUSED
} FormAction;

typedef struct Form
{
	AlterTableType type;
	FormAction	action;
	const char *name;
} Form;

static const Form forms[] = {
	{AT_AddColumn, FORM_ADD_COLUMN, "ADD COLUMN"},
	{AT_DropColumn, FORM_DROP_COLUMN, "DROP COLUMN"},
	{AT_ColumnDefault, FORM_LOCAL, "SET DEFAULT"},
	{AT_SetNotNull, FORM_CARRIED, "SET NOT NULL"},
	{AT_DropNotNull, FORM_CARRIED, "DROP NOT NULL"},
	{AT_AddConstraint, FORM_ADD_CONSTRAINT, "ADD CONSTRAINT"},
	{AT_DropConstraint, FORM_DROP_CONSTRAINT, "DROP CONSTRAINT"},
	{AT_ValidateConstraint, FORM_VALIDATE_CONSTRAINT, "VALIDATE CONSTRAINT"},
	{AT_ChangeOwner, FORM_OWNER, "OWNER TO"},
	{AT_SetStatistics, FORM_CARRIED, "SET STATISTICS"},
	{AT_SetOptions, FORM_CARRIED, "SET"},
	{AT_ResetOptions, FORM_CARRIED, "RESET"},
	{AT_AddIdentity, FORM_LOCAL, "ADD GENERATED AS IDENTITY"},
	{AT_SetIdentity, FORM_LOCAL, "SET GENERATED"},
	{AT_DropIdentity, FORM_LOCAL, "DROP IDENTITY"},
	{AT_EnableTrig, FORM_LOCAL, "ENABLE TRIGGER"},
	{AT_EnableAlwaysTrig, FORM_LOCAL, "ENABLE ALWAYS TRIGGER"},
	{AT_EnableReplicaTrig, FORM_LOCAL_TRIGGER, "ENABLE REPLICA TRIGGER"},
	{AT_EnableTrigAll, FORM_LOCAL_TRIGGER, "ENABLE TRIGGER ALL"},
	{AT_EnableTrigUser, FORM_LOCAL_TRIGGER, "ENABLE TRIGGER USER"},
	{AT_DisableTrig, FORM_LOCAL_TRIGGER, "DISABLE TRIGGER"},
	{AT_DisableTrigAll, FORM_LOCAL_TRIGGER, "DISABLE TRIGGER ALL"},
	{AT_DisableTrigUser, FORM_LOCAL_TRIGGER, "DISABLE TRIGGER USER"},
	{AT_EnableRowSecurity, FORM_LOCAL, "ENABLE ROW LEVEL SECURITY"},
	{AT_DisableRowSecurity, FORM_LOCAL, "DISABLE ROW LEVEL SECURITY"},
	{AT_ForceRowSecurity, FORM_LOCAL, "FORCE ROW LEVEL SECURITY"},
	{AT_NoForceRowSecurity, FORM_LOCAL, "NO FORCE ROW LEVEL SECURITY"},
	{AT_AlterColumnType, FORM_REFUSED, "ALTER COLUMN TYPE"},
	{AT_AttachPartition, FORM_REFUSED, "ATTACH PARTITION"},
	{AT_DetachPartition, FORM_REFUSED, "DETACH PARTITION"},
	{AT_AddInherit, FORM_REFUSED, "INHERIT"},
	{AT_DropInherit, FORM_REFUSED, "NO INHERIT"},
	{AT_ReplicaIdentity, FORM_REFUSED, "REPLICA IDENTITY"},
	{AT_SetTableSpace, FORM_REFUSED, "SET TABLESPACE"},
	{AT_SetRelOptions, FORM_REFUSED, "SET"},
	{AT_ResetRelOptions, FORM_REFUSED, "RESET"},
	{AT_SetStorage, FORM_REFUSED, "SET STORAGE"},
	{AT_SetCompression, FORM_REFUSED, "SET COMPRESSION"},
	{AT_DropExpression, FORM_REFUSED, "DROP EXPRESSION"},
	{AT_AlterConstraint, FORM_REFUSED, "ALTER CONSTRAINT"},
	{AT_AddIndexConstraint, FORM_REFUSED, "ADD CONSTRAINT USING INDEX"},
	{AT_ClusterOn, FORM_REFUSED, "CLUSTER ON"},
	{AT_SetLogged, FORM_REFUSED, "SET LOGGED"},
	{AT_SetUnLogged, FORM_REFUSED, "SET UNLOGGED"},
	{AT_EnableRule, FORM_REFUSED, "ENABLE RULE"},
	{AT_DisableRule, FORM_REFUSED, "DISABLE RULE"},
};

/* What the statement as a whole needs. */
typedef struct AlterPlan
{
	const DistributedTable *table;
	Oid			relid;
	AlterTableStmt *stmt;
	List	   *add_foreign_keys;	/* of Constraint * */
	List	   *drop_foreign_keys;	/* of char * */
	List	   *validate_foreign_keys;	/* of char * */
	bool		adds_unique;
	Constraint *primary_key;
	bool		changes_owner;
} AlterPlan;

static const Form *
find_form(AlterTableType type)
{
	static const Form unknown = {AT_AddOf, FORM_REFUSED, "in this form"};

	for (int i = 0; i < lengthof(forms); i++)
		if (forms[i].type == type)
			return &forms[i];
	return &unknown;
}

static bool
is_key(const DistributedTable *table, const char *column)
{
	return !table->is_reference && table->key_attno != 0 &&
		strcmp(get_attname(table->relid, table->key_attno, false), column) == 0;
}

static void
check_new_column(const DistributedTable *table, ColumnDef *column)
{
	ListCell   *lc;

	foreach(lc, column->constraints)
	{
		ConstrType	type = ((Constraint *) lfirst(lc))->contype;

		if (type == CONSTR_FOREIGN || type == CONSTR_PRIMARY || type == CONSTR_UNIQUE)
			dbscale_utility_refuse(table->relid, "ALTER TABLE ADD COLUMN with a key",
								   "Add the column first, and the constraint in a command of its own.");
	}
}

static void
check_drop_column(AlterPlan *plan, AlterTableCmd *cmd)
{
	if (is_key(plan->table, cmd->name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("column \"%s\" cannot be dropped from distributed table \"%s\"",
						cmd->name, get_rel_name(plan->relid)),
				 errdetail("It is the shard key."),
				 errhint("Use dbscale.undistribute_table() first.")));
	if (cmd->behavior == DROP_CASCADE)
		dbscale_utility_cascade = true;
}

/* Returns false when the form is dbscale's alone, and core must not see it. */
static bool
plan_add_constraint(AlterPlan *plan, AlterTableCmd *cmd)
{
	Constraint *constraint = castNode(Constraint, cmd->def);

	switch (constraint->contype)
	{
		case CONSTR_FOREIGN:
			if (plan->table->is_reference)
				return true;	/* enforced here, before the copies get the row */
			plan->add_foreign_keys = lappend(plan->add_foreign_keys, constraint);
			return false;
		case CONSTR_PRIMARY:
		case CONSTR_UNIQUE:
			if (constraint->indexname)
				dbscale_utility_refuse(plan->relid, "ALTER TABLE ADD CONSTRAINT USING INDEX",
									   "Add the constraint without USING INDEX.");
			plan->adds_unique = true;
			if (constraint->contype == CONSTR_PRIMARY)
				plan->primary_key = constraint;
			return true;
		case CONSTR_EXCLUSION:
			if (!plan->table->is_reference)
				dbscale_utility_refuse(plan->relid, "ALTER TABLE ADD EXCLUDE", NULL);
			return true;
		default:
			return true;
	}
}

static bool
plan_drop_constraint(AlterPlan *plan, AlterTableCmd *cmd)
{
	if (cmd->behavior == DROP_CASCADE)
		dbscale_utility_cascade = true;
	if (!dbscale_alter_has_foreign_key(plan->relid, cmd->name))
		return true;
	plan->drop_foreign_keys = lappend(plan->drop_foreign_keys, cmd->name);
	return false;
}

static bool
plan_validate(AlterPlan *plan, AlterTableCmd *cmd)
{
	if (!dbscale_alter_has_foreign_key(plan->relid, cmd->name))
		return true;
	plan->validate_foreign_keys = lappend(plan->validate_foreign_keys, cmd->name);
	return false;
}

/* Returns false when core must not see the form. */
static bool
plan_form(AlterPlan *plan, AlterTableCmd *cmd)
{
	const Form *form = find_form(cmd->subtype);

	switch (form->action)
	{
		case FORM_REFUSED:
			dbscale_utility_refuse(plan->relid, psprintf("ALTER TABLE %s", form->name), NULL);
		case FORM_LOCAL_TRIGGER:
			if (plan->table->is_reference)
				dbscale_utility_refuse(plan->relid, psprintf("ALTER TABLE %s", form->name),
									   "The triggers that write to the copies must stay enabled.");
			return true;
		case FORM_ADD_COLUMN:
			check_new_column(plan->table, castNode(ColumnDef, cmd->def));
			return true;
		case FORM_DROP_COLUMN:
			check_drop_column(plan, cmd);
			return true;
		case FORM_ADD_CONSTRAINT:
			return plan_add_constraint(plan, cmd);
		case FORM_DROP_CONSTRAINT:
			return plan_drop_constraint(plan, cmd);
		case FORM_VALIDATE_CONSTRAINT:
			return plan_validate(plan, cmd);
		case FORM_OWNER:
			plan->changes_owner = true;
			return true;
		default:
			return true;
	}
}

static void
plan_forms(AlterPlan *plan)
{
	List	   *kept = NIL;
	ListCell   *lc;

	foreach(lc, plan->stmt->cmds)
		if (plan_form(plan, lfirst(lc)))
			kept = lappend(kept, lfirst(lc));
	if (plan->adds_unique && list_length(plan->stmt->cmds) > 1 && !plan->table->is_reference)
		dbscale_utility_refuse(plan->relid, "ALTER TABLE ADD PRIMARY KEY or UNIQUE together with other forms",
							   "Give each in a command of its own.");
	plan->stmt->cmds = kept;
}

/*
 * A key is added to the parent alone, because core refuses a unique index over
 * foreign partitions; for a primary key the columns must be NOT NULL before.
 */
static void
prepare_unique(AlterPlan *plan)
{
	ListCell   *lc;

	if (plan->primary_key)
		foreach(lc, plan->primary_key->keys)
			dbscale_ddl_execute(psprintf("ALTER TABLE %s ALTER COLUMN %s SET NOT NULL",
										 quote_qualified_identifier(get_namespace_name(get_rel_namespace(plan->relid)),
																	get_rel_name(plan->relid)),
										 quote_identifier(strVal(lfirst(lc)))));
	plan->stmt->relation->inh = false;
}

/* The shards' foreign tables belong to the table's owner. */
static void
change_owner_of_shards(const DistributedTable *table)
{
	char	   *owner = dbscale_ddl_query_value(psprintf("SELECT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(relowner)) FROM pg_catalog.pg_class WHERE oid = %u",
														 table->relid));

	if (table->is_reference)
		return;
	for (int i = 0; i < table->group->nshards; i++)
		if (OidIsValid(table->foreign_tables[i]))
			dbscale_ddl_execute_as_owner(psprintf("ALTER FOREIGN TABLE %s OWNER TO %s",
												  quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA,
																			 get_rel_name(table->foreign_tables[i])),
												  owner));
}

static void
alter_distributed(UtilityCall *call, const DistributedTable *table)
{
	AlterPlan	plan = {.table = table,.relid = table->relid};
	TableState *before;
	ListCell   *lc;
	bool		only;

	plan.stmt = castNode(AlterTableStmt, dbscale_utility_own_statement(call));
	only = !plan.stmt->relation->inh;
	plan_forms(&plan);
	if (plan.add_foreign_keys || plan.drop_foreign_keys || plan.validate_foreign_keys || plan.adds_unique)
		dbscale_utility_require_owner(plan.relid);

	/* taken before our own lock, which core would take next: the parent comes first */
	LockRelationOid(plan.relid, AccessShareLock);
	before = dbscale_propagate_state(plan.relid);
	foreach(lc, plan.drop_foreign_keys)
		dbscale_alter_drop_foreign_key(table, lfirst(lc));
	foreach(lc, plan.validate_foreign_keys)
		dbscale_alter_validate_foreign_key(table, lfirst(lc));
	if (plan.adds_unique && !table->is_reference && !only)
		prepare_unique(&plan);
	if (plan.stmt->cmds != NIL)
		dbscale_utility_core(call);
	CommandCounterIncrement();
	if (plan.adds_unique && !table->is_reference)
		dbscale_ddl_validate_parent_indexes(plan.relid);
	if (!(only && plan.adds_unique))
		dbscale_propagate_changes(before);
	if (plan.changes_owner)
		change_owner_of_shards(dbscale_catalog_require_table(plan.relid));
	foreach(lc, plan.add_foreign_keys)
		dbscale_alter_add_foreign_key(dbscale_catalog_require_table(plan.relid), lfirst(lc));
}

/* ALTER INDEX on an index of a distributed table: only what concerns statistics. */
static void
check_alter_index(AlterTableStmt *stmt)
{
	Oid			relid = RangeVarGetRelid(stmt->relation, NoLock, true);
	char		kind = OidIsValid(relid) ? get_rel_relkind(relid) : 0;
	const DistributedTable *table;
	ListCell   *lc;

	if (kind != RELKIND_INDEX && kind != RELKIND_PARTITIONED_INDEX)
		return;
	table = dbscale_catalog_table(IndexGetRelation(relid, false));
	if (table == NULL || table->is_reference)
		return;
	foreach(lc, stmt->cmds)
		if (((AlterTableCmd *) lfirst(lc))->subtype != AT_SetStatistics)
			dbscale_utility_refuse(table->relid, "ALTER INDEX", NULL);
}

/* The distributed table that a foreign key of another table would reference, or NULL. */
static const DistributedTable *
referenced_by(Node *node)
{
	Constraint *constraint = castNode(Constraint, node);
	const DistributedTable *table;

	if (constraint->contype != CONSTR_FOREIGN)
		return NULL;
	table = dbscale_utility_target(constraint->pktable, "FOREIGN KEY");
	return table && !table->is_reference ? table : NULL;
}

static const DistributedTable *
referenced_by_column(ColumnDef *column)
{
	ListCell   *lc;

	foreach(lc, column->constraints)
	{
		const DistributedTable *table = referenced_by(lfirst(lc));

		if (table != NULL)
			return table;
	}
	return NULL;
}

/* Partitions, parents and foreign keys named by the ALTER TABLE of another table. */
static void
check_alter_other(AlterTableStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst(lc);
		const DistributedTable *table = NULL;

		if (cmd->def == NULL)
			continue;
		if (cmd->subtype == AT_AddInherit)
			table = dbscale_utility_target(castNode(RangeVar, cmd->def), "INHERIT");
		else if (cmd->subtype == AT_AttachPartition)
			table = dbscale_utility_target(castNode(PartitionCmd, cmd->def)->name, "ATTACH PARTITION");
		else if (cmd->subtype == AT_AddConstraint)
			table = referenced_by(cmd->def);
		else if (cmd->subtype == AT_AddColumn)
			table = referenced_by_column(castNode(ColumnDef, cmd->def));
		if (table)
			dbscale_utility_refuse(table->relid,
								   psprintf("%s from or to a local table",
											cmd->subtype == AT_AddConstraint || cmd->subtype == AT_AddColumn ?
											"a foreign key" : find_form(cmd->subtype)->name),
								   "Distribute the other table too, colocated.");
	}
}

void
dbscale_utility_alter_table(UtilityCall *call)
{
	AlterTableStmt *stmt = castNode(AlterTableStmt, call->pstmt->utilityStmt);
	const DistributedTable *table;

	if (stmt->objtype == OBJECT_INDEX)
		check_alter_index(stmt);
	table = dbscale_utility_target(stmt->relation, "ALTER TABLE");
	if (table)
	{
		alter_distributed(call, table);
		return;
	}
	check_alter_other(stmt);
	dbscale_utility_core(call);
}

/* dbscale.index_name follows the coordinator's name; the shards' names stay. */
static void
rename_index_entry(Oid relid, const char *from, const char *to)
{
	dbscale_ddl_execute_as_owner(psprintf("UPDATE dbscale.index_name SET index_name = %s WHERE relation = %u AND index_name = %s",
										  quote_literal_cstr(to), relid, quote_literal_cstr(from)));
}

static void
rename_index(UtilityCall *call, RenameStmt *stmt)
{
	Oid			relid = RangeVarGetRelid(stmt->relation, NoLock, true);
	char		kind = OidIsValid(relid) ? get_rel_relkind(relid) : 0;
	const DistributedTable *table = NULL;
	char	   *from = NULL;

	if (kind == RELKIND_INDEX || kind == RELKIND_PARTITIONED_INDEX)
	{
		table = dbscale_catalog_table(IndexGetRelation(relid, false));
		from = get_rel_name(relid);
	}
	relid = table ? table->relid : InvalidOid;
	dbscale_utility_core(call);
	if (OidIsValid(relid))
		rename_index_entry(relid, from, stmt->newname);
}

static void
rename_constraint(UtilityCall *call, RenameStmt *stmt, const DistributedTable *table)
{
	Oid			relid = table->relid;
	TableState *before;

	if (dbscale_alter_has_foreign_key(relid, stmt->subname))
	{
		dbscale_utility_require_owner(relid);
		dbscale_alter_rename_foreign_key(table, stmt->subname, stmt->newname);
		return;
	}
	before = dbscale_propagate_state(relid);
	dbscale_utility_core(call);
	rename_index_entry(relid, stmt->subname, stmt->newname);
	dbscale_propagate_changes(before);
}

static void
rename_distributed(UtilityCall *call, RenameStmt *stmt, const DistributedTable *table)
{
	Oid			relid = table->relid;
	TableState *before;

	if (stmt->renameType == OBJECT_TABCONSTRAINT)
	{
		rename_constraint(call, stmt, table);
		return;
	}
	if (stmt->renameType == OBJECT_TRIGGER && table->is_reference &&
		dbscale_ddl_is_replication_trigger(stmt->subname))
		dbscale_utility_refuse(relid, "ALTER TRIGGER RENAME of dbscale's triggers", NULL);
	before = dbscale_propagate_state(relid);
	dbscale_utility_core(call);
	if (stmt->renameType == OBJECT_COLUMN)
	{
		dbscale_propagate_changes(before);
		dbscale_alter_refresh_foreign_keys(relid, stmt->subname, stmt->newname);
	}
	else if (stmt->renameType == OBJECT_TABLE)
		dbscale_alter_refresh_foreign_keys(relid, NULL, NULL);
}

void
dbscale_utility_rename(UtilityCall *call)
{
	RenameStmt *stmt = castNode(RenameStmt, call->pstmt->utilityStmt);
	const DistributedTable *table = NULL;
	Oid			relid;

	if (stmt->renameType == OBJECT_FOREIGN_SERVER && dbscale_catalog_node(strVal(stmt->object)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("ALTER SERVER RENAME is not supported for \"%s\"", strVal(stmt->object)),
				 errdetail("The foreign server is a node.")));
	if (stmt->renameType == OBJECT_SCHEMA && strcmp(stmt->subname, DBSCALE_SHARDS_SCHEMA) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("schema \"%s\" cannot be renamed", DBSCALE_SHARDS_SCHEMA),
				 errdetail("It holds the shards, under the same name as on the nodes.")));
	if (stmt->renameType == OBJECT_STATISTIC_EXT)
	{
		dbscale_utility_rename_statistics(call, castNode(List, stmt->object));
		return;
	}
	relid = stmt->relation ? RangeVarGetRelid(stmt->relation, NoLock, true) : InvalidOid;
	if (OidIsValid(relid) &&
		(get_rel_relkind(relid) == RELKIND_INDEX || get_rel_relkind(relid) == RELKIND_PARTITIONED_INDEX))
	{
		rename_index(call, stmt);
		return;
	}
	if (OidIsValid(relid))
		table = dbscale_utility_target(stmt->relation, "RENAME");
	if (table)
		rename_distributed(call, stmt, table);
	else
		dbscale_utility_core(call);
	if (stmt->renameType == OBJECT_SCHEMA)
	{
		dbscale_alter_refresh_foreign_keys(InvalidOid, NULL, NULL);
		dbscale_statistics_schema_renamed(stmt->subname, stmt->newname);
	}
}
