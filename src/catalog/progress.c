/*
 * progress.c
 *		Progress of long operations, in shared memory.
 *
 * An operation runs in one transaction, so what it writes to a table nobody else
 * sees before it is over.  Its progress is therefore a slot in shared memory, and
 * only its end is a row of dbscale.job.  The view dbscale.jobs joins the two.
 *
 * The slot belongs to the (sub)transaction that began the operation: a callback of
 * CurTransactionContext frees it when that context goes away, which is
 *	- at abort of the (sub)transaction, however it came about: the operation has
 *	  undone itself and leaves neither slot nor row;
 *	- after commit of the top transaction, when the row is already visible, so
 *	  that at no moment the operation is in neither place.  For the moment in which
 *	  it is in both, the view prefers the row.
 * A backend that exits aborts its transaction first, and one that is killed takes
 * the shared memory with it.  So no slot outlives its owner, and no reader has to
 * ask whether the owner lives.
 *
 * A job of many transactions (a move) has a worker of its own and a row of dbscale.job
 * from its beginning.  Its slot is attached to the process: the worker detaches it at
 * the end, and leaves it when it dies.
 *
 * When all slots are taken, an operation runs unseen; it is recorded all the same.
 */
#include "catalog/progress.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define PROGRESS_SLOTS 64
#define STEP_LENGTH 128
#define RATE_WINDOW_MS 1000
#define RELATION_LENGTH (4 * NAMEDATALEN + 6)	/* as long as every character can be a quote */

typedef struct ProgressSlot
{
	int64		job;			/* 0: free */
	Oid			database;
	NameData	kind;
	char		relation[RELATION_LENGTH];	/* qualified, quoted; empty: none */
	char		step[STEP_LENGTH];
	int			step_number;
	int			steps;
	int64		done_bytes;
	int64		total_bytes;
	int64		lag;			/* -1: there is none */
	int64		rate;			/* bytes a second, measured over RATE_WINDOW_MS; -1: not yet */
	int64		window_bytes;	/* done when the window began */
	TimestampTz window_start;
	TimestampTz started_at;
} ProgressSlot;

typedef struct ProgressShared
{
	ProgressSlot slots[PROGRESS_SLOTS];
} ProgressShared;

/* An operation of this backend; lives in the CurTransactionContext of its begin. */
typedef struct Operation
{
	struct Operation *outer;	/* the operation in which this one is nested */
	ProgressSlot *slot;			/* in shared memory, or &unseen */
	ProgressSlot unseen;
	MemoryContextCallback at_end;
} Operation;

static ProgressShared *shared = NULL;
static LWLock *lock = NULL;
static Operation *current = NULL;

DBSCALE_FUNCTION(dbscale_running_jobs);

void
dbscale_progress_init(void)
{
	dbscale_shared_area("dbscale_progress", sizeof(ProgressShared), (void **) &shared, &lock);
}

/* The context of the transaction that began the operation goes away. */
static void
release_operation(void *arg)
{
	Operation  *operation = arg;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	operation->slot->job = 0;
	LWLockRelease(lock);

	/* Nested operations are freed with their own contexts, before or after this one. */
	for (Operation **o = &current; *o != NULL; o = &(*o)->outer)
	{
		if (*o == operation)
		{
			*o = operation->outer;
			break;
		}
	}
}

/* Copy a filled slot to a free one in shared memory, if there is one. */
static void
publish(Operation *operation)
{
	operation->slot = &operation->unseen;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < PROGRESS_SLOTS; i++)
	{
		if (shared->slots[i].job == 0)
		{
			shared->slots[i] = operation->unseen;
			operation->slot = &shared->slots[i];
			break;
		}
	}
	LWLockRelease(lock);
}

static void
fill_slot(ProgressSlot *slot, int64 job, const char *kind, Oid relation, int steps, int64 total_bytes)
{
	slot->job = job;
	slot->database = MyDatabaseId;
	namestrcpy(&slot->kind, kind);
	slot->steps = steps;
	slot->total_bytes = total_bytes;
	slot->lag = slot->rate = -1;
	slot->started_at = slot->window_start = GetCurrentTimestamp();
	if (OidIsValid(relation))
		strlcpy(slot->relation,
				quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)),
										   get_rel_name(relation)),
				RELATION_LENGTH);
}

int64
dbscale_progress_begin(const char *kind, Oid relation, int steps, int64 total_bytes)
{
	Operation  *operation = MemoryContextAllocZero(CurTransactionContext, sizeof(Operation));

	fill_slot(&operation->unseen, nextval_internal(dbscale_relation_oid("job_job_seq"), false),
			  kind, relation, steps, total_bytes);
	publish(operation);
	operation->outer = current;
	current = operation;
	operation->at_end.func = release_operation;
	operation->at_end.arg = operation;
	MemoryContextRegisterResetCallback(CurTransactionContext, &operation->at_end);
	return operation->unseen.job;
}

static Operation *attached = NULL;

static void
detach_at_exit(int code, Datum arg)
{
	dbscale_progress_detach();
}

void
dbscale_progress_attach(int64 job, const char *kind, Oid relation, int steps)
{
	static bool registered = false;

	if (attached == NULL)
		attached = MemoryContextAllocZero(TopMemoryContext, sizeof(Operation));
	else
		dbscale_progress_detach();
	memset(&attached->unseen, 0, sizeof(ProgressSlot));
	fill_slot(&attached->unseen, job, kind, relation, steps, 0);
	publish(attached);
	attached->outer = NULL;
	current = attached;
	if (!registered)
		before_shmem_exit(detach_at_exit, (Datum) 0);
	registered = true;
}

void
dbscale_progress_detach(void)
{
	if (attached != NULL && attached->slot != NULL)
		release_operation(attached);
	if (attached != NULL)
		attached->slot = NULL;
}

void
dbscale_progress_set_total(int64 bytes)
{
	if (current == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	current->slot->total_bytes = bytes;
	LWLockRelease(lock);
}

void
dbscale_progress_set_lag(int64 bytes)
{
	if (current == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	current->slot->lag = bytes;
	LWLockRelease(lock);
}

void
dbscale_progress_read(int64 *done_bytes, int64 *total_bytes)
{
	*done_bytes = current ? current->slot->done_bytes : 0;
	*total_bytes = current ? current->slot->total_bytes : 0;
}

void
dbscale_progress_step(const char *step)
{
	if (current == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (strcmp(current->slot->step, step) != 0)
		current->slot->step_number++;
	strlcpy(current->slot->step, step, STEP_LENGTH);
	LWLockRelease(lock);
}

void
dbscale_progress_restate(const char *step)
{
	if (current == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	strlcpy(current->slot->step, step, STEP_LENGTH);
	LWLockRelease(lock);
}

static void
measure_rate(ProgressSlot *slot, TimestampTz now)
{
	long		elapsed = TimestampDifferenceMilliseconds(slot->window_start, now);

	if (elapsed < RATE_WINDOW_MS)
		return;
	slot->rate = (slot->done_bytes - slot->window_bytes) * 1000 / elapsed;
	slot->window_bytes = slot->done_bytes;
	slot->window_start = now;
}

void
dbscale_progress_add_bytes(int64 bytes)
{
	if (current == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	current->slot->done_bytes += bytes;
	measure_rate(current->slot, GetCurrentTimestamp());
	LWLockRelease(lock);
}

/* The row of dbscale.job; the user may have no rights on that table. */
static void
insert_job_row(const Operation *operation)
{
	const ProgressSlot *slot = operation->slot;
	Oid			types[] = {INT8OID, TEXTOID, TEXTOID, INT4OID, INT8OID, INT8OID, TIMESTAMPTZOID};
	Datum		values[7];
	char		nulls[8] = "       ";
	Oid			user;
	int			security;

	values[0] = Int64GetDatum(operation->unseen.job);
	values[1] = CStringGetTextDatum(NameStr(slot->kind));
	values[2] = CStringGetTextDatum(slot->relation);
	if (slot->relation[0] == '\0')
		nulls[2] = 'n';
	values[3] = Int32GetDatum(slot->steps);
	values[4] = Int64GetDatum(slot->done_bytes);
	values[5] = Int64GetDatum(slot->total_bytes);
	values[6] = TimestampTzGetDatum(slot->started_at);

	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(dbscale_extension_owner(),
						   security | SECURITY_LOCAL_USERID_CHANGE);
	SPI_connect();
	if (SPI_execute_with_args("INSERT INTO dbscale.job (job, kind, relation, state, steps, done_bytes, total_bytes, started_at, finished_at) "
							  "VALUES ($1, $2, $3, 'done', $4, $5, $6, $7, pg_catalog.clock_timestamp())",
							  7, types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not record job");
	SPI_finish();
	SetUserIdAndSecContext(user, security);
}

/* The slot stays, saying that the operation is done, until its transaction has ended. */
void
dbscale_progress_end(void)
{
	if (current == NULL)
		return;
	insert_job_row(current);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	strlcpy(current->slot->step, "waiting for commit", STEP_LENGTH);
	LWLockRelease(lock);
	current = current->outer;
}

/* running_jobs() → job, kind, relation, step, step_number, steps, done_bytes, total_bytes, lag, rate, started_at */
Datum
dbscale_running_jobs(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	ProgressSlot *slots = palloc(sizeof(shared->slots));

	dbscale_require_preload();
	InitMaterializedSRF(fcinfo, 0);

	LWLockAcquire(lock, LW_SHARED);
	memcpy(slots, shared->slots, sizeof(shared->slots));
	LWLockRelease(lock);

	for (int i = 0; i < PROGRESS_SLOTS; i++)
	{
		const ProgressSlot *slot = &slots[i];
		Datum		values[11];
		bool		nulls[11] = {false};

		if (slot->job == 0 || slot->database != MyDatabaseId)
			continue;
		values[0] = Int64GetDatum(slot->job);
		values[1] = CStringGetTextDatum(NameStr(slot->kind));
		values[2] = CStringGetTextDatum(slot->relation);
		nulls[2] = slot->relation[0] == '\0';
		values[3] = CStringGetTextDatum(slot->step);
		nulls[3] = slot->step[0] == '\0';
		values[4] = Int32GetDatum(slot->step_number);
		values[5] = Int32GetDatum(slot->steps);
		values[6] = Int64GetDatum(slot->done_bytes);
		values[7] = Int64GetDatum(slot->total_bytes);
		values[8] = Int64GetDatum(slot->lag);
		nulls[8] = slot->lag < 0;
		values[9] = Int64GetDatum(slot->rate);
		nulls[9] = slot->rate < 0;
		values[10] = TimestampTzGetDatum(slot->started_at);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
