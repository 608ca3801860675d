/*
 * utility.c
 *		The ProcessUtility hook: DDL on distributed tables.
 *
 * PostgreSQL does every command on the coordinator; what it changed is then carried
 * to the nodes, in the same two-phase transaction (propagate.c compares the catalog
 * before and after).  What is dropped is carried by an event trigger (drop.c), which
 * hears of CASCADEs too.  A command that has no meaning on shards is refused before
 * anything is done.
 *
 * handlers[] says who looks at which statement; statements that are not in it, and
 * tables that are not distributed, are PostgreSQL's alone.
 */
#include "ddl/utility.h"

#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "commands/extension.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

typedef void (*UtilityHandler) (UtilityCall *call);

bool		dbscale_utility_cascade = false;
static ProcessUtility_hook_type previous_hook = NULL;

void
dbscale_utility_core(UtilityCall *call)
{
	if (previous_hook)
		previous_hook(call->pstmt, call->query, call->read_only_tree, call->context,
					  call->params, call->environment, call->dest, call->qc);
	else
		standard_ProcessUtility(call->pstmt, call->query, call->read_only_tree, call->context,
								call->params, call->environment, call->dest, call->qc);
}

Node *
dbscale_utility_own_statement(UtilityCall *call)
{
	call->pstmt = copyObject(call->pstmt);
	call->read_only_tree = false;
	return call->pstmt->utilityStmt;
}

void
dbscale_utility_refuse(Oid relid, const char *command, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s is not supported for distributed table \"%s\"", command, get_rel_name(relid)),
			 errdetail("It cannot be carried to the shards."),
			 errhint("%s", hint ? hint : "Use dbscale.undistribute_table() first if you need it.")));
}

void
dbscale_utility_require_owner(Oid relid)
{
	if (!dbscale_is_owner(relid))
		aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(get_rel_relkind(relid)),
					   get_rel_name(relid));
}

static void
refuse_shard(Oid relid, const char *command)
{
	int			shard;
	const DistributedTable *table = dbscale_catalog_owner_of(relid, &shard);

	if (table != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s is not supported for \"%s\"", command, get_rel_name(relid)),
				 errdetail("It is shard %d of distributed table \"%s\".", shard, get_rel_name(table->relid)),
				 errhint("Give the command for the distributed table.")));
}

static const DistributedTable *
target_by_oid(Oid relid, const char *command)
{
	if (!OidIsValid(relid))
		return NULL;
	refuse_shard(relid, command);
	return dbscale_catalog_table(relid);
}

const DistributedTable *
dbscale_utility_target(RangeVar *relation, const char *command)
{
	if (relation == NULL)
		return NULL;
	return target_by_oid(RangeVarGetRelid(relation, NoLock, true), command);
}

/*
 * CREATE INDEX.  The parent's index is made alone (core refuses a unique one over
 * foreign partitions) and marked valid; it enforces nothing, the shards' do.  A
 * restored dump says ON ONLY itself: then the shards have their indexes already.
 */
static void
create_index(UtilityCall *call)
{
	IndexStmt  *stmt = castNode(IndexStmt, call->pstmt->utilityStmt);
	const DistributedTable *table = dbscale_utility_target(stmt->relation, "CREATE INDEX");
	TableState *before;
	bool		only;

	if (table == NULL)
	{
		dbscale_utility_core(call);
		return;
	}
	if (stmt->concurrent)
		dbscale_utility_refuse(table->relid, "CREATE INDEX CONCURRENTLY",
							   "Use CREATE INDEX, which blocks writers while the shards build it.");
	only = !stmt->relation->inh && !table->is_reference;
	stmt = castNode(IndexStmt, dbscale_utility_own_statement(call));
	if (!table->is_reference)
		stmt->relation->inh = false;
	before = dbscale_propagate_state(table->relid);
	dbscale_utility_core(call);
	CommandCounterIncrement();
	if (!table->is_reference)
		dbscale_ddl_validate_parent_indexes(table->relid);
	if (!only)
		dbscale_propagate_changes(before);
}

static void
check_drop_tables(DropStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->objects)
	{
		RangeVar   *relation = makeRangeVarFromNameList(lfirst(lc));
		Oid			relid = RangeVarGetRelid(relation, NoLock, true);
		const DistributedTable *table;

		if (!OidIsValid(relid))
			continue;
		if (stmt->removeType != OBJECT_INDEX)
		{
			refuse_shard(relid, "DROP");
			continue;
		}
		if (get_rel_relkind(relid) != RELKIND_INDEX && get_rel_relkind(relid) != RELKIND_PARTITIONED_INDEX)
			continue;
		table = dbscale_catalog_table(IndexGetRelation(relid, true));
		if (table && stmt->concurrent)
			dbscale_utility_refuse(table->relid, "DROP INDEX CONCURRENTLY", "Use DROP INDEX.");
	}
}

static void
refuse_node_server(const char *name, const char *command)
{
	if (dbscale_catalog_node(name))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s is not supported for \"%s\"", command, name),
				 errdetail("The foreign server is a node."),
				 errhint("Use dbscale.remove_node() and dbscale.add_node().")));
}

/*
 * With CASCADE, these would drop the catalog and the foreign tables, and leave the
 * rows on the nodes where nothing finds them again.
 */
static void
refuse_drop_of_everything(DropStmt *stmt)
{
	ListCell   *lc;

	if (stmt->behavior != DROP_CASCADE ||
		dbscale_ddl_query_value("SELECT 1 FROM dbscale.distributed_table LIMIT 1") == NULL)
		return;
	foreach(lc, stmt->objects)
	{
		const char *name = strVal(lfirst(lc));

		if (strcmp(name, DBSCALE_SCHEMA) != 0 &&
			(stmt->removeType == OBJECT_SCHEMA || strcmp(name, "postgres_fdw") != 0))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop %s \"%s\" while there are distributed tables",
						stmt->removeType == OBJECT_SCHEMA ? "schema" : "extension", name),
				 errdetail("Their rows are on the nodes, and only the catalog says where."),
				 errhint("Use dbscale.undistribute_table() or DROP TABLE on each of them first.")));
	}
}

/* DROP: what it drops is carried by the event trigger. */
static void
drop_objects(UtilityCall *call)
{
	DropStmt   *stmt = castNode(DropStmt, call->pstmt->utilityStmt);
	ListCell   *lc;

	if (stmt->removeType == OBJECT_TABLE || stmt->removeType == OBJECT_FOREIGN_TABLE ||
		stmt->removeType == OBJECT_INDEX)
		check_drop_tables(stmt);
	else if (stmt->removeType == OBJECT_EXTENSION || stmt->removeType == OBJECT_SCHEMA)
		refuse_drop_of_everything(stmt);
	else if (stmt->removeType == OBJECT_FOREIGN_SERVER)
		foreach(lc, stmt->objects)
			refuse_node_server(strVal(lfirst(lc)), "DROP SERVER");
	dbscale_utility_cascade = stmt->behavior == DROP_CASCADE;
	dbscale_utility_core(call);
}

static void
drop_owned(UtilityCall *call)
{
	dbscale_utility_cascade = castNode(DropOwnedStmt, call->pstmt->utilityStmt)->behavior == DROP_CASCADE;
	dbscale_utility_core(call);
}

/* The node's database holds the shards: pointing the server elsewhere would lose them. */
static void
alter_server(UtilityCall *call)
{
	AlterForeignServerStmt *stmt = castNode(AlterForeignServerStmt, call->pstmt->utilityStmt);
	ListCell   *lc;

	foreach(lc, stmt->options)
		if (strcmp(((DefElem *) lfirst(lc))->defname, "dbname") == 0)
			refuse_node_server(stmt->servername, "ALTER SERVER OPTIONS (dbname)");
	dbscale_utility_core(call);
}

static void
refuse_foreign_keys_to(List *elements)
{
	ListCell   *lc;

	foreach(lc, elements)
	{
		Node	   *node = lfirst(lc);
		const DistributedTable *table;

		if (IsA(node, ColumnDef))
			refuse_foreign_keys_to(((ColumnDef *) node)->constraints);
		else if (IsA(node, Constraint) && ((Constraint *) node)->contype == CONSTR_FOREIGN)
		{
			table = dbscale_utility_target(((Constraint *) node)->pktable, "FOREIGN KEY");
			if (table && !table->is_reference)
				dbscale_utility_refuse(table->relid, "a foreign key from a local table",
									   "Distribute the referencing table too, colocated.");
		}
	}
}

/* CREATE TABLE with PARTITION OF, INHERITS or REFERENCES. */
static void
create_table(UtilityCall *call)
{
	CreateStmt *stmt = (CreateStmt *) call->pstmt->utilityStmt;
	ListCell   *lc;

	foreach(lc, stmt->inhRelations)
	{
		const DistributedTable *table = dbscale_utility_target(lfirst(lc), "CREATE TABLE");

		if (table)
			dbscale_utility_refuse(table->relid, stmt->partbound ? "PARTITION OF" : "INHERITS",
								   "Use dbscale.add_shard() to add a range or a list.");
	}
	refuse_foreign_keys_to(stmt->tableElts);
	refuse_foreign_keys_to(stmt->constraints);
	dbscale_utility_core(call);
}

static void
create_rule(UtilityCall *call)
{
	RuleStmt   *stmt = castNode(RuleStmt, call->pstmt->utilityStmt);
	const DistributedTable *table = dbscale_utility_target(stmt->relation, "CREATE RULE");

	if (table)
		dbscale_utility_refuse(table->relid, "CREATE RULE", NULL);
	dbscale_utility_core(call);
}

static void
cluster_table(UtilityCall *call)
{
	ClusterStmt *stmt = castNode(ClusterStmt, call->pstmt->utilityStmt);
	const DistributedTable *table = dbscale_utility_target(stmt->relation, "CLUSTER");

	if (table && !table->is_reference)
		dbscale_utility_refuse(table->relid, "CLUSTER", "Run CLUSTER with dbscale.run_on_shards().");
	dbscale_utility_core(call);
}

static void
set_schema(UtilityCall *call)
{
	AlterObjectSchemaStmt *stmt = castNode(AlterObjectSchemaStmt, call->pstmt->utilityStmt);
	const DistributedTable *table = dbscale_utility_target(stmt->relation, "SET SCHEMA");
	Oid			relid = table ? table->relid : InvalidOid;

	if (stmt->objectType == OBJECT_STATISTIC_EXT)
	{
		dbscale_utility_rename_statistics(call, castNode(List, stmt->object));
		return;
	}
	dbscale_utility_core(call);
	if (OidIsValid(relid))
		dbscale_alter_refresh_foreign_keys(relid, NULL, NULL);
}

/*
 * A trigger on a shard's foreign table would be lost with it.  Core takes transition
 * tables here, and then fails every statement that would have to fill them.
 */
static void
create_trigger(UtilityCall *call)
{
	CreateTrigStmt *stmt = castNode(CreateTrigStmt, call->pstmt->utilityStmt);
	const DistributedTable *table = dbscale_utility_target(stmt->relation, "CREATE TRIGGER");

	if (table != NULL && !table->is_reference && stmt->transitionRels != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("transition tables are not supported on distributed table \"%s\"",
						stmt->relation->relname),
				 errdetail("PostgreSQL cannot fill them from foreign partitions."),
				 errhint("Use a row trigger without transition tables.")));
	if (table && table->is_reference && stmt->replace && dbscale_ddl_is_replication_trigger(stmt->trigname))
		dbscale_utility_refuse(table->relid, "CREATE OR REPLACE TRIGGER of dbscale's triggers", NULL);
	dbscale_utility_core(call);
}

static const struct
{
	NodeTag		tag;
	UtilityHandler handler;
}			handlers[] =
{
	{T_AlterForeignServerStmt, alter_server},
	{T_AlterObjectSchemaStmt, set_schema},
	{T_AlterStatsStmt, dbscale_utility_alter_statistics},
	{T_AlterTableStmt, dbscale_utility_alter_table},
	{T_ClusterStmt, cluster_table},
	{T_CreateForeignTableStmt, create_table},
	{T_CreateStatsStmt, dbscale_utility_create_statistics},
	{T_CreateStmt, create_table},
	{T_CreateTrigStmt, create_trigger},
	{T_DropOwnedStmt, drop_owned},
	{T_DropStmt, drop_objects},
	{T_IndexStmt, create_index},
	{T_ReindexStmt, dbscale_utility_reindex},
	{T_RenameStmt, dbscale_utility_rename},
	{T_RuleStmt, create_rule},
	{T_VacuumStmt, dbscale_utility_vacuum},
};

static UtilityHandler
find_handler(Node *statement)
{
	for (int i = 0; i < lengthof(handlers); i++)
		if (handlers[i].tag == nodeTag(statement))
			return handlers[i].handler;
	return NULL;
}

static void
utility_hook(PlannedStmt *pstmt, const char *query, bool read_only_tree,
			 ProcessUtilityContext context, ParamListInfo params,
			 QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *qc)
{
	UtilityCall call = {pstmt, query, read_only_tree, context, params, environment, dest, qc};
	UtilityHandler handler = find_handler(pstmt->utilityStmt);
	bool		cascade = dbscale_utility_cascade;

	if (handler == NULL || dbscale_ddl_internal > 0 || creating_extension ||
		context == PROCESS_UTILITY_SUBCOMMAND || !IsTransactionState() ||
		dbscale_catalog_is_empty())
	{
		dbscale_utility_core(&call);
		return;
	}
	PG_TRY();
	{
		handler(&call);
	}
	PG_FINALLY();
	{
		dbscale_utility_cascade = cascade;
	}
	PG_END_TRY();
}

void
dbscale_utility_init(void)
{
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = utility_hook;
}
