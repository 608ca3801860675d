# Random statements give the same rows over distributed tables as over plain ones.
#
# DBSCALE_SEED and DBSCALE_QUERIES choose others than the fixed ones:
#   DBSCALE_SEED=42 DBSCALE_QUERIES=5000 prove -I t t/020_differential.pl
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueryGenerator;
use Test::More;

my $seed = $ENV{DBSCALE_SEED} // 20261122;
my $queries = $ENV{DBSCALE_QUERIES} // 1000;

my $node = PostgreSQL::Test::Cluster->new('coordinator');
$node->init;
$node->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'dbscale'
max_prepared_transactions = 50
fsync = off
));
$node->start;

my $tables = q(
CREATE TABLE users (id bigint PRIMARY KEY, region text, name text, score numeric(6,1), born date, active boolean);
CREATE TABLE posts (user_id bigint, id bigint, title text, likes int DEFAULT 0, day date, score numeric(6,1), PRIMARY KEY (user_id, id));
CREATE TABLE likes (user_id bigint, post_id int, liker_id bigint, weight numeric(6,1), day date);
CREATE TABLE events (day date NOT NULL, id int, user_id int, kind text);
CREATE TABLE customers (region text, id int, name text, score numeric(6,1));
CREATE TABLE regions (region text PRIMARY KEY, label text, rank int);
CREATE TABLE notes (id int, user_id int, body text);
CREATE TABLE codes (code text, id int, v int);
);
my $distribute = q(
SELECT dbscale.distribute_table('users', 'id', shard_count => 8);
SELECT dbscale.distribute_table('posts', 'user_id', colocate_with => 'users');
SELECT dbscale.distribute_table('likes', 'user_id', colocate_with => 'users');
SELECT dbscale.distribute_table('events', 'day', 'range', step => '3 months', bounds => '{"from": "2023-01-01", "to": "2026-01-01"}');
SELECT dbscale.distribute_table('customers', 'region', 'list', bounds => '{"us": ["us"], "eu": {"values": ["eu", "a"], "node": "n2"}, "rest": ["asia", "", null]}');
SELECT dbscale.distribute_table('codes', 'code', shard_count => 4);
SELECT dbscale.distribute_reference('regions');
);
# the same data in both, made once and copied
my $data = q(
INSERT INTO users SELECT i, (ARRAY['us','eu','asia','a',NULL])[1 + i % 5], 'name ' || i % 9, (i * 7 % 50) + 0.5,
	DATE '2024-01-01' + i * 11 % 366, CASE WHEN i % 7 = 0 THEN NULL ELSE i % 2 = 0 END FROM generate_series(1, 40) i;
INSERT INTO posts SELECT 1 + i % 44, i, CASE WHEN i % 6 = 0 THEN NULL ELSE 'name ' || i % 12 END, i % 23,
	DATE '2024-01-01' + i * 5 % 366, CASE WHEN i % 5 = 0 THEN NULL ELSE i % 40 + 0.1 END FROM generate_series(1, 90) i;
INSERT INTO likes SELECT CASE WHEN i % 19 = 0 THEN NULL ELSE 1 + i * 3 % 44 END, i % 90, 1 + i * 13 % 45,
	i % 9 + 0.2, DATE '2024-01-01' + i * 3 % 366 FROM generate_series(1, 130) i;
INSERT INTO events SELECT DATE '2023-06-01' + i * 17 % 800, i, i % 50, (ARRAY['a','us','name 1',NULL])[1 + i % 4] FROM generate_series(1, 80) i;
INSERT INTO customers SELECT (ARRAY['us','eu','asia','a','',NULL])[1 + i % 6], i, 'name ' || i % 9, i % 31 + 0.5 FROM generate_series(1, 60) i;
INSERT INTO regions VALUES ('us', 'us', 1), ('eu', 'name 2', 2), ('asia', NULL, 3), ('a', 'a', NULL);
INSERT INTO codes SELECT CASE WHEN i % 13 = 0 THEN NULL ELSE (ARRAY['a', 'A', 'b', 'us', 'a ', 'name 7', 'z', ''])[1 + i % 8] END, i, i % 7 FROM generate_series(1, 60) i;
INSERT INTO notes SELECT i, i % 45, (ARRAY['us','name 3','',NULL])[1 + i % 4] FROM generate_series(1, 50) i;
);

$node->safe_psql('postgres', "CREATE EXTENSION dbscale CASCADE; SELECT dbscale.add_local_node('n1'); SELECT dbscale.add_local_node('n2');");
$node->safe_psql('postgres', "CREATE SCHEMA plain; SET search_path = plain; $tables $data ANALYZE;");
$node->safe_psql('postgres', "CREATE SCHEMA dist; SET search_path = dist; $tables $distribute $data ANALYZE;");

# Statements are numbered in the output, so that their rows can be told apart.
my $generator = QueryGenerator->new($seed);
my @statements;
while (@statements < $queries)
{
	push @statements, $generator->statement;
	push @statements, $generator->routed(4) if $generator->chance(10);
}
# found by seeds of other days: rows kept aside for a scan were freed while it still had them
push @statements, q{SELECT t1.liker_id, '-' FROM likes t1 WHERE (t1.weight = 20.8 AND EXISTS (SELECT 1 FROM posts t2 WHERE t2.likes = t1.user_id)) AND t1.day = t1.day UNION ALL SELECT t4.likes, t4.title FROM likes t3 JOIN posts t4 ON t3.user_id = t4.user_id WHERE (t3.user_id = 11 OR (t4.likes BETWEEN 32 AND 54 AND t4.id BETWEEN 10 AND 17)) EXCEPT SELECT t6.likes, t6.title FROM notes t5 FULL JOIN posts t6 ON t5.user_id = t6.user_id WHERE (NOT EXISTS (SELECT 1 FROM likes t7 WHERE t7.post_id = t5.id) OR t6.user_id <> 21) AND t5.user_id = (SELECT max(t8.rank) FROM regions t8 WHERE true)};
my $script = "\\set VERBOSITY sqlstate\nSET statement_timeout = '20s';\nSET extra_float_digits = 0;\nSET plan_cache_mode = force_generic_plan;\n";
$script .= "\\echo #$_\n\\warn #$_\n$statements[$_];\n" foreach 0 .. $#statements;

# The SQLSTATE of each statement that failed, by its number.
sub errors_of
{
	my ($err) = @_;
	my %errors;
	my $current = -1;

	foreach my $line (split /\n/, $err)
	{
		$current = $1 if $line =~ /^#(\d+)$/;
		$errors{$current} = $1 if $line =~ /ERROR:\s+(\w+)/;
	}
	return \%errors;
}

sub answers
{
	my ($schema) = @_;
	my ($out, $err) = ('', '');
	my @answers;
	my $current = -1;

	$node->psql('postgres', "SET search_path = $schema;\n\\o\n$script", stdout => \$out, stderr => \$err,
		extra_params => ['-q'], on_error_stop => 0);
	foreach my $line (split /\n/, $out)
	{
		if ($line =~ /^#(\d+)$/) { $current = $1; $answers[$current] = []; next; }
		push @{ $answers[$current] }, $line if $current >= 0;
	}
	# an ORDER BY here is on all columns, so its rows are compared in order
	foreach my $i (0 .. $#statements)
	{
		$answers[$i] = [ sort @{ $answers[$i] // ['no answer'] } ] if $statements[$i] !~ / ORDER BY 1[^()]*$/;
	}
	return (\@answers, errors_of($err));
}

my ($plain, $plain_errors) = answers('plain');
my ($dist, $dist_errors) = answers('dist');
my $different = 0;
my $rows = 0;
my $other_errors = 0;

# What is refused, as documented: parts of a statement that would have to see rows as they
# were before its other parts wrote.  Not met with the fixed seed.
my %refused = map { $_ => 1 } grep { $statements[$_] =~ /^WITH (gone|w) / && ($dist_errors->{$_} // '') eq '0A000' && !$plain_errors->{$_} } 0 .. $#statements;
$refused{ $_ + 1 } = 1 foreach keys %refused;

foreach my $i (0 .. $#statements)
{
	my ($p, $d) = (join("\n", @{ $plain->[$i] }), join("\n", @{ $dist->[$i] }));
	$rows += @{ $plain->[$i] };
	next if $p eq $d || $refused{$i};
	my $before = $i > 0 && $statements[ $i - 1 ] =~ /^(INSERT|UPDATE|DELETE|MERGE|WITH|DECLARE|CREATE)/ ? "$statements[$i - 1]\n" : '';
	diag("statement $i of seed $seed:\n$before$statements[$i]\nplain:\n" . substr($p, 0, 600) . "\ndistributed:\n" . substr($d, 0, 600))
	  if ++$different <= 5;
}
foreach my $i (sort { $a <=> $b } keys %{ { %$plain_errors, %$dist_errors } })
{
	my ($p, $d) = map { $_->{$i} // 'none' } $plain_errors, $dist_errors;
	# of several constraints that rows violate, or rows that MERGE meets twice, the one met first is named, and rows have no order
	next if $p eq $d || $refused{$i} || ($p =~ /^2[13]/ && $d =~ /^2[13]/);
	diag("statement $i of seed $seed: plain error $p, distributed $d\n$statements[$i]");
	$other_errors++;
}
note("$queries statements, $rows rows, errors: " . join(' ', sort values %$plain_errors) . ', refused: ' . scalar(keys %refused));
ok($rows > $queries, 'the statements return rows');
is($different, 0, "all statements of seed $seed give the same rows");
is($other_errors, 0, 'and the same errors');

$node->stop;
done_testing();
