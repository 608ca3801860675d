# Reads and writes per shard, counted in shared memory: by many backends none is lost, a
# table of counters that is full is cleared of shards that are no more, a restart and a
# crash begin at zero, and a database that is dropped leaves nothing.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = DBScale->new(nodes => 1, new_sessions => 1, settings => "dbscale.max_counted_shards = 8\n");
my $coordinator = $db->coordinator;

sub load { return $db->sql("SELECT count(reads), sum(reads), sum(writes) FROM dbscale.shards WHERE relation = '$_[0]'::regclass"); }

$db->sql(q(
CREATE TABLE items (id int PRIMARY KEY, v int);
SELECT dbscale.distribute_table('items', 'id', shard_count => 8);
INSERT INTO items SELECT i, 0 FROM generate_series(1, 100) i;
SELECT dbscale.reset_shard_load();
));

# 4 clients, 250 transactions each: two reads and one write
my $script = $coordinator->basedir . '/load.sql';
append_to_file($script, "\\set id random(1, 100)\nSELECT v FROM items WHERE id = :id;\nUPDATE items SET v = v + 1 WHERE id = :id;\nSELECT v FROM items WHERE id = :id;\n");
command_ok([ 'pgbench', '-n', '-M', 'prepared', '-c', '4', '-t', '250', '-f', $script, $coordinator->connstr('postgres') ], 'pgbench');
is(load('items'), '8|2000|1000', 'every statement of every backend is counted, once');

$db->sql('ROLLBACK; BEGIN; SELECT count(*) FROM items; ROLLBACK');
is(load('items'), '8|2008|1000', 'a query over all shards is one read of each; what is rolled back was work too');

# full: 8 slots are taken
$db->sql(q(
CREATE TABLE more (id int PRIMARY KEY);
SELECT dbscale.distribute_table('more', 'id', shard_count => 4);
SELECT count(*) FROM more; SELECT count(*) FROM more;
));
is(load('more'), '0||', 'a shard that finds no room is not counted');
is(load('items'), '8|2008|1000', 'and takes nothing from the others');
is($db->sql("SELECT count(*) FROM dbscale.rebalance_plan('load')"), '0', 'a plan by load takes it for unused');

$db->sql('DROP TABLE items; SELECT count(*) FROM more');
is(load('more'), '4|4|0', 'when a table is dropped, its slots are for others');
$db->sql(q(CREATE TABLE others (id int PRIMARY KEY); SELECT dbscale.distribute_table('others', 'id', shard_count => 4); SELECT count(*) FROM others;));
is(load('others'), '4|4|0', 'all of them');
is(load('more'), '4|4|0', 'and those that were there are still the same');

# another database's counters are its own, and go with it
$db->sql('CREATE DATABASE second');
# (a database clears its own slots only, when it needs some)
$db->sql('DROP TABLE others; SELECT dbscale.reset_shard_load(); SELECT count(*) FROM more');
my $second = sub { return $coordinator->safe_psql('second', $_[0]) };
$second->('SET client_min_messages = error; CREATE EXTENSION dbscale CASCADE');
$second->(q(SELECT dbscale.add_local_node('here')));
$second->(q(CREATE TABLE t (id int PRIMARY KEY); SELECT dbscale.distribute_table('t', 'id', shard_count => 4); SELECT count(*) FROM t;));
is($second->('SELECT count(reads), sum(reads) FROM dbscale.shards'), '4|4', 'a second database counts for itself');
is(load('more'), '4|4|0', 'beside the first');
$second->(q(SELECT dbscale.reset_shard_load(); SELECT count(*) FROM t));
is($second->('SELECT sum(reads) FROM dbscale.shards') . ' ' . load('more'), '4 4|4|0', 'a reset is for its database only');
$second->('DROP TABLE t');
$second->(q(SELECT dbscale.remove_node('here')));
$second->('DROP EXTENSION dbscale');
$second->('SET client_min_messages = error; CREATE EXTENSION dbscale CASCADE');
$db->sql('DROP DATABASE second WITH (FORCE)');
$db->sql(q(CREATE TABLE last (id int PRIMARY KEY); SELECT dbscale.distribute_table('last', 'id', shard_count => 4); SELECT count(*) FROM last;));
is(load('last'), '4|4|0', 'the slots of a dropped database are for others');

$coordinator->restart;
is(load('last'), '4|0|0', 'a restart begins at zero');
$db->sql('SELECT count(*) FROM last');
$db->kill_all($coordinator);
$db->revive($coordinator);
is(load('last'), '4|0|0', 'so does a crash');

$coordinator->append_conf('postgresql.conf', "dbscale.max_counted_shards = 0\n");
$coordinator->restart;
is($db->sql('SELECT count(*) FROM last'), '0', 'without counting everything works');
is(load('last'), '0||', 'and the counters say that they are not');

done_testing();
