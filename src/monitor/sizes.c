/*
 * sizes.c
 *		What the views tables, shards and nodes know from the nodes themselves: rows
 *		and bytes of the shard tables, and the replicas.
 *
 * One query a node.  The functions only look, so a node that cannot be asked takes
 * nothing away from what the others say: its part is missing, and a warning says
 * why.  Every node is therefore asked in a subtransaction.
 */
#include "ddl/ddl.h"

#include "access/xact.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/resowner.h"

/* The planner's own numbers; what nobody has analyzed yet is counted by the statistics. */
#define SIZES_QUERY \
	"SELECT c.relname, CASE WHEN c.reltuples >= 0 THEN c.reltuples::pg_catalog.int8" \
	" ELSE pg_catalog.pg_stat_get_live_tuples(c.oid) END," \
	" pg_catalog.pg_total_relation_size(c.oid)" \
	" FROM pg_catalog.pg_class c" \
	" WHERE c.relnamespace = '" DBSCALE_SHARDS_SCHEMA "'::pg_catalog.regnamespace AND c.relkind = 'r'"

/* Walsenders of standbys; who may not see them gets NULL, not 0. */
#define REPLICAS_QUERY \
	"SELECT CASE WHEN pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') THEN" \
	" (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication r" \
	" WHERE r.state IN ('streaming', 'catchup') AND NOT EXISTS" \
	" (SELECT FROM pg_catalog.pg_replication_slots s" \
	" WHERE s.active_pid = r.pid AND s.slot_type = 'logical')) END"

typedef struct ShardName
{
	NameData	name;			/* hash key: the table's name on the node */
	Oid			relid;			/* of the distributed or reference table */
	int			shard;			/* -1: copy of a reference table */
} ShardName;

/* What asks the nodes, and where the answers go. */
typedef struct NodeSurvey
{
	ReturnSetInfo *result;
	HTAB	   *names;			/* shard_sizes: ShardName of the node's tables */
} NodeSurvey;

typedef void (*NodeRowReader) (const ShardNode *node, RemoteRow *row, NodeSurvey *survey);

DBSCALE_FUNCTION(dbscale_shard_sizes);
DBSCALE_FUNCTION(dbscale_node_replicas);

static void
query_node(const ShardNode *node, const char *sql, NodeRowReader reader, NodeSurvey *survey)
{
	RemoteConnection *conn = dbscale_transaction_connection(node->serverid,
															dbscale_ddl_node_user(node),
															REMOTE_READ_ALONE);
	RemoteStatement *stmt = dbscale_remote_send(conn, sql, REMOTE_NO_PARAMS, 0, NULL);
	RemoteRow	row;

	while (dbscale_remote_next_row(stmt, &row))
		reader(node, &row, survey);
	dbscale_remote_close(stmt);
}

/* An interrupt is the user's and is passed on; all else becomes a warning. */
static void
warn_of_error(const ShardNode *node, ErrorData *error)
{
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(error);
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("node \"%s\" could not be asked", NameStr(node->name)),
			 errdetail("%s", error->message)));
}

static void
try_query_node(const ShardNode *node, const char *sql, NodeRowReader reader, NodeSurvey *survey)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		query_node(node, sql, reader, survey);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;

	if (error != NULL)
		warn_of_error(node, error);
}

/* The names under which a node's part of every table is stored there. */
static HTAB *
collect_names(const ShardNode *node)
{
	HASHCTL		control;
	HTAB	   *names;
	ListCell   *lc;

	memset(&control, 0, sizeof(control));
	control.keysize = NAMEDATALEN;
	control.entrysize = sizeof(ShardName);
	control.hcxt = CurrentMemoryContext;
	names = hash_create("dbscale shard names", 256, &control,
						HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);

	foreach(lc, dbscale_catalog_tables())
	{
		const DistributedTable *table = lfirst(lc);
		ShardName  *entry;

		if (table->is_reference)
		{
			entry = hash_search(names, table->stored_name, HASH_ENTER, NULL);
			entry->relid = table->relid;
			entry->shard = -1;
			continue;
		}
		for (int i = 0; i < table->group->nshards; i++)
		{
			const Shard *shard = &table->group->shards[i];
			char	   *name = get_rel_name(table->foreign_tables[i]);

			if (shard->node != node || name == NULL)
				continue;
			entry = hash_search(names, name, HASH_ENTER, NULL);
			entry->relid = table->relid;
			entry->shard = shard->number;
		}
	}
	return names;
}

static Datum
int8_from_text(const char *value)
{
	return DirectFunctionCall1(int8in, CStringGetDatum(value));
}

/* Output columns: node, relation, shard, rows, bytes */
static void
put_size(const ShardNode *node, RemoteRow *row, NodeSurvey *survey)
{
	ShardName  *entry = hash_search(survey->names, row->values[0], HASH_FIND, NULL);
	Datum		values[5];
	bool		nulls[5] = {false};

	/* Not one of ours, or what is left of a shard that has gone elsewhere. */
	if (entry == NULL)
		return;
	values[0] = NameGetDatum(&node->name);
	values[1] = ObjectIdGetDatum(entry->relid);
	values[2] = Int32GetDatum(entry->shard);
	nulls[2] = entry->shard < 0;
	values[3] = int8_from_text(row->values[1]);
	/* dropped on the node since it was listed */
	nulls[4] = row->values[2] == NULL;
	values[4] = nulls[4] ? (Datum) 0 : int8_from_text(row->values[2]);
	tuplestore_putvalues(survey->result->setResult, survey->result->setDesc, values, nulls);
}

/* Output columns: node, replicas */
static void
put_replicas(const ShardNode *node, RemoteRow *row, NodeSurvey *survey)
{
	Datum		values[2];
	bool		nulls[2] = {false};

	values[0] = NameGetDatum(&node->name);
	nulls[1] = row->values[0] == NULL;
	values[1] = nulls[1] ? (Datum) 0 : int8_from_text(row->values[0]);
	tuplestore_putvalues(survey->result->setResult, survey->result->setDesc, values, nulls);
}

static void
notice_disabled(const ShardNode *node)
{
	ereport(NOTICE,
			(errmsg("node \"%s\" is disabled and was not asked", NameStr(node->name))));
}

Datum
dbscale_shard_sizes(PG_FUNCTION_ARGS)
{
	NodeSurvey	survey = {0};
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	survey.result = (ReturnSetInfo *) fcinfo->resultinfo;
	foreach(lc, dbscale_catalog_nodes())
	{
		const ShardNode *node = lfirst(lc);

		survey.names = collect_names(node);
		if (hash_get_num_entries(survey.names) == 0)
			continue;
		if (node->enabled)
			try_query_node(node, SIZES_QUERY, put_size, &survey);
		else
			notice_disabled(node);
	}
	return (Datum) 0;
}

Datum
dbscale_node_replicas(PG_FUNCTION_ARGS)
{
	NodeSurvey	survey = {0};
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	survey.result = (ReturnSetInfo *) fcinfo->resultinfo;
	foreach(lc, dbscale_catalog_nodes())
	{
		const ShardNode *node = lfirst(lc);

		if (node->enabled)
			try_query_node(node, REPLICAS_QUERY, put_replicas, &survey);
	}
	return (Datum) 0;
}
