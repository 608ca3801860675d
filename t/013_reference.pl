# Reference tables: a change of a row whose transaction has just committed here, and not yet
# on all nodes, waits for that, and finds the row on every node.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use Test::More;

my $db = DBScale->new(nodes => 2);
$db->sql(q(
CREATE TABLE countries (code int PRIMARY KEY, name text NOT NULL);
CREATE TABLE cities (id int PRIMARY KEY, country int REFERENCES countries ON UPDATE CASCADE ON DELETE CASCADE);
SELECT dbscale.distribute_reference('countries'), dbscale.distribute_reference('cities');
));

# The table here, then the copies.
sub rows_are
{
	my ($table, $expected, $name) = @_;
	my @found = ($db->sql("SELECT string_agg(t::text, ' ' ORDER BY t) FROM $table t"),
		map { $_->safe_psql('postgres', "SELECT string_agg(t::text, ' ' ORDER BY t) FROM dbscale_shards.$table t") } $db->nodes);
	return is_deeply(\@found, [ ($expected) x 3 ], $name);
}

my $waiting = q(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 5 AND NOT granted);
sub wait_for_waiter { return $db->wait_until('somebody waits', sub { $db->sql($waiting) > 0 }); }

# What one session has done, and is committing; what another does then; the rows at the end.
my @cases = (
	[ 'an inserted row is changed', '',
		"INSERT INTO countries VALUES (1, 'a');", "UPDATE countries SET name = 'b' WHERE code = 1;", '(1,b)' ],
	[ 'an inserted row is deleted', '',
		"INSERT INTO countries VALUES (1, 'a');", "DELETE FROM countries WHERE code = 1;", '' ],
	[ 'a row gets another key, and is changed', "INSERT INTO countries VALUES (1, 'a');",
		"UPDATE countries SET code = 2;", "UPDATE countries SET name = 'b' WHERE code = 2;", '(2,b)' ],
	[ 'a row of a subtransaction is changed twice', '',
		"BEGIN; SAVEPOINT s; INSERT INTO countries VALUES (1, 'a'); RELEASE s; COMMIT;",
		"BEGIN; UPDATE countries SET name = name || 'b'; UPDATE countries SET name = name || 'c', code = 3; COMMIT;", '(3,abc)' ],
	[ 'a row changed is changed', "INSERT INTO countries VALUES (1, 'a');",
		"UPDATE countries SET name = 'b';", "UPDATE countries SET name = name || 'c';", '(1,bc)' ],
);
foreach my $point ('after_commit', 'after_first_commit_prepared')
{
	foreach my $case (@cases)
	{
		my ($name, $before, $first, $second, $rows) = @$case;
		$db->sql("TRUNCATE countries, cities; $before");
		my $writer = $db->start("SET dbscale.debug_point = '$point=wait'; $first", stop_on_error => 1);

		$db->wait_for_point($point);
		my $changer = $db->start($second, stop_on_error => 1);
		wait_for_waiter();
		$db->release_point($point);
		is(($db->finish($writer))[0], 0, "$point, $name: committed");
		my ($rc, undef, $err) = $db->finish($changer);
		is("$rc $err", '0 ', "$point, $name: without an error");
		rows_are('countries', $rows, "$point, $name: on all nodes");
	}
}

# A cascade's changes wait as well: for the table whose rows they are.
$db->sql("TRUNCATE countries, cities; INSERT INTO countries VALUES (1, 'a')");
my $writer = $db->start("SET dbscale.debug_point = 'after_commit=wait'; INSERT INTO cities VALUES (10, 1), (11, 1);");
$db->wait_for_point('after_commit');
my $changer = $db->start('UPDATE countries SET code = 2;', stop_on_error => 1);
wait_for_waiter();
$db->release_point('after_commit');
$db->finish($writer);
is(($db->finish($changer))[0], 0, 'a cascade waits');
rows_are('cities', '(10,2) (11,2)', 'and changes the rows on all nodes');

# Who waits can be stopped; what he has done is undone, and he holds nobody up.
$db->sql("TRUNCATE countries, cities");
$writer = $db->start("SET dbscale.debug_point = 'after_commit=wait'; INSERT INTO countries VALUES (1, 'a');");
$db->wait_for_point('after_commit');
my $change = "UPDATE countries SET name = 'b';";
like(($db->try("SET lock_timeout = '50ms'; $change"))[2], qr/55P03/, 'lock_timeout ends the wait');
like(($db->try("SET statement_timeout = '200ms'; $change"))[2], qr/57014/, 'statement_timeout does');
$changer = $db->start($change);
wait_for_waiter();
$db->sql("SELECT pg_cancel_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 5 AND NOT granted");
like(($db->finish($changer))[2], qr/57014/, 'and a cancel');
# other tables, other rows that are read, and commits of the same table are not held up
is(($db->try("SET lock_timeout = '5s'; INSERT INTO cities VALUES (12, NULL); UPDATE cities SET id = 13;", stop_on_error => 1))[0], 0,
	'changes of another table do not wait');
is(($db->try("SET lock_timeout = '5s'; INSERT INTO countries VALUES (2, 'c');", stop_on_error => 1))[0], 0, 'nor do inserts');
$db->release_point('after_commit');
$db->finish($writer);
rows_are('countries', '(1,a) (2,c)', 'nothing of what was stopped is left');

# Writers whose commit has not begun are not waited for.
$writer = $db->start("BEGIN; UPDATE countries SET name = 'd' WHERE code = 1; SELECT pg_advisory_lock(1); SELECT pg_sleep(600);");
$db->wait_until('the first has written', sub { $db->sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND objsubid = 1") });
is(($db->try("SET lock_timeout = '5s'; UPDATE countries SET name = 'e' WHERE code = 2;", stop_on_error => 1))[0], 0,
	'writers that have not begun to commit are not waited for');
$db->sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND objsubid = 1");
$db->finish($writer);
rows_are('countries', '(1,a) (2,e)', 'and are rolled back alone');

# One snapshot for the whole transaction, and taken on the node before the row was there.
$writer = $db->start("SET dbscale.debug_point = 'after_commit=wait'; INSERT INTO countries VALUES (3, 'f');");
$db->wait_for_point('after_commit');
$changer = $db->start("BEGIN ISOLATION LEVEL REPEATABLE READ; UPDATE countries SET name = 'g' WHERE code = 3; COMMIT;", stop_on_error => 1);
wait_for_waiter();
$db->release_point('after_commit');
$db->finish($writer);
is(($db->finish($changer))[0], 0, 'REPEATABLE READ waits before its snapshot on the nodes');
rows_are('countries', '(1,a) (2,e) (3,g)', 'and finds the row');

# A node that died before it was told: the change waits until it has been told.
$db->set_for_worker('dbscale.recovery_interval', '1h');
# a session that has changed copies before, when nothing was in doubt
$db->sql('CREATE TABLE begins (x int)');
my $known = $db->start("SET application_name = 'known'; UPDATE countries SET name = 'h' WHERE code = 1; "
	  . "DO \$\$ BEGIN WHILE NOT EXISTS (SELECT FROM begins) LOOP PERFORM pg_sleep(0.05); END LOOP; END \$\$; "
	  . "UPDATE countries SET name = name || 'j' WHERE code = 4;", stop_on_error => 1);
$db->wait_until('it has changed them', sub { $db->sql("SELECT count(*) FROM countries WHERE name = 'h'") });
$writer = $db->start("SET dbscale.debug_point = 'after_commit=wait'; INSERT INTO countries VALUES (4, 'i');");
$db->wait_for_point('after_commit');
$db->kill_all($db->node(1));
$db->release_point('after_commit');
like(($db->finish($writer))[2], qr/did not confirm the end/, 'a node dies in the middle of a commit');
$db->revive($db->node(1));
is($db->node(1)->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), 1, 'and has not been told');
$change = "UPDATE countries SET name = name || 'k' WHERE code = 4;";
like(($db->try("SET dbscale.commit_timeout = '200ms'; $change"))[2], qr/40001: .*has not been told yet/, 'a change waits for commit_timeout');
like(($db->try("SET statement_timeout = '200ms'; $change"))[2], qr/57014/, 'or statement_timeout');
$changer = $db->start("SET dbscale.commit_timeout = '3min'; SET application_name = 'changer'; $change", stop_on_error => 1);
$db->wait_until('it waits', sub { $db->sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'changer' AND wait_event_type = 'Extension'") });
$db->sql('INSERT INTO begins VALUES (1)');
$db->wait_until('the other waits', sub { $db->sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'known' AND query LIKE 'UPDATE%' AND wait_event IS NOT NULL AND wait_event_type <> 'Client'") });
is($db->sql('SELECT dbscale.recover_transactions()'), 1, 'or until the node has been told');
is(($db->finish($changer))[0], 0, 'and is done');
is(($db->finish($known))[0], 0, 'and so is that of a session that knew of no doubt');
$db->sql("UPDATE countries SET name = 'l' WHERE code = 4 AND name IN ('ijk', 'ikj')");
rows_are('countries', '(1,h) (2,e) (3,g) (4,l)', 'on all nodes');
$db->set_for_worker('dbscale.recovery_interval', '200ms');
is($db->wait_for_recovery, 1, 'nothing is left prepared');
done_testing();
