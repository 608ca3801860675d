/*
 * inference.c
 *		Key inference: is every distributed table of a statement pinned to one key?
 *
 * A *slot* is the shard key of one range table entry at one query level.  A slot
 * is *pinned* when the statement's answer does not depend on rows of that table
 * whose key differs from some row-free expression.  Pins come from conditions
 * `key = expression`, and flow along conditions `key1 = key2` as *edges*:
 *
 *     SELECT … FROM users u LEFT JOIN posts p ON p.user_id = u.id WHERE u.id = $1
 *
 * pins u by WHERE, and p by the edge u → p.  Which way an edge goes is what keeps
 * the answer right:
 *
 * - In WHERE, and in ON of an inner join, rows that fail the condition are gone, so
 *   edges go both ways between the slots of that level.
 * - In ON of a LEFT or RIGHT join only the nullable side may be restricted: its rows
 *   that fail the condition are not matched, while the other side's stay.
 * - In ON of a FULL join neither side may be.  (But see add_full_edges.)
 * - A subquery's condition on an outer key restricts the subquery, never the outer
 *   query (it may be under NOT EXISTS, or in a select list).
 *
 * - A condition with IN and a subquery on top lets a pin in, as a join would.
 *
 * Columns of subqueries, of WITH and of VALUES are slots too, which need no pin of their
 * own.  Such a column is pinned where what it is made of is: one column of the subquery,
 * or of each branch of a UNION.  The other way, a pin of the column may restrict the
 * subquery's tables where rows of other keys change nothing in the rows of that key: not
 * below LIMIT, nor a window or a GROUP BY that is not by the column (may_be_restricted).
 *
 * WITH RECURSIVE is followed by the router alone (add_recursion_slot).
 *
 * The row that an INSERT or MERGE inserts is a slot: its key comes from an expression or
 * a column.  MERGE joins its target to the source: the target may be restricted unless
 * rows without source are acted on, the source unless rows without target are.
 *
 * Only equality operators of the group's operator family count: others might call
 * two keys equal that hash to different shards.
 */
#include "planner/inference_slots.h"

#include "access/stratnum.h"
#include "catalog/pg_am.h"
#include "catalog/pg_opfamily.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "catalog/namespace.h"

/* A condition's place: which range table entries it may restrict (NULL: all of its level). */
typedef struct Scope
{
	Bitmapset  *restrictable;
	bool		all;
} Scope;

static void infer_query(Inference *inf, Query *query);

static bool
not_row_free(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Var:
		case T_Aggref:
		case T_GroupingFunc:
		case T_WindowFunc:
		case T_SubLink:
		case T_CurrentOfExpr:
		case T_SetToDefault:
		case T_CaseTestExpr:
		case T_CoerceToDomainValue:
		case T_Query:
			return true;
		case T_Param:
			return ((Param *) node)->paramkind != PARAM_EXTERN;
		case T_FuncExpr:
			if (((FuncExpr *) node)->funcretset)
				return true;
			break;
		default:
			break;
	}
	return expression_tree_walker(node, not_row_free, context);
}

bool
dbscale_is_row_free(Node *node)
{
	return !not_row_free(node, NULL);
}

bool
dbscale_is_mark(Node *node)
{
	return IsA(node, Param) && ((Param *) node)->paramkind == PARAM_SUBLINK &&
		((Param *) node)->paramid >= DBSCALE_FIRST_MARK;
}

/* Has it one value for all rows, by which the shard is chosen? */
static bool
is_fixed(Node *node)
{
	return dbscale_is_mark(node) || dbscale_is_row_free(node);
}

/* The operator family whose equality decides the group's shards. */
static Oid
group_opfamily(const TableGroup *group)
{
	if (group->opfamily == NULL)
		return InvalidOid;
	return GetSysCacheOid3(OPFAMILYAMNAMENSP, Anum_pg_opfamily_oid,
						   ObjectIdGetDatum(HASH_AM_OID),
						   CStringGetDatum(group->opfamily),
						   ObjectIdGetDatum(get_namespace_oid(DBSCALE_SCHEMA, false)));
}

static Edge *
make_edge(int from, int to)
{
	Edge	   *edge = palloc(sizeof(Edge));

	edge->from = from;
	edge->to = to;
	return edge;
}

void
dbscale_infer_connect(Inference *inf, int from, int to)
{
	inf->edges = lappend(inf->edges, make_edge(from, to));
}

/* ---- the join tree ---- */

/* The range table entries below a join tree node. */
static Bitmapset *
entries_below(Node *node)
{
	Bitmapset  *result = NULL;
	ListCell   *lc;

	if (IsA(node, RangeTblRef))
		return bms_make_singleton(((RangeTblRef *) node)->rtindex);
	if (IsA(node, JoinExpr))
		return bms_union(entries_below(((JoinExpr *) node)->larg),
						 entries_below(((JoinExpr *) node)->rarg));
	foreach(lc, ((FromExpr *) node)->fromlist)
		result = bms_union(result, entries_below(lfirst(lc)));
	return result;
}

/* The entries that an outer join may fill with NULLs; all but some joins. */
static Bitmapset *
nullable_but_for(Node *node, Bitmapset *joins)
{
	Bitmapset  *result = NULL;
	JoinExpr   *join;
	ListCell   *lc;

	if (IsA(node, RangeTblRef))
		return NULL;
	if (IsA(node, FromExpr))
	{
		foreach(lc, ((FromExpr *) node)->fromlist)
			result = bms_union(result, nullable_but_for(lfirst(lc), joins));
		return result;
	}
	join = (JoinExpr *) node;
	result = bms_union(nullable_but_for(join->larg, joins), nullable_but_for(join->rarg, joins));
	if (bms_is_member(join->rtindex, joins))
		return result;
	if (join->jointype == JOIN_LEFT || join->jointype == JOIN_FULL)
		result = bms_union(result, entries_below(join->rarg));
	if (join->jointype == JOIN_RIGHT || join->jointype == JOIN_FULL)
		result = bms_union(result, entries_below(join->larg));
	return result;
}

Bitmapset *
dbscale_infer_nullable_entries(Node *node)
{
	return nullable_but_for(node, NULL);
}

/* Position of the slot that this Var is, or -1. */
static int
find_slot(Inference *inf, Node *node)
{
	return dbscale_infer_find_slot(inf, node, inf->levels);
}

static bool
may_restrict(Inference *inf, int position, const Scope *scope)
{
	Slot	   *slot = list_nth(inf->slots, position);

	return slot->query == linitial(inf->levels) &&
		(scope->all || bms_is_member(slot->rti, scope->restrictable));
}

static void
pin_slot(Inference *inf, int position, Expr *expr, const Scope *scope)
{
	Slot	   *slot = list_nth(inf->slots, position);

	if (may_restrict(inf, position, scope) && slot->pin == NULL)
		slot->pin = expr;
}

static void
add_edge(Inference *inf, int from, int to, const Scope *scope)
{
	if (may_restrict(inf, to, scope))
		dbscale_infer_connect(inf, from, to);
}

/* Is this operator the equality that the group's shards are decided by? */
static bool
is_key_equality(Inference *inf, OpExpr *op)
{
	const DistributedTable *table;

	/* no distributed table has been met yet, as in the outer query of a CTE */
	if (inf->group == NULL || list_length(op->args) != 2)
		return false;
	if (OidIsValid(inf->opfamily))
	{
		if (get_op_opfamily_strategy(op->opno, inf->opfamily) != HTEqualStrategyNumber)
			return false;
	}
	else
	{
		/* range and list: only the key type's own default equality */
		Oid			left;
		Oid			right;

		op_input_types(op->opno, &left, &right);
		if (left != right || !op_hashjoinable(op->opno, left) ||
			getBaseType(inf->group->key_type) != left)
			return false;
	}
	table = dbscale_catalog_table(linitial_oid(inf->group->tables));
	return table && op->inputcollid == table->key_collation;
}

/*
 * key IN (SELECT inner_key FROM …): rows of another key do not make it true.  They may
 * make it NULL rather than false, so this is for conditions at the top only, and the
 * rows that the subquery returns must be rows of its FROM.
 */
static void
infer_in_subquery(Inference *inf, SubLink *link, const Scope *scope)
{
	Query	   *inner = (Query *) link->subselect;
	OpExpr	   *op = (OpExpr *) link->testexpr;
	Scope		inside = {NULL, true};
	Param	   *param;
	int			from;
	int			to;

	if (link->subLinkType != ANY_SUBLINK || op == NULL || !IsA(op, OpExpr) ||
		!IsA(inner, Query) || !is_key_equality(inf, op))
		return;
	if (inner->setOperations || inner->hasAggs || inner->groupClause != NIL || inner->groupingSets != NIL ||
		inner->havingQual || inner->hasWindowFuncs || inner->hasTargetSRFs || inner->hasDistinctOn ||
		inner->limitCount || inner->limitOffset)
		return;
	param = lsecond(op->args);
	if (!IsA(param, Param) || param->paramkind != PARAM_SUBLINK)
		return;
	from = find_slot(inf, linitial(op->args));
	if (from < 0)
		return;
	inf->levels = lcons(inner, inf->levels);
	to = find_slot(inf, (Node *) ((TargetEntry *) list_nth(inner->targetList, param->paramid - 1))->expr);
	if (to >= 0)
		add_edge(inf, from, to, &inside);
	inf->levels = list_delete_first(inf->levels);
}

static void
infer_condition(Inference *inf, Node *node, const Scope *scope)
{
	OpExpr	   *op;
	int			left;
	int			right;
	ListCell   *lc;

	if (node == NULL)
		return;
	if (IsA(node, List))
	{
		foreach(lc, (List *) node)
			infer_condition(inf, lfirst(lc), scope);
		return;
	}
	if (is_andclause(node))
	{
		infer_condition(inf, (Node *) ((BoolExpr *) node)->args, scope);
		return;
	}
	if (IsA(node, SubLink))
	{
		infer_in_subquery(inf, (SubLink *) node, scope);
		return;
	}
	if (!IsA(node, OpExpr))
		return;
	op = (OpExpr *) node;
	if (!is_key_equality(inf, op))
		return;

	left = find_slot(inf, linitial(op->args));
	right = find_slot(inf, lsecond(op->args));
	if (left >= 0 && right >= 0)
	{
		add_edge(inf, left, right, scope);
		add_edge(inf, right, left, scope);
	}
	else if (left >= 0 && is_fixed(lsecond(op->args)))
		pin_slot(inf, left, lsecond(op->args), scope);
	else if (right >= 0 && is_fixed(linitial(op->args)))
		pin_slot(inf, right, linitial(op->args), scope);
}

/* The one distributed table of a side of a FULL join of tables; -1 if it may be filled with NULLs there. */
static int
only_table_of_side(Inference *inf, Query *query, Node *side)
{
	Bitmapset  *entries = entries_below(side);
	Bitmapset  *nullable = dbscale_infer_nullable_entries(side);
	int			found = -1;
	int			rti = -1;
	ListCell   *lc;

	while ((rti = bms_next_member(entries, rti)) >= 0)
		if (((RangeTblEntry *) list_nth(query->rtable, rti - 1))->rtekind != RTE_RELATION)
			return -1;
	foreach(lc, inf->slots)
	{
		Slot	   *slot = lfirst(lc);

		if (!slot->is_table || slot->query != query || !bms_is_member(slot->rti, entries))
			continue;
		if (found >= 0 || bms_is_member(slot->rti, nullable))
			return -1;
		found = foreach_current_index(lc);
	}
	return found;
}

/*
 * A FULL join of two tables on their keys, at the top level of a query.  A pin does not
 * pass through it, since the rows of one side that meet none of the other stay whatever
 * their key is.  But rows that meet are of one shard, and each of the others is in its
 * own, so that shards can do the join by themselves: full edges count only for that.
 */
static void
add_full_edges(Inference *inf, JoinExpr *join)
{
	Query	   *query = linitial(inf->levels);
	int			left = only_table_of_side(inf, query, join->larg);
	int			right = only_table_of_side(inf, query, join->rarg);
	ListCell   *lc;

	if (list_length(inf->levels) > 1 || query->commandType != CMD_SELECT || left < 0 || right < 0)
		return;
	foreach(lc, make_ands_implicit((Expr *) join->quals))
	{
		OpExpr	   *op = lfirst(lc);
		int			one;
		int			other;

		if (!IsA(op, OpExpr) || !is_key_equality(inf, op))
			continue;
		one = find_slot(inf, linitial(op->args));
		other = find_slot(inf, lsecond(op->args));
		if (Min(one, other) != Min(left, right) || Max(one, other) != Max(left, right))
			continue;
		inf->full_edges = lappend(inf->full_edges, make_edge(left, right));
		inf->full_edges = lappend(inf->full_edges, make_edge(right, left));
		inf->full_joins = bms_add_member(inf->full_joins, join->rtindex);
		return;
	}
}

static void
infer_join_tree(Inference *inf, Node *node)
{
	Scope		scope = {NULL, false};
	ListCell   *lc;

	if (node == NULL || IsA(node, RangeTblRef))
		return;
	if (IsA(node, FromExpr))
	{
		scope.all = true;
		foreach(lc, ((FromExpr *) node)->fromlist)
			infer_join_tree(inf, lfirst(lc));
		infer_condition(inf, ((FromExpr *) node)->quals, &scope);
		return;
	}

	infer_join_tree(inf, ((JoinExpr *) node)->larg);
	infer_join_tree(inf, ((JoinExpr *) node)->rarg);
	switch (((JoinExpr *) node)->jointype)
	{
		case JOIN_INNER:
			scope.restrictable = entries_below(node);
			break;
		case JOIN_LEFT:
			scope.restrictable = entries_below(((JoinExpr *) node)->rarg);
			break;
		case JOIN_RIGHT:
			scope.restrictable = entries_below(((JoinExpr *) node)->larg);
			break;
		default:
			add_full_edges(inf, (JoinExpr *) node);
			return;
	}
	infer_condition(inf, ((JoinExpr *) node)->quals, &scope);
}

/* The row that ON CONFLICT calls "excluded" is no row of the table. */
static bool
is_excluded(Query *query, Index rti)
{
	return query->onConflict && query->onConflict->exclRelIndex == (int) rti;
}

/* One slot for each distributed table of this level. */
static void
add_slots(Inference *inf, Query *query)
{
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);
		Index		rti = foreach_current_index(lc) + 1;
		const DistributedTable *table;

		if (rte->rtekind != RTE_RELATION || is_excluded(query, rti) ||
			(table = dbscale_catalog_table(rte->relid)) == NULL || table->is_reference)
			continue;
		if (inf->group == NULL)
		{
			inf->group = table->group;
			inf->opfamily = group_opfamily(table->group);
		}
		else if (inf->group->id != table->group->id)
			inf->impossible = true;
		(void) dbscale_infer_add_slot(inf, query, rti, table->key_attno, true);
	}
}

static bool
add_all_slots(Node *node, Inference *inf)
{
	if (node == NULL)
		return false;
	if (!IsA(node, Query))
		return expression_tree_walker(node, add_all_slots, inf);
	add_slots(inf, (Query *) node);
	return query_tree_walker((Query *) node, add_all_slots, inf, 0);
}

/* ---- rows to be inserted ---- */

/* The slot gets its key from the entry of a target list. */
static void
infer_inserted_key(Inference *inf, int slot, List *targetlist, AttrNumber key_attno)
{
	Bitmapset  *nullable = dbscale_infer_nullable_entries((Node *) ((Query *) linitial(inf->levels))->jointree);
	ListCell   *lc;

	foreach(lc, targetlist)
	{
		TargetEntry *tle = lfirst(lc);
		int			source;

		if (tle->resjunk || tle->resno != key_attno)
			continue;
		source = find_slot(inf, (Node *) tle->expr);
		if (source >= 0 && !((Slot *) list_nth(inf->slots, source))->may_be_null &&
			!bms_is_member(((Slot *) list_nth(inf->slots, source))->rti, nullable))
			dbscale_infer_connect(inf, source, slot);
		else if (dbscale_is_row_free((Node *) tle->expr))
			((Slot *) list_nth(inf->slots, slot))->pin = tle->expr;
	}
}

static const DistributedTable *
target_table(Query *query)
{
	RangeTblEntry *rte;
	const DistributedTable *table;

	if (query->resultRelation <= 0)
		return NULL;
	rte = list_nth(query->rtable, query->resultRelation - 1);
	table = dbscale_catalog_table(rte->relid);
	return table == NULL || table->is_reference ? NULL : table;
}

static int
table_slot(Inference *inf, Query *query, Index rti)
{
	ListCell   *lc;

	foreach(lc, inf->slots)
	{
		Slot	   *slot = lfirst(lc);

		if (slot->is_table && slot->query == query && slot->rti == rti)
			return foreach_current_index(lc);
	}
	return -1;
}

static void
infer_merge(Inference *inf, Query *query, const DistributedTable *table)
{
	Scope		scope = {entries_below((Node *) query->jointree), false};
	bool		keeps_source = false;
	bool		keeps_target = false;
	ListCell   *lc;

	foreach(lc, query->mergeActionList)
	{
		MergeAction *action = lfirst(lc);

		keeps_source |= dbscale_merge_of_unmatched_source(action);
		keeps_target |= dbscale_merge_of_unmatched_target(action);
	}
	if (keeps_source)
		scope.restrictable = NULL;
	if (!keeps_target)
		scope.restrictable = bms_add_member(scope.restrictable, query->resultRelation);
	infer_condition(inf, dbscale_merge_condition(query), &scope);
	foreach(lc, query->mergeActionList)
	{
		MergeAction *action = lfirst(lc);

		if (action->commandType == CMD_INSERT)
			infer_inserted_key(inf, dbscale_infer_add_slot(inf, query, 0, 0, true), action->targetList, table->key_attno);
	}
}

static bool
infer_subqueries(Node *node, Inference *inf)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		infer_query(inf, (Query *) node);
		return false;
	}
	return expression_tree_walker(node, infer_subqueries, inf);
}

static void
infer_query(Inference *inf, Query *query)
{
	const DistributedTable *target = target_table(query);
	ListCell   *lc;

	inf->levels = lcons(query, inf->levels);
	query_tree_walker(query, infer_subqueries, inf, 0);
	if (query->commandType == CMD_MERGE)
	{
		/* up to 16, WHERE of the join tree is the condition */
		foreach(lc, query->jointree->fromlist)
			infer_join_tree(inf, lfirst(lc));
		if (target)
			infer_merge(inf, query, target);
	}
	else
		infer_join_tree(inf, (Node *) query->jointree);
	if (query->commandType == CMD_INSERT && target)
		infer_inserted_key(inf, table_slot(inf, query, query->resultRelation),
						   query->targetList, target->key_attno);
	inf->levels = list_delete_first(inf->levels);
}

static void
infer(Inference *inf, Query *query)
{
	(void) add_all_slots((Node *) query, inf);
	if (!inf->impossible)
		infer_query(inf, query);
}

/* The pin that all slots this one is made of have, or NULL. */
static Expr *
common_pin(Inference *inf, Slot *slot)
{
	Expr	   *pin = NULL;
	ListCell   *lc;

	foreach(lc, slot->made_of)
	{
		Slot	   *source = list_nth(inf->slots, lfirst_int(lc));

		if (source->pin == NULL || (pin != NULL && !equal(pin, source->pin)))
			return NULL;
		pin = source->pin;
	}
	return pin;
}

/* Let pins flow along the edges until nothing changes. */
static void
propagate(Inference *inf)
{
	bool		changed = true;

	while (changed)
	{
		ListCell   *lc;

		changed = false;
		foreach(lc, inf->edges)
		{
			Edge	   *edge = lfirst(lc);
			Slot	   *from = list_nth(inf->slots, edge->from);
			Slot	   *to = list_nth(inf->slots, edge->to);

			if (from->pin != NULL && to->pin == NULL)
			{
				to->pin = from->pin;
				changed = true;
			}
		}
		foreach(lc, inf->slots)
		{
			Slot	   *slot = lfirst(lc);

			if (slot->pin == NULL && (slot->pin = common_pin(inf, slot)) != NULL)
				changed = true;
		}
	}
}

Expr *
dbscale_infer_key(Query *query)
{
	Inference	inf = {0};
	Expr	   *key = NULL;
	ListCell   *lc;

	inf.in_recursion = true;
	infer(&inf, query);
	if (inf.impossible || inf.slots == NIL)
		return NULL;
	propagate(&inf);
	if (!dbscale_infer_recursions_hold(&inf))
		return NULL;

	foreach(lc, inf.slots)
	{
		Slot	   *slot = lfirst(lc);

		if (!slot->is_table)
			continue;
		if (slot->pin == NULL || (key != NULL && !equal(key, slot->pin)))
			return NULL;
		key = slot->pin;
	}
	return key;
}

/* ---- a query that every shard answers for its own keys ---- */

static bool
are_members(List *slots, Bitmapset *set)
{
	ListCell   *lc;

	foreach(lc, slots)
		if (!bms_is_member(lfirst_int(lc), set))
			return false;
	return slots != NIL;
}

/* Are the rows that all tables have for a row of this slot in its shard? */
static bool
reaches_all(Inference *inf, int position)
{
	Bitmapset  *reached = bms_make_singleton(position);
	List	   *edges = list_concat_copy(inf->edges, inf->full_edges);
	bool		changed = true;
	ListCell   *lc;

	while (changed)
	{
		changed = false;
		foreach(lc, edges)
		{
			Edge	   *edge = lfirst(lc);

			if (!bms_is_member(edge->from, reached) || bms_is_member(edge->to, reached))
				continue;
			reached = bms_add_member(reached, edge->to);
			changed = true;
		}
		foreach(lc, inf->slots)
		{
			if (bms_is_member(foreach_current_index(lc), reached) ||
				!are_members(((Slot *) lfirst(lc))->made_of, reached))
				continue;
			reached = bms_add_member(reached, foreach_current_index(lc));
			changed = true;
		}
	}
	foreach(lc, inf->slots)
		if (((Slot *) lfirst(lc))->is_table && !bms_is_member(foreach_current_index(lc), reached))
			return false;
	return true;
}

/* Is it the key of one of these entries? */
static bool
is_key_of(Inference *inf, Node *node, Bitmapset *entries, Query *query)
{
	int			position = find_slot(inf, node);
	Slot	   *slot = position < 0 ? NULL : list_nth(inf->slots, position);

	return slot != NULL && slot->is_table && slot->query == query && bms_is_member(slot->rti, entries);
}

/* The key is one of the elements: key = ANY (array). */
static Expr *
array_of_keys(Inference *inf, Node *node, Bitmapset *keys_of, Query *query)
{
	ScalarArrayOpExpr *any = (ScalarArrayOpExpr *) node;
	OpExpr		op = {.xpr.type = T_OpExpr};

	if (!IsA(node, ScalarArrayOpExpr) || !any->useOr)
		return NULL;
	op.opno = any->opno;
	op.inputcollid = any->inputcollid;
	op.args = any->args;
	if (!is_key_of(inf, linitial(any->args), keys_of, query) || !is_key_equality(inf, &op) ||
		!is_fixed(lsecond(any->args)))
		return NULL;
	return lsecond(any->args);
}

/* What it is, or is an element of: FROM unnest(mark) gives rows of an array that is computed before. */
static Expr *
fixed_value(Query *query, Node *node)
{
	Var		   *var = (Var *) node;
	RangeTblEntry *rte;
	FuncExpr   *call;

	if (is_fixed(node))
		return (Expr *) node;
	if (!IsA(node, Var) || var->varlevelsup != 0 || var->varattno <= 0)
		return NULL;
	rte = list_nth(query->rtable, var->varno - 1);
	if (rte->rtekind != RTE_FUNCTION || var->varattno > list_length(rte->functions))
		return NULL;
	call = (FuncExpr *) ((RangeTblFunction *) list_nth(rte->functions, var->varattno - 1))->funcexpr;
	if (!IsA(call, FuncExpr) || call->funcid != F_UNNEST_ANYARRAY || !dbscale_is_mark(linitial(call->args)))
		return NULL;
	return linitial(call->args);
}

/* The key is this, or one of these: key = value. */
static Expr *
value_of_key(Inference *inf, Node *node, Bitmapset *keys_of, Query *query)
{
	OpExpr	   *op = (OpExpr *) node;

	if (!IsA(node, OpExpr) || !is_key_equality(inf, op))
		return NULL;
	if (is_key_of(inf, linitial(op->args), keys_of, query))
		return fixed_value(query, lsecond(op->args));
	if (is_key_of(inf, lsecond(op->args), keys_of, query))
		return fixed_value(query, linitial(op->args));
	return NULL;
}

/* One condition at the top of WHERE that names the keys is enough. */
static List *
values_of_keys(Inference *inf, Query *query, Bitmapset *keys_of)
{
	Expr	   *values = NULL;
	ListCell   *lc;

	inf->levels = lcons(query, inf->levels);
	foreach(lc, make_ands_implicit((Expr *) query->jointree->quals))
	{
		values = value_of_key(inf, lfirst(lc), keys_of, query);
		if (values == NULL)
			values = array_of_keys(inf, lfirst(lc), keys_of, query);
		if (values != NULL)
			break;
	}
	inf->levels = list_delete_first(inf->levels);
	return values == NULL ? NIL : list_make1(values);
}

/*
 * A *root* is a slot whose pin would reach all the others, and whose table no outer
 * join of the level fills with NULLs.  Then each row of the query's FROM has one row of
 * the root's table, and all that it may meet is in that row's shard.
 *
 * If there is none, two tables of a FULL join on their keys may be one together: then each
 * row has a row of one or both, and which of them is not known.  Such keys are of no use
 * for groups, and only a condition in WHERE, which is not true of NULLs, tells the shards.
 */
static Bitmapset *
find_roots(Inference *inf, Query *query, Bitmapset *full_joins, Slot **root)
{
	Bitmapset  *nullable = nullable_but_for((Node *) query->jointree, full_joins);
	Bitmapset  *members = entries_below((Node *) query->jointree);
	Bitmapset  *roots = NULL;
	ListCell   *lc;

	foreach(lc, inf->slots)
	{
		Slot	   *slot = lfirst(lc);

		if (!slot->is_table || slot->query != query || !bms_is_member(slot->rti, members) ||
			bms_is_member(slot->rti, nullable) || !reaches_all(inf, foreach_current_index(lc)))
			continue;
		/* all roots reach each other, so their keys are the same on every row that has them */
		roots = bms_add_member(roots, slot->rti);
		if (*root == NULL)
			*root = slot;
	}
	return roots;
}

bool
dbscale_infer_colocation(Query *query, Colocation *result)
{
	Inference	inf = {0};
	Bitmapset  *roots;
	Slot	   *root = NULL;

	memset(result, 0, sizeof(Colocation));
	infer(&inf, query);
	if (inf.impossible || inf.slots == NIL)
		return false;
	roots = result->keys_of = find_roots(&inf, query, NULL, &root);
	/* ranges and lists are better pruned by core, to which keys are of use here too */
	if (root == NULL && OidIsValid(inf.opfamily))
		roots = find_roots(&inf, query, inf.full_joins, &root);
	if (root == NULL)
		return false;
	result->group = inf.group;
	result->table = ((RangeTblEntry *) list_nth(query->rtable, root->rti - 1))->relid;
	propagate(&inf);
	if (result->keys_of != NULL && root->pin != NULL)
		result->values = list_make1(root->pin);
	else
		result->values = values_of_keys(&inf, query, roots);
	return true;
}

Node *
dbscale_infer_compared_key(Query *query, Node *condition)
{
	Inference	inf = {0};
	OpExpr	   *op = (OpExpr *) condition;
	int			target;

	if (!IsA(condition, OpExpr))
		return NULL;
	inf.group = dbscale_catalog_table(((RangeTblEntry *) list_nth(query->rtable, query->resultRelation - 1))->relid)->group;
	inf.opfamily = group_opfamily(inf.group);
	add_slots(&inf, query);
	inf.levels = list_make1(query);
	target = table_slot(&inf, query, query->resultRelation);
	if (target < 0 || !is_key_equality(&inf, op))
		return NULL;
	if (find_slot(&inf, linitial(op->args)) == target)
		return lsecond(op->args);
	if (find_slot(&inf, lsecond(op->args)) == target)
		return linitial(op->args);
	return NULL;
}
