# Methods of DBScale: a statement or a job that is held, killed or cancelled at one of its steps,
# and where shards are then.  They need `debug_point = ''` in the coordinator's settings.
package Steps;

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(usleep);

# The file that tells that a backend has arrived at a debug point, and holds it there.
sub point_file
{
	my ($self, $point) = @_;
	return $self->coordinator->data_dir . "/dbscale_debug_$point";
}

sub wait_for_point
{
	my ($self, $point) = @_;
	my $file = $self->point_file($point);
	return $self->wait_until("$point is reached", sub { -e $file }, 60);
}

sub release_point
{
	my ($self, $point) = @_;
	unlink $self->point_file($point);
	return;
}

# Lets go of whoever arrives at the point, until nobody does: a carrier stops for each pair of nodes, and the
# worker reads its settings between two tasks only.
sub release_all_at
{
	my ($self, $point) = @_;
	for (my $quiet = 0; $quiet < 20; $quiet++)
	{
		$quiet = 0 if unlink $self->point_file($point);
		usleep(25_000);
	}
	return;
}

# Where the coordinator's backends stop from now on.
sub set_point
{
	my ($self, $value) = @_;
	return $self->set('dbscale.debug_point', $value);
}

# Runs the code while the statement, or the job that it started, is held at the point;
# returns what finish() does.
sub held_at
{
	my ($self, $point, $sql, $code) = @_;
	$self->set_point("$point=wait");
	my $session = $self->start($sql);
	$self->wait_for_point($point);
	$self->set_point('');
	$code->();
	$self->release_point($point);
	return $self->finish($session);
}

# The process that arrives at the point is killed, and with it the coordinator, which comes back.
sub killed_at
{
	my ($self, $point, $sql) = @_;
	$self->set_point("$point=kill");
	my ($rc) = $self->try($sql);
	isnt($rc, 0, "$point: the caller's session is gone");
	return $self->restart_without_point;
}

# The coordinator dies, and stops nowhere when it is back.
sub restart_without_point
{
	my ($self) = @_;
	$self->coordinator->adjust_conf('postgresql.conf', 'dbscale.debug_point', "''");
	$self->kill_all($self->coordinator);
	return $self->revive($self->coordinator);
}

# A server dies while the statement is held at the point, and comes back a little after that goes on;
# returns what finish() does, when the job has ended.
sub dies_at
{
	my ($self, $point, $sql, $victim) = @_;
	my @result = $self->held_at($point, $sql, sub {
		$self->kill_all($victim);
		$self->release_point($point);
		usleep(300_000);
		$self->revive($victim); });
	$self->wait_for_jobs("$point, a node dies");
	return @result;
}

# The job of the statement is cancelled when it is at the point; returns its number.
sub cancelled_at
{
	my ($self, $point, $sql) = @_;
	my $job;
	my (undef, undef, $err) = $self->held_at($point, $sql, sub {
		$job = $self->sql("SELECT max(job) FROM dbscale.jobs WHERE state = 'running'");
		is($self->sql("SELECT dbscale.cancel_job($job)"), 't', "$point: the job is cancelled"); });
	like($err, qr/57014/, "$point: the caller is told");
	is($self->sql("SELECT state FROM dbscale.jobs WHERE job = $job"), 'cancelled', "$point: the job says so");
	return $job;
}

sub wait_for_jobs
{
	my ($self, $what) = @_;
	return $self->wait_until("$what: the job has ended",
		sub { $self->sql("SELECT count(*) FROM dbscale.jobs WHERE state IN ('waiting', 'running')") eq '0' }, 90);
}

# Nothing is in doubt, nothing is left over, and catalog and nodes agree.
sub is_consistent
{
	my ($self, $what) = @_;
	$self->wait_for_recovery;
	$self->wait_until('everything is cleaned up', sub { $self->sql('SELECT count(*) FROM dbscale.cleanup') eq '0' }, 60);
	is($self->sql('SELECT * FROM dbscale.check()'), '', "$what: catalog and nodes agree");
	return;
}

sub place
{
	my ($self, $table, $shard) = @_;
	return $self->sql("SELECT node FROM dbscale.shards WHERE relation = '$table'::regclass AND shard = $shard");
}

# One of the other nodes.
sub elsewhere
{
	my ($self, $table, $shard) = @_;
	my $at = $self->place($table, $shard);
	my @others = grep { $_ ne $at } map { "n$_" } 1 .. scalar($self->nodes);
	return $others[ int rand @others ];
}

sub node_of { my ($self, $name) = @_; return $self->node($name =~ /(\d+)/); }

# The first key of a shard.
sub key_in
{
	my ($self, $table, $shard) = @_;
	return $self->sql("SELECT min(i) FROM generate_series(1, 5000) i WHERE dbscale.shard_for('$table', i) = $shard");
}

# A move of a shard, to another node if none is named.
sub move_sql
{
	my ($self, $table, $shard, $to, $method) = @_;
	return "SELECT dbscale.move_shard('$table', $shard, '" . ($to // $self->elsewhere($table, $shard)) . "', '" . ($method // 'online') . "')";
}

# All shards leave a node, while the code's sessions write, and some return.
sub drain_and_restore
{
	my ($self, $node, $finish, $check) = @_;
	my $job = $self->sql("SELECT dbscale.drain_node('$node')");
	is($self->sql("SELECT dbscale.wait_job($job, '60s')"), 'done', 'a node is drained');
	$finish->();
	is($self->sql("SELECT count(*) FROM dbscale.shards WHERE node = '$node'"), '0', 'and holds no shard');
	$check->('after drain_node');
	is($self->on($self->node_of($node), "SELECT count(*) FROM pg_proc WHERE pronamespace = 'dbscale_shards'::regnamespace"), '0', 'nor a function');
	$self->sql("SELECT dbscale.enable_node('$node')");
	$job = $self->sql("SELECT dbscale.rebalance('shards')");
	is($self->sql("SELECT dbscale.wait_job($job, '60s')"), 'done', 'the balance is restored');
	cmp_ok($self->sql("SELECT count(*) FROM dbscale.shards WHERE node = '$node'"), '>', '0', 'the node has shards again');
	is($self->sql("SELECT count(*) FROM dbscale.rebalance_plan('shards')"), '0', 'and there is nothing left to move');
	$check->('after rebalance');
	return;
}

1;
