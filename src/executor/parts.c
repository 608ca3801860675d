/*
 * parts.c
 *		The variance of a column of which each shard knows a part: how many values, their sum
 *		and the sum of their squares, all exact.
 *
 * As core does it: (N * sum(x²) - sum(x)²) / (N * (N - 1)), and 0 without digits where
 * the difference is; NULL for fewer than two values (of a population, which is divided by
 * N * N: for none).
 */
#include "executor/internal.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

DBSCALE_FUNCTION(dbscale_variance_of_parts);

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
