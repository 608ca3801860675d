/*
 * board.c
 *		The board: which jobs are under way in which worker, in shared memory.
 *
 * A move has a background worker of its own.  Whoever wants one takes a slot of the
 * board, writes down what is to be done (or only the number of a job whose row says
 * so), and has the postmaster start the worker, which finds the slot by its number.
 *
 *		FREE       nobody's
 *		STARTING   taken; the worker has been asked for
 *		RUNNING    the worker is there
 *		ENDED      it has left its outcome for the caller, who frees the slot
 *
 * A worker that exits leaves the slot ENDED when a caller waits, else FREE; one that
 * is killed takes the shared memory with it.  So a job whose row says "running" and
 * which is not on the board has lost its worker:
 *	1. a worker commits the job's last state before it leaves the board, so who reads
 *	   the row after he has looked at the board in vain reads the last state;
 *	2. a job is on the board before its row says "running".
 * At most dbscale.max_moves slots of a database are in use.
 */
#include "rebalance/internal.h"

#include <signal.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/timestamp.h"

#define BOARD_SLOTS 64
/* A worker that has not come by then never will. */
#define START_TIMEOUT_MS 60000

typedef enum SlotState
{
	SLOT_FREE,
	SLOT_STARTING,
	SLOT_RUNNING,
	SLOT_ENDED
} SlotState;

typedef struct BoardSlot
{
	SlotState	state;
	Oid			database;
	pid_t		worker;			/* 0: not there yet */
	pid_t		caller;			/* who waits for the outcome; 0: nobody */
	bool		cancelled;
	TimestampTz taken_at;
	JobRequest	request;
	JobOutcome	outcome;
} BoardSlot;

typedef struct Board
{
	BoardSlot	slots[BOARD_SLOTS];
} Board;

static Board *board = NULL;
static LWLock *lock = NULL;
static BoardSlot *my_slot = NULL;	/* in a job's worker */

void
dbscale_rebalance_init(void)
{
	dbscale_shared_area("dbscale_board", sizeof(Board), (void **) &board, &lock);
}

/* ---- whoever wants something done ---- */

/* A start that came to nothing and that nobody waits for is forgotten. */
static bool
is_used(BoardSlot *slot)
{
	if (slot->state == SLOT_STARTING && slot->caller == 0 &&
		TimestampDifferenceExceeds(slot->taken_at, GetCurrentTimestamp(), START_TIMEOUT_MS))
		slot->state = SLOT_FREE;
	return slot->state != SLOT_FREE;
}

int
board_take(const JobRequest *request, bool with_caller)
{
	int			used = 0;
	int			result = -1;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < BOARD_SLOTS; i++)
	{
		BoardSlot  *slot = &board->slots[i];

		if (!is_used(slot))
			result = i;
		else if (slot->database == MyDatabaseId && slot->state != SLOT_ENDED)
			used++;
	}
	if (used >= dbscale_max_moves)
		result = -1;
	if (result >= 0)
	{
		BoardSlot  *slot = &board->slots[result];

		memset(slot, 0, sizeof(BoardSlot));
		slot->state = SLOT_STARTING;
		slot->database = MyDatabaseId;
		slot->caller = with_caller ? MyProcPid : 0;
		slot->taken_at = GetCurrentTimestamp();
		slot->request = *request;
	}
	LWLockRelease(lock);
	return result;
}

void
board_free(int slot)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	board->slots[slot].state = SLOT_FREE;
	LWLockRelease(lock);
}

bool
board_start_worker(int slot, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "dbscale", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "dbscale_job_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "dbscale job in slot %d", slot);
	strlcpy(worker.bgw_type, "dbscale job", BGW_MAXLEN);
	worker.bgw_main_arg = Int32GetDatum(slot);
	worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

bool
board_has_ended(int number, JobOutcome *outcome)
{
	BoardSlot  *slot = &board->slots[number];
	bool		ended;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	ended = slot->state == SLOT_ENDED;
	if (ended)
	{
		*outcome = slot->outcome;
		slot->state = SLOT_FREE;
	}
	LWLockRelease(lock);
	return ended;
}

/* Under the lock: a worker that is not there yet finds the flag when it comes. */
static void
cancel_slot(BoardSlot *slot)
{
	slot->cancelled = true;
	if (slot->worker != 0)
		kill(slot->worker, SIGINT);
}

void
board_abandon(int number)
{
	BoardSlot  *slot = &board->slots[number];

	LWLockAcquire(lock, LW_EXCLUSIVE);
	slot->caller = 0;
	if (slot->state == SLOT_ENDED)
		slot->state = SLOT_FREE;
	else if (slot->state != SLOT_FREE)
		cancel_slot(slot);
	LWLockRelease(lock);
}

static BoardSlot *
find_job(int64 job)
{
	for (int i = 0; i < BOARD_SLOTS; i++)
	{
		BoardSlot  *slot = &board->slots[i];

		if (is_used(slot) && slot->state != SLOT_ENDED && slot->database == MyDatabaseId &&
			slot->request.job == job)
			return slot;
	}
	return NULL;
}

bool
board_has_job(int64 job)
{
	bool		found;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	found = find_job(job) != NULL;
	LWLockRelease(lock);
	return found;
}

bool
board_cancel(int64 job)
{
	BoardSlot  *slot;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	slot = find_job(job);
	if (slot != NULL)
		cancel_slot(slot);
	LWLockRelease(lock);
	return slot != NULL;
}

/* ---- the worker ---- */

static void
detach_worker(int code, Datum arg)
{
	PGPROC	   *caller;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	my_slot->worker = 0;
	my_slot->state = my_slot->caller != 0 ? SLOT_ENDED : SLOT_FREE;
	caller = my_slot->caller != 0 ? BackendPidGetProc(my_slot->caller) : NULL;
	LWLockRelease(lock);
	if (caller != NULL)
		SetLatch(&caller->procLatch);
}

/* Until the worker says otherwise it has been cut short. */
static void
assume_failure(JobOutcome *outcome)
{
	outcome->failed = true;
	outcome->sqlstate = ERRCODE_ADMIN_SHUTDOWN;
	strlcpy(outcome->message, "the job's worker was terminated", sizeof(outcome->message));
	strlcpy(outcome->detail, "The maintenance worker takes the job up again.", sizeof(outcome->detail));
}

Oid
dbscale_board_attach(int slot)
{
	Oid			database = InvalidOid;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (board->slots[slot].state == SLOT_STARTING && board->slots[slot].worker == 0)
	{
		my_slot = &board->slots[slot];
		my_slot->state = SLOT_RUNNING;
		my_slot->worker = MyProcPid;
		assume_failure(&my_slot->outcome);
		database = my_slot->database;
	}
	LWLockRelease(lock);
	if (OidIsValid(database))
		before_shmem_exit(detach_worker, (Datum) 0);
	return database;
}

JobRequest *
board_request(void)
{
	return &my_slot->request;
}

void
board_set_job(int64 job)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	my_slot->request.job = job;
	LWLockRelease(lock);
}

bool
board_is_cancelled(void)
{
	return my_slot->cancelled;
}

void
board_set_outcome(const JobOutcome *outcome)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	my_slot->outcome = *outcome;
	LWLockRelease(lock);
}

int
board_caller(void)
{
	return my_slot->caller;
}
