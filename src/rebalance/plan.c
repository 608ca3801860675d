/*
 * plan.c
 *		rebalance_plan and drain_plan: from the catalog and the sizes of shards to a
 *		list of moves.  Nothing is changed here.
 *
 * A *unit* is what moves as one: a shard of a table group, with the tables of all
 * members.  Units and the nodes they are on become a problem in numbers, balance.c
 * says which node each unit belongs on, and the differences are the moves.
 *
 * Nodes that are disabled are left alone, with all that is on them: they can neither
 * give nor take.  Nodes that are being drained give everything, but for what is pinned
 * there.
 */
#include "rebalance/balance.h"
#include "rebalance/plan.h"

#include "catalog/pg_type.h"
#include "catalog/traffic.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

typedef struct Unit
{
	const TableGroup *group;
	const Shard *shard;
	int			group_index;
	int			tables;			/* of which the sizes are known */
	int64		bytes;
	int64		rows;
} Unit;

/* The catalog as arrays.  Units of one group follow each other, in the order of its shards. */
typedef struct Cluster
{
	const ShardNode **nodes;	/* the enabled ones */
	int			nnodes;
	Unit	   *units;			/* on these nodes or not */
	int			nunits;
	int			ngroups;
} Cluster;

typedef double (*Measure) (const Unit *unit);

DBSCALE_FUNCTION(dbscale_rebalance_plan_sql);
DBSCALE_FUNCTION(dbscale_drain_plan_sql);
DBSCALE_FUNCTION(dbscale_balance_internal);

/* ---- what is balanced ---- */

static double
measure_bytes(const Unit *unit)
{
	return unit->bytes;
}

static double
measure_rows(const Unit *unit)
{
	return unit->rows;
}

static double
measure_shards(const Unit *unit)
{
	return 1;
}

/* A shard that is not counted is taken for one that is not used. */
static double
measure_load(const Unit *unit)
{
	int64		reads;
	int64		writes;

	(void) dbscale_traffic_get(unit->group->id, unit->shard->number, &reads, &writes);
	return (double) reads + writes;
}

static const struct
{
	const char *name;
	Measure		measure;
}			measures[] = {
	{"bytes", measure_bytes},
	{"rows", measure_rows},
	{"shards", measure_shards},
	{"load", measure_load},
};

static Measure
find_measure(const char *name)
{
	for (int i = 0; i < lengthof(measures); i++)
	{
		if (strcmp(measures[i].name, name) == 0)
			return measures[i].measure;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("cannot balance by \"%s\"", name),
			 errdetail("Shards are balanced by bytes, rows, shards or load.")));
}

/* ---- the catalog as arrays ---- */

/* Groups that have tables, by id. */
static List *
groups_in_use(void)
{
	List	   *groups = NIL;
	ListCell   *lc;

	foreach(lc, dbscale_catalog_tables())
	{
		const TableGroup *group = ((const DistributedTable *) lfirst(lc))->group;

		if (group != NULL)
			groups = list_append_unique_ptr(groups, unconstify(TableGroup *, group));
	}
	return groups;
}

static void
add_units(Cluster *cluster, const TableGroup *group)
{
	for (int i = 0; i < group->nshards; i++)
	{
		Unit	   *unit = &cluster->units[cluster->nunits++];

		memset(unit, 0, sizeof(Unit));
		unit->group = group;
		unit->shard = &group->shards[i];
		unit->group_index = cluster->ngroups;
	}
	cluster->ngroups++;
}

static Unit *
find_unit(const Cluster *cluster, int group_id, int shard)
{
	for (int i = 0; i < cluster->nunits; i += cluster->units[i].group->nshards)
	{
		const TableGroup *group = cluster->units[i].group;
		const Shard *found = group->id == group_id ? dbscale_catalog_shard(group, shard) : NULL;

		if (found != NULL)
			return &cluster->units[i + (found - group->shards)];
	}
	return NULL;
}

/* Columns: group, shard, tables, bytes, rows */
static void
put_sizes(Cluster *cluster, List *rows)
{
	ListCell   *lc;

	foreach(lc, rows)
	{
		char	  **row = lfirst(lc);
		Unit	   *unit = find_unit(cluster, atoi(row[0]), atoi(row[1]));

		if (unit == NULL || row[3] == NULL)
			continue;
		unit->tables = atoi(row[2]);
		unit->bytes = strtoi64(row[3], NULL, 10);
		unit->rows = strtoi64(row[4], NULL, 10);
	}
}

/*
 * The nodes are asked with the rights of the user who wants the plan, as if he had
 * looked at dbscale.shards himself.
 */
static Cluster *
read_cluster(void)
{
	Cluster    *cluster = palloc0(sizeof(Cluster));
	List	   *sizes = dbscale_ddl_query_rows("SELECT t.group_id, z.shard, count(z.bytes), sum(z.bytes)::int8, sum(z.rows)::int8 "
											   "FROM dbscale.shard_sizes() z JOIN dbscale.distributed_table t USING (relation) "
											   "WHERE z.shard IS NOT NULL GROUP BY t.group_id, z.shard");
	List	   *nodes = dbscale_catalog_nodes();
	List	   *groups = groups_in_use();
	int			nunits = 0;
	ListCell   *lc;

	/* the catalog is read after the sizes: what came meanwhile has none, and is seen to be missing */
	cluster->nodes = palloc(sizeof(ShardNode *) * Max(list_length(nodes), 1));
	foreach(lc, nodes)
	{
		if (((const ShardNode *) lfirst(lc))->enabled)
			cluster->nodes[cluster->nnodes++] = lfirst(lc);
	}
	foreach(lc, groups)
		nunits += ((const TableGroup *) lfirst(lc))->nshards;
	cluster->units = palloc(sizeof(Unit) * Max(nunits, 1));
	foreach(lc, groups)
		add_units(cluster, lfirst(lc));
	put_sizes(cluster, sizes);
	return cluster;
}

/* The table that stands for its group: the oldest. */
static Oid
representative(const TableGroup *group)
{
	Oid			relation = InvalidOid;
	ListCell   *lc;

	foreach(lc, group->tables)
	{
		if (!OidIsValid(relation) || lfirst_oid(lc) < relation)
			relation = lfirst_oid(lc);
	}
	return relation;
}

/* A plan from half of the sizes would be a bad one. */
static void
require_sizes(const Unit *unit)
{
	if (unit->tables == list_length(unit->group->tables))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the size of shard %d of table \"%s\" is not known",
					unit->shard->number, get_rel_name(representative(unit->group))),
			 errdetail("Node \"%s\" could not be asked, or a table of the shard is missing there.",
					   NameStr(unit->shard->node->name)),
			 errhint("dbscale.check() says what is wrong; a node that will be away for long can be disabled with dbscale.disable_node().")));
}

static int
node_index(const Cluster *cluster, const ShardNode *node)
{
	for (int i = 0; i < cluster->nnodes; i++)
	{
		if (cluster->nodes[i]->serverid == node->serverid)
			return i;
	}
	return -1;					/* disabled */
}

/* ---- the problem, and its solution ---- */

static BalanceProblem *
make_problem(const Cluster *cluster)
{
	BalanceProblem *problem = palloc0(sizeof(BalanceProblem));

	problem->nnodes = cluster->nnodes;
	problem->nodes = palloc(sizeof(BalanceNode) * Max(cluster->nnodes, 1));
	for (int i = 0; i < cluster->nnodes; i++)
	{
		problem->nodes[i].capacity = cluster->nodes[i]->capacity;
		problem->nodes[i].takes = !cluster->nodes[i]->draining;
	}
	problem->ngroups = cluster->ngroups;
	problem->shards = palloc0(sizeof(BalanceShard) * Max(cluster->nunits, 1));
	problem->threshold = dbscale_rebalance_threshold / 100.0;
	return problem;
}

/* The units that are on nodes of the problem become its shards; returns them. */
static Unit **
add_shards(BalanceProblem *problem, const Cluster *cluster, Measure measure)
{
	Unit	  **units = palloc(sizeof(Unit *) * Max(cluster->nunits, 1));

	for (int i = 0; i < cluster->nunits; i++)
	{
		Unit	   *unit = &cluster->units[i];
		BalanceShard *shard = &problem->shards[problem->nshards];
		int			node = node_index(cluster, unit->shard->node);

		if (node < 0)
			continue;
		require_sizes(unit);
		shard->node = node;
		shard->group = unit->group_index;
		shard->weight = measure(unit);
		shard->bytes = unit->bytes;
		shard->fixed = unit->shard->pinned;
		units[problem->nshards++] = unit;
	}
	return units;
}

static bool
some_node_takes(const BalanceProblem *problem)
{
	for (int i = 0; i < problem->nnodes; i++)
	{
		if (problem->nodes[i].takes)
			return true;
	}
	return false;
}

static bool
something_leaves(const BalanceProblem *problem)
{
	for (int i = 0; i < problem->nshards; i++)
	{
		if (!problem->shards[i].fixed && !problem->nodes[problem->shards[i].node].takes)
			return true;
	}
	return false;
}

static PlannedMove *
make_move(const Cluster *cluster, const Unit *unit, int to)
{
	PlannedMove *move = palloc0(sizeof(PlannedMove));

	move->group_id = unit->group->id;
	move->relation = representative(unit->group);
	move->shard = unit->shard->number;
	move->from_node = unit->shard->node->name;
	move->to_node = cluster->nodes[to]->name;
	move->bytes = unit->bytes;
	return move;
}

/*
 * The order: always from the node that has the most for its capacity, to the end that
 * no node is much fuller on the way than before or after; the largest shard first.
 */
static List *
order_moves(const Cluster *cluster, const BalanceProblem *problem, Unit **units, const int *place)
{
	double	   *load = palloc0(sizeof(double) * Max(problem->nnodes, 1));
	bool	   *done = palloc0(sizeof(bool) * Max(problem->nshards, 1));
	List	   *moves = NIL;

	for (int i = 0; i < problem->nshards; i++)
	{
		load[problem->shards[i].node] += problem->shards[i].bytes;
		done[i] = place[i] == problem->shards[i].node;
	}
	for (;;)
	{
		int			next = -1;
		double		next_fullness = 0;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < problem->nshards; i++)
		{
			const BalanceShard *shard = &problem->shards[i];
			double		fullness = load[shard->node] / problem->nodes[shard->node].capacity;

			if (!done[i] && (next < 0 || fullness > next_fullness ||
							 (fullness == next_fullness && shard->bytes > problem->shards[next].bytes)))
			{
				next = i;
				next_fullness = fullness;
			}
		}
		if (next < 0)
			break;
		done[next] = true;
		load[problem->shards[next].node] -= problem->shards[next].bytes;
		load[place[next]] += problem->shards[next].bytes;
		moves = lappend(moves, make_move(cluster, units[next], place[next]));
	}
	return moves;
}

static List *
solve(const Cluster *cluster, const BalanceProblem *problem, Unit **units)
{
	if (problem->nshards == 0 || (!something_leaves(problem) && !some_node_takes(problem)))
		return NIL;
	if (!some_node_takes(problem))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there is no node to move shards to"),
				 errdetail("Every other node is disabled or being drained."),
				 errhint("Add one with dbscale.add_node(), or enable one with dbscale.enable_node().")));
	return order_moves(cluster, problem, units, dbscale_balance(problem));
}

List *
dbscale_rebalance_plan(const char *by)
{
	Measure		measure = find_measure(by);
	Cluster    *cluster = read_cluster();
	BalanceProblem *problem = make_problem(cluster);
	Unit	  **units = add_shards(problem, cluster, measure);

	return solve(cluster, problem, units);
}

pg_noreturn static void
refuse_pinned(const ShardNode *node, const Unit *unit)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("node \"%s\" cannot be emptied", NameStr(node->name)),
			 errdetail("Shard %d (\"%s\") of table \"%s\" is pinned to it.", unit->shard->number,
					   unit->shard->label ? unit->shard->label : "",
					   get_rel_name(representative(unit->group))),
			 errhint("The bounds given to dbscale.distribute_table() have pinned it there for good.")));
}

List *
dbscale_rebalance_drain_plan(const char *name)
{
	const ShardNode *node = dbscale_catalog_require_node(name, true);
	Cluster    *cluster = read_cluster();
	BalanceProblem *problem = make_problem(cluster);
	Unit	  **units = add_shards(problem, cluster, measure_bytes);
	int			index;

	/* the same node in what may be a newer reading of the catalog */
	node = dbscale_catalog_require_node(name, true);
	index = node_index(cluster, node);
	if (index < 0)
		elog(ERROR, "node \"%s\" has changed meanwhile", name);
	problem->nodes[index].takes = false;
	for (int i = 0; i < problem->nshards; i++)
	{
		BalanceShard *shard = &problem->shards[i];

		if (shard->node != index)
			shard->fixed = true;
		else if (shard->fixed)
			refuse_pinned(node, units[i]);
	}
	return solve(cluster, problem, units);
}

/* ---- SQL ---- */

/* step, relation, shard, from_node, to_node, bytes */
static void
put_moves(ReturnSetInfo *result, List *moves)
{
	ListCell   *lc;

	foreach(lc, moves)
	{
		const PlannedMove *move = lfirst(lc);
		Datum		values[6];
		bool		nulls[6] = {false};

		values[0] = Int32GetDatum(foreach_current_index(lc) + 1);
		values[1] = ObjectIdGetDatum(move->relation);
		values[2] = Int32GetDatum(move->shard);
		values[3] = NameGetDatum(&move->from_node);
		values[4] = NameGetDatum(&move->to_node);
		values[5] = Int64GetDatum(move->bytes);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}

Datum
dbscale_rebalance_plan_sql(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("what to balance by must not be NULL"),
				 errdetail("Shards are balanced by bytes, rows, shards or load.")));
	InitMaterializedSRF(fcinfo, 0);
	put_moves((ReturnSetInfo *) fcinfo->resultinfo,
			  dbscale_rebalance_plan(text_to_cstring(PG_GETARG_TEXT_PP(0))));
	return (Datum) 0;
}

Datum
dbscale_drain_plan_sql(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the node's name must not be NULL")));
	InitMaterializedSRF(fcinfo, 0);
	put_moves((ReturnSetInfo *) fcinfo->resultinfo,
			  dbscale_rebalance_drain_plan(NameStr(*PG_GETARG_NAME(0))));
	return (Datum) 0;
}

/* The elements of an array argument of balance_internal, of the length that is expected. */
static Datum *
array_argument(FunctionCallInfo fcinfo, int arg, Oid type, int expected, int *count)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(arg);
	int16		length;
	bool		byval;
	char		align;
	Datum	   *elements;
	bool	   *nulls;

	get_typlenbyvalalign(type, &length, &byval, &align);
	deconstruct_array(array, type, length, byval, align, &elements, &nulls, count);
	for (int i = 0; i < *count; i++)
	{
		if (nulls[i])
			elog(ERROR, "argument %d contains a null", arg + 1);
	}
	if (expected >= 0 && *count != expected)
		elog(ERROR, "argument %d has %d elements, not %d", arg + 1, *count, expected);
	return elements;
}

/*
 * balance_internal(capacities float8[], takes bool[], node int[], group int[], weight int8[],
 *					bytes int8[], fixed bool[], threshold float8) → int[]
 *
 * balance.c for its tests.  Nodes and groups are counted from 1.
 */
Datum
dbscale_balance_internal(PG_FUNCTION_ARGS)
{
	BalanceProblem problem = {0};
	Datum	   *capacities = array_argument(fcinfo, 0, FLOAT8OID, -1, &problem.nnodes);
	Datum	   *takes = array_argument(fcinfo, 1, BOOLOID, problem.nnodes, &problem.nnodes);
	Datum	   *nodes = array_argument(fcinfo, 2, INT4OID, -1, &problem.nshards);
	int			n = problem.nshards;
	Datum	   *groups = array_argument(fcinfo, 3, INT4OID, n, &n);
	Datum	   *weights = array_argument(fcinfo, 4, INT8OID, n, &n);
	Datum	   *bytes = array_argument(fcinfo, 5, INT8OID, n, &n);
	Datum	   *fixed = array_argument(fcinfo, 6, BOOLOID, n, &n);
	int		   *place;
	Datum	   *result = palloc(sizeof(Datum) * Max(n, 1));

	problem.nodes = palloc(sizeof(BalanceNode) * Max(problem.nnodes, 1));
	for (int i = 0; i < problem.nnodes; i++)
		problem.nodes[i] = (BalanceNode) {DatumGetFloat8(capacities[i]), DatumGetBool(takes[i])};
	problem.shards = palloc(sizeof(BalanceShard) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		problem.shards[i] = (BalanceShard) {
			DatumGetInt32(nodes[i]) - 1, DatumGetInt32(groups[i]) - 1, DatumGetInt64(weights[i]),
			DatumGetInt64(bytes[i]), DatumGetBool(fixed[i])
		};
		problem.ngroups = Max(problem.ngroups, DatumGetInt32(groups[i]));
		if (problem.shards[i].node < 0 || problem.shards[i].node >= problem.nnodes ||
			problem.shards[i].group < 0)
			elog(ERROR, "shard %d has a node or group that is not there", i + 1);
	}
	problem.threshold = PG_GETARG_FLOAT8(7);
	if (!some_node_takes(&problem))
		elog(ERROR, "no node takes shards");
	place = dbscale_balance(&problem);
	for (int i = 0; i < n; i++)
		result[i] = Int32GetDatum(place[i] + 1);
	PG_RETURN_ARRAYTYPE_P(construct_array(result, n, INT4OID, sizeof(int32), true, TYPALIGN_INT));
}
