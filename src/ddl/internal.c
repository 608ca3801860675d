/*
 * internal.c
 *		Commands that dbscale gives itself on the coordinator.
 *
 * They run through SPI, with search_path = pg_catalog, pg_temp (so everything in
 * them is qualified), and the utility hook lets them pass: it carries and refuses
 * what users say, not what dbscale does on their behalf.  Some of them touch the
 * catalog's tables or create what needs a superuser; these run as the extension's
 * owner, with the user id restored by transaction abort should they fail.
 */
#include "ddl/ddl.h"

#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"

int			dbscale_ddl_internal = 0;

int
dbscale_ddl_set_safe_path(void)
{
	int			level = NewGUCNestLevel();

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return level;
}

/*
 * The first column of the first row as text in the caller's memory context, or
 * NULL.  `rows` (may be NULL) gets the number of rows processed.
 */
static char *
run_sql(const char *sql, uint64 *rows)
{
	MemoryContext caller = CurrentMemoryContext;
	char	   *value;
	int			level;

	SPI_connect();
	level = dbscale_ddl_set_safe_path();
	dbscale_ddl_internal++;
	PG_TRY();
	{
		if (dbscale_execute_latest(sql) < 0)
			elog(ERROR, "could not run an internal command");
	}
	PG_FINALLY();
	{
		dbscale_ddl_internal--;
	}
	PG_END_TRY();
	AtEOXact_GUC(true, level);
	value = NULL;
	if (rows)
		*rows = SPI_processed;
	if (SPI_tuptable != NULL && SPI_processed > 0 && SPI_tuptable->tupdesc->natts > 0)
	{
		value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
		if (value)
			value = MemoryContextStrdup(caller, value);
	}
	SPI_finish();
	return value;
}

uint64
dbscale_ddl_execute(const char *sql)
{
	uint64		rows = 0;

	(void) run_sql(sql, &rows);
	return rows;
}

char *
dbscale_ddl_query_value(const char *sql)
{
	return run_sql(sql, NULL);
}

uint64
dbscale_ddl_execute_as_owner(const char *sql)
{
	Oid			userid;
	int			context;
	uint64		rows;

	GetUserIdAndSecContext(&userid, &context);
	SetUserIdAndSecContext(dbscale_extension_owner(),
						   context | SECURITY_LOCAL_USERID_CHANGE);
	rows = dbscale_ddl_execute(sql);
	SetUserIdAndSecContext(userid, context);
	return rows;
}

List *
dbscale_ddl_query_rows(const char *sql)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *rows = NIL;
	int			level;

	SPI_connect();
	level = dbscale_ddl_set_safe_path();
	if (dbscale_execute_latest(sql) != SPI_OK_SELECT)
		elog(ERROR, "could not run an internal query");
	AtEOXact_GUC(true, level);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		TupleDesc	desc = SPI_tuptable->tupdesc;
		char	  **row = MemoryContextAllocZero(caller, desc->natts * sizeof(char *));
		MemoryContext old;

		for (int n = 0; n < desc->natts; n++)
		{
			char	   *value = SPI_getvalue(SPI_tuptable->vals[i], desc, n + 1);

			row[n] = value ? MemoryContextStrdup(caller, value) : NULL;
		}
		old = MemoryContextSwitchTo(caller);
		rows = lappend(rows, row);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return rows;
}
