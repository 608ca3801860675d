# Everything at once: writers and readers, while several sessions move, split, merge, isolate and
# assign at random, run DDL, drain and rebalance, cancel each other's jobs, and servers are killed.
# Operations may fail, with errors that are known; no write is lost or done twice.
#
# DBSCALE_SECONDS makes it longer, DBSCALE_SEED chooses what happens.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use Ledger;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seconds = $ENV{DBSCALE_SECONDS} // 20;
my $seed = $ENV{DBSCALE_SEED} // 1;
my $ids = 60;
my $db = DBScale->new(nodes => 3, settings => "dbscale.max_moves = 3\n", node_settings => "wal_level = logical\nmax_wal_senders = 20\nmax_replication_slots = 20\n");
my $ledger = Ledger->new(db => $db, ids => $ids, per_id => 10, shards => 4);

diag("seed $seed");
srand $seed;

sub shard { return (split /\n/, $db->sql('SELECT shard FROM dbscale.shard ORDER BY random()'))[0]; }
sub node { return 'n' . (1 + int rand 3); }
sub key { return 1 + int rand $ids; }
# two that are neighbours
sub pair
{
	my $pair = $db->sql('SELECT a.shard, b.shard FROM dbscale.shard a JOIN dbscale.shard b ON b.group_id = a.group_id AND b.hash_from = a.hash_to + 1 ORDER BY random() LIMIT 1');
	return $pair eq '' ? (0, 0) : split /\|/, $pair;
}
my $number = 0;
my @operations = (
	sub { "SELECT dbscale.move_shard('counters', " . shard() . ", '" . node() . "')" },
	sub { "SELECT dbscale.move_shard('items', " . shard() . ", '" . node() . "')" },
	sub { "SELECT dbscale.split_shard('counters', " . shard() . ', ' . (2 + int rand 2) . ')' },
	sub { my ($a, $b) = pair(); "SELECT dbscale.merge_shards('counters', $a, $b)" },
	sub { my ($a, $b) = pair(); "SELECT dbscale.merge_shards('items', $b, $a)" },
	sub { "SELECT dbscale.isolate_key('counters', " . key() . ", '" . node() . "')" },
	sub { "SELECT dbscale.assign_key('counters', " . key() . ', ' . shard() . ')' },
	sub { "SELECT dbscale.rebalance('shards')" },
	sub { my $n = node(); "SELECT dbscale.drain_node('$n'); SELECT pg_sleep(2); SELECT dbscale.enable_node('$n')" },
	sub { $number++; "ALTER TABLE items ADD COLUMN extra$number int DEFAULT $number; ALTER TABLE items DROP COLUMN IF EXISTS extra$number" },
	sub { $number++; "CREATE INDEX extra_index$number ON counters (n); DROP INDEX extra_index$number" },
	sub { "SELECT dbscale.cancel_job(job) FROM dbscale.jobs WHERE state = 'running' LIMIT 1" },
);


# What operations may be told: that there is no such shard any more, that it is busy or is there
# already or was changed meanwhile, that a node is being drained, that somebody cancelled them; nodes that have gone.
my @expected = qw(22023 40001 40P01 42704 55000 55006 57014);
my @expected_of_killed = (@expected, qw(08000 08001 08003 08006 55P03 57P01 57P02 57P03));

sub operators { return map { $db->start(join ";\n", map { $operations[ int rand @operations ]->() } 1 .. 3) } 1 .. 3; }

my ($errors, $errors_of_killed, $client_errors, @wrong) = ('', '', '');
my $end = time() + $seconds;
my $rounds = 0;
while (time() < $end || $rounds < 3)
{
	my @clients = map { $db->start($_) } $ledger->adder(60), $ledger->inserter(50), $ledger->transferrer(40), $ledger->reader(60);
	$errors .= ($db->finish($_))[2] foreach operators();
	foreach my $session (@clients)
	{
		my (undef, $out, $err) = $db->finish($session);
		push @wrong, $ledger->acknowledge($out);
		$client_errors .= $err;
	}

	# without writers, who would not know what was done
	my @operators = operators();
	my $victim = ($db->servers)[ int rand 4 ];
	usleep int rand 2_000_000;
	$db->kill_all($victim);
	usleep int rand 500_000;
	$db->revive($victim);
	$errors_of_killed .= ($db->finish($_))[2] foreach @operators;
	$db->sql("SELECT dbscale.enable_node(node) FROM dbscale.nodes");
	$rounds++;
}
note("$rounds rounds; shards: " . $db->sql("SELECT string_agg(shard || ' on ' || node, ', ' ORDER BY hash_from) FROM dbscale.shard"));
is(DBScale::errors_but($client_errors, '40P01'), '', 'no client got an error');
is("@wrong", '', 'no reader saw a row twice, or not at all');
is(DBScale::errors_but($errors, @expected), '', 'operations fail for a reason');
is(DBScale::errors_but($errors_of_killed, @expected_of_killed), '', 'also where a server was killed');
$db->wait_for_jobs('the end');
is($db->sql("SELECT count(*) FROM dbscale.jobs WHERE state = 'failed' AND error ~ 'corrupt|internal|is not on node'"), '0', 'no job failed for another');
$ledger->is_clean("after $rounds rounds");
done_testing();
