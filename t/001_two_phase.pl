# A transaction over two nodes and the coordinator, killed at every point of its commit:
# afterwards all three agree, and what the client was told holds.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use PostgreSQL::Test::Utils;
use Test::More;

# The points in their order, and whether the transaction is committed once it is there.
my @points = (
	[ after_log => 0 ],				# the log is written first; it counts with the local commit
	[ before_prepare => 0 ],
	[ after_first_prepare => 0 ],
	[ after_prepare => 0 ],
	[ after_commit => 1 ],
	[ after_first_commit_prepared => 1 ],
);

# No fsync: a killed process takes nothing from the operating system's cache.
my $db = DBScale->new(nodes => 2);
$db->sql(q(
CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
SELECT dbscale.distribute_table('accounts', 'id', shard_count => 8);
INSERT INTO accounts SELECT i, 0 FROM generate_series(1, 100) i;
CREATE TABLE local (balance int);
INSERT INTO local VALUES (0);
));
my @keys = map { $db->key_on('accounts', $_) } 'n1', 'n2';

sub transaction
{
	my ($point) = @_;
	return "SET dbscale.debug_point = '$point=wait';\nBEGIN;\n"
	  . join('', map { "UPDATE accounts SET balance = balance + 1 WHERE id = $_;\n" } @keys)
	  . "UPDATE local SET balance = balance + 1;\nCOMMIT;\n\\echo committed\n";
}

# The three balances, as 'a b c'.
sub balances
{
	return $db->sql("SELECT (SELECT balance FROM accounts WHERE id = $keys[0]) || ' ' || "
		  . "(SELECT balance FROM accounts WHERE id = $keys[1]) || ' ' || (SELECT balance FROM local)");
}

my $expected = 0;
is(balances(), '0 0 0', 'begins');

foreach my $p (@points)
{
	my ($point, $committed) = @$p;
	my $session = $db->start(transaction($point), stop_on_error => 1);

	$db->wait_for_point($point);
	$db->kill_all($db->coordinator);
	my ($rc, $out) = $db->finish($session);
	isnt($rc, 0, "$point, coordinator killed: the client is told nothing");
	unlike($out, qr/committed/, "$point, coordinator killed: nor that it was committed");
	$db->revive($db->coordinator);
	$db->wait_for_recovery;
	$expected += $committed;
	is(balances(), "$expected $expected $expected",
		"$point, coordinator killed: " . ($committed ? 'committed' : 'rolled back') . ' everywhere');
}

# Node 1 prepares and commits first, so between the two it matters which is killed.
foreach my $victim (1, 2)
{
	foreach my $p (@points)
	{
		my ($point, $committed) = @$p;
		next if $victim == 1 && $point !~ /first/;
		my $session = $db->start(transaction($point), stop_on_error => 1);

		$db->wait_for_point($point);
		$db->kill_all($db->node($victim));
		$db->release_point($point);
		my ($rc, $out, $err) = $db->finish($session);
		$db->revive($db->node($victim));
		$db->wait_for_recovery;

		# A node that was prepared before it was killed does not hinder the commit.
		ok($rc == 0 || !$committed, "$point, node $victim killed: a commit that has happened is no error");
		isnt($rc, 0, "$point, node $victim killed: not prepared, so an error") if $point =~ /^(before_prepare|after_log)$/;
		is($rc, 0, "$point, node $victim killed: prepared, so committed") if $point eq "after_prepare";
		is($out =~ /committed/ ? 0 : $rc, $rc, "$point, node $victim killed: the client's answer is clear");
		$expected++ if $rc == 0;
		is(balances(), "$expected $expected $expected",
			"$point, node $victim killed: " . ($rc == 0 ? 'committed' : 'rolled back') . ' everywhere, as the client was told');
	}
}

# A backend alone is killed: the server restarts without it, and the nodes follow.
foreach my $p (@points)
{
	my ($point, $committed) = @$p;

	$db->coordinator->append_conf('postgresql.conf', 'restart_after_crash = on');
	$db->coordinator->reload;
	$db->try(transaction($point) =~ s/=wait/=kill/r);
	$db->wait_until('the coordinator is back', sub { ($db->coordinator->psql('postgres', 'SELECT 1'))[0] == 0 }, 30);
	$db->wait_for_recovery;
	$expected += $committed;
	is(balances(), "$expected $expected $expected",
		"$point, backend killed: " . ($committed ? 'committed' : 'rolled back') . ' everywhere');
}

# An error on the way is an ordinary one, and the session goes on.
foreach my $p (@points)
{
	my ($point, $committed) = @$p;
	next if $committed;
	my ($rc, $out, $err) = $db->try(transaction($point) =~ s/=wait/=error/r . "RESET dbscale.debug_point; ROLLBACK; SELECT 'alive';");

	like($out, qr/alive/, "$point, error: the session goes on");
	like($err, qr/debug point "$point"/, "$point, error: reported");
	is($db->in_doubt, 0, "$point, error: nothing is left prepared");
	is(balances(), "$expected $expected $expected", "$point, error: rolled back everywhere");
}

# A foreign prepared transaction, and one of another coordinator, are left alone.
$db->node(1)->safe_psql('postgres', q(
CREATE TABLE other (x int);
BEGIN; INSERT INTO other VALUES (1); PREPARE TRANSACTION 'somebody else';
BEGIN; INSERT INTO other VALUES (2); PREPARE TRANSACTION 'dbscale_1_2_3_4_5';
));
sleep 1;
is($db->node(1)->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), 2, 'transactions of others are left prepared');
$db->node(1)->safe_psql('postgres', "ROLLBACK PREPARED 'somebody else'");
$db->node(1)->safe_psql('postgres', "ROLLBACK PREPARED 'dbscale_1_2_3_4_5'");

done_testing();
