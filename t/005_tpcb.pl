# pgbench's own TPC-B script over distributed tables keeps its books.
#
# Branches, tellers and accounts are distributed each by its own key, the history by
# account; most transactions write on two nodes.  DBSCALE_SECONDS makes it longer.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use DBScale;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ENV{DBSCALE_SECONDS} // 8;
my $db = DBScale->new(nodes => 2, settings => "dbscale.deadlock_interval = 200ms\n");
my $connstr = $db->coordinator->connstr('postgres');

sub pgbench
{
	my (@options) = @_;
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run([ 'pgbench', @options, '-d', $connstr ], '<', \'', '>', \$out, '2>', \$err);
	diag($err) unless $ok;
	return ($ok, $out, $err);
}

ok((pgbench('-i', '-s', 4, '-q'))[0], 'pgbench -i');
$db->sql(q(
SELECT dbscale.distribute_table('pgbench_branches', 'bid', shard_count => 4);
SELECT dbscale.distribute_table('pgbench_tellers', 'tid', shard_count => 4);
SELECT dbscale.distribute_table('pgbench_accounts', 'aid', shard_count => 8);
SELECT dbscale.distribute_table('pgbench_history', 'aid', colocate_with => 'pgbench_accounts');
));
is($db->sql('SELECT count(*) FROM pgbench_accounts'), 400000, 'the rows are there');

sub books
{
	return $db->sql('SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches), '
		  . '(SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(delta) FROM pgbench_history)');
}

foreach my $protocol ('simple', 'prepared')
{
	my ($ok, $out, $err) = pgbench('-n', '-c', 8, '-j', 2, '-T', $seconds, '-M', $protocol, '--max-tries=0');
	ok($ok, "TPC-B, 8 clients, $protocol protocol");
	unlike($err, qr/aborted|ERROR/, "$protocol: no client was aborted");
	like($out, qr/number of failed transactions: 0 /, "$protocol: none failed");
	my ($count) = $out =~ /number of transactions actually processed: (\d+)/;
	cmp_ok($count // 0, '>', 10, "$protocol: transactions were made");
	note($out);
	my @sums = split /\|/, books();
	is("@sums", join(' ', ($sums[0]) x 4), "$protocol: the four sums agree");
}
$db->wait_for_recovery;
is($db->in_doubt, 0, 'nothing is in doubt');

done_testing();
