# Money moved between accounts on different nodes is neither made nor lost: under
# concurrent load with deadlocks, with a node and with the coordinator killed meanwhile.
#
# DBSCALE_SECONDS makes the load longer.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $seconds = $ENV{DBSCALE_SECONDS} // 5;
my $accounts = 40;
my $total = $accounts * 1000;

my $db = DBScale->new(nodes => 2, settings => "dbscale.deadlock_interval = 200ms\n");
$db->sql(qq(
CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
SELECT dbscale.distribute_table('accounts', 'id', shard_count => 8);
INSERT INTO accounts SELECT i, 1000 FROM generate_series(1, $accounts) i;
CREATE TABLE ledger (transfer text PRIMARY KEY, from_id int, to_id int, amount int);
SELECT dbscale.distribute_table('ledger', 'transfer', shard_count => 4);
));

sub total { return $db->sql('SELECT sum(balance) FROM accounts'); }

# 1. Two transactions that wait for each other on two nodes: one gets an error.
my ($a, $b) = map { $db->key_on('accounts', $_) } 'n1', 'n2';
sub crossing
{
	my ($first, $second) = @_;
	return [ "BEGIN; UPDATE accounts SET balance = balance - 1 WHERE id = $first",
		"UPDATE accounts SET balance = balance + 1 WHERE id = $second; COMMIT;\n\\echo committed\n" ];
}
# The results of two sessions that each begin before the other goes on.
sub both
{
	my @sessions = map { $db->start_held(@$_, stop_on_error => 1) } @_;
	$db->go_on($_) foreach @sessions;
	return map { [ $db->finish($_) ] } @sessions;
}
my @results = both(crossing($a, $b), crossing($b, $a));
my @failed = grep { $_->[0] != 0 } @results;
is(scalar @failed, 1, 'one of two deadlocked transactions fails');
like($failed[0][2], qr/ERROR:  40P01: deadlock detected between nodes/, 'with deadlock_detected') if @failed;
like($failed[0][2], qr/waits for process \d+ on node "n1"/, 'and the circle in its detail') if @failed;
is(scalar(grep { $_->[1] =~ /committed/ } @results), 1, 'the other commits');
is(total(), $total, 'the sum is the same');

# 2. One of the two waits on the coordinator.
$db->sql('CREATE TABLE local (id int PRIMARY KEY, n int); INSERT INTO local VALUES (1, 0)');
my ($local, $remote) = ('UPDATE local SET n = n + 1', "UPDATE accounts SET balance = balance WHERE id = $a");
@results = both([ "BEGIN; $local", "$remote; COMMIT" ], [ "BEGIN; $remote", "$local; COMMIT" ]);
is(scalar(grep { $_->[0] != 0 && $_->[2] =~ /40P01/ } @results), 1, 'a deadlock over the coordinator and a node is broken');
is(scalar(grep { $_->[0] == 0 } @results), 1, 'and the other transaction commits');

# 3. A long wait that is no deadlock is left alone.
my @sessions = map { $db->start($_, stop_on_error => 1) }
  ("BEGIN; UPDATE accounts SET balance = balance WHERE id = $a;\nSELECT pg_sleep(2); COMMIT;\n") x 2;
is(scalar(grep { ($db->finish($_))[0] != 0 } @sessions), 0, 'waiting alone is not punished');

# 4. pgbench retries what fails by a deadlock, so every transaction succeeds in the end.
my $script = $db->coordinator->basedir . '/transfer.sql';
append_to_file($script, qq(
\\set a random(1, $accounts)
\\set b random(1, $accounts)
\\set amount random(1, 100)
BEGIN;
UPDATE accounts SET balance = balance - :amount WHERE id = :a;
UPDATE accounts SET balance = balance + :amount WHERE id = :b;
END;
));
my ($out, $err) = ('', '');
IPC::Run::run(['pgbench', '-n', '-c', 8, '-j', 2, '-T', $seconds, '--max-tries=0', '-f', $script,
		$db->coordinator->connstr('postgres')], '<', \'', '>', \$out, '2>', \$err)
  or diag($err);
like($out, qr/number of failed transactions: 0 /, 'pgbench with retries: none failed');
unlike($err, qr/aborted/, 'and no client was aborted');
my ($count) = $out =~ /number of transactions actually processed: (\d+)/;
cmp_ok($count // 0, '>', 10, 'transfers were made');
note($out);
is(total(), $total, 'the sum is the same');

# 5. Servers killed under load.  Every transfer says its number before it commits, so
# that what was acknowledged is known.
sub transfers
{
	my ($run) = @_;
	my $sql = '';
	for my $i (1 .. 20000)
	{
		my ($from, $to, $amount) = (1 + int rand $accounts, 1 + int rand $accounts, 1 + int rand 100);
		$sql .= "BEGIN;\nUPDATE accounts SET balance = balance - $amount WHERE id = $from;\n"
		  . "UPDATE accounts SET balance = balance + $amount WHERE id = $to;\n"
		  . "INSERT INTO ledger VALUES ('$run-$i', $from, $to, $amount);\n"
		  . "\\echo $run-$i\nCOMMIT;\n";
	}
	return $sql;
}

sub load_with
{
	my ($name, $disturb) = @_;
	my $before = $db->sql('SELECT count(*) FROM ledger');
	my @clients = map { $db->start("SET application_name = 'load';\n" . transfers("$name$_"), tags => 1) } 1 .. 4;

	$db->wait_until('transfers are made', sub { $db->sql('SELECT count(*) FROM ledger') > $before + 10 }, 30);
	$disturb->();
	# those whose coordinator is there still run
	$db->sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'load'");
	# COMMIT of a transaction that has failed says ROLLBACK
	my @told = map { my (undef, $said) = $db->finish($_); $said =~ /^($name\d-\d+)\nCOMMIT$/mg } @clients;
	$db->wait_for_recovery;

	my %there = map { $_ => 1 } split /\n/, $db->sql("SELECT transfer FROM ledger WHERE transfer LIKE '$name%'");
	my @lost = grep { !$there{$_} } @told;
	cmp_ok(scalar @told, '>', 10, "$name: transfers were acknowledged");
	is(scalar @lost, 0, "$name: none that was acknowledged is lost") or diag("@lost[0 .. ($#lost < 9 ? $#lost : 9)]");
	is(total(), $total, "$name: the sum is the same");
	return;
}

$db->sql('UPDATE accounts SET balance = 1000');
load_with('node', sub {
	sleep 1;
	$db->kill_all($db->node(2));
	sleep 1;
	$db->revive($db->node(2));
	my $before = $db->sql('SELECT count(*) FROM ledger');
	ok($db->wait_until('transfers go on', sub { $db->sql('SELECT count(*) FROM ledger') > $before + 10 }, 30),
		'node: back again, the same clients go on');
});
load_with('coordinator', sub {
	sleep 1;
	$db->kill_all($db->coordinator);
	$db->revive($db->coordinator);
});

# The books: each balance is what the transfers made of it.
is($db->sql('SELECT count(*) FROM accounts a WHERE balance <> 1000'
	  . ' - (SELECT coalesce(sum(amount), 0) FROM ledger WHERE from_id = a.id)'
	  . ' + (SELECT coalesce(sum(amount), 0) FROM ledger WHERE to_id = a.id)'),
	0, 'every balance is what the transfers in the ledger made of it');

done_testing();
