/*
 * compat.h
 *		Every difference between PostgreSQL 15, 16, 17 and 18 that dbscale meets.
 *
 * No other file tests PG_VERSION_NUM.  Each shim names the version that changed.
 */
#ifndef DBSCALE_COMPAT_H
#define DBSCALE_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "dbscale needs PostgreSQL 15 or later"
#endif

/*
 * 16 hides every symbol of an extension that is not marked PGDLLEXPORT, and its
 * PG_FUNCTION_INFO_V1 marks the function; we hide them on 15 too (the Makefile
 * gives 15's empty PGDLLEXPORT its meaning), so the function is declared first.
 */
#include "fmgr.h"
#define DBSCALE_FUNCTION(name) \
	PGDLLEXPORT Datum name(PG_FUNCTION_ARGS); \
	PG_FUNCTION_INFO_V1(name)

/*
 * 16 renamed RelFileNode.  (The functions are declared here because their header
 * has the name of one of ours.)
 */
#include "utils/relcache.h"
#if PG_VERSION_NUM < 160000
#define rd_locator rd_node
#define rd_newRelfilelocatorSubid rd_newRelfilenodeSubid
#define rd_firstRelfilelocatorSubid rd_firstRelfilenodeSubid
#define RelationAssumeNewRelfilelocator RelationAssumeNewRelfilenode
#define table_relation_set_new_filelocator table_relation_set_new_filenode
extern Oid	GetNewRelFileNode(Oid reltablespace, Relation pg_class, char relpersistence);
#define dbscale_new_file_number(tablespace, pg_class, persistence) \
	GetNewRelFileNode(tablespace, pg_class, persistence)
#else
extern Oid	GetNewRelFileNumber(Oid reltablespace, Relation pg_class, char relpersistence);
#define dbscale_new_file_number(tablespace, pg_class, persistence) \
	GetNewRelFileNumber(tablespace, pg_class, persistence)
#endif

/* 18 counts frozen pages too. */
#if PG_VERSION_NUM < 180000
#define dbscale_set_relation_size(rel, pages, tuples) \
	vac_update_relstats(rel, pages, tuples, 0, (rel)->rd_rel->relhasindex, InvalidTransactionId, \
						InvalidMultiXactId, NULL, NULL, true)
#else
#define dbscale_set_relation_size(rel, pages, tuples) \
	vac_update_relstats(rel, pages, tuples, 0, 0, (rel)->rd_rel->relhasindex, InvalidTransactionId, \
						InvalidMultiXactId, NULL, NULL, true)
#endif

/* 16 made the ownership checks one function. */
#if PG_VERSION_NUM < 160000
#define dbscale_owns_relation(relid) pg_class_ownercheck(relid, GetUserId())
#else
#define dbscale_owns_relation(relid) object_ownercheck(RelationRelationId, relid, GetUserId())
#endif

/* 17 gave reindex_relation the statement, for event triggers. */
#if PG_VERSION_NUM < 170000
#define dbscale_reindex_relation(relid, flags, params) reindex_relation(relid, flags, params)
#else
#define dbscale_reindex_relation(relid, flags, params) reindex_relation(NULL, relid, flags, params)
#endif

/*
 * 16 moved permission checks out of the range table: a ForeignScan now carries its
 * user, and its base relations apart from the joins above them.
 */
#if PG_VERSION_NUM >= 160000
#define DBSCALE_SCAN_RELIDS(plan) ((plan)->fs_base_relids)
#define DBSCALE_SCAN_CHECK_AS_USER(plan, estate) ((plan)->checkAsUser)
#define DBSCALE_RESULT_CHECK_AS_USER(rinfo, estate) ExecGetResultRelCheckAsUser(rinfo, estate)
#else
#define DBSCALE_SCAN_RELIDS(plan) ((plan)->fs_relids)
#define DBSCALE_SCAN_CHECK_AS_USER(plan, estate) \
	(exec_rt_fetch((plan)->scan.scanrelid > 0 ? (plan)->scan.scanrelid : \
				   bms_next_member((plan)->fs_relids, -1), estate)->checkAsUser)
#define DBSCALE_RESULT_CHECK_AS_USER(rinfo, estate) \
	(exec_rt_fetch((rinfo)->ri_RangeTableIndex > 0 ? (rinfo)->ri_RangeTableIndex : \
				   (rinfo)->ri_RootResultRelInfo->ri_RangeTableIndex, estate)->checkAsUser)
#endif

/* 16: one function for the ownership of every kind of object */
#include "utils/acl.h"
#if PG_VERSION_NUM < 160000
#define dbscale_owns_database(database, role) pg_database_ownercheck(database, role)
#else
#include "catalog/pg_database.h"
#define dbscale_owns_database(database, role) \
	object_ownercheck(DatabaseRelationId, database, role)
#endif

/* 17: a virtual transaction's two parts in a struct */
#if PG_VERSION_NUM < 170000
#define dbscale_proc_lxid(proc) ((proc)->lxid)
#else
#define dbscale_proc_lxid(proc) ((proc)->vxid.lxid)
#endif

/* 17: transaction_timeout */
#if PG_VERSION_NUM >= 170000
#define compat_transaction_timeout_is_pending() (TransactionTimeoutPending != 0)
#define compat_disable_transaction_timeout() \
	SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE)
#else
#define compat_transaction_timeout_is_pending() false
#define compat_disable_transaction_timeout() ((void) 0)
#endif

/* 18 divided explain.h */
#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#else
#include "commands/explain.h"
#endif

/*
 * 18: a query with GROUP BY has a range table entry for its grouped expressions, and
 * its target list speaks of that.  As before 18 again, in place:
 */
#include "nodes/parsenodes.h"
#if PG_VERSION_NUM >= 180000
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#define DBSCALE_HAS_GROUP_ENTRIES true
static inline void
dbscale_flatten_groups(Query *query)
{
	ListCell   *lc;

	if (!query->hasGroupRTE)
		return;
	query->targetList = (List *) flatten_group_exprs(NULL, query, (Node *) query->targetList);
	query->havingQual = flatten_group_exprs(NULL, query, query->havingQual);
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind != RTE_GROUP)
			continue;
		rte->rtekind = RTE_RESULT;
		rte->groupexprs = NIL;
		rte->eref = makeAlias(rte->eref->aliasname, NIL);
	}
	query->hasGroupRTE = false;
}
#else
#define DBSCALE_HAS_GROUP_ENTRIES false
#define dbscale_flatten_groups(query) ((void) 0)
#endif

/* 18: pg_noreturn, before the declaration, took the place of pg_attribute_noreturn() */
#ifndef pg_noreturn
#define pg_noreturn pg_attribute_noreturn()
#endif

/* 16 has one function for the owner of any object. */
#include <signal.h>
#include "miscadmin.h"
#include "utils/acl.h"
#if PG_VERSION_NUM < 160000
#define dbscale_is_owner(relid) pg_class_ownercheck(relid, GetUserId())
#else
#include "catalog/pg_class.h"
#define dbscale_is_owner(relid) object_ownercheck(RelationRelationId, relid, GetUserId())
#endif

/*
 * 16 moved the privileges to check, and as whom, from range table entries to a
 * list beside them.
 */
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"
#if PG_VERSION_NUM >= 160000
#include "parser/parse_relation.h"
#endif

static inline Oid
dbscale_rte_check_as_user(Query *query, RangeTblEntry *rte)
{
#if PG_VERSION_NUM >= 160000
	if (rte->perminfoindex == 0)
		return InvalidOid;
	return getRTEPermissionInfo(query->rteperminfos, rte)->checkAsUser;
#else
	return rte->checkAsUser;
#endif
}

/* Add to a plan's lists what the executor checks privileges of in this query level. */
static inline void
dbscale_collect_perminfos(List **rtable, List **perminfos, Query *query)
{
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = (RangeTblEntry *) lfirst(lc);
		RangeTblEntry *copy;

#if PG_VERSION_NUM >= 160000
		if (rte->perminfoindex == 0)
			continue;
		copy = makeNode(RangeTblEntry);
		*copy = *rte;
		copy->subquery = NULL;
		*perminfos = lappend(*perminfos, getRTEPermissionInfo(query->rteperminfos, rte));
		copy->perminfoindex = list_length(*perminfos);
#else
		if (rte->rtekind != RTE_RELATION)
			continue;
		copy = (RangeTblEntry *) copyObject(rte);
#endif
		*rtable = lappend(*rtable, copy);
	}
}

static inline List *
dbscale_plan_perminfos(PlannedStmt *plan)
{
#if PG_VERSION_NUM >= 160000
	return plan->permInfos;
#else
	return NIL;
#endif
}

static inline void
dbscale_set_perminfos(PlannedStmt *plan, List *perminfos)
{
#if PG_VERSION_NUM >= 160000
	plan->permInfos = perminfos;
#endif
}

/* An entry that is no relation any more; from 16 on others than relations may keep these. */
static inline void
dbscale_rte_forget_relation(RangeTblEntry *rte)
{
	rte->relid = InvalidOid;
	rte->relkind = 0;
	rte->rellockmode = 0;
	rte->inh = false;
#if PG_VERSION_NUM >= 160000
	rte->perminfoindex = 0;
#endif
}

/* 16: a column knows which outer joins may have made it NULL. */
#if PG_VERSION_NUM >= 160000
#define dbscale_var_clear_nullingrels(var) ((var)->varnullingrels = NULL)
#define dbscale_var_keep_joins(var, joins) ((var)->varnullingrels = bms_intersect((var)->varnullingrels, joins))
#define dbscale_var_leave_joins(var, joins) ((var)->varnullingrels = bms_difference((var)->varnullingrels, joins))
#define dbscale_query_set_perminfos(query, list) ((query)->rteperminfos = (list))
#define dbscale_query_copy_perminfos(to, from) ((to)->rteperminfos = copyObject((from)->rteperminfos))
#else
#define dbscale_var_clear_nullingrels(var) ((void) 0)
#define dbscale_var_keep_joins(var, joins) ((void) 0)
#define dbscale_var_leave_joins(var, joins) ((void) 0)
#define dbscale_query_set_perminfos(query, list) ((void) 0)
#define dbscale_query_copy_perminfos(to, from) ((void) 0)
#endif

/* 17: MERGE's condition is apart from the join tree, and it acts on rows without source too. */
#if PG_VERSION_NUM >= 170000
#define dbscale_merge_condition(query) ((query)->mergeJoinCondition)
#define dbscale_set_merge_condition(query, condition) ((query)->mergeJoinCondition = (condition))
#define dbscale_merge_of_unmatched_source(action) ((action)->matchKind == MERGE_WHEN_NOT_MATCHED_BY_TARGET)
#define dbscale_merge_of_unmatched_target(action) ((action)->matchKind == MERGE_WHEN_NOT_MATCHED_BY_SOURCE)
#else
#define dbscale_merge_condition(query) ((query)->jointree->quals)
#define dbscale_set_merge_condition(query, condition) ((query)->jointree->quals = (condition))
#define dbscale_merge_of_unmatched_source(action) (!(action)->matched)
#define dbscale_merge_of_unmatched_target(action) false
#endif

/* 17: a wait event set belongs to a resource owner; before, to a memory context. */
#include "storage/latch.h"
#include "utils/memutils.h"
#if PG_VERSION_NUM >= 180000
#include "storage/waiteventset.h"
#endif
#if PG_VERSION_NUM >= 170000
#include "utils/resowner.h"
#define compat_create_wait_event_set(n) CreateWaitEventSet(CurrentResourceOwner, n)
#define compat_create_lasting_wait_event_set(n) CreateWaitEventSet(NULL, n)
#else
#define compat_create_wait_event_set(n) CreateWaitEventSet(CurrentMemoryContext, n)
#define compat_create_lasting_wait_event_set(n) CreateWaitEventSet(TopMemoryContext, n)
#endif

/*
 * What libpq/libpq.h declares and we use.  That header wants gssapi's, which Debian's
 * packages of the server's headers do not bring.  17: what is in the buffer is counted.
 */
extern void pq_startmsgread(void);
extern void pq_endmsgread(void);
extern int	pq_peekbyte(void);
#if PG_VERSION_NUM >= 170000
extern ssize_t pq_buffer_remaining_data(void);
#define dbscale_client_has_sent_more() (pq_buffer_remaining_data() > 0)
#else
extern bool pq_buffer_has_data(void);
#define dbscale_client_has_sent_more() pq_buffer_has_data()
#endif

#endif							/* DBSCALE_COMPAT_H */
