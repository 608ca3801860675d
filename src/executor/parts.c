/*
 * parts.c
 *		Aggregates of which each shard has computed a part, where core has no function that
 *		puts the parts together.
 *
 * The variance of a column, of whose parts how many values there are, their sum and the
 * sum of their squares are known, all exact.  As core does it: (N * sum(x²) - sum(x)²) /
 * (N * (N - 1)), and 0 without digits where the difference is; NULL for fewer than two values
 * (of a population, which is divided by N * N: for none).
 */
#include "executor/internal.h"

#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

DBSCALE_FUNCTION(dbscale_variance_of_parts);
DBSCALE_FUNCTION(dbscale_array_of_parts_add);
DBSCALE_FUNCTION(dbscale_array_of_parts_end);

static Datum
multiply(Datum left, Datum right)
{
	return DirectFunctionCall2(numeric_mul, left, right);
}

static Datum
subtract(Datum left, Datum right)
{
	return DirectFunctionCall2(numeric_sub, left, right);
}

static bool
is_positive(Datum number)
{
	return DatumGetBool(DirectFunctionCall2(numeric_gt, number, NumericGetDatum(int64_to_numeric(0))));
}

static int
scale_of(Datum number)
{
	return DatumGetInt32(DirectFunctionCall1(numeric_scale, number));
}

static Datum
rounded(Datum number, int scale)
{
	return DirectFunctionCall2(numeric_round, number, Int32GetDatum(scale));
}

/*
 * The root with as many digits as core gives it, those of the variance.  The function
 * sqrt() gives more of them where the variance is 10^4 or more (and has then fewer than
 * 13 after the point), and to round twice may be to round otherwise.  But such a root
 * differs from every half of its last digit by far more than 10^-50, so with that many
 * digits the first time the second time is right.
 */
static Datum
root(Datum variance)
{
	Datum		result = DirectFunctionCall1(numeric_sqrt, variance);

	if (numeric_is_nan(DatumGetNumeric(variance)) || scale_of(result) == scale_of(variance))
		return result;
	result = DirectFunctionCall1(numeric_sqrt, rounded(variance, 50));
	return rounded(result, scale_of(variance));
}

/* variance_of_parts(count, sum, sum of squares, name of the aggregate); without values the sums are NULL */
Datum
dbscale_variance_of_parts(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(3));
	Datum		count;
	Datum		divisor;
	Datum		difference;

	count = divisor = PG_GETARG_DATUM(0);
	if (strstr(name, "_pop") == NULL)
		divisor = subtract(count, NumericGetDatum(int64_to_numeric(1)));
	if (!is_positive(divisor))
		PG_RETURN_NULL();
	difference = subtract(multiply(count, PG_GETARG_DATUM(2)),
						  multiply(PG_GETARG_DATUM(1), PG_GETARG_DATUM(1)));
	if (!is_positive(difference))
		PG_RETURN_NUMERIC(int64_to_numeric(0));
	difference = DirectFunctionCall2(numeric_div, difference, multiply(count, divisor));
	if (strncmp(name, "stddev", strlen("stddev")) == 0)
		difference = root(difference);
	PG_RETURN_DATUM(difference);
}

/* ---- arrays ---- */

/* array_of_parts(state, part): a part is NULL where a shard had no row. */
Datum
dbscale_array_of_parts_add(PG_FUNCTION_ARGS)
{
	ArrayBuildState *state = PG_ARGISNULL(0) ? NULL : (ArrayBuildState *) PG_GETARG_POINTER(0);
	Oid			type = get_element_type(get_fn_expr_argtype(fcinfo->flinfo, 1));
	MemoryContext context;
	ArrayIterator iterator;
	Datum		value;
	bool		is_null;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "array_of_parts_add() is called by array_of_parts() only");
	if (state == NULL)
		state = initArrayResult(type, context, false);
	if (PG_ARGISNULL(1))
		PG_RETURN_POINTER(state);
	iterator = array_create_iterator(PG_GETARG_ARRAYTYPE_P(1), 0, NULL);
	while (array_iterate(iterator, &value, &is_null))
		state = accumArrayResult(state, value, is_null, type, context);
	array_free_iterator(iterator);
	PG_RETURN_POINTER(state);
}

Datum
dbscale_array_of_parts_end(PG_FUNCTION_ARGS)
{
	ArrayBuildState *state = PG_ARGISNULL(0) ? NULL : (ArrayBuildState *) PG_GETARG_POINTER(0);

	if (state == NULL || state->nelems == 0)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(makeArrayResult(state, CurrentMemoryContext));
}
