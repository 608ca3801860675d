/*
 * fanout_join.c
 *		Joins that shards cannot do by themselves: each side is fetched by itself.
 *
 * The level's FROM is taken apart (fanout_parts.c), and each part becomes a subquery:
 *
 *		SELECT u.name FROM users u JOIN likes l ON l.liker_id = u.id WHERE u.region = 'eu'
 *
 *		SELECT u.name FROM (SELECT id, name FROM users WHERE region = 'eu') u,
 *			(SELECT liker_id FROM likes
 *			 WHERE liker_id = ANY (ARRAY(SELECT id FROM users WHERE region = 'eu'))) l
 *		WHERE l.liker_id = u.id
 *
 * which fanout.c then pushes down one by one.  A unit that is an outer join keeps its
 * shape, and the largest of its branches that shards can answer become parts:
 *
 * 1. A condition goes into a part where core's planner might push it down to the part's
 *    tables: through inner joins to both sides, from above an outer join to the side that
 *    keeps all its rows, from its ON to the other side.  A condition from above that no
 *    row of NULLs meets goes to a side that may be missing as well, and stays above: a row
 *    that would have met the one that failed it meets a row of NULLs, which fails it, too.
 *
 * The last condition in the example, a *filter*, is added where one side is expected to be
 * small: rows of the other that match none of it are not fetched.
 *
 * 2. Where rows that fail the join's condition are dropped (of an inner join; of the side
 *    of an outer join whose rows may be missing), a filter changes nothing: the operator
 *    is strict and its other argument is one of the small side's values, or NULL.  A row
 *    below another outer join that would have met the filtered row meets a row of NULLs
 *    instead, which fails the condition as the filtered row would have.
 * 3. The small side is read for the filter with its own conditions of 1 only, so nothing
 *    is missing of what the join finds there.
 * 4. It is read twice, and a row that only one of the readings saw is one that another
 *    statement has committed meanwhile, whose absence is what the earlier snapshot has.
 *
 * So a filter may be missing but is never wrong.  The small side may be local.
 */
#include "planner/fanout_parts.h"

#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"

typedef struct Separation
{
	Query	   *level;
	List	   *parts;
	List	   *locals;			/* parts that stay where they are */
	List	   *pushed;			/* conditions that are in parts */
	Bitmapset  *needed;			/* positions whose rows of NULLs WHERE drops */
} Separation;

/* ---- filters ---- */

/* The big part's rows are to match some row of the small one. */
static void
add_filter(Part *big, Var *big_column, Part *small, Var *small_column, const OpExpr *op)
{
	Node	   *filter = parts_filter(op, parts_expression(big, big_column), small, parts_expression(small, small_column));

	big->query->jointree->quals = make_and_qual(big->query->jointree->quals, filter);
	big->query->hasSubLinks = true;
	big->rows = Min(big->rows, small->rows * 10);
}

/* What is compared, if it is two columns as they come. */
static Part *
part_of_column(Separation *separation, Var *var)
{
	Part	   *part;

	if (!IsA(var, Var) || var->varlevelsup != 0)
		return NULL;
	part = parts_find(separation->parts, var->varno);
	/* it stands for the part now */
	if (part != NULL)
		return part->rti == var->varno ? part : NULL;
	return var->varattno > 0 ? parts_find(separation->locals, var->varno) : NULL;
}

/* Rows of the droppable tables that do not meet the condition do not count. */
static void
consider_filter(Separation *separation, OpExpr *op, Bitmapset *droppable)
{
	Var		   *left;
	Var		   *right;
	Part	   *a;
	Part	   *b;

	if (!parts_can_filter(op))
		return;
	left = linitial(op->args);
	right = lsecond(op->args);
	a = part_of_column(separation, left);
	b = part_of_column(separation, right);
	if (a == NULL || b == NULL || a == b)
		return;
	if (!b->local && bms_is_member(right->varno, droppable) && parts_is_small_beside(a, b))
		add_filter(b, right, a, left, op);
	else if (!a->local && bms_is_member(left->varno, droppable) && parts_is_small_beside(b, a))
		add_filter(a, left, b, right, op);
}

static void
consider_filters(Separation *separation, Node *quals, Bitmapset *droppable)
{
	ListCell   *lc;

	foreach(lc, make_ands_implicit((Expr *) quals))
		consider_filter(separation, lfirst(lc), droppable);
}

/* Where WHERE drops the rows that this side was missing for, the outer join is an inner one. */
static Bitmapset *
droppable_of(Separation *separation, Node *join, Node *side)
{
	Bitmapset  *members = parts_members_of(side);

	return bms_overlap(members, separation->needed) ? parts_members_of(join) : members;
}

static void
consider_joins(Separation *separation, Node *node)
{
	JoinExpr   *join = (JoinExpr *) node;

	if (!IsA(node, JoinExpr))
		return;
	consider_joins(separation, join->larg);
	consider_joins(separation, join->rarg);
	switch (join->jointype)
	{
		case JOIN_INNER:
			consider_filters(separation, join->quals, parts_members_of(node));
			break;
		case JOIN_LEFT:
			consider_filters(separation, join->quals, droppable_of(separation, node, join->rarg));
			break;
		case JOIN_RIGHT:
			consider_filters(separation, join->quals, droppable_of(separation, node, join->larg));
			break;
		default:
			break;
	}
}

/* ---- outer joins ---- */

/* The part, from here on, in the place of its units. */
static Node *
place(Separation *separation, List *units, List *conditions)
{
	Part	   *part = parts_make_one(separation->level, units, conditions);
	RangeTblRef *ref = makeNode(RangeTblRef);

	part->placed = true;
	separation->parts = lappend(separation->parts, part);
	separation->pushed = list_concat(separation->pushed, part->conditions);
	ref->rtindex = part->rti;
	return (Node *) ref;
}

/* Of a join that stays, which nobody asks for, and of which the parts have only some. */
static void
forget_columns(RangeTblEntry *rte)
{
	rte->joinmergedcols = 0;
	rte->joinaliasvars = rte->joinleftcols = rte->joinrightcols = NIL;
	rte->eref->colnames = NIL;
}

/*
 * Conditions for the side of an outer join whose rows may be missing: those of ON, and
 * such from above that no row of NULLs meets, which stay above as well.
 */
static List *
conditions_of_missing(List *own, List *above, Node *side)
{
	Bitmapset  *members = parts_members_of(side);
	List	   *result = list_copy(own);
	ListCell   *lc;

	foreach(lc, above)
		if (bms_overlap(find_nonnullable_rels(lfirst(lc)), members))
			result = lappend(result, parts_keep_joins(lfirst(lc), members));
	return result;
}

static Node *part_or_parts(Separation *separation, Node *node, List *conditions);

/* The unit, which is no part as it is, with parts in it, given the conditions that its rows have to meet. */
static Node *
take_apart(Separation *separation, Node *node, List *conditions)
{
	JoinExpr   *join = (JoinExpr *) node;
	List	   *own;
	List	   *of_left = NIL;
	List	   *of_right = NIL;

	if (!IsA(node, JoinExpr))
	{
		Part	   *local = parts_make_local(separation->level, list_make1(node), conditions);

		if (local != NULL)
			separation->locals = lappend(separation->locals, local);
		return node;
	}
	own = make_ands_implicit((Expr *) join->quals);
	switch (join->jointype)
	{
		case JOIN_INNER:
			of_left = of_right = list_concat_copy(conditions, own);
			break;
		case JOIN_LEFT:
			of_left = conditions;
			of_right = conditions_of_missing(own, conditions, join->rarg);
			break;
		case JOIN_RIGHT:
			of_left = conditions_of_missing(own, conditions, join->larg);
			of_right = conditions;
			break;
		default:
			of_left = conditions_of_missing(NIL, conditions, join->larg);
			of_right = conditions_of_missing(NIL, conditions, join->rarg);
			break;
	}
	if (join->rtindex > 0)
		forget_columns(rt_fetch(join->rtindex, separation->level->rtable));
	join->larg = part_or_parts(separation, join->larg, of_left);
	join->rarg = part_or_parts(separation, join->rarg, of_right);
	own = list_difference_ptr(own, separation->pushed);
	join->quals = own == NIL ? NULL : (Node *) make_ands_explicit(own);
	return node;
}

static Node *
part_or_parts(Separation *separation, Node *node, List *conditions)
{
	List	   *unit = list_make1(node);

	if (parts_is_placeable(separation->level, unit, parts_members_of(node), conditions))
		return place(separation, unit, conditions);
	return take_apart(separation, node, conditions);
}

/* ---- each side by itself ---- */

static void
place_parts(Query *query, List *parts)
{
	ListCell   *lc;

	foreach(lc, parts)
	{
		Part	   *part = lfirst(lc);
		RangeTblEntry *rte = rt_fetch(part->rti, query->rtable);
		char	   *name = pstrdup(rte->eref->aliasname);
		RangeTblRef *ref = makeNode(RangeTblRef);
		List	   *names = NIL;
		int			rti = -1;
		ListCell   *column;

		while ((rti = bms_next_member(part->members, rti)) >= 0)
			dbscale_blank_entry(rt_fetch(rti, query->rtable));
		foreach(column, part->query->targetList)
			names = lappend(names, makeString(pstrdup(((TargetEntry *) lfirst(column))->resname)));
		rte->rtekind = RTE_SUBQUERY;
		rte->subquery = part->query;
		rte->alias = makeAlias(name, NIL);
		rte->eref = makeAlias(name, names);
		rte->inFromCl = true;
		ref->rtindex = part->rti;
		if (!part->placed)
			query->jointree->fromlist = lappend(query->jointree->fromlist, ref);
	}
}

/* Is there more than one thing to fetch? */
static bool
has_sides(List *units)
{
	return list_length(units) > 1 || IsA(linitial(units), JoinExpr);
}

bool
dbscale_fanout_separate(Query *query, bool also_alone)
{
	Query	   *copy;
	List	   *units = NIL;
	List	   *left_over = NIL;
	List	   *conditions;
	Separation	separation = {0};
	ListCell   *lc;

	if (!parts_can_be_made(query))
		return false;
	copy = copyObject(query);
	conditions = make_ands_implicit((Expr *) copy->jointree->quals);
	foreach(lc, copy->jointree->fromlist)
		parts_add_units(lfirst(lc), &units, &conditions);
	if (!also_alone && !has_sides(units))
		return false;
	separation.level = copy;
	separation.parts = parts_make(copy, units, conditions, &left_over);
	foreach(lc, separation.parts)
	{
		Part	   *part = lfirst(lc);

		parts_fill(part, copy, conditions);
		separation.pushed = list_concat(separation.pushed, part->conditions);
	}
	foreach(lc, left_over)
		lfirst(lc) = take_apart(&separation, lfirst(lc), conditions);
	if (separation.parts == NIL)
		return false;
	conditions = list_difference_ptr(conditions, separation.pushed);
	parts_blank_joins(copy, left_over);
	copy->jointree->fromlist = left_over;
	copy->jointree->quals = conditions == NIL ? NULL : (Node *) make_ands_explicit(conditions);
	copy = parts_use(copy, separation.parts);
	if (copy == NULL)
		return false;
	separation.needed = find_nonnullable_rels(copy->jointree->quals);
	foreach(lc, copy->jointree->fromlist)
		consider_joins(&separation, lfirst(lc));
	place_parts(copy, separation.parts);
	consider_filters(&separation, copy->jointree->quals, parts_members_of((Node *) copy->jointree));
	*query = *copy;
	return true;
}
