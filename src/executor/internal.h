/*
 * internal.h
 *		What the files of executor/ share with each other only.
 */
#ifndef DBSCALE_EXECUTOR_INTERNAL_H
#define DBSCALE_EXECUTOR_INTERNAL_H

#include "executor/wrapper.h"

#include "access/htup.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "foreign/fdwapi.h"
#include "lib/stringinfo.h"
#include "nodes/execnodes.h"
#include "plan/plan.h"
#include "portability/instr_time.h"
#include "utils/resowner.h"

/* ---- convert.c: values on the wire, in COPY, parameters and results ---- */

typedef enum WireKind
{
	WIRE_TEXT,					/* the type's output and input functions */
	WIRE_FIXED1,				/* binary: an integer of 1, 2, 4 or 8 bytes */
	WIRE_FIXED2,
	WIRE_FIXED4,
	WIRE_FIXED8,
	WIRE_FLOAT4,
	WIRE_FLOAT8,
	WIRE_BYTES,					/* binary: the bytes of a varlena as they are */
	WIRE_UUID,
	WIRE_JSONB,
	WIRE_LABEL,					/* an enum: its label, which is text and binary at once */
	WIRE_SEND					/* binary: the type's send and receive functions */
} WireKind;

/* How one column or parameter is written. */
typedef struct WireWriter
{
	WireKind	kind;
	int			format;			/* 0 text, 1 binary */
	FmgrInfo	function;		/* output or send function */
} WireWriter;

/* How one result field is read. */
typedef struct WireReader
{
	WireKind	kind;
	Oid			ioparam;
	int32		typmod;
	FmgrInfo	function;		/* input or receive function */
} WireReader;

/* True when all versions and both sides agree on the type's binary form. */
extern bool dbscale_wire_is_binary(Oid type);
extern void dbscale_wire_init_writer(WireWriter *writer, Oid type, bool binary);
extern void dbscale_wire_init_reader(WireReader *reader, Oid type, int32 typmod, bool binary);
/* Appends the value without its length. */
extern void dbscale_wire_write(WireWriter *writer, StringInfo buf, Datum value);
extern Datum dbscale_wire_read(WireReader *reader, const char *value, int length);

/* Text written for a node must not depend on this session's settings. */
extern int	dbscale_wire_enter(void);	/* returns a nest level */
extern void dbscale_wire_leave(int nestlevel);

/* A set of parameter values being built; reused from statement to statement. */
typedef struct ParamSet
{
	int			count;
	WireWriter *writers;
	bool		has_text;		/* some value needs dbscale_wire_enter */
	StringInfoData buf;
	int		   *offsets;		/* into buf; -1 for NULL */
	const char **values;
	int		   *lengths;
	int		   *formats;
	RemoteParams params;
} ParamSet;

/* `binary`: use the binary form where a type has a safe one. */
extern ParamSet *dbscale_params_create(int count, const Oid *types, bool binary);
extern const RemoteParams *dbscale_params_set(ParamSet *set, const Datum *values, const bool *nulls);

/* Result rows to tuples: field i of the result is attribute attnos[i] of desc. */
typedef struct RowReader
{
	TupleDesc	desc;
	const char *label;
	int			nfields;
	AttrNumber *attnos;			/* SelfItemPointerAttributeNumber: ctid */
	WireReader *readers;
	Datum	   *values;
	bool	   *nulls;
	bool		binary;
	int			current;		/* field being read, for error messages */
} RowReader;

/*
 * retrieved_attrs is a list of attribute numbers in the order of the result's
 * fields.  With allow_binary, reader->binary tells if REMOTE_BINARY is to be asked.
 */
extern RowReader *dbscale_row_reader_create(TupleDesc desc, List *retrieved_attrs,
											bool allow_binary, const char *label);
/* Allocates in the current memory context. */
extern HeapTuple dbscale_row_reader_tuple(RowReader *reader, const RemoteRow *row);

/* ---- run.c: what the foreign scans and modifications of one executor run share ---- */

typedef struct ForeignScanRun ForeignScanRun;

typedef struct WriteQueue WriteQueue;

/* A custom scan that reads shards, as its run knows it. */
typedef struct RunReader
{
	void	   *scan;
	void		(*send) (void *scan);
	void		(*keep) (void *scan);	/* its rows outlive the current subtransaction */
	List	   *relations;		/* OIDs of the tables it reads */
	Oid			userid;
	bool		depends;		/* on parameters that the executor computes on the way */
	bool		sent;
	bool		ended;
} RunReader;

typedef struct PlanRun
{
	dlist_node	node;
	EState	   *estate;
	List	   *scans;			/* of ForeignScanRun *, plain scans */
	List	   *directs;		/* of ForeignScanRun *, direct modifications */
	List	   *readers;		/* of RunReader *, custom scans */
	List	   *modified;		/* OIDs of foreign tables written, and of their ancestors */
	List	   *loaders;		/* of ShardLoader * */
	struct HTAB *written;		/* rows written by this statement: see modify.c */
	WriteQueue *queue;			/* see writes.c; NULL until it is needed */
	ResourceOwner owner;		/* of the portal or function that runs it */
	void		(*send_router) (void *arg);	/* of a plan that is one router scan */
	void	   *router;			/* its argument */
	bool		sent;			/* the scans that could be sent ahead have been */
	bool		use_known;
	bool		alone;			/* outside a transaction block: reads may go without BEGIN */
	bool		together;		/* snapshots of one moment have been opened for it */
	bool		declares;		/* its reads are cursors, declared at one moment */
	TogetherReads *declaring;	/* while they are sent */
} PlanRun;

/* One ForeignScan node: a scan, or a direct modification. */
struct ForeignScanRun
{
	ForeignScanState *node;
	PlanRun *run;
	Oid			serverid;
	Oid			userid;
	char	   *sql;
	const char *label;			/* the shard tables read or written */
	List	   *relations;		/* OIDs of the tables the plan node names */
	int			flags;			/* for dbscale_remote_send */
	bool		locks_rows;
	bool		ended;

	RowReader  *reader;
	List	   *param_states;	/* of ExprState * */
	ParamSet   *params;
	Bitmapset  *exec_params;	/* PARAM_EXEC numbers the statement depends on */

	RemoteStatement *statement; /* NULL: not sent */
	bool		at_start;		/* sent or rewound, and nothing read since */
	bool		at_end;
	MemoryContext row_context;	/* reset at each row */

	/* direct modifications only */
	bool		has_returning;
	bool		set_processed;
	uint64		dummies;		/* rows still to be returned that have no column */
	ResultRelInfo *result_rel;
};

extern PlanRun *dbscale_run_get(EState *estate);
/* The nesting level of the transaction that what the plan reads belongs to. */
extern int	dbscale_run_nest_level(EState *estate);
/* Fill in what scans and direct modifications have in common, and register. */
extern ForeignScanRun *dbscale_run_add_scan(ForeignScanState *node, List *fdw_private, bool direct);
extern void dbscale_run_add_reader(PlanRun *run, RunReader *reader);
/* As dbscale_run_send, for a custom scan. */
extern void dbscale_run_send_reader(PlanRun *run, RunReader *reader);
/* Which transaction a statement of a custom scan to this node takes. */
extern RemoteUse dbscale_run_use(PlanRun *run, Oid serverid, Oid userid);
/* Send this scan, and with it every other that can go now. */
extern void dbscale_run_send(ForeignScanRun *scan);
/* As dbscale_remote_send, for a statement that only reads. */
extern RemoteStatement *dbscale_run_send_read(PlanRun *run, RemoteConnection *conn, const char *sql,
											  const RemoteParams *params, int flags, const char *label);
/*
 * A connection to read through, for what the plan's snapshot sees: writes of statements
 * that are still running, put off so far, stay so where it does not see them.
 */
extern RemoteConnection *dbscale_run_connection(EState *estate, Oid serverid, Oid userid,
												RemoteUse use);
/* Is what this run writes seen by whoever is about to read now? */
extern bool dbscale_run_is_visible(PlanRun *writer);
/* Every scan sees the data as they were before: send them first. */
extern void dbscale_run_before_write(PlanRun *run);
/* The run writes to the foreign table; counts as one write of the shard, however many rows. */
extern void dbscale_run_note_write(PlanRun *run, Oid foreign_table);
extern void dbscale_run_close(ForeignScanRun *scan);

/* ---- alone.c ---- */

/* May the node commit what the statement writes as soon as it is done? */
extern bool dbscale_run_is_whole_transaction(EState *estate, TupleDesc returned);

/* ---- writes.c: row by row writes, put off ---- */

/* Where a write goes, and how. */
typedef struct RowTarget
{
	Oid			foreign_table;
	Oid			serverid;
	Oid			userid;
	const char *label;
	const char *sql;
} RowTarget;

/* The target must live as long as the run; the parameters are copied. */
extern void dbscale_writes_add(PlanRun *run, const RowTarget *target, const RemoteParams *params);
extern void dbscale_writes_flush(PlanRun *run);

/* ---- explain.c ---- */

/* What a node has sent for a scan. */
typedef struct NodeResult
{
	const char *node;
	uint64		rows;
	uint64		bytes;
	bool		at_end;
	instr_time	sent_at;
	double		elapsed;		/* ms */
} NodeResult;

/* A statement goes out; the first one counts. */
extern void dbscale_result_sent(NodeResult *result);
extern void dbscale_result_row(NodeResult *result, const RemoteRow *row);
/* All rows that were expected of the node are here. */
extern void dbscale_result_end(NodeResult *result);
/* The nodes of a list of NodeResult, and how many shards of the table. */
extern void dbscale_explain_shards(List *results, int shards, const DistributedTable *table, ExplainState *es);
/* What they have sent, under ANALYZE. */
extern void dbscale_result_explain(List *results, ExplainState *es);

/* ---- the callbacks, file by file ---- */

extern void dbscale_scan_set_callbacks(FdwRoutine *routine);
extern void dbscale_direct_set_callbacks(FdwRoutine *routine);
extern void dbscale_modify_set_callbacks(FdwRoutine *routine);
extern void dbscale_maintain_set_callbacks(FdwRoutine *routine);

/* ---- security.c ---- */

/* Call it last: it wraps the planning callbacks that are set. */
extern void dbscale_security_wrap_callbacks(FdwRoutine *routine);

/* ---- locking.c ---- */

/* Does the scan's statement end in FOR UPDATE or FOR SHARE? */
extern bool dbscale_locking_is_in(const char *sql);
extern void dbscale_locking_wrap_callbacks(FdwRoutine *routine);
extern void dbscale_security_check_row(EState *estate, ResultRelInfo *rinfo,
									   TupleTableSlot *slot, bool insert);

/* ---- remote_table.c: names and statements of one shard table ---- */

/* Qualified and quoted, from the foreign table's options. */
extern char *dbscale_remote_table_name(Oid foreign_table);
extern const char *dbscale_remote_column_name(Oid foreign_table, AttrNumber attno, const char *local);
/* For error messages: the name of the shard table, unquoted. */
extern char *dbscale_remote_label(Oid foreign_table);
/* Attributes that are stored and not generated; a list of int. */
extern List *dbscale_writable_columns(TupleDesc desc);
extern char *dbscale_insert_sql(Oid foreign_table, TupleDesc desc, List *columns,
								bool do_nothing, bool returning, List **retrieved);
extern char *dbscale_copy_sql(Oid foreign_table, TupleDesc desc, List *columns, bool binary);

/* ---- placement.c: is the row where it belongs? ---- */

typedef struct Placement
{
	Oid			foreign_table;
	bool		known;			/* a shard of a distributed table */
	Oid			parent;
	int			shard;
	AttrNumber	key_attno;		/* of the foreign table */
} Placement;

extern void dbscale_placement_init(Placement *placement, Relation foreign_table);
/* The shard the row belongs to, or -1: none. */
extern int	dbscale_placement_route(const Placement *placement, TupleTableSlot *slot);
/* The foreign table of another shard of the same table, locked for writing. */
extern Oid	dbscale_placement_table(const Placement *placement, int shard);
pg_noreturn extern void dbscale_placement_refuse(const Placement *placement, int shard);

/* As core says it of a row that no partition takes. */
pg_noreturn extern void dbscale_refuse_key(const DistributedTable *table, Datum key, Oid type, bool isnull);

/* ---- fanout_scan.c ---- */

/* Numbers of the shards that the task's keys choose, given its expressions' types and values. */
extern Bitmapset *dbscale_fanout_choose_shards(const FanoutTask *task, List *types,
											   const DistributedTable *table, Datum *values, bool *nulls);

/* Same, for EXPLAIN; false where the keys are not constants. */
extern bool dbscale_fanout_constant_shards(const FanoutTask *task, List *exprs, List *types,
										   const DistributedTable *table, Bitmapset **shards);

/* ---- loader.c ---- */

/* The loader of this executor run and user. */
extern ShardLoader *dbscale_loader_of_run(PlanRun *run, Oid userid);
/* As dbscale_loader_add, for a row in the layout of `layout`. */
extern void dbscale_loader_add_row(ShardLoader *loader, Oid foreign_table, Relation layout,
								   TupleTableSlot *slot);
extern void dbscale_loader_sync(ShardLoader *loader);

#endif							/* DBSCALE_EXECUTOR_INTERNAL_H */
