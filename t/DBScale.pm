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
#
# any(LIST), number(MOST) and seeded(SEED) are for tests that choose.
# Steps.pm has the methods that stop, kill or cancel something at a step, and those about shards.
package DBScale;

use strict;
use warnings;

use IO::Handle;
use IPC::Run ();
use POSIX qw(WNOHANG);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

use parent 'Steps';
use Exporter 'import';
our @EXPORT = qw(any number seeded);

my $TIMEOUT = $PostgreSQL::Test::Utils::timeout_default || 180;

# DBSCALE_SEED, or this, is what random choices begin with.
sub seeded
{
	my $seed = $ENV{DBSCALE_SEED} // $_[0];
	srand($seed);
	note "seed $seed";
	return;
}

sub any { return $_[ int rand @_ ]; }
sub number { return 1 + int rand $_[0]; }

# Options: nodes (2), settings (lines for the coordinator's configuration),
# node_settings (for the nodes'), new_sessions (for each sql(), where what a session knows matters).
sub new
{
	my ($class, %options) = @_;
	my $self = bless { nodes => [], new_sessions => $options{new_sessions} }, $class;
	my $common = "fsync = off\nmax_prepared_transactions = 50\nmax_connections = 60\nautovacuum = off\n"
	  . "log_statement = none\nlog_min_messages = info\n";

	$self->{nodes} = [ map { PostgreSQL::Test::Cluster->new("node$_") } 1 .. $options{nodes} // 2 ];
	$self->{coordinator} = PostgreSQL::Test::Cluster->new('coordinator');
	initialize($self->servers);
	$_->append_conf('postgresql.conf', $common . ($options{node_settings} // '')) foreach $self->nodes;
	$self->coordinator->append_conf('postgresql.conf',
		$common . "shared_preload_libraries = 'dbscale'\ndbscale.recovery_interval = 200ms\n" . ($options{settings} // ''));
	$_->start foreach $self->servers;

	$self->sql('SET client_min_messages = error; CREATE EXTENSION dbscale CASCADE');
	for my $i (1 .. @{ $self->{nodes} })
	{
		$self->sql("SET client_min_messages = error; SELECT dbscale.add_node('n$i', '"
			  . $self->node($i)->host . "', " . $self->node($i)->port . ", 'postgres')");
	}
	return $self;
}

# initdb of several at a time; it leaves nothing in the objects.
sub initialize
{
	my @running = map {
		my $pid = fork() // die "fork: $!";
		POSIX::_exit(eval { $_->init; 1 } ? 0 : 1) if $pid == 0;
		$pid } @_;
	my $failed = grep { waitpid($_, 0); $? != 0 } @running;
	die 'initdb failed' if $failed;
	return;
}

sub coordinator { return $_[0]->{coordinator}; }
sub node { return $_[0]->{nodes}[ $_[1] - 1 ]; }
sub nodes { return @{ $_[0]->{nodes} }; }
sub servers { my ($self) = @_; return ($self->{coordinator}, @{ $self->{nodes} }); }

sub sql
{
	my ($self, $sql) = @_;
	return $self->{new_sessions} ? $self->{coordinator}->safe_psql('postgres', $sql) : $self->on($self->{coordinator}, $sql);
}

# The output of a script on that server; dies on error.  To begin a psql and its backend costs more
# than most scripts, so one session for each server runs them all, and is as new for each: nothing of
# a session is left, and it is replaced when any server was started again (its connections to
# the nodes would be broken) or settings were changed (which reach an open session some time later).
sub on
{
	my ($self, $server, $sql) = @_;
	my $session = $self->{open}{ $server->name };
	my $state = join ' ', map { ($_->{_pid} // '', map { (Time::HiRes::stat($_))[9] } glob $_->data_dir . '/postgresql*.conf') } $self->servers;

	$session = $self->open_session($server, $state) unless $session && $session->{state} eq $state && is_alive($session->{backend});
	return $self->ask($server, $session, $sql);
}

sub open_session
{
	my ($self, $server, $state) = @_;
	my $base = $self->{coordinator}->basedir . '/open_' . $server->name;

	$self->close_session($server);
	pipe(my $from_us, my $to_psql) or die "pipe: $!";
	pipe(my $from_psql, my $to_us) or die "pipe: $!";
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		open STDIN, '<&', $from_us or POSIX::_exit(126);
		open STDOUT, '>&', $to_us or POSIX::_exit(126);
		open STDERR, '>', "$base.err" or POSIX::_exit(126);
		{ exec 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $server->connstr('postgres'); }
		POSIX::_exit(127);
	}
	$to_psql->autoflush(1);
	my $session = { pid => $pid, in => $to_psql, out => $from_psql, errors => "$base.err", script => "$base.sql", state => $state };
	$self->{open}{ $server->name } = $session;
	close $_ foreach $from_us, $to_us;
	$session->{backend} = $self->ask($server, $session, 'SELECT pg_backend_pid()');
	return $session;
}

sub close_session
{
	my ($self, $server) = @_;
	my $session = delete $self->{open}{ $server->name } or return;

	close $session->{$_} foreach qw(in out);
	kill 'KILL', $session->{pid};
	waitpid $session->{pid}, 0;
	return;
}

# Runs a script in an open session, which a script must not leave in a transaction.
sub ask
{
	my ($self, $server, $session, $sql) = @_;
	my $end = 'end of script ' . ++$self->{scripts};
	my $deadline = time() + 3 * $TIMEOUT;
	my ($out, $selected) = ('', '');
	local $SIG{PIPE} = 'IGNORE';

	vec($selected, fileno($session->{out}), 1) = 1;
	open my $script, '>', $session->{script} or die "$session->{script}: $!";
	print $script $sql;
	close $script;
	print { $session->{in} } "\\i $session->{script}\nDISCARD ALL;\nSELECT '$end';\n";
	until ($out =~ s/(?:^|\n)\Q$end\E\n\z//)
	{
		my $ready = select(my $read = $selected, undef, undef, 0.5);
		next if $ready <= 0 && time() < $deadline;
		next if $ready > 0 && sysread($session->{out}, $out, 65536, length $out);
		my $errors = slurp_file($session->{errors});
		$self->close_session($server);
		die(($ready > 0 ? 'error' : 'timed out') . ' running SQL on ' . $server->name . ": '$errors' while running '$sql'");
	}
	return $out;
}

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

# Starts a session that does something and then stays as it is until go_on(), which lets it do the rest.
# Returns when it stays.
sub start_held
{
	my ($self, $sql, $rest, %options) = @_;
	my $base = $self->{coordinator}->basedir . '/held_' . ++$self->{held};
	my $session = $self->start("$sql;\n\\! touch $base.here; until [ -e $base.go ]; do sleep 0.02; done\n$rest;\n", %options);

	$session->{go} = "$base.go";
	$self->wait_until("'$sql' is done", sub { -e "$base.here" }, 60);
	return $session;
}

sub go_on
{
	my ($self, $session) = @_;
	append_to_file($session->{go}, '');
	return;
}

# Runs a script again until it is not the victim of a deadlock; returns its errors.
sub through_deadlocks
{
	my ($self, $sql) = @_;
	my $err = '';

	for (1 .. 20)
	{
		(undef, undef, $err) = $self->try($sql, stop_on_error => 1);
		last unless $err =~ /40P01/;
	}
	return $err;
}

# The errors of a script but for those with one of these SQLSTATEs.
sub errors_but
{
	my ($err, @states) = @_;
	my %expected = map { $_ => 1 } @states;
	return join ' ', grep { /(?:ERROR|FATAL|PANIC):  (\w{5})/ && !$expected{$1} } split /\n/, $err;
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

# A setting of the coordinator, for sessions that begin from now on, and for others soon.
sub set
{
	my ($self, $name, $value) = @_;
	my $coordinator = $self->{coordinator};
	my $there = slurp_file($coordinator->data_dir . '/postgresql.conf') =~ /^\Q$name\E\W/m;

	# adjust_conf() changes what is there, and nothing else
	$coordinator->append_conf('postgresql.conf', "$name = ''") if !$there;
	$coordinator->adjust_conf('postgresql.conf', $name, "'$value'");
	$coordinator->reload;
	return;
}

# A setting of the coordinator that its maintenance worker goes by: when this returns, nothing that
# the worker does was begun under the old one.  It does something each second.
sub set_for_worker
{
	my ($self, $name, $value) = @_;
	$self->set($name, $value);
	my $since = $self->sql('SELECT clock_timestamp()');
	return $self->wait_until("the worker goes by $name = $value", sub {
			$self->sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dbscale maintenance' "
				  . "AND state_change > '$since'::timestamptz + interval '1.5 s'") });
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

	$count += $self->on($_, 'SELECT count(*) FROM pg_prepared_xacts') foreach $self->servers;
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
