/*
 * check.c
 *		One question to one node, for dbscale.check(), which compares the answers
 *		with the catalog (src/sql/70_check.sql).
 *
 * A node that cannot be reached or fails is an answer too: the question runs in a
 * subtransaction, and its error becomes a column.
 */
#include "ddl/ddl.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/resowner.h"

DBSCALE_FUNCTION(dbscale_ask_node);
DBSCALE_FUNCTION(dbscale_count_rows);

static char *
ask(const ShardNode *node, const char *question)
{
	RemoteConnection *conn = dbscale_transaction_connection(node->serverid,
															dbscale_ddl_node_user(node), REMOTE_READ);

	return dbscale_remote_query_value(conn, question, REMOTE_NO_PARAMS);
}

/* The answer, or NULL and the error's message. */
static char *
try_to_ask(const ShardNode *node, const char *question, char **error)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	char	   *volatile answer = NULL;

	*error = NULL;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		answer = ask(node, question);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED || edata->elevel > ERROR)
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		*error = edata->message;
		answer = NULL;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return answer;
}

/* ask_node(node name, question text, OUT answer text, OUT error text) */
Datum
dbscale_ask_node(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[2] = {0, 0};
	bool		nulls[2] = {true, true};
	char	   *error;
	char	   *answer;

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to ask nodes"),
				 errdetail("Questions are asked as the nodes' service user: only a superuser may ask.")));
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	answer = try_to_ask(dbscale_catalog_require_node(NameStr(*PG_GETARG_NAME(0)), false),
						text_to_cstring(PG_GETARG_TEXT_PP(1)), &error);
	if (answer)
	{
		values[0] = CStringGetTextDatum(answer);
		nulls[0] = false;
	}
	if (error)
	{
		values[1] = CStringGetTextDatum(error);
		nulls[1] = false;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* count_rows(relation regclass): with the rights of whoever asks. */
Datum
dbscale_count_rows(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	char	   *name = get_rel_name(relid);
	char	   *count;

	if (name == NULL)
		PG_RETURN_NULL();
	count = dbscale_ddl_query_value(psprintf("SELECT pg_catalog.count(*) FROM %s",
											 quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
																		name)));
	PG_RETURN_INT64(strtoll(count, NULL, 10));
}
