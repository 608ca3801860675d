# What is really sent to the nodes: counted by log_statement on the nodes, for whoever reads the
# protocol's traffic as a promise.  One message for a routed read, one statement a node for
# many shards, no two-phase commit for one node, one connection a node.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use PostgreSQL::Test::Utils;
use IPC::Run;
use Test::More;

my $db = DBScale->new(new_sessions => 1, nodes => 2, node_settings => "log_statement = all\nlog_min_duration_statement = -1\n");
$db->sql(q(
CREATE TABLE users (id int PRIMARY KEY, region text, age int);
CREATE TABLE posts (user_id int, id int, likes int, PRIMARY KEY (user_id, id));
SELECT dbscale.distribute_table('users', 'id', shard_count => 32), dbscale.distribute_table('posts', 'user_id', colocate_with => 'users');
INSERT INTO users SELECT i, 'r' || i % 5, i % 60 FROM generate_series(1, 500) i;
INSERT INTO posts SELECT 1 + i % 500, i, i % 9 FROM generate_series(1, 2000) i;
));
my ($one, $two) = ($db->key_on('users', 'n1'), $db->key_on('users', 'n2'));

# The session's own statements on a node: all that an application's statement caused.
sub sent
{
	my ($script) = @_;
	my @starts = map { -s $_->logfile } $db->nodes;
	my @all;

	$db->sql($script);
	foreach my $node ($db->nodes)
	{
		my $log = substr(slurp_file($node->logfile), shift @starts);
		my @statements = grep { !/set_config|pg_prepared_xacts|pg_stat_activity|pg_blocking|pg_locks/ } ($log =~ /LOG:  (?:execute [^:]*|statement): (.*)/g);
		push @all, \@statements;
	}
	return @all;
}
sub words { return join(', ', map { /^[\s(]*(\w+( PREPARED| TRANSACTION)?)/ ? uc $1 : $_ } @{ $_[0] }); }

my ($a, $b) = sent("SELECT age FROM users WHERE id = $one");
is(words($a), 'SELECT', 'a routed read outside a transaction block is one statement, without BEGIN');
is(words($b), '', 'and the other node hears nothing');

($a, $b) = sent('SELECT region, count(*), avg(age) FROM users GROUP BY region');
is(words($a), 'SELECT', 'a query over all shards is one statement a node');
is(words($b), 'SELECT', 'on each');
($a, $b) = sent('SELECT u.region, count(*) FROM users u JOIN posts p ON p.user_id = u.id GROUP BY 1');
is(words($a) . '; ' . words($b), 'SELECT; SELECT', 'a join on the shard key as well');
($a, $b) = sent('SELECT id FROM users ORDER BY age DESC, id LIMIT 5');
is(words($a) . '; ' . words($b), 'SELECT; SELECT', 'and the first rows of all');

($a, $b) = sent("UPDATE users SET age = age + 1 WHERE id = $one");
is(words($a), 'UPDATE', 'a write that is the whole of its transaction is one statement: the node commits it');
is(words($b), '', 'and the other node hears nothing of it');
($a) = sent("UPDATE users SET age = age + 1 WHERE id = $one RETURNING id, age");
is(words($a), 'UPDATE', 'with numbers returned, too');
($a) = sent("UPDATE users SET age = age + 1 WHERE id = $one RETURNING region");
is(words($a), 'BEGIN, UPDATE, COMMIT', 'what is returned might fail to be sent to the client: not before that');
($a) = sent("BEGIN; UPDATE users SET age = age + 1 WHERE id = $one; COMMIT");
is(words($a), 'BEGIN, UPDATE, COMMIT', 'nor in a block');
($a) = sent("DO 'BEGIN UPDATE users SET age = age + 1 WHERE id = $one; UPDATE users SET age = age + 1 WHERE id = $one; END'");
is(words($a), 'BEGIN, UPDATE, UPDATE, COMMIT', 'nor in a function');

# Statements that a client sends ahead of one Sync are one transaction.
my $pipeline = PostgreSQL::Test::Utils::tempdir() . '/pipeline.sql';
append_to_file($pipeline, "\\startpipeline\nINSERT INTO users VALUES (90001, 'pipeline', 1);\nINSERT INTO users VALUES (90002, 'pipeline', 1);\nINSERT INTO users VALUES (90001, 'pipeline', 1);\n\\endpipeline\n");
my ($output, $complaint) = ('', '');
IPC::Run::run(['pgbench', '-n', '-t', '1', '-M', 'extended', '-f', $pipeline, $db->coordinator->connstr('postgres')], '>', \$output, '2>', \$complaint);
like($complaint, qr/duplicate key/, 'a pipeline whose last statement fails');
is($db->sql("SELECT count(*) FROM users WHERE region = 'pipeline'"), '0', 'has done nothing');

# Statements are prepared on a node, unless its server says that it cannot.
my $prepared = sub { return $db->sql("SET plan_cache_mode = force_generic_plan; SELECT age FROM users WHERE id = $one; SELECT result FROM dbscale.run_on_nodes('SELECT count(*) FROM pg_prepared_statements') WHERE node = dbscale.node_for('users', $one)") };
like($prepared->(), qr/^\d*\n1$/, 'the statement is prepared on its node');
$db->sql("DO \$\$ BEGIN EXECUTE format('ALTER SERVER %I OPTIONS (ADD use_prepared_statements ''off'')', dbscale.node_for('users', $one)); END \$\$");
like($prepared->(), qr/^\d*\n0$/, 'unless the server has use_prepared_statements off');
my (undef, undef, $refused) = $db->try("DO \$\$ BEGIN EXECUTE format('ALTER SERVER %I OPTIONS (SET use_prepared_statements ''perhaps'')', dbscale.node_for('users', $one)); END \$\$");
like($refused, qr/requires a Boolean value/, 'which is on or off');
$db->sql("DO \$\$ BEGIN EXECUTE format('ALTER SERVER %I OPTIONS (DROP use_prepared_statements)', dbscale.node_for('users', $one)); END \$\$");

# A constraint that is checked when the node commits is an error of the statement.
$db->sql("ALTER TABLE posts ADD CONSTRAINT author FOREIGN KEY (user_id) REFERENCES users (id) DEFERRABLE INITIALLY DEFERRED");
my (undef, undef, $error) = $db->try("INSERT INTO posts VALUES (777777, 1, 1)");
like($error, qr/violates foreign key constraint/, 'a deferred constraint is heard of');
is($db->sql("SELECT count(*) FROM posts WHERE user_id = 777777"), '0', 'and nothing is there');
($a, $b) = sent("BEGIN; UPDATE users SET age = 1 WHERE id = $one; UPDATE users SET age = 1 WHERE id = $two; COMMIT");
is(words($a), 'BEGIN, UPDATE, PREPARE TRANSACTION, COMMIT PREPARED', 'writes on two nodes are prepared, and committed');
is(words($b), 'BEGIN, UPDATE, PREPARE TRANSACTION, COMMIT PREPARED', 'on both');
($a, $b) = sent("BEGIN; SELECT age FROM users WHERE id = $one; SELECT age FROM users WHERE id = $two; COMMIT");
is(words($a), 'BEGIN, SELECT, COMMIT', 'reads of two nodes in a block are not');

# while one session of the coordinator has used all shards of two tables
my $session = $db->start_held('SELECT count(*) FROM users; SELECT count(*) FROM posts', '');
my $connections = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'dbscale%' AND query LIKE '%count(%' AND pid <> pg_backend_pid()";
foreach my $node ($db->nodes)
{
	$node->poll_query_until('postgres', "SELECT exists(SELECT FROM pg_stat_activity WHERE application_name LIKE 'dbscale%' AND query LIKE '%posts%count(%' OR query LIKE '%count(%posts%')") or die 'no session on the node';
	is($node->safe_psql('postgres', $connections), '1', 'one connection to ' . $node->name . ', however many shards');
}
$db->go_on($session);
$db->finish($session);

done_testing();
