/*
 * databases.c
 *		Commands that need a database without any session: DROP DATABASE, its
 *		rename or move, and CREATE DATABASE from it as template.
 *
 * The maintenance worker is a session that a user does not know of, and the server
 * would refuse the command on its account.  So the worker is stopped before and
 * comes back when the command has failed, or left the database there.
 */
#include "worker/registry.h"

#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"

static ProcessUtility_hook_type previous_hook = NULL;

static const char *
find_option(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, name) == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return NULL;
}

/* The database in which the command suffers no session, or NULL. */
static const char *
database_to_vacate(Node *command)
{
	switch (nodeTag(command))
	{
		case T_DropdbStmt:
			return ((DropdbStmt *) command)->dbname;
		case T_CreatedbStmt:
			return find_option(((CreatedbStmt *) command)->options, "template");
		case T_RenameStmt:
			if (((RenameStmt *) command)->renameType == OBJECT_DATABASE)
				return ((RenameStmt *) command)->subname;
			return NULL;
		case T_AlterDatabaseStmt:
			if (find_option(((AlterDatabaseStmt *) command)->options, "tablespace"))
				return ((AlterDatabaseStmt *) command)->dbname;
			return NULL;
		default:
			return NULL;
	}
}

/*
 * OID of the database whose worker has to go: not our own, which the server refuses
 * anyway, and only where the user may give the command.
 */
static Oid
worker_to_stop(Node *command)
{
	const char *name = database_to_vacate(command);
	Oid			database = name ? get_database_oid(name, true) : InvalidOid;

	if (!OidIsValid(database) || database == MyDatabaseId)
		return InvalidOid;
	return dbscale_owns_database(database, GetUserId()) ? database : InvalidOid;
}

static ProcessUtility_hook_type
next_hook(void)
{
	return previous_hook ? previous_hook : standard_ProcessUtility;
}

static void
process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *env, DestReceiver *dest, QueryCompletion *completion)
{
	Oid			database = worker_to_stop(pstmt->utilityStmt);

	if (!OidIsValid(database))
	{
		next_hook() (pstmt, query, read_only_tree, context, params, env, dest, completion);
		return;
	}

	PG_TRY();
	{
		dbscale_registry_hold(database);
		next_hook() (pstmt, query, read_only_tree, context, params, env, dest, completion);
	}
	PG_FINALLY();
	{
		dbscale_registry_release(database);
	}
	PG_END_TRY();
}

void
dbscale_databases_init(void)
{
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
