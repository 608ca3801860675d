/*
 * deparse.c
 *		A statement's text with holes for the names of shard tables.
 *
 * Core's pg_get_querydef() prints a query whose relations were replaced by others:
 *
 * - a table that is read, by a common table expression of the table's columns and a name
 *   of our own making, which core prints as it is.  The node's columns have the same
 *   names, but not always the same numbers, and this entry has no numbers;
 * - the table that is written, by one of its foreign tables, which has the schema, name
 *   and columns of the shard's table.
 *
 * To find where the names stand in the text, without guessing what is a literal, it is
 * printed twice, with two sets of names: the texts differ in the names and nowhere else.
 *
 *     … FROM "shard a 16400" posts WHERE (title = 'shard a 16400')
 *     … FROM "shard b 16400" posts WHERE (title = 'shard a 16400')
 */
#include "plan/plan.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parser.h"
#include "plan/table_name.h"
#include "plan/text_cache.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

/* One of the two prints. */
typedef struct Print
{
	char		letter;
	int			position;		/* of the shard whose foreign table is written */
} Print;

static char *
foreign_table_name(Oid relation, int position)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(relation);

	return dbscale_plan_table_name(table->foreign_tables[position]);
}

static char *
invented_name(Oid relation, const Print *print)
{
	return psprintf("shard %c %u", print->letter, relation);
}

/* A table that is read, as a common table expression with its columns. */
static void
invent_table(RangeTblEntry *rte, const Print *print)
{
	Relation	rel = table_open(rte->relid, NoLock);
	TupleDesc	desc = RelationGetDescr(rel);
	List	   *names = NIL;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		names = lappend(names, makeString(column->attisdropped ? pstrdup("") :
										  pstrdup(NameStr(column->attname))));
		rte->coltypes = lappend_oid(rte->coltypes, column->atttypid);
		rte->coltypmods = lappend_int(rte->coltypmods, column->atttypmod);
		rte->colcollations = lappend_oid(rte->colcollations, column->attcollation);
	}
	table_close(rel, NoLock);
	rte->rtekind = RTE_CTE;
	rte->ctename = invented_name(rte->relid, print);
	rte->alias = makeAlias(rte->eref->aliasname, NIL);
	rte->eref = makeAlias(rte->eref->aliasname, names);
	dbscale_rte_forget_relation(rte);
}

static void
replace_target(RangeTblEntry *rte, const Print *print)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(rte->relid);

	rte->relid = table->foreign_tables[print->position];
	/* the row of ON CONFLICT's "excluded" has a kind of its own */
	if (rte->relkind == RELKIND_PARTITIONED_TABLE)
		rte->relkind = RELKIND_FOREIGN_TABLE;
	/* what a view is written through was in the view's FROM, and is in none now */
	rte->inFromCl = false;
	/* without an alias its columns would be qualified by its new name */
	if (rte->alias == NULL)
		rte->alias = makeAlias(rte->eref->aliasname, NIL);
}

/* ---- the target's columns: a foreign table may count them otherwise ---- */

typedef struct Renumbering
{
	const AttrNumber *map;		/* from the parent's numbers; 0: a dropped column */
	Query	   *query;
	int			depth;
} Renumbering;

/* NULL: both count alike. */
static AttrNumber *
map_of_columns(Oid parent, Oid foreign_table)
{
	Relation	rel = table_open(parent, NoLock);
	TupleDesc	desc = RelationGetDescr(rel);
	AttrNumber *map = palloc0(sizeof(AttrNumber) * (desc->natts + 1));
	bool		differs = false;

	for (int i = 1; i <= desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i - 1);

		if (column->attisdropped)
			continue;
		map[i] = get_attnum(foreign_table, NameStr(column->attname));
		differs |= map[i] != i;
	}
	table_close(rel, NoLock);
	return differs ? map : NULL;
}

static void
renumber_list(List *targetlist, const AttrNumber *map)
{
	ListCell   *lc;

	foreach(lc, targetlist)
	{
		TargetEntry *tle = lfirst(lc);

		if (!tle->resjunk)
			tle->resno = map[tle->resno];
	}
}

static bool
renumber_vars(Node *node, Renumbering *renumbering)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;
		OnConflictExpr *conflict = renumbering->query->onConflict;

		if ((int) var->varlevelsup == renumbering->depth && var->varattno > 0 &&
			(var->varno == renumbering->query->resultRelation ||
			 (conflict && var->varno == conflict->exclRelIndex)))
			var->varattno = var->varattnosyn = renumbering->map[var->varattno];
		return false;
	}
	if (IsA(node, Query))
	{
		renumbering->depth++;
		(void) query_tree_walker((Query *) node, renumber_vars, renumbering, 0);
		renumbering->depth--;
		return false;
	}
	return expression_tree_walker(node, renumber_vars, renumbering);
}

static void
renumber_target(Query *query, Oid parent, Oid foreign_table)
{
	Renumbering renumbering = {map_of_columns(parent, foreign_table), query, 0};
	ListCell   *lc;

	if (renumbering.map == NULL)
		return;
	/* what nobody prints may name dropped columns */
	if (query->onConflict)
		query->onConflict->exclRelTlist = NIL;
	(void) query_tree_walker(query, renumber_vars, &renumbering, 0);
	if (query->commandType == CMD_INSERT || query->commandType == CMD_UPDATE)
		renumber_list(query->targetList, renumbering.map);
	if (query->onConflict)
		renumber_list(query->onConflict->onConflictSet, renumbering.map);
	foreach(lc, query->mergeActionList)
		renumber_list(((MergeAction *) lfirst(lc))->targetList, renumbering.map);
}

static bool
replace_relations(Node *node, const Print *print)
{
	ListCell   *lc;
	int			rti = 0;

	if (node == NULL)
		return false;
	if (!IsA(node, Query))
		return expression_tree_walker(node, replace_relations, (void *) print);

	foreach(lc, ((Query *) node)->rtable)
	{
		Query	   *query = (Query *) node;
		RangeTblEntry *rte = lfirst(lc);

		rti++;
		if (rte->rtekind != RTE_RELATION || dbscale_catalog_table(rte->relid) == NULL)
			continue;
		if (rti == query->resultRelation)
		{
			Oid			parent = rte->relid;

			replace_target(rte, print);
			renumber_target(query, parent, rte->relid);
		}
		else if (query->onConflict && rti == query->onConflict->exclRelIndex)
			replace_target(rte, print);
		else
			invent_table(rte, print);
	}
	return query_tree_walker((Query *) node, replace_relations, (void *) print, 0);
}

static void
set_for_printing(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Everything is printed with its schema: the node's search_path is pg_catalog as well.
 * Constants are printed so that they are read the same under any settings: an
 * abbreviation of a time zone may mean another one to the node.  A nest level is returned.
 */
static int
begin_printing(void)
{
	int			nest = NewGUCNestLevel();

	set_for_printing("search_path", "pg_catalog");
	if (DateStyle != USE_ISO_DATES)
		set_for_printing("datestyle", "ISO");
	if (IntervalStyle != INTSTYLE_POSTGRES)
		set_for_printing("intervalstyle", "postgres");
	if (extra_float_digits < 1)
		set_for_printing("extra_float_digits", "3");
	if (!standard_conforming_strings)
		set_for_printing("standard_conforming_strings", "on");
	return nest;
}

static char *
print_query(Query *query, const Print *print)
{
	Query	   *copy = copyObject(query);

	replace_relations((Node *) copy, print);
	return pg_get_querydef(copy, false);
}

/* Which of the relations' names stands at `a`, its other name standing at `b`? -1: none. */
static int
name_at(const char *a, const char *b, char **names_a, char **names_b, int count)
{
	int			best = -1;

	for (int i = 0; i < count; i++)
	{
		if (strncmp(a, names_a[i], strlen(names_a[i])) == 0 &&
			strncmp(b, names_b[i], strlen(names_b[i])) == 0 &&
			(best < 0 || strlen(names_a[i]) > strlen(names_a[best])))
			best = i;
	}
	return best;
}

/* The first distributed table among them, or NULL. */
static const DistributedTable *
first_distributed(List *relations)
{
	ListCell   *lc;

	foreach(lc, relations)
	{
		const DistributedTable *table = dbscale_catalog_table(lfirst_oid(lc));

		if (table != NULL && !table->is_reference)
			return table;
	}
	return NULL;
}

/* The names that may stand in a print: first those of tables read, then of tables written. */
static char **
names_in(List *relations, const Print *print)
{
	int			count = list_length(relations);
	char	  **names = palloc0(sizeof(char *) * 2 * count);
	int			i = 0;
	ListCell   *lc;

	foreach(lc, relations)
	{
		names[i] = psprintf("\"%s\"", invented_name(lfirst_oid(lc), print));
		names[count + i] = dbscale_catalog_table(lfirst_oid(lc))->is_reference ?
			names[i] : foreign_table_name(lfirst_oid(lc), print->position);
		i++;
	}
	return names;
}

static ShardSql
print_with_holes(Query *query, List *relations)
{
	const DistributedTable *table = first_distributed(relations);
	int			count = list_length(relations);
	int			last = table ? table->group->nshards - 1 : 0;
	const Print print_a = {'a', 0};
	const Print print_b = {'b', last};
	char	  **names_a = names_in(relations, &print_a);
	char	  **names_b = names_in(relations, &print_b);
	int			nest = begin_printing();
	const char *a = print_query(query, &print_a);
	const char *b = print_query(query, &print_b);
	StringInfoData piece;
	ShardSql	sql = {NIL, NIL};
	const ShardSql nowhere = {NIL, NIL};

	AtEOXact_GUC(true, nest);
	initStringInfo(&piece);
	while (*a)
	{
		int			found = name_at(a, b, names_a, names_b, 2 * count);

		if (found >= 0)
		{
			sql.pieces = lappend(sql.pieces, makeString(pstrdup(piece.data)));
			sql.tables = lappend_int(sql.tables, found % count);
			resetStringInfo(&piece);
			a += strlen(names_a[found]);
			b += strlen(names_b[found]);
			continue;
		}
		if (*a != *b)
			return nowhere;
		appendStringInfoChar(&piece, *a);
		a++;
		b++;
	}
	sql.pieces = lappend(sql.pieces, makeString(piece.data));
	return sql;
}

ShardSql
dbscale_plan_deparse(Query *query, List *relations)
{
	TextKey		key;
	ShardSql	sql;

	if (dbscale_text_cache_find(query, relations, &key, &sql))
		return sql;
	sql = print_with_holes(query, relations);
	if (sql.pieces != NIL)
		dbscale_text_cache_add(query, relations, &key, &sql);
	return sql;
}

/* Also of a reference table, which is whole on every node. */
static char *
name_on_node(Oid relation, int shard)
{
	const DistributedTable *table = dbscale_catalog_table(relation);

	if (table == NULL)
		dbscale_catalog_require_distributed(relation);
	if (table->is_reference)
		return quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA, table->stored_name);
	return dbscale_plan_table_name(dbscale_catalog_foreign_table(table, shard));
}

char *
dbscale_plan_shard_sql(const ShardSql *sql, List *relations, int shard)
{
	StringInfoData text;
	ListCell   *piece;
	int			i = 0;

	initStringInfo(&text);
	foreach(piece, sql->pieces)
	{
		appendStringInfoString(&text, strVal(lfirst(piece)));
		if (i < list_length(sql->tables))
		{
			Oid			relation = list_nth_oid(relations, list_nth_int(sql->tables, i));

			appendStringInfoString(&text, name_on_node(relation, shard));
		}
		i++;
	}
	return text.data;
}
