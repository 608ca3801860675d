/*
 * due.c
 *		When dbscale.auto_rebalance acts.
 *
 * A plan that is found once may be that of a passing peak, so it has to be found at two
 * looks in a row, by one backend, with nothing between them that is no look: a time out
 * of the window, another job, or the setting off.  After it has acted two new looks are
 * needed, for what was seen before was another balance.
 */
#include "rebalance/plan.h"

#include "pgtime.h"
#include "utils/builtins.h"

#include <time.h>

/* There was a plan when this backend looked the last time. */
static bool was_over = false;

DBSCALE_FUNCTION(dbscale_rebalance_is_due_sql);

/* Minute of the day in the time zone of the session. */
static int
minute_of_day(void)
{
	pg_time_t	now = (pg_time_t) time(NULL);
	struct pg_tm *tm = pg_localtime(&now, session_timezone);

	return tm->tm_hour * 60 + tm->tm_min;
}

static bool
is_in_window(const char *window)
{
	int			now = minute_of_day();
	int			from;
	int			to;

	/* what is no window has not passed the setting's check */
	if (!dbscale_parse_window(window, &from, &to))
		return false;
	if (from < to)
		return now >= from && now < to;
	return now >= from || now < to;
}

static bool
is_due(const char *window)
{
	bool		due = false;

	if (!is_in_window(window))
		was_over = false;
	else
	{
		bool		is_over = dbscale_rebalance_plan("bytes") != NIL;

		due = is_over && was_over;
		was_over = is_over && !due;
	}
	return due;
}

bool
dbscale_rebalance_is_due(bool may_look)
{
	if (dbscale_auto_rebalance && may_look)
		return is_due(dbscale_auto_rebalance_window);
	was_over = false;
	return false;
}

/* rebalance_is_due(time_window text) → bool: as if dbscale.auto_rebalance were on */
Datum
dbscale_rebalance_is_due_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(is_due(text_to_cstring(PG_GETARG_TEXT_PP(0))));
}
