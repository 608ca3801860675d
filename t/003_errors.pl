# What a user sees when a node is not as it should be.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $db = DBScale->new(nodes => 2, settings => "dbscale.connect_timeout = 3s\n");
$db->sql(q(
CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL);
SELECT dbscale.distribute_table('items', 'id', shard_count => 4);
INSERT INTO items SELECT i, 0 FROM generate_series(1, 100) i;
));
my ($a, $b) = map { $db->key_on('items', $_) } 'n1', 'n2';

# Sessions on a node that belong to our coordinator and do something.
sub busy_on
{
	my ($i) = @_;
	return $db->node($i)->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'dbscale %' AND state <> 'idle' AND query NOT LIKE '%pg_locks%'");
}

# A node that is down: the error names it; the other one can be used.
$db->node(2)->stop('immediate');
my ($rc, $out, $err) = $db->try("SELECT n FROM items WHERE id = $b;\nSELECT n FROM items WHERE id = $a;\n");
like($err, qr/ERROR:  08001: could not connect to node "n2"/, 'a node that is down: SQLSTATE and name');
is($out, '0', 'a node that is down: the others answer');
($rc, $out, $err) = $db->try("UPDATE items SET n = n + 1;\nSELECT n FROM items WHERE id = $a;\n");
like($err, qr/08001: could not connect to node "n2"/, 'an update of all shards fails');
is($out, '0', 'and changes nothing on the node that is there');
$db->node(2)->start;
is($db->sql("SELECT n FROM items WHERE id = $b"), '0', 'the node is back');

# A connection that breaks while idle is replaced, and nobody hears of it.
my $session = $db->start_held("SELECT n FROM items WHERE id = $b", "SELECT n FROM items WHERE id = $b");
$db->node(2)->restart;
$db->go_on($session);
($rc, $out, $err) = $db->finish($session);
is($err, '', 'an idle connection that broke: no error');
is($out, "0\n0", 'an idle connection that broke: replaced');

# In the middle of a transaction it is an error, and the transaction is over.
$session = $db->start_held("BEGIN;\nUPDATE items SET n = 7 WHERE id IN ($a, $b)",
	"UPDATE items SET n = 8 WHERE id = $b;\nCOMMIT;\nSELECT 'after', sum(n) FROM items");
is($db->node(2)->safe_psql('postgres', "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'dbscale %' AND state = 'idle in transaction'"),
	1, 'the remote backend of a transaction is terminated');
$db->go_on($session);
($rc, $out, $err) = $db->finish($session);
like($err, qr/ERROR:  (08006|57P01):.*n2/, 'a remote backend killed in a transaction: an error that names the node');
like($out, qr/^after\|0$/m, 'all is rolled back, and the session goes on');

# Cancel and statement_timeout reach the node.
my $slow = "SELECT count(*) FROM items WHERE id = $b AND pg_sleep(600) IS NOT NULL";
$db->sql(q(CREATE FUNCTION wait_for_lock(int) RETURNS void LANGUAGE sql AS 'UPDATE items SET n = n WHERE id = $1'));
my $blocker = $db->start("BEGIN;\nUPDATE items SET n = n WHERE id = $b;\nSELECT pg_sleep(600);\n");
$db->wait_until('the row is locked', sub {
	$db->sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600)%' AND state = 'active'") == 1; }, 30);
my $start = time();
($rc, $out, $err) = $db->try("SET statement_timeout = '1s';\nUPDATE items SET n = n WHERE id = $b;\n");
like($err, qr/ERROR:  57014: canceling statement due to statement timeout/, 'statement_timeout while a node works');
cmp_ok(time() - $start, '<', 8, 'comes in time');
$db->wait_until('the timed-out statement ended on the node', sub {
	$db->node(2)->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == 0; }, 20);
pass('nothing of the statement that timed out runs on the node');

$session = $db->start("UPDATE items SET n = n WHERE id = $b;\nSELECT 'alive';\n");
$db->wait_until('the statement waits on the node', sub {
	$db->node(2)->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == 1; }, 30);
$db->sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'UPDATE items%' AND state = 'active'");
($rc, $out, $err) = $db->finish($session);
like($err, qr/ERROR:  57014: canceling statement due to user request/, 'cancel while a node works');
is($out, 'alive', 'the session goes on');
$db->wait_until('the cancelled statement ended on the node', sub {
	$db->node(2)->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == 0; }, 20);
pass('nothing of the cancelled statement runs on the node');

# The session that goes away takes its transactions on the nodes with it.
$db->sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600)%' AND state = 'active'");
$db->finish($blocker);
$db->wait_until('the row is free', sub { busy_on(2) == 0 }, 30);
is(($db->try("SET lock_timeout = '5s';\nUPDATE items SET n = n WHERE id = $b;\n"))[2], '', 'a terminated session leaves no lock');

# A shard table that somebody dropped.
my $shard = $db->sql("SELECT dbscale.shard_for('items', $b)");
$db->node(2)->safe_psql('postgres', "ALTER TABLE dbscale_shards.items_$shard RENAME TO hidden");
($rc, $out, $err) = $db->try("SELECT n FROM items WHERE id = $b;\n");
like($err, qr/ERROR:  42P01: relation "dbscale_shards.items_$shard" does not exist/, 'a missing shard table: the node\'s error');
like($err, qr/n2/, 'a missing shard table: the node is named');
$db->node(2)->safe_psql('postgres', "ALTER TABLE dbscale_shards.hidden RENAME TO items_$shard");
is($db->sql("SELECT n FROM items WHERE id = $b"), '0', 'the table is back');

# A duplicate key keeps its SQLSTATE and constraint.
($rc, $out, $err) = $db->try("INSERT INTO items VALUES ($b, 1);\n");
like($err, qr/ERROR:  23505: duplicate key value violates unique constraint/, 'a duplicate key: SQLSTATE');
like($err, qr/DETAIL:  Key \(id\)=\($b\) already exists/, 'a duplicate key: detail');

# A disabled node is refused at once; enabled, it is used again.
$db->sql("SELECT dbscale.disable_node('n2')");
($rc, $out, $err) = $db->try("SELECT n FROM items WHERE id = $b;\nSELECT n FROM items WHERE id = $a;\n");
like($err, qr/ERROR:  55000: node "n2" is disabled/, 'a disabled node');
like($err, qr/HINT:.*enable_node/, 'a disabled node: the hint');
is($out, '0', 'a disabled node: the others answer');
$db->sql("SELECT dbscale.enable_node('n2')");
is($db->sql("SELECT n FROM items WHERE id = $b"), '0', 'enabled again');

# Passwords.  The nodes ask the role for one; what it is never shows.
$_->safe_psql('postgres', "CREATE ROLE app LOGIN PASSWORD 'right-one'; GRANT ALL ON SCHEMA dbscale_shards TO app; GRANT ALL ON ALL TABLES IN SCHEMA dbscale_shards TO app")
  foreach $db->nodes;
$db->sql('CREATE ROLE app LOGIN; GRANT ALL ON items TO app');
foreach my $node ($db->nodes)
{
	my $hba = $node->data_dir . '/pg_hba.conf';
	my $old = slurp_file($hba);
	open my $file, '>', $hba or die;
	print $file "local all app scram-sha-256\n$old";
	close $file;
	$node->reload;
}
$db->sql("SELECT dbscale.grant_node_access('app', 'app', 'wrong-one')");
($rc, $out, $err) = $db->try("SET ROLE app;\nSELECT n FROM items WHERE id = $a;\n");
like($err, qr/ERROR:  08001: could not connect to node "n1"/, 'a wrong password: SQLSTATE and node');
like($err, qr/password authentication failed for user "app"/, 'a wrong password: the reason');
unlike($err, qr/wrong-one/, 'a wrong password: is not shown');
$db->sql("SELECT dbscale.grant_node_access('app', 'app', 'right-one')");
($rc, $out, $err) = $db->try("SET ROLE app;\nSELECT n FROM items WHERE id = $a;\n");
is($err . $out, '0', 'the right password');
unlike(slurp_file($db->coordinator->logfile), qr/right-one|wrong-one/, 'no password in the log') ;

is($db->in_doubt, 0, 'nothing is in doubt');
done_testing();
