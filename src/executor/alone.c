/*
 * alone.c
 *		Is a statement that writes the whole of its transaction?
 *
 * Then the node may commit it as soon as it is done, in one round trip.  It is so when
 *
 *	1. nothing was done in the transaction before: no block is open, no node is in a
 *	   transaction with us, and nothing was written here (no xid); and
 *	2. nothing can come after: the statement is the only one of a query string, or it
 *	   came in the extended protocol and the client's next message, here already, is
 *	   Sync.  (Without that look a client that sends several statements before one Sync
 *	   would find the first committed when the second fails.)
 *	3. what it returns can't fail to be sent when it is committed: columns of types
 *	   that are printed without any conversion, or none.
 *
 * The isolation level is READ COMMITTED, which a node's session has by itself.
 */
#include "executor/internal.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "tcop/dest.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"

static bool
next_message_is_sync(void)
{
	int			byte;

	if (!dbscale_client_has_sent_more())
		return false;
	pq_startmsgread();
	byte = pq_peekbyte();
	pq_endmsgread();
	return byte == 'S';
}

static bool
is_last(EState *estate)
{
	Portal		portal = ActivePortal;

	if (portal == NULL || whereToSendOutput != DestRemote || list_length(portal->stmts) != 1 ||
		linitial(portal->stmts) != (void *) estate->es_plannedstmt)
		return false;
	/* the portal of a query string is not to be seen, and has its plan to itself */
	if (!portal->visible)
		return portal->cplan == NULL;
	return next_message_is_sync();
}

static bool
is_sent_without_fail(TupleDesc desc)
{
	for (int i = 0; i < desc->natts; i++)
	{
		switch (TupleDescAttr(desc, i)->atttypid)
		{
			case BOOLOID:
			case INT2OID:
			case INT4OID:
			case INT8OID:
			case OIDOID:
			case FLOAT4OID:
			case FLOAT8OID:
			case UUIDOID:
			case DATEOID:
			case TIMESTAMPOID:
			case TIMESTAMPTZOID:
				break;
			default:
				return false;
		}
	}
	return true;
}

bool
dbscale_run_is_whole_transaction(EState *estate, TupleDesc returned)
{
	return !IsTransactionBlock() && !IsSubTransaction() && XactIsoLevel == XACT_READ_COMMITTED &&
		dbscale_transaction_is_untouched() && is_sent_without_fail(returned) && is_last(estate);
}
