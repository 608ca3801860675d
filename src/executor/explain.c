/*
 * explain.c
 *		What each node sent, and in which time: EXPLAIN (ANALYZE) of the custom scans.
 *
 * Bytes are those of the rows' values, as they came over the wire.  The time is from the
 * first statement to the end of the last one's rows; that another node's rows were taken
 * meanwhile is in it.
 */
#include "executor/internal.h"

void
dbscale_result_sent(NodeResult *result)
{
	if (INSTR_TIME_IS_ZERO(result->sent_at))
		INSTR_TIME_SET_CURRENT(result->sent_at);
}

void
dbscale_result_row(NodeResult *result, const RemoteRow *row)
{
	result->rows++;
	for (int i = 0; i < row->nfields; i++)
		if (row->values[i] != NULL)
			result->bytes += row->lengths[i];
}

void
dbscale_result_end(NodeResult *result)
{
	instr_time	now;

	result->at_end = true;
	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, result->sent_at);
	result->elapsed = INSTR_TIME_GET_MILLISEC(now);
}

void
dbscale_explain_shards(List *results, int shards, const DistributedTable *table, ExplainState *es)
{
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, results)
		names = lappend(names, pstrdup(((NodeResult *) lfirst(lc))->node));
	ExplainPropertyList("Nodes", names, es);
	ExplainPropertyText("Shards", psprintf("%d of %d", shards, table->group->nshards), es);
}

static void
explain_as_text(const NodeResult *result, ExplainState *es)
{
	char	   *line = psprintf("rows=" UINT64_FORMAT " bytes=" UINT64_FORMAT, result->rows, result->bytes);

	if (es->timing && result->at_end)
		line = psprintf("%s time=%.3f ms", line, result->elapsed);
	ExplainPropertyText(psprintf("Node %s", result->node), line, es);
}

static void
explain_as_group(const NodeResult *result, ExplainState *es)
{
	ExplainOpenGroup("Node Result", NULL, true, es);
	ExplainPropertyText("Node", result->node, es);
	ExplainPropertyInteger("Rows", NULL, result->rows, es);
	ExplainPropertyInteger("Bytes", "B", result->bytes, es);
	if (es->timing && result->at_end)
		ExplainPropertyFloat("Time", "ms", result->elapsed, 3, es);
	ExplainCloseGroup("Node Result", NULL, true, es);
}

void
dbscale_result_explain(List *results, ExplainState *es)
{
	ListCell   *lc;

	ExplainOpenGroup("Node Results", "Node Results", false, es);
	foreach(lc, results)
	{
		if (es->format == EXPLAIN_FORMAT_TEXT)
			explain_as_text(lfirst(lc), es);
		else
			explain_as_group(lfirst(lc), es);
	}
	ExplainCloseGroup("Node Results", "Node Results", false, es);
}
