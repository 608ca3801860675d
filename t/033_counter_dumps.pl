# A database with counters, dumped and restored: they are kept there as well, what was
# pending is still pending, and in either order of schema and data.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = DBScale->new(nodes => 1, settings => "dbscale.counter_fold_interval = 0\n");
my $server = $db->coordinator;
my $directory = PostgreSQL::Test::Utils::tempdir();

$db->sql(q(
CREATE ROLE teller;
CREATE SCHEMA "My shop";
CREATE TABLE users (id int PRIMARY KEY, name text, follower_count int, following_count int);
CREATE TABLE follows (follower int, followee int, PRIMARY KEY (follower, followee));
CREATE TABLE "My shop"."the products" (sku text, maker int, ratings int NOT NULL DEFAULT 0, stars numeric(20,2), best int, seen bigint NOT NULL DEFAULT 0, weight numeric, PRIMARY KEY (sku, maker));
CREATE TABLE "My shop".ratings (product text, maker int, by_whom int, stars int, weight numeric(8,2), hidden boolean NOT NULL DEFAULT false,
    FOREIGN KEY (product, maker) REFERENCES "My shop"."the products" ON DELETE CASCADE);
CREATE TABLE views (sku text, maker int);
ALTER TABLE follows OWNER TO teller;
ALTER TABLE users OWNER TO teller;
INSERT INTO users SELECT i, 'u' || i FROM generate_series(1, 20) i;
INSERT INTO "My shop"."the products" (sku, maker) SELECT 'p' || i, i % 3 FROM generate_series(1, 10) i;
SELECT dbscale.create_counter('users', 'follower_count', 'follows', '{id}', '{followee}');
SELECT dbscale.create_counter('users', 'following_count', 'follows', '{id}', '{follower}', mode => 'buffered');
SELECT dbscale.create_counter('"My shop"."the products"', 'ratings', '"My shop".ratings', '{sku,maker}', '{product,maker}', filter => 'NOT hidden');
SELECT dbscale.create_counter('"My shop"."the products"', 'stars', '"My shop".ratings', '{sku,maker}', '{product,maker}', 'sum', 'stars', mode => 'buffered');
SELECT dbscale.create_counter('"My shop"."the products"', 'best', '"My shop".ratings', '{sku,maker}', '{product,maker}', 'max', 'stars');
SELECT dbscale.create_counter('"My shop"."the products"', 'weight', '"My shop".ratings', '{sku,maker}', '{product,maker}', 'sum', 'weight');
SELECT dbscale.create_counter('"My shop"."the products"', 'seen', 'views', '{maker,sku}', '{maker,sku}', mode => 'buffered');
INSERT INTO follows SELECT i, j FROM generate_series(1, 20) i, generate_series(1, 20) j WHERE (i * j) % 7 = 3;
INSERT INTO "My shop".ratings SELECT 'p' || i, i % 3, j, (i + j) % 5 + 1, j / 4.0, j % 6 = 0 FROM generate_series(1, 10) i, generate_series(1, 12) j;
INSERT INTO views SELECT 'p' || i % 12, i % 3 FROM generate_series(1, 200) i;
ALTER TABLE follows RENAME TO "follows!";
ALTER TABLE "My shop"."the products" RENAME COLUMN seen TO looked_at;
SELECT sum(dbscale.fold_counter(counter)) FROM dbscale.counter;
-- these are pending
DELETE FROM "follows!" WHERE follower < 4;
INSERT INTO "My shop".ratings SELECT 'p' || i, i % 3, 50, 5, 1 FROM generate_series(1, 10) i;
));

my $verify = 'SELECT c.counter, v.* FROM dbscale.counter c, LATERAL dbscale.verify_counter(c.counter) v ORDER BY 1, 2';
my $values = q(SELECT id, follower_count, dbscale.counter_value('users_following_count', id) FROM users UNION ALL
SELECT ratings, best, dbscale.counter_value('the products_stars', sku, maker) || '/' || weight || '/' || dbscale.counter_value('the products_seen', maker, sku) FROM "My shop"."the products" ORDER BY 1, 2, 3);
my $catalog = q(SELECT counter, target, target_column, source, target_key, source_key, aggregate, value_column, filter, mode, fingerprint FROM dbscale.counter ORDER BY 1);
my $owners = q(SELECT relname, relowner::regrole FROM pg_class WHERE relnamespace = 'dbscale_shards'::regnamespace UNION ALL
SELECT proname, proowner::regrole FROM pg_proc WHERE pronamespace = 'dbscale_shards'::regnamespace ORDER BY 1);
my $writes = q(
INSERT INTO "follows!" VALUES (19, 1), (1, 19), (2, 2) ON CONFLICT DO NOTHING;
DELETE FROM "follows!" WHERE followee % 5 = 2;
UPDATE "My shop".ratings SET hidden = NOT hidden, stars = 6 - stars WHERE by_whom % 3 = 1;
DELETE FROM "My shop".ratings WHERE stars = 5;
INSERT INTO "My shop"."the products" (sku, maker) VALUES ('p11', 2), ('p0', 0);
DELETE FROM "My shop"."the products" WHERE sku = 'p4';
INSERT INTO views SELECT 'p4', 1 FROM generate_series(1, 5);
INSERT INTO "My shop"."the products" (sku, maker) VALUES ('p4', 1);
);
is($db->sql($verify), '', 'the counters are right before');
isnt($db->sql('SELECT sum(pending) FROM dbscale.counters'), '0', 'with something pending');
my %before = map { $_ => $db->sql($_) } $values, $catalog, $owners;

my $dumps = 0;
sub restored
{
	my ($what, @commands) = @_;
	my $name = 'restored' . ++$dumps;
	my $sql = sub { return $server->safe_psql($name, $_[0]); };

	$server->safe_psql('postgres', "CREATE DATABASE $name");
	foreach my $command (@commands)
	{
		$server->command_ok([ map { s/DATABASE/$name/r } @$command ], "$what: $command->[0]");
	}
	is($sql->($_), $before{$_}, "$what: the same as before") foreach $catalog, $owners, $values;
	is($sql->($verify), '', "$what: no counter is wrong");
	$sql->($writes);
	is($sql->($verify), '', "$what: nor after writes");
	$sql->('SELECT sum(dbscale.fold_counter(counter)) FROM dbscale.counter');
	is($sql->("SELECT sum(pending) FROM dbscale.counters"), '0', "$what: folded");
	is($sql->($verify), '', "$what: nor when folded");
	like(($server->psql($name, 'UPDATE users SET follower_count = 5 WHERE id = 1'))[2], qr/only be written by its counter/, "$what: the column is guarded");
	$sql->('ALTER TABLE "follows!" RENAME COLUMN followee TO whom; DELETE FROM "follows!" WHERE whom < 5');
	is($sql->($verify), '', "$what: nor after DDL");
	$sql->('SELECT dbscale.drop_counter(counter) FROM dbscale.counter');
	is($sql->($owners), '', "$what: and they go without a trace");
	$sql->(q(SELECT dbscale.create_counter('users', 'follower_count', '"follows!"', '{id}', '{whom}')));
	foreach (1 .. 5)	# the worker reads the catalog in an order of its own
	{
		last if ($server->psql($name, 'SET client_min_messages = warning; DROP EXTENSION dbscale CASCADE'))[2] !~ /deadlock detected/;
	}
	is($sql->(q(SELECT tgname FROM pg_trigger WHERE tgname ~ 'counter' UNION ALL SELECT extname FROM pg_extension WHERE extname = 'dbscale')), '',
		"$what: so does the extension with one");
	$server->safe_psql('postgres', "DROP DATABASE $name WITH (FORCE)");
	return;
}

restored('plain', [ 'pg_dump', '-f', "$directory/plain", 'postgres' ],
	[ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$directory/plain", 'DATABASE' ]);
restored('custom, in one transaction', [ 'pg_dump', '-Fc', '-f', "$directory/custom", 'postgres' ],
	[ 'pg_restore', '-e', '-1', '-d', 'DATABASE', "$directory/custom" ]);
restored('inserts', [ 'pg_dump', '--inserts', '-f', "$directory/inserts", 'postgres' ],
	[ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$directory/inserts", 'DATABASE' ]);
restored('directory, by two at a time', [ 'pg_dump', '-Fd', '-j', '2', '-f', "$directory/dir", 'postgres' ],
	[ 'pg_restore', '-e', '-j', '2', '-d', 'DATABASE', "$directory/dir" ]);
restored('by sections', [ 'pg_dump', '--section=pre-data', '-f', "$directory/pre", 'postgres' ], [ 'pg_dump', '--section=data', '-f', "$directory/data", 'postgres' ],
	[ 'pg_dump', '--section=post-data', '-f', "$directory/post", 'postgres' ],
	map { [ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$directory/$_", 'DATABASE' ] } qw(pre data post));

is($db->sql($values), $before{$values}, 'the dumped database is as it was');

# Distributed tables stay on their nodes, and with them what keeps their counters; the restored
# coordinator takes the place of the other.
$db->sql(q(
CREATE TABLE posts (id int PRIMARY KEY, n int, b int);
CREATE TABLE likes (post int, liker int);
SELECT dbscale.distribute_table('posts', 'id', shard_count => 3);
SELECT dbscale.distribute_table('likes', 'post', colocate_with => 'posts');
ALTER TABLE likes ADD FOREIGN KEY (post) REFERENCES posts ON DELETE CASCADE;
INSERT INTO posts SELECT generate_series(1, 10);
SELECT dbscale.create_counter('posts', 'n', 'likes', '{id}', '{post}');
SELECT dbscale.create_counter('posts', 'b', 'likes', '{id}', '{post}', mode => 'buffered');
INSERT INTO likes SELECT i % 10 + 1, i FROM generate_series(1, 50) i;
-- apart: both distributed, the source by another column; and the target here
CREATE TABLE fans (liker int, post int);
CREATE TABLE topics (id int PRIMARY KEY, n int);
SELECT dbscale.distribute_table('fans', 'liker', shard_count => 2);
ALTER TABLE posts ADD COLUMN f int;
INSERT INTO topics SELECT generate_series(1, 10);
SELECT dbscale.create_counter('posts', 'f', 'fans', '{id}', '{post}', mode => 'buffered');
SELECT dbscale.create_counter('topics', 'n', 'fans', '{id}', '{post}', mode => 'buffered');
INSERT INTO fans SELECT i, i % 12 + 1 FROM generate_series(1, 60) i;
SELECT sum(dbscale.fold_counter(counter)) FROM dbscale.counters WHERE counter IN ('posts_f', 'topics_n');
-- these are pending
DELETE FROM fans WHERE liker < 7;
INSERT INTO fans SELECT i, i % 12 + 1 FROM generate_series(100, 110) i;
));
my $checks = 'SELECT object, problem FROM dbscale.check()';
my $counts = "SELECT id, p.n, dbscale.counter_value('posts_b', id), f, dbscale.counter_value('posts_f', id), t.n, dbscale.counter_value('topics_n', id) FROM posts p JOIN topics t USING (id) ORDER BY id";
my $kept = q(SELECT c.counter, p.* FROM dbscale.counter c, dbscale.counter_parts(c.counter) p WHERE orphan ORDER BY counter, key);
my $rows = $db->sql($counts);
my $orphans = $db->sql($kept);
isnt($orphans, '', 'something is kept of posts that are not there');
isnt($db->sql("SELECT min(pending) FROM dbscale.counters WHERE counter IN ('posts_f', 'topics_n')"), '0', 'and something pending');
is($db->sql($checks), '', 'before the dump nodes and catalog agree');
$server->safe_psql('postgres', 'CREATE DATABASE successor');
$server->command_ok([ 'pg_dump', '-f', "$directory/distributed", 'postgres' ], 'the coordinator is dumped');
$server->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$directory/distributed", 'successor' ], 'and restored');
is($server->safe_psql('successor', $checks), '', 'restored: nodes and catalog agree');
is($server->safe_psql('successor', $counts), $rows, 'restored: the counters are the same');
is($server->safe_psql('successor', $kept), $orphans, 'restored: so is what is kept of posts that are not there');
$server->safe_psql('successor', 'INSERT INTO likes SELECT i % 10 + 1, i FROM generate_series(100, 133) i; DELETE FROM posts WHERE id = 4; DELETE FROM topics WHERE id = 5;
	INSERT INTO fans SELECT i, i % 13 FROM generate_series(200, 240) i; INSERT INTO posts (id) VALUES (11); INSERT INTO topics (id) VALUES (12); UPDATE fans SET post = post + 1 WHERE liker < 20');
is($server->safe_psql('successor', $verify), '', 'restored: no counter is wrong after writes');
$server->safe_psql('successor', 'ALTER TABLE likes DROP CONSTRAINT likes_post_fkey; INSERT INTO likes VALUES (4, 5); INSERT INTO posts VALUES (4)');
is($server->safe_psql('successor', $verify), '', 'restored: nor after DDL');
$server->safe_psql('successor', 'SELECT dbscale.fold_counter(counter) FROM dbscale.counters');
is($server->safe_psql('successor', 'SELECT sum(pending) FROM dbscale.counters'), '0', 'restored: all is carried');
is($server->safe_psql('successor', $verify), '', 'restored: and right then');
is($server->safe_psql('successor', 'SELECT id, f FROM posts EXCEPT SELECT p.id, (SELECT count(*) FROM fans WHERE post = p.id) FROM posts p'), '', 'restored: the rows say the same');
is($server->safe_psql('successor', $checks), '', 'restored: nodes and catalog still agree');
$server->safe_psql('successor', 'SELECT dbscale.drop_counter(counter) FROM dbscale.counter');
is($db->node(1)->safe_psql('postgres', "SELECT count(*) FROM pg_proc WHERE pronamespace = 'dbscale_shards'::regnamespace"), '0', 'restored: counters go without a trace');
$server->stop;
done_testing();
