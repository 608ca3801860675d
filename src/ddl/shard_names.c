/*
 * shard_names.c
 *		Names of shard tables and their indexes on the nodes.
 *
 * Shard 7 of a table whose stored name is "posts" is dbscale_shards.posts_7 (also
 * its foreign table's name on the coordinator); a reference table's copy is
 * dbscale_shards.<stored name>.  An index has a stored name of its own in the same
 * way, and so have extended statistics (statistics.c).  All of them share one schema on a node, so no two stored names may be equal,
 * and none may be another with a number behind it ("posts" and "posts_7").
 */
#include "ddl/ddl.h"

#include "access/table.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"

/* What "_4095" leaves of a name. */
#define STORED_NAME_LENGTH (NAMEDATALEN - 1 - 5)

/* True when a table or an index has a stored name that this one could be taken for. */
static bool
stored_name_clashes(const char *name)
{
	char	   *sql = psprintf(
		"SELECT 1 FROM (SELECT stored_name FROM dbscale.distributed_table"
		" UNION ALL SELECT stored_name FROM dbscale.index_name"
		" UNION ALL SELECT stored_name FROM dbscale.statistics_name) s,"
		" (SELECT %s::text AS name) n"
		" WHERE s.stored_name OPERATOR(pg_catalog.=) n.name::name"
		" OR n.name ~ ('^' || regexp_replace(s.stored_name::text, '(\\W)', '\\\\\\1', 'g') || '_[0-9]+$')"
		" OR s.stored_name::text ~ ('^' || regexp_replace(n.name, '(\\W)', '\\\\\\1', 'g') || '_[0-9]+$')"
		" UNION ALL SELECT 1 FROM pg_class c, (SELECT %s::text AS name) n"
		" WHERE c.relnamespace = 'dbscale_shards'::regnamespace"
		" AND (c.relname = n.name::name"
		" OR c.relname::text ~ ('^' || regexp_replace(n.name, '(\\W)', '\\\\\\1', 'g') || '_[0-9]+$'))"
		/* tables on nodes that moves have left, or are about to make */
		" UNION ALL SELECT 1 FROM dbscale.cleanup c, (SELECT %s::text AS name) n"
		" WHERE c.kind = 'table' AND (c.name = n.name"
		" OR c.name ~ ('^' || regexp_replace(n.name, '(\\W)', '\\\\\\1', 'g') || '_[0-9]+$'))"
		" LIMIT 1",
		quote_literal_cstr(name), quote_literal_cstr(name), quote_literal_cstr(name));

	/* an ordinary owner, who makes an index, may not read all of these */
	return dbscale_ddl_execute_as_owner(sql) > 0;
}

/* The name cut to `length` bytes, between characters. */
static char *
cut_name(const char *name, int length)
{
	return pnstrdup(name, pg_mbcliplen(name, strlen(name), length));
}

char *
dbscale_ddl_new_stored_name(const char *name, const char *schema)
{
	if (strlen(name) <= STORED_NAME_LENGTH && !stored_name_clashes(name))
		return pstrdup(name);

	/* The hash of schema and name tells apart what the cut made equal. */
	for (int attempt = 0;; attempt++)
	{
		char	   *whole = psprintf("%s.%s.%d", schema, name, attempt);
		uint32		hash = hash_bytes((unsigned char *) whole, strlen(whole));
		char	   *candidate = psprintf("%s_x%08x",
										 cut_name(name, STORED_NAME_LENGTH - 10), hash);

		if (!stored_name_clashes(candidate))
			return candidate;
	}
}

char *
dbscale_ddl_shard_table_name(const DistributedTable *table, int shard)
{
	const char *name = shard < 0 ? table->stored_name :
		psprintf("%s_%d", table->stored_name, shard);

	return quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA, name);
}

char *
dbscale_ddl_shard_index_name(Oid relid, const char *index, int shard)
{
	char	   *where = psprintf("relation = %u AND index_name = %s",
								 relid, quote_literal_cstr(index));
	char	   *stored;

	stored = dbscale_ddl_query_value(
		psprintf("SELECT stored_name FROM dbscale.index_name WHERE %s", where));
	if (stored == NULL)
	{
		stored = dbscale_ddl_new_stored_name(index, get_namespace_name(get_rel_namespace(relid)));
		(void) dbscale_ddl_execute_as_owner(
			psprintf("INSERT INTO dbscale.index_name (relation, index_name, stored_name)"
					 " VALUES (%u, %s, %s)", relid, quote_literal_cstr(index),
					 quote_literal_cstr(stored)));
	}
	return shard < 0 ? stored : psprintf("%s_%d", stored, shard);
}

static char *
rename_sql(const char *kind, const char *from, const char *to)
{
	return psprintf("ALTER %s %s RENAME TO %s", kind, quote_qualified_identifier(DBSCALE_SHARDS_SCHEMA, from),
					quote_identifier(to));
}

/* A constraint takes the new name of its index. */
List *
dbscale_ddl_shard_rename_sql(const DistributedTable *table, int from, int to)
{
	Relation	rel = table_open(table->relid, NoLock);
	List	   *commands;
	ListCell   *lc;

	commands = list_make1(rename_sql("TABLE", psprintf("%s_%d", table->stored_name, from),
									 psprintf("%s_%d", table->stored_name, to)));
	foreach(lc, RelationGetIndexList(rel))
	{
		char	   *index = get_rel_name(lfirst_oid(lc));

		commands = lappend(commands, rename_sql("INDEX", dbscale_ddl_shard_index_name(table->relid, index, from),
												dbscale_ddl_shard_index_name(table->relid, index, to)));
	}
	table_close(rel, NoLock);
	foreach(lc, dbscale_ddl_query_rows(psprintf("SELECT stored_name FROM dbscale.statistics_name WHERE relation = %u",
												table->relid)))
	{
		char	   *stored = ((char **) lfirst(lc))[0];

		commands = lappend(commands, rename_sql("STATISTICS", psprintf("%s_%d", stored, from),
												psprintf("%s_%d", stored, to)));
	}
	return commands;
}
