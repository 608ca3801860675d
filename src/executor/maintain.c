/*
 * maintain.c
 *		TRUNCATE and ANALYZE of shards.
 *
 * ANALYZE of a distributed table asks each shard for its part of one sample, 30,000 rows
 * in all by default, however big the table is.  A part is taken as core takes one: of as
 * many random blocks as rows are wanted, each row with the same chance.  So a node reads
 * no more of the shard than its own ANALYZE does, and n_distinct, the most common values
 * and histograms are those of the whole, which the shards' own cannot be put together to:
 * what one of them holds ten times, and whether another holds it, nobody has counted.
 *
 * What nodes know exactly is taken from them: rows and pages of each shard.
 */
#include "executor/internal.h"

#include "access/multixact.h"
#include "access/table.h"
#include "access/transam.h"
#include "commands/vacuum.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/sampling.h"

/* ---- TRUNCATE: core gives the tables of one server at a time ---- */

static void
truncate_tables(List *rels, DropBehavior behavior, bool restart_seqs)
{
	StringInfoData sql;
	StringInfoData label;
	Oid			serverid = InvalidOid;
	RemoteConnection *conn;
	ListCell   *lc;

	initStringInfo(&sql);
	initStringInfo(&label);
	appendStringInfoString(&sql, "TRUNCATE ");
	foreach(lc, rels)
	{
		Oid			relid = RelationGetRelid((Relation) lfirst(lc));
		const char *comma = foreach_current_index(lc) > 0 ? ", " : "";

		serverid = GetForeignTable(relid)->serverid;
		appendStringInfo(&sql, "%s%s", comma, dbscale_remote_table_name(relid));
		appendStringInfo(&label, "%s%s", comma, dbscale_remote_label(relid));
	}
	appendStringInfo(&sql, " %s IDENTITY %s", restart_seqs ? "RESTART" : "CONTINUE",
					 behavior == DROP_CASCADE ? "CASCADE" : "RESTRICT");
	conn = dbscale_transaction_connection(serverid, GetUserId(), REMOTE_WRITE);
	dbscale_remote_execute(conn, sql.data, REMOTE_NO_PARAMS, label.data);
}

/* ---- ANALYZE ---- */

static double
query_number(RemoteConnection *conn, const char *sql)
{
	char	   *value = dbscale_remote_query_value(conn, sql, REMOTE_NO_PARAMS);

	return value != NULL ? strtod(value, NULL) : 0;
}

static RemoteConnection *
analyze_connection(Relation rel)
{
	return dbscale_transaction_connection(GetForeignTable(RelationGetRelid(rel))->serverid,
										  rel->rd_rel->relowner, REMOTE_READ);
}

/* The rows the shard is estimated to have, or a negative number if it can't be told. */
static double
estimate_rows(Relation rel, RemoteConnection *conn)
{
	char	   *table = quote_literal_cstr(dbscale_remote_table_name(RelationGetRelid(rel)));

	return query_number(conn, psprintf("SELECT reltuples FROM pg_catalog.pg_class "
									   "WHERE oid = %s::pg_catalog.regclass AND relkind IN ('r', 'm')",
									   table));
}

static double
count_pages(Relation rel, RemoteConnection *conn)
{
	char	   *table = quote_literal_cstr(dbscale_remote_table_name(RelationGetRelid(rel)));

	return query_number(conn, psprintf("SELECT pg_catalog.pg_relation_size(%s::pg_catalog.regclass) / "
									   "pg_catalog.current_setting('block_size')::int8", table));
}

/* A table is sampled whole if its blocks are fewer than the rows that are wanted of it. */
static void
append_sampling(StringInfo sql, double pages, double wanted, double fraction)
{
	double		blocks = pages > wanted ? wanted / pages : 1;

	if (blocks == 1)
		appendStringInfo(sql, " TABLESAMPLE BERNOULLI (%.10g)", fraction * 100);
	else
		appendStringInfo(sql, " TABLESAMPLE SYSTEM (%.10g) WHERE pg_catalog.random() < %.10g",
						 blocks * 100, Min(fraction / blocks, 1));
}

/* SELECT of the columns; of a part of the rows where more are expected than wanted. */
static char *
sample_sql(Relation rel, double expected, double pages, int wanted, List **retrieved, double *fraction)
{
	TupleDesc	desc = RelationGetDescr(rel);
	Oid			relid = RelationGetRelid(rel);
	StringInfoData sql;

	*retrieved = NIL;
	*fraction = 1;
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped)
			continue;
		appendStringInfo(&sql, "%s%s", *retrieved != NIL ? ", " : "",
						 dbscale_remote_column_name(relid, i + 1, NameStr(att->attname)));
		*retrieved = lappend_int(*retrieved, i + 1);
	}
	if (*retrieved == NIL)
		appendStringInfoString(&sql, "NULL");
	appendStringInfo(&sql, " FROM %s", dbscale_remote_table_name(relid));
	/* a fifth more than wanted: the sample's size varies and the estimate is old */
	if (expected > wanted * 1.2)
	{
		*fraction = wanted * 1.2 / expected;
		append_sampling(&sql, pages, wanted * 1.2, *fraction);
	}
	return sql.data;
}

/* Fill rows[] from the statement, each row of it with the same chance; *seen counts all. */
static int
fill_reservoir(RemoteStatement *stmt, RowReader *reader, HeapTuple *rows, int targrows, double *seen)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "dbscale sample row",
												  ALLOCSET_DEFAULT_SIZES);
	ReservoirStateData state;
	RemoteRow	row;
	int			count = 0;
	double		skip = -1;

	reservoir_init_selection_state(&state, targrows);
	*seen = 0;
	while (dbscale_remote_next_row(stmt, &row))
	{
		MemoryContext caller;
		HeapTuple	tuple;
		int			position = count;

		CHECK_FOR_INTERRUPTS();
		if (count >= targrows)
		{
			if (skip < 0)
				skip = reservoir_get_next_S(&state, *seen, targrows);
			(*seen)++;
			if (skip-- >= 1)
				continue;
			skip = -1;
			position = (int) (targrows * sampler_random_fract(&state.randstate));
			heap_freetuple(rows[position]);
		}
		else
		{
			count++;
			(*seen)++;
		}
		caller = MemoryContextSwitchTo(scratch);
		tuple = dbscale_row_reader_tuple(reader, &row);
		MemoryContextSwitchTo(caller);
		rows[position] = heap_copytuple(tuple);
		MemoryContextReset(scratch);
	}
	MemoryContextDelete(scratch);
	return count;
}

static int
acquire_sample(Relation rel, int elevel, HeapTuple *rows, int targrows,
			   double *totalrows, double *totaldeadrows)
{
	RemoteConnection *conn = analyze_connection(rel);
	double		expected = estimate_rows(rel, conn);
	List	   *retrieved;
	double		fraction;
	double		seen;
	char	   *sql = sample_sql(rel, expected, count_pages(rel, conn), targrows, &retrieved, &fraction);
	char	   *label = dbscale_remote_label(RelationGetRelid(rel));
	RowReader  *reader = dbscale_row_reader_create(RelationGetDescr(rel), retrieved, false, label);
	RemoteStatement *stmt = dbscale_remote_send(conn, sql, REMOTE_NO_PARAMS, 0, label);
	int			count = fill_reservoir(stmt, reader, rows, targrows, &seen);

	dbscale_remote_close(stmt);
	*totaldeadrows = 0;
	*totalrows = fraction < 1 ? Max(expected, seen) : seen;
	ereport(elevel,
			(errmsg("\"%s\": table contains %.0f rows, %d rows in sample",
					RelationGetRelationName(rel), *totalrows, count)));
	return count;
}

/*
 * In pg_class, where core writes it for the table that it analyzes, which is the parent.
 * That is a change in place, for which the lock of ANALYZE is needed.  Who has it keeps
 * nobody waiting here: he analyzes the shard himself, or is about to move it.
 */
static void
note_size(Relation rel, BlockNumber pages, double rows)
{
	if (!ConditionalLockRelation(rel, ShareUpdateExclusiveLock))
		return;
	dbscale_set_relation_size(rel, pages, rows);
	UnlockRelation(rel, ShareUpdateExclusiveLock);
}

static bool
analyze_table(Relation rel, AcquireSampleRowsFunc *func, BlockNumber *totalpages)
{
	RemoteConnection *conn = analyze_connection(rel);
	double		rows = estimate_rows(rel, conn);

	*totalpages = (BlockNumber) Min(count_pages(rel, conn), (double) MaxBlockNumber);
	if (rows >= 0)
		note_size(rel, *totalpages, rows);
	*func = acquire_sample;
	return true;
}

void
dbscale_maintain_set_callbacks(FdwRoutine *routine)
{
	routine->ExecForeignTruncate = truncate_tables;
	routine->AnalyzeForeignTable = analyze_table;
}
