# Circles of waits over several places, where they are hard to see or to break: the one
# who waits for a node cannot simply be interrupted, or nobody is told what he does, or
# the maintenance worker has somebody to wait for itself.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $db = DBScale->new(nodes => 2, settings => "dbscale.deadlock_interval = 200ms\n");
$db->sql(q(
CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL DEFAULT 0);
SELECT dbscale.distribute_table('accounts', 'id', shard_count => 8);
INSERT INTO accounts SELECT i FROM generate_series(1, 40) i;
CREATE TABLE entries (account int, entry int, UNIQUE (account, entry) DEFERRABLE INITIALLY DEFERRED);
SELECT dbscale.distribute_table('entries', 'account', colocate_with => 'accounts');
));
my $key = $db->key_on('accounts', 'n1');
my $other_key = $db->key_on('accounts', 'n2');
my $files = $db->coordinator->basedir . '/';
my $raise = "UPDATE accounts SET balance = balance + 1 WHERE id = $key";

# psql: say that we are here, and stay until we may go on
sub pause
{
	my ($name) = @_;
	return "\\! touch $files$name.here; until [ -e $files$name.go ]; do sleep 0.02; done\n";
}
sub wait_for { my ($name) = @_; return $db->wait_until("$name is there", sub { -e "$files$name.here" }, 30); }
sub go_on { my ($name) = @_; append_to_file("$files$name.go", ''); return; }

sub wait_for_waiter
{
	my $waiting = q(SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock');
	return $db->wait_until('somebody waits on a node', sub {
		grep { $_->safe_psql('postgres', $waiting) > 0 } $db->nodes }, 30);
}

# One session does something, the other waits for it on the node, and then the first wants
# the tables, which the other has: only the other can be told to give up.
# Options: before (in both), last (what the first does then).
sub circle
{
	my ($name, $first, $second, %options) = @_;
	my $before = $options{before} // '';
	my $last = $options{last} // 'LOCK TABLE accounts, entries';
	my $holder = $db->start("$before\nSET lock_timeout = '15s'; BEGIN; $first;\n" . pause($name) . "$last; COMMIT;\n",
		stop_on_error => 1);
	wait_for($name);
	my $waiter = $db->start("$before\n$second;\n", stop_on_error => 1);
	wait_for_waiter();
	go_on($name);
	my $start = time();
	like(($db->finish($waiter))[2], qr/ERROR:  40P01: deadlock detected between nodes/, "$name: the one who waits for the node gives up");
	cmp_ok(time() - $start, '<', 10, "$name: before the other does");
	is(($db->finish($holder))[0], 0, "$name: the other commits");
	return;
}

circle('block', $raise, "BEGIN; $raise; COMMIT");
circle('whole_transaction', $raise, $raise);
is($db->sql("SELECT balance FROM accounts WHERE id = $key"), 2, 'what gave up has changed nothing');

# COMMIT waits as well: for the outcome of a row that may be there twice.
sub insert { my ($entry, $account) = @_; return 'INSERT INTO entries VALUES (' . ($account // $key) . ", $entry)"; }
circle('commit', insert(1), 'BEGIN; ' . insert(1) . ";\nCOMMIT");
is($db->sql('SELECT count(*) FROM entries'), 1, 'one of the rows is there');

# PREPARE waits on one node, and what is prepared on the other is waited for: no process has it there.
circle('prepared', insert(1, $other_key), "BEGIN; $raise; " . insert(1, $other_key) . ";\nCOMMIT", last => $raise);
is($db->sql('SELECT count(*) FROM entries'), 2, 'one of the rows is there');

# Sessions that do not tell what they do.
circle('not_tracked', $raise, "BEGIN; $raise; COMMIT", before => 'SET track_activities = off;');

# A reader of several nodes has the gate through which the other's COMMIT must go.
circle('gate', "SELECT count(*) FROM dbscale.run_on_shards('accounts', 'LOCK TABLE %s')", 'BEGIN; SELECT sum(balance) FROM accounts; COMMIT',
	before => 'SET dbscale.consistent_reads = on;', last => 'SELECT 1');

# Somebody keeps the worker's other task waiting.
my $resolver = $db->start("BEGIN; SELECT dbscale.recover_transactions();\n" . pause('resolver') . "COMMIT;\n", stop_on_error => 1);
wait_for('resolver');
sleep 1;
circle('worker_waits', $raise, "BEGIN; $raise; COMMIT");
go_on('resolver');
is(($db->finish($resolver))[0], 0, 'worker_waits: it was not disturbed');

# Timeouts and cancel end the waits that deadlocks end.  (What COMMIT does is not under
# statement_timeout in PostgreSQL.)
sub cancel
{
	my ($session) = @_;
	wait_for_waiter();
	$db->sql(q(SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE state = 'active' AND wait_event_type = 'Extension'));
	return ($db->finish($session))[2];
}
my $holder = $db->start("BEGIN; $raise; " . insert(2) . ";\n" . pause('timeout') . "COMMIT;\n", stop_on_error => 1);
wait_for('timeout');
my $commit = 'BEGIN; ' . insert(2) . ";\nCOMMIT";
like(($db->try("SET statement_timeout = '300ms';\n$raise"))[2], qr/ERROR:  57014: canceling statement due to statement timeout/,
	'a whole transaction: statement_timeout');
like(($db->try("SET lock_timeout = '300ms';\n$raise"))[2], qr/ERROR:  55P03: canceling statement due to lock timeout/,
	'a whole transaction: lock_timeout');
like(($db->try("SET lock_timeout = '300ms';\n$commit"))[2], qr/ERROR:  55P03: canceling statement due to lock timeout/,
	'COMMIT: lock_timeout');
like(cancel($db->start($raise)), qr/ERROR:  57014: canceling statement due to user request/, 'a whole transaction: cancel');
like(cancel($db->start($commit)), qr/ERROR:  57014: canceling statement due to user request/, 'COMMIT: cancel');
go_on('timeout');
is(($db->finish($holder))[0], 0, 'whom they waited for commits');

ok($db->wait_for_recovery, 'nothing stays in doubt');
is($db->sql('SELECT count(*) FROM dbscale.check()'), 0, 'check() is clean');

done_testing();
