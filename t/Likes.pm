# Likes that are counted in posts, where the two tables are not colocated: the tables of several
# placements, what their writers are told, and what is to be true of both.
package Likes;

use strict;
use warnings;

use DBScale;
use Test::More;

# Errors that such a load may meet without moves.
my @expected = qw(40P01 23505 25P02 3B001);
my $verify = 'SELECT c.counter, v.* FROM dbscale.counter c, LATERAL dbscale.verify_counter(c.counter) v ORDER BY 1, 2 LIMIT 5';

# Placements: far, both sharded, in two groups; own, in one, as both are sharded by another column; here, a
# target on the coordinator; from, a source there.  Options: db, placements, shards, posts (that are there at
# first), keys (that likes have).
sub new
{
	my ($class, %options) = @_;
	my $self = bless { %options, session => 0, acknowledged => {} }, $class;
	my ($db, $shards) = @options{qw(db shards)};

	foreach my $p (@{ $options{placements} })
	{
		$db->sql("CREATE TABLE ${p}_posts (id int PRIMARY KEY, title text, n bigint NOT NULL DEFAULT 0, s numeric);
		CREATE TABLE ${p}_likes (liker int, post int, w int, PRIMARY KEY (liker, post));");
		$db->sql("SELECT dbscale.distribute_table('${p}_posts', 'id', shard_count => $shards)") unless $p eq 'here';
		$db->sql("SELECT dbscale.distribute_table('${p}_likes', 'liker', " . ($p eq 'own' ? "colocate_with => 'own_posts'" : "shard_count => $shards") . ')') unless $p eq 'from';
		$db->sql("INSERT INTO ${p}_posts (id) SELECT i FROM generate_series(1, $options{posts}) i;
		INSERT INTO ${p}_likes SELECT j, i, j FROM generate_series(1, $options{keys}) i, generate_series(1, 10) j;
		SELECT dbscale.create_counter('${p}_posts', 'n', '${p}_likes', '{id}', '{post}', mode => 'buffered');
		SELECT dbscale.create_counter('${p}_posts', 's', '${p}_likes', '{id}', '{post}', 'sum', 'w', 'w > 2', mode => 'buffered');");
	}
	return $self;
}

# A session of these transactions.  After each it also inserts a row that nobody deletes: what was acknowledged is
# to be there at the end.
sub load
{
	my ($self, $p, @transactions) = @_;
	my $liker = 1_000_000 * ++$self->{session};
	return $self->{db}->start(join '', map { $_ . "INSERT INTO ${p}_likes VALUES (" . ++$liker . ', ' . number($self->{keys}) . ", 11) RETURNING 'ack ${p} ' || liker;\n" } @transactions);
}

# What came from a session: nothing but what is expected.
sub finish
{
	my ($self, $session, $what) = @_;
	my (undef, $out, $err) = $self->{db}->finish($session);
	is(DBScale::errors_but($err, @expected), '', "$what: no other errors");
	$self->{acknowledged}{$1}{$2} = 1 while $out =~ /^ack (\w+) (\d+)$/mg;
	return;
}

# There is something pending from here on, for posts with a row and without, unless it is carried.
sub write_some
{
	my ($self, @placements) = @_;
	my $liker = 1_000_000 * ++$self->{session};
	$self->{db}->sql("INSERT INTO ${_}_likes SELECT $liker + i, i, 5 FROM generate_series(1, $self->{keys}) i") foreach @placements;
	return;
}

sub is_verified
{
	my ($self, $what) = @_;
	is($self->{db}->sql($verify), '', $what);
	return;
}

sub is_clean
{
	my ($self, $what) = @_;
	$self->{db}->wait_for_recovery;
	$self->is_verified("$what: no counter is wrong");
	$self->{db}->is_consistent($what);
	return;
}

# Once all is carried, every row that has one is as plain SQL counts it.
sub is_carried
{
	my ($self, $what) = @_;
	my $db = $self->{db};
	$db->wait_until("$what: all is carried", sub {
		$db->sql('SELECT sum(dbscale.fold_counter(counter)) FROM dbscale.counter');
		$db->sql('SELECT sum(pending) FROM dbscale.counters') == 0 }, 60);
	$self->is_verified("$what: verified");
	is($db->sql(join ' UNION ALL ', map { qq(
	    SELECT '$_', p.id, p.n, l.n FROM ${_}_posts p LEFT JOIN (SELECT post, count(*) AS n, sum(w) FILTER (WHERE w > 2) AS s FROM ${_}_likes GROUP BY post) l
	    ON l.post = p.id WHERE p.n <> coalesce(l.n, 0) OR p.s <> coalesce(l.s, 0)) } @{ $self->{placements} }), '', "$what: the rows say the same");
	return;
}

sub are_acknowledged
{
	my ($self) = @_;
	foreach my $p (@{ $self->{placements} })
	{
		my %there = map { $_ => 1 } split /\n/, $self->{db}->sql("SELECT liker FROM ${p}_likes WHERE liker > 1000000");
		my @told = keys %{ $self->{acknowledged}{$p} };
		is(join(' ', grep { !$there{$_} } @told), '', "$p: every acknowledged row is there");
		cmp_ok(scalar(@told), '>', 50, "$p: and there are many");
	}
	return;
}

1;
