# The maintenance worker: it comes and goes with the extension, makes ranges ahead of
# time, survives crashes and stands in nobody's way.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = DBScale->new(nodes => 1, settings => "dbscale.premake_interval = 200ms\n");

sub workers
{
	my ($dbname) = @_;
	return $db->sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'dbscale maintenance' AND datname = '$dbname'");
}
sub becomes
{
	my ($dbname, $count, $what) = @_;
	return ok($db->wait_until($what, sub { workers($dbname) == $count }, 30), $what);
}

becomes('postgres', 1, 'CREATE EXTENSION starts a worker');

# Ranges of numbers: two empty ones behind the last that has rows.
$db->sql(q(
CREATE TABLE numbers (id int NOT NULL, v text);
SELECT dbscale.distribute_table('numbers', 'id', 'range', step => '100', bounds => '{"from": "0", "to": "100"}');
));
my $ranges = q(SELECT string_agg(bounds->>'from' || '-' || (bounds->>'to'), ' ' ORDER BY (bounds->>'from')::int)
	FROM dbscale.shard s JOIN dbscale.distributed_table USING (group_id) WHERE relation = 'numbers'::regclass);
ok($db->wait_until('ranges are made', sub { $db->sql($ranges) eq '0-100 100-200' }, 30), 'an empty table: two empty ranges');
$db->sql("INSERT INTO numbers VALUES (150, 'x')");
ok($db->wait_until('ranges are made', sub { $db->sql($ranges) eq '0-100 100-200 200-300 300-400' }, 30),
	'a row in the last range: two more');
sleep 1;
is($db->sql($ranges), '0-100 100-200 200-300 300-400', 'and no more than that');
$db->sql("INSERT INTO numbers VALUES (399, 'y')");
is($db->sql('SELECT string_agg(v, $$$$ ORDER BY id) FROM numbers'), 'xy', 'the ranges can be used');

# Ranges of dates go on with the clock.
$db->sql(q(
CREATE TABLE days (day date NOT NULL, v text);
SELECT dbscale.distribute_table('days', 'day', 'range', step => '1 month',
	bounds => format('{"from": "%s", "to": "%s"}', date_trunc('month', now())::date - interval '1 month', date_trunc('month', now())::date)::jsonb);
));
my $months = q(SELECT count(*) FROM dbscale.shard s JOIN dbscale.distributed_table USING (group_id)
	WHERE relation = 'days'::regclass AND (bounds->>'from')::date > now());
ok($db->wait_until('months are made', sub { $db->sql($months) == 2 }, 30), 'two months in the future');
is($db->sql("INSERT INTO days VALUES (current_date, 'now') RETURNING v"), 'now', 'the current month is there too');

# A table that is locked is not waited for long: others would wait behind us.
$db->wait_until('more ranges are made', sub { $db->sql($ranges) =~ / 500-600$/ }, 30);
my $session = $db->start_held("BEGIN; LOCK TABLE numbers IN ROW EXCLUSIVE MODE; INSERT INTO numbers VALUES (550, 'z')", 'ROLLBACK');
$db->sql('SET lock_timeout = 5000; INSERT INTO numbers VALUES (1, $$a$$)') foreach 1 .. 5;
pass('writers of a locked table go on');
$db->go_on($session);
$db->finish($session);

# A node that is down is complained of once, and does not end the worker.
my $log = -s $db->coordinator->logfile;
$db->node(1)->stop;
$db->wait_until('the log tells of the node',
	sub { slurp_file($db->coordinator->logfile, $log) =~ /recovery of "n1" failed: could not connect to node "n1"/ }, 30);
sleep 2;
# while it goes down it may fail in other ways, of which each is told
my %complaints;
$complaints{$_}++ foreach slurp_file($db->coordinator->logfile, $log) =~ /recovery of "n1" failed: (.*)/g;
is($complaints{'could not connect to node "n1"'}, 1, 'a node that is down is complained of once');
is(join(', ', grep { $complaints{$_} > 1 } sort keys %complaints), '', 'and nothing else twice');
is(workers('postgres'), 1, 'the worker is there still');
$db->node(1)->start;
ok($db->wait_until('the log tells that the node is back',
	sub { slurp_file($db->coordinator->logfile, $log) =~ /recovery of "n1" works again/ }, 30), 'and its return is told');

# Databases: the worker of one that is dropped, renamed or copied gets out of the way.
$db->sql('CREATE DATABASE other');
$db->coordinator->safe_psql('other', 'SET client_min_messages = error; CREATE EXTENSION dbscale CASCADE');
becomes('other', 1, 'a second database has its own worker');
$db->sql('CREATE DATABASE copy TEMPLATE other');
becomes('copy', 1, 'a copy of it has one too');
$db->sql('ALTER DATABASE copy RENAME TO copied');
becomes('copied', 1, 'a renamed database still has one');
my (undef, undef, $err) = $db->try("BEGIN;\nDROP DATABASE other;\nROLLBACK;\n");
like($err, qr/cannot run inside a transaction block/, 'a drop that fails');
becomes('other', 1, 'leaves the worker there');
$db->sql('DROP DATABASE other');
$db->sql('DROP DATABASE copied');
is($db->sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'dbscale maintenance'"), 1, 'dropped databases have none');

# DROP EXTENSION ends the worker; creating it again, however slowly, brings it back.
$db->sql('CREATE DATABASE third');
$db->coordinator->safe_psql('third', 'SET client_min_messages = error; CREATE EXTENSION dbscale CASCADE');
becomes('third', 1, 'a third database');
$db->coordinator->safe_psql('third', 'DROP EXTENSION dbscale CASCADE');
becomes('third', 0, 'DROP EXTENSION ends its worker');
$db->coordinator->safe_psql('third', 'BEGIN; CREATE EXTENSION dbscale; SELECT pg_sleep(1); ROLLBACK');
sleep 1;
is(workers('third'), 0, 'CREATE EXTENSION rolled back: none');
$db->coordinator->safe_psql('third', 'BEGIN; CREATE EXTENSION dbscale; SELECT pg_sleep(1); COMMIT');
becomes('third', 1, 'CREATE EXTENSION in a slow transaction: one');
$db->coordinator->safe_psql('third', 'DROP EXTENSION dbscale CASCADE; CREATE EXTENSION dbscale');
becomes('third', 1, 'DROP and CREATE at once: one');

# After a crash, and when somebody ends it.
$db->kill_all($db->coordinator);
$db->revive($db->coordinator);
becomes('postgres', 1, 'back after a crash');
becomes('third', 1, 'in every database');
$db->sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'dbscale maintenance' AND datname = 'postgres'");
$db->wait_until('the worker ends', sub { workers('postgres') == 0 }, 30);
becomes('postgres', 1, 'back after pg_terminate_backend');
my $launcher = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'dbscale launcher'";
my $pid = $db->sql($launcher);
$db->sql("SELECT pg_terminate_backend($pid)");
ok($db->wait_until('the launcher is back', sub { $db->sql($launcher) =~ /\d/ && $db->sql($launcher) ne $pid }, 30),
	'the launcher comes back too');
unlike(slurp_file($db->coordinator->logfile), qr/PANIC|signal 11|signal 6/, 'no crash of its own');

done_testing();
