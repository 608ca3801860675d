/*
 * error.c
 *		A node's errors, raised here as they would be there.
 *
 * SQLSTATE, message, detail, hint, context and the names of the objects are kept;
 * the node and the shard are added as context.  The text of the statement is not:
 * it may hold literals, and messages end in logs.
 */
#include "remote/internal.h"

#include "lib/stringinfo.h"
#include "utils/memutils.h"

static char *
copy_field(const PGresult *result, int field)
{
	const char *value = PQresultErrorField(result, field);

	return value ? pstrdup(value) : NULL;
}

/* libpq's messages end in a newline and have tabs within. */
char *
remote_clean_message(const char *message)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (const char *c = message ? message : ""; *c; c++)
		appendStringInfoChar(&buf, *c == '\t' ? ' ' : *c);
	while (buf.len > 0 && buf.data[buf.len - 1] == '\n')
		buf.data[--buf.len] = '\0';
	return buf.data;
}

/* A function's context lines quote its statements whole: those are left out. */
static char *
context_without_statements(char *context)
{
	static const char *const marks[] = {"SQL statement \"", "SQL expression \"", "query \""};
	StringInfoData kept;
	bool		skipping = false;
	char	   *save = NULL;

	if (context == NULL)
		return NULL;
	initStringInfo(&kept);
	for (char *line = strtok_r(context, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
	{
		for (int i = 0; i < lengthof(marks) && !skipping; i++)
			skipping = strncmp(line, marks[i], strlen(marks[i])) == 0;
		if (!skipping)
			appendStringInfo(&kept, "%s%s", kept.len > 0 ? "\n" : "", line);
		else if (line[0] != '\0' && line[strlen(line) - 1] == '"')
			skipping = false;
	}
	return kept.len > 0 ? kept.data : NULL;
}

static RemoteError *
new_error(RemoteConnection *conn, const char *label)
{
	MemoryContext memory = AllocSetContextCreate(conn->context, "dbscale remote error",
												 ALLOCSET_SMALL_SIZES);
	RemoteError *error = MemoryContextAllocZero(memory, sizeof(RemoteError));

	error->memory = memory;
	error->label = label ? MemoryContextStrdup(memory, label) : NULL;
	return error;
}

/* The error in a result, in a memory context of its own below the connection's. */
RemoteError *
remote_error_take(RemoteConnection *conn, const PGresult *result, const char *label)
{
	RemoteError *error = new_error(conn, label);
	MemoryContext old = MemoryContextSwitchTo(error->memory);
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	error->sqlstate = ERRCODE_FDW_ERROR;
	if (sqlstate && strlen(sqlstate) == 5)
		error->sqlstate = MAKE_SQLSTATE(sqlstate[0], sqlstate[1], sqlstate[2],
										sqlstate[3], sqlstate[4]);
	error->message = copy_field(result, PG_DIAG_MESSAGE_PRIMARY);
	if (error->message == NULL)
		error->message = remote_clean_message(PQresultErrorMessage(result));
	error->detail = copy_field(result, PG_DIAG_MESSAGE_DETAIL);
	error->hint = copy_field(result, PG_DIAG_MESSAGE_HINT);
	error->context = context_without_statements(copy_field(result, PG_DIAG_CONTEXT));
	error->schema = copy_field(result, PG_DIAG_SCHEMA_NAME);
	error->table = copy_field(result, PG_DIAG_TABLE_NAME);
	error->column = copy_field(result, PG_DIAG_COLUMN_NAME);
	error->datatype = copy_field(result, PG_DIAG_DATATYPE_NAME);
	error->constraint = copy_field(result, PG_DIAG_CONSTRAINT_NAME);
	MemoryContextSwitchTo(old);
	return error;
}

/* What a user of a lost connection is told. */
RemoteError *
remote_error_lost(RemoteConnection *conn, const char *label)
{
	RemoteError *error = new_error(conn, label);
	MemoryContext old = MemoryContextSwitchTo(error->memory);

	error->sqlstate = ERRCODE_CONNECTION_FAILURE;
	error->lost = true;
	error->message = psprintf("connection to node \"%s\" was lost", NameStr(conn->node_name));
	if (conn->lost_detail && conn->lost_detail[0])
		error->detail = pstrdup(conn->lost_detail);
	error->hint = pstrdup(conn->in_transaction ? "Retry the transaction." : "Retry the statement.");
	MemoryContextSwitchTo(old);
	return error;
}

static char *
copy_string(const char *string, MemoryContext context)
{
	return string ? MemoryContextStrdup(context, string) : NULL;
}

/* A copy that `context` owns. */
RemoteError *
remote_error_copy(const RemoteError *error, MemoryContext context)
{
	RemoteError *copy = MemoryContextAlloc(context, sizeof(RemoteError));

	*copy = *error;
	copy->memory = NULL;
	copy->message = copy_string(error->message, context);
	copy->detail = copy_string(error->detail, context);
	copy->hint = copy_string(error->hint, context);
	copy->context = copy_string(error->context, context);
	copy->schema = copy_string(error->schema, context);
	copy->table = copy_string(error->table, context);
	copy->column = copy_string(error->column, context);
	copy->datatype = copy_string(error->datatype, context);
	copy->constraint = copy_string(error->constraint, context);
	copy->label = copy_string(error->label, context);
	return copy;
}

void
remote_error_free(RemoteError *error)
{
	if (error && error->memory)
		MemoryContextDelete(error->memory);
}

/* Where it happened there, and on which node that was. */
static int
contexts(RemoteConnection *conn, const RemoteError *error)
{
	if (error->context)
		errcontext_msg("%s", error->context);
	if (error->label)
		errcontext_msg("node \"%s\", shard table \"%s\"", NameStr(conn->node_name), error->label);
	else
		errcontext_msg("node \"%s\"", NameStr(conn->node_name));
	return 0;
}

static int
object_names(const RemoteError *error)
{
	if (error->schema)
		err_generic_string(PG_DIAG_SCHEMA_NAME, error->schema);
	if (error->table)
		err_generic_string(PG_DIAG_TABLE_NAME, error->table);
	if (error->column)
		err_generic_string(PG_DIAG_COLUMN_NAME, error->column);
	if (error->datatype)
		err_generic_string(PG_DIAG_DATATYPE_NAME, error->datatype);
	if (error->constraint)
		err_generic_string(PG_DIAG_CONSTRAINT_NAME, error->constraint);
	return 0;
}

void
remote_raise(RemoteConnection *conn, const RemoteError *error)
{
	ereport(ERROR,
			(errcode(error->sqlstate),
			 errmsg_internal("%s", error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0,
			 object_names(error),
			 contexts(conn, error)));
	pg_unreachable();
}

/* Raise, once, the error of something nobody has waited for. */
void
remote_raise_pending(RemoteConnection *conn)
{
	RemoteError *error;

	if (conn->pending_error == NULL)
		return;
	error = remote_error_copy(conn->pending_error, CurrentMemoryContext);
	remote_error_free(conn->pending_error);
	conn->pending_error = NULL;
	remote_raise(conn, error);
}
