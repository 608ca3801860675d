# Shards that move while they are written to: every acknowledged write is there, once,
# wherever the shard goes and whoever is killed on the way.
#
# DBSCALE_SECONDS makes the load longer.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use Ledger;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seconds = $ENV{DBSCALE_SECONDS} // 8;
my $ids = 60;
my @nodes = qw(n1 n2 n3);
my $db = DBScale->new(nodes => 3, settings => "dbscale.debug_point = ''\n", node_settings => "wal_level = logical\nmax_wal_senders = 10\nmax_replication_slots = 10\n");

my $ledger = Ledger->new(db => $db, ids => $ids, per_id => 20, shards => 4);

sub place { return $db->place('counters', @_); }
sub elsewhere { return $db->elsewhere('counters', @_); }

# 1. Writers of all kinds while shards go round.
my @sessions;
my $end = time() + $seconds;
my ($moves, $failed, $errors) = (0, 0, '');
while (time() < $end || $moves < 6)
{
	push @sessions, map { $db->start($_) } $ledger->adder(150), $ledger->inserter(100), $ledger->transferrer(60), $ledger->transferrer(60), $ledger->adder(150);
	for my $shard (0 .. 1)
	{
		my ($rc, undef, $err) = $db->try("SELECT dbscale.move_shard('counters', $shard, '" . elsewhere($shard) . "')", stop_on_error => 1);
		$moves++;
		$failed++ if $rc != 0;
		diag($err) if $rc != 0;
	}
	foreach my $session (splice @sessions)
	{
		my (undef, $out, $err) = $db->finish($session);
		$ledger->acknowledge($out);
		$errors .= $err;
	}
}
note("$moves moves");
is($failed, 0, 'all moves succeeded');
is(DBScale::errors_but($errors, '40P01'), '', 'no writer got an error');
$ledger->is_clean('after moves under load');
is($db->sql("SELECT string_agg(DISTINCT state, ',') FROM dbscale.jobs WHERE kind = 'move'"), 'done', 'all jobs are done');

# 2. The worker is killed, and with it the coordinator, at every recorded step.  The job
# goes on by itself when the server is back.
foreach my $point (qw(move_begun move_recorded move_tables_made move_published move_slot_created move_copied move_indexed
	move_caught_up move_verified move_locked move_before_switch move_switched))
{
	my $target = elsewhere(2);
	$db->killed_at($point, "SELECT dbscale.move_shard('counters', 2, '$target')");
	my $writer = $db->start($ledger->adder(20));
	$db->wait_for_jobs($point);
	$ledger->acknowledge(($db->finish($writer))[1]);
	is(place(2), $target, "$point: the shard arrives in the end");
	$ledger->is_clean($point);
}

# 3. A node dies at such a step: the move begins again when it is back, or fails, and in
# either case nothing is lost.
foreach my $case ([ move_published => 'source' ], [ move_copied => 'target' ], map { my $point = $_; map { [ $point, $_ ] } qw(source target) } qw(move_caught_up move_before_switch))
{
	my ($point, $who) = @$case;
	my $source = place(3);
	my $target = elsewhere(3);
	my (undef, undef, $err) = $db->dies_at($point, "SELECT dbscale.move_shard('counters', 3, '$target')", $db->node_of($who eq 'source' ? $source : $target));
	ok(place(3) eq ($err eq '' ? $target : $source) || $point eq 'move_before_switch', "$point, $who dies: the shard is where the caller was told")
	  or diag($err);
	$ledger->is_clean("$point, $who dies");
}

# 4. Cancelled at a step: it is as before.
foreach my $point (qw(move_copied move_caught_up move_locked))
{
	my $source = place(0);
	$db->cancelled_at($point, $db->move_sql('counters', 0));
	is(place(0), $source, "$point: the shard is where it was");
	$ledger->is_clean("cancelled at $point");
}

# 5. Changes of every kind while the copy is there but not caught up: keys, values too
# large for the row that do not change, NULLs, rows that are there twice, TRUNCATE.
sub rows_of { return $db->sql("SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM $_[0] t"); }
$db->sql(qq(
CREATE TABLE wide (id int, k int, big text, small text, day date, PRIMARY KEY (id, k));
ALTER TABLE wide ALTER COLUMN big SET STORAGE EXTERNAL;
SELECT dbscale.distribute_table('wide', 'id', shard_count => 1);
CREATE TABLE twice (id int, body text, at timestamptz, j jsonb);
ALTER TABLE twice REPLICA IDENTITY FULL;
SELECT dbscale.distribute_table('twice', 'id', colocate_with => 'wide');
CREATE TABLE emptied (id int PRIMARY KEY);
SELECT dbscale.distribute_table('emptied', 'id', colocate_with => 'wide');
INSERT INTO wide SELECT 1, i, repeat(md5(i::text), 300), 's', NULL FROM generate_series(1, 50) i;
INSERT INTO twice SELECT 1, NULLIF(i % 3, 0)::text, '2020-01-01'::timestamptz, '{"a": 1}' FROM generate_series(1, 12) i;
INSERT INTO emptied VALUES (1), (2);
));
my $changes = qq(
UPDATE wide SET small = NULL WHERE k <= 10;
UPDATE wide SET k = k + 1000 WHERE k BETWEEN 11 AND 20;
UPDATE wide SET big = 'short', day = '2021-02-03' WHERE k = 21;
DELETE FROM wide WHERE k = 22;
INSERT INTO wide VALUES (1, 22, E'\\ \t " \n', '', 'infinity');
UPDATE wide SET k = -k;
DELETE FROM twice WHERE body IS NULL;
UPDATE twice SET body = 'x', at = at + interval '1.5 hours' WHERE body = '1';
INSERT INTO twice VALUES (1, NULL, NULL, NULL), (1, NULL, NULL, NULL);
TRUNCATE emptied;
INSERT INTO emptied VALUES (3);
BEGIN;
INSERT INTO emptied SELECT generate_series(10, 5000);
SAVEPOINT s;
DELETE FROM emptied;
ROLLBACK TO s;
COMMIT;
);
my $wide_at = sub { return $db->sql("SELECT node FROM dbscale.shards WHERE relation = 'wide'::regclass"); };
for my $point (qw(move_slot_created move_caught_up))
{
	my $from = $wide_at->();
	my ($to) = grep { $_ ne $from } @nodes;
	my @before;
	my (undef, undef, $err) = $db->held_at($point, "SELECT dbscale.move_shard('wide', 0, '$to')",
		sub { $db->sql($changes); @before = map { rows_of($_) } qw(wide twice emptied); });
	is($err, '', "$point: changes of every kind meanwhile");
	is($wide_at->(), $to, "$point: the shard has moved");
	is_deeply([ map { rows_of($_) } qw(wide twice emptied) ], \@before, "$point: and the rows are as they were changed");
	$ledger->is_clean("changes at $point");
	$db->sql(q(DELETE FROM wide; DELETE FROM twice; DELETE FROM emptied;
INSERT INTO wide SELECT 1, i, repeat(md5(i::text), 300), 's', NULL FROM generate_series(1, 50) i;
INSERT INTO twice SELECT 1, NULLIF(i % 3, 0)::text, '2020-01-01'::timestamptz, '{"a": 1}' FROM generate_series(1, 12) i));
}

# 6. DDL is not kept waiting: the move begins again, with the table as it is then.
{
	my $from = $wide_at->();
	my ($to) = grep { $_ ne $from } @nodes;
	my (undef, undef, $err) = $db->held_at('move_caught_up', "SELECT dbscale.move_shard('wide', 0, '$to')",
		sub { $db->sql("ALTER TABLE wide ADD COLUMN added int DEFAULT 5; CREATE INDEX wide_small ON wide (small); INSERT INTO wide VALUES (1, 999, 'b', 's', NULL, 6)"); });
	is($err, '', 'the move goes on after DDL');
	is($wide_at->(), $to, 'and arrives');
	is($db->sql("SELECT attempts FROM dbscale.job WHERE kind = 'move' ORDER BY job DESC LIMIT 1"), '1', 'at the second attempt');
	is($db->sql("SELECT count(*), sum(added) FROM wide"), '51|256', 'with the new column');
	$ledger->is_clean('after DDL');
}

# 7. A writer that is there at the cut-over is waited for, also one that only locks rows;
# readers and writers of other shards are not, and the wait can be seen.
foreach my $case ([ 'a write', "UPDATE counters SET n = n WHERE id = %d" ], [ 'a row lock', "SELECT FROM counters WHERE id = %d FOR UPDATE" ],
	[ 'row locks everywhere', "SELECT count(*) FROM (SELECT FROM counters WHERE note LIKE 'x%%' FOR SHARE) c" ])
{
	my ($what, $statement) = @$case;
	my $target = elsewhere(0);
	my ($here, $there) = map { $db->sql("SELECT min(i) FROM generate_series(1, $ids) i WHERE dbscale.shard_for('counters', i) = $_") } 0, 1;
	my $writer;
	my (undef, undef, $err) = $db->held_at('move_verified', "SELECT dbscale.move_shard('counters', 0, '$target')", sub {
		$writer = $db->start_held('BEGIN; ' . sprintf($statement, $here), 'COMMIT');
		$db->release_point('move_verified');
		$db->wait_until('the move waits', sub { $db->sql("SELECT count(*) FROM dbscale.jobs WHERE step LIKE '%waiting for transactions that write%'") });
		my $others = $what eq 'row locks everywhere' ? '' : "SELECT n FROM counters WHERE id = $here; UPDATE counters SET n = n WHERE id = $there;";
		is(($db->try("SET statement_timeout = '5s'; $others SELECT count(*) FROM counters;"))[2], '', "$what: others are not held up");
		$db->go_on($writer);
	});
	is($err, '', "$what: the move succeeds when it is over");
	$db->finish($writer);
	is(place(0), $target, "$what: and the shard is there");
}
$ledger->is_clean('after waiting for writers');

# Who comes to lock a row while the cut-over has its locks gets it where the row is then.
{
	my $here = $db->sql("SELECT min(i) FROM generate_series(1, $ids) i WHERE dbscale.shard_for('counters', i) = 0");
	my $locker;
	my (undef, undef, $err) = $db->held_at('move_source_locked', "SELECT dbscale.move_shard('counters', 0, '" . elsewhere(0) . "')", sub {
		$locker = $db->start("BEGIN; SELECT n FROM counters WHERE id = $here FOR UPDATE;\nSELECT pg_sleep(600);\n");
		$db->wait_until('somebody comes', sub { $db->sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%FOR UPDATE%' AND pid <> pg_backend_pid() AND state = 'active'") });
	});
	is($err, '', 'a move while somebody comes to lock a row');
	my $asleep = "FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND wait_event = 'PgSleep'";
	$db->wait_until('the row is locked', sub { $db->sql("SELECT count(*) $asleep") });
	like(($db->try("SELECT n FROM counters WHERE id = $here FOR UPDATE NOWAIT"))[2], qr/55P03/, 'the lock is on the row that others find');
	$db->sql("SELECT pg_terminate_backend(pid) $asleep");
	$db->finish($locker);
}

# 8. A transaction that is committed, but not yet on the node: its rows move too.
{
	my $target = elsewhere(0);
	my $here = $db->sql("SELECT min(i) FROM generate_series(1, $ids) i WHERE dbscale.shard_for('counters', i) = 0");
	my $node = $db->node(place(0) =~ /(\d)/);
	$node->safe_psql('postgres', "BEGIN; UPDATE dbscale_shards.counters_0 SET n = n + 1 WHERE id = $here; PREPARE TRANSACTION 'late'");
	my $later = $db->start("SELECT pg_sleep(2);\nCOMMIT PREPARED 'late';\n", server => $node);
	my (undef, undef, $err) = $db->try("SELECT dbscale.move_shard('counters', 0, '$target')");
	$db->finish($later);
	$ledger->n->{$here}++;
	is($err, '', 'a prepared transaction is waited for');
	$ledger->is_clean('after a prepared transaction');
}

# 9. A cancelled move leaves no slot, also when it waited for one to be made.
{
	my $source = $db->node(place(0) =~ /(\d)/);
	my $blocker = $db->start_held('BEGIN; CREATE TABLE blocks (a int)', 'ROLLBACK', server => $source);
	my $mover = $db->start("SET statement_timeout = '1s'; SELECT dbscale.move_shard('counters', 0, '" . elsewhere(0) . "')");
	like(($db->finish($mover))[2], qr/57014/, 'a move that waits for its slot can be cancelled');
	$db->wait_until('the slot is gone', sub { $source->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots') eq '0' }, 30);
	pass('and its slot is gone while the other transaction goes on');
	$db->go_on($blocker);
	$db->finish($blocker);
	$ledger->is_clean('cancelled while waiting for a slot');
}

# 10. The role on the nodes need not be a superuser.
{
	foreach my $i (1, 2)
	{
		$db->node($i)->safe_psql('postgres', 'CREATE ROLE svc LOGIN');
		$db->node($i)->safe_psql('postgres', 'CREATE DATABASE svc OWNER svc');
		$db->sql("SET client_min_messages = error; SELECT dbscale.add_node('svc$i', '" . $db->node($i)->host . "', " . $db->node($i)->port . ", 'svc', '{user=svc}')");
	}
	my ($rc, undef, $err) = $db->try("SELECT dbscale.move_shard('wide', 0, 'svc1')");
	is($err, '', 'a shard moves to a node of an ordinary role');
	($rc, undef, $err) = $db->try("SELECT dbscale.move_shard('wide', 0, 'svc2')");
	like($err, qr/55000.*cannot be moved online.*\n.*may not replicate/, 'from there it may not, unless the role may replicate');
	$db->node($_)->safe_psql('postgres', 'ALTER ROLE svc REPLICATION') foreach 1, 2;
	my $before = rows_of('wide');
	(undef, undef, $err) = $db->held_at('move_caught_up', "SELECT dbscale.move_shard('wide', 0, 'svc2')",
		sub { $db->sql("UPDATE wide SET small = 'moved' WHERE k < 10"); $before = rows_of('wide'); });
	is($err, '', 'then it moves');
	is(rows_of('wide'), $before, 'with its rows');
	is($wide_at->(), 'svc2', 'to the other node');
	$ledger->is_clean('with an ordinary role');
}

# 11. Two at a time, the third waits; not the same shard twice.
{
	$db->sql('DELETE FROM dbscale.job WHERE parent IS NULL AND kind = \'move\'');
	my @movers;
	$db->set_point('move_copied=wait');
	my @to = map { elsewhere($_) } 0 .. 2;
	push @movers, $db->start("SELECT dbscale.move_shard('counters', 0, '$to[0]')");
	$db->wait_for_point('move_copied');
	like(($db->try("SELECT dbscale.move_shard('items', 0, '$to[0]')"))[2], qr/55006/, 'a shard is moved once at a time');
	push @movers, $db->start("SELECT dbscale.move_shard('counters', $_, '$to[$_]')") for 1, 2;
	$db->wait_until('dbscale.max_moves run', sub { $db->sql("SELECT count(*) FROM dbscale.jobs WHERE state = 'running'") eq '2' });
	usleep 1_000_000;
	is($db->sql("SELECT count(*) FROM dbscale.jobs WHERE state = 'running'"), '2', 'dbscale.max_moves run');
	$db->set_point('');
	$db->wait_until('all have moved', sub { $db->release_point('move_copied'); $db->sql("SELECT count(*) FROM dbscale.jobs WHERE kind = 'move' AND state = 'done'") eq '3' }, 60);
	is(($db->finish($_))[2], '', 'each succeeds') foreach @movers;
	is(join(' ', map { place($_) } 0 .. 2), "@to", 'all shards are there');
	$ledger->is_clean('after moves at the same time');
}

# 12. A caller that is terminated takes the move with it.
{
	my $at = place(0);
	$db->set_point('move_caught_up=wait');
	my $mover = $db->start("SELECT dbscale.move_shard('counters', 0, '" . elsewhere(0) . "')");
	$db->wait_for_point('move_caught_up');
	$db->set_point('');
	$db->sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%move_shard%' AND pid <> pg_backend_pid()");
	$db->finish($mover);
	$db->release_point('move_caught_up');
	$db->wait_for_jobs('the caller is gone');
	is(place(0), $at, 'the caller is gone: the shard stays');
	$ledger->is_clean('after the caller was terminated');
}

# 13. Limits: how fast the copy is, and how much log the source may keep.
{
	my ($to) = grep { $_ ne $wide_at->() } @nodes;
	$db->sql("INSERT INTO wide SELECT 2, i, repeat(md5(i::text), 300) FROM generate_series(1, 300) i");
	$db->coordinator->append_conf('postgresql.conf', 'dbscale.move_rate_limit = 1');
	$db->coordinator->reload;
	my $start = time();
	$db->sql("SELECT dbscale.move_shard('wide', 0, '$to')");
	cmp_ok(time() - $start, '>', 2.5, 'three megabytes at one a second');
	$db->coordinator->append_conf('postgresql.conf', "dbscale.move_rate_limit = 0\ndbscale.max_move_lag = 16MB");
	$db->coordinator->reload;
	my ($source) = map { $db->node($_) } $to =~ /(\d)/;
	($to) = grep { $_ ne $to } @nodes;
	my (undef, undef, $err) = $db->held_at('move_slot_created', "SELECT dbscale.move_shard('wide', 0, '$to')", sub {
		foreach (1 .. 3) { $source->safe_psql('postgres', "SELECT pg_logical_emit_message(true, 'x', 'x')"); $source->safe_psql('postgres', 'SELECT pg_switch_wal()'); }
	});
	like($err, qr/53400.*keeps node/, 'a move that keeps too much of the log is given up');
	$ledger->is_clean('after the limits');
}

# 14. drain_node, and the balance restored.
$db->drain_and_restore('n1', sub { }, sub { $ledger->is_clean(@_); });

$db->coordinator->stop;
done_testing();
