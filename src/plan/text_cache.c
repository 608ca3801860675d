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
 * A text is kept from the second time on, so that statements that are never repeated cost
 * no copy.  The MAX_TEXTS most recently used are kept.
 */
#include "plan/text_cache.h"

#include "access/transam.h"
#include "common/hashfn.h"
#include "lib/ilist.h"
#include "nodes/nodeFuncs.h"
#include "utils/datum.h"
#include "utils/inval.h"
#include "utils/memutils.h"

#define MAX_TEXTS 128
#define TEXT_BUCKETS 64
#define SEEN_SLOTS 512

/* Longer texts are printed each time, for their trees would fill the memory. */
#define MAX_LENGTH 4096

typedef struct CachedText
{
	dlist_node	node;			/* in `texts`, the last used first */
	dlist_node	in_bucket;
	MemoryContext context;		/* has all of it */
	uint32		hash;
	Query	   *query;
	List	   *relations;
	ShardSql	sql;
} CachedText;

static dlist_head texts;
static dlist_head buckets[TEXT_BUCKETS];
static int	ntexts = 0;
static uint32 seen[SEEN_SLOTS]; /* hashes of what was printed once */
static uint64 generation = 0;	/* counts invalidations */
static bool initialized = false;

static void
forget(CachedText *text)
{
	dlist_delete(&text->node);
	dlist_delete(&text->in_bucket);
	ntexts--;
	MemoryContextDelete(text->context);
}

/* Relation cache callback. */
static void
forget_relation(Datum arg, Oid relid)
{
	dlist_mutable_iter iter;

	generation++;
	dlist_foreach_modify(iter, &texts)
	{
		CachedText *text = dlist_container(CachedText, node, iter.cur);

		if (!OidIsValid(relid) || list_member_oid(text->relations, relid))
			forget(text);
	}
}

static void
initialize(void)
{
	if (initialized)
		return;
	dlist_init(&texts);
	for (int i = 0; i < TEXT_BUCKETS; i++)
		dlist_init(&buckets[i]);
	CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
	initialized = true;
}

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
	dlist_iter	iter;

	initialize();
	*key = (TextKey) {.cacheable = true, .generation = generation};
	(void) hash_node((Node *) query, key);
	if (!key->cacheable)
		return false;
	dlist_foreach(iter, &buckets[key->hash % TEXT_BUCKETS])
	{
		CachedText *text = dlist_container(CachedText, in_bucket, iter.cur);

		if (text->hash != key->hash || !equal(text->relations, relations) || !equal(text->query, query))
			continue;
		dlist_move_head(&texts, &text->node);
		sql->pieces = copyObject(text->sql.pieces);
		sql->tables = list_copy(text->sql.tables);
		return true;
	}
	return false;
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

/* In a context of its own, which belongs to the caller's until the copy is complete. */
static CachedText *
copy_text(Query *query, List *relations, const TextKey *key, const ShardSql *sql)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dbscale statement text",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CachedText *text = palloc(sizeof(CachedText));

	text->context = context;
	text->hash = key->hash;
	text->query = copyObject(query);
	text->relations = list_copy(relations);
	text->sql.pieces = copyObject(sql->pieces);
	text->sql.tables = list_copy(sql->tables);
	MemoryContextSwitchTo(old);
	return text;
}

void
dbscale_text_cache_add(Query *query, List *relations, const TextKey *key, const ShardSql *sql)
{
	uint32	   *slot = &seen[key->hash % SEEN_SLOTS];
	CachedText *text;

	if (!key->cacheable || key->generation != generation || is_long(sql))
		return;
	if (*slot != key->hash)
	{
		*slot = key->hash;
		return;
	}
	text = copy_text(query, relations, key, sql);
	if (ntexts >= MAX_TEXTS)
		forget(dlist_tail_element(CachedText, node, &texts));
	MemoryContextSetParent(text->context, TopMemoryContext);
	dlist_push_head(&texts, &text->node);
	dlist_push_head(&buckets[key->hash % TEXT_BUCKETS], &text->in_bucket);
	ntexts++;
}
