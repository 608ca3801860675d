/*
 * pgoutput.c
 *		Reads the messages of core's output plugin, protocol version 1.
 *
 * A transaction comes whole, after its commit: Begin, then its changes in order, then
 * Commit.  Before the first change of a table, and after it was altered, comes its
 * Relation message, which names its columns.  Values are text.  Messages that a
 * program writes into the log (pg_logical_emit_message) come as M when they are
 * asked for.
 */
#include "rebalance/internal.h"

#include "libpq/pqformat.h"

static const char *
read_value(StringInfo message)
{
	int			length = pq_getmsgint(message, 4);

	return pnstrdup(pq_getmsgbytes(message, length), length);
}

static ChangeTuple *
read_tuple(StringInfo message)
{
	ChangeTuple *tuple = palloc(sizeof(ChangeTuple));

	tuple->ncolumns = pq_getmsgint(message, 2);
	tuple->kinds = palloc(Max(tuple->ncolumns, 1));
	tuple->values = palloc0(sizeof(char *) * Max(tuple->ncolumns, 1));
	for (int i = 0; i < tuple->ncolumns; i++)
	{
		tuple->kinds[i] = pq_getmsgbyte(message);
		if (tuple->kinds[i] == 't')
			tuple->values[i] = read_value(message);
		else if (tuple->kinds[i] != 'n' && tuple->kinds[i] != 'u')
			elog(ERROR, "unexpected kind of value in logical replication: %d", tuple->kinds[i]);
	}
	return tuple;
}

static ChangeRelation *
read_relation(StringInfo message)
{
	ChangeRelation *relation = palloc(sizeof(ChangeRelation));

	relation->id = pq_getmsgint(message, 4);
	relation->schema = pstrdup(pq_getmsgrawstring(message));
	relation->name = pstrdup(pq_getmsgrawstring(message));
	relation->identity = pq_getmsgbyte(message);
	relation->ncolumns = pq_getmsgint(message, 2);
	relation->columns = palloc(sizeof(char *) * Max(relation->ncolumns, 1));
	relation->is_key = palloc(sizeof(bool) * Max(relation->ncolumns, 1));
	for (int i = 0; i < relation->ncolumns; i++)
	{
		relation->is_key[i] = (pq_getmsgbyte(message) & 1) != 0;
		relation->columns[i] = pstrdup(pq_getmsgrawstring(message));
		(void) pq_getmsgint(message, 4);	/* type */
		(void) pq_getmsgint(message, 4);	/* type modifier */
	}
	return relation;
}

/* What follows the relation in I, U and D. */
static void
read_row_change(Change *change, StringInfo message)
{
	int			mark;

	change->relation = pq_getmsgint(message, 4);
	mark = pq_getmsgbyte(message);
	if (mark == 'K' || mark == 'O')
	{
		change->old_tuple = read_tuple(message);
		if (change->kind == 'D')
			return;
		mark = pq_getmsgbyte(message);
	}
	if (mark != 'N')
		elog(ERROR, "unexpected mark in logical replication: %d", mark);
	change->new_tuple = read_tuple(message);
}

static void
read_truncate(Change *change, StringInfo message)
{
	int			count = pq_getmsgint(message, 4);

	(void) pq_getmsgbyte(message);	/* CASCADE, RESTART IDENTITY: all tables are named */
	for (int i = 0; i < count; i++)
		change->relations = lappend_oid(change->relations, pq_getmsgint(message, 4));
}

static void
read_logical_message(Change *change, StringInfo message)
{
	int			length;

	(void) pq_getmsgbyte(message);	/* transactional */
	(void) pq_getmsgint64(message);
	change->prefix = pstrdup(pq_getmsgrawstring(message));
	length = pq_getmsgint(message, 4);
	change->content = pnstrdup(pq_getmsgbytes(message, length), length);
}

Change *
pgoutput_parse(const char *data, int length)
{
	Change	   *change = palloc0(sizeof(Change));
	StringInfoData message;

	message.data = unconstify(char *, data);
	message.len = message.maxlen = length;
	message.cursor = 0;
	change->kind = pq_getmsgbyte(&message);
	switch (change->kind)
	{
		case 'B':
			change->commit_lsn = pq_getmsgint64(&message);
			(void) pq_getmsgint64(&message);	/* when */
			change->xid = pq_getmsgint(&message, 4);
			break;
		case 'C':
			(void) pq_getmsgbyte(&message);
			change->commit_lsn = pq_getmsgint64(&message);
			change->end_lsn = pq_getmsgint64(&message);
			break;
		case 'R':
			change->description = read_relation(&message);
			break;
		case 'I':
		case 'U':
		case 'D':
			read_row_change(change, &message);
			break;
		case 'T':
			read_truncate(change, &message);
			break;
		case 'M':
			read_logical_message(change, &message);
			break;
		case 'O':				/* origin */
		case 'Y':				/* type */
			change->kind = 0;
			break;
		default:
			elog(ERROR, "unexpected message in logical replication: %d", change->kind);
	}
	return change;
}
