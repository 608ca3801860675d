# Counters whose tables are not colocated: shards of both sides are split, merged and left to
# one key, and keys of many rows are assigned, whatever is written and carried meanwhile and
# whoever is killed on the way.  What has been acknowledged is there, every delta is applied
# once, and nothing is left on the nodes.
#
# DBSCALE_SEED repeats a run (it is printed), DBSCALE_ROUNDS makes it longer.  Sums by hand, and keys that
# COPY has to escape, are in sql/counters_outbox.sql.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use Likes;
use PostgreSQL::Test::Utils;
use Test::More;

my $rounds = $ENV{DBSCALE_ROUNDS} // 1;
seeded(20261130);

my $db = DBScale->new(nodes => 2, settings => "dbscale.debug_point = ''\ndbscale.assign_key_online_rows = 0\ndbscale.counter_fold_interval = 10ms\n"
	  . "dbscale.deadlock_interval = 200ms\ndeadlock_timeout = 50ms\n",
	node_settings => "wal_level = logical\nmax_wal_senders = 10\nmax_replication_slots = 10\ndeadlock_timeout = 50ms\n");

# Posts from 13 on have no row at first.
my @placements = qw(far own);
my $counted = Likes->new(db => $db, placements => \@placements, shards => 2, posts => 12, keys => 24);
# A table of each group.
my @tables = qw(far_posts far_likes own_posts);

sub statement
{
	my ($p) = @_;
	my ($likes, $posts, $key) = ("${p}_likes", "${p}_posts", number(24));

	return any(
		"INSERT INTO $likes VALUES (" . number(60) . ", $key, " . number(30) . ') ON CONFLICT DO NOTHING',
		"INSERT INTO $likes SELECT " . (100 + number(100000)) . ', i, i FROM generate_series(1, 24) i ON CONFLICT DO NOTHING',
		"DELETE FROM $likes WHERE liker < 1000000 AND liker % 11 = " . int rand 11,
		"UPDATE $likes SET w = " . number(40) . " WHERE post = $key AND liker % 3 = 1",
		"UPDATE $likes SET post = " . number(24) . " WHERE post = $key AND liker = " . number(60),
		"UPDATE $posts SET title = 'x' WHERE id = $key",
		"INSERT INTO $posts (id, n) VALUES ($key, 5) ON CONFLICT DO NOTHING",
		"DELETE FROM $posts WHERE id = $key",
		"UPDATE $posts SET id = 25 - id WHERE id = $key") . ";\n";
}
sub load
{
	my ($p, $count) = @_;
	return $counted->load($p, map { rand() < 0.5 ? statement($p) : "BEGIN;\n" . statement($p) . statement($p) . any('COMMIT', 'COMMIT', 'ROLLBACK') . ";\n" } 1 .. $count);
}
sub is_clean { return $counted->is_clean(@_); }
# Then all posts are made, which take what is kept for them.
sub is_carried
{
	my ($what) = @_;
	$counted->is_carried($what);
	$db->sql("INSERT INTO ${_}_posts (id) SELECT i FROM generate_series(1, 24) i ON CONFLICT DO NOTHING") foreach @placements;
	$counted->is_carried("$what, all posts made");
	$db->sql("DELETE FROM ${_}_posts WHERE id > 12") foreach @placements;
	return;
}

# A shard of the table and the one behind it, in the order of hashes; or nothing.
sub neighbours
{
	my ($table) = @_;
	return split /\|/, $db->sql("SELECT a.shard, b.shard FROM dbscale.shard a JOIN dbscale.shard b ON b.group_id = a.group_id AND b.hash_from = a.hash_to + 1
	  JOIN dbscale.distributed_table t ON t.group_id = a.group_id AND t.relation = '$table'::regclass WHERE b.shard <> 0 ORDER BY random() LIMIT 1");
}
sub shards { return $db->sql("SELECT string_agg(concat_ws(' ', group_id, shard, hash_from, node), ', ' ORDER BY group_id, shard) FROM dbscale.shard"); }
sub count_of { return $db->sql("SELECT count(*) FROM dbscale.shards WHERE relation = '$_[0]'::regclass"); }
sub split_some
{
	my ($table, $parts) = @_;
	return "SELECT dbscale.split_shard('$table', " . $db->sql("SELECT s.shard FROM dbscale.shard s JOIN dbscale.distributed_table t USING (group_id)
	  WHERE t.relation = '$table'::regclass AND hash_to - hash_from > 1000 ORDER BY random() LIMIT 1") . ", $parts)";
}
sub split_or_merge
{
	my ($table) = @_;
	return "SELECT dbscale.merge_shards('$table', " . join(', ', reverse neighbours($table)) . ')' if count_of($table) > 2;
	return split_some($table, any(2, 3));
}

is_clean('at the beginning');

# 1. Writers and carriers while shards of both sides are split and merged.
foreach my $round (1 .. $rounds)
{
	foreach my $table (@tables)
	{
		my $key = number(10);
		my @running = map { load($_, 40) } @placements;
		foreach my $operation (sub { split_some($table, 3) },
			sub { "SELECT dbscale.isolate_key('$table', $key, 'n" . number(2) . "')" },
			# which is a job's where the key has rows
			sub { ($table =~ /posts/ ? "INSERT INTO $table (id) VALUES ($key) ON CONFLICT DO NOTHING" : "INSERT INTO $table VALUES ($key, 1, 1) ON CONFLICT DO NOTHING")
				  . ";\nSELECT dbscale.assign_key('$table', $key, 0)" },
			sub { split_or_merge($table) })
		{
			my $sql = $operation->();
			my ($rc, undef, $err) = $db->try($sql);
			is(DBScale::errors_but($err, '40P01', '55000', '22023'), '', "$sql under load");
			$counted->is_verified('verified under load') if rand() < 0.5;
		}
		$counted->finish($_, 'writers') foreach @running;
	}
	my $jobs = $db->sql("SELECT string_agg(DISTINCT concat_ws(' ', kind, state), ', ') FROM dbscale.jobs");
	like($jobs, qr/\b$_ done/, "jobs did it: $_") foreach qw(split isolate assign merge);
	is_clean('under load');
	is_carried('under load');
}

# 2. A statement on the node whose client is gone waits for the switch's guard, and comes when that lets go:
# its row goes with the old table, and with it what it has counted.
foreach my $table (qw(far_likes far_posts))
{
	$counted->write_some(@placements);
	my $shard = $db->sql("SELECT dbscale.shard_for('$table', 3)");
	my $node = $db->node_of($db->sql("SELECT dbscale.node_for('$table', 3)"));
	my $gone;
	my (undef, undef, $err) = $db->held_at('move_finished', "SELECT dbscale.split_shard('$table', $shard)", sub {
		$gone = $db->start($table eq 'far_likes' ? "INSERT INTO dbscale_shards.${table}_$shard VALUES (3, 4000000, 3), (3, 7, 3) ON CONFLICT DO NOTHING"
			: "DELETE FROM dbscale_shards.${table}_$shard", server => $node);
		$db->wait_until('it waits', sub { $node->safe_psql('postgres', 'SELECT count(*) FROM pg_locks WHERE NOT granted') > 0 }, 30); });
	is($err, '', "$table: it is split all the same");
	is(($db->finish($gone))[2], '', "$table: a statement of nobody");
	is_clean("$table, a statement of nobody");
}

# 3. The worker of the job is killed, and with it the coordinator, at the steps of the switch, and around its
# decision; nobody else writes on nodes meanwhile.
$db->set_for_worker('dbscale.counter_fold_interval', '0');
foreach my $point (qw(move_finished move_before_switch after_prepare after_commit move_switched))
{
	my $table = any(@tables);
	my $sql = split_or_merge($table);
	my $before = shards();
	$counted->write_some(@placements);
	$db->killed_at($point, $sql);
	$counted->is_verified("$table, $point: verified while it may be in doubt");
	$db->wait_for_jobs("$table, $point");
	isnt(shards(), $before, "$table, $point: it is carried out in the end");
	is_clean("$table, $point");
}

# 4. The node dies when the switch is decided and it does not know.  When it is back the worker comes to
# carry, and finds the locks of what is prepared there; it must not wait for itself.
{
	$db->set_for_worker('dbscale.recovery_interval', '1h');
	$counted->write_some(@placements);
	my $before = shards();
	my $victim = $db->node_of($db->place('far_likes', 0));
	$db->held_at('after_commit', "SELECT dbscale.split_shard('far_likes', 0)", sub { $db->kill_all($victim); });
	$db->revive($victim);
	isnt(shards(), $before, 'the node dies: it was decided');
	cmp_ok($victim->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), '>', 0, 'and the node does not know');
	$db->set('dbscale.counter_fold_interval', '10ms');
	$db->wait_until('the worker waits', sub { $victim->safe_psql('postgres', 'SELECT count(*) FROM pg_locks WHERE NOT granted') > 0 }, 30);
	$db->set('dbscale.recovery_interval', '200ms');
	is_clean('the node dies');
	$db->set_for_worker('dbscale.counter_fold_interval', '0');
}
is_carried('after crashes');

# 5. A carrier is held by its locks: a split of either table waits for it, or for what is left prepared of it.
foreach my $case ([ 'far_likes', 'carry_taken' ], [ 'far_posts', 'after_prepare' ])
{
	my ($table, $point) = @$case;
	my $before = shards();
	my $carrier;
	my (undef, undef, $err) = $db->held_at('move_verified', "SELECT dbscale.split_shard('$table', 0)", sub {
		$counted->write_some(@placements);
		$carrier = $db->start("SET dbscale.debug_point = '$point=wait';\nSELECT dbscale.fold_counter('far_posts_n');\n");
		$db->wait_for_point($point);
		$db->release_point('move_verified');
		$db->wait_until("$table, $point: it waits for a carrier", sub {
			$db->sql("SELECT count(*) FROM dbscale.jobs WHERE state = 'running' AND step LIKE '%waiting for transactions that use%'") > 0 }, 60);
		is(shards(), $before, "$table, $point: it waits for a carrier");
		$db->release_all_at($point);
		is(($db->finish($carrier))[2], '', "$table, $point: a carrier"); });
	is($err, '', "$table, $point: it goes on");
	isnt(shards(), $before, "$table, $point: and ends");
	is_clean("$table, $point");
}
is_carried('at the end');

$counted->are_acknowledged;
$db->coordinator->stop;
done_testing();
