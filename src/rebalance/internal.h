/*
 * internal.h
 *		What the files of rebalance/ share; no other folder includes it.
 */
#ifndef DBSCALE_REBALANCE_INTERNAL_H
#define DBSCALE_REBALANCE_INTERNAL_H

#include "rebalance/rebalance.h"

#include "access/xlogdefs.h"
#include "lib/stringinfo.h"
#include "postmaster/bgworker.h"
#include "storage/lock.h"
#include "storage/lockdefs.h"

/* ---- pgoutput.c: the messages of logical replication ---- */

typedef struct ChangeTuple
{
	int			ncolumns;
	char	   *kinds;			/* a column: 'n' NULL, 'u' unchanged and not sent, 't' text */
	const char **values;		/* NULL where there is none */
} ChangeTuple;

typedef struct ChangeRelation
{
	uint32		id;				/* its OID on the node */
	char	   *schema;
	char	   *name;
	char		identity;		/* relreplident */
	int			ncolumns;
	char	  **columns;
	bool	   *is_key;
} ChangeRelation;

typedef struct Change
{
	char		kind;			/* B C R I U D T M, as in the protocol */
	XLogRecPtr	commit_lsn;		/* B and C: where the commit's record begins */
	XLogRecPtr	end_lsn;		/* C: where it ends */
	uint32		xid;			/* B: of the transaction */
	uint32		relation;		/* I U D */
	ChangeTuple *old_tuple;		/* U D: the old key or row, if it was sent */
	ChangeTuple *new_tuple;		/* I U */
	List	   *relations;		/* T: OIDs on the node */
	ChangeRelation *description;	/* R */
	char	   *prefix;			/* M */
	char	   *content;
} Change;

/* Palloc'd; kind 0 for messages that say nothing here. */
extern Change *pgoutput_parse(const char *data, int length);

/* ---- the move ---- */

typedef struct MoveNode
{
	NameData	name;
	Oid			serverid;
	Oid			userid;
} MoveNode;

/* One table of the group. */
typedef struct MoveMember
{
	Oid			relid;
	Oid			foreign_table;
	char	   *stored;			/* the shard table's bare name: posts_3 */
	char	   *table;			/* qualified and quoted */
	char	   *columns;		/* quoted, separated by commas, without generated ones */
	int			shard;			/* of which this is the table */
	char	   *key;			/* name of the shard key */
	int			key_position;	/* among `columns`, from 0 */
	char	  **targets;		/* where its rows go: a table for each part, qualified and quoted */
} MoveMember;

/* A shard that is made of the sources; a move has one, which is the source anew. */
typedef struct Part
{
	int			number;			/* after the switch */
	int			build;			/* by which its tables are named until then */
	bool		has_hash;		/* hash, directory */
	uint32		hash_from;
	uint32		hash_to;
	char	   *bounds;			/* range, list: as dbscale.shard has them */
	char	   *label;			/* list */
	List	   *keys;			/* of char *: entries of the directory that come with it */
	char	   *home_key;		/* an entry that says nothing when the part is made: its hash is here */
} Part;

typedef struct PartRouter PartRouter;

typedef struct Apply Apply;

typedef struct Move
{
	MemoryContext context;		/* of this struct's content, reset after an error */
	int64		job;
	Oid			relid;
	int			group_id;
	int			shard;
	bool		reshards;		/* a split or merge: source and target are one node */
	List	   *sources;		/* numbers of the shards that are read; `shard` is the first */
	List	   *parts;			/* of Part * */
	PartRouter *router;			/* NULL: there is one part */
	MoveNode	source;
	MoveNode	target;
	List	   *members;		/* of MoveMember *: the sources' tables, referenced ones first */
	List	   *tables;			/* those of the first source: one for each table of the group */
	List	   *counter_objects;	/* of CounterObject *: what counters have beside the tables */
	List	   *counted_with;	/* OIDs: tables that are not in the group, but share a counter with it */
	char	   *leaving;		/* folds what counters have pending, on the source; or NULL */
	char	   *definition;		/* all that the shard's tables are made of, and where they are */
	char	   *publication;
	char	   *slot;
	RemoteStream *stream;		/* the slot's session on the source */
	RemoteStream *side;			/* asks and marks on the source */
	RemoteStream *guard;		/* holds the locks of the cut-over there */
	Apply	   *apply;
	bool		switched;
	bool		goes_on;		/* the job has steps after this one */
} Move;

/* Take over what a reload has changed. */
extern void move_reload_settings(void);
/* A transaction of this worker; what is palloc'd after commit is in the move's context. */
extern void move_begin(Move *move);
extern void move_commit(Move *move);
/* A session apart, opened outside a transaction; and the connection of the current one. */
extern RemoteStream *move_open_stream(Move *move, const MoveNode *node, bool replication);
extern RemoteConnection *move_connection(const MoveNode *node, RemoteUse use);
/* Begins a transaction that writes the copy: the connection. */
extern RemoteConnection *move_write_target(Move *move);
/* The group as it is now; an error if the shard is not on the source any more. */
extern char *move_definition(const Move *move);
extern void move_require_definition(const Move *move);
extern void move_online(Move *move);
/* An error to be tried again: what changed meanwhile will not change for ever. */
#define ERRCODE_MOVE_AGAIN ERRCODE_T_R_SERIALIZATION_FAILURE

typedef struct JobRequest JobRequest;

/* ---- parts.c ---- */

/* In a transaction: the routing of rows to parts, from these and the catalog. */
extern PartRouter *parts_router(const Move *move, const DistributedTable *table);
/* The part (its place in the list) of a row with this key as a node prints it; NULL is a null key. */
extern int	parts_route(const Move *move, const char *key);
/* Of a line of COPY, in which the key is at this position, from 0. */
extern int	parts_route_line(const Move *move, int key_position, const char *line, int length);

/* ---- reshard_plan.c ---- */

/* What is made of what. */
typedef struct Reshaping
{
	List	   *sources;		/* shard numbers */
	List	   *parts;			/* of Part *, in the order of their bounds */
} Reshaping;

/* A part's number that is still to be found. */
#define NEW_NUMBER (-1)

static inline bool
reshard_is_hashed(const TableGroup *group)
{
	return group->strategy == SHARD_HASH || group->strategy == SHARD_DIRECTORY;
}

/* What a request makes of the shards as they are; an error where it cannot be. */
extern void reshard_plan(Reshaping *plan, const JobRequest *request, const DistributedTable *table);
/* The only shard of the key, if it has one of its own; else -1. */
extern int	reshard_shard_of_key_alone(const DistributedTable *table, Datum key);
/* Is its entry of the directory all that its shard has?  So it can be merged with any other. */
extern bool reshard_has_entry_alone(const DistributedTable *table, Datum key);

/* ---- reshard.c ---- */

/* An error, before anything is done, where the request cannot be carried out. */
extern void reshard_check_arguments(const JobRequest *request);
/* In a transaction: fills in what is split or merged, and into what. */
extern void reshard_check(Move *move, const JobRequest *request);
/* What is to be as it was when the switch comes, beside the tables' definitions. */
extern void reshard_append_definition(const Move *move, const DistributedTable *table, StringInfo text);
/* In the transaction of the switch: the sources end, the parts are the shards. */
extern void reshard_switch(Move *move);

/* ---- reshard_counters.c ---- */

/* What counters have beside the sources is put aside, while the guard has its locks; then beside the parts. */
extern void reshard_set_aside(Move *move);
extern void reshard_put_back(Move *move);

/* ---- check.c ---- */
extern void move_refuse(int sqlstate, const char *message, const char *detail, const char *hint);
extern void move_check(Move *move, const char *node);
/* The group's tables, locked against being dropped until the transaction's end. */
extern const DistributedTable *move_open_group(Oid relid);
/* With sources and parts known: the rest of the move. */
extern void move_fill_in(Move *move, const DistributedTable *table);
extern void move_fill_node(MoveNode *to, const ShardNode *node);
extern void move_check_source(Move *move);
/* What only the node knows: can it send its log? */
extern void move_check_log(const Move *move, const MoveNode *node);
extern void move_check_arguments(Oid relid, int shard, const char *node);

/* ---- steps.c ---- */

/* In a transaction: the job's next step in place of the job; false if there is none left. */
extern bool steps_next(JobRequest *request);
/* How many it has, at most, when the shard is on this node. */
extern int	steps_count(const JobRequest *request, const ShardNode *from);
/* Adds to an error what the steps before have done. */
extern void steps_explain(const JobRequest *request, ErrorData *error);

/* ---- assign.c ---- */

/* As steps_next(). */
extern bool assign_next(JobRequest *request);
/* The first step's check of what only the last one needs. */
extern void assign_check_target(Move *move, const JobRequest *step);

/* ---- jobs.c ---- */
extern void jobs_sleep_a_little(void);
extern void jobs_go_on_draining(void);
extern void jobs_end_parents(void);

/* ---- copy.c ---- */
extern XLogRecPtr move_parse_lsn(const char *text);
extern void move_copy(Move *move);
/* An error when the slot keeps more of the source's log than dbscale.max_move_lag. */
extern void move_check_lag(const Move *move, const char *retained);

/* ---- apply.c ---- */
extern Apply *apply_create(Move *move, XLogRecPtr start);
/* Begin to stream. */
extern void apply_start(Apply *apply);
/* Take in what has come, without waiting; true if anything has. */
extern bool apply_take(Apply *apply);
/* Until something comes, on the stream or on these others. */
extern void apply_wait(Apply *apply, List *others, long timeout);
/* Write a mark into the source's log, and go on until it comes back; ms it took. */
extern long apply_up_to_mark(Apply *apply);
/*
 * The first transaction that this snapshot of the source (as pg_current_snapshot() prints
 * it) does not see is not applied, nor are those behind it, until it is NULL.
 */
extern void apply_hold(Apply *apply, const char *snapshot);
/* Where the one that waits commits; InvalidXLogRecPtr: none waits. */
extern XLogRecPtr apply_held_at(const Apply *apply);
/* Nothing that was taken is uncommitted on the target. */
extern bool apply_is_idle(const Apply *apply);

/* ---- verify.c ---- */
extern void move_verify(Move *move);

/* ---- cutover.c ---- */
extern void move_switch(Move *move);
extern void placement_switch(int group_id, int shard, List *foreign_tables, const char *node);

/* ---- blocking.c ---- */
extern void move_shard_blocking(Oid relid, int shard, const char *node);

/* ---- cleanup.c ---- */
extern void cleanup_record(const Move *move, const char *node, const char *kind, const char *name);
extern void cleanup_record_later(const Move *move, const char *node, const char *kind, const char *name);
/* Forget the target's tables and functions: they are the catalog's. */
extern void cleanup_forget(const Move *move, const char *node);
extern bool cleanup_exists(const char *node, const char *kind, const char *name);
/* Is it the snapshot of this backend that a table is kept for? */
extern bool cleanup_waits_for(const char *node, const char *name, int pid);
/* Outside a transaction: work through what is due of a job, errors being left for later. */
extern void cleanup_run(int64 job, MemoryContext context);

/* ---- board.c ---- */

typedef enum JobKind
{
	JOB_MOVE,
	JOB_SPLIT,
	JOB_ISOLATE,
	JOB_MERGE,
	JOB_ASSIGN
} JobKind;

/* What a job's text may be long: a key, or a bound. */
#define JOB_ARGUMENT 3000

struct JobRequest
{
	int64		job;
	JobKind		kind;
	Oid			userid;
	Oid			relation;
	int			shard;
	NameData	node;			/* where the shard, or its parts, are to be */
	int			number;			/* split: how many parts; merge: into which shard; assign: to which; isolate: 1 if
								 * the caller named the node */
	bool		has_argument;
	char		argument[JOB_ARGUMENT]; /* split: the bound; isolate, assign: the key's text */
	int			steps;			/* how many the job has (steps.c) */
	bool		of_assign;		/* a move, isolate or merge that is a step of an assign, whose number and argument it has */
	bool		locks_target;	/* a step on the way to shard `number` */
	bool		goes_on;		/* a step that has others after it */
	bool		from_row;		/* the rest is in the job's row of dbscale.job */
};

typedef struct JobOutcome
{
	bool		failed;
	int			sqlstate;
	char		message[1024];
	char		detail[1024];
	char		hint[1024];
} JobOutcome;

/* A slot for a job of this database, or -1: dbscale.max_moves are at work. */
extern int	board_take(const JobRequest *request, bool with_caller);
extern void board_free(int slot);
/* Starts the worker of a slot; false when the server has none left. */
extern bool board_start_worker(int slot, BackgroundWorkerHandle **handle);
/* The caller's side: has it ended?  Then the slot is free. */
extern bool board_has_ended(int slot, JobOutcome *outcome);
/* The caller does not wait any more. */
extern void board_abandon(int slot);
extern bool board_has_job(int64 job);
/* Ask the job's worker to stop; false if there is none. */
extern bool board_cancel(int64 job);
/* The worker's side. */
extern JobRequest *board_request(void);
extern void board_set_job(int64 job);
extern bool board_is_cancelled(void);
extern void board_set_outcome(const JobOutcome *outcome);
extern int	board_caller(void);

#endif							/* DBSCALE_REBALANCE_INTERNAL_H */
