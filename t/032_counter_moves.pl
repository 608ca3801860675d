# Shards move, and are split and merged, with their counters: whatever is written meanwhile
# and whoever is killed on the way, every counter is what the rows say, and nothing is left
# on the nodes.
#
# DBSCALE_SEED repeats a run (it is printed), DBSCALE_SECONDS makes the load longer.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $seconds = $ENV{DBSCALE_SECONDS} // 3;
seeded(20261127);

my $db = DBScale->new(nodes => 3, settings => "dbscale.debug_point = ''\ndbscale.assign_key_online_rows = 0\ndbscale.counter_fold_interval = 10ms\n"
	  . "dbscale.deadlock_interval = 200ms\ndeadlock_timeout = 50ms\n",
	node_settings => "wal_level = logical\nmax_wal_senders = 10\nmax_replication_slots = 10\ndeadlock_timeout = 50ms\n");

# Two groups: in one the target may come after its source rows, in the other a foreign key forbids it.
foreach my $p (qw(free keyed))
{
	$db->sql(qq(
CREATE TABLE ${p}_posts (id int PRIMARY KEY, title text, n bigint NOT NULL DEFAULT 0, s int, hi int, b bigint NOT NULL DEFAULT 0, bs numeric);
CREATE TABLE ${p}_likes (post int, liker int, w int, PRIMARY KEY (post, liker));
SELECT dbscale.distribute_table('${p}_posts', 'id', shard_count => 3);
SELECT dbscale.distribute_table('${p}_likes', 'post', colocate_with => '${p}_posts');
INSERT INTO ${p}_posts (id) SELECT i FROM generate_series(1, 12) i;
INSERT INTO ${p}_likes SELECT i, j, j FROM generate_series(1, 12) i, generate_series(1, 10) j;
));
	$db->sql('ALTER TABLE keyed_likes ADD FOREIGN KEY (post) REFERENCES keyed_posts ON DELETE CASCADE') if $p eq 'keyed';
	$db->sql("SELECT dbscale.create_counter('${p}_posts', 'n', '${p}_likes', '{id}', '{post}');
SELECT dbscale.create_counter('${p}_posts', 's', '${p}_likes', '{id}', '{post}', 'sum', 'w', 'w > 2');
SELECT dbscale.create_counter('${p}_posts', 'hi', '${p}_likes', '{id}', '{post}', 'max', 'w');
SELECT dbscale.create_counter('${p}_posts', 'b', '${p}_likes', '{id}', '{post}', mode => 'buffered');
SELECT dbscale.create_counter('${p}_posts', 'bs', '${p}_likes', '{id}', '{post}', 'sum', 'w', mode => 'buffered');");
}

# Errors that such a load may meet without moves.
my @expected = qw(40P01 23505 23503 25P02 3B001);

sub statement
{
	my ($p) = @_;
	my ($likes, $posts, $key) = ("${p}_likes", "${p}_posts", number(14));

	return any(
		"INSERT INTO $likes VALUES ($key, " . number(60) . ', ' . number(30) . ') ON CONFLICT DO NOTHING',
		"INSERT INTO $likes VALUES ($key, " . number(60) . ', ' . number(30) . ') ON CONFLICT (post, liker) DO UPDATE SET w = excluded.w',
		"INSERT INTO $likes SELECT i, " . (100 + number(100000)) . ', i FROM generate_series(1, 12) i ON CONFLICT DO NOTHING',
		"DELETE FROM $likes WHERE post = $key AND liker = " . number(60),
		"DELETE FROM $likes WHERE liker % 11 = " . int rand 11,
		"UPDATE $likes SET w = " . number(40) . " WHERE post = $key AND liker % 3 = 1",
		"UPDATE $likes SET post = " . number(14) . " WHERE post = $key AND liker = " . number(60),
		"UPDATE $posts SET title = 'x' WHERE id = $key",
		"INSERT INTO $posts (id, n) VALUES ($key, 5) ON CONFLICT DO NOTHING",
		rand() < 0.3 ? "DELETE FROM $posts WHERE id = $key" : 'SELECT',
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
sub script { my ($p, $count) = @_; return join '', map { transaction($p) } 1 .. $count; }

# What came from a session: nothing but what is expected.
sub finish
{
	my ($session, $what) = @_;
	my (undef, undef, $err) = $db->finish($session);
	is(DBScale::errors_but($err, @expected), '', "$what: no other errors");
	return;
}

sub is_clean
{
	my ($what) = @_;
	$db->is_consistent($what);
	is($db->sql('SELECT c.counter, v.* FROM dbscale.counter c, LATERAL dbscale.verify_counter(c.counter) v LIMIT 5'), '', "$what: no counter is wrong");
	is($db->sql(join ' UNION ALL ', map { qq(
	    SELECT p.id FROM ${_}_posts p LEFT JOIN (SELECT post, count(*) AS n, sum(w) FILTER (WHERE w > 2) AS s, max(w) AS hi FROM ${_}_likes GROUP BY post) l
	    ON l.post = p.id WHERE (p.n, p.s) IS DISTINCT FROM (coalesce(l.n, 0), coalesce(l.s, 0)) OR p.hi IS DISTINCT FROM l.hi) } qw(free keyed)),
		'', "$what: the rows say the same");
	return;
}
# Folding may be turned off.
sub is_folded
{
	my ($what) = @_;
	$db->wait_until('all is folded', sub {
		$db->sql("SELECT sum(dbscale.fold_counter(counter)) FROM dbscale.counter");
		$db->sql('SELECT sum(pending) FROM dbscale.counters') == 0 }, 30);
	is($db->sql(join ' UNION ALL ', map { qq(
	    SELECT p.id FROM ${_}_posts p LEFT JOIN (SELECT post, count(*) AS n, sum(w) AS s FROM ${_}_likes GROUP BY post) l
	    ON l.post = p.id WHERE (p.b, p.bs) IS DISTINCT FROM (coalesce(l.n, 0), coalesce(l.s, 0))) } qw(free keyed)),
		'', "$what: buffered ones too, once folded");
	return;
}

sub place { my ($p, $shard) = @_; return $db->place("${p}_posts", $shard); }
sub elsewhere { my ($p, $shard) = @_; return $db->elsewhere("${p}_posts", $shard); }
sub key_of { my ($p, $shard) = @_; return $db->key_in("${p}_posts", $shard); }
sub move { my ($p, $shard, $to) = @_; return $db->move_sql("${p}_posts", $shard, $to); }

# Shards are split and merged; those beyond the first three come and go.
sub shards { my ($p) = @_; return $db->sql("SELECT string_agg(shard || ':' || hash_from, ' ' ORDER BY hash_from) FROM dbscale.shard JOIN dbscale.distributed_table USING (group_id) WHERE relation = '${p}_posts'::regclass"); }
sub split_sql { my ($p, $shard) = @_; return rand() < 0.5 ? "SELECT dbscale.split_shard('${p}_posts', $shard, " . (1 + number(2)) . ')' : "SELECT dbscale.isolate_key('${p}_posts', " . key_of($p, $shard) . ')'; }
sub merge_sql
{
	my ($p) = @_;
	return $db->sql("SELECT format('SELECT dbscale.merge_shards(''${p}_posts'', %s, %s)', a.shard, b.shard) FROM dbscale.shard a JOIN dbscale.shard b USING (group_id) JOIN dbscale.distributed_table USING (group_id)"
		  . " WHERE relation = '${p}_posts'::regclass AND a.shard > 2 AND (a.hash_from = b.hash_to + 1 OR b.hash_from = a.hash_to + 1) ORDER BY a.node <> b.node, a.shard DESC, b.shard LIMIT 1");
}
sub merge_all
{
	my ($p) = @_;
	while (my $sql = merge_sql($p)) { is(($db->try($sql))[2], '', 'shards are merged'); }
	return;
}

is_clean('at the beginning');

# 1. Writers while shards go round, with the worker that folds at it all the time.
{
	my $end = time() + $seconds;
	my $moves = 0;
	while (time() < $end || $moves < 6)
	{
		my @running = map { $db->start(script($_, 60)) } qw(free keyed free keyed);
		foreach my $p (qw(free keyed))
		{
			is(($db->try(move($p, int rand 3)))[2], '', 'a shard moves');
			$moves++;
		}
		finish($_, 'writers while shards move') foreach @running;
	}
	note("$moves moves");
	is_clean('after moves under load');
	is_folded('after moves under load');
}

# 1b. The same while they are split and merged.
foreach my $round (1 .. 2)
{
	my @running = map { $db->start(script($_, 60)) } qw(free keyed free keyed);
	foreach my $p (qw(free keyed))
	{
		is(($db->try(split_sql($p, int rand 3)))[2], '', 'a shard is split');
		is(($db->try(move($p, 3, elsewhere($p, 3))))[2], '', 'a part moves') if $round == 2;
		is(($db->try("SELECT dbscale.assign_key('${p}_posts', " . number(12) . ', ' . int(rand 3) . ')'))[2], '', 'a key is assigned');
		merge_all($p);
	}
	finish($_, 'writers while shards are split and merged') foreach @running;
	is_clean("after splits and merges under load, round $round");
}
is_folded('after splits and merges under load');

# From here on there is always something pending.
$db->set_for_worker('dbscale.counter_fold_interval', '0');

# 2. The worker of the move is killed, and with it the coordinator, at every recorded step.
my $p = 'keyed';
foreach my $point (qw(move_caught_up move_source_locked move_folded move_finished move_before_switch move_switched))
{
	$p = $p eq 'keyed' ? 'free' : 'keyed';
	my $shard = int rand 3;
	my $target = elsewhere($p, $shard);
	finish($db->start(script($p, 15) . "INSERT INTO ${p}_posts (id) VALUES (" . key_of($p, $shard) . ") ON CONFLICT DO NOTHING;\n"
		  . "INSERT INTO ${p}_likes VALUES (" . key_of($p, $shard) . ', ' . (1000000 + number(1000000)) . ", 5);\n"), $point);
	$db->killed_at($point, move($p, $shard, $target));
	my $writer = $db->start(script($p, 15));
	$db->wait_for_jobs("$point");
	finish($writer, $point);
	is(place($p, $shard), $target, "$point: the shard arrives in the end");
	is_clean($point);
}
foreach my $case ([ move_caught_up => 'split' ], [ move_folded => 'merge' ], [ move_before_switch => 'split' ], [ move_before_switch => 'merge' ], [ move_switched => 'split' ])
{
	my ($point, $kind) = @$case;
	my $what = "$point, $kind";
	$p = $p eq 'keyed' ? 'free' : 'keyed';
	$db->sql(split_sql($p, 1)) if $kind eq 'merge';
	my $key = key_of($p, 1);
	finish($db->start(script($p, 15) . "INSERT INTO ${p}_posts (id) VALUES ($key) ON CONFLICT DO NOTHING;\n"
		  . "INSERT INTO ${p}_likes VALUES ($key, " . (1000000 + number(1000000)) . ", 5);\n"), $what);
	my $before = shards($p);
	$db->killed_at($point, $kind eq 'split' ? split_sql($p, 1) : merge_sql($p));
	my $writer = $db->start(script($p, 15));
	$db->wait_for_jobs($what);
	finish($writer, $what);
	isnt(shards($p), $before, "$what: it is carried out in the end");
	is_clean($what);
	merge_all($p);
}
is_folded('after kills');

# 3. A node dies at such a step.
foreach my $case (map { my $point = $_; map { [ $point, $_ ] } qw(source target) } qw(move_folded move_finished move_before_switch))
{
	my ($point, $who) = @$case;
	my $shard = int rand 3;
	my $source = place('free', $shard);
	my $target = elsewhere('free', $shard);
	$db->sql("INSERT INTO free_likes SELECT i, " . (2000000 + number(1000000)) . ', 3 FROM generate_series(1, 12) i');
	$db->dies_at($point, move('free', $shard, $target), $db->node_of($who eq 'source' ? $source : $target));
	finish($db->start(script('free', 15)), "$point, $who dies");
	is_clean("$point, $who dies");
}

# 4. Cancelled at such a step: counters go on where they were.
foreach my $point (qw(move_folded move_finished))
{
	my $source = place('keyed', 0);
	$db->sql("INSERT INTO keyed_likes SELECT id, " . (3000000 + number(1000000)) . ', 3 FROM keyed_posts');
	$db->cancelled_at($point, move('keyed', 0));
	is(place('keyed', 0), $source, "$point: the shard is where it was");
	finish($db->start(script('keyed', 15)), "cancelled at $point");
	is_clean("cancelled at $point");
}
is_folded('after nodes died and moves were cancelled');

# 5. The switch itself does not get its lock, after the triggers were made: they are taken back, and
# what is written until the next try is counted once.
{
	my $target = elsewhere('keyed', 1);
	my $key = key_of('keyed', 1);
	my $locker;
	my @writers;
	$db->sql("INSERT INTO keyed_posts (id) VALUES ($key) ON CONFLICT DO NOTHING");
	my (undef, undef, $err) = $db->held_at('move_verified', move('keyed', 1, $target), sub {
		$locker = $db->start_held('BEGIN; SELECT FROM dbscale.shard WHERE shard = 1 FOR UPDATE', "SELECT pg_sleep(2.5);\nCOMMIT");
		$db->release_point('move_verified');
		$db->wait_until('the move waits', sub { $db->sql("SELECT count(*) FROM dbscale.jobs WHERE step LIKE '%waiting for transactions that write%'") });
		push @writers, $db->start(join '', map { "INSERT INTO keyed_likes VALUES ($key, " . (4000000 + $_) . ", $_);\nSELECT pg_sleep(0.01);\n" } 1 .. 50);
		$db->go_on($locker);
	});
	is($err, '', 'a move whose switch has to be tried again');
	finish($_, 'writers between two tries') foreach @writers, $locker;
	is(place('keyed', 1), $target, 'it arrives');
	is_clean('after a switch that was tried again');
	is_folded('after a switch that was tried again');
}

# 6. Deltas that are committed here and still prepared on the node, a fold that is prepared, and
# rows that come between the fold and the lock after it.
{
	my $key = key_of('free', 0);
	$db->sql("INSERT INTO free_posts (id) VALUES ($key) ON CONFLICT DO NOTHING");
	my $late = sub {
		my ($what, $sql) = @_;
		my $node = $db->node_of(place('free', 0));
		$node->safe_psql('postgres', "BEGIN; $sql; PREPARE TRANSACTION 'late'");
		my $later = $db->start("SELECT pg_sleep(1.5);\nCOMMIT PREPARED 'late';\n", server => $node);
		is(($db->try(move('free', 0)))[2], '', "$what is waited for");
		finish($later, $what);
		is_clean($what);
	};
	$late->('a prepared transaction', "INSERT INTO dbscale_shards.free_likes_0 VALUES ($key, 5000000, 9)");
	$db->sql("INSERT INTO free_likes VALUES ($key, 5000001, 9)");
	$late->('a prepared fold', 'SELECT dbscale_shards.free_posts_b_fold_0()');

	$db->sql("INSERT INTO free_likes VALUES ($key, 5000002, 9)");
	my $node = $db->node_of(place('free', 0));
	my (undef, undef, $err) = $db->held_at('move_folded', move('free', 0), sub {
		$node->safe_psql('postgres', "INSERT INTO dbscale_shards.free_likes_0 VALUES ($key, 5000003, 9)");
		$db->release_point('move_folded');
		$db->wait_for_point('move_folded'); });
	is($err, '', 'a move while a statement without a client goes on');
	is($db->sql("SELECT count(*) FROM free_likes WHERE post = $key AND liker = 5000003"), '1', 'what it wrote is there');
	is_clean('a row behind the fold');
	is_folded('rows behind the fold');
}

# 7. Counters that come and go while a shard moves: it begins again.
{
	$db->sql('ALTER TABLE free_posts ADD COLUMN late int, ADD COLUMN later int');
	my (undef, undef, $err) = $db->held_at('move_caught_up', move('free', 2), sub {
		$db->sql("SELECT dbscale.create_counter('free_posts', 'late', 'free_likes', '{id}', '{post}', mode => 'buffered')");
		$db->sql("SELECT dbscale.drop_counter('free_posts_bs')");
		$db->sql('INSERT INTO free_likes SELECT id, 6000000, 3 FROM free_posts'); });
	is($err, '', 'a move goes on after counters were made and dropped');
	is($db->sql("SELECT attempts FROM dbscale.job WHERE kind = 'move' ORDER BY job DESC LIMIT 1"), '1', 'at the second attempt');
	$db->sql("SELECT dbscale.create_counter('free_posts', 'bs', 'free_likes', '{id}', '{post}', 'sum', 'w', mode => 'buffered')");
	is_clean('after counters were made and dropped');

	# what is dropped while the old tables wait for a reader goes all the same
	my $reader = $db->start_held('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM dbscale.node', "SELECT * FROM dbscale.verify_counter('free_posts_b')");
	$db->sql(move('free', 2));
	isnt($db->sql("SELECT count(*) FROM dbscale.cleanup WHERE kind = 'function'"), '0', 'the old objects are kept');
	$db->sql("SELECT dbscale.drop_counter('free_posts_late')");
	$db->go_on($reader);
	like(($db->finish($reader))[2], qr/40001/, 'an older snapshot is not led to the new place');
	is_clean('after a counter was dropped with objects to clean up');
}

# 8. method => 'blocking', drain and rebalance.
{
	my $shard = int rand 3;
	my @running = map { $db->start(script($_, 30)) } qw(free keyed);
	foreach my $g (qw(free keyed))
	{
		my (undef, undef, $err) = $db->try("SELECT dbscale.move_shard('${g}_posts', $shard, '" . elsewhere($g, $shard) . "', 'blocking')");
		is(DBScale::errors_but($err, '40P01'), '', 'a blocking move');
	}
	finish($_, 'writers and blocking moves') foreach @running;
	is_clean('after blocking moves');

	@running = map { $db->start(script($_, 60)) } qw(free keyed);
	$db->drain_and_restore('n2', sub { finish($_, 'writers and a drain') foreach @running; }, \&is_clean);
	finish($db->start(script($_, 10)), 'writers at the end') foreach qw(free keyed);
	is_clean('at the end');
	is_folded('at the end');
}

# 9. Much that is pending is folded before its time.
{
	$db->set('dbscale.counter_fold_interval', '1h');
	$db->set_for_worker('dbscale.counter_fold_rows', '40');
	my $key = key_of('free', 1);
	$db->sql("INSERT INTO free_posts (id) VALUES ($key) ON CONFLICT DO NOTHING");
	my $before = $db->sql("SELECT coalesce(last_fold, 'epoch') FROM dbscale.counters WHERE counter = 'free_posts_b'");
	$db->sql(join '', map { "INSERT INTO free_likes VALUES ($key, " . (7000000 + $_) . ", 1);\n" } 1 .. 60);
	$db->wait_until('the worker has folded', sub { $db->sql("SELECT pending < 40 FROM dbscale.counters WHERE counter = 'free_posts_b'") eq 't' }, 30);
	pass('so many rows are folded before the interval is over');
	$db->sql(join '', map { "DELETE FROM free_likes WHERE post = $key AND liker = " . (7000000 + $_) . ";\n" } 1 .. 60);
	$db->set('dbscale.counter_fold_interval', '50ms');
	$db->wait_until('the view says that all nodes were folded', sub {
		$db->sql("SELECT last_fold > '$before' FROM dbscale.counters WHERE counter = 'free_posts_b'") eq 't' }, 30);
	is($db->sql("SELECT last_fold IS NULL FROM dbscale.counters WHERE counter = 'free_posts_n'"), 't', 'there is nothing to fold of others');
	is_folded('after many rows');
}

$db->coordinator->stop;
done_testing();
