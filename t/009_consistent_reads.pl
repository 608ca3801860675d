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
SELECT dbscale.grant_node_access('postgres', 'postgres');
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
	'block' => [ 1, "BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT sum(balance) FROM accounts WHERE id = $a"
		  . " UNION ALL SELECT 0 LIMIT 1 \\gset kept_\nSELECT sum(balance) FROM accounts;\n"
		  . "SELECT sum(balance) - (SELECT balance FROM accounts WHERE id = $a) + :kept_sum FROM accounts;\n"
		  . "SELECT sum(balance) FROM others_view;\nCOMMIT;" ],
	'serializable' => [ 1, "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;\nSELECT sum(balance) FROM accounts;\nCOMMIT;" ],
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

done_testing();
