# No update is lost: one row is incremented by many clients, by every way that a write
# can take, while its key moves between shards.
#
# DBSCALE_SECONDS makes the load longer.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ENV{DBSCALE_SECONDS} // 4;

my $db = DBScale->new(nodes => 2, settings => "dbscale.deadlock_interval = 200ms\n");
$db->sql(q(
CREATE TABLE counters (id int PRIMARY KEY, tag int NOT NULL, n int NOT NULL DEFAULT 0);
CREATE TABLE log (counter int, entry bigserial, way text);
SELECT dbscale.distribute_table('counters', 'id', shard_count => 4);
SELECT dbscale.distribute_table('log', 'counter', colocate_with => 'counters');
INSERT INTO counters SELECT i, i + 100 FROM generate_series(1, 20) i;
CREATE TABLE targets (id int PRIMARY KEY);
INSERT INTO targets VALUES (7), (8);
CREATE FUNCTION bump(which int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE counters SET n = n + 1 WHERE id = which;
    INSERT INTO log (counter, way) VALUES (which, 'function');
EXCEPTION WHEN unique_violation THEN
    RAISE 'cannot be';
END $$;
));

# how => the statements of one transaction that adds one to counter 7
my %ways = (
	router => "UPDATE counters SET n = n + 1 WHERE id = 7;\nINSERT INTO log (counter, way) VALUES (7, 'router');",
	all_shards => "UPDATE counters SET n = n + 1 WHERE tag = 107;\nINSERT INTO log (counter, way) VALUES (7, 'all_shards');",
	rows => "UPDATE counters c SET n = c.n + 1 FROM targets t WHERE t.id = c.id AND t.id = 7;\n"
	  . "INSERT INTO log (counter, way) SELECT id, 'rows' FROM targets WHERE id = 7;",
	function => 'SELECT bump(7);',
	locked => "SELECT n AS n FROM counters WHERE id = 7 FOR UPDATE \\gset\n"
	  . "UPDATE counters SET n = :n + 1 WHERE id = 7;\nINSERT INTO log (counter, way) VALUES (7, 'locked');",
);

my @runs;
foreach my $way (sort keys %ways)
{
	my $file = $db->coordinator->basedir . "/$way.sql";
	my $protocol = $way eq 'locked' ? 'simple' : 'prepared';
	my ($out, $err) = ('', '');

	# A thread a client: pgbench waits for PQprepare() with all clients of the thread.  One that
	# waits behind a move then keeps another from ending the transaction the move waits for.
	append_to_file($file, "BEGIN;\n$ways{$way}\nEND;\n");
	push @runs, { way => $way, out => \$out, err => \$err,
		handle => IPC::Run::start([ 'pgbench', '-n', '-c', 2, '-j', 2, '-M', $protocol, '-T', $seconds, '--max-tries=0',
				'-f', $file, $db->coordinator->connstr('postgres') ], '<', \'', '>', \$out, '2>', \$err) };
}

# meanwhile the key goes round; each move waits for the writers, and they for it
my $moves = '';
$moves .= "SELECT dbscale.assign_key('counters', 7, " . ($_ % 4) . ");\nSELECT pg_sleep(0.2);\n" for 1 .. $seconds * 3;
my ($status, undef, $errors) = $db->try("SET lock_timeout = '20s';\n$moves");
is($status, 0, 'the key moves while it is written to');
unlike($errors, qr/ERROR:(?!  40P01)/, 'and no move fails, but by a deadlock');

my $processed = 0;
foreach my $run (@runs)
{
	$run->{handle}->finish or diag(${ $run->{err} });
	my ($count) = ${ $run->{out} } =~ /number of transactions actually processed: (\d+)/;
	cmp_ok($count // 0, '>', 0, "$run->{way}: transactions were made");
	like(${ $run->{out} }, qr/number of failed transactions: 0 /, "$run->{way}: and none failed");
	$processed += $count // 0;
}

is($db->sql('SELECT n FROM counters WHERE id = 7'), $processed, "no increment of $processed is lost");
is($db->sql('SELECT count(*) FROM log'), $processed, 'and no row of the log');
is($db->sql('SELECT sum(n) FROM counters WHERE id <> 7'), 0, 'other rows are as they were');
is($db->sql(q(SELECT count(*) FROM counters c WHERE dbscale.shard_for('counters', c.id)
	<> (SELECT shard FROM dbscale.shard_table WHERE foreign_table = c.tableoid))), 0, 'every row is in its shard');
is($db->sql('SELECT count(*) FROM dbscale.check()'), 0, 'check() is clean');
# the log of the last moves is cleaned by the worker, which may be late on a busy machine
ok($db->wait_for_recovery, 'nothing is in doubt');

done_testing();
