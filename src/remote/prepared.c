/*
 * prepared.c
 *		Prepared statements on a node, for statements that repeat.
 *
 * A connection keeps the MAX_PREPARED most recently used, by text and parameter
 * types, in buckets by the hash of the text.  A statement is known from the moment its Parse is sent, since the node
 * works in order; it is confirmed when Parse's answer has come.  A Parse that was
 * skipped or failed leaves nothing on the node and the statement is forgotten.
 * What is dropped from the list is deallocated in a group of its own, ahead of the
 * next statement, so that it can't abort anything.
 */
#include "remote/internal.h"

#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* A number in decimal, its sign included. */
#define MAXINT_LENGTH 11

static bool
same_statement(const PreparedStatement *p, uint32 hash, const char *sql,
			   const RemoteParams *params)
{
	int			ntypes = params && params->types ? params->count : 0;

	return p->hash == hash && p->ntypes == ntypes && strcmp(p->sql, sql) == 0 &&
		(ntypes == 0 || memcmp(p->types, params->types, ntypes * sizeof(Oid)) == 0);
}

static PreparedStatement *
find_by_id(RemoteConnection *conn, int id)
{
	dlist_iter	iter;

	dlist_foreach(iter, &conn->prepared)
	{
		PreparedStatement *p = dlist_container(PreparedStatement, node, iter.cur);

		if (p->id == id)
			return p;
	}
	return NULL;
}

static dlist_head *
bucket_of(RemoteConnection *conn, uint32 hash)
{
	return &conn->prepared_buckets[hash % PREPARED_BUCKETS];
}

void
remote_prepared_init(RemoteConnection *conn)
{
	conn->nprepared = 0;
	dlist_init(&conn->prepared);
	for (int i = 0; i < PREPARED_BUCKETS; i++)
		dlist_init(&conn->prepared_buckets[i]);
}

static void
drop(RemoteConnection *conn, PreparedStatement *p, bool on_node)
{
	if (on_node)
	{
		MemoryContext old = MemoryContextSwitchTo(conn->context);

		conn->deallocate = lappend_int(conn->deallocate, p->id);
		MemoryContextSwitchTo(old);
	}
	dlist_delete(&p->node);
	dlist_delete(&p->in_bucket);
	conn->nprepared--;
	if (p->types)
		pfree(p->types);
	pfree(p->sql);
	pfree(p);
}

static PreparedStatement *
add(RemoteConnection *conn, uint32 hash, const char *sql, const RemoteParams *params)
{
	PreparedStatement *p;

	if (conn->nprepared >= MAX_PREPARED)
		drop(conn, dlist_tail_element(PreparedStatement, node, &conn->prepared), true);
	p = MemoryContextAllocZero(conn->context, sizeof(PreparedStatement));
	p->id = ++conn->last_prepared_id;
	p->hash = hash;
	p->sql = MemoryContextStrdup(conn->context, sql);
	if (params && params->types)
	{
		p->ntypes = params->count;
		p->types = MemoryContextAlloc(conn->context, Max(p->ntypes, 1) * sizeof(Oid));
		memcpy(p->types, params->types, p->ntypes * sizeof(Oid));
	}
	dlist_push_head(&conn->prepared, &p->node);
	dlist_push_head(bucket_of(conn, hash), &p->in_bucket);
	conn->nprepared++;
	return p;
}

/* The prepared statement to use; where it was not found the caller sends its Parse. */
PreparedStatement *
remote_prepared_lookup(RemoteConnection *conn, const char *sql, const RemoteParams *params,
					   bool *found)
{
	uint32		hash = hash_bytes((const unsigned char *) sql, strlen(sql));
	dlist_iter	iter;

	dlist_foreach(iter, bucket_of(conn, hash))
	{
		PreparedStatement *p = dlist_container(PreparedStatement, in_bucket, iter.cur);

		if (same_statement(p, hash, sql, params))
		{
			dlist_move_head(&conn->prepared, &p->node);
			*found = true;
			return p;
		}
	}
	*found = false;
	return add(conn, hash, sql, params);
}

char *
remote_prepared_name(int id)
{
	static const char prefix[] = "dbscale_";
	char	   *name = palloc(sizeof(prefix) + MAXINT_LENGTH);

	memcpy(name, prefix, sizeof(prefix) - 1);
	pg_ltoa(id, name + sizeof(prefix) - 1);
	return name;
}

void
remote_prepared_confirm(RemoteConnection *conn, int id)
{
	PreparedStatement *p = find_by_id(conn, id);

	if (p)
		p->confirmed = true;
}

/* Errors after which the node's plan or parse tree is not to be used again. */
static bool
error_is_of_the_plan(const RemoteError *error)
{
	int			category = ERRCODE_TO_CATEGORY(error->sqlstate);

	return category == ERRCODE_FEATURE_NOT_SUPPORTED ||
		category == ERRCODE_INVALID_SQL_STATEMENT_NAME ||
		category == ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION ||
		category == ERRCODE_INTERNAL_ERROR;
}

/* Its Parse, or an execution of it, has failed. */
void
remote_prepared_failed(RemoteConnection *conn, int id, const RemoteError *error)
{
	PreparedStatement *p = find_by_id(conn, id);

	if (p && (!p->confirmed || error_is_of_the_plan(error)))
		drop(conn, p, p->confirmed);
}

/* Send what drops them on the node.  False when the connection fails. */
bool
remote_prepared_deallocate(RemoteConnection *conn)
{
	static CommandOutcome ignored;	/* a failure is nobody's business */

	while (conn->deallocate != NIL)
	{
		char	   *sql = psprintf("DEALLOCATE %s",
								   remote_prepared_name(linitial_int(conn->deallocate)));

		if (!remote_send_command(conn, sql, &ignored) || !remote_send_sync(conn))
			return false;
		conn->deallocate = list_delete_first(conn->deallocate);
		pfree(sql);
	}
	return true;
}
