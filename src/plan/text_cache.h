/*
 * text_cache.h
 *		Texts of statements that were printed before.
 */
#ifndef DBSCALE_PLAN_TEXT_CACHE_H
#define DBSCALE_PLAN_TEXT_CACHE_H

#include "plan/plan.h"

/* What is to be remembered of a look-up until the text is there. */
typedef struct TextKey
{
	uint32		hash;
	bool		cacheable;
	uint64		generation;
} TextKey;

/* False: it has to be printed, and may then be given to dbscale_text_cache_add. */
extern bool dbscale_text_cache_find(Query *query, List *relations, TextKey *key, ShardSql *sql);
extern void dbscale_text_cache_add(Query *query, List *relations, const TextKey *key, const ShardSql *sql);

#endif							/* DBSCALE_PLAN_TEXT_CACHE_H */
