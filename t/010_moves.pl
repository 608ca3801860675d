# Shards that move while they are written to: every acknowledged write is there, once,
# wherever the shard goes and whoever is killed on the way.
#
# DBSCALE_SECONDS makes the load longer.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seconds = $ENV{DBSCALE_SECONDS} // 8;
my $ids = 60;
my $per_id = 20;
my @nodes = qw(n1 n2 n3);
my $db = DBScale->new(nodes => 3, settings => "dbscale.debug_point = ''\n", node_settings => "wal_level = logical\nmax_wal_senders = 10\nmax_replication_slots = 10\n");

# counters and items are one group; what is acknowledged is kept by the clients, or in a
# local table that is written in the same transaction.
$db->sql(qq(
CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL, note text);
SELECT dbscale.distribute_table('counters', 'id', shard_count => 4);
CREATE TABLE items (counter_id int, seq int, body text, twice int GENERATED ALWAYS AS (seq * 2) STORED, PRIMARY KEY (counter_id, seq));
SELECT dbscale.distribute_table('items', 'counter_id', colocate_with => 'counters');
ALTER TABLE items ADD CONSTRAINT items_counter FOREIGN KEY (counter_id) REFERENCES counters ON DELETE CASCADE;
CREATE INDEX items_body ON items (body);
INSERT INTO counters SELECT i, 0, repeat('x', 3000) FROM generate_series(1, $ids) i;
INSERT INTO items SELECT i, k, E'tab\\t and \\\\ and "' || k FROM generate_series(1, $ids) i, generate_series(1, $per_id) k;
CREATE TABLE transfers (from_id int, to_id int);
));

my %n = map { $_ => 0 } 1 .. $ids;
my %items = map { my $id = $_; map { ("$id.$_" => 1) } 1 .. $per_id } 1 .. $ids;

# Scripts of clients.  Statements of their own are one round trip, which the node commits.
sub adder
{
	my ($statements) = @_;
	return join '', map { 'UPDATE counters SET n = n + 1 WHERE id = ' . (1 + int rand $ids) . " RETURNING 'n', id;\n" } 1 .. $statements;
}
my $seq = 1000;
sub inserter
{
	my ($statements) = @_;
	return join '', map {
		my $id = 1 + int rand $ids;
		$seq++;
		"INSERT INTO items VALUES ($id, $seq, 'item $seq') RETURNING '+', counter_id, seq;\n"
		  . ($_ % 3 ? '' : "DELETE FROM items WHERE counter_id = $id AND seq = $seq RETURNING '-', counter_id, seq;\n")
	} 1 .. $statements;
}
sub transferrer
{
	my ($statements) = @_;
	return join '', map {
		my ($from, $to) = sort { $a <=> $b } map { 1 + int rand $ids } 1, 2;
		"BEGIN;\nUPDATE counters SET n = n - 1 WHERE id = $from;\nUPDATE counters SET n = n + 1 WHERE id = $to;\n"
		  . "INSERT INTO transfers VALUES ($from, $to);\nCOMMIT;\n"
	} 1 .. $statements;
}

# What a client was told.
sub take_acknowledged
{
	my ($out) = @_;
	foreach my $line (split /\n/, $out)
	{
		my ($what, @key) = split /\|/, $line;
		$n{ $key[0] }++ if $what eq 'n';
		$items{"$key[0].$key[1]"} = 1 if $what eq '+';
		delete $items{"$key[0].$key[1]"} if $what eq '-';
	}
	return;
}

sub differences
{
	my %want = %n;
	foreach my $row (split /\n/, $db->sql('SELECT from_id, to_id FROM transfers'))
	{
		my ($from, $to) = split /\|/, $row;
		$want{$from}--;
		$want{$to}++;
	}
	my %have = map { split /\|/ } split /\n/, $db->sql('SELECT id, n FROM counters');
	my @bad = grep { ($have{$_} // 'none') ne ($want{$_} // 'none') } sort keys %{ { %want, %have } };
	my %rows = map { $_ => 1 } split /\n/, $db->sql(q(SELECT counter_id || '.' || seq FROM items));
	push @bad, grep { !$rows{$_} != !$items{$_} } sort keys %{ { %rows, %items } };
	return join ' ', @bad;
}

sub is_clean
{
	my ($what) = @_;
	$db->wait_for_recovery;
	$db->wait_until('everything is cleaned up', sub { $db->sql('SELECT count(*) FROM dbscale.cleanup') eq '0' }, 60);
	is($db->sql('SELECT * FROM dbscale.check()'), '', "$what: catalog and nodes agree");
	is(join('', map { $_->safe_psql('postgres', 'SELECT pubname FROM pg_publication UNION ALL SELECT slot_name FROM pg_replication_slots') } $db->nodes),
		'', "$what: no publication and no slot is left");
	is(join('', map { $_->safe_psql('postgres', q(SELECT conname FROM pg_constraint WHERE NOT convalidated)) } $db->nodes),
		'', "$what: all foreign keys are validated");
	is(differences(), '', "$what: every acknowledged write is there, once");
	return;
}

sub place { return $db->sql("SELECT node FROM dbscale.shards WHERE relation = 'counters'::regclass AND shard = $_[0]"); }
sub elsewhere { my ($shard) = @_; my $at = place($shard); return (grep { $_ ne $at } @nodes)[ int rand 2 ]; }

# 1. Writers of all kinds while shards go round.
my @sessions;
my $end = time() + $seconds;
my ($moves, $failed, $errors) = (0, 0, '');
while (time() < $end || $moves < 6)
{
	push @sessions, map { $db->start($_) } adder(150), inserter(100), transferrer(60), transferrer(60), adder(150);
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
		take_acknowledged($out);
		$errors .= $err;
	}
}
note("$moves moves");
is($failed, 0, 'all moves succeeded');
is($errors =~ s/^.*40P01.*\n(?:(?:DETAIL|HINT|CONTEXT|LOCATION|LINE|STATEMENT).*\n)*//gmr, '', 'no writer got an error');
is_clean('after moves under load');
is($db->sql("SELECT string_agg(DISTINCT state, ',') FROM dbscale.jobs WHERE kind = 'move'"), 'done', 'all jobs are done');

# 2. The worker is killed, and with it the coordinator, at every recorded step.  The job
# goes on by itself when the server is back.
sub set_point
{
	my ($value) = @_;
	my $coordinator = $db->coordinator;
	$coordinator->adjust_conf('postgresql.conf', 'dbscale.debug_point', "'$value'");
	return;
}
sub move_to_end
{
	my ($shard, $target, $what) = @_;
	$db->wait_until("$what: the job has ended",
		sub { $db->sql("SELECT count(*) FROM dbscale.jobs WHERE state IN ('waiting', 'running')") eq '0' }, 90);
	return;
}
foreach my $point (qw(move_begun move_recorded move_tables_made move_published move_slot_created move_copied move_indexed
	move_caught_up move_verified move_locked move_before_switch move_switched))
{
	my $target = elsewhere(2);
	set_point("$point=kill");
	$db->coordinator->reload;
	my $writer = $db->start(adder(20));
	take_acknowledged(($db->finish($writer))[1]);
	my ($rc) = $db->try("SELECT dbscale.move_shard('counters', 2, '$target')");
	isnt($rc, 0, "$point: the caller's session is gone");
	set_point('');
	$db->kill_all($db->coordinator);
	$db->revive($db->coordinator);
	move_to_end(2, $target, $point);
	is(place(2), $target, "$point: the shard arrives in the end");
	is_clean($point);
}

# 3. A node dies at such a step: the move begins again when it is back, or fails, and in
# either case nothing is lost.
foreach my $case (map { my $point = $_; map { [ $point, $_ ] } qw(source target) } qw(move_published move_copied move_caught_up move_verified move_before_switch))
{
	my ($point, $who) = @$case;
	my $source = place(3);
	my $target = elsewhere(3);
	my ($victim) = map { $db->node($_) } ($who eq 'source' ? $source : $target) =~ /(\d)/;
	set_point("$point=wait");
	$db->coordinator->reload;
	my $mover = $db->start("SELECT dbscale.move_shard('counters', 3, '$target')");
	$db->wait_for_point($point);
	set_point('');
	$db->coordinator->reload;
	$db->kill_all($victim);
	$db->release_point($point);
	usleep 500_000;
	$db->revive($victim);
	my ($rc, undef, $err) = $db->finish($mover);
	move_to_end(3, $target, "$point, $who dies");
	ok(place(3) eq ($err eq '' ? $target : $source) || $point eq 'move_before_switch', "$point, $who dies: the shard is where the caller was told")
	  or diag($err);
	is_clean("$point, $who dies");
}

# 4. Cancelled at a step: it is as before.
foreach my $point (qw(move_copied move_caught_up move_locked))
{
	my $source = place(0);
	set_point("$point=wait");
	$db->coordinator->reload;
	my $mover = $db->start("SELECT dbscale.move_shard('counters', 0, '" . elsewhere(0) . "')");
	$db->wait_for_point($point);
	set_point('');
	$db->coordinator->reload;
	my $job = $db->sql("SELECT job FROM dbscale.jobs WHERE kind = 'move' AND state = 'running'");
	is($db->sql("SELECT dbscale.cancel_job($job)"), 't', "$point: the job is cancelled");
	$db->release_point($point);
	like(($db->finish($mover))[2], qr/57014/, "$point: the caller is told");
	is($db->sql("SELECT state FROM dbscale.jobs WHERE job = $job"), 'cancelled', "$point: the job says so");
	is(place(0), $source, "$point: the shard is where it was");
	is_clean("cancelled at $point");
}

# 5. Changes of every kind while the copy is there but not caught up: keys, values too
# large for the row that do not change, NULLs, rows that are there twice, TRUNCATE.
sub while_waiting
{
	my ($point, $move, $code) = @_;
	set_point("$point=wait");
	$db->coordinator->reload;
	my $mover = $db->start($move);
	$db->wait_for_point($point);
	set_point('');
	$db->coordinator->reload;
	$code->();
	$db->release_point($point);
	return $db->finish($mover);
}
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
	my (undef, undef, $err) = while_waiting($point, "SELECT dbscale.move_shard('wide', 0, '$to')",
		sub { $db->sql($changes); @before = map { rows_of($_) } qw(wide twice emptied); });
	is($err, '', "$point: changes of every kind meanwhile");
	is($wide_at->(), $to, "$point: the shard has moved");
	is_deeply([ map { rows_of($_) } qw(wide twice emptied) ], \@before, "$point: and the rows are as they were changed");
	is_clean("changes at $point");
	$db->sql(q(DELETE FROM wide; DELETE FROM twice; DELETE FROM emptied;
INSERT INTO wide SELECT 1, i, repeat(md5(i::text), 300), 's', NULL FROM generate_series(1, 50) i;
INSERT INTO twice SELECT 1, NULLIF(i % 3, 0)::text, '2020-01-01'::timestamptz, '{"a": 1}' FROM generate_series(1, 12) i));
}

# 6. DDL is not kept waiting: the move begins again, with the table as it is then.
{
	my $from = $wide_at->();
	my ($to) = grep { $_ ne $from } @nodes;
	my (undef, undef, $err) = while_waiting('move_caught_up', "SELECT dbscale.move_shard('wide', 0, '$to')",
		sub { $db->sql("ALTER TABLE wide ADD COLUMN added int DEFAULT 5; CREATE INDEX wide_small ON wide (small); INSERT INTO wide VALUES (1, 999, 'b', 's', NULL, 6)"); });
	is($err, '', 'the move goes on after DDL');
	is($wide_at->(), $to, 'and arrives');
	is($db->sql("SELECT attempts FROM dbscale.job WHERE kind = 'move' ORDER BY job DESC LIMIT 1"), '1', 'at the second attempt');
	is($db->sql("SELECT count(*), sum(added) FROM wide"), '51|256', 'with the new column');
	is_clean('after DDL');
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
	my (undef, undef, $err) = while_waiting('move_verified', "SELECT dbscale.move_shard('counters', 0, '$target')", sub {
		$writer = $db->start('BEGIN; ' . sprintf($statement, $here) . ";\nSELECT pg_sleep(3);\nCOMMIT;\n");
		$db->wait_until('the writer is there', sub { $db->sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3)%' AND pid <> pg_backend_pid()") });
		$db->release_point('move_verified');
		$db->wait_until('the move waits', sub { $db->sql("SELECT count(*) FROM dbscale.jobs WHERE step LIKE '%waiting for transactions that write%'") });
		my $start = time();
		$db->sql("SELECT n FROM counters WHERE id = $here; UPDATE counters SET n = n WHERE id = $there") if $what ne 'row locks everywhere';
		$db->sql("SELECT count(*) FROM counters");
		cmp_ok(time() - $start, '<', 1.5, "$what: others are not held up");
	});
	is($err, '', "$what: the move succeeds when it is over");
	$db->finish($writer);
	is(place(0), $target, "$what: and the shard is there");
}
is_clean('after waiting for writers');

# Who comes to lock a row while the cut-over has its locks gets it where the row is then.
{
	my $here = $db->sql("SELECT min(i) FROM generate_series(1, $ids) i WHERE dbscale.shard_for('counters', i) = 0");
	my $locker;
	my (undef, undef, $err) = while_waiting('move_source_locked', "SELECT dbscale.move_shard('counters', 0, '" . elsewhere(0) . "')", sub {
		$locker = $db->start("BEGIN; SELECT n FROM counters WHERE id = $here FOR UPDATE;\nSELECT pg_sleep(2.5);\nCOMMIT;\n");
		usleep 500_000;
	});
	is($err, '', 'a move while somebody comes to lock a row');
	$db->wait_until('the row is locked', sub { $db->sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(2.5)%' AND pid <> pg_backend_pid()") });
	like(($db->try("SELECT n FROM counters WHERE id = $here FOR UPDATE NOWAIT"))[2], qr/55P03/, 'the lock is on the row that others find');
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
	$n{$here}++;
	is($err, '', 'a prepared transaction is waited for');
	is_clean('after a prepared transaction');
}

# 9. A cancelled move leaves no slot, also when it waited for one to be made.
{
	my $source = $db->node(place(0) =~ /(\d)/);
	my $blocker = $db->start("BEGIN; CREATE TABLE blocks (a int);\nSELECT pg_sleep(4);\nROLLBACK;\n", server => $source);
	$db->wait_until('the blocker is there', sub { $source->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(4)%' AND pid <> pg_backend_pid()") });
	my $mover = $db->start("SET statement_timeout = '1s'; SELECT dbscale.move_shard('counters', 0, '" . elsewhere(0) . "')");
	like(($db->finish($mover))[2], qr/57014/, 'a move that waits for its slot can be cancelled');
	$db->wait_until('the slot is gone', sub { $source->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots') eq '0' }, 2);
	pass('and its slot is gone while the other transaction goes on');
	$db->finish($blocker);
	is_clean('cancelled while waiting for a slot');
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
	(undef, undef, $err) = while_waiting('move_caught_up', "SELECT dbscale.move_shard('wide', 0, 'svc2')",
		sub { $db->sql("UPDATE wide SET small = 'moved' WHERE k < 10"); $before = rows_of('wide'); });
	is($err, '', 'then it moves');
	is(rows_of('wide'), $before, 'with its rows');
	is($wide_at->(), 'svc2', 'to the other node');
	is_clean('with an ordinary role');
}

# 11. Two at a time, the third waits; not the same shard twice.
{
	$db->sql('DELETE FROM dbscale.job WHERE parent IS NULL AND kind = \'move\'');
	my @movers;
	set_point('move_copied=wait');
	$db->coordinator->reload;
	my @to = map { elsewhere($_) } 0 .. 2;
	push @movers, $db->start("SELECT dbscale.move_shard('counters', 0, '$to[0]')");
	$db->wait_for_point('move_copied');
	like(($db->try("SELECT dbscale.move_shard('items', 0, '$to[0]')"))[2], qr/55006/, 'a shard is moved once at a time');
	push @movers, $db->start("SELECT dbscale.move_shard('counters', $_, '$to[$_]')") for 1, 2;
	usleep 1_500_000;
	is($db->sql("SELECT count(*) FROM dbscale.jobs WHERE state = 'running'"), '2', 'dbscale.max_moves run');
	set_point('');
	$db->coordinator->reload;
	$db->wait_until('all have moved', sub { $db->release_point('move_copied'); $db->sql("SELECT count(*) FROM dbscale.jobs WHERE kind = 'move' AND state = 'done'") eq '3' }, 60);
	is(($db->finish($_))[2], '', 'each succeeds') foreach @movers;
	is(join(' ', map { place($_) } 0 .. 2), "@to", 'all shards are there');
	is_clean('after moves at the same time');
}

# 12. A caller that is terminated takes the move with it.
{
	my $at = place(0);
	set_point('move_caught_up=wait');
	$db->coordinator->reload;
	my $mover = $db->start("SELECT dbscale.move_shard('counters', 0, '" . elsewhere(0) . "')");
	$db->wait_for_point('move_caught_up');
	set_point('');
	$db->coordinator->reload;
	$db->sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%move_shard%' AND pid <> pg_backend_pid()");
	$db->finish($mover);
	$db->release_point('move_caught_up');
	move_to_end(0, $at, 'the caller is gone');
	is(place(0), $at, 'the caller is gone: the shard stays');
	is_clean('after the caller was terminated');
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
	my (undef, undef, $err) = while_waiting('move_slot_created', "SELECT dbscale.move_shard('wide', 0, '$to')", sub {
		foreach (1 .. 3) { $source->safe_psql('postgres', "SELECT pg_logical_emit_message(true, 'x', 'x')"); $source->safe_psql('postgres', 'SELECT pg_switch_wal()'); }
	});
	like($err, qr/53400.*keeps node/, 'a move that keeps too much of the log is given up');
	is_clean('after the limits');
}

# 14. drain_node, and the balance restored.
my $job = $db->sql("SELECT dbscale.drain_node('n1')");
is($db->sql("SELECT dbscale.wait_job($job, '60s')"), 'done', 'the node is drained');
is($db->sql("SELECT count(*) FROM dbscale.shards WHERE node = 'n1'"), '0', 'and holds no shard');
is_clean('after drain_node');
$db->sql("SELECT dbscale.enable_node('n1')");
$job = $db->sql("SELECT dbscale.rebalance('shards')");
is($db->sql("SELECT dbscale.wait_job($job, '60s')"), 'done', 'rebalance is done');
cmp_ok($db->sql("SELECT count(*) FROM dbscale.shards WHERE node = 'n1'"), '>', '0', 'the node has shards again');
is($db->sql("SELECT count(*) FROM dbscale.rebalance_plan('shards')"), '0', 'and there is nothing left to move');
is_clean('after rebalance');

$db->coordinator->stop;
done_testing();
