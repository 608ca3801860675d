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
 * - In ON of a FULL join neither side may be.
 * - A subquery's condition on an outer key restricts the subquery, never the outer
 *   query (it may be under NOT EXISTS, or in a select list).
 *
 * - A condition with IN and a subquery on top lets a pin in, as a join would.
 *
 * Only equality operators of the group's operator family count: others might call
 * two keys equal that hash to different shards.
 */
#include "planner/inference.h"

#include "access/stratnum.h"
#include "catalog/pg_am.h"
#include "catalog/pg_opfamily.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "catalog/namespace.h"

typedef struct Slot
{
	Query	   *query;
	Index		rti;
	Expr	   *pin;			/* NULL: not pinned (yet) */
} Slot;

typedef struct Edge
{
	int			from;			/* slots */
	int			to;
} Edge;

typedef struct Inference
{
	List	   *slots;			/* of Slot * */
	List	   *edges;			/* of Edge * */
	const TableGroup *group;
	Oid			opfamily;		/* for hash and directory groups */
	List	   *levels;			/* enclosing queries, innermost first */
	bool		impossible;		/* tables of two groups, or a contradiction */
} Inference;

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

/* Position of the slot that this Var is the key of, or -1. */
static int
find_slot(Inference *inf, Node *node)
{
	Var		   *var;
	Query	   *query;
	int			i = 0;
	ListCell   *lc;

	while (node && IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	if (node == NULL || !IsA(node, Var))
		return -1;
	var = (Var *) node;
	if ((int) var->varlevelsup >= list_length(inf->levels))
		return -1;
	query = list_nth(inf->levels, var->varlevelsup);

	foreach(lc, inf->slots)
	{
		Slot	   *slot = lfirst(lc);

		if (slot->query == query && slot->rti == var->varno)
		{
			RangeTblEntry *rte = list_nth(query->rtable, slot->rti - 1);

			return dbscale_catalog_table(rte->relid)->key_attno == var->varattno ? i : -1;
		}
		i++;
	}
	return -1;
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
	Edge	   *edge;

	if (!may_restrict(inf, to, scope))
		return;
	edge = palloc(sizeof(Edge));
	edge->from = from;
	edge->to = to;
	inf->edges = lappend(inf->edges, edge);
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
	else if (left >= 0 && dbscale_is_row_free(lsecond(op->args)))
		pin_slot(inf, left, lsecond(op->args), scope);
	else if (right >= 0 && dbscale_is_row_free(linitial(op->args)))
		pin_slot(inf, right, linitial(op->args), scope);
}

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
			return;
	}
	infer_condition(inf, ((JoinExpr *) node)->quals, &scope);
}

/* One slot for each distributed table of this level. */
static void
add_slots(Inference *inf, Query *query)
{
	Index		rti = 0;
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);
		const DistributedTable *table;
		Slot	   *slot;

		rti++;
		if (rte->rtekind != RTE_RELATION ||
			(table = dbscale_catalog_table(rte->relid)) == NULL || table->is_reference)
			continue;
		if (inf->group == NULL)
		{
			inf->group = table->group;
			inf->opfamily = group_opfamily(table->group);
		}
		else if (inf->group->id != table->group->id)
			inf->impossible = true;
		slot = palloc0(sizeof(Slot));
		slot->query = query;
		slot->rti = rti;
		inf->slots = lappend(inf->slots, slot);
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
	add_slots(inf, query);
	if (inf->impossible)
		return;
	inf->levels = lcons(query, inf->levels);
	query_tree_walker(query, infer_subqueries, inf, 0);
	infer_join_tree(inf, (Node *) query->jointree);
	inf->levels = list_delete_first(inf->levels);
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
	}
}

Expr *
dbscale_infer_key(Query *query)
{
	Inference	inf = {0};
	Expr	   *key = NULL;
	ListCell   *lc;

	infer_query(&inf, query);
	if (inf.impossible || inf.slots == NIL)
		return NULL;
	propagate(&inf);

	foreach(lc, inf.slots)
	{
		Slot	   *slot = lfirst(lc);

		if (slot->pin == NULL || (key != NULL && !equal(key, slot->pin)))
			return NULL;
		key = slot->pin;
	}
	return key;
}

/* ---- a query that every shard answers for its own keys ---- */

/* The entries that an outer join may fill with NULLs. */
static Bitmapset *
nullable_entries(Node *node)
{
	Bitmapset  *result = NULL;
	JoinExpr   *join;
	ListCell   *lc;

	if (IsA(node, RangeTblRef))
		return NULL;
	if (IsA(node, FromExpr))
	{
		foreach(lc, ((FromExpr *) node)->fromlist)
			result = bms_union(result, nullable_entries(lfirst(lc)));
		return result;
	}
	join = (JoinExpr *) node;
	result = bms_union(nullable_entries(join->larg), nullable_entries(join->rarg));
	if (join->jointype == JOIN_LEFT || join->jointype == JOIN_FULL)
		result = bms_union(result, entries_below(join->rarg));
	if (join->jointype == JOIN_RIGHT || join->jointype == JOIN_FULL)
		result = bms_union(result, entries_below(join->larg));
	return result;
}

/* Positions of the slots that a pin of this one would reach. */
static Bitmapset *
reached_from(Inference *inf, int position)
{
	Bitmapset  *reached = bms_make_singleton(position);
	bool		changed = true;

	while (changed)
	{
		ListCell   *lc;

		changed = false;
		foreach(lc, inf->edges)
		{
			Edge	   *edge = lfirst(lc);

			if (!bms_is_member(edge->from, reached) || bms_is_member(edge->to, reached))
				continue;
			reached = bms_add_member(reached, edge->to);
			changed = true;
		}
	}
	return reached;
}

/* The key is one of the elements: key = ANY (array). */
static Expr *
array_of_keys(Inference *inf, Node *node, Bitmapset *keys_of, Query *query)
{
	ScalarArrayOpExpr *any = (ScalarArrayOpExpr *) node;
	OpExpr		op = {.xpr.type = T_OpExpr};
	int			slot;

	if (!IsA(node, ScalarArrayOpExpr) || !any->useOr)
		return NULL;
	op.opno = any->opno;
	op.inputcollid = any->inputcollid;
	op.args = any->args;
	slot = find_slot(inf, linitial(any->args));
	if (slot < 0 || !is_key_equality(inf, &op) || !dbscale_is_row_free(lsecond(any->args)))
		return NULL;
	if (((Slot *) list_nth(inf->slots, slot))->query != query ||
		!bms_is_member(((Slot *) list_nth(inf->slots, slot))->rti, keys_of))
		return NULL;
	return lsecond(any->args);
}

/* One condition at the top of WHERE that names the keys is enough. */
static void
find_values(Inference *inf, Query *query, Slot *root, Colocation *result)
{
	List	   *quals = (List *) query->jointree->quals;
	ListCell   *lc;

	propagate(inf);
	if (root->pin != NULL)
	{
		result->values = list_make1(root->pin);
		return;
	}
	if (query->jointree->quals && is_andclause(query->jointree->quals))
		quals = ((BoolExpr *) query->jointree->quals)->args;
	else if (quals != NIL && !IsA(quals, List))
		quals = list_make1(quals);
	inf->levels = lcons(query, inf->levels);
	foreach(lc, quals)
	{
		Expr	   *array = array_of_keys(inf, lfirst(lc), result->keys_of, query);

		if (array == NULL)
			continue;
		result->values = list_make1(array);
		break;
	}
	inf->levels = list_delete_first(inf->levels);
}

/*
 * A *root* is a slot whose pin would reach all the others, and whose table no outer
 * join of the level fills with NULLs.  Then each row of the query's FROM has one row of
 * the root's table, and all that it may meet is in that row's shard.
 */
bool
dbscale_infer_colocation(Query *query, Colocation *result)
{
	Inference	inf = {0};
	Bitmapset  *nullable = nullable_entries((Node *) query->jointree);
	Bitmapset  *members = entries_below((Node *) query->jointree);
	Slot	   *root = NULL;
	int			position = 0;
	ListCell   *lc;

	memset(result, 0, sizeof(Colocation));
	infer_query(&inf, query);
	if (inf.impossible || inf.slots == NIL)
		return false;
	foreach(lc, inf.slots)
	{
		Slot	   *slot = lfirst(lc);

		if (slot->query == query && bms_is_member(slot->rti, members) &&
			!bms_is_member(slot->rti, nullable) &&
			bms_num_members(reached_from(&inf, position)) == list_length(inf.slots))
		{
			/* all roots reach each other, so their keys are the same on every row */
			result->keys_of = bms_add_member(result->keys_of, slot->rti);
			if (root == NULL)
				root = slot;
		}
		position++;
	}
	if (root == NULL)
		return false;
	result->group = inf.group;
	result->table = ((RangeTblEntry *) list_nth(query->rtable, root->rti - 1))->relid;
	find_values(&inf, query, root, result);
	return true;
}
