# dbscale.auto_rebalance: the maintenance worker plans and moves by itself, when a node was
# added or shards have grown, within its window, and not again after it was stopped.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = DBScale->new(
	nodes => 3,
	settings => "dbscale.auto_rebalance_interval = 100ms\n",
	node_settings => "wal_level = logical\nmax_wal_senders = 10\nmax_replication_slots = 10\n");
$db->sql(q(
SELECT dbscale.remove_node('n3');
CREATE TABLE items (id int PRIMARY KEY, body text);
ALTER TABLE items ALTER body SET STORAGE PLAIN;
SELECT dbscale.distribute_table('items', 'id', shard_count => 8);
INSERT INTO items SELECT i, repeat('x', 4000) FROM generate_series(1, 1200) i;
CREATE TABLE before AS SELECT * FROM items;
));

sub set
{
	my ($name, $value) = @_;
	$db->sql("ALTER SYSTEM SET $name = '$value'");
	$db->coordinator->reload;
	return $db->wait_until("$name is $value", sub { $db->sql("SHOW $name") eq $value });
}

# The worker has had three rounds of its tasks, each with time for a look.
my @keys = map { $db->key_on('items', $_) } 'n1', 'n2';
sub let_it_look
{
	for my $round (1 .. 3)
	{
		$db->sql("BEGIN; " . join(' ', map { "UPDATE items SET body = body WHERE id = $_;" } @keys) . " COMMIT");
		$db->wait_for_recovery;
	}
	return;
}

sub rebalances { return $db->sql("SELECT count(*) FROM dbscale.jobs WHERE kind = 'rebalance'"); }
sub shards_on { return $db->sql("SELECT count(*) FROM dbscale.shards WHERE node = '$_[0]'"); }
# It has begun, after so many rebalances, and all is done: no more begins then.
sub is_done
{
	my ($before, $what) = @_;
	$db->wait_until("$what: it has begun, and there is nothing left to do", sub {
		rebalances() > $before
		  && $db->sql("SELECT count(*) FROM dbscale.jobs WHERE finished_at IS NULL") == 0
		  && $db->sql('SELECT count(*) FROM dbscale.rebalance_plan()') == 0 });
	is($db->sql("SELECT string_agg(DISTINCT state, ',') FROM dbscale.jobs WHERE kind IN ('move', 'rebalance') AND started_at > now() - interval '1 hour'"),
		'done', "$what: the jobs and their moves are done");
	is($db->sql('SELECT count(*) FROM (TABLE items EXCEPT TABLE before) d'), 0, "$what: the rows are the same");
	my $after = rebalances();
	let_it_look();
	is(rebalances(), $after, "$what: and then it is quiet");
	return;
}

# The worker would see rows that are not committed yet, and act on half of them.
sub grow
{
	my ($node, $from, $to) = @_;
	set('dbscale.auto_rebalance', 'off');
	$db->sql("INSERT INTO items SELECT i, repeat('y', 4000) FROM generate_series($from, $to) i WHERE dbscale.node_for('items', i) = '$node';
		TRUNCATE before; INSERT INTO before SELECT * FROM items");
	my $before = rebalances();
	set('dbscale.auto_rebalance', 'on');
	return $before;
}

# Off by default, though there is something to do: a node was added.
is($db->sql('SHOW dbscale.auto_rebalance'), 'off', 'off by default');
$db->sql("SET client_min_messages = error; SELECT dbscale.add_node('n3', '" . $db->node(3)->host . "', " . $db->node(3)->port . ", 'postgres')");
cmp_ok($db->sql('SELECT count(*) FROM dbscale.rebalance_plan()'), '>', 0, 'there is a plan');
let_it_look();
is(rebalances(), 0, 'nothing begins while it is off');

# On, but not at this time of the day.
set('dbscale.auto_rebalance_window',
	$db->sql(q(SELECT format('%s-%s', to_char(now() + interval '2 hours', 'HH24:MI'), to_char(now() + interval '4 hours', 'HH24:MI')))));
set('dbscale.auto_rebalance', 'on');
let_it_look();
is(rebalances(), 0, 'nothing begins out of the window');
set('dbscale.auto_rebalance_window',
	$db->sql(q(SELECT format('%s-%s', to_char(now() - interval '2 hours', 'HH24:MI'), to_char(now() + interval '2 hours', 'HH24:MI')))));
is_done(0, 'a node was added');
cmp_ok(shards_on('n3'), '>=', 2, 'the new node has its part');

# Shards of one node grow, by more than the threshold.
is_done(grow('n3', 2001, 6000), 'shards have grown');
$db->wait_until('everything is cleaned up', sub { $db->sql('SELECT count(*) FROM dbscale.cleanup') eq '0' });
is($db->sql('SELECT * FROM dbscale.check()'), '', 'catalog and nodes agree');

# Somebody stops it: it does not begin again, but for an hour later.
set('dbscale.debug_point', 'move_begun=wait');
my $before = grow('n1', 6001, 12000);
$db->wait_for_point('move_begun');
is(rebalances(), $before + 1, 'it begins once more');
my $job = $db->sql("SELECT job FROM dbscale.jobs WHERE kind = 'rebalance' AND state = 'running'");
$db->sql("SELECT dbscale.cancel_job($job)");
set('dbscale.debug_point', '');
$db->release_point('move_begun');
is($db->sql("SELECT dbscale.wait_job($job)"), 'cancelled', 'and is cancelled');
let_it_look();
is(rebalances(), $before + 1, 'which it respects');
cmp_ok($db->sql('SELECT count(*) FROM dbscale.rebalance_plan()'), '>', 0, 'although there is a plan');
$db->sql("UPDATE dbscale.job SET finished_at = finished_at - interval '2 hours', started_at = started_at - interval '2 hours'");
is_done($before + 1, 'an hour later');
done_testing();
