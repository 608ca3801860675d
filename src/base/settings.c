/*
 * settings.c
 *		The settings dbscale.*, in the order of their names.
 */
#include "base/base.h"
#include "utils/guc.h"

int			dbscale_assign_key_online_rows = 100000;
int			dbscale_auto_rebalance_interval = 60000;
int			dbscale_commit_timeout = 10000;
int			dbscale_connect_timeout = 10;
int			dbscale_copy_buffer_size = 256;
int			dbscale_counter_fold_interval = 200;
int			dbscale_counter_fold_rows = 10000;
int			dbscale_deadlock_interval = 1000;
int			dbscale_idle_connection_timeout = 600;
int			dbscale_max_counted_shards = 8192;
int			dbscale_max_move_lag = 16384;
int			dbscale_max_moves = 2;
int			dbscale_move_lock_timeout = 100;
int			dbscale_move_rate_limit = 0;
int			dbscale_move_start_timeout = 3600;
int			dbscale_node_parallel_workers = -1;
int			dbscale_premake_interval = 60000;
int			dbscale_premake_ranges = 2;
int			dbscale_rebalance_threshold = 10;
int			dbscale_recovery_interval = 5000;
bool		dbscale_auto_rebalance = false;
char	   *dbscale_auto_rebalance_window = NULL;
bool		dbscale_consistent_reads = false;
bool		dbscale_use_prepared_statements = true;
bool		dbscale_verify_moves = true;

#ifdef DBSCALE_DEBUG_POINTS
char	   *dbscale_debug_point_setting = NULL;
#endif

/* One row a setting; the check in scripts/ holds them to alphabetical order. */
typedef struct IntSetting
{
	const char *name;
	const char *description;
	int		   *variable;
	int			boot;
	int			min;
	int			max;
	GucContext	context;
	int			flags;
} IntSetting;

static const IntSetting int_settings[] = {
	{"dbscale.assign_key_online_rows",
		"How many rows of a key assign_key moves while the table is locked; with more it makes a job (-1: any number).",
		&dbscale_assign_key_online_rows, 100000, -1, INT_MAX, PGC_USERSET, 0},
	{"dbscale.auto_rebalance_interval",
		"How often the maintenance worker looks for dbscale.auto_rebalance whether nodes are out of balance.",
		&dbscale_auto_rebalance_interval, 60000, 100, 86400000, PGC_SIGHUP, GUC_UNIT_MS},
	{"dbscale.commit_timeout",
		"Time to wait for a node to confirm the second phase of a commit; the maintenance worker completes what did not come.",
		&dbscale_commit_timeout, 10000, 100, 3600000, PGC_USERSET, GUC_UNIT_MS},
	{"dbscale.connect_timeout",
		"Time to wait for a connection to a node.",
		&dbscale_connect_timeout, 10, 1, 3600, PGC_USERSET, GUC_UNIT_S},
	{"dbscale.copy_buffer_size",
		"Memory for the rows of one shard before they are sent, by COPY and INSERT.",
		&dbscale_copy_buffer_size, 256, 8, 65536, PGC_USERSET, GUC_UNIT_KB},
	{"dbscale.counter_fold_interval",
		"How often the maintenance worker folds what buffered counters have pending (0: never).",
		&dbscale_counter_fold_interval, 200, 0, 3600000, PGC_SIGHUP, GUC_UNIT_MS},
	{"dbscale.counter_fold_rows",
		"How many pending rows of a buffered counter on one shard make the maintenance worker fold before its time (0: any number waits).",
		&dbscale_counter_fold_rows, 10000, 0, INT_MAX, PGC_SIGHUP, 0},
	{"dbscale.deadlock_interval",
		"How often the maintenance worker looks for deadlocks between nodes (0: never).",
		&dbscale_deadlock_interval, 1000, 0, 3600000, PGC_SIGHUP, GUC_UNIT_MS},
	{"dbscale.idle_connection_timeout",
		"Age at which an unused connection to a node is closed rather than used again.",
		&dbscale_idle_connection_timeout, 600, 1, 86400, PGC_USERSET, GUC_UNIT_S},
	{"dbscale.max_counted_shards",
		"How many shards, of all databases, have their reads and writes counted (0: none).",
		&dbscale_max_counted_shards, 8192, 0, 1048576, PGC_POSTMASTER, 0},
	{"dbscale.max_move_lag",
		"Write-ahead log that a move may keep a node from recycling, before the move is given up.",
		&dbscale_max_move_lag, 16384, 16, MAX_KILOBYTES, PGC_SIGHUP, GUC_UNIT_MB},
	{"dbscale.max_moves",
		"How many shards may be on the move at the same time.",
		&dbscale_max_moves, 2, 1, 16, PGC_SIGHUP, 0},
	{"dbscale.move_lock_timeout",
		"How long a move waits for its last locks, and others for it, before it lets them pass and tries again.",
		&dbscale_move_lock_timeout, 100, 1, 60000, PGC_SIGHUP, GUC_UNIT_MS},
	{"dbscale.move_rate_limit",
		"How many megabytes a second a move copies at most (0: no limit).",
		&dbscale_move_rate_limit, 0, 0, 100000, PGC_SIGHUP, 0},
	{"dbscale.move_start_timeout",
		"How long a move waits at its beginning for transactions on the source (0: as long as it takes).",
		&dbscale_move_start_timeout, 3600, 0, 86400, PGC_SIGHUP, GUC_UNIT_S},
	{"dbscale.node_parallel_workers",
		"Parallel workers that a node may use for a part of a statement (-1: as the node is set).",
		&dbscale_node_parallel_workers, -1, -1, 64, PGC_USERSET, 0},
	{"dbscale.premake_interval",
		"How often the maintenance worker looks whether tables distributed by range need new ranges.",
		&dbscale_premake_interval, 60000, 100, 3600000, PGC_SIGHUP, GUC_UNIT_MS},
	{"dbscale.premake_ranges",
		"How many empty ranges the maintenance worker keeps ahead of a table distributed by range.",
		&dbscale_premake_ranges, 2, 0, 1000, PGC_SIGHUP, 0},
	{"dbscale.rebalance_threshold",
		"By how many percent a node may be above its fair share before shards are planned to leave it.",
		&dbscale_rebalance_threshold, 10, 0, 1000, PGC_USERSET, 0},
	{"dbscale.recovery_interval",
		"How often the maintenance worker looks for transactions in doubt.",
		&dbscale_recovery_interval, 5000, 100, 3600000, PGC_SIGHUP, GUC_UNIT_MS},
};

/* "HH:MM" to minutes; NULL where that is not what the text begins with. */
static const char *
parse_time_of_day(const char *text, int *minutes)
{
	int			fields[4];
	static const int places[] = {0, 1, 3, 4};

	for (int i = 0; i < lengthof(places); i++)
	{
		/* stops at the end of the text: a NUL is no digit */
		if (i == 2 && text[2] != ':')
			return NULL;
		if (text[places[i]] < '0' || text[places[i]] > '9')
			return NULL;
		fields[i] = text[places[i]] - '0';
	}
	*minutes = (fields[0] * 10 + fields[1]) * 60 + fields[2] * 10 + fields[3];
	return *minutes <= 24 * 60 && fields[2] < 6 ? text + 5 : NULL;
}

bool
dbscale_parse_window(const char *text, int *from, int *to)
{
	const char *rest;

	*from = 0;
	*to = 24 * 60;
	if (text == NULL || text[0] == '\0')
		return true;
	rest = parse_time_of_day(text, from);
	if (rest == NULL || *rest != '-')
		return false;
	rest = parse_time_of_day(rest + 1, to);
	return rest != NULL && *rest == '\0' && *from != *to;
}

static bool
check_window(char **value, void **extra, GucSource source)
{
	int			from;
	int			to;

	if (dbscale_parse_window(*value, &from, &to))
		return true;
	GUC_check_errdetail("A window is two different times of the day, as in '01:00-05:00' or '22:30-04:00'; an empty one is the whole day.");
	return false;
}

void
dbscale_settings_init(void)
{
	for (int i = 0; i < lengthof(int_settings); i++)
	{
		const IntSetting *s = &int_settings[i];

		/* too late for these in a session that loads the library by itself: it is refused all the same */
		if (s->context == PGC_POSTMASTER && !process_shared_preload_libraries_in_progress)
			continue;
		DefineCustomIntVariable(s->name, s->description, NULL, s->variable,
								s->boot, s->min, s->max, s->context, s->flags,
								NULL, NULL, NULL);
	}

	DefineCustomBoolVariable("dbscale.auto_rebalance",
							 "Rebalance without being asked when nodes are out of balance.",
							 NULL, &dbscale_auto_rebalance, false,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("dbscale.auto_rebalance_window",
							   "Time of the day in which dbscale.auto_rebalance may begin, as in 01:00-05:00 (empty: always).",
							   NULL, &dbscale_auto_rebalance_window, "",
							   PGC_SIGHUP, 0, check_window, NULL, NULL);
	DefineCustomBoolVariable("dbscale.consistent_reads",
							 "Read several nodes at one moment, so that a transaction over nodes is seen on all or on none.",
							 NULL, &dbscale_consistent_reads, false,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("dbscale.use_prepared_statements",
							 "Use prepared statements on nodes for statements that repeat.",
							 NULL, &dbscale_use_prepared_statements, true,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("dbscale.verify_moves",
							 "Compare count and checksum of a moved shard's rows on both nodes before the switch.",
							 NULL, &dbscale_verify_moves, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);

#ifdef DBSCALE_DEBUG_POINTS
	DefineCustomStringVariable("dbscale.debug_point",
							   "Where to stop, fail or kill, for tests: NAME=kill, NAME=error or NAME=wait.",
							   NULL, &dbscale_debug_point_setting, "",
							   PGC_SUSET, 0, NULL, NULL, NULL);
#endif

	MarkGUCPrefixReserved("dbscale");
}
