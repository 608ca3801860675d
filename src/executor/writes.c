/*
 * writes.c
 *		Row by row writes of a run, put off so that they can travel together.
 *
 * An UPDATE or DELETE that core runs row by row would cost one round trip a row.
 * For shards the outcome of each is known beforehand: the scan has locked the row
 * (FOR UPDATE), so it is there, and no trigger on the node stands in the way.  So the
 * statements are queued and sent in batches, pipelined, to all nodes at once; each must
 * report one row, anything else fails the whole.
 *
 * Queued writes are a pending batch of transaction/: whatever else wants to talk to a
 * node finds them done.  Only the scans of the same run do not send them off: they are
 * to see the rows as they were before the statement, and as long as the queue has not
 * been full they do, even if they are sent late (a correlated subquery's).
 */
#include "executor/internal.h"

#include "utils/memutils.h"

/* Bytes of statements' parameters put off at most, and statements in flight. */
#define MAX_QUEUED (1024 * 1024)
#define MAX_IN_FLIGHT 256

typedef struct QueuedWrite
{
	const RowTarget *target;
	RemoteParams params;
} QueuedWrite;

struct WriteQueue
{
	PlanRun    *run;
	MemoryContext context;		/* of the queued writes; reset when they are done */
	List	   *writes;			/* of QueuedWrite * */
	Size		bytes;
	bool		pending;		/* known to transaction/ */
	bool		flushing;
};

static WriteQueue *
queue_of_run(PlanRun *run)
{
	WriteQueue *queue = run->queue;

	if (queue == NULL)
	{
		queue = MemoryContextAllocZero(run->estate->es_query_cxt, sizeof(WriteQueue));
		queue->run = run;
		queue->context = AllocSetContextCreate(run->estate->es_query_cxt, "dbscale writes",
											   ALLOCSET_DEFAULT_SIZES);
		run->queue = queue;
	}
	return queue;
}

/* A copy of the parameters that lives as long as the queue's content. */
static void
copy_params(RemoteParams *to, const RemoteParams *from, Size *bytes)
{
	int			n = from ? from->count : 0;
	const char **values = palloc0(sizeof(char *) * Max(n, 1));
	int		   *lengths = palloc0(sizeof(int) * Max(n, 1));

	to->count = n;
	to->types = NULL;
	to->formats = from ? from->formats : NULL;	/* the same for all of a statement */
	for (int i = 0; i < n; i++)
	{
		char	   *value;

		if (from->values[i] == NULL)
			continue;
		lengths[i] = from->lengths[i];
		value = palloc(lengths[i] + 1);
		memcpy(value, from->values[i], lengths[i]);
		value[lengths[i]] = '\0';
		values[i] = value;
		*bytes += lengths[i];
	}
	to->values = values;
	to->lengths = lengths;
	*bytes += sizeof(QueuedWrite) + n * (sizeof(char *) + sizeof(int));
}

/* Each must have found its row: it was locked when it was read. */
static void
finish_writes(List *statements, List *targets)
{
	ListCell   *lc,
			   *lc2;

	forboth(lc, statements, lc2, targets)
	{
		const RowTarget *target = lfirst(lc2);

		if (dbscale_remote_finish(lfirst(lc)) != 1)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("a row of shard \"%s\" was changed while the statement ran",
							target->label),
					 errhint("Try the statement again.")));
		dbscale_remote_close(lfirst(lc));
	}
}

static void
send_writes(WriteQueue *queue)
{
	List	   *statements = NIL;
	List	   *targets = NIL;
	ListCell   *lc;

	foreach(lc, queue->writes)
	{
		QueuedWrite *write = lfirst(lc);
		const RowTarget *target = write->target;
		RemoteConnection *conn;

		dbscale_run_note_write(queue->run, target->foreign_table);
		conn = dbscale_transaction_connection(target->serverid, target->userid, REMOTE_WRITE);
		statements = lappend(statements,
							 dbscale_remote_send(conn, target->sql,
												 write->params.count > 0 ? &write->params : NULL,
												 REMOTE_PREPARE, target->label));
		targets = lappend(targets, unconstify(RowTarget *, target));
		if (list_length(statements) < MAX_IN_FLIGHT)
			continue;
		finish_writes(statements, targets);
		statements = targets = NIL;
	}
	finish_writes(statements, targets);
}

static void flush_queue(void *arg);

void
dbscale_writes_flush(PlanRun *run)
{
	WriteQueue *queue = run->queue;
	MemoryContext caller;

	if (queue == NULL || !queue->pending || queue->flushing)
		return;
	queue->flushing = true;
	dbscale_run_before_write(run);
	caller = MemoryContextSwitchTo(queue->context);
	send_writes(queue);
	MemoryContextSwitchTo(caller);
	queue->writes = NIL;
	queue->bytes = 0;
	MemoryContextReset(queue->context);
	queue->flushing = false;

	dbscale_transaction_remove_pending(flush_queue, queue);
	queue->pending = false;
}

static void
flush_queue(void *arg)
{
	WriteQueue *queue = arg;

	if (dbscale_run_is_visible(queue->run))
		dbscale_writes_flush(queue->run);
}

void
dbscale_writes_add(PlanRun *run, const RowTarget *target, const RemoteParams *params)
{
	WriteQueue *queue = queue_of_run(run);
	MemoryContext caller = MemoryContextSwitchTo(queue->context);
	QueuedWrite *write = palloc0(sizeof(QueuedWrite));

	write->target = target;
	copy_params(&write->params, params, &queue->bytes);
	queue->writes = lappend(queue->writes, write);
	MemoryContextSwitchTo(caller);

	if (!queue->pending)
	{
		dbscale_transaction_add_pending(flush_queue, queue);
		queue->pending = true;
	}
	if (queue->bytes >= MAX_QUEUED)
		dbscale_writes_flush(run);
}
