# Counters whose tables are not colocated: whatever several sessions write, whoever is
# killed while deltas are carried, every delta is applied once, and what is stored plus
# what is pending is what the rows say.
#
# DBSCALE_SEED repeats a run (it is printed), DBSCALE_STATEMENTS makes it longer.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $length = $ENV{DBSCALE_STATEMENTS} // 50;	# transactions of a session in a round
seeded(20261128);

my $db = DBScale->new(nodes => 2, settings => "dbscale.debug_point = ''\ndbscale.counter_fold_interval = 20ms\n"
	  . "dbscale.deadlock_interval = 200ms\ndeadlock_timeout = 50ms\n", node_settings => "deadlock_timeout = 50ms\n");

my %expected = map { $_ => 1 } qw(40P01 40001 23505 25P02 3B001);
my $verify = 'SELECT c.counter, v.* FROM dbscale.counter c, LATERAL dbscale.verify_counter(c.counter) v ORDER BY 1, 2';

# What stands on the nodes and here, to be the same when all counters are gone.
sub objects
{
	my $sql = q(SELECT relname FROM pg_class WHERE relnamespace = 'dbscale_shards'::regnamespace UNION ALL
	    SELECT proname FROM pg_proc WHERE pronamespace = 'dbscale_shards'::regnamespace UNION ALL
	    SELECT tgrelid::regclass || tgname FROM pg_trigger WHERE NOT tgisinternal AND tgname !~ '^dbscale_(copy|catalog)' ORDER BY 1);
	return join "\n", map { $_->safe_psql('postgres', $sql) } $db->servers;
}

# Both sharded; target here; source here; and a table that counts its own rows.
my @placements = qw(far here from);
foreach my $p (@placements)
{
	$db->sql("CREATE TABLE ${p}_posts (id int PRIMARY KEY, title text, n bigint NOT NULL DEFAULT 0, s numeric);
	CREATE TABLE ${p}_likes (liker int, post int, w numeric(8,2), ok boolean, PRIMARY KEY (liker, post));");
	$db->sql("SELECT dbscale.distribute_table('${p}_posts', 'id', shard_count => 4)") unless $p eq 'here';
	$db->sql("SELECT dbscale.distribute_table('${p}_likes', 'liker', shard_count => 4)") unless $p eq 'from';
	$db->sql("INSERT INTO ${p}_posts (id) SELECT i FROM generate_series(1, 8) i;
	INSERT INTO ${p}_likes SELECT j, i, j, j % 2 = 0 FROM generate_series(1, 8) i, generate_series(1, 10) j;");
}
my $before = objects();
foreach my $p (@placements)
{
	$db->sql("SELECT dbscale.create_counter('${p}_posts', 'n', '${p}_likes', '{id}', '{post}', mode => 'buffered');
	SELECT dbscale.create_counter('${p}_posts', 's', '${p}_likes', '{id}', '{post}', 'sum', 'w', 'ok', mode => 'buffered');");
}

sub row { return '(' . join(', ', number(40), number(10), any('NULL', number(90) / 4), any(qw(true false NULL))) . ')'; }
sub rows { return join(', ', map { row() } 1 .. $_[0]); }

sub statement
{
	my ($p) = @_;
	my ($likes, $posts, $key) = ("${p}_likes", "${p}_posts", number(10));

	return any(
		"INSERT INTO $likes VALUES " . row() . ' ON CONFLICT DO NOTHING',
		"INSERT INTO $likes VALUES " . row(),
		"INSERT INTO $likes VALUES " . rows(15) . ' ON CONFLICT DO NOTHING',
		"INSERT INTO $likes VALUES " . row() . ' ON CONFLICT (liker, post) DO UPDATE SET w = excluded.w, ok = excluded.ok',
		"UPDATE $likes SET post = " . number(10) . ' WHERE liker = ' . number(40) . " AND post = $key",
		"UPDATE $likes SET ok = NOT ok, w = w + 1 WHERE liker = " . number(40),
		"UPDATE $likes SET liker = liker + 100 WHERE liker = " . number(40) . " AND post = $key",
		"DELETE FROM $likes WHERE liker = " . number(40),
		"DELETE FROM $likes WHERE post = $key AND liker % 3 = 1",
		"UPDATE $posts SET title = 'x' WHERE id = $key",
		"INSERT INTO $posts (id, n) VALUES ($key, 5) ON CONFLICT DO NOTHING",
		"DELETE FROM $posts WHERE id = $key",
		"DELETE FROM $posts WHERE id = $key;\nINSERT INTO $posts (id) VALUES ($key)",
		"UPDATE $posts SET id = " . number(10) . " WHERE id = $key",
		rand() < 0.1 ? "TRUNCATE $likes" : 'SELECT',
		rand() < 0.1 ? "TRUNCATE $posts" : 'SELECT') . ";\n";
}

sub transaction
{
	my ($p) = @_;
	my $sql = '';

	return statement($p) if rand() < 0.5;
	for (1 .. number(3))
	{
		$sql .= statement($p);
		$sql .= "SAVEPOINT a;\n" . statement($p) . any("ROLLBACK TO a;\n", "RELEASE a;\n") if rand() < 0.3;
	}
	return "BEGIN;\n$sql" . any('COMMIT', 'COMMIT', 'ROLLBACK') . ";\n";
}

sub pending { my ($p) = @_; return $db->sql("SELECT sum(pending) FROM dbscale.counters WHERE counter LIKE '${p}%'"); }

sub check
{
	my ($p, $what) = @_;

	is($db->sql($verify), '', "$what: verified");
	$db->wait_until("$what: everything is carried", sub { pending($p) == 0 }, 60);
	is($db->sql($verify), '', "$what: verified again");
	is($db->sql("SELECT p.*, l.* FROM ${p}_posts p LEFT JOIN (SELECT post, count(*) AS n, sum(w) FILTER (WHERE ok) AS s FROM ${p}_likes GROUP BY post) l "
			. "ON l.post = p.id WHERE p.n <> coalesce(l.n, 0) OR p.s <> coalesce(l.s, 0)"), '', "$what: the rows say the same");
	return;
}

sub play
{
	my ($p, $what, $meanwhile, %options) = @_;
	my @running = map { $db->start(join('', "SET dbscale.debug_point = '';\n", map { transaction($p) } 1 .. $length)) } 1 .. 3;

	$meanwhile->() if $meanwhile;
	foreach my $session (@running)
	{
		my (undef, undef, $err) = $db->finish($session);
		foreach my $line (grep { /(?:ERROR|FATAL|PANIC):  (\w{5})/ && !$expected{$1} && !$options{faults} } split /\n/, $err)
		{
			fail("$what: $line");
		}
	}
	$db->wait_for_recovery;
	check($p, $what);
	return;
}

# 1. Load; verified and repaired while it goes on.
foreach my $p (@placements)
{
	check($p, "$p, computed");
	play($p, "$p under load", sub {
		foreach (1 .. 5)
		{
			is($db->sql($verify), '', "$p: verified under load");
			# (its locks may meet those of the writers)
			is($db->through_deadlocks("DO \$\$ BEGIN IF dbscale.repair_counter('${p}_posts_n') <> 0 THEN RAISE 'repaired'; END IF; END \$\$"), '', "$p: nothing to repair under load") if $_ == 3;
			usleep(50_000);
		}
	});
}

# 2. counter_value is exact at every moment, with the worker carrying.
foreach my $p (@placements)
{
	$db->sql("INSERT INTO ${p}_posts (id) VALUES (3) ON CONFLICT DO NOTHING");
	my $wrong = 0;
	my $sql = join '', map { my $l = 1000 + $_; "INSERT INTO ${p}_likes VALUES ($l, 3, 1, true), ($l, 4, 1, true);\n"
		  . "SELECT dbscale.counter_value('${p}_posts_n', 3) <> (SELECT count(*) FROM ${p}_likes WHERE post = 3)::text;\n" } 1 .. 60;
	my (undef, $out, $err) = $db->try($sql);
	is($err, '', "$p: no errors");
	is($out =~ tr/t//, 0, "$p: counter_value was exact") or diag($out);
	is($out =~ tr/f//, 60, "$p: each time");
}

# 3. A carrier is killed, and with it its whole server, at each point; or a node is.
my @points = qw(carry_locked carry_taken carry_applied after_first_prepare after_prepare after_commit after_first_commit_prepared);
my $liker = 5000;
sub write_some
{
	my ($p) = @_;
	my $from = $liker += 20;
	# each statement on one node: no two-phase commit of ours stops there
	return $db->try(join '', "SET dbscale.debug_point = '';\n", map { "INSERT INTO ${p}_likes SELECT " . ($from + $_) . ", i, 2, true FROM generate_series(1, 9) i;\n" } 1 .. 10);
}
foreach my $point (@points)
{
	$db->set_point("$point=wait");
	write_some('far');
	$db->wait_for_point($point);
	$db->restart_without_point;
	check('far', "$point, the coordinator killed");
}
foreach my $case (map { my $n = $_; map { [ $_, $n ] } qw(carry_taken carry_applied after_prepare after_commit) } 1, 2)
{
	my ($point, $n) = @$case;
	$db->set_point("$point=wait");
	write_some('far');
	$db->wait_for_point($point);
	$db->set_point('');
	$db->kill_all($db->node($n));
	$db->revive($db->node($n));
	$db->release_all_at($point);
	$db->wait_for_recovery;
	check('far', "$point, node $n killed");
}
foreach my $p (qw(here from))
{
	$db->set_point('after_commit=wait');
	write_some($p);
	$db->wait_for_point('after_commit');
	$db->restart_without_point;
	# what is prepared is waited for
	is($db->sql($verify), '', "$p: verified while something may be in doubt");
	check($p, "$p: the coordinator killed");
}
play('far', 'a node killed under load', sub { usleep(200_000); $db->kill_all($db->node(1)); $db->revive($db->node(1)); }, faults => 1);

# 4. Carriers wait for nobody: a row that somebody has locked stays pending, the others do not.
$db->sql('INSERT INTO far_posts (id) SELECT i FROM generate_series(1, 9) i ON CONFLICT DO NOTHING');
check('far', 'all rows are there');
my $holder = $db->start_held("BEGIN; UPDATE far_posts SET title = 'held' WHERE id = 5", 'COMMIT');
write_some('far');
$db->wait_until('the others are carried', sub { pending('far') == 20 }, 30);
is($db->sql("SELECT dbscale.counter_value('far_posts_n', 5) = (SELECT count(*) FROM far_likes WHERE post = 5)::text"), 't', 'the locked one can be read');
$db->go_on($holder);
$db->finish($holder);
check('far', 'the row is free');
# A row that is being made: what is carried for it waits, and is neither lost nor applied beside it.
my $maker = $db->start_held('BEGIN; INSERT INTO far_posts (id) VALUES (77), (78)', 'COMMIT');
$db->sql('INSERT INTO far_likes SELECT i, 77, 1, true FROM generate_series(9001, 9020) i; INSERT INTO far_likes VALUES (9001, 79, 1, true)');
$db->wait_until('others are carried', sub { my $n = pending('far'); $n > 0 && $n % 2 == 0 && $db->sql("SELECT count(*) FROM dbscale.counter_parts('far_posts_n') WHERE key = '{\"id\": 79}' AND orphan") eq '1' }, 30);
is($db->sql($verify), '', 'verified while a row is being made');
$db->go_on($maker);
$db->finish($maker);
check('far', 'the row is made');
is($db->sql('SELECT n, s FROM far_posts WHERE id = 77'), '20|20.00', 'and has what was pending');

# 5. No trace.
$db->sql('SELECT dbscale.drop_counter(counter) FROM dbscale.counter');
is($db->sql('SELECT count(*) FROM dbscale.check()'), '0', 'catalog and nodes agree');
is(objects(), $before, 'counters leave no trace');
done_testing();
