/*
 * fold.c
 *		What the maintenance worker does for buffered counters, in a transaction a node.
 */
#include "counter/internal.h"

#include "foreign/foreign.h"
#include "transaction/transaction.h"
#include "utils/lsyscache.h"

/* Calls of the fold functions that are on one node (InvalidOid: here), added up, or NULL. */
static char *
fold_calls(Oid serverid)
{
	StringInfoData sql;
	ListCell   *lc;
	ListCell   *lp;

	initStringInfo(&sql);
	foreach(lc, dbscale_counter_list_names("mode = 'buffered'"))
	{
		Counter    *counter = lfirst(lc);

		foreach(lp, dbscale_counter_places(counter->target))
		{
			CounterPlace *place = lfirst(lp);

			if ((place->group ? place->shard->node->serverid : InvalidOid) == serverid)
				appendStringInfo(&sql, "%s%s", sql.len ? " + " : "SELECT ", dbscale_counter_fold_call(place, counter));
		}
	}
	return sql.len ? sql.data : NULL;
}

bool
dbscale_counter_any_buffered(void)
{
	return dbscale_counter_query("SELECT 1 FROM dbscale.counter WHERE mode = 'buffered' LIMIT 1") != NULL;
}

void
dbscale_counter_fold_at(Oid serverid, Oid userid)
{
	char	   *sql = fold_calls(serverid);

	if (sql == NULL)
		return;
	if (!OidIsValid(serverid))
		dbscale_counter_execute(sql);
	else
		(void) dbscale_remote_execute(dbscale_transaction_connection(serverid, userid, REMOTE_WRITE), sql,
									  REMOTE_NO_PARAMS, NULL);
}
