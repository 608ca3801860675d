/*
 * text_cache.c
 *		Texts of statements that were printed before.
 *
 * An application sends the same statements again and again, with other constants.  Those
 * that a statement hardly depends on have become parameters by now (planner/extract.c), so
 * the Query is equal() to an earlier one, whose text is taken instead of printing.
 *
 * Why a text is still right when it is found:
 *
 * 1. Queries that are equal() mean the same, so the text of one is a text of the other.
 *    (What equal() leaves out is how a cast was written and where a word stood.)
 * 2. Apart from the tables' own names, which are holes, a text names columns of the relations,
 *    and built-in functions, operators and types, which keep their names.  A change of a
 *    relation's columns invalidates its relation cache entry, and the texts with it.
 *    Texts that name a type of the database are not kept.
 * 3. A relation cannot be changed by others while the statement is planned, since it is locked;
 *    what is invalidated between look-up and print is not kept (`generation`).
 * 4. Constants are printed so that any session reads them alike, so settings are of no
 *    concern, but quote_all_identifiers, which is of none either: both texts mean the same.
 *
 * query_cache.c says how long a text is kept.
 */
#include "plan/text_cache.h"

#include "access/transam.h"
#include "common/hashfn.h"
#include "nodes/nodeFuncs.h"
#include "plan/query_cache.h"
#include "utils/datum.h"

/* Longer texts are printed each time, for their trees would fill the memory. */
#define MAX_LENGTH 4096

typedef struct CachedText
{
	QueryEntry	entry;
	ShardSql	sql;
} CachedText;

static QueryCache texts;

/* ---- the hash ---- */

static void
mix(TextKey *key, uint32 value)
{
	key->hash = hash_combine(key->hash, murmurhash32(value));
}

static void
mix_type(TextKey *key, Oid type)
{
	mix(key, type);
	if (type >= FirstGenbkiObjectId)
		key->cacheable = false;
}

static void
mix_const(TextKey *key, Const *constant)
{
	mix_type(key, constant->consttype);
	if (!constant->constisnull)
		mix(key, datum_image_hash(constant->constvalue, constant->constbyval, constant->constlen));
}

/* What tells statements of one kind apart most often. */
static bool
hash_node(Node *node, TextKey *key)
{
	if (node == NULL)
		return false;
	mix(key, nodeTag(node));
	switch (nodeTag(node))
	{
		case T_Query:
			mix(key, ((Query *) node)->commandType);
			return query_tree_walker((Query *) node, hash_node, key, QTW_EXAMINE_RTES_BEFORE);
		case T_RangeTblEntry:
			mix(key, ((RangeTblEntry *) node)->relid);
			return false;
		case T_RangeTblFunction:
			/* with a list of columns and their types */
			if (((RangeTblFunction *) node)->funccolnames != NIL)
				key->cacheable = false;
			break;
		case T_Var:
			mix(key, ((Var *) node)->varno);
			mix(key, ((Var *) node)->varattno);
			return false;
		case T_Const:
			mix_const(key, (Const *) node);
			return false;
		case T_Param:
			mix(key, ((Param *) node)->paramid);
			mix_type(key, ((Param *) node)->paramtype);
			return false;
		case T_TargetEntry:
			mix(key, ((TargetEntry *) node)->resno);
			break;
		case T_OpExpr:
			mix(key, ((OpExpr *) node)->opno);
			break;
		case T_FuncExpr:
			mix(key, ((FuncExpr *) node)->funcid);
			break;
		case T_Aggref:
			mix(key, ((Aggref *) node)->aggfnoid);
			break;
		case T_CoerceViaIO:
		case T_RelabelType:
		case T_ArrayCoerceExpr:
		case T_ArrayExpr:
		case T_CaseExpr:
		case T_RowExpr:
			mix_type(key, exprType(node));
			break;
		default:
			break;
	}
	return expression_tree_walker(node, hash_node, key);
}

/* ---- finding and keeping ---- */

bool
dbscale_text_cache_find(Query *query, List *relations, TextKey *key, ShardSql *sql)
{
	CachedText *text;

	dbscale_query_cache_initialize(&texts);
	*key = (TextKey) {.cacheable = true, .generation = texts.generation};
	(void) hash_node((Node *) query, key);
	text = key->cacheable ? (CachedText *) dbscale_query_cache_find(&texts, query, key->hash, relations) : NULL;
	if (text == NULL)
		return false;
	sql->pieces = copyObject(text->sql.pieces);
	sql->tables = list_copy(text->sql.tables);
	return true;
}

static bool
is_long(const ShardSql *sql)
{
	size_t		length = 0;
	ListCell   *lc;

	foreach(lc, sql->pieces)
		length += strlen(strVal(lfirst(lc)));
	return length > MAX_LENGTH;
}

void
dbscale_text_cache_add(Query *query, List *relations, const TextKey *key, const ShardSql *sql)
{
	CachedText *text;
	MemoryContext old;

	if (!key->cacheable || key->generation != texts.generation || is_long(sql) || !dbscale_query_cache_wants(&texts, key->hash))
		return;
	text = (CachedText *) dbscale_query_cache_make(sizeof(CachedText), query, key->hash, relations);
	old = MemoryContextSwitchTo(text->entry.context);
	text->sql.pieces = copyObject(sql->pieces);
	text->sql.tables = list_copy(sql->tables);
	MemoryContextSwitchTo(old);
	dbscale_query_cache_keep(&texts, &text->entry);
}
