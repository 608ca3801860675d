# Shards that are split and merged while they are written to: every acknowledged write is
# there, once, in the shard of its key, whoever is killed on the way.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use Ledger;
use PostgreSQL::Test::Utils;
use Test::More;

my $ids = 60;
my $db = DBScale->new(nodes => 2, settings => "dbscale.debug_point = ''\ndbscale.assign_key_online_rows = 0\n", node_settings => "wal_level = logical\nmax_wal_senders = 10\nmax_replication_slots = 10\n");

my $ledger = Ledger->new(db => $db, ids => $ids, per_id => 10, shards => 2);

# The shard behind this one in the order of hashes.
sub next_shard
{
	my ($shard) = @_;
	return $db->sql("SELECT b.shard FROM dbscale.shard a JOIN dbscale.shard b ON b.group_id = a.group_id AND b.hash_from = a.hash_to + 1 WHERE a.shard = $shard");
}
sub shards { return $db->sql(q(SELECT string_agg(shard::text, ' ' ORDER BY hash_from) FROM dbscale.shard)); }

# A shard of another node than the key's.
sub shard_elsewhere
{
	my ($key) = @_;
	return $db->sql("SELECT min(shard) FROM dbscale.shards WHERE relation = 'counters'::regclass AND node <> dbscale.node_for('counters', $key)");
}

# Another shard than the key's, of the same node where that has one.
sub shard_beside
{
	my ($key) = @_;
	return $db->sql("SELECT shard FROM dbscale.shards WHERE relation = 'counters'::regclass AND shard <> dbscale.shard_for('counters', $key) "
		  . "ORDER BY node <> dbscale.node_for('counters', $key), shard LIMIT 1");
}

# 1. Clients of all kinds through every kind of operation.
my @operations = (
	sub { "SELECT dbscale.split_shard('counters', 0)" },
	sub { "SELECT dbscale.isolate_key('counters', 7, 'n" . (1 + int rand 2) . "')" },
	sub { "SELECT dbscale.merge_shards('counters', " . next_shard(0) . ', 0)' },
	sub { "SELECT dbscale.split_shard('counters', 1, 3)" },
	sub { "SELECT dbscale.assign_key('counters', 9, 1)" },
	# online, to a shard of the other node, back, and to one of the same node
	sub { "SELECT dbscale.assign_key('counters', 12, " . shard_elsewhere(12) . ')' },
	sub { "SELECT dbscale.assign_key('counters', 12, " . shard_beside(12) . ')' },
	sub { "BEGIN;\nSELECT dbscale.assign_key('counters', 13, 1 - sign(dbscale.shard_for('counters', 13))::int);\nCOMMIT" },
	sub { "SELECT dbscale.isolate_key('counters', 9, 'n" . (1 + int rand 2) . "')" },
	sub { "SELECT dbscale.merge_shards('counters', dbscale.shard_for('counters', 9), 0)" },
	sub { "SELECT dbscale.merge_shards('counters', " . next_shard(1) . ', 1)' },
	sub { "SELECT dbscale.merge_shards('counters', " . next_shard(0) . ', 0)' });
my ($failed, $errors, @wrong) = (0, '');
foreach my $operation (@operations)
{
	my @sessions = map { $db->start($_) } $ledger->adder(60), $ledger->inserter(50), $ledger->transferrer(40), $ledger->reader(60);
	my $sql = $operation->();
	my ($rc, undef, $err) = $db->try($sql, stop_on_error => 1);
	$failed++ if $rc != 0;
	diag("$sql: $err") if $rc != 0;
	foreach my $session (@sessions)
	{
		my (undef, $out, $error) = $db->finish($session);
		push @wrong, $ledger->acknowledge($out);
		$errors .= $error;
	}
}
note('shards: ' . shards());
is($failed, 0, 'all operations succeeded');
is(DBScale::errors_but($errors, '40P01'), '', 'no client got an error');
is("@wrong", '', 'no reader saw a row twice, or not at all');
$ledger->is_clean('after operations under load');

# 2. The worker is killed, and with it the coordinator, at every step that is not as in a move (t/010).
my $split = 0;
sub next_operation
{
	$split = !$split;
	return $split ? "SELECT dbscale.split_shard('counters', 0)" : "SELECT dbscale.merge_shards('counters', " . next_shard(0) . ', 0)';
}
foreach my $point (qw(move_tables_made move_copied move_caught_up move_locked move_finished move_before_switch move_switched))
{
	my $sql = next_operation();
	my $before = shards();
	$db->killed_at($point, $sql);
	my $writer = $db->start($ledger->adder(20));
	$db->wait_for_jobs($point);
	$ledger->acknowledge(($db->finish($writer))[1]);
	isnt(shards(), $before, "$point: it is carried out in the end");
	$ledger->is_clean($point);
}

# 3. The node dies at such a step: the job begins again when it is back, or fails.
foreach my $point (qw(move_caught_up move_before_switch))
{
	my $sql = next_operation();
	my $before = shards();
	my (undef, undef, $err) = $db->dies_at($point, $sql, $db->node_of($db->place('counters', 0)));
	ok(($err eq '') == (shards() ne $before) || $point eq 'move_before_switch', "$point, the node dies: it is as the caller was told") or diag($err);
	$split = !$split if shards() eq $before;
	$ledger->is_clean("$point, the node dies");
}

# 4. Keys that are changed while a shard is copied, by the node itself within the shard.
$db->sql(next_operation()) if $split;
{
	my $from = $db->sql("SELECT hash_from + (hash_to - hash_from) / 2 FROM dbscale.shard WHERE shard = 0");
	my ($low, $high) = map { $db->sql("SELECT id FROM counters WHERE dbscale.shard_for('counters', id) = 0 AND (hashint8extended(id, 0) >> 32 & 4294967295) $_ $from ORDER BY id LIMIT 1") } '<', '>';
	my (undef, undef, $err) = $db->held_at('move_copied', next_operation(), sub {
		$db->sql("SELECT dbscale.run_on_shards('items', 'UPDATE %s SET counter_id = $high, seq = 900 WHERE counter_id = $low AND seq = 1')");
		$db->sql("SELECT dbscale.run_on_shards('items', 'UPDATE %s SET counter_id = $low, seq = 901 WHERE counter_id = $high AND seq = 2')"); });
	delete @{ $ledger->items }{ "$low.1", "$high.2" };
	@{ $ledger->items }{ "$high.900", "$low.901" } = (1, 1);
	is($err, '', 'keys change their part: the split succeeds');
	$ledger->is_clean('keys change their part');
}

# 5. Cancelled: it is as before.
foreach my $point (qw(move_copied move_locked))
{
	my $sql = next_operation();
	my $before = shards();
	$db->cancelled_at($point, $sql);
	is(shards(), $before, "$point, cancelled: the shards are as before");
	$split = !$split;
	$ledger->is_clean("$point, cancelled");
}

# 6. A key that is assigned, by steps: killed in each of them, cancelled between two.
sub key_goes
{
	my ($what, $target) = @_;
	is($db->sql("SELECT dbscale.shard_for('counters', 20)"), $target, "$what: the key is where it was to go");
	is($db->sql(q(SELECT count(*) FROM dbscale.shard s WHERE hash_from IS NULL AND NOT EXISTS (SELECT FROM dbscale.directory d WHERE d.group_id = s.group_id AND d.shard = s.shard))),
		0, "$what: no shard is left behind");
	$ledger->is_clean($what);
	return;
}
foreach my $case ([ 0, 'move_caught_up' ], [ 0, 'move_before_switch' ], [ 0, 'job_step' ], [ 1, 'move_recorded' ], [ 1, 'move_before_switch' ],
	[ 1, 'job_step' ], [ 2, 'move_caught_up' ], [ 2, 'move_before_switch' ], [ 2, 'move_switched' ])
{
	my ($steps, $point) = @$case;
	my $what = "assign_key, killed at $point after $steps steps";
	my $target = shard_elsewhere(20);
	$db->set_point($steps ? 'job_step=wait' : "$point=kill");
	my $caller = $db->start("SELECT dbscale.assign_key('counters', 20, $target)");
	foreach my $step (1 .. $steps)
	{
		$db->wait_for_point('job_step');
		if ($step == $steps)
		{
			$db->set_point("$point=kill");
		}
		$ledger->acknowledge(($db->finish($db->start($ledger->adder(10) . $ledger->inserter(10))))[1]);
		$db->release_point('job_step');
	}
	my (undef, undef, $err) = $db->finish($caller);
	isnt($err, '', "$what: the caller's session is gone");
	$db->restart_without_point;
	my $client = $db->start($ledger->adder(10) . $ledger->inserter(10));
	$db->wait_for_jobs($what);
	$ledger->acknowledge(($db->finish($client))[1]);
	key_goes($what, $target);
}
{
	my $shards = shards();
	my $before = $db->sql("SELECT dbscale.shard_for('counters', 20)");
	my $target = shard_elsewhere(20);
	my (undef, undef, $err) = $db->held_at('job_step', "SELECT dbscale.assign_key('counters', 20, $target)",
		sub { $db->sql("SELECT dbscale.cancel_job(job) FROM dbscale.jobs WHERE kind = 'assign' AND state = 'running'"); });
	my $own = $db->sql("SELECT dbscale.shard_for('counters', 20)");
	like($err, qr/57014.*The key is in shard $own by now/s, 'assign_key, cancelled after a step: the caller is told where the key is');
	isnt($own, $before, 'it has a shard of its own');
	is($db->sql("SELECT state || ' ' || error FROM dbscale.jobs WHERE kind = 'assign' ORDER BY job DESC LIMIT 1") =~ /^cancelled .*shard $own/, 1, 'and so says the job');
	$ledger->is_clean('assign_key, cancelled after a step');
	is(($db->try("SELECT dbscale.assign_key('counters', 20, $before)"))[2], '', 'the key is brought back');
	key_goes('assign_key, brought back', $before);
	is(shards(), $shards, 'the shards are as before');
}

# 7. A merge of shards on two nodes, and a key that is isolated on another node: killed on the way, the job goes on.
foreach my $case ([ merge => 'move_before_switch' ], [ merge => 'job_step' ], [ isolate => 'move_before_switch', 30 ], [ isolate => 'job_step', 31 ])
{
	my ($kind, $point, $key) = @$case;
	my $what = "$kind over two nodes, killed at $point";
	my $sql;
	if ($kind eq 'merge')
	{
		$db->sql("SELECT dbscale.split_shard('counters', 0)");
		my $next = next_shard(0);
		$db->sql("SELECT dbscale.move_shard('counters', $next, '" . $db->elsewhere('counters', $next) . "')");
		$sql = "SELECT dbscale.merge_shards('counters', $next, 0)";
	}
	else
	{
		my $node = $db->elsewhere('counters', $db->sql("SELECT dbscale.shard_for('counters', $key)"));
		$sql = "SELECT dbscale.isolate_key('counters', $key, '$node')";
	}
	$db->killed_at($point, $sql);
	my $client = $db->start($ledger->adder(10) . $ledger->inserter(10));
	$db->wait_for_jobs($what);
	$ledger->acknowledge(($db->finish($client))[1]);
	is($db->sql('SELECT kind, state FROM dbscale.jobs ORDER BY job DESC LIMIT 1'), "$kind|done", "$what: it is carried out in the end");
	$ledger->is_clean($what);
}

# 8. A node that begins to drain while a shard of its is split: both parts leave it.
{
	my $shard = (split / /, shards())[0];
	my $node = $db->sql("SELECT node FROM dbscale.shard WHERE shard = $shard");
	my $job;
	my (undef, undef, $err) = $db->held_at('move_caught_up', "SELECT dbscale.split_shard('counters', $shard)", sub {
		$job = $db->sql("SELECT dbscale.drain_node('$node')"); });
	is($err, '', 'a split on a node that begins to drain');
	is($db->sql("SELECT dbscale.wait_job($job, '60s')"), 'done', 'the node is drained');
	is($db->sql("SELECT count(*) FROM dbscale.shard WHERE node = '$node'"), '0', 'and holds neither part');
	is($db->sql("SELECT steps = (SELECT count(*) FROM dbscale.job s WHERE s.parent = j.job) FROM dbscale.job j WHERE job = $job"), 't', 'its job tells all moves');
	$ledger->is_clean('after a split and a drain');
}

done_testing();
