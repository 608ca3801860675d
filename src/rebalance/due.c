/*
 * due.c
 *		When dbscale.auto_rebalance acts.
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

/*
 * Outside the window nobody looks, so the first look inside it never finds that it is
 * time: what was over the threshold yesterday may not be so today.
 */
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
		was_over = is_over;
	}
	return due;
}

bool
dbscale_rebalance_is_due(void)
{
	return dbscale_auto_rebalance && is_due(dbscale_auto_rebalance_window);
}

/* rebalance_is_due(time_window text) → bool: as if dbscale.auto_rebalance were on */
Datum
dbscale_rebalance_is_due_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(is_due(text_to_cstring(PG_GETARG_TEXT_PP(0))));
}
