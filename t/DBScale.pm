# A coordinator and its nodes, each a server of its own, for the fault tests.
#
#	my $db = DBScale->new(nodes => 2);
#	$db->sql('SELECT ...');                     # on the coordinator; dies on error
#	my ($rc, $out, $err) = $db->try('...');     # the same, with its error
#	my $s = $db->start('...');                  # in the background
#	my ($rc, $out, $err) = $db->finish($s);
#	$db->kill_all($db->node(1));                # SIGKILL, every process of that server
#	$db->revive($db->node(1));
#	$db->wait_for_recovery;                     # nothing prepared, nothing in the log
package DBScale;

use strict;
use warnings;

use IPC::Run ();
use POSIX qw(WNOHANG);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $TIMEOUT = $PostgreSQL::Test::Utils::timeout_default || 180;

# Options: nodes (2), settings (lines for the coordinator's configuration),
# node_settings (for the nodes').
sub new
{
	my ($class, %options) = @_;
	my $self = bless { nodes => [] }, $class;
	my $common = "fsync = off\nmax_prepared_transactions = 50\nmax_connections = 60\nautovacuum = off\n"
	  . "log_statement = none\nlog_min_messages = info\n";

	for my $i (1 .. $options{nodes} // 2)
	{
		my $node = PostgreSQL::Test::Cluster->new("node$i");
		$node->init;
		$node->append_conf('postgresql.conf', $common . ($options{node_settings} // ''));
		$node->start;
		push @{ $self->{nodes} }, $node;
	}
	my $coordinator = PostgreSQL::Test::Cluster->new('coordinator');
	$coordinator->init;
	$coordinator->append_conf('postgresql.conf',
		$common . "shared_preload_libraries = 'dbscale'\ndbscale.recovery_interval = 200ms\n" . ($options{settings} // ''));
	$coordinator->start;
	$self->{coordinator} = $coordinator;

	$self->sql('SET client_min_messages = error; CREATE EXTENSION dbscale CASCADE');
	for my $i (1 .. @{ $self->{nodes} })
	{
		$self->sql("SET client_min_messages = error; SELECT dbscale.add_node('n$i', '"
			  . $self->node($i)->host . "', " . $self->node($i)->port . ", 'postgres')");
	}
	return $self;
}

sub coordinator { return $_[0]->{coordinator}; }
sub node { return $_[0]->{nodes}[ $_[1] - 1 ]; }
sub nodes { return @{ $_[0]->{nodes} }; }
sub servers { my ($self) = @_; return ($self->{coordinator}, @{ $self->{nodes} }); }

sub sql { my ($self, $sql) = @_; return $self->{coordinator}->safe_psql('postgres', $sql); }

# (exit code, output, errors with SQLSTATE) of a script; goes on after an error.
sub try
{
	my ($self, $sql, %options) = @_;
	return $self->finish($self->start($sql, %options));
}

# Start psql on the coordinator (or server => ...) in the background.  Files, not pipes:
# nobody needs to read while it runs.  With tags => 1 the commands' tags are output.
sub start
{
	my ($self, $sql, %options) = @_;
	my $server = $options{server} // $self->{coordinator};
	my $base = $self->{coordinator}->basedir . '/session_' . ++$self->{sessions};
	my @command = ('psql', $options{tags} ? '-XAt' : '-XAtq', '-v', 'VERBOSITY=verbose', '-v', 'SHOW_CONTEXT=errors');

	push @command, '-v', 'ON_ERROR_STOP=1' if $options{stop_on_error};
	push @command, '-d', $server->connstr($options{dbname} // 'postgres');
	append_to_file("$base.in", $sql);
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		open STDIN, '<', "$base.in" or POSIX::_exit(126);
		open STDOUT, '>', "$base.out" or POSIX::_exit(126);
		open STDERR, '>', "$base.err" or POSIX::_exit(126);
		{ exec @command; }
		POSIX::_exit(127);
	}
	return { pid => $pid, base => $base };
}

sub finish
{
	my ($self, $session) = @_;
	my $deadline = time() + $TIMEOUT;
	my $ended = 0;

	while (($ended = waitpid($session->{pid}, WNOHANG)) == 0 && time() < $deadline) { usleep(10_000); }
	my $status = $?;
	if ($ended == 0)
	{
		kill 'KILL', $session->{pid};
		waitpid $session->{pid}, 0;
		die "timed out waiting for a session: " . slurp_file("$session->{base}.err");
	}
	my $out = slurp_file("$session->{base}.out");
	chomp $out;
	return ($status >> 8, $out, slurp_file("$session->{base}.err"));
}

# Poll until the code returns true; dies with the words otherwise.
sub wait_until
{
	my ($self, $what, $code, $timeout) = @_;
	my $deadline = time() + ($timeout // $TIMEOUT);

	while (time() < $deadline)
	{
		return 1 if $code->();
		usleep(50_000);
	}
	die "timed out waiting until $what";
}

# The file that tells that a backend has arrived at a debug point, and holds it there.
sub point_file
{
	my ($self, $point) = @_;
	return $self->{coordinator}->data_dir . "/dbscale_debug_$point";
}

sub wait_for_point
{
	my ($self, $point) = @_;
	my $file = $self->point_file($point);
	return $self->wait_until("$point is reached", sub { -e $file }, 30);
}

sub release_point
{
	my ($self, $point) = @_;
	unlink $self->point_file($point);
	return;
}

# Children of a process, as Linux' /proc tells.
sub children
{
	my ($parent) = @_;
	my @children;

	foreach my $file (glob '/proc/[0-9]*/stat')
	{
		open my $stat, '<', $file or next;
		my $line = <$stat> // '';
		close $stat;
		push @children, $1 if $line =~ /^(\d+) \(.*\) (\S) (\d+) / && $3 == $parent && $2 ne 'Z';
	}
	return @children;
}

sub is_alive
{
	my ($pid) = @_;
	open my $stat, '<', "/proc/$pid/stat" or return 0;
	my $line = <$stat> // '';
	return $line =~ /^\d+ \(.*\) (\S) / && $1 ne 'Z';
}

# The whole server at one moment, as when the power goes: nobody can tidy up.
sub kill_all
{
	my ($self, $server) = @_;
	my $postmaster = $server->{_pid};
	kill 'STOP', $postmaster;
	my @children = children($postmaster);
	kill 'KILL', @children;
	$server->kill9;
	$self->wait_until('the server is dead', sub { !grep { is_alive($_) } $postmaster, @children }, 30);
	# a zombie that nobody has reaped yet still looks alive to the new postmaster
	unlink $server->data_dir . '/postmaster.pid', $server->host . '/.s.PGSQL.' . $server->port . '.lock';
	return;
}

sub revive
{
	my ($self, $server) = @_;
	unlink glob($server->data_dir . '/dbscale_debug_*');
	$server->start;
	return;
}

# What is prepared anywhere, and how many decisions are still in the log.
sub in_doubt
{
	my ($self) = @_;
	my $count = 0;

	$count += $_->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts') foreach $self->servers;
	return $count + $self->sql('SELECT count(*) FROM dbscale.transaction_log');
}

sub wait_for_recovery
{
	my ($self) = @_;
	return $self->wait_until('nothing is in doubt', sub { $self->in_doubt == 0 }, 60);
}

# A key, from 1 on, whose row is on that node; `skip` passes over that many.
sub key_on
{
	my ($self, $table, $node, $skip) = @_;
	return $self->sql("SELECT i FROM generate_series(1, 1000) i WHERE dbscale.node_for('$table', i) = '$node' ORDER BY i OFFSET "
		  . ($skip // 0) . ' LIMIT 1');
}

1;
