# Counters do not drift: random statements of several sessions, with aborts, savepoints,
# keys that move and servers that are killed, in every mode and placement; after each
# round every counter is what the rows say.
#
# DBSCALE_SEED repeats a run (it is printed), DBSCALE_SECONDS makes it longer; or
# DBSCALE_STATEMENTS says how many statements there are, more or less, in all rounds,
# of which there are DBSCALE_ROUNDS for each placement.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $rounds = $ENV{DBSCALE_ROUNDS} // 1;
my $sessions = 4;
# transactions of a session in a round; they have two statements and a third on average, and 8 placements and 12 rounds more
my $length = $ENV{DBSCALE_STATEMENTS} ? int($ENV{DBSCALE_STATEMENTS} / (8 * $rounds + 12) / $sessions / 2.3) + 1
  : $ENV{DBSCALE_SECONDS} ? $ENV{DBSCALE_SECONDS} * 40 : 90;
seeded(20261126);

my $db = DBScale->new(nodes => 2, settings => "dbscale.deadlock_interval = 200ms\ndeadlock_timeout = 50ms\n",
	node_settings => "deadlock_timeout = 50ms\nwal_level = logical\nmax_wal_senders = 10\nmax_replication_slots = 10\n");

# Errors that such a load may meet; anything else is a failure.
my %expected = map { $_ => 1 } qw(40P01 40001 23505 23503 25P02 21000 3B001);

my %placements = (
	plain => { },
	plain_key => { key => 1 },
	reference => { after => sub { "SELECT dbscale.distribute_reference('$_[0]_posts');" } },
	shards => { sharded => 1 },
	shards_key => { sharded => 1, key => 1 },
	# counters of tables that are not colocated: both distributed, or one of them
	apart => { sharded => 1, apart => 1, movable => [ 'posts', 'likes' ] },
	apart_here => { sharded => 1, apart => 1, movable => ['likes'] },
	apart_from => { sharded => 1, apart => 1, movable => ['posts'] },
);

sub create
{
	my ($p) = @_;
	my $o = $placements{$p};

	$db->sql("CREATE TABLE ${p}_posts (id int PRIMARY KEY, title text, n bigint NOT NULL DEFAULT 0, good int, s numeric(20,2),
	    lo int, hi int, b bigint NOT NULL DEFAULT 0, bs numeric, answers int);
	CREATE TABLE ${p}_likes (post int, liker int, other int, w int, v numeric(8,2), ok boolean, PRIMARY KEY (post, liker));");
	$db->sql("SELECT dbscale.distribute_table('${p}_posts', 'id', shard_count => 4);
	SELECT dbscale.distribute_table('${p}_likes', 'post', colocate_with => '${p}_posts');") if $o->{sharded} && !$o->{apart};
	$db->sql("SELECT dbscale.distribute_table('${p}_$_', '" . ($_ eq 'posts' ? 'id' : 'liker') . "', shard_count => 4)") foreach $o->{apart} ? @{ $o->{movable} } : ();
	$db->sql($o->{after}->($p)) if $o->{after};
	$db->sql("INSERT INTO ${p}_posts (id) SELECT i FROM generate_series(1, 8) i;
	INSERT INTO ${p}_likes SELECT i, j, j % 9, j, j / 4.0, j % 2 = 0 FROM generate_series(1, 8) i, generate_series(1, 10) j;");
	$db->sql("ALTER TABLE ${p}_likes ADD FOREIGN KEY (post) REFERENCES ${p}_posts ON DELETE CASCADE") if $o->{key};
	my $counter = sub {
		my ($column, $rest) = @_;
		$db->sql("SELECT dbscale.create_counter('${p}_posts', '$column', '${p}_likes', '{id}', '{post}'$rest)");
	};
	if ($o->{apart})
	{
		$counter->('n', ", mode => 'buffered', filter => 'ok AND w > 5'");
		$counter->('s', ", 'sum', 'v', mode => 'buffered'");
		$counter->('b', ", mode => 'buffered'");
		$counter->('bs', ", 'sum', 'w', mode => 'buffered'");
		return;
	}
	$counter->('n', '');
	$counter->('good', ", filter => 'ok AND w > 5'");
	$counter->('s', ", 'sum', 'v'");
	$counter->('lo', ", 'min', 'w'");
	$counter->('hi', ", 'max', 'w', filter => 'ok'");
	$counter->('b', ", mode => 'buffered'");
	$counter->('bs', ", 'sum', 'w', mode => 'buffered'");
	# a second way from the same source
	$db->sql("SELECT dbscale.create_counter('${p}_posts', 'answers', '${p}_likes', '{id}', '{other}')") unless $o->{sharded};
}

sub row { return '(' . join(', ', number(10), number(40), number(10), any('NULL', number(30)), any('NULL', number(90) / 4), any(qw(true false NULL))) . ')'; }
sub rows { return join(', ', map { row() } 1 .. $_[0]); }
sub set { return any('w = ' . number(30), 'w = NULL', 'v = ' . number(50), 'ok = NOT ok', 'ok = true', 'other = ' . number(10), 'w = w + 1, v = 2'); }

sub statement
{
	my ($p) = @_;
	my $o = $placements{$p};
	my ($likes, $posts, $key) = ("${p}_likes", "${p}_posts", number(10));
	my @ways = (
		sub { "INSERT INTO $likes VALUES " . row() . ' ON CONFLICT DO NOTHING' },
		sub { "INSERT INTO $likes VALUES " . rows(20) . ' ON CONFLICT DO NOTHING' },
		sub { "INSERT INTO $likes VALUES " . row() },
		sub { "INSERT INTO $likes VALUES " . row() . ' ON CONFLICT (post, liker) DO UPDATE SET w = excluded.w, ok = excluded.ok' },
		sub { "DELETE FROM $likes WHERE post = $key AND liker = " . number(40) },
		sub { "DELETE FROM $likes WHERE post = $key AND liker % 7 = " . number(6) },
		sub { "DELETE FROM $likes WHERE liker % 20 = " . number(20) },
		sub { "UPDATE $likes SET " . set() . " WHERE post = $key AND liker = " . number(40) },
		sub { "UPDATE $likes SET " . set() . " WHERE post = $key AND liker % 3 = 1" },
		sub { "UPDATE $likes SET post = " . number(10) . " WHERE post = $key AND liker = " . number(40) },
		sub { "UPDATE $posts SET title = 'x' WHERE id = $key" },
		sub { "INSERT INTO $posts (id) VALUES ($key) ON CONFLICT DO NOTHING" },
		sub { "INSERT INTO $posts (id, n, hi) VALUES ($key, 5, 5)" },
		sub { "DELETE FROM $posts WHERE id = $key" },
		sub { "DELETE FROM $posts WHERE id = $key;\nINSERT INTO $posts (id) VALUES ($key)" },
		sub { "COPY $likes FROM STDIN (DELIMITER ',');\n$key," . (1000 + int rand 100000) . ",3,7,1.5,true\n$key," . (1000 + int rand 100000) . ",4,9,2,false\n\\.\n" },
	);
	push @ways,
		sub { "UPDATE $posts SET id = " . number(10) . " WHERE id = $key" },
		sub { "UPDATE $likes SET " . set() . ', post = 11 - post WHERE liker % 5 = ' . number(4) },
		sub { "MERGE INTO $likes l USING (VALUES " . row() . ") v(p, l, o, w, v, ok) ON l.post = v.p AND l.liker = v.l\n"
			  . 'WHEN MATCHED AND l.ok THEN DELETE WHEN MATCHED THEN UPDATE SET w = v.w::int WHEN NOT MATCHED THEN INSERT VALUES (v.p, v.l, v.o, v.w::int, v.v::numeric, v.ok::boolean)' },
		sub { "WITH p AS (INSERT INTO $posts (id) VALUES ($key) ON CONFLICT DO NOTHING), l AS (INSERT INTO $likes VALUES "
			  . row() . " ON CONFLICT DO NOTHING) SELECT" },
		sub { "WITH p AS (DELETE FROM $posts WHERE id = $key), l AS (DELETE FROM $likes WHERE post = $key AND liker < 20) SELECT" },
		sub { rand() < 0.1 ? "TRUNCATE $likes" : 'SELECT' }
	  unless $o->{sharded};
	my $sql = any(@ways)->();
	# COPY's data end it; a semicolon behind them would be a statement of its own
	return $sql =~ /^COPY/ ? $sql : "$sql;\n";
}

# One to four statements, committed or not, with savepoints or not.
sub transaction
{
	my ($p) = @_;
	my $sql = '';

	return statement($p) if rand() < 0.5;
	for (1 .. number(4))
	{
		$sql .= statement($p);
		$sql .= "SAVEPOINT a;\n" . statement($p) . any("ROLLBACK TO a;\n", "RELEASE a;\n") if rand() < 0.3;
	}
	return "BEGIN;\n$sql" . any('COMMIT', 'COMMIT', 'ROLLBACK') . ";\n";
}

sub script { my ($p) = @_; return join('', map { transaction($p) } 1 .. $length); }

sub check
{
	my ($p, $what) = @_;

	is($db->sql("SELECT c.counter, v.* FROM dbscale.counter c, LATERAL dbscale.verify_counter(c.counter) v WHERE target = '${p}_posts'::regclass LIMIT 3"), '', "$what: verified");
	is($db->sql("SELECT count(*) FROM ${p}_posts p LEFT JOIN (SELECT post, count(*) AS n, max(w) FILTER (WHERE ok) AS hi FROM ${p}_likes GROUP BY post) l "
			. "ON l.post = p.id WHERE p.n <> coalesce(l.n, 0) OR p.hi IS DISTINCT FROM l.hi"), 0, "$what: the rows say the same")
	  unless $placements{$p}{apart};
	$db->wait_until("$what: everything is folded",
		sub { $db->sql("SELECT sum(pending) FROM dbscale.counters WHERE target = '${p}_posts'::regclass") == 0 }, 20);
	is($db->sql("SELECT count(*) FROM ${p}_posts p LEFT JOIN (SELECT post, count(*) AS n, sum(w) AS s FROM ${p}_likes GROUP BY post) l "
			. "ON l.post = p.id WHERE p.b <> coalesce(l.n, 0) OR p.bs <> coalesce(l.s, 0)"), 0, "$what: buffered ones too, once folded");
}

my $written = 0;
sub play
{
	my ($p, $what, $meanwhile, %options) = @_;
	my @scripts = map { script($p) } 1 .. $sessions;
	$written += () = join('', @scripts) =~ /;$/mg;
	my @running = map { $db->start($_) } @scripts;
	my %states;

	$meanwhile->($p) if $meanwhile;
	foreach my $session (@running)
	{
		my ($rc, $out, $err) = $db->finish($session);
		$states{$1}++ while $err =~ /^(?:ERROR|FATAL):  (\w{5}): .*/mg;
		foreach my $line (grep { /(?:ERROR|FATAL|PANIC):  (\w{5})/ && !$expected{$1} && !$options{faults} } split /\n/, $err)
		{
			fail("$what: $line");
		}
	}
	note "$what: " . join(', ', map { "$_ $states{$_}" } sort keys %states);
	$db->wait_for_recovery;
	check($p, $what);
}

# A shard goes to the other node.
sub move
{
	my ($p) = @_;
	my $table = "${p}_" . any(@{ $placements{$p}{movable} // ['posts'] });
	my $shard = int rand 4;
	my $method = any(qw(online online blocking));

	# a blocking move cannot wait for what an earlier one has left there
	$db->wait_until('old tables are gone', sub { $db->sql("SELECT count(*) FROM dbscale.cleanup WHERE kind <> 'publication'") eq '0' }, 60)
	  if $method eq 'blocking';
	my (undef, undef, $err) = $db->try($db->move_sql($table, $shard, undef, $method));

	# a blocking one takes its locks like any other transaction
	is(DBScale::errors_but($err, '40P01'), '', "a shard moves, $method");
	return;
}

foreach my $p (sort keys %placements)
{
	create($p);
	check($p, "$p, backfilled");
	foreach my $round (1 .. $rounds)
	{
		play($p, "$p, round $round");
		next unless $placements{$p}{sharded};
		move($p);
		check($p, "$p, moved after round $round");
	}
}

# keys go round between shards meanwhile, and shards between nodes
play('shards_key', 'keys move', sub {
	$db->try(join '', map { "SELECT dbscale.assign_key('shards_key_posts', " . number(10) . ', ' . int(rand 4) . ");\nSELECT pg_sleep(0.02);\n" } 1 .. 30); });
play('apart', 'keys of both tables move', sub {
	$db->try(join '', map { "SELECT dbscale.assign_key('apart_" . any('posts', 'likes') . "', " . number(10) . ', ' . int(rand 4) . ");\nSELECT pg_sleep(0.02);\n" } 1 .. 30); });
play($_, "$_ move", sub { my ($p) = @_; move($p) for 1 .. 2; }) foreach qw(shards apart);

# plain tables are distributed, and become plain again, while they are written to
sub together
{
	my ($what, @commands) = @_;
	# it may be the one whom a deadlock costs his transaction
	my $err = $db->through_deadlocks(join('', map { "$_;\n" } 'BEGIN', @commands, 'COMMIT'));
	is(DBScale::errors_but($err), '', $what);
	return;
}
$db->sql("SELECT dbscale.drop_counter('plain_posts_answers')");
$placements{plain}{sharded} = 1;
play('plain', 'distributed', sub {
	together('both tables are distributed', "SELECT dbscale.distribute_table('plain_posts', 'id', shard_count => 4)",
		"SELECT dbscale.distribute_table('plain_likes', 'post', colocate_with => 'plain_posts')");
	move('plain'); });
play('plain', 'undistributed', sub {
	together('both tables are plain again', "SELECT dbscale.undistribute_table('plain_likes')", "SELECT dbscale.undistribute_table('plain_posts')"); });
delete $placements{plain}{sharded};

# servers are killed meanwhile
play('shards', 'a node killed', sub { usleep(400_000); $db->kill_all($db->node(1)); $db->revive($db->node(1)); }, faults => 1);
play('shards_key', 'the coordinator and its worker killed', sub { usleep(400_000); $db->kill_all($db->coordinator); $db->revive($db->coordinator); }, faults => 1);
play('plain', 'the coordinator killed', sub { usleep(300_000); $db->kill_all($db->coordinator); $db->revive($db->coordinator); }, faults => 1);

play('apart', 'a node of tables that are apart killed', sub { usleep(400_000); $db->kill_all($db->node(2)); $db->revive($db->node(2)); }, faults => 1);
play('apart', 'the coordinator and its carrier killed', sub { move('apart'); $db->kill_all($db->coordinator); $db->revive($db->coordinator); }, faults => 1);

note "$written statements";
$db->is_consistent('at the end');
done_testing();
