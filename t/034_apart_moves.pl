# Counters whose tables are not colocated: shards of both sides move, and keys are assigned,
# whatever is written and carried meanwhile and whoever is killed on the way.  What has been
# acknowledged is there, every delta is applied once, and nothing is left on the nodes.
#
# DBSCALE_SEED repeats a run (it is printed), DBSCALE_SECONDS makes the load longer.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use Likes;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seconds = $ENV{DBSCALE_SECONDS} // 3;
seeded(20261129);

my $db = DBScale->new(nodes => 3, settings => "dbscale.debug_point = ''\ndbscale.counter_fold_interval = 10ms\n"
	  . "dbscale.deadlock_interval = 200ms\ndeadlock_timeout = 50ms\n",
	node_settings => "wal_level = logical\nmax_wal_senders = 10\nmax_replication_slots = 10\ndeadlock_timeout = 50ms\n");

my @placements = qw(far own here from);
my $counted = Likes->new(db => $db, placements => \@placements, shards => 3, posts => 10, keys => 14);
# What can move: a table of each group.
my @movable = map { "${_}_posts" } qw(far own from);
push @movable, map { "${_}_likes" } qw(far here);

sub statement
{
	my ($p) = @_;
	my ($likes, $posts, $key) = ("${p}_likes", "${p}_posts", number(14));

	return any(
		"INSERT INTO $likes VALUES (" . number(60) . ", $key, " . number(30) . ') ON CONFLICT DO NOTHING',
		"INSERT INTO $likes VALUES (" . number(60) . ", $key, " . number(30) . ') ON CONFLICT (liker, post) DO UPDATE SET w = excluded.w',
		"INSERT INTO $likes SELECT " . (100 + number(100000)) . ', i, i FROM generate_series(1, 14) i ON CONFLICT DO NOTHING',
		"DELETE FROM $likes WHERE post = $key AND liker = " . number(60),
		"DELETE FROM $likes WHERE liker < 1000000 AND liker % 11 = " . int rand 11,
		"UPDATE $likes SET w = " . number(40) . " WHERE post = $key AND liker % 3 = 1",
		"UPDATE $likes SET post = " . number(14) . " WHERE post = $key AND liker = " . number(60),
		"UPDATE $posts SET title = 'x' WHERE id = $key",
		"INSERT INTO $posts (id, n) VALUES ($key, 5) ON CONFLICT DO NOTHING",
		"DELETE FROM $posts WHERE id = $key",
		"DELETE FROM $posts WHERE id = $key;\nINSERT INTO $posts (id) VALUES ($key)") . ";\n";
}
sub transaction
{
	my ($p) = @_;

	return statement($p) if rand() < 0.6;
	return "BEGIN;\n" . join('', map { statement($p) } 1 .. number(3))
	  . (rand() < 0.3 ? "SAVEPOINT a;\n" . statement($p) . any("ROLLBACK TO a;\n", "RELEASE a;\n") : '')
	  . any('COMMIT', 'COMMIT', 'ROLLBACK') . ";\n";
}
sub load { my ($p, $count) = @_; return $counted->load($p, map { transaction($p) } 1 .. $count); }
sub finish { return $counted->finish(@_); }
sub is_clean { return $counted->is_clean(@_); }
sub is_carried { return $counted->is_carried(@_); }
sub write_some { return $counted->write_some(@_); }

sub place { return $db->place(@_); }
sub elsewhere { return $db->elsewhere(@_); }
sub move { return $db->move_sql(@_); }
sub placement_of { my ($table) = @_; return $table =~ /^([a-z]+)_/ ? $1 : die; }

is_clean('at the beginning');

# 1. Writers and carriers while shards of all tables go round, and keys from shard to shard.
{
	my $end = time() + $seconds;
	my $moves = 0;
	while (time() < $end || $moves < 10)
	{
		my @running = map { load($_, 25) } @placements;
		foreach my $table (@movable)
		{
			is(($db->try(move($table, int rand 3)))[2], '', "a shard of $table moves");
			my (undef, undef, $err) = $db->try("SELECT dbscale.assign_key('$table', " . number(14) . ', ' . int(rand 3) . ')');
			is(DBScale::errors_but($err, '40P01'), '', "a key of $table is assigned");
			$counted->is_verified('verified under load') if rand() < 0.5;
			$moves++;
		}
		finish($_, 'writers while shards move') foreach @running;
	}
	note("$moves moves");
	is_clean('after moves under load');
	is_carried('after moves under load');
}

# 2. counter_value is exact at every moment, while shards of both sides move.
{
	$db->sql('INSERT INTO far_posts (id) VALUES (3) ON CONFLICT DO NOTHING');
	my $reader = $db->start(join '', map { my $l = 900_000_000 + $_; "INSERT INTO far_likes VALUES ($l, 3, 1), ($l, 4, 1);\n"
		  . "SELECT dbscale.counter_value('far_posts_n', 3) <> (SELECT count(*) FROM far_likes WHERE post = 3)::text;\n" } 1 .. 150);
	foreach (1 .. 2)
	{
		is(($db->try(move($_, int rand 3)))[2], '', "a shard of $_ moves") foreach qw(far_posts far_likes);
	}
	my (undef, $out, $err) = $db->finish($reader);
	is($err, '', 'no errors of a reader');
	is($out =~ tr/t//, 0, 'counter_value was exact');
	is($out =~ tr/f//, 150, 'each time');
	is_clean('after reading');
}

# 3. The worker of the move is killed, and with it the coordinator, at every step of the switch; the
# maintenance worker carries, so that it may stand anywhere.
my $n = 0;
foreach my $case ([ move_caught_up => 'far_likes' ], [ move_switched => 'far_posts' ], map { my $point = $_; ([ $point, any(qw(far_posts far_likes)) ], [ $point, any(@movable) ]) }
	qw(move_source_locked move_finished move_before_switch))
{
	my ($point, $table) = @$case;
	my $p = placement_of($table);
	my $shard = int rand 3;
	my $target = elsewhere($table, $shard);
	$db->set('dbscale.counter_fold_interval', $n++ % 2 ? '10ms' : '0');
	finish(load($p, 10), "$table, $point, before");
	write_some($p);
	$db->killed_at($point, move($table, $shard, $target));
	my $writer = load($p, 10);
	$db->wait_for_jobs("$table, $point");
	finish($writer, "$table, $point, after");
	is(place($table, $shard), $target, "$table, $point: the shard arrives in the end");
	is_clean("$table, $point");
}
is_carried('after kills');

# 4. A node dies at such a step, and the maintenance worker carries as soon as it is back: the locks of the
# move's session there are gone.
$db->set('dbscale.counter_fold_interval', '10ms');
foreach my $case (map { my $point = $_; map { [ $point, $_ ] } qw(source target) } qw(move_source_locked move_finished move_before_switch))
{
	my ($point, $who) = @$case;
	my $table = any(qw(far_posts far_likes));
	my $shard = int rand 3;
	my $source = place($table, $shard);
	my $target = elsewhere($table, $shard);
	my $victim = $db->node_of($who eq 'source' ? $source : $target);
	$db->held_at($point, move($table, $shard, $target), sub {
		write_some($table eq 'far_posts' ? 'far' : 'from');
		$db->kill_all($victim);
		$db->revive($victim);
		usleep 300_000; });
	$db->wait_for_jobs("$table, $point");
	finish(load('far', 10), "$table, $point, $who dies");
	is_clean("$table, $point, $who dies");
}
is_carried('after nodes died');

# 5. A carrier is held by its locks: a move waits for it, or for what is left prepared of it.
$db->set_for_worker('dbscale.counter_fold_interval', '0');
foreach my $table (qw(far_posts far_likes))
{
	foreach my $point (qw(carry_taken carry_applied after_prepare))
	{
		write_some('far');
		my $carrier = $db->start("SET dbscale.debug_point = '$point=wait';\nSELECT dbscale.fold_counter('far_posts_n');\n");
		$db->wait_for_point($point);
		my @movers = map { $db->start(move($table, $_)) } 0 .. 2;
		ok($db->wait_until('a move has begun', sub { $db->sql("SELECT count(*) FROM dbscale.jobs WHERE state = 'running'") > 0 }), "$table, $point: a move has begun");
		usleep 500_000;
		$db->release_all_at($point);
		is(($db->finish($carrier))[2], '', "$table, $point: a carrier");
		is(DBScale::errors_but(($db->finish($_))[2]), '', "$table, $point: a move goes on") foreach @movers;
		is_clean("$table, $point");
	}
}

# 6. method => 'blocking', drain and rebalance; under load.
{
	my @running = map { load($_, 25) } @placements;
	foreach my $table (@movable)
	{
		my (undef, undef, $err) = $db->try(move($table, int rand 3, undef, 'blocking'));
		is(DBScale::errors_but($err, '40P01'), '', "a blocking move of $table");
	}
	finish($_, 'writers and blocking moves') foreach @running;
	is_clean('after blocking moves');
	my $shard = int rand 3;
	foreach my $table (qw(far_posts far_likes))
	{
		write_some('far');
		my $at = place($table, $shard);
		(undef) = $db->try("BEGIN;\n" . move($table, $shard, undef, 'blocking') . ";\nROLLBACK;\n");
		is(place($table, $shard), $at, 'a blocking move that is rolled back');
	}
	foreach my $point (qw(move_blocking_copied after_first_prepare after_commit after_first_commit_prepared))
	{
		my $table = any(qw(far_posts far_likes));
		write_some('far');
		(undef) = $db->try("SET dbscale.debug_point = '$point=kill';\n" . move($table, $shard, undef, 'blocking'));
		$db->kill_all($db->coordinator);
		$db->revive($db->coordinator);
		$counted->is_verified("$point, a blocking move is killed: verified while it may be in doubt");
		is_clean("$point, a blocking move is killed");
	}
	foreach my $point (qw(assign_key_rows_moved after_first_prepare after_commit after_first_commit_prepared))
	{
		my $table = any(qw(far_posts far_likes own_posts));
		my $key = number(14);
		write_some(placement_of($table));
		(undef) = $db->try("SET dbscale.debug_point = '$point=kill';\n"
			  . "SELECT dbscale.assign_key('$table', $key, (dbscale.shard_for('$table', $key) + " . number(2) . ') % 3)');
		$db->kill_all($db->coordinator);
		$db->revive($db->coordinator);
		$counted->is_verified("$point, assign_key is killed: verified while it may be in doubt");
		is_clean("$point, assign_key is killed");
	}
	is_carried('after blocking moves and keys');

	@running = map { load($_, 30) } @placements;
	$db->drain_and_restore('n2', sub { finish($_, 'writers and a drain') foreach @running; }, \&is_clean);
	finish(load($_, 10), 'writers at the end') foreach @placements;
	is_clean('at the end');
	is_carried('at the end');
}

# 7. DDL on the other table while a shard moves.
{
	my $ddl;
	my (undef, undef, $err) = $db->held_at('move_source_locked', move('far_likes', 1), sub {
		$ddl = $db->start('ALTER TABLE far_posts RENAME COLUMN n TO m; ALTER TABLE far_posts RENAME COLUMN m TO n;');
		usleep 300_000; });
	is($err, '', 'a move while there is DDL on the other table');
	is(($db->finish($ddl))[2], '', 'nor has that an error');
	write_some('far');
	is_clean('after DDL on the other table');
	is_carried('after DDL on the other table');
}

$counted->are_acknowledged;
$db->coordinator->stop;
done_testing();
