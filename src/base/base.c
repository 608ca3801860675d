/*
 * base.c
 *		Preload check, the extension's own objects, and the tests' debug points.
 */
#include "base/base.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

bool		dbscale_was_preloaded = false;

DBSCALE_FUNCTION(dbscale_check_preload);

void
dbscale_require_preload(void)
{
	if (!dbscale_was_preloaded)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("dbscale must be loaded when the server starts"),
				 errdetail("The library is not in shared_preload_libraries."),
				 errhint("Add the line shared_preload_libraries = 'dbscale' to postgresql.conf and restart the server.")));
}

/* First statement of the install script. */
Datum
dbscale_check_preload(PG_FUNCTION_ARGS)
{
	dbscale_require_preload();
	PG_RETURN_VOID();
}

bool
dbscale_extension_exists(void)
{
	return OidIsValid(get_extension_oid("dbscale", true));
}

int
dbscale_execute_latest(const char *sql)
{
	if (!IsolationUsesXactSnapshot())
		return SPI_execute(sql, false, 0);
	return SPI_execute_snapshot(SPI_prepare(sql, 0, NULL), NULL, NULL, GetLatestSnapshot(), InvalidSnapshot, false, true, 0);
}

Oid
dbscale_extension_owner(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			owner = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum("dbscale"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"dbscale\" does not exist in this database"),
				 errhint("Run CREATE EXTENSION dbscale CASCADE.")));
	return owner;
}

Oid
dbscale_relation_oid(const char *name)
{
	Oid			schema = get_namespace_oid(DBSCALE_SCHEMA, false);
	Oid			relid = get_relname_relid(name, schema);

	if (!OidIsValid(relid))
		elog(ERROR, "relation \"%s.%s\" does not exist", DBSCALE_SCHEMA, name);
	return relid;
}

#ifdef DBSCALE_DEBUG_POINTS

/* Wait until a test removes the file; made here, so that the test knows we arrived. */
static void
wait_for_removal(const char *point)
{
	char		path[MAXPGPATH];
	struct stat st;
	FILE	   *file;

	snprintf(path, sizeof(path), "dbscale_debug_%s", point);
	file = AllocateFile(path, "w");
	if (file == NULL)
		elog(ERROR, "could not create \"%s\": %m", path);
	FreeFile(file);
	while (stat(path, &st) == 0)
		pg_usleep(10000L);
}

void
dbscale_debug_point(const char *name)
{
	const char *setting = dbscale_debug_point_setting;
	size_t		length = strlen(name);

	if (setting == NULL || strncmp(setting, name, length) != 0 || setting[length] != '=')
		return;
	if (strcmp(setting + length + 1, "kill") == 0)
		kill(MyProcPid, SIGKILL);
	else if (strcmp(setting + length + 1, "wait") == 0)
		wait_for_removal(name);
	else
		elog(ERROR, "debug point \"%s\"", name);
}
#endif
