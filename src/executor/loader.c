/*
 * loader.c
 *		Rows on their way to shards, buffered and streamed with COPY.
 *
 * Nouns: a *target* is one shard table with its buffer.  A row is encoded into its
 * target's buffer at once, in the form of COPY BINARY: a field count, then each
 * field's length and bytes.  Where some column's type has no safe binary form, all
 * fields are text in that same framing, and become COPY TEXT on the way out.
 *
 * When a buffer is full, its rows go out as one COPY.  Neither the node's consent to
 * the COPY nor its end is awaited: the node works while the next buffers fill, and
 * the buffer fills until the consent is there.  Every now and then the nodes are
 * looked after: rows follow a consent, what the socket did not take at first is sent
 * on, and a node that has become idle gets its fullest buffer.  Buffers of a node that
 * is busy may grow to twice their size; only then do we wait, for whichever node is the
 * first to want something.
 *
 * Rows are spread evenly, so all buffers would be full at the same time and the nodes
 * idle in between; therefore each target's first buffer is cut short by another
 * fraction, after which the flushes stay spread over time.
 *
 * A few rows are not worth a COPY, which costs two round trips: they go as prepared
 * INSERTs, with the encoded fields as parameters.  A single-row INSERT is this case.
 *
 * Whatever else wants to talk to a node finds the rows sent before it: the loader is
 * a pending batch of transaction/ as long as it holds any.
 */
#include "executor/internal.h"

#include "catalog/pg_type.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* As many rows of one shard as are sent by INSERT rather than COPY. */
#define FEW_ROWS 4

/* The nodes are looked after each time so many rows have been added. */
#define TEND_INTERVAL 128

static const char copy_header[] = "PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0";
#define COPY_HEADER_SIZE 19

typedef struct TargetKey
{
	Oid			foreign_table;
	Oid			layout;			/* the relation whose row type the slots have */
} TargetKey;

/* A server with rows on their way. */
typedef struct LoadNode
{
	Oid			serverid;
	RemoteConnection *conn;		/* while a COPY runs, as far as we have looked; else NULL */
	struct LoadTarget *starting;	/* whose COPY it is, while it still waits for consent */
	bool		unsynced;		/* sent to since the last sync */
} LoadNode;

typedef struct LoadTarget
{
	TargetKey	key;
	LoadNode   *node;
	const char *label;
	char	   *copy_sql;
	char	   *insert_sql;
	bool		binary;
	bool		needs_settings; /* text that depends on DateStyle and the like */
	int			ncolumns;
	AttrNumber *attnos;
	WireWriter *writers;
	StringInfoData buf;
	int			limit;			/* flush at this many bytes */
	int			rows;
} LoadTarget;

struct ShardLoader
{
	MemoryContext context;
	MemoryContext row_context;
	Relation	rel;			/* layout of dbscale_loader_add; NULL for a run's loader */
	PlanRun    *run;			/* NULL for distribute_table's and its like */
	Oid			userid;
	HTAB	   *index;			/* TargetKey -> LoadTarget * */
	List	   *targets;
	LoadTarget *last;			/* most rows follow one of their own shard */
	List	   *nodes;			/* of LoadNode * */
	int			untended;		/* rows added since the nodes were looked after */
	bool		pending;		/* known to transaction/ */
	bool		flushing;
};

typedef struct LoaderIndexEntry
{
	TargetKey	key;
	LoadTarget *target;
} LoaderIndexEntry;

static void flush_pending(void *arg);

static ShardLoader *
create_loader(Relation rel, Oid userid, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "dbscale loader",
												  ALLOCSET_DEFAULT_SIZES);
	ShardLoader *loader = MemoryContextAllocZero(context, sizeof(ShardLoader));
	HASHCTL		ctl = {0};

	loader->context = context;
	loader->row_context = AllocSetContextCreate(context, "dbscale loader row",
												ALLOCSET_SMALL_SIZES);
	loader->rel = rel;
	loader->userid = userid;
	ctl.keysize = sizeof(TargetKey);
	ctl.entrysize = sizeof(LoaderIndexEntry);
	ctl.hcxt = context;
	loader->index = hash_create("dbscale loader targets", 64, &ctl,
								HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	return loader;
}

ShardLoader *
dbscale_loader_begin(Relation rel, Oid userid)
{
	return create_loader(rel, userid, CurrentMemoryContext);
}

ShardLoader *
dbscale_loader_of_run(PlanRun *run, Oid userid)
{
	ListCell   *lc;
	MemoryContext caller;
	ShardLoader *loader;

	foreach(lc, run->loaders)
	{
		loader = lfirst(lc);
		if (loader->userid == userid)
			return loader;
	}
	caller = MemoryContextSwitchTo(run->estate->es_query_cxt);
	loader = create_loader(NULL, userid, CurrentMemoryContext);
	loader->run = run;
	run->loaders = lappend(run->loaders, loader);
	MemoryContextSwitchTo(caller);
	return loader;
}

/* ---- targets ---- */

/* Types whose output is the same under any settings. */
static bool
ignores_settings(Oid type)
{
	Oid			element;

	type = getBaseType(type);
	element = get_element_type(type);
	if (OidIsValid(element))
		type = getBaseType(element);
	switch (type)
	{
		case BOOLOID:
		case BYTEAOID:
		case CHAROID:
		case NAMEOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case JSONOID:
		case JSONBOID:
		case UUIDOID:
		case TSVECTOROID:
			return true;
		default:
			return get_typtype(type) == TYPTYPE_ENUM;
	}
}

static void
prepare_columns(LoadTarget *target, TupleDesc desc, List *columns)
{
	bool		is_shard;
	int			shard;
	ListCell   *lc;

	/* the types on the node are known to be the same for shards only */
	is_shard = dbscale_catalog_owner_of(target->key.foreign_table, &shard) != NULL;
	target->binary = is_shard;
	target->ncolumns = list_length(columns);
	target->attnos = palloc(sizeof(AttrNumber) * Max(target->ncolumns, 1));
	target->writers = palloc(sizeof(WireWriter) * Max(target->ncolumns, 1));
	foreach(lc, columns)
	{
		Oid			type = TupleDescAttr(desc, lfirst_int(lc) - 1)->atttypid;

		target->attnos[foreach_current_index(lc)] = lfirst_int(lc);
		if (!dbscale_wire_is_binary(type))
			target->binary = false;
		if (!ignores_settings(type))
			target->needs_settings = true;
	}
	for (int i = 0; i < target->ncolumns; i++)
		dbscale_wire_init_writer(&target->writers[i],
								 TupleDescAttr(desc, target->attnos[i] - 1)->atttypid,
								 target->binary);
	if (target->binary)
		target->needs_settings = false;
}

static void
reset_buffer(LoadTarget *target)
{
	resetStringInfo(&target->buf);
	appendBinaryStringInfo(&target->buf, copy_header, COPY_HEADER_SIZE);
	target->rows = 0;
	target->limit = dbscale_copy_buffer_size * 1024;
}

/* In the current memory context, which is the loader's. */
static LoadNode *
find_node(ShardLoader *loader, Oid serverid)
{
	LoadNode   *node;
	ListCell   *lc;

	foreach(lc, loader->nodes)
	{
		node = lfirst(lc);
		if (node->serverid == serverid)
			return node;
	}
	node = palloc0(sizeof(LoadNode));
	node->serverid = serverid;
	loader->nodes = lappend(loader->nodes, node);
	return node;
}

static LoadTarget *
create_target(ShardLoader *loader, TargetKey key, TupleDesc desc)
{
	MemoryContext caller = MemoryContextSwitchTo(loader->context);
	LoadTarget *target = palloc0(sizeof(LoadTarget));
	List	   *columns = dbscale_writable_columns(desc);
	double		fraction;

	target->key = key;
	target->node = find_node(loader, GetForeignTable(key.foreign_table)->serverid);
	target->label = dbscale_remote_label(key.foreign_table);
	prepare_columns(target, desc, columns);
	target->copy_sql = dbscale_copy_sql(key.foreign_table, desc, columns, target->binary);
	target->insert_sql = dbscale_insert_sql(key.foreign_table, desc, columns, false, false, NULL);
	initStringInfo(&target->buf);
	reset_buffer(target);

	/* multiples of the golden ratio spread evenly, however many there are */
	fraction = list_length(loader->targets) * 0.6180339887;
	fraction -= (int) fraction;
	target->limit *= 0.1 + 0.9 * fraction;

	loader->targets = lappend(loader->targets, target);
	MemoryContextSwitchTo(caller);
	return target;
}

static LoadTarget *
find_target(ShardLoader *loader, Oid foreign_table, Relation layout)
{
	TargetKey	key = {foreign_table, RelationGetRelid(layout)};
	LoaderIndexEntry *entry;
	bool		found;

	if (loader->last != NULL && loader->last->key.foreign_table == key.foreign_table &&
		loader->last->key.layout == key.layout)
		return loader->last;
	entry = hash_search(loader->index, &key, HASH_FIND, &found);
	if (!found)
	{
		LoadTarget *target = create_target(loader, key, RelationGetDescr(layout));

		entry = hash_search(loader->index, &key, HASH_ENTER, &found);
		entry->target = target;
	}
	loader->last = entry->target;
	return loader->last;
}

/* ---- rows in ---- */

static void
encode_row(LoadTarget *target, TupleTableSlot *slot)
{
	StringInfo	buf = &target->buf;
	uint16		count = pg_hton16((uint16) target->ncolumns);

	slot_getallattrs(slot);
	appendBinaryStringInfo(buf, (char *) &count, sizeof(count));
	for (int i = 0; i < target->ncolumns; i++)
	{
		AttrNumber	attno = target->attnos[i];
		int			start = buf->len;
		uint32		length = pg_hton32((uint32) -1);

		appendBinaryStringInfo(buf, (char *) &length, sizeof(length));
		if (slot->tts_isnull[attno - 1])
			continue;
		dbscale_wire_write(&target->writers[i], buf, slot->tts_values[attno - 1]);
		length = pg_hton32((uint32) (buf->len - start - sizeof(length)));
		memcpy(buf->data + start, &length, sizeof(length));
	}
	target->rows++;
}

static void tend_nodes(ShardLoader *loader, double least);
static void make_room(ShardLoader *loader, LoadTarget *target);

void
dbscale_loader_add_row(ShardLoader *loader, Oid foreign_table, Relation layout,
					   TupleTableSlot *slot)
{
	LoadTarget *target = find_target(loader, foreign_table, layout);
	MemoryContext caller = MemoryContextSwitchTo(loader->row_context);
	int			nestlevel = target->needs_settings ? dbscale_wire_enter() : 0;

	encode_row(target, slot);
	if (target->needs_settings)
		dbscale_wire_leave(nestlevel);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(loader->row_context);

	if (!loader->pending)
	{
		dbscale_transaction_add_pending(flush_pending, loader);
		loader->pending = true;
	}
	if (target->buf.len >= target->limit &&
		(target->buf.len >= 2 * target->limit || target->node->conn == NULL))
		make_room(loader, target);
	if (++loader->untended >= TEND_INTERVAL)
		tend_nodes(loader, 1.0);
}

void
dbscale_loader_add(ShardLoader *loader, Oid foreign_table, TupleTableSlot *slot)
{
	dbscale_loader_add_row(loader, foreign_table, loader->rel, slot);
}

/* ---- rows out ---- */

/* One field of the buffer: its bytes, or NULL; the cursor moves past it. */
static const char *
next_field(const char **cursor, int *length)
{
	uint32		n;
	const char *bytes;

	memcpy(&n, *cursor, sizeof(n));
	*cursor += sizeof(n);
	*length = (int) pg_ntoh32(n);
	if (*length < 0)
		return NULL;
	bytes = *cursor;
	*cursor += *length;
	return bytes;
}

/* COPY TEXT of the rows in the buffer, in the current memory context. */
static StringInfo
text_of_rows(LoadTarget *target)
{
	StringInfo	text = makeStringInfo();
	const char *cursor = target->buf.data + COPY_HEADER_SIZE;
	const char *end = target->buf.data + target->buf.len;

	while (cursor < end)
	{
		cursor += sizeof(uint16);
		for (int i = 0; i < target->ncolumns; i++)
		{
			int			length;
			const char *bytes = next_field(&cursor, &length);

			if (i > 0)
				appendStringInfoCharMacro(text, '\t');
			if (bytes == NULL)
				appendBinaryStringInfo(text, "\\N", 2);
			for (int k = 0; bytes != NULL && k < length; k++)
				switch (bytes[k])
				{
					case '\\':
						appendBinaryStringInfo(text, "\\\\", 2);
						break;
					case '\t':
						appendBinaryStringInfo(text, "\\t", 2);
						break;
					case '\n':
						appendBinaryStringInfo(text, "\\n", 2);
						break;
					case '\r':
						appendBinaryStringInfo(text, "\\r", 2);
						break;
					default:
						appendStringInfoCharMacro(text, bytes[k]);
				}
		}
		appendStringInfoCharMacro(text, '\n');
	}
	return text;
}

/* The node has consented to the target's COPY. */
static void
send_rows(RemoteConnection *conn, LoadTarget *target)
{
	if (target->binary)
	{
		appendBinaryStringInfo(&target->buf, "\377\377", 2);	/* the end: field count -1 */
		dbscale_remote_copy_data(conn, target->buf.data, target->buf.len);
	}
	else
	{
		StringInfo	text = text_of_rows(target);

		dbscale_remote_copy_data(conn, text->data, text->len);
		pfree(text->data);
		pfree(text);
	}
	dbscale_remote_copy_end(conn);
	reset_buffer(target);
}

/* The rows of the buffer as INSERTs, sent together; the statements are the result. */
static List *
send_inserts(RemoteConnection *conn, LoadTarget *target)
{
	List	   *statements = NIL;
	const char *cursor = target->buf.data + COPY_HEADER_SIZE;
	int			n = target->ncolumns;
	const char **values = palloc(sizeof(char *) * Max(n, 1));
	int		   *lengths = palloc0(sizeof(int) * Max(n, 1));
	int		   *formats = palloc(sizeof(int) * Max(n, 1));
	RemoteParams params = {n, NULL, values, lengths, formats};

	for (int row = 0; row < target->rows; row++)
	{
		cursor += sizeof(uint16);
		for (int i = 0; i < n; i++)
		{
			const char *bytes = next_field(&cursor, &lengths[i]);

			formats[i] = target->writers[i].format;
			values[i] = bytes;
			if (bytes != NULL && formats[i] == 0)
				values[i] = pnstrdup(bytes, lengths[i]);
		}
		statements = lappend(statements,
							 dbscale_remote_send(conn, target->insert_sql, n > 0 ? &params : NULL,
												 REMOTE_PREPARE, target->label));
	}
	return statements;
}

static void
finish_statements(List *statements)
{
	ListCell   *lc;

	foreach(lc, statements)
	{
		dbscale_remote_finish(lfirst(lc));
		dbscale_remote_close(lfirst(lc));
	}
}

/* To talk to the target's node. */
static RemoteConnection *
target_connection(ShardLoader *loader, LoadTarget *target)
{
	if (loader->run != NULL)
		dbscale_run_note_write(loader->run, target->key.foreign_table);
	return dbscale_transaction_connection(target->node->serverid, loader->userid, REMOTE_WRITE);
}

static void
start_copy(ShardLoader *loader, LoadTarget *target)
{
	LoadNode   *node = target->node;
	RemoteConnection *conn = target_connection(loader, target);

	dbscale_remote_copy_start(conn, target->copy_sql, target->label);
	node->unsynced = true;
	node->conn = conn;
	node->starting = target;
}

/* Take the node's COPY as far as it goes without waiting; true while there is one. */
static bool
is_busy(LoadNode *node)
{
	if (node->starting != NULL && dbscale_remote_copy_ready(node->conn))
	{
		LoadTarget *target = node->starting;

		node->starting = NULL;
		send_rows(node->conn, target);
	}
	if (node->starting == NULL && node->conn != NULL && !dbscale_remote_copy_busy(node->conn))
		node->conn = NULL;
	return node->conn != NULL;
}

/* The node's fullest target with at least so many times its limit, or NULL. */
static LoadTarget *
fullest_target(ShardLoader *loader, LoadNode *node, double least)
{
	LoadTarget *result = NULL;
	double		fullness = least;
	ListCell   *lc;

	foreach(lc, loader->targets)
	{
		LoadTarget *target = lfirst(lc);

		if (target->node == node && target->rows > 0 &&
			target->buf.len >= fullness * target->limit)
		{
			result = target;
			fullness = (double) target->buf.len / target->limit;
		}
	}
	return result;
}

/* See the head of this file.  An idle node gets a target that is full to this part. */
static void
tend(ShardLoader *loader, double least)
{
	MemoryContext caller = MemoryContextSwitchTo(loader->row_context);
	ListCell   *lc;

	/* asking for a connection must not flush the other targets */
	loader->flushing = true;
	loader->untended = 0;
	foreach(lc, loader->nodes)
	{
		LoadNode   *node = lfirst(lc);
		LoadTarget *target;

		if (is_busy(node))
			continue;
		target = fullest_target(loader, node, least);
		if (target != NULL)
			start_copy(loader, target);
	}
	loader->flushing = false;
	MemoryContextSwitchTo(caller);
	MemoryContextReset(loader->row_context);
}

static void
tend_nodes(ShardLoader *loader, double least)
{
	ListCell   *lc;

	foreach(lc, loader->nodes)
	{
		if (((LoadNode *) lfirst(lc))->conn != NULL)
		{
			tend(loader, least);
			return;
		}
	}
}

/* Until one of the nodes that are at work may have come further. */
static void
wait_for_nodes(ShardLoader *loader)
{
	List	   *conns = NIL;
	ListCell   *lc;

	foreach(lc, loader->nodes)
	{
		LoadNode   *node = lfirst(lc);

		if (node->conn != NULL)
			conns = lappend(conns, node->conn);
	}
	if (conns != NIL)
		dbscale_remote_copy_wait_any(conns);
	list_free(conns);
}

/* The target is full: its COPY is started, or waited for if there is no room left. */
static void
make_room(ShardLoader *loader, LoadTarget *target)
{
	tend(loader, 1.0);
	while (target->buf.len >= 2 * target->limit)
	{
		wait_for_nodes(loader);
		tend(loader, 0.5);
	}
}

/* What has been started already has to be taken to its end. */
static void
finish_started(ShardLoader *loader)
{
	ListCell   *lc;

	foreach(lc, loader->nodes)
	{
		LoadNode   *node = lfirst(lc);

		while (node->starting != NULL && is_busy(node))
		{
			if (node->starting != NULL)
				wait_for_nodes(loader);
		}
	}
}

/* Rows that are only a few, of all nodes; they go out before the first is awaited. */
static void
flush_few_rows(ShardLoader *loader)
{
	List	   *statements = NIL;
	ListCell   *lc;

	finish_started(loader);
	foreach(lc, loader->targets)
	{
		LoadTarget *target = lfirst(lc);

		if (target->rows == 0 || (target->rows > FEW_ROWS && target->ncolumns > 0))
			continue;
		statements = list_concat(statements,
								 send_inserts(target_connection(loader, target), target));
		reset_buffer(target);
	}
	finish_statements(statements);
}

/* Send all rows; the ends of the COPYs are not awaited. */
static void
flush_rows(ShardLoader *loader)
{
	for (;;)
	{
		bool		unsent = false;
		ListCell   *lc;

		tend(loader, 0);
		foreach(lc, loader->targets)
			if (((LoadTarget *) lfirst(lc))->rows > 0)
				unsent = true;
		if (!unsent)
			return;
		wait_for_nodes(loader);
	}
}

void
dbscale_loader_flush(ShardLoader *loader)
{
	MemoryContext caller;

	if (!loader->pending || loader->flushing)
		return;
	caller = MemoryContextSwitchTo(loader->row_context);
	loader->flushing = true;
	flush_few_rows(loader);
	loader->flushing = false;
	MemoryContextSwitchTo(caller);
	MemoryContextReset(loader->row_context);
	flush_rows(loader);

	dbscale_transaction_remove_pending(flush_pending, loader);
	loader->pending = false;
}

/*
 * transaction/ drops the callback itself when a transaction ends; a later row
 * registers the loader again.
 */
static void
flush_pending(void *arg)
{
	ShardLoader *loader = arg;

	if (loader->flushing)
		return;
	if (loader->run == NULL || dbscale_run_is_visible(loader->run))
		dbscale_loader_flush(loader);
	else
		finish_started(loader);
}

void
dbscale_loader_sync(ShardLoader *loader)
{
	List	   *conns = NIL;
	ListCell   *lc;

	dbscale_loader_flush(loader);
	foreach(lc, loader->nodes)
	{
		LoadNode   *node = lfirst(lc);

		if (node->unsynced)
			conns = lappend(conns, dbscale_transaction_connection(node->serverid, loader->userid,
																  REMOTE_WRITE));
		node->unsynced = false;
		node->conn = NULL;
	}
	if (conns != NIL)
		dbscale_remote_sync_all(conns);
	list_free(conns);
}

void
dbscale_loader_end(ShardLoader *loader)
{
	dbscale_loader_sync(loader);
	MemoryContextDelete(loader->context);
}
