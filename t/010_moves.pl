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

# 5. drain_node, and back by single moves.
my $job = $db->sql("SELECT dbscale.drain_node('n1')");
is($db->sql("SELECT dbscale.wait_job($job, '60s')"), 'done', 'the node is drained');
is($db->sql("SELECT count(*) FROM dbscale.shards WHERE node = 'n1'"), '0', 'and holds no shard');
is_clean('after drain_node');

$db->coordinator->stop;
done_testing();
