/*
 * check.c
 *		Whether a counter can be kept: every error of create_counter, before anything
 *		is changed.  The same is asked again after DDL on one of its tables (hook.c).
 *
 * What is refused, and why it cannot be exact:
 *
 * 1. Sums of floating point numbers: (a + b) - b is not always a.
 * 2. min and max in buffered mode: when the extreme is taken away, the next one is
 *	  found among the source's rows, not in deltas.
 * 3. Filters that are not immutable: a row would be counted by one answer and
 *	  subtracted by another.  Filters with functions that are not built in: a node may
 *	  not have them, and their owner may replace them.
 * 4. Tables that are read or written past their triggers: foreign tables, views,
 *	  partitions and tables with inheritance; a target under FORCE ROW LEVEL SECURITY.
 * 5. Tables that are not colocated, in mode sync: the writer's node does not have the
 *	  target (carry.c does it later).
 */
#include "counter/internal.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "planner/ship.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

static void refuse(const Counter *counter, int code, const char *detail, const char *hint) __attribute__((noreturn));

/* The error they share; detail and hint are sentences.  A counter with a name is there already: DDL does not suit it. */
static void
refuse(const Counter *counter, int code, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(code),
			 errmsg("cannot keep column \"%s\" of table \"%s\" as a counter", counter->column, get_rel_name(counter->target)),
			 errdetail("%s", detail),
			 counter->name ? errhint("Use dbscale.drop_counter('%s') first.", counter->name) : errhint("%s", hint)));
}

static void
check_table(const Counter *counter, Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	const char *name = RelationGetRelationName(rel);
	const DistributedTable *table = dbscale_catalog_table(relid);
	bool		distributed = table != NULL && !table->is_reference;

	if (rel->rd_rel->relkind != RELKIND_RELATION && !distributed)
		refuse(counter, ERRCODE_WRONG_OBJECT_TYPE, psprintf("\"%s\" is not an ordinary or a distributed table.", name),
			   "Name a table made by CREATE TABLE.");
	if (rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		refuse(counter, ERRCODE_WRONG_OBJECT_TYPE, psprintf("Table \"%s\" is temporary or unlogged.", name),
			   "Only permanent tables can have counters.");
	if (relid < FirstNormalObjectId || strcmp(get_namespace_name(RelationGetNamespace(rel)), DBSCALE_SCHEMA) == 0 ||
		strcmp(get_namespace_name(RelationGetNamespace(rel)), DBSCALE_SHARDS_SCHEMA) == 0)
		refuse(counter, ERRCODE_WRONG_OBJECT_TYPE, psprintf("Table \"%s\" belongs to the system.", name),
			   "Only tables of users can have counters.");
	if (!distributed && (rel->rd_rel->relispartition || has_superclass(relid) || find_inheritance_children(relid, NoLock) != NIL))
		refuse(counter, ERRCODE_FEATURE_NOT_SUPPORTED,
			   psprintf("Table \"%s\" takes part in inheritance; its rows can be written through another table.", name),
			   "Use a table without parents and children.");
	if (!distributed && rel->rd_rel->relforcerowsecurity)
		refuse(counter, ERRCODE_FEATURE_NOT_SUPPORTED,
			   psprintf("Table \"%s\" has forced row level security, which would hide rows from the counter.", name),
			   "Use ALTER TABLE ... NO FORCE ROW LEVEL SECURITY.");
	table_close(rel, NoLock);
}

/* By hand or by an ALTER TABLE ... OWNER TO later: the target's owner writes it, and may have to read a source of this database. */
static void
check_owners(const Counter *counter)
{
	if (dbscale_counter_is_sharded(counter->source) ||
		pg_class_aclcheck(counter->source, dbscale_counter_owner(counter->target), ACL_SELECT) == ACLCHECK_OK)
		return;
	refuse(counter, ERRCODE_INSUFFICIENT_PRIVILEGE,
		   psprintf("The owner of table \"%s\" may not read table \"%s\".", get_rel_name(counter->target), get_rel_name(counter->source)),
		   "Give both tables to one owner, or grant SELECT.");
}

static Form_pg_attribute
column_of(const Counter *counter, Oid relid, const char *name)
{
	HeapTuple	tuple = SearchSysCacheAttName(relid, name);
	Form_pg_attribute copy;

	if (!HeapTupleIsValid(tuple) || ((Form_pg_attribute) GETSTRUCT(tuple))->attnum < 0)
		refuse(counter, ERRCODE_UNDEFINED_COLUMN, psprintf("Table \"%s\" has no column \"%s\".", get_rel_name(relid), name),
			   "Name one of the table's columns.");
	copy = palloc(ATTRIBUTE_FIXED_PART_SIZE);
	memcpy(copy, GETSTRUCT(tuple), ATTRIBUTE_FIXED_PART_SIZE);
	ReleaseSysCache(tuple);
	return copy;
}

/* ---- keys ---- */

static void
check_key_pair(const Counter *counter, const char *target_name, const char *source_name)
{
	Form_pg_attribute target = column_of(counter, counter->target, target_name);
	Form_pg_attribute source = column_of(counter, counter->source, source_name);
	TypeCacheEntry *type = lookup_type_cache(target->atttypid, TYPECACHE_EQ_OPR | TYPECACHE_HASH_PROC | TYPECACHE_LT_OPR);

	if (target->atttypid != source->atttypid)
		refuse(counter, ERRCODE_DATATYPE_MISMATCH,
			   psprintf("Key column \"%s\" has type %s, and \"%s\" has type %s.", target_name, format_type_be(target->atttypid),
						source_name, format_type_be(source->atttypid)),
			   "Give the columns one type.");
	if (target->attcollation != source->attcollation)
		refuse(counter, ERRCODE_COLLATION_MISMATCH,
			   psprintf("Key columns \"%s\" and \"%s\" have different collations.", target_name, source_name),
			   "Give the columns one collation.");
	if ((OidIsValid(target->attcollation) && target->attcollation != get_typcollation(target->atttypid)) ||
		!OidIsValid(type->hash_proc) || !OidIsValid(type->lt_opr) || !OidIsValid(type->eq_opr) ||
		!dbscale_ship_is_builtin(type->eq_opr))
		refuse(counter, ERRCODE_FEATURE_NOT_SUPPORTED,
			   psprintf("The type or collation of key column \"%s\" has no built-in comparison.", target_name),
			   "Use keys of a built-in type with the default collation.");
}

static bool
index_is_on(Relation index, Relation rel, List *names)
{
	Form_pg_index form = index->rd_index;

	if (!form->indisunique || !form->indisvalid || !form->indimmediate || RelationGetIndexPredicate(index) != NIL ||
		form->indnkeyatts != list_length(names))
		return false;
	for (int i = 0; i < form->indnkeyatts; i++)
	{
		ListCell   *lc;
		bool		found = false;

		foreach(lc, names)
			found |= form->indkey.values[i] != 0 && get_attnum(RelationGetRelid(rel), lfirst(lc)) == form->indkey.values[i];
		if (!found)
			return false;
	}
	return true;
}

bool
dbscale_counter_is_unique(const Counter *counter, Oid without)
{
	Relation	rel = table_open(counter->target, AccessShareLock);
	bool		unique = false;
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		unique |= lfirst_oid(lc) != without && index_is_on(index, rel, counter->target_key);
		index_close(index, AccessShareLock);
	}
	table_close(rel, NoLock);
	return unique;
}

void
dbscale_counter_check_unique(const Counter *counter, Oid without)
{
	if (!dbscale_counter_is_unique(counter, without))
		refuse(counter, ERRCODE_INVALID_FOREIGN_KEY,
			   psprintf("Table \"%s\" has no unique index on exactly (%s).", get_rel_name(counter->target),
						dbscale_counter_list_columns(counter->target_key, "")),
			   "Name the columns of its primary key or of a unique constraint that is not deferrable.");
}

static bool
has_duplicate(List *names)
{
	for (int i = 0; i < list_length(names); i++)
		for (int j = 0; j < i; j++)
			if (strcmp(list_nth(names, i), list_nth(names, j)) == 0)
				return true;
	return false;
}

static void
check_keys(const Counter *counter)
{
	ListCell   *lt;
	ListCell   *ls;

	if (list_length(counter->target_key) != list_length(counter->source_key))
		refuse(counter, ERRCODE_INVALID_PARAMETER_VALUE,
			   psprintf("target_key has %d columns, and source_key has %d.", list_length(counter->target_key), list_length(counter->source_key)),
			   "Give the columns of both in the same order.");
	if (has_duplicate(counter->target_key) || has_duplicate(counter->source_key))
		refuse(counter, ERRCODE_INVALID_PARAMETER_VALUE, "A key names a column twice.", "Name each column once.");
	forboth(lt, counter->target_key, ls, counter->source_key)
	{
		check_key_pair(counter, lfirst(lt), lfirst(ls));
		if (strcmp(lfirst(lt), counter->column) == 0)
			refuse(counter, ERRCODE_INVALID_PARAMETER_VALUE, "It is part of the target's key.", "Use another column.");
	}
	dbscale_counter_check_unique(counter, InvalidOid);
}

/* ---- the column and its values ---- */

static bool
is_integer(Oid type)
{
	return type == INT2OID || type == INT4OID || type == INT8OID;
}

static bool
has_scale(Form_pg_attribute column)
{
	return column->atttypid == NUMERICOID && column->atttypmod >= 0;
}

int
dbscale_counter_scale(int32 typmod)
{
	return (((typmod - VARHDRSZ) & 0x7ff) ^ 1024) - 1024;
}

static int
scale_of(Form_pg_attribute column)
{
	return dbscale_counter_scale(column->atttypmod);
}

static void
check_sum(const Counter *counter, Form_pg_attribute column, Form_pg_attribute value)
{
	if (value->atttypid == FLOAT4OID || value->atttypid == FLOAT8OID)
		refuse(counter, ERRCODE_FEATURE_NOT_SUPPORTED,
			   psprintf("Sums of column \"%s\", of type %s, would drift: what is added cannot be subtracted exactly.",
						counter->value, format_type_be(value->atttypid)),
			   "Use an integer or numeric column.");
	if (!is_integer(value->atttypid) && value->atttypid != NUMERICOID)
		refuse(counter, ERRCODE_DATATYPE_MISMATCH,
			   psprintf("Column \"%s\" has type %s, which has no exact sums.", counter->value, format_type_be(value->atttypid)),
			   "Use an integer or numeric column.");
	if (value->atttypid == NUMERICOID &&
		(column->atttypid != NUMERICOID ||
		 (has_scale(column) && (!has_scale(value) || scale_of(value) > scale_of(column)))))
		refuse(counter, ERRCODE_DATATYPE_MISMATCH,
			   psprintf("Its type would round sums of column \"%s\".", counter->value),
			   "Make it numeric, without a scale or with one that is large enough.");
}

static bool
is_ordered_type(Oid type)
{
	static const Oid types[] = {
		INT2OID, INT4OID, INT8OID, NUMERICOID, FLOAT4OID, FLOAT8OID, DATEOID, TIMEOID, TIMESTAMPOID, TIMESTAMPTZOID
	};

	for (int i = 0; i < lengthof(types); i++)
		if (types[i] == type)
			return true;
	return false;
}

static void
check_extreme(const Counter *counter, Form_pg_attribute column, Form_pg_attribute value)
{
	if (counter->buffered)
		refuse(counter, ERRCODE_FEATURE_NOT_SUPPORTED,
			   "min and max cannot be buffered: when the extreme is taken away, the next is found only among the source's rows.",
			   "Use mode 'sync'.");
	if (!is_ordered_type(value->atttypid))
		refuse(counter, ERRCODE_DATATYPE_MISMATCH,
			   psprintf("Column \"%s\" has type %s; min and max are kept of numbers, dates and times.",
						counter->value, format_type_be(value->atttypid)),
			   "Use another column.");
	if (column->atttypid != value->atttypid || (column->atttypmod >= 0 && column->atttypmod != value->atttypmod))
		refuse(counter, ERRCODE_DATATYPE_MISMATCH,
			   psprintf("It has another type than column \"%s\", which is %s.", counter->value,
						format_type_with_typemod(value->atttypid, value->atttypmod)),
			   "Give it the same type.");
	if (column->attnotnull)
		refuse(counter, ERRCODE_DATATYPE_MISMATCH, "It is NOT NULL, and a row without source rows has no min or max.",
			   "Use ALTER TABLE ... ALTER COLUMN ... DROP NOT NULL.");
}

static void
check_value(const Counter *counter)
{
	Form_pg_attribute column = column_of(counter, counter->target, counter->column);
	Form_pg_attribute value = counter->value ? column_of(counter, counter->source, counter->value) : NULL;

	if (column->attgenerated || column->attidentity)
		refuse(counter, ERRCODE_INVALID_PARAMETER_VALUE, "It is a generated or identity column.", "Use an ordinary column.");
	if (value == NULL && counter->aggregate != COUNTER_COUNT)
		refuse(counter, ERRCODE_INVALID_PARAMETER_VALUE,
			   psprintf("Aggregate %s needs a value column.", dbscale_counter_aggregate_name(counter->aggregate)),
			   "Give value_column.");
	if (dbscale_counter_is_extreme(counter))
	{
		check_extreme(counter, column, value);
		return;
	}
	if ((!is_integer(column->atttypid) && column->atttypid != NUMERICOID) || (has_scale(column) && scale_of(column) < 0))
		refuse(counter, ERRCODE_DATATYPE_MISMATCH,
			   psprintf("It has type %s; a %s is kept in an integer or numeric column.",
						format_type_with_typemod(column->atttypid, column->atttypmod),
						dbscale_counter_aggregate_name(counter->aggregate)),
			   "Use a column of type bigint.");
	if (counter->aggregate == COUNTER_SUM)
		check_sum(counter, column, value);
}

/* ---- the filter ---- */

static bool
is_foreign_function(Oid function, void *context)
{
	return !dbscale_ship_is_builtin(function);
}

/* What a filter must not have, though CHECK constraints may. */
static bool
find_unsuitable(Node *node, const char **what)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var) && ((Var *) node)->varattno <= 0)
	{
		*what = "It refers to a whole row or a system column.";
		return true;
	}
	if (check_functions_in_node(node, is_foreign_function, NULL))
	{
		*what = "It uses a function or operator that is not built in.";
		return true;
	}
	return expression_tree_walker(node, find_unsuitable, (void *) what);
}

/* The expression alone, as the parser makes it; anything that is more than one is an error. */
static Node *
parse_filter(const char *filter)
{
	List	   *parsed = raw_parser(psprintf("SELECT (%s\n)", filter), RAW_PARSE_DEFAULT);
	SelectStmt *select;

	if (list_length(parsed) == 1)
	{
		select = (SelectStmt *) linitial_node(RawStmt, parsed)->stmt;
		if (IsA(select, SelectStmt) && list_length(select->targetList) == 1 && select->fromClause == NIL &&
			select->whereClause == NULL && select->groupClause == NIL && select->havingClause == NULL &&
			select->windowClause == NIL && select->sortClause == NIL && select->limitCount == NULL &&
			select->limitOffset == NULL && select->lockingClause == NIL && select->withClause == NULL &&
			select->distinctClause == NIL && select->intoClause == NULL && select->op == SETOP_NONE &&
			linitial_node(ResTarget, select->targetList)->name == NULL)
			return linitial_node(ResTarget, select->targetList)->val;
	}
	ereport(ERROR,
			(errcode(ERRCODE_SYNTAX_ERROR),
			 errmsg("the filter of a counter must be one expression"),
			 errdetail("It is \"%s\".", filter),
			 errhint("Give a condition on columns of the source, such as 'published AND NOT deleted'.")));
}

static bool
names_something(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (!IsA(node, ColumnRef) && !IsA(node, BoolExpr) && !IsA(node, NullTest) && !IsA(node, BooleanTest) && !IsA(node, List))
		return true;
	return raw_expression_tree_walker(node, names_something, context);
}

/* Does it name columns alone: no operator, function nor type, which search_path could replace? */
bool
dbscale_counter_filter_is_plain(const char *filter)
{
	return !names_something(parse_filter(filter), NULL);
}

Node *
dbscale_counter_parse_filter(Oid source, const char *filter)
{
	Relation	rel = table_open(source, AccessShareLock);
	ParseState *pstate = make_parsestate(NULL);
	ParseNamespaceItem *item = addRangeTableEntryForRelation(pstate, rel, AccessShareLock, NULL, false, true);
	const char *what = NULL;
	Node	   *expression;

	addNSItemToQuery(pstate, item, true, true, true);
	expression = transformExpr(pstate, parse_filter(filter), EXPR_KIND_CHECK_CONSTRAINT);
	expression = coerce_to_boolean(pstate, expression, "a counter's filter");
	assign_expr_collations(pstate, expression);
	if (contain_mutable_functions(expression))
		what = "It is not immutable: a row could be counted by one answer and subtracted by another.";
	else
		(void) find_unsuitable(expression, &what);
	if (what)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("the filter of a counter cannot be \"%s\"", filter),
				 errdetail("%s", what),
				 errhint("Use built-in immutable functions and operators on columns of table \"%s\".", RelationGetRelationName(rel))));
	table_close(rel, NoLock);
	return expression;
}

/* So that it means the same in every session. */
char *
dbscale_counter_print_filter(Oid source, Node *expression)
{
	int			level = dbscale_counter_safe_session();
	char	   *text = deparse_expression(expression, deparse_context_for(get_rel_name(source), source), false, false);

	AtEOXact_GUC(true, level);
	return text;
}

/* ---- where the tables are ---- */

static bool
keys_correspond(const Counter *counter, const DistributedTable *target, const DistributedTable *source)
{
	char	   *target_column = get_attname(target->relid, target->key_attno, false);
	char	   *source_column = get_attname(source->relid, source->key_attno, false);
	ListCell   *lt;
	ListCell   *ls;

	forboth(lt, counter->target_key, ls, counter->source_key)
		if (strcmp(lfirst(lt), target_column) == 0 && strcmp(lfirst(ls), source_column) == 0)
			return true;
	return false;
}

/* Why the counter cannot be kept in the writer's transaction, on one node; NULL: it can. */
static const char *
why_apart(const Counter *counter, const DistributedTable *target, const DistributedTable *source)
{
	bool		target_here = target == NULL || target->is_reference;
	bool		source_here = source == NULL || source->is_reference;

	if (target_here && source_here)
		return NULL;
	if (target_here != source_here)
		return "One of the tables is distributed, and the other is not.";
	if (target->group->id != source->group->id)
		return "The tables are not colocated.";
	return keys_correspond(counter, target, source) ? NULL :
		"The keys do not contain the shard keys of both tables, in the same place.";
}

bool
dbscale_counter_is_apart(const Counter *counter)
{
	return why_apart(counter, dbscale_catalog_table(counter->target), dbscale_catalog_table(counter->source)) != NULL;
}

/* Types whose equal values have one text, or jsonb: such keys are compared far from their tables. */
static bool
can_travel(Oid type)
{
	static const Oid types[] = {
		BOOLOID, INT2OID, INT4OID, INT8OID, NUMERICOID, TEXTOID, VARCHAROID, UUIDOID, BYTEAOID, DATEOID, TIMESTAMPOID, TIMESTAMPTZOID
	};

	for (int i = 0; i < lengthof(types); i++)
		if (types[i] == type)
			return true;
	return false;
}

/* What carry.c needs. */
static void
check_apart(const Counter *counter, const char *reason, const DistributedTable *target)
{
	static const char *const colocate = "Distribute both tables colocated, and name their shard keys in target_key and source_key.";
	bool		routed = target == NULL || target->is_reference;
	ListCell   *lc;

	if (dbscale_counter_is_extreme(counter))
		refuse(counter, ERRCODE_FEATURE_NOT_SUPPORTED,
			   psprintf("%s Then a min or max cannot be kept: when the extreme is taken away, the next is found only among the source's rows.", reason),
			   colocate);
	if (!counter->buffered)
		refuse(counter, ERRCODE_FEATURE_NOT_SUPPORTED,
			   psprintf("%s Then it can be kept in mode buffered only.", reason),
			   "Use mode => 'buffered', or distribute both tables colocated and name their shard keys in target_key and source_key.");
	foreach(lc, counter->target_key)
	{
		Form_pg_attribute column = column_of(counter, counter->target, lfirst(lc));

		if (!can_travel(column->atttypid))
			refuse(counter, ERRCODE_FEATURE_NOT_SUPPORTED,
				   psprintf("%s Then its key cannot be of type %s.", reason, format_type_be(column->atttypid)),
				   "Use a key of numbers, texts, uuids, dates or timestamps.");
		routed |= target && column->attnum == target->key_attno;
	}
	if (!routed)
		refuse(counter, ERRCODE_FEATURE_NOT_SUPPORTED, psprintf("%s Then its target_key must contain the target's shard key.", reason), colocate);
}

static void
check_placement(Counter *counter)
{
	const DistributedTable *target = dbscale_catalog_table(counter->target);
	const DistributedTable *source = dbscale_catalog_table(counter->source);
	const char *reason = why_apart(counter, target, source);

	if (counter->name && (reason != NULL) != counter->apart)
		refuse(counter, ERRCODE_FEATURE_NOT_SUPPORTED, reason ? reason : "Its tables were not colocated.", "");
	counter->apart = reason != NULL;
	if (reason)
		check_apart(counter, reason, target);
}

void
dbscale_counter_check(Counter *counter)
{
	check_table(counter, counter->target);
	check_table(counter, counter->source);
	check_placement(counter);
	check_keys(counter);
	check_value(counter);
	check_owners(counter);
	if (counter->filter)
		counter->filter = dbscale_counter_print_filter(counter->source,
													   dbscale_counter_parse_filter(counter->source, counter->filter));
}
