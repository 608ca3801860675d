# With dbscale.consistent_reads a reader of several nodes sees a transfer between accounts
# on different nodes on both or on neither: under load, in and out of transaction blocks,
# through joins and functions, and while a node has not been told of a commit.
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

my $seconds = $ENV{DBSCALE_SECONDS} // 6;
my $accounts = 40;
my $total = $accounts * 1000;

my $db = DBScale->new(nodes => 2, settings => "dbscale.deadlock_interval = 200ms\n");
$db->sql(qq(
CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
CREATE TABLE owners (id int PRIMARY KEY, name text NOT NULL);
SELECT dbscale.distribute_table('accounts', 'id', shard_count => 8);
SELECT dbscale.distribute_table('owners', 'id', colocate_with => 'accounts');
INSERT INTO accounts SELECT i, 1000 FROM generate_series(1, $accounts) i;
INSERT INTO owners SELECT i, 'owner ' || i FROM generate_series(1, $accounts) i;
CREATE TABLE sums (what text, sum bigint);
CREATE ROLE other;
GRANT SELECT ON accounts TO other;
CREATE VIEW others_view AS SELECT * FROM accounts;
ALTER VIEW others_view OWNER TO other;
SELECT dbscale.grant_node_access('other', 'postgres');
CREATE FUNCTION total() RETURNS bigint LANGUAGE plpgsql AS 'DECLARE s bigint; BEGIN SELECT sum(balance) INTO s FROM accounts; RETURN s; END';
));
my ($a, $b) = map { $db->key_on('accounts', $_) } 'n1', 'n2';

# Readers repeat for as long as the load lasts; each writes one sum a line, but for the rest.
my %readers = (
	# without the setting: may differ, and tells that the load is one that could show it
	'off' => [ 0, 'SELECT sum(balance) FROM accounts;' ],
	'alone' => [ 1, 'SELECT sum(balance) FROM accounts;' ],
	'scans' => [ 1, 'SELECT sum(x) FROM (SELECT balance + length(id::text) * 0 AS x FROM accounts OFFSET 0) s;' ],
	'join' => [ 1, 'SELECT sum(balance) FROM accounts JOIN owners USING (id);' ],
	'join off the key' =>
	  [ 1, 'SELECT sum(a.balance) FROM owners o JOIN accounts a ON a.id = length(o.name) - length(o.name) + o.id;' ],
	'subqueries' =>
	  [ 1, 'SELECT (SELECT sum(balance) FROM accounts WHERE id % 2 = 0) + (SELECT sum(balance) FROM accounts WHERE id % 2 = 1);' ],
	'steps' => [ 1, 'SELECT sum(balance) FROM accounts WHERE balance > (SELECT avg(balance) - 1000000 FROM accounts);' ],
	'block' => [ 1, "BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT balance AS kept FROM accounts WHERE id = $a \\gset\n"
		  . "SELECT sum(balance) FROM accounts;\n"
		  . "SELECT sum(balance) - (SELECT balance FROM accounts WHERE id = $a) + :kept FROM accounts;\n"
		  . "SELECT sum(balance) FROM others_view;\nCOMMIT;" ],
	'serializable' => [ 1, "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;\nSELECT sum(balance) FROM accounts;\nCOMMIT;" ],
	# READ COMMITTED: each statement for itself, which sees what the transaction has written
	'read committed' => [ 1, "BEGIN;\nSELECT sum(balance) FROM accounts;\nSELECT sum(balance) FROM accounts JOIN owners USING (id);\n"
		  . "UPDATE owners SET name = name WHERE id = $a;\nINSERT INTO accounts VALUES (-1, 7);\n"
		  . "SAVEPOINT s;\nSELECT sum(balance) - 7 FROM accounts;\nROLLBACK TO s;\n"
		  . "SELECT sum(x) - 7 FROM (SELECT balance AS x FROM accounts OFFSET 0) s;\nROLLBACK;" ],
	'function' => [ 1, 'SELECT total();' ],
	'copy' => [ 1, 'COPY (SELECT sum(balance) FROM accounts) TO STDOUT;' ],
	'insert' => [ 1, "INSERT INTO sums SELECT 'insert', sum(balance) FROM accounts RETURNING sum;" ],
);

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

sub run_load
{
	my ($clients, $seconds) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run(['pgbench', '-n', '-c', $clients, '-j', 2, '-T', $seconds, '--max-tries=0', '-f', $script,
			$db->coordinator->connstr('postgres')], '<', \'', '>', \$out, '2>', \$err)
	  or diag($err);
	return $out;
}

# 1. Under load.  Each reader runs until it finds that the load is over.
{
	my %sessions;

	foreach my $name (keys %readers)
	{
		my ($on, $sql) = @{ $readers{$name} };
		$sessions{$name} = $db->start("SET application_name = 'reader';\n"
			  . ($on ? "SET dbscale.consistent_reads = on;\n" : '') . "$sql\n" x 20000);
	}
	my $out = run_load(6, $seconds);
	like($out, qr/number of failed transactions: 0 /, 'no transfer failed');
	my ($count) = $out =~ /number of transactions actually processed: (\d+)/;
	cmp_ok($count // 0, '>', 10, 'transfers were made');
	note($out);
	$db->sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'reader'");
	foreach my $name (sort keys %readers)
	{
		my (undef, $said, $err) = $db->finish($sessions{$name});
		my @sums = split /\n/, $said;
		my @wrong = grep { $_ ne $total } @sums;

		note("$name: " . @sums . ' sums, ' . @wrong . ' wrong');
		next unless $readers{$name}[0];
		cmp_ok(scalar @sums, '>', 10, "$name: sums were read");
		is(scalar @wrong, 0, "$name: each is the same") or diag("@wrong[0 .. ($#wrong < 9 ? $#wrong : 9)]");
		my @errors = grep { !/57P01|terminating connection|server closed|connection to server|^\s|LOCATION/ } $err =~ /^(?:psql:\S+ )?(ERROR.*)$/mg;
		is(scalar @errors, 0, "$name: without errors") or diag($errors[0]);
	}
	is($db->sql('SELECT sum(balance) FROM accounts'), $total, 'the sum is the same after all');
}

my $on = "SET dbscale.consistent_reads = on;\n";
my $sum = "SELECT sum(balance) FROM accounts;\n";
my $block = "BEGIN; SELECT 1 FROM accounts WHERE id = $a;\n";

# A transfer that stops at a debug point.
sub transfer_to
{
	my ($point) = @_;
	my $session = $db->start("SET dbscale.debug_point = '$point=wait';\nBEGIN;\n"
		  . "UPDATE accounts SET balance = balance - 5 WHERE id = $a;\n"
		  . "UPDATE accounts SET balance = balance + 5 WHERE id = $b;\nCOMMIT;\n\\echo committed\n", stop_on_error => 1);
	$db->wait_for_point($point);
	return $session;
}

# From here on transactions in doubt are not resolved unless asked for.
$db->set_for_worker('dbscale.recovery_interval', '1h');

# 2. Node 1 has been told of a commit, node 2 not yet: readers wait, and can be stopped.
{
	my $writer = transfer_to('after_first_commit_prepared');

	is($db->sql($sum), $total - 5, 'without the setting a transfer is seen in part');
	is($db->sql("${on}SELECT balance IS NOT NULL FROM accounts WHERE id = $a"), 't', 'a read of one node does not wait');
	like(($db->try("${on}SET lock_timeout = '200ms';\n$sum"))[2], qr/ERROR:  55P03/, 'lock_timeout ends the wait');
	like(($db->try("${on}SET statement_timeout = '200ms';\n$sum"))[2], qr/ERROR:  57014/, 'statement_timeout too');
	like(($db->try("${on}SET statement_timeout = '200ms';\n$block$sum"))[2], qr/ERROR:  57014/, 'and in a block');
	my $waiting = $db->start("$on$sum");
	my $in_block = $db->start("$on${block}$sum");
	sleep 1;
	$db->release_point('after_first_commit_prepared');
	is(($db->finish($waiting))[1], $total, 'who waits sees all of it');
	is(($db->finish($in_block))[1], "1\n$total", 'and in a block');
	like(($db->finish($writer))[1], qr/committed/, 'the writer has committed');
}

# 3. A reader that takes long to open its snapshots: commits wait, and can be stopped.
{
	my $reader = $db->start("${on}SET dbscale.debug_point = 'in_gate=wait';\n$sum");

	$db->wait_for_point('in_gate');
	my $transfer = "BEGIN;\nUPDATE accounts SET balance = balance - 5 WHERE id = $a;\n"
	  . "UPDATE accounts SET balance = balance + 5 WHERE id = $b;\n";
	like(($db->try("SET lock_timeout = '200ms';\n${transfer}COMMIT;\n"))[2], qr/ERROR:  55P03/, 'lock_timeout ends the wait of a commit');
	is($db->node(1)->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), 0, 'and nothing is left prepared');
	is($db->sql("UPDATE accounts SET balance = balance WHERE id = $a RETURNING 1"), 1, 'a commit on one node does not wait');
	is($db->sql("${on}$sum"), $total, 'nor another reader');
	my $waiting = $db->start("${transfer}COMMIT;\n\\echo committed\n", stop_on_error => 1);
	sleep 1;
	$db->release_point('in_gate');
	is(($db->finish($reader))[1], $total, 'the reader has its sum');
	like(($db->finish($waiting))[1], qr/committed/, 'and who has waited commits');
}

# 4. Node 2 dies before it is told.  Until recovery has told it readers wait, or fail.
{
	my $writer = transfer_to('after_first_commit_prepared');

	$db->kill_all($db->node(2));
	$db->release_point('after_first_commit_prepared');
	my (undef, $said, $warning) = $db->finish($writer);
	like($said, qr/committed/, 'a node that dies before it is told does not hinder the commit');
	like($warning, qr/WARNING:  08006: node "n2" did not confirm/, 'with a warning');
	like(($db->try("$on$sum"))[2], qr/ERROR:  08/, 'while the node is down a reader cannot reach it');
	is($db->sql("${on}SELECT 1 FROM accounts WHERE id = $a"), 1, 'who reads another node can');
	$db->revive($db->node(2));
	is($db->sql($sum), $total - 5, 'it is back, and without the setting the transfer is seen in part');
	my $doubt = qr/ERROR:  40001: the nodes cannot be read at one moment\nDETAIL:  A transaction is committed, and node "n2" has not been told yet/;
	my $patience = "SET dbscale.commit_timeout = '500ms';\n";
	foreach my $level ('', "BEGIN ISOLATION LEVEL REPEATABLE READ;\n", $block)
	{
		my (undef, $rows, $err) = $db->try("$on$patience$level$sum");

		like($err, $doubt, 'with it the reader fails: ' . ($level || 'alone'));
		unlike($rows, qr/\d{3}/, 'and gets no sum');
	}
	my $waiting = $db->start("$on$sum");
	sleep 1;
	is($db->sql('SELECT dbscale.recover_transactions()'), 1, 'one transaction is recovered');
	is(($db->finish($waiting))[1], $total, 'who has waited sees all of it');
	is($db->sql("$on$sum"), $total, 'and others after him');
	is(($db->try("$on${block}$sum"))[1], "1\n$total", 'also in a block');
	is($db->sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), 0, 'the gate is empty');
}

# 5. What cannot be had is refused.
like(($db->try("${on}BEGIN;\nSELECT sum(balance) FROM accounts WHERE balance > (SELECT avg(balance) - 1000000 FROM accounts);\n"))[2],
	qr/ERROR:  0A000: the statement cannot read several nodes at one moment in a READ COMMITTED transaction/,
	'several steps in a READ COMMITTED transaction');
my $off_key = "SELECT count(*) FROM owners o LEFT JOIN accounts a ON a.balance = o.id WHERE o.name = 'owner 3';\n"
  . "SELECT count(*) FROM owners o WHERE EXISTS (SELECT FROM accounts a WHERE a.balance = o.id AND a.id > 0);\n"
  . "SELECT count(*) FROM owners o JOIN accounts a ON a.balance = o.id WHERE o.name = 'owner 3';\n";
is(($db->try("${on}BEGIN;\n${off_key}COMMIT;"))[1], ($db->try($off_key))[1], 'joins off the key take one step there');
like(($db->try("BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT 1 FROM accounts WHERE id = $a;\n$on$sum"))[2],
	qr/ERROR:  40001: the transaction has no snapshot of node "n\d" from its beginning/,
	'the setting comes too late for the snapshot');
is($db->sql("${on}UPDATE accounts SET balance = balance + (id * 0)"), '', 'an UPDATE over nodes goes on');
is(($db->try("${on}BEGIN ISOLATION LEVEL REPEATABLE READ;\nSAVEPOINT s;\n${sum}ROLLBACK TO s;\n${sum}COMMIT;"))[1], "$total\n$total",
	'snapshots outlive the savepoint in which they were opened');
is(($db->try("${on}BEGIN;\nDECLARE c CURSOR FOR SELECT id FROM accounts ORDER BY id;\nFETCH 1 FROM c;\nSAVEPOINT s;\n${sum}ROLLBACK TO s;\nFETCH 1 FROM c;\nCOMMIT;"))[1],
	"1\n$total\n2", "a cursor goes on beside other reads");

done_testing();
