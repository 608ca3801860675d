/*
 * ship.c
 *		What a statement must be for a node to run it, or a part of it.
 *
 * 1. Its range table entries are distributed tables, reference tables and what is
 *    made of them; nothing guards their rows (row-level security, security barriers)
 *    and all are read as one user.
 * 2. What mentions no row is taken out and computed on the coordinator, once: each
 *    row-free expression that a node might see otherwise (now(), current_user, the
 *    session's time zone), and each parameter, becomes $1, $2, … (extract.c).
 * 3. What is left means on the node what it means here: built-in functions,
 *    operators, types and collations only, immutable after step 2.
 */
#include "planner/ship.h"

#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "planner/inference.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* ---- Which statements, and which range table entries ---- */

bool
dbscale_ship_names_distributed(Node *node, void *context)
{
	RangeTblEntry *rte = (RangeTblEntry *) node;

	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
		return rte->rtekind == RTE_RELATION && rte->relkind == RELKIND_PARTITIONED_TABLE && dbscale_catalog_is_distributed(rte->relid);
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, dbscale_ship_names_distributed, context, QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, dbscale_ship_names_distributed, context);
}

/* Of functions in FROM, those that return sets are left to the node. */
static const char *
check_functions(RangeTblEntry *rte)
{
	ListCell   *lc;

	foreach(lc, rte->functions)
	{
		Node	   *expr = ((RangeTblFunction *) lfirst(lc))->funcexpr;

		if (!IsA(expr, FuncExpr) || !((FuncExpr *) expr)->funcretset)
			return "a function in FROM that returns no set";
	}
	return NULL;
}

/* The row that ON CONFLICT calls "excluded". */
static bool
is_excluded(Query *query, RangeTblEntry *rte)
{
	return query->onConflict && query->onConflict->exclRelIndex > 0 &&
		rte == list_nth(query->rtable, query->onConflict->exclRelIndex - 1);
}

/* A view's own entry is there for its privileges only; it is in no join tree. */
static const char *
check_entry(Shipment *shipment, Query *query, RangeTblEntry *rte)
{
	bool		is_target = query->resultRelation > 0 &&
		rte == list_nth(query->rtable, query->resultRelation - 1);
	const DistributedTable *table;
	Oid			user;

	if (rte->security_barrier || rte->securityQuals != NIL)
		return "a security barrier";
	if (rte->tablesample != NULL)
		return "TABLESAMPLE";
	switch (rte->rtekind)
	{
		case RTE_RELATION:
			break;
		case RTE_FUNCTION:
			return check_functions(rte);
		case RTE_SUBQUERY:
		case RTE_JOIN:
		case RTE_VALUES:
		case RTE_CTE:
		case RTE_RESULT:
			return NULL;
		default:
			return "a kind of FROM item that is not sent to nodes";
	}

	if (rte->relkind == RELKIND_VIEW || is_excluded(query, rte))
		return NULL;
	table = dbscale_catalog_table(rte->relid);
	if (table == NULL || (table->is_reference && !shipment->reference_too))
		return "a table that is not distributed";
	if (!rte->inh && !(is_target && query->commandType == CMD_INSERT))
		return "ONLY";
	user = dbscale_rte_check_as_user(query, rte);
	if (shipment->seen_user && user != shipment->check_as_user)
		return "tables read as different users";
	shipment->seen_user = true;
	shipment->check_as_user = user;
	shipment->relations = list_append_unique_oid(shipment->relations, rte->relid);
	return NULL;
}

static const char *
check_query(Shipment *shipment, Query *query)
{
	ListCell   *lc;

	if (query->hasRowSecurity)
		return "row-level security";
	if (query->hasModifyingCTE && !shipment->writes_too)
		return "a data-modifying WITH";
	if (query->hasTargetSRFs)
		return "a set-returning function in the select list";
	if (query->rowMarks != NIL)
		shipment->locks_rows = true;

	dbscale_collect_perminfos(&shipment->rtable, &shipment->perminfos, query);
	foreach(lc, query->rtable)
	{
		const char *reason = check_entry(shipment, query, lfirst(lc));

		if (reason)
			return reason;
	}
	return NULL;
}

bool
dbscale_ship_check(Node *node, Shipment *shipment)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		shipment->reason = check_query(shipment, (Query *) node);
		if (shipment->reason)
			return true;
		return query_tree_walker((Query *) node, dbscale_ship_check, shipment, 0);
	}
	return expression_tree_walker(node, dbscale_ship_check, shipment);
}

/* ---- What every node has ---- */

bool
dbscale_ship_is_builtin(Oid oid)
{
	return oid < FirstGenbkiObjectId || !OidIsValid(oid);
}

bool
dbscale_ship_is_local_type(Oid type)
{
	switch (type)
	{
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGTYPEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
		case REGCOLLATIONOID:
		case RECORDOID:
			return true;
		default:
			return !dbscale_ship_is_builtin(type);
	}
}

bool
dbscale_ship_is_enum(Oid type)
{
	return !dbscale_ship_is_builtin(type) && get_typtype(type) == TYPTYPE_ENUM;
}

/* ---- What is left must mean the same on the node ---- */

/* Called immutable, but they print as bytea_output and extra_float_digits say. */
static bool
prints_by_settings(Oid function)
{
	switch (function)
	{
		case F_BYTEAOUT:
		case F_FLOAT4OUT:
		case F_FLOAT8OUT:
		case F_POINT_OUT:
		case F_LSEG_OUT:
		case F_LINE_OUT:
		case F_PATH_OUT:
		case F_BOX_OUT:
		case F_POLY_OUT:
		case F_CIRCLE_OUT:
			return true;
		default:
			return false;
	}
}

static bool
is_local_function(Oid function, void *context)
{
	return !dbscale_ship_is_builtin(function) || func_volatile(function) != PROVOLATILE_IMMUTABLE ||
		prints_by_settings(function);
}

/*
 * json_agg() and jsonb_agg() are called stable, since what they print may depend on the
 * session; of these types it does not.
 */
static bool
is_settled_document(Node *node)
{
	Aggref	   *agg = (Aggref *) node;

	if (!IsA(node, Aggref) || (agg->aggfnoid != F_JSON_AGG && agg->aggfnoid != F_JSONB_AGG))
		return false;
	switch (linitial_oid(agg->aggargtypes))
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case UUIDOID:
		case DATEOID:
		case TIMESTAMPOID:
		case JSONOID:
		case JSONBOID:
			return true;
		default:
			return false;
	}
}

/*
 * An operator of one's own, be it of a built-in function: it is printed by its name.  Rows
 * may be sorted by one as well.
 */
static bool
has_local_operator(Node *node)
{
	ListCell   *lc;

	switch (nodeTag(node))
	{
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
			return !dbscale_ship_is_builtin(((OpExpr *) node)->opno);
		case T_ScalarArrayOpExpr:
			return !dbscale_ship_is_builtin(((ScalarArrayOpExpr *) node)->opno);
		case T_RowCompareExpr:
			foreach(lc, ((RowCompareExpr *) node)->opnos)
				if (!dbscale_ship_is_builtin(lfirst_oid(lc)))
					return true;
			return false;
		case T_SortGroupClause:
			return !dbscale_ship_is_builtin(((SortGroupClause *) node)->eqop) ||
				!dbscale_ship_is_builtin(((SortGroupClause *) node)->sortop);
		default:
			return false;
	}
}

/* All but the columns of "excluded", whose list has a whole row that is not sent. */
static bool
find_local_on_conflict(OnConflictExpr *conflict, Shipment *shipment)
{
	return dbscale_ship_find_local((Node *) conflict->arbiterElems, shipment) ||
		dbscale_ship_find_local(conflict->arbiterWhere, shipment) ||
		dbscale_ship_find_local((Node *) conflict->onConflictSet, shipment) ||
		dbscale_ship_find_local(conflict->onConflictWhere, shipment);
}

/*
 * A column of a type that only this database is known to have may be sent and set, since
 * the node has the column; but nothing is computed with it, nor sorted or grouped by it.
 */
static bool
is_plain_column(Node *node)
{
	TargetEntry *tle = (TargetEntry *) node;

	return IsA(node, TargetEntry) && tle->ressortgroupref == 0 && IsA(tle->expr, Var) &&
		((Var *) tle->expr)->varattno > 0 && exprType((Node *) tle->expr) != RECORDOID &&
		dbscale_ship_is_builtin(exprCollation((Node *) tle->expr));
}

/* Rows of branches are compared, but for UNION ALL. */
static bool
compares_local_types(SetOperationStmt *op)
{
	ListCell   *lc;

	if (op->op == SETOP_UNION && op->all)
		return false;
	foreach(lc, op->colTypes)
		if (dbscale_ship_is_local_type(lfirst_oid(lc)))
			return true;
	return false;
}

/* ---- enums: they are set and compared for equality on nodes, and nothing else ---- */

static bool
is_enum_value(Node *node)
{
	if (IsA(node, CoerceViaIO))
		return IsA(((CoerceViaIO *) node)->arg, Param) && dbscale_ship_is_enum(exprType(node));
	return IsA(node, Const) && dbscale_ship_is_enum(((Const *) node)->consttype);
}

static bool
is_enum_operand(Node *node)
{
	if (IsA(node, Var))
		return ((Var *) node)->varattno > 0 && dbscale_ship_is_enum(((Var *) node)->vartype);
	return is_enum_value(node);
}

static bool
are_enum_values(Node *array)
{
	ListCell   *lc;

	if (IsA(array, Const))
		return dbscale_ship_is_enum(get_element_type(((Const *) array)->consttype));
	if (!IsA(array, ArrayExpr))
		return false;
	foreach(lc, ((ArrayExpr *) array)->elements)
		if (!is_enum_value(lfirst(lc)))
			return false;
	return true;
}

static bool
compares_enums(Node *node)
{
	OpExpr	   *op = (OpExpr *) node;
	ScalarArrayOpExpr *any = (ScalarArrayOpExpr *) node;

	if (IsA(node, OpExpr))
		return (op->opfuncid == F_ENUM_EQ || op->opfuncid == F_ENUM_NE) &&
			is_enum_operand(linitial(op->args)) && is_enum_operand(lsecond(op->args));
	return IsA(node, ScalarArrayOpExpr) &&
		(any->opfuncid == F_ENUM_EQ || any->opfuncid == F_ENUM_NE) &&
		is_enum_operand(linitial(any->args)) && are_enum_values(lsecond(any->args));
}

static List *
without_enum_values(List *targetlist)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, targetlist)
		if (((TargetEntry *) lfirst(lc))->resjunk || !is_enum_value((Node *) ((TargetEntry *) lfirst(lc))->expr))
			result = lappend(result, lfirst(lc));
	return result;
}

/* The query but for the enums that columns are set to; a shallow copy. */
static Query *
without_set_enums(const Query *query)
{
	Query	   *copy = makeNode(Query);
	ListCell   *lc;

	*copy = *query;
	if (query->commandType == CMD_INSERT || query->commandType == CMD_UPDATE)
		copy->targetList = without_enum_values(query->targetList);
	if (query->onConflict)
	{
		copy->onConflict = makeNode(OnConflictExpr);
		*copy->onConflict = *query->onConflict;
		copy->onConflict->onConflictSet = without_enum_values(query->onConflict->onConflictSet);
	}
	copy->mergeActionList = NIL;
	foreach(lc, query->mergeActionList)
	{
		MergeAction *action = makeNode(MergeAction);

		*action = *(MergeAction *) lfirst(lc);
		action->targetList = without_enum_values(action->targetList);
		copy->mergeActionList = lappend(copy->mergeActionList, action);
	}
	return copy;
}

/* Does an UPDATE, here or in an upsert or MERGE, set no column?  A generated one SET to DEFAULT is dropped before. */
static bool
sets_nothing(const Query *query)
{
	ListCell   *lc;

	foreach(lc, query->mergeActionList)
		if (((MergeAction *) lfirst(lc))->commandType == CMD_UPDATE && ((MergeAction *) lfirst(lc))->targetList == NIL)
			return true;
	return (query->commandType == CMD_UPDATE && query->targetList == NIL) ||
		(query->onConflict && query->onConflict->action == ONCONFLICT_UPDATE && query->onConflict->onConflictSet == NIL);
}

bool
dbscale_ship_find_local(Node *node, Shipment *shipment)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query) && sets_nothing((Query *) node))
	{
		shipment->reason = "an UPDATE that sets only generated columns";
		return true;
	}
	if (IsA(node, Query))
		return query_tree_walker(without_set_enums((Query *) node), dbscale_ship_find_local, shipment,
								 QTW_EXAMINE_SORTGROUP);
	if (compares_enums(node))
		return has_local_operator(node);
	if (IsA(node, OnConflictExpr))
		return find_local_on_conflict((OnConflictExpr *) node, shipment);
	if (is_plain_column(node))
		return false;
	if (IsA(node, SetOperationStmt) && compares_local_types((SetOperationStmt *) node))
	{
		shipment->reason = "a type or collation that a node may not have";
		return true;
	}
	if (has_local_operator(node))
	{
		shipment->reason = "an operator that a node may not have";
		return true;
	}
	if (!is_settled_document(node) && check_functions_in_node(node, is_local_function, NULL))
	{
		shipment->reason = "a function that a node may not have, or whose result depends on the session";
		return true;
	}
	switch (nodeTag(node))
	{
		case T_Var:
			if (((Var *) node)->varattno <= 0)
			{
				shipment->reason = "a system column or whole row";
				return true;
			}
			break;
		case T_SQLValueFunction:
		case T_NextValueExpr:
		case T_CurrentOfExpr:
		case T_CoerceToDomain:
		case T_RowExpr:
		case T_XmlExpr:
			shipment->reason = "an expression that only the coordinator can compute";
			return true;
		default:
			break;
	}
	switch (nodeTag(node))
	{
		case T_Var:
		case T_Const:
		case T_Param:
		case T_FuncExpr:
		case T_OpExpr:
		case T_Aggref:
		case T_WindowFunc:
		case T_CoerceViaIO:
		case T_RelabelType:
		case T_ArrayExpr:
		case T_CollateExpr:
			if (dbscale_ship_is_local_type(exprType(node)) || !dbscale_ship_is_builtin(exprCollation(node)))
			{
				shipment->reason = "a type or collation that a node may not have";
				return true;
			}
			break;
		default:
			break;
	}
	return expression_tree_walker(node, dbscale_ship_find_local, shipment);
}

/* A copy in which no level has 18's entry for grouped expressions. */
static Node *
without_group_entries(Node *node, void *context)
{
	Query	   *query;

	if (node == NULL)
		return NULL;
	if (!IsA(node, Query))
		return expression_tree_mutator(node, without_group_entries, context);
	query = query_tree_mutator((Query *) node, without_group_entries, context, 0);
	dbscale_flatten_groups(query);
	return (Node *) query;
}

Query *
dbscale_ship_normalize(Query *query)
{
	if (!DBSCALE_HAS_GROUP_ENTRIES)
		return query;
	return (Query *) without_group_entries((Node *) query, NULL);
}

/* ---- pieces of a query ---- */

void
dbscale_blank_entry(RangeTblEntry *rte)
{
	Alias	   *eref = rte->eref;

	memset(rte, 0, sizeof(RangeTblEntry));
	rte->type = T_RangeTblEntry;
	rte->rtekind = RTE_RESULT;
	rte->eref = makeAlias(eref ? eref->aliasname : "none", NIL);
}

RangeTblFunction *
dbscale_unnest_function(Node *array, Oid element, Oid collation)
{
	RangeTblFunction *function = makeNode(RangeTblFunction);
	FuncExpr   *call = makeFuncExpr(F_UNNEST_ANYARRAY, element, list_make1(array),
									collation, collation, COERCE_EXPLICIT_CALL);

	call->funcretset = true;
	function->funcexpr = (Node *) call;
	function->funccolcount = 1;
	return function;
}
