/*
 * security.c
 *		Row-level security and security barriers over foreign tables.
 *
 * Nouns: a *barrier condition* comes from a policy, or from a view with
 * security_barrier; a *user's condition* is any other.  Where a condition can tell
 * what it was given, by an error for instance, it must not see a row before the
 * barrier conditions have let it through:
 *
 *     SELECT count(*) FROM secrets WHERE 1 / (value - 3) = 1
 *
 * Core keeps that order among the conditions of one scan by their security levels.
 * postgres_fdw does not know of levels: it would send the user's condition, and the
 * node, which may run conditions in any order, or the coordinator, which runs a
 * policy that cannot be sent after the node is done, would break the rule.  So, for a
 * table with barrier conditions:
 *
 * (1) a condition that is neither of the lowest level nor leakproof is withheld while
 *     postgres_fdw plans, and stands among the scan's local conditions, where core
 *     orders it behind the barriers;
 * (2) no sort order is asked of the node, and no join or aggregate is done there.
 *
 * What rows may be written (WITH CHECK) core never asks of a foreign table: here it
 * is asked before the row goes out.
 */
#include "executor/internal.h"

#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "nodes/plannodes.h"
#include "optimizer/optimizer.h"
#include "optimizer/restrictinfo.h"

/* The callbacks that are wrapped. */
static GetForeignRelSize_function next_rel_size;
static GetForeignPaths_function next_paths;
static GetForeignPlan_function next_plan;
static GetForeignJoinPaths_function next_join_paths;
static GetForeignUpperPaths_function next_upper_paths;

/* Does this query level have barrier conditions at all? */
static bool
has_barriers(PlannerInfo *root)
{
	return root->qual_security_level > 0;
}

/* The conditions that must not run before the barriers, and the others. */
static List *
split_conditions(List *conditions, RelOptInfo *rel, List **withheld)
{
	List	   *others = NIL;
	ListCell   *lc;

	*withheld = NIL;
	foreach(lc, conditions)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);

		if (restriction_is_securely_promotable(rinfo, rel))
			others = lappend(others, rinfo);
		else
			*withheld = lappend(*withheld, rinfo);
	}
	return others;
}

/* postgres_fdw fetches the columns of the target and of its own conditions only. */
static void
get_rel_size(PlannerInfo *root, RelOptInfo *baserel, Oid foreigntableid)
{
	List	   *conditions = baserel->baserestrictinfo;
	List	   *target = baserel->reltarget->exprs;
	List	   *withheld;
	ListCell   *lc;

	if (has_barriers(root))
	{
		baserel->baserestrictinfo = split_conditions(conditions, baserel, &withheld);
		baserel->reltarget->exprs = list_copy(target);
		foreach(lc, withheld)
			baserel->reltarget->exprs =
				list_concat(baserel->reltarget->exprs,
							pull_var_clause((Node *) lfirst_node(RestrictInfo, lc)->clause,
											PVC_RECURSE_PLACEHOLDERS));
	}
	next_rel_size(root, baserel, foreigntableid);
	baserel->baserestrictinfo = conditions;
	baserel->reltarget->exprs = target;
}

static void
get_paths(PlannerInfo *root, RelOptInfo *baserel, Oid foreigntableid)
{
	List	   *order = root->query_pathkeys;

	if (has_barriers(root))
		root->query_pathkeys = NIL;
	next_paths(root, baserel, foreigntableid);
	root->query_pathkeys = order;
}

static ForeignScan *
get_plan(PlannerInfo *root, RelOptInfo *foreignrel, Oid foreigntableid, ForeignPath *best_path,
		 List *tlist, List *scan_clauses, Plan *outer_plan)
{
	List	   *withheld = NIL;
	ForeignScan *plan;

	if (has_barriers(root) && IS_SIMPLE_REL(foreignrel))
	{
		List	   *local;

		scan_clauses = split_conditions(scan_clauses, foreignrel, &withheld);
		plan = next_plan(root, foreignrel, foreigntableid, best_path, tlist, scan_clauses, outer_plan);
		/* core has ordered its list, and a barrier that stayed here comes first */
		local = extract_actual_clauses(withheld, false);
		plan->scan.plan.qual = list_concat(plan->scan.plan.qual, local);
		return plan;
	}
	return next_plan(root, foreignrel, foreigntableid, best_path, tlist, scan_clauses, outer_plan);
}

static void
get_join_paths(PlannerInfo *root, RelOptInfo *joinrel, RelOptInfo *outerrel, RelOptInfo *innerrel,
			   JoinType jointype, JoinPathExtraData *extra)
{
	if (!has_barriers(root))
		next_join_paths(root, joinrel, outerrel, innerrel, jointype, extra);
}

static void
get_upper_paths(PlannerInfo *root, UpperRelationKind stage, RelOptInfo *input_rel,
				RelOptInfo *output_rel, void *extra)
{
	if (!has_barriers(root))
		next_upper_paths(root, stage, input_rel, output_rel, extra);
}

/* WITH CHECK of the policies, of a row about to be inserted, or updated to this. */
void
dbscale_security_check_row(EState *estate, ResultRelInfo *rinfo, TupleTableSlot *slot, bool insert)
{
	if (rinfo->ri_WithCheckOptions != NIL)
		ExecWithCheckOptions(insert ? WCO_RLS_INSERT_CHECK : WCO_RLS_UPDATE_CHECK,
							 rinfo, slot, estate);
}

void
dbscale_security_wrap_callbacks(FdwRoutine *routine)
{
	next_rel_size = routine->GetForeignRelSize;
	next_paths = routine->GetForeignPaths;
	next_plan = routine->GetForeignPlan;
	next_join_paths = routine->GetForeignJoinPaths;
	next_upper_paths = routine->GetForeignUpperPaths;

	routine->GetForeignRelSize = get_rel_size;
	routine->GetForeignPaths = get_paths;
	routine->GetForeignPlan = get_plan;
	routine->GetForeignJoinPaths = get_join_paths;
	routine->GetForeignUpperPaths = get_upper_paths;
}
