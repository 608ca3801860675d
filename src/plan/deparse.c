/*
 * deparse.c
 *		A statement's text with holes for the names of shard tables.
 *
 * A shard's table has the schema, name and columns of its foreign table, so core's
 * pg_get_querydef() on a query whose relations were replaced by foreign tables
 * gives text that the node can run.  To find where the names stand in that text,
 * without guessing what is a literal, it is printed twice, for two different
 * shards: the texts differ in the names and nowhere else.
 *
 *     … FROM dbscale_shards.posts_0 posts WHERE (title = 'dbscale_shards.posts_0')
 *     … FROM dbscale_shards.posts_1 posts WHERE (title = 'dbscale_shards.posts_0')
 */
#include "plan/plan.h"

#include "catalog/pg_class.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"

typedef struct ReplaceContext
{
	int			position;		/* of the shard in the group's array */
} ReplaceContext;

static char *
foreign_table_name(Oid relation, int position)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(relation);
	Oid			relid = table->foreign_tables[position];

	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
}

/* Put the foreign tables of one shard in the place of the distributed tables. */
static bool
replace_relations(Node *node, ReplaceContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;
		const DistributedTable *table;

		if (rte->rtekind == RTE_RELATION &&
			(table = dbscale_catalog_table(rte->relid)) != NULL && !table->is_reference)
		{
			rte->relid = table->foreign_tables[context->position];
			/* the row of ON CONFLICT's "excluded" has a kind of its own */
			if (rte->relkind == RELKIND_PARTITIONED_TABLE)
				rte->relkind = RELKIND_FOREIGN_TABLE;
			/* without an alias its columns would be qualified by its new name */
			if (rte->alias == NULL)
				rte->alias = makeAlias(rte->eref->aliasname, NIL);
		}
		return false;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, replace_relations, context,
								 QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, replace_relations, context);
}

/* Everything is printed with its schema: the node's search_path is pg_catalog as well. */
static char *
print_for_shard(Query *query, int position)
{
	ReplaceContext context = {position};
	Query	   *copy = copyObject(query);
	int			nest = NewGUCNestLevel();
	char	   *text;

	replace_relations((Node *) copy, &context);
	(void) set_config_option("search_path", "pg_catalog", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	text = pg_get_querydef(copy, false);
	AtEOXact_GUC(true, nest);
	return text;
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

ShardSql
dbscale_plan_deparse(Query *query, List *relations)
{
	const DistributedTable *table = dbscale_catalog_require_distributed(linitial_oid(relations));
	int			count = list_length(relations);
	int			last = table->group->nshards - 1;
	char	  **names_a = palloc(sizeof(char *) * count);
	char	  **names_b = palloc(sizeof(char *) * count);
	char	   *text_a = print_for_shard(query, 0);
	char	   *text_b = print_for_shard(query, last);
	const char *a = text_a;
	const char *b = text_b;
	StringInfoData piece;
	ShardSql	sql = {NIL, NIL};
	const ShardSql nowhere = {NIL, NIL};

	for (int i = 0; i < count; i++)
	{
		names_a[i] = foreign_table_name(list_nth_oid(relations, i), 0);
		names_b[i] = foreign_table_name(list_nth_oid(relations, i), last);
	}

	initStringInfo(&piece);
	while (*a)
	{
		int			found = last > 0 ? name_at(a, b, names_a, names_b, count) : -1;

		if (found >= 0)
		{
			sql.pieces = lappend(sql.pieces, makeString(pstrdup(piece.data)));
			sql.tables = lappend_int(sql.tables, found);
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
			const DistributedTable *table = dbscale_catalog_require_distributed(relation);
			const Shard *found = dbscale_catalog_shard(table->group, shard);

			appendStringInfoString(&text, foreign_table_name(relation, found - table->group->shards));
		}
		i++;
	}
	return text.data;
}
