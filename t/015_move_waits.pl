# What a move waits for, and what it keeps from its table: transactions on the source at its
# beginning, with an end to the waiting; nobody at the comparison; one slot; the primary key.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = DBScale->new(nodes => 2, node_settings => "wal_level = logical\nmax_wal_senders = 1\nmax_replication_slots = 1\n");
$db->sql(q(
CREATE TABLE items (id int PRIMARY KEY, body text);
SELECT dbscale.distribute_table('items', 'id', shard_count => 2);
INSERT INTO items SELECT i, 'item ' || i FROM generate_series(1, 200) i;
));
$_->safe_psql('postgres', 'CREATE TABLE other (x int)') foreach $db->nodes;
my $key = $db->sql("SELECT min(i) FROM generate_series(1, 100) i WHERE dbscale.shard_for('items', i) = 0");

sub place { return $db->sql("SELECT node FROM dbscale.shards WHERE relation = 'items'::regclass AND shard = 0"); }
sub source { return $db->node(place() =~ s/n//r); }
sub move { my $to = place() eq 'n1' ? 'n2' : 'n1'; return "SELECT dbscale.move_shard('items', 0, '$to');"; }
sub step { return $db->sql("SELECT coalesce(max(step), '') FROM dbscale.jobs WHERE state = 'running'"); }
sub set
{
	my ($name, $value) = @_;
	$db->sql("ALTER SYSTEM SET $name = '$value'");
	$db->coordinator->reload;
	return $db->wait_until("$name is $value", sub { $db->sql("SHOW $name") eq $value });
}

# A session that has written on the source, and stays in its transaction.
sub open_writer
{
	my $writer = $db->start("BEGIN; INSERT INTO other VALUES (1); SELECT pg_sleep(600);", server => source());
	$db->wait_until('somebody writes', sub { source()->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE query ~ 'pg_sleep' AND backend_xid IS NOT NULL AND wait_event = 'PgSleep'") });
	$writer->{backend} = source()->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
	return $writer;
}
sub end_writer
{
	my ($writer, $server) = @_;
	$server->safe_psql('postgres', "SELECT pg_terminate_backend($writer->{backend})");
	return $db->finish($writer);
}

# The beginning waits for a writer of any table there; the job says for whom.
my $source = source();
my $writer = open_writer();
my $move = $db->start(move(), stop_on_error => 1);
$db->wait_until('the move says for whom it waits', sub { step() =~ /: waiting for process $writer->{backend} in database "postgres" on the source$/ });
is($db->sql("SELECT count(*) FROM dbscale.jobs WHERE state = 'running' AND step ~ 'waiting'"), 1, 'a writer is waited for, and shown');
is(($db->try("UPDATE items SET body = body WHERE id = $key", stop_on_error => 1))[0], 0, 'nobody else waits');
end_writer($writer, $source);
is(($db->finish($move))[0], 0, 'and the move goes on when the writer has ended');

# Or for a transaction that was left prepared, but not for ever.
$source = source();
$source->safe_psql('postgres', "BEGIN; INSERT INTO other VALUES (2); PREPARE TRANSACTION 'somebody else';");
$move = $db->start(move());
$db->wait_until('the move says for which', sub { step() =~ /: waiting for prepared transaction "somebody else" on the source$/ });
set('dbscale.move_start_timeout', '1s');
my (undef, undef, $err) = $db->finish($move);
like($err, qr/55006: .*"n\d" did not end in time for the move to begin/, 'a move that waits too long is given up');
like($err, qr/DETAIL: .*prepared transaction "somebody else"/, 'the error says for whom it has waited');
is($db->sql("SELECT state FROM dbscale.jobs ORDER BY job DESC LIMIT 1"), 'failed', 'and so does the job');
$source->safe_psql('postgres', "ROLLBACK PREPARED 'somebody else'");
set('dbscale.move_start_timeout', '1h');
$db->wait_until('everything is cleaned up', sub { $db->sql('SELECT count(*) FROM dbscale.cleanup') eq '0' });
is(($db->try(move(), stop_on_error => 1))[0], 0, 'then it can be moved');

# The comparison waits for nobody: not for a writer of another table, nor of another shard.
$db->wait_until('everything is cleaned up', sub { $db->sql('SELECT count(*) FROM dbscale.cleanup') eq '0' });
set('dbscale.debug_point', 'move_caught_up=wait');
$source = source();
$move = $db->start(move(), stop_on_error => 1);
$db->wait_for_point('move_caught_up');
$writer = open_writer();
set('dbscale.debug_point', '');
$db->release_point('move_caught_up');
is(($db->finish($move))[0], 0, 'the comparison does not wait for writers');
is($source->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $writer->{backend}"), 1, 'who still write');
end_writer($writer, $source);
$db->wait_until('everything is cleaned up', sub { $db->sql('SELECT count(*) FROM dbscale.cleanup') eq '0' });

# And it finds a difference.
set('dbscale.debug_point', 'move_caught_up=wait');
my $target = place() eq 'n1' ? $db->node(2) : $db->node(1);
$move = $db->start(move());
$db->wait_for_point('move_caught_up');
$target->safe_psql('postgres', "UPDATE dbscale_shards.items_0 SET body = 'another' WHERE id = $key");
set('dbscale.debug_point', '');
$db->release_point('move_caught_up');
like(($db->finish($move))[2], qr/XX001: .*differs from the shard/, 'a copy that is not the same is found out');
$db->wait_until('everything is cleaned up', sub { $db->sql('SELECT count(*) FROM dbscale.cleanup') eq '0' });

# The primary key is needed while the shard moves; the rest of DDL is not held up.
set('dbscale.debug_point', 'move_copied=wait');
$move = $db->start(move(), stop_on_error => 1);
$db->wait_for_point('move_copied');
my $job = $db->sql("SELECT job FROM dbscale.jobs WHERE state = 'running'");
my $refused = qr/55006: .*cannot drop the primary key of table "items" while its shards are on the move\nDETAIL: +Job $job .*\nHINT: .*cancel_job\($job\)/;
like(($db->try('ALTER TABLE items DROP CONSTRAINT items_pkey'))[2], $refused, 'the primary key cannot be dropped');
is(($db->try("UPDATE items SET body = 'written' WHERE id = $key; DELETE FROM items WHERE id = $key + 100;", stop_on_error => 1))[0], 0, 'rows can be changed');
is(($db->try('CREATE INDEX ON items (body)', stop_on_error => 1))[0], 0, 'an index can be made');
set('dbscale.debug_point', '');
$db->release_point('move_copied');
is(($db->finish($move))[0], 0, 'the move begins again, and ends');
is($db->sql("SELECT body FROM items WHERE id = $key"), 'written', 'with what was written');
is(($db->try('ALTER TABLE items DROP CONSTRAINT items_pkey', stop_on_error => 1))[0], 0, 'then the key can be dropped');
is(($db->try("UPDATE items SET body = 'again' WHERE id = $key", stop_on_error => 1))[0], 0, 'and rows be changed');
like(($db->try(move()))[2], qr/has no primary key/, 'but the shard not moved online');
$db->wait_until('everything is cleaned up', sub { $db->sql('SELECT count(*) FROM dbscale.cleanup') eq '0' });
is($db->sql('SELECT * FROM dbscale.check()'), '', 'catalog and nodes agree');
is(join('', map { $_->safe_psql('postgres', 'SELECT pubname FROM pg_publication UNION ALL SELECT slot_name FROM pg_replication_slots') } $db->nodes), '', 'nothing is left');
done_testing();
