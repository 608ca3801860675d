/*
 * jobs.c
 *		Jobs: rows of dbscale.job, the functions about them, and a job's whole life in
 *		its worker.
 *
 *		waiting  →  running  →  done, failed or cancelled
 *
 * A job moves a shard, or (split, isolate, merge: reshard.c) makes others of it, or brings
 * a key to another shard (assign.c), some by several of these steps (steps.c).
 *
 * move_shard runs its job at once and waits for it; drain_node and rebalance insert
 * rows that wait (see drain.c), which the maintenance worker starts.  A job that is
 * cut short by something that passes (a node that restarts, a definition that has
 * changed) undoes itself and begins again, MAX_ATTEMPTS times; one whose worker is
 * gone, because the server went down or was killed, is put back to waiting, and
 * cleanup.c undoes what it had made.
 *
 * What is cleaned up later (old tables that are still read) is no part of the job.
 */
#include "rebalance/internal.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/progress.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define MAX_ATTEMPTS 3
#define RETRY_PAUSE_MS 3000
/* What one of the job's steps (steps.c) shows of itself in dbscale.jobs. */
#define MOVE_STEPS 7
/* Advisory locks of users have 1 or 2 here, those of transaction/ 3 and 5. */
#define MOVE_LOCK_CLASS 4

static const char *const job_kinds[] = {
	[JOB_MOVE] = "move",
	[JOB_SPLIT] = "split",
	[JOB_ISOLATE] = "isolate",
	[JOB_MERGE] = "merge",
	[JOB_ASSIGN] = "assign",
};

/* The same, for SQL. */
#define JOB_KINDS "('move', 'split', 'isolate', 'merge', 'assign')"

DBSCALE_FUNCTION(dbscale_wait_job);
DBSCALE_FUNCTION(dbscale_cancel_job);

/* ---- rows ---- */

static uint64
update_job(int64 job, const char *set, const char *and)
{
	return dbscale_ddl_execute_as_owner(psprintf("UPDATE dbscale.job SET %s WHERE job = " INT64_FORMAT "%s",
												 set, job, and));
}

static const char *
literal_or_null(const char *text)
{
	return text ? quote_literal_cstr(text) : "NULL";
}

static char *
relation_text(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid));
}

/* In a transaction: the row of a job that runs from now on. */
static void
insert_running(JobRequest *request)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(request->relation);
	const Shard *shard = dbscale_ddl_require_shard(table, request->shard);

	if (NameStr(request->node)[0] == '\0')
		request->node = shard->node->name;
	request->steps = steps_count(request, shard->node);
	(void) dbscale_ddl_execute_as_owner(
		psprintf("INSERT INTO dbscale.job (job, kind, relation, state, steps, relation_id, shard, from_node, to_node, requested_by, number, argument)"
				 " VALUES (" INT64_FORMAT ", %s, %s, 'running', %d, %u, %d, %s, %s, %s, %d, %s)", request->job,
				 quote_literal_cstr(job_kinds[request->kind]), quote_literal_cstr(relation_text(request->relation)),
				 request->steps * MOVE_STEPS, request->relation, request->shard, quote_literal_cstr(NameStr(shard->node->name)),
				 quote_literal_cstr(NameStr(request->node)),
				 quote_literal_cstr(GetUserNameFromId(request->userid, false)), request->number,
				 literal_or_null(request->has_argument ? request->argument : NULL)));
}

/* The rest of the request is in the row, which begins to run; false if it does not wait any more. */
static bool
read_waiting(JobRequest *request)
{
	char	  **row;

	if (update_job(request->job, psprintf("state = 'running', started_at = clock_timestamp(), error = NULL,"
										  " steps = coalesce(steps, %d)", MOVE_STEPS), " AND state = 'waiting'") != 1)
		return false;
	row = linitial(dbscale_ddl_query_rows(psprintf("SELECT relation_id, shard, to_node, kind, number, argument, steps FROM dbscale.job WHERE job = " INT64_FORMAT,
												   request->job)));
	request->relation = atooid(row[0]);
	request->shard = atoi(row[1]);
	namestrcpy(&request->node, row[2]);
	for (int kind = 0; kind < lengthof(job_kinds); kind++)
		if (strcmp(row[3], job_kinds[kind]) == 0)
			request->kind = kind;
	request->number = row[4] ? atoi(row[4]) : 0;
	request->has_argument = row[5] != NULL;
	strlcpy(request->argument, row[5] ? row[5] : "", sizeof(request->argument));
	request->steps = atoi(row[6]) / MOVE_STEPS;
	return true;
}

/* ---- one attempt ---- */

static volatile sig_atomic_t in_attempt = false;

/*
 * Between attempts, where the nodes are tidied up and the job's row is written, a cancel is
 * not to end the worker: the row would say that it runs, and the job be taken up again.
 * (Timeouts of locks come by the same signal.)
 */
static void
handle_cancel(SIGNAL_ARGS)
{
	if (in_attempt || get_timeout_indicator(LOCK_TIMEOUT, false))
		StatementCancelHandler(postgres_signal_arg);
}

/* In this order: who cancels sets the flag before he sends the signal. */
static void
begin_attempt(void)
{
	in_attempt = true;
	if (board_is_cancelled())
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED), errmsg("canceling statement due to user request")));
}

/* The lock is the session's; false if another job has it. */
static bool
lock_number(int group_id, int shard)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, group_id, shard, MOVE_LOCK_CLASS);
	return LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

/* One move of a shard at a time. */
static void
lock_shard(int group_id, int shard)
{
	if (lock_number(group_id, shard))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("shard %d is being moved already", shard),
			 errdetail("Another job is about the same shard of the same table group."),
			 errhint("The view dbscale.jobs shows it.")));
}

/* Numbers of shards that are to be made. */
static void
lock_new_number(int group_id, int shard)
{
	if (lock_number(group_id, shard))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_MOVE_AGAIN),
			 errmsg("another job makes a shard %d of the same table group", shard),
			 errdetail("Both began at the same time."), errhint("Try again.")));
}

/* One step of the job, which mostly has one. */
static void
attempt(Move *move, const JobRequest *job)
{
	JobRequest *request = palloc(sizeof(JobRequest));
	ListCell   *lc;

	begin_attempt();
	*request = *job;
	move_begin(move);
	PushActiveSnapshot(GetTransactionSnapshot());
	dbscale_progress_step("checking");
	if (!steps_next(request))
	{
		PopActiveSnapshot();
		move_commit(move);
		return;
	}
	move->shard = request->shard;
	move->goes_on = request->goes_on;
	if (request->kind == JOB_MOVE)
		move_check(move, NameStr(request->node));
	else
		reshard_check(move, request);
	if (request->locks_target)
		lock_shard(move->group_id, request->number);
	foreach(lc, move->sources)
		lock_shard(move->group_id, lfirst_int(lc));
	foreach(lc, move->parts)
	{
		lock_new_number(move->group_id, ((Part *) lfirst(lc))->number);
		lock_new_number(move->group_id, ((Part *) lfirst(lc))->build);
	}
	move_check_source(move);
	if (request->of_assign)
		assign_check_target(move, request);
	PopActiveSnapshot();
	move_commit(move);
	move_online(move);
}

/* What may be otherwise the next time. */
static bool
is_passing(int sqlstate)
{
	return ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_CONNECTION_EXCEPTION ||
		sqlstate == ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION ||
		sqlstate == ERRCODE_ADMIN_SHUTDOWN || sqlstate == ERRCODE_CRASH_SHUTDOWN ||
		sqlstate == ERRCODE_CANNOT_CONNECT_NOW || sqlstate == ERRCODE_LOCK_NOT_AVAILABLE ||
		sqlstate == ERRCODE_T_R_DEADLOCK_DETECTED || sqlstate == ERRCODE_MOVE_AGAIN;
}

/*
 * DDL that was done meanwhile shows in many ways: a column that the copy lacks, a row
 * that violates a constraint which is no longer.
 */
static bool
definition_has_changed(Move *move)
{
	volatile bool changed = false;

	if (move->definition == NULL)
		return false;
	PG_TRY();
	{
		move_begin(move);
		PushActiveSnapshot(GetTransactionSnapshot());
		changed = strcmp(move_definition(move), move->definition) != 0;
		PopActiveSnapshot();
		move_commit(move);
	}
	PG_CATCH();
	{
		FlushErrorState();		/* the table is gone, say */
		AbortCurrentTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(move->context);
	return changed;
}

/*
 * NULL: it is done.  Otherwise what went wrong, in `context`; the move is undone as far
 * as the nodes can be reached, and the rest recorded.
 */
static ErrorData *
try_move(const JobRequest *request, MemoryContext context, bool *switched, bool *goes_on)
{
	MemoryContext own = AllocSetContextCreate(context, "dbscale move", ALLOCSET_DEFAULT_SIZES);
	Move	   *move = MemoryContextAllocZero(context, sizeof(Move));
	ErrorData  *volatile error = NULL;

	move->context = own;
	move->job = request->job;
	move->relid = request->relation;
	move->shard = request->shard;
	PG_TRY();
	{
		attempt(move, request);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
	}
	PG_END_TRY();
	in_attempt = false;
	QueryCancelPending = false;
	MemoryContextSwitchTo(context);
	SetConfigOption("lock_timeout", "0", PGC_SUSET, PGC_S_SESSION);
	LockReleaseAll(DEFAULT_LOCKMETHOD, true);
	if (error != NULL && error->sqlerrcode != ERRCODE_QUERY_CANCELED && definition_has_changed(move))
		error->sqlerrcode = ERRCODE_MOVE_AGAIN;
	LockReleaseAll(USER_LOCKMETHOD, true);
	MemoryContextSwitchTo(context);
	*switched = move->switched;
	*goes_on = move->switched && move->goes_on;
	MemoryContextDelete(own);	/* ends the streams, and with them the slots */
	cleanup_run(request->job, context);
	return error;
}

/* ---- a job's life ---- */

static char *
whole_message(const ErrorData *error)
{
	return error->detail ? psprintf("%s (%s)", error->message, error->detail) : error->message;
}

/* In a transaction of its own: the job's last state. */
static void
end_job(int64 job, const char *state, const ErrorData *error)
{
	int64		done,
				total;

	dbscale_progress_read(&done, &total);
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	(void) update_job(job, psprintf("state = '%s', step = NULL, error = %s, finished_at = clock_timestamp(),"
									" done_bytes = " INT64_FORMAT ", total_bytes = " INT64_FORMAT,
									state, literal_or_null(error ? whole_message(error) : NULL), done, total), "");
	PopActiveSnapshot();
	CommitTransactionCommand();
}

static void
tell_caller(const ErrorData *error)
{
	JobOutcome	outcome = {0};

	if (error != NULL)
	{
		outcome.failed = true;
		outcome.sqlstate = error->sqlerrcode;
		strlcpy(outcome.message, error->message, sizeof(outcome.message));
		strlcpy(outcome.detail, error->detail ? error->detail : "", sizeof(outcome.detail));
		strlcpy(outcome.hint, error->hint ? error->hint : "", sizeof(outcome.hint));
	}
	board_set_outcome(&outcome);
}

static bool
begin_job(JobRequest *request)
{
	bool		runs = true;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (request->from_row)
		runs = read_waiting(request);
	else
	{
		/* not the caller: it would give him a transaction id, for whose end we would wait */
		request->job = nextval_internal(dbscale_relation_oid("job_job_seq"), false);
		board_set_job(request->job);
		insert_running(request);
	}
	if (runs)
		dbscale_progress_attach(request->job, job_kinds[request->kind],
								get_rel_name(request->relation) ? request->relation : InvalidOid,
								request->steps * MOVE_STEPS);
	PopActiveSnapshot();
	CommitTransactionCommand();
	return runs;
}

/* The row tells how often it has been tried. */
static void
note_attempt(int64 job, const ErrorData *error)
{
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	(void) update_job(job, psprintf("attempts = attempts + 1, error = %s", quote_literal_cstr(whole_message(error))), "");
	PopActiveSnapshot();
	CommitTransactionCommand();
}

static bool
may_try_again(const ErrorData *error, int attempts)
{
	TimestampTz start = GetCurrentTimestamp();

	if (!is_passing(error->sqlerrcode) || attempts >= MAX_ATTEMPTS)
		return false;
	while (!board_is_cancelled() && !ProcDiePending)
	{
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), RETRY_PAUSE_MS * attempts))
			return true;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 100, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	return false;
}

/* All steps; NULL: they are done. */
static ErrorData *
try_job(const JobRequest *request, MemoryContext context)
{
	ErrorData  *error;
	bool		switched;
	bool		goes_on;

	for (;;)
	{
		error = try_move(request, context, &switched, &goes_on);
		/* else what was left is cleaning up; but whoever cancels wants no more steps */
		if (!switched || (goes_on && error != NULL && error->sqlerrcode == ERRCODE_QUERY_CANCELED))
			return error;
		if (!goes_on)
			return NULL;
		DEBUG_POINT("job_step");
	}
}

static void
finish_job(const JobRequest *request, ErrorData *error)
{
	int64		job = request->job;

	if (error != NULL)
		steps_explain(request, error);
	if (error != NULL && (error->sqlerrcode == ERRCODE_QUERY_CANCELED || board_is_cancelled()))
		end_job(job, "cancelled", error->detail != NULL ? error : NULL);
	else
		end_job(job, error ? "failed" : "done", error);
	if (error != NULL)
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("dbscale: job " INT64_FORMAT " failed: %s", job, error->message),
				 error->detail ? errdetail_internal("%s", error->detail) : 0));
	tell_caller(error);
}

void
dbscale_rebalance_run_job(void)
{
	JobRequest	request = *board_request();
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "dbscale job", ALLOCSET_DEFAULT_SIZES);
	ErrorData  *error = NULL;

	MemoryContextSwitchTo(context);
	pqsignal(SIGINT, handle_cancel);
	if (board_is_cancelled() || !begin_job(&request))
		return;
	DEBUG_POINT("move_begun");
	for (int attempts = 1;; attempts++)
	{
		move_reload_settings();
		error = try_job(&request, context);
		if (error == NULL || !may_try_again(error, attempts))
			break;
		note_attempt(request.job, error);
	}
	finish_job(&request, error);
}

/* ---- the maintenance worker's part ---- */

/* Jobs whose worker is gone; see board.c for why this order is right. */
static void
put_back_orphans(void)
{
	ListCell   *lc;

	foreach(lc, dbscale_ddl_query_rows("SELECT job FROM dbscale.job WHERE state = 'running' AND kind IN " JOB_KINDS ""))
	{
		int64		job = strtoll(((char **) lfirst(lc))[0], NULL, 10);

		if (board_has_job(job))
			continue;
		/* the switch is the job's end: its row says so in the same transaction */
		(void) update_job(job, "state = 'done', step = NULL, finished_at = clock_timestamp()",
						  " AND state = 'running' AND step = 'cleaning up'");
		(void) update_job(job, psprintf("state = CASE WHEN attempts < %d THEN 'waiting' ELSE 'failed' END,"
										" finished_at = CASE WHEN attempts < %d THEN NULL ELSE clock_timestamp() END,"
										" attempts = attempts + 1, error = 'its worker was killed'",
										MAX_ATTEMPTS, MAX_ATTEMPTS), " AND state = 'running'");
	}
}

void
dbscale_jobs_look_after(void)
{
	if (dbscale_ddl_query_value("SELECT 1 FROM dbscale.job WHERE state = 'running' LIMIT 1") == NULL)
		return;
	put_back_orphans();
	jobs_go_on_draining();
	jobs_end_parents();
}

/* False: there is no room for more. */
static bool
start_waiting(int64 job)
{
	JobRequest	request = {job};
	BackgroundWorkerHandle *handle;
	int			slot;

	request.from_row = true;
	request.userid = GetUserId();
	slot = board_take(&request, false);
	if (slot < 0)
		return false;
	if (board_start_worker(slot, &handle))
		return true;
	board_free(slot);
	return false;
}

void
dbscale_jobs_start_waiting(void)
{
	ListCell   *lc;

	/* what a former attempt has made must have been undone */
	foreach(lc, dbscale_ddl_query_rows("SELECT job FROM dbscale.job j WHERE state = 'waiting' AND kind IN " JOB_KINDS ""
									   " AND (not_before IS NULL OR not_before <= now())"
									   " AND NOT EXISTS (SELECT FROM dbscale.cleanup c WHERE c.job = j.job)"
									   " ORDER BY job"))
	{
		int64		job = strtoll(((char **) lfirst(lc))[0], NULL, 10);

		if (!board_has_job(job) && !start_waiting(job))
			return;
	}
}

/* ---- functions ---- */

void
jobs_sleep_a_little(void)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 100, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* The state of a job, or an error if there is none of that number. */
static char *
job_state(int64 job)
{
	char	   *state = dbscale_ddl_query_value(psprintf("SELECT state FROM dbscale.jobs WHERE job = " INT64_FORMAT, job));

	if (state == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("job " INT64_FORMAT " does not exist", job),
				 errhint("The view dbscale.jobs lists the jobs.")));
	return state;
}

static bool
is_over(const char *state)
{
	return strcmp(state, "waiting") != 0 && strcmp(state, "running") != 0;
}

/* wait_job(job bigint, timeout interval) → the state in which it is then */
Datum
dbscale_wait_job(PG_FUNCTION_ARGS)
{
	TimestampTz deadline = 0;
	char	   *state;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"job\" must not be null"),
				 errdetail("The function cannot do without it."), errhint("Give a job's number.")));
	dbscale_ddl_check_isolation("wait_job");
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("a transaction that has written cannot wait for a job"),
				 errdetail("The job may have to wait for the end of this transaction."),
				 errhint("Commit first.")));
	if (!PG_ARGISNULL(1))
		deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
														   TimestampTzGetDatum(GetCurrentTimestamp()),
														   PG_GETARG_DATUM(1)));
	while (!is_over(state = job_state(PG_GETARG_INT64(0))) &&
		   (deadline == 0 || GetCurrentTimestamp() < deadline))
		jobs_sleep_a_little();
	PG_RETURN_TEXT_P(cstring_to_text(state));
}

static void
check_may_cancel(int64 job)
{
	char	   *requested_by = dbscale_ddl_query_value(psprintf("SELECT requested_by FROM dbscale.job WHERE job = " INT64_FORMAT, job));
	Oid			role = requested_by ? get_role_oid(requested_by, true) : InvalidOid;

	if (superuser() || (OidIsValid(role) && has_privs_of_role(GetUserId(), role)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to cancel job " INT64_FORMAT, job),
			 errdetail("It was requested by another role."),
			 errhint("Ask that role, or a superuser.")));
}

/*
 * cancel_job(job bigint): what waits is cancelled here (its steps, for a drain or
 * rebalance, too); a worker is asked to stop, and sets the state itself.
 */
Datum
dbscale_cancel_job(PG_FUNCTION_ARGS)
{
	int64		job = PG_GETARG_INT64(0);
	ListCell   *lc;

	if (is_over(job_state(job)))
		PG_RETURN_BOOL(false);
	check_may_cancel(job);
	(void) dbscale_ddl_execute_as_owner(
		psprintf("UPDATE dbscale.job SET state = 'cancelled', finished_at = clock_timestamp()"
				 " WHERE (job = " INT64_FORMAT " OR parent = " INT64_FORMAT ") AND state = 'waiting'", job, job));
	(void) board_cancel(job);
	foreach(lc, dbscale_ddl_query_rows(psprintf("SELECT job FROM dbscale.job WHERE parent = " INT64_FORMAT
												" AND state = 'running'", job)))
		(void) board_cancel(strtoll(((char **) lfirst(lc))[0], NULL, 10));
	PG_RETURN_BOOL(true);
}
