/*
 * locking.c
 *		FOR UPDATE and FOR SHARE in the text of a foreign scan.
 *
 * postgres_fdw's deparser writes the clauses last, and leaves out NOWAIT and SKIP LOCKED,
 * so that a statement would wait that must not.  They are put behind each clause again:
 *
 *     … FROM dbscale_shards.jobs_3 WHERE ((state = 'new')) FOR UPDATE
 *     … FROM (… INNER JOIN …) FOR UPDATE OF r4 FOR SHARE OF r5
 *
 * A scan of one table has one clause, without OF.  In a join the alias r4 is that of entry 4
 * of the range table.  No literal can be taken for a clause, because its quote follows it.
 */
#include "executor/internal.h"

#include "lib/stringinfo.h"
#include "nodes/pathnodes.h"
#include "nodes/plannodes.h"
#include "optimizer/prep.h"

static GetForeignPlan_function next_plan;

/* The end of the word if the text begins with it, else NULL. */
static const char *
skip_word(const char *text, const char *word)
{
	return strncmp(text, word, strlen(word)) == 0 ? text + strlen(word) : NULL;
}

/* The end of the clause that the text begins with, and the entry it names (0: none); else NULL. */
static const char *
skip_clause(const char *text, Index *entry)
{
	const char *end = skip_word(text, " FOR UPDATE");
	const char *of;

	*entry = 0;
	if (end == NULL)
		end = skip_word(text, " FOR SHARE");
	if (end == NULL)
		return NULL;
	of = skip_word(end, " OF r");
	if (of != NULL)
		*entry = strtoul(of, (char **) &end, 10);
	return end;
}

/* What NOWAIT and SKIP LOCKED have added is a part of the clause, once it is there. */
static const char *
skip_policy(const char *text)
{
	const char *end = skip_word(text, " NOWAIT");

	if (end == NULL)
		end = skip_word(text, " SKIP LOCKED");
	return end ? end : text;
}

/* Where the statement's clauses begin; NULL: it has none. */
static const char *
find_clauses(const char *sql)
{
	for (const char *start = strstr(sql, " FOR "); start != NULL; start = strstr(start + 1, " FOR "))
	{
		const char *at = start;
		Index		entry;

		while (at != NULL && *at)
		{
			at = skip_clause(at, &entry);
			at = at ? skip_policy(at) : NULL;
		}
		if (at != NULL)
			return start;
	}
	return NULL;
}

bool
dbscale_locking_is_in(const char *sql)
{
	return find_clauses(sql) != NULL;
}

static const char *
policy_of(PlannerInfo *root, Index entry)
{
	PlanRowMark *mark = entry > 0 ? get_plan_rowmark(root->rowMarks, entry) : NULL;

	if (mark == NULL || mark->waitPolicy == LockWaitBlock)
		return "";
	return mark->waitPolicy == LockWaitSkip ? " SKIP LOCKED" : " NOWAIT";
}

static char *
with_policies(PlannerInfo *root, RelOptInfo *rel, char *sql)
{
	const char *clauses = find_clauses(sql);
	StringInfoData text;

	if (clauses == NULL)
		return sql;
	initStringInfo(&text);
	appendBinaryStringInfo(&text, sql, clauses - sql);
	while (*clauses)
	{
		Index		entry;
		const char *end = skip_clause(clauses, &entry);

		appendBinaryStringInfo(&text, clauses, end - clauses);
		appendStringInfoString(&text, policy_of(root, entry ? entry : rel->relid));
		clauses = end;
	}
	return text.data;
}

static ForeignScan *
get_plan(PlannerInfo *root, RelOptInfo *rel, Oid foreigntableid, ForeignPath *best_path,
		 List *tlist, List *scan_clauses, Plan *outer_plan)
{
	ForeignScan *plan = next_plan(root, rel, foreigntableid, best_path, tlist, scan_clauses, outer_plan);

	if (root->rowMarks != NIL && plan->fdw_private != NIL)
	{
		/* the statement comes first in the list (run.c) */
		ListCell   *sql = list_head(plan->fdw_private);

		lfirst(sql) = makeString(with_policies(root, rel, strVal(lfirst(sql))));
	}
	return plan;
}

void
dbscale_locking_wrap_callbacks(FdwRoutine *routine)
{
	next_plan = routine->GetForeignPlan;
	routine->GetForeignPlan = get_plan;
}
