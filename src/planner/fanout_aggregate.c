/*
 * fanout_aggregate.c
 *		Aggregates put together from parts, one function of the table below for each kind.
 *
 * An aggregate becomes columns of the shards' query, each with the function by which a
 * node combines it, and an expression above them:
 *
 *		count(x)	shard: count(x)							above: sum(c1)::int8, or 0
 *		avg(x)		shard: sum(x), count(x)					above: sum(c1) / sum(c2)
 *		variance(x)	shard: count(x), sum(x), sum(x * x)		above: variance_of_parts(…)
 *		array_agg(x)	shard: array_agg(x)					above: array_of_parts(c1)
 *		json_agg(x)	shard: json_agg(x), without [ and ]		above: '[' || string_agg(c1, ', ') || ']'
 *
 * What is here gives core's result to the last digit and with its display scale, since
 * integers, numeric and intervals add up to the same in any order; sum and avg of floating
 * point numbers are the exception, as they are in a parallel plan.  The variances of
 * floating point numbers, and regression, are not here: their parts would be rounded in
 * other places than the whole.
 */
#include "planner/fanout.h"

#include "catalog/namespace.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

static Aggref *
make_aggregate(Oid function, Expr *arg, Oid result)
{
	Aggref	   *agg = makeNode(Aggref);

	agg->aggfnoid = function;
	agg->aggtype = result;
	agg->args = list_make1(makeTargetEntry(arg, 1, NULL, false));
	agg->aggargtypes = list_make1_oid(exprType((Node *) arg));
	agg->aggkind = AGGKIND_NORMAL;
	agg->aggsplit = AGGSPLIT_SIMPLE;
	agg->aggno = agg->aggtransno = -1;
	agg->location = -1;
	return agg;
}

static Expr *
call(Oid function, Oid result, List *args)
{
	return (Expr *) makeFuncExpr(function, result, args, InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
}

static Expr *
text_constant(const char *text)
{
	return (Expr *) makeConst(TEXTOID, -1, DEFAULT_COLLATION_OID, -1, CStringGetTextDatum(text), false, false);
}

/* The aggregate over other arguments, under the same FILTER. */
static Var *
partial_column(FanoutLevel *level, Aggref *agg, Oid function, Expr *arg, Oid result, const char *combine)
{
	Aggref	   *partial = make_aggregate(function, arg, result);

	partial->aggfilter = copyObject(agg->aggfilter);
	return dbscale_fanout_column(level, (Expr *) partial, combine);
}

/* The sum of counts, as numeric; NULL where there is no part at all. */
static Expr *
total_count(Var *column)
{
	return (Expr *) make_aggregate(F_SUM_INT8, (Expr *) column, NUMERICOID);
}

/* The sum of sums that are numeric. */
static Expr *
make_sum(Var *column)
{
	return (Expr *) make_aggregate(F_SUM_NUMERIC, (Expr *) column, NUMERICOID);
}

static Node *
split_count(FanoutLevel *level, Aggref *agg)
{
	Aggref	   *partial = copyObject(agg);
	Var		   *column = dbscale_fanout_column(level, (Expr *) partial, "sum int8");
	CoalesceExpr *result = makeNode(CoalesceExpr);

	result->coalescetype = INT8OID;
	result->args = list_make2(call(F_INT8_NUMERIC, INT8OID, list_make1(total_count(column))),
							  makeConst(INT8OID, -1, InvalidOid, sizeof(int64), Int64GetDatum(0),
										false, FLOAT8PASSBYVAL));
	result->location = -1;
	return (Node *) result;
}

/* sum(int8) is numeric; the sum of sums of smaller integers is to be int8 again. */
static Node *
split_sum(FanoutLevel *level, Aggref *agg)
{
	bool		small = agg->aggtype == INT8OID;
	Var		   *column = dbscale_fanout_column(level, (Expr *) copyObject(agg),
											   small ? "sum int8" : "sum");

	switch (agg->aggtype)
	{
		case INT8OID:
			return (Node *) call(F_INT8_NUMERIC, INT8OID, list_make1(total_count(column)));
		case NUMERICOID:
			return (Node *) make_sum(column);
		default:
			return (Node *) make_aggregate(agg->aggfnoid, (Expr *) column, agg->aggtype);
	}
}

/* NULL by NULL where there is no value; division is strict. */
static Node *
split_avg(FanoutLevel *level, Aggref *agg)
{
	Expr	   *arg = ((TargetEntry *) linitial(agg->args))->expr;
	Var		   *count = partial_column(level, agg, F_COUNT_ANY, arg, INT8OID, "sum int8");
	Var		   *sum;

	switch (agg->aggfnoid)
	{
		case F_AVG_INT2:
		case F_AVG_INT4:
			sum = partial_column(level, agg, agg->aggfnoid == F_AVG_INT2 ? F_SUM_INT2 : F_SUM_INT4,
								 arg, INT8OID, "sum int8");
			return (Node *) call(F_NUMERIC_DIV, NUMERICOID, list_make2(total_count(sum), total_count(count)));
		case F_AVG_INTERVAL:
			sum = partial_column(level, agg, F_SUM_INTERVAL, arg, INTERVALOID, "sum");
			return (Node *) call(F_INTERVAL_DIV, INTERVALOID,
								 list_make2(make_aggregate(F_SUM_INTERVAL, (Expr *) sum, INTERVALOID),
											call(F_FLOAT8_NUMERIC, FLOAT8OID, list_make1(total_count(count)))));
		case F_AVG_INT8:
		case F_AVG_NUMERIC:
			sum = partial_column(level, agg, agg->aggfnoid == F_AVG_INT8 ? F_SUM_INT8 : F_SUM_NUMERIC,
								 arg, NUMERICOID, "sum");
			return (Node *) call(F_NUMERIC_DIV, NUMERICOID,
								 list_make2(make_sum(sum), total_count(count)));
		default:
			if (agg->aggfnoid == F_AVG_FLOAT4)
				arg = call(F_FLOAT8_FLOAT4, FLOAT8OID, list_make1(copyObject(arg)));
			sum = partial_column(level, agg, F_SUM_FLOAT8, arg, FLOAT8OID, "sum");
			return (Node *) call(F_FLOAT8DIV, FLOAT8OID,
								 list_make2(make_aggregate(F_SUM_FLOAT8, (Expr *) sum, FLOAT8OID),
											call(F_FLOAT8_NUMERIC, FLOAT8OID, list_make1(total_count(count)))));
	}
}

/* The function over its own results: max, bool_and, … */
static Node *
split_same(FanoutLevel *level, Aggref *agg)
{
	Var		   *column = dbscale_fanout_column(level, (Expr *) copyObject(agg),
											   get_func_name(agg->aggfnoid));
	Aggref	   *result = copyObject(agg);

	result->args = list_make1(makeTargetEntry((Expr *) column, 1, NULL, false));
	result->aggfilter = NULL;
	return (Node *) result;
}

/* ---- variance ---- */

/* The argument as a type in which squares of it are exact, and sums of them do not overflow. */
static Expr *
widened(Expr *arg, Oid *type)
{
	Oid			cast;

	*type = INT8OID;
	switch (exprType((Node *) arg))
	{
		case INT2OID:
			cast = F_INT8_INT2;
			break;
		case INT4OID:
			cast = F_INT8_INT4;
			break;
		case INT8OID:
			cast = F_NUMERIC_INT8;
			*type = NUMERICOID;
			break;
		case NUMERICOID:
			*type = NUMERICOID;
			return copyObject(arg);
		default:
			return NULL;
	}
	return (Expr *) makeFuncExpr(cast, *type, list_make1(copyObject(arg)), InvalidOid, InvalidOid,
								 COERCE_EXPLICIT_CAST);
}

/* A function or aggregate of executor/parts.c. */
static Oid
function_of_parts(const char *name, const Oid *types, int ntypes)
{
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(name),
						   PointerGetDatum(buildoidvector(types, ntypes)),
						   ObjectIdGetDatum(get_namespace_oid(DBSCALE_SCHEMA, false)));
}

static Node *
split_variance(FanoutLevel *level, Aggref *agg)
{
	const char *name = get_func_name(agg->aggfnoid);
	Expr	   *arg = ((TargetEntry *) linitial(agg->args))->expr;
	Oid			type;
	Expr	   *wide = widened(arg, &type);
	Expr	   *square;
	Oid			sum = type == INT8OID ? F_SUM_INT8 : F_SUM_NUMERIC;
	static const Oid types[] = {NUMERICOID, NUMERICOID, NUMERICOID, TEXTOID};
	Var		   *columns[3];

	if (wide == NULL)
		return NULL;
	square = call(type == INT8OID ? F_INT8MUL : F_NUMERIC_MUL, type, list_make2(wide, wide));
	columns[0] = partial_column(level, agg, F_COUNT_ANY, arg, INT8OID, "sum int8");
	columns[1] = partial_column(level, agg, sum, wide, NUMERICOID, "sum");
	columns[2] = partial_column(level, agg, sum, square, NUMERICOID, "sum");
	return (Node *) call(function_of_parts("variance_of_parts", types, lengthof(types)), NUMERICOID,
						 list_make4(total_count(columns[0]), make_sum(columns[1]), make_sum(columns[2]),
									text_constant(name)));
}

/* ---- strings ---- */

/* Parts are put together with the same delimiter; a node has it in its text. */
static Node *
split_string_agg(FanoutLevel *level, Aggref *agg)
{
	Const	   *delimiter = (Const *) ((TargetEntry *) lsecond(agg->args))->expr;
	const char *literal = "NULL";
	Aggref	   *result = copyObject(agg);
	Oid			output;
	bool		is_varlena;
	Var		   *column;

	if (!IsA(delimiter, Const))
		return NULL;
	getTypeOutputInfo(delimiter->consttype, &output, &is_varlena);
	if (!delimiter->constisnull)
		literal = quote_literal_cstr(OidOutputFunctionCall(output, delimiter->constvalue));
	column = dbscale_fanout_column(level, (Expr *) copyObject(agg),
								   psprintf("string_agg, %s::%s", literal, format_type_be_qualified(delimiter->consttype)));
	((TargetEntry *) linitial(result->args))->expr = (Expr *) column;
	result->aggfilter = NULL;
	return (Node *) result;
}

/* ---- arrays and documents ---- */

static Expr *
integer_constant(int value)
{
	return (Expr *) makeConst(INT4OID, -1, InvalidOid, sizeof(int32), Int32GetDatum(value), false, true);
}

static Expr *
text_function(Oid function, Expr *left, Expr *right)
{
	return (Expr *) makeFuncExpr(function, TEXTOID, list_make2(left, right), DEFAULT_COLLATION_OID, DEFAULT_COLLATION_OID,
								 COERCE_EXPLICIT_CALL);
}

static Expr *
converted(Expr *arg, Oid type)
{
	CoerceViaIO *result = makeNode(CoerceViaIO);

	result->arg = arg;
	result->resulttype = type;
	result->resultcollid = type == TEXTOID ? DEFAULT_COLLATION_OID : InvalidOid;
	result->coerceformat = COERCE_EXPLICIT_CAST;
	result->location = -1;
	return (Expr *) result;
}

/* No function that every node has makes one array of several, so they come shard by shard. */
static Node *
split_array_agg(FanoutLevel *level, Aggref *agg)
{
	static const Oid types[] = {ANYARRAYOID};
	Aggref	   *result;

	if (agg->aggfnoid != F_ARRAY_AGG_ANYNONARRAY)
		return NULL;
	result = make_aggregate(function_of_parts("array_of_parts", types, lengthof(types)),
							(Expr *) dbscale_fanout_column(level, (Expr *) copyObject(agg), FANOUT_NOT_COMBINED), agg->aggtype);
	result->aggcollid = result->inputcollid = agg->aggcollid;
	return (Node *) result;
}

/* "[1, 2]" is sent as "1, 2"; ship.c knows of which types that may be asked. */
static Node *
split_json_agg(FanoutLevel *level, Aggref *agg)
{
	Expr	   *list = text_function(F_SUBSTR_TEXT_INT4, converted((Expr *) copyObject(agg), TEXTOID), integer_constant(2));
	Aggref	   *all;

	list = text_function(F_LEFT, list, integer_constant(-1));
	all = make_aggregate(F_STRING_AGG_TEXT_TEXT, (Expr *) dbscale_fanout_column(level, list, "string_agg, ', '"), TEXTOID);
	all->args = lappend(all->args, makeTargetEntry(text_constant(", "), 2, NULL, false));
	all->aggargtypes = lappend_oid(all->aggargtypes, TEXTOID);
	all->aggcollid = all->inputcollid = DEFAULT_COLLATION_OID;
	return (Node *) converted(text_function(F_TEXTCAT, text_function(F_TEXTCAT, text_constant("["), (Expr *) all), text_constant("]")),
							  agg->aggtype);
}

/* ---- which ---- */

typedef struct Splitter
{
	const char *name;			/* in pg_catalog */
	Node	   *(*split) (FanoutLevel *level, Aggref *agg);
} Splitter;

static const Splitter splitters[] = {
	{"any_value", split_same},
	{"array_agg", split_array_agg},
	{"avg", split_avg},
	{"bit_and", split_same},
	{"bit_or", split_same},
	{"bit_xor", split_same},
	{"bool_and", split_same},
	{"bool_or", split_same},
	{"count", split_count},
	{"every", split_same},
	{"json_agg", split_json_agg},
	{"jsonb_agg", split_json_agg},
	{"max", split_same},
	{"min", split_same},
	{"range_intersect_agg", split_same},
	{"regr_count", split_count},
	{"stddev", split_variance},
	{"stddev_pop", split_variance},
	{"stddev_samp", split_variance},
	{"string_agg", split_string_agg},
	{"sum", split_sum},
	{"var_pop", split_variance},
	{"var_samp", split_variance},
	{"variance", split_variance},
};

Node *
dbscale_fanout_split_aggregate(FanoutLevel *level, Aggref *agg)
{
	const char *name = get_func_name(agg->aggfnoid);

	for (int i = 0; i < lengthof(splitters); i++)
		if (strcmp(name, splitters[i].name) == 0)
			return splitters[i].split(level, agg);
	return NULL;
}
