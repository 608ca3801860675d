# QueryGenerator: random but repeatable SQL over a small social network.
#
# The same statements are run over plain tables and over distributed ones (two
# schemas with equal names, chosen by search_path), and must give the same rows.
# So a statement here may be anything, as long as PostgreSQL defines its answer:
# LIMIT stands only above an ORDER BY of all columns, aggregates whose result
# depends on order have their own ORDER BY, and numbers are exact.
package QueryGenerator;

use strict;
use warnings;

# column => kind; the first column of each table is its shard key (or just a key)
my %tables = (
	users => [ [ id => 'int' ], [ region => 'text' ], [ name => 'text' ], [ score => 'num' ],
		[ born => 'date' ], [ active => 'bool' ] ],
	posts => [ [ user_id => 'int' ], [ id => 'int' ], [ title => 'text' ], [ likes => 'int' ],
		[ day => 'date' ], [ score => 'num' ] ],
	likes => [ [ user_id => 'int' ], [ post_id => 'int' ], [ liker_id => 'int' ],
		[ weight => 'num' ], [ day => 'date' ] ],
	events => [ [ day => 'date' ], [ id => 'int' ], [ user_id => 'int' ], [ kind => 'text' ] ],
	customers => [ [ region => 'text' ], [ id => 'int' ], [ name => 'text' ], [ score => 'num' ] ],
	regions => [ [ region => 'text' ], [ label => 'text' ], [ rank => 'int' ] ],
	notes => [ [ id => 'int' ], [ user_id => 'int' ], [ body => 'text' ] ],
);
my @names = sort keys %tables;
my @weighted = (qw(users users posts posts posts likes likes likes events customers regions notes));

sub new
{
	my ($class, $seed) = @_;
	return bless { state => $seed + 12345, alias => 0 }, $class;
}

# A generator of our own: perl's rand may differ between versions.
sub pick_number
{
	my ($self, $n) = @_;
	$self->{state} = ($self->{state} * 1103515245 + 12345) % 2147483648;
	return int($self->{state} / 65536) % $n;
}

sub pick { my ($self, @from) = @_; return $from[ $self->pick_number(scalar @from) ]; }
sub chance { my ($self, $percent) = @_; return $self->pick_number(100) < $percent; }

sub constant
{
	my ($self, $kind) = @_;
	return $self->pick_number(60) - 5 if $kind eq 'int';
	return sprintf("%d.%d", $self->pick_number(50), $self->pick_number(10)) if $kind eq 'num';
	return sprintf("DATE '2024-%02d-%02d'", 1 + $self->pick_number(12), 1 + $self->pick_number(28))
	  if $kind eq 'date';
	return $self->pick('true', 'false') if $kind eq 'bool';
	return $self->pick("'us'", "'eu'", "'asia'", "'a'", "'name 7'", "''", "'t%'");
}

# A column of one of the tables in scope, of this kind; undef if there is none.
sub column
{
	my ($self, $scope, $kind) = @_;
	my @found;
	foreach my $table (@$scope)
	{
		push @found, map { "$table->{alias}.$_->[0]" }
		  grep { !$kind || $_->[1] eq $kind } @{ $table->{columns} };
	}
	return @found ? $self->pick(@found) : undef;
}

sub any_column
{
	my ($self, $scope) = @_;
	my $table = $self->pick(@$scope);
	my $column = $self->pick(@{ $table->{columns} });
	return ("$table->{alias}.$column->[0]", $column->[1]);
}

sub comparison { my ($self) = @_; return $self->pick('=', '=', '<', '>', '<=', '>=', '<>'); }

sub predicate
{
	my ($self, $scope, $depth) = @_;
	my $r = $self->pick_number(100);
	my ($column, $kind) = $self->any_column($scope);

	return "$column " . ($kind eq 'bool' ? '=' : $self->comparison) . ' ' . $self->constant($kind) if $r < 32;
	return "$column IS " . $self->pick('', 'NOT ') . 'NULL' if $r < 38;
	return "$column IN (" . join(', ', map { $self->constant($kind) } 1 .. 3) . ')' if $r < 46;
	if ($r < 58)
	{
		my $key = $scope->[0];
		my $first = $key->{columns}[0];
		return "$key->{alias}.$first->[0] = \$1" if $self->{prepared} && $first->[1] eq 'int';
		return "$key->{alias}.$first->[0] = " . $self->constant($first->[1]);
	}
	if ($r < 64)
	{
		my $other = $self->column($scope, $kind);
		return "$column " . ($kind eq 'bool' ? '=' : $self->comparison) . " $other";
	}
	return 'NOT (' . $self->predicate($scope, $depth + 1) . ')' if $r < 68 && $depth < 3;
	return '(' . $self->predicate($scope, $depth + 1) . ' ' . $self->pick('OR', 'AND') . ' '
	  . $self->predicate($scope, $depth + 1) . ')' if $r < 80 && $depth < 3;
	return $self->subquery_predicate($scope, $depth) if $r < 94 && $depth < 2;
	return "$column BETWEEN " . $self->constant($kind) . ' AND ' . $self->constant($kind) if $kind ne 'bool';
	return "$column = true";
}

sub new_table
{
	my ($self) = @_;
	my $name = $self->pick(@weighted);
	return { name => $name, alias => 't' . ++$self->{alias}, columns => $tables{$name} };
}

sub subquery_predicate
{
	my ($self, $scope, $depth) = @_;
	my $table = $self->new_table;
	my $inner = [$table];
	my ($column, $kind) = $self->any_column($scope);
	my $match = $self->column($inner, $kind);

	return "$column IS NOT NULL" if !defined $match;
	my $where = $self->chance(60) ? ' AND ' . $self->predicate($inner, $depth + 2) : '';
	my $r = $self->pick_number(4);
	my $from = "$table->{name} $table->{alias}";
	return $self->pick('', 'NOT ') . "EXISTS (SELECT 1 FROM $from WHERE $match = $column$where)" if $r == 0;
	return "$column IN (SELECT $match FROM $from WHERE true$where)" if $r == 1;
	return "$column = (SELECT max($match) FROM $from WHERE true$where)" if $r == 2 && $kind ne 'bool';
	return "(SELECT count(*) FROM $from WHERE $match = $column$where) " . $self->comparison . ' '
	  . $self->pick_number(4);
}

# A join condition: on equal keys mostly, so that colocated joins are met often.
sub join_condition
{
	my ($self, $scope, $table) = @_;
	my %user = (users => 'id', posts => 'user_id', likes => 'user_id', events => 'user_id', notes => 'user_id');
	my $extra = $self->chance(25) ? ' AND ' . $self->predicate([ @$scope, $table ], 2) : '';

	if ($user{ $table->{name} } && $self->chance(75))
	{
		my @with = grep { $user{ $_->{name} } } @$scope;
		if (@with)
		{
			my $other = $self->pick(@with);
			return "$other->{alias}.$user{$other->{name}} = $table->{alias}.$user{$table->{name}}$extra";
		}
	}
	foreach my $kind ('int', 'text', 'date')
	{
		my $mine = $self->column([$table], $kind);
		my $other = $self->column($scope, $kind);
		return "$other = $mine$extra" if $mine && $other && ($kind ne 'int' || $self->chance(60));
	}
	return $self->column($scope, 'int') . ' = ' . $self->column([$table], 'int') . $extra
	  if $self->column($scope, 'int') && $self->column([$table], 'int');
	return 'false';
}

# FROM with up to $most tables; returns the text and the tables in scope.
sub from_clause
{
	my ($self, $most) = @_;
	my $first = $self->new_table;
	my @scope = ($first);
	my $text = "$first->{name} $first->{alias}";
	my $count = 1 + $self->pick_number($most);

	while (@scope < $count)
	{
		my $table = $self->new_table;
		my $join = $self->pick('JOIN', 'JOIN', 'JOIN', 'LEFT JOIN', 'LEFT JOIN', 'RIGHT JOIN');
		my $condition = $self->join_condition(\@scope, $table);

		# FULL JOIN takes only conditions that can be merged or hashed
		if ($self->chance(12) && $condition =~ /^[\w.]+ = [\w.]+$/) { $join = 'FULL JOIN'; }
		my $source = "$table->{name} $table->{alias}";
		$source = "(SELECT * FROM $table->{name} s WHERE " . $self->predicate([ { %$table, alias => 's' } ], 2)
		  . ") $table->{alias}" if $self->chance(15);
		if ($self->chance(8))
		{
			my @columns = map { "s.$_->[0]" } @{ $table->{columns} };
			$source = "LATERAL (SELECT s.* FROM $table->{name} s WHERE "
			  . $self->join_condition(\@scope, { %$table, alias => 's' })
			  . ' ORDER BY ' . join(', ', @columns) . " LIMIT 2) $table->{alias}";
			($join, $condition) = ($self->pick('JOIN', 'LEFT JOIN'), 'true');
		}
		$text .= " $join $source ON $condition";
		push @scope, $table;
	}
	return ($text, \@scope);
}

sub where
{
	my ($self, $scope) = @_;
	return '' if $self->chance(25);
	return ' WHERE ' . join(' AND ', map { $self->predicate($scope, 0) } 0 .. $self->pick_number(2));
}

# ORDER BY every column, then LIMIT: ties are equal rows, so the answer is one.
sub order_and_limit
{
	my ($self, $columns) = @_;
	return '' if $self->chance(55);
	my $order = ' ORDER BY ' . join(', ', map { $_ . $self->pick('', ' DESC', ' NULLS FIRST') } 1 .. $columns);
	$order .= ' LIMIT ' . (1 + $self->pick_number(20)) if $self->chance(70);
	$order .= ' OFFSET ' . $self->pick_number(5) if $self->chance(20);
	return $order;
}

sub plain_select
{
	my ($self, $most) = @_;
	my ($from, $scope) = $self->from_clause($most);
	my @columns = map { ($self->any_column($scope))[0] } 0 .. $self->pick_number(4);
	my $distinct = $self->chance(20) ? 'DISTINCT ' : '';

	push @columns, "row_number() OVER (PARTITION BY $columns[0] ORDER BY "
	  . join(', ', $self->whole_order($scope)) . ')' if $self->chance(12) && !$distinct;
	push @columns, "(SELECT count(*) FROM likes l WHERE l.post_id = " . ($self->column($scope, 'int') // '1') . ')'
	  if $self->chance(8);
	return "SELECT $distinct" . join(', ', @columns) . " FROM $from" . $self->where($scope)
	  . $self->order_and_limit(scalar @columns);
}

# All columns in scope: an order that leaves no tie but between equal rows.
sub whole_order
{
	my ($self, $scope) = @_;
	return map { my $t = $_; map { "$t->{alias}.$_->[0]" } @{ $t->{columns} } } @$scope;
}

sub aggregate
{
	my ($self, $scope) = @_;
	my $filter = $self->chance(20) ? ' FILTER (WHERE ' . $self->predicate($scope, 2) . ')' : '';
	my $number = $self->column($scope, $self->pick('int', 'num')) // 1;
	my ($any) = $self->any_column($scope);
	my $text = $self->column($scope, 'text') // "'x'";
	return $self->pick('count(*)', "count($any)", "count(DISTINCT $any)", "sum($number)", "avg($number)",
		"min($number)", "max($number)", "sum(DISTINCT $number)",
		"string_agg($text, ',' ORDER BY $text)", "array_agg($number ORDER BY $number)",
		"bool_or($number > 10)", "variance($number)", "stddev_pop($number)", "stddev($number)", "var_pop($number * 1000)",
		"length(string_agg($text, '; '))", "regr_count($number, $number)",
		'avg(age(' . ($self->column($scope, 'date') // "DATE '2024-01-01'") . ", DATE '2020-02-29'))",
		"percentile_disc(0.5) WITHIN GROUP (ORDER BY $number)") . $filter;
}

sub aggregate_select
{
	my ($self, $most) = @_;
	my ($from, $scope) = $self->from_clause($most);
	my @keys = map { ($self->any_column($scope))[0] } 1 .. $self->pick_number(3);
	my @aggregates = map { $self->aggregate($scope) } 0 .. $self->pick_number(3);
	my $sql = 'SELECT ' . join(', ', @keys, @aggregates) . " FROM $from" . $self->where($scope);

	# up to 17 the rows of grouping sets come in another order than ORDER BY's, where WHERE makes one constant
	my $ordered = 1;
	if (@keys)
	{
		my $list = join(', ', @keys);
		if ($self->chance(15))
		{
			$list = $self->pick("ROLLUP ($list)", "CUBE ($list)", "GROUPING SETS (($list), ())");
			$ordered = 0;
		}
		$sql .= " GROUP BY $list";
		$sql .= ' HAVING count(*) ' . $self->comparison . ' ' . $self->pick_number(5) if $self->chance(25);
	}
	return $ordered ? $sql . $self->order_and_limit(@keys + @aggregates) : $sql;
}

sub set_operation
{
	my ($self) = @_;
	my @sides = map {
		my ($from, $scope) = $self->from_clause(2);
		'SELECT ' . ($self->column($scope, 'int') // '0') . ', ' . ($self->column($scope, 'text') // "'-'")
		  . " FROM $from" . $self->where($scope)
	} 0 .. 1 + $self->pick_number(2);
	my $sql = shift @sides;
	$sql .= ' ' . $self->pick('UNION', 'UNION ALL', 'INTERSECT', 'EXCEPT', 'EXCEPT ALL') . " $_" foreach @sides;
	return $sql . $self->order_and_limit(2);
}

sub with_cte
{
	my ($self) = @_;
	my ($from, $scope) = $self->from_clause(2);
	my $key = $self->column($scope, 'int') // '1';
	my ($other) = $self->any_column($scope);
	my ($from2, $scope2) = $self->from_clause(2);
	my $join = $self->column($scope2, 'int') // '1';
	my ($out) = $self->any_column($scope2);
	return "WITH c AS " . $self->pick('', 'MATERIALIZED ')
	  . "(SELECT $key AS k, count($other) AS n FROM $from" . $self->where($scope) . " GROUP BY 1) "
	  . "SELECT $out, c.n FROM $from2 " . $self->pick('JOIN', 'LEFT JOIN') . " c ON c.k = $join"
	  . $self->where($scope2) . $self->order_and_limit(2);
}

# DML, to be run inside a transaction that is rolled back (see statement()).
sub modification
{
	my ($self) = @_;
	my $table = $self->pick('users', 'posts', 'likes', 'events', 'customers');
	my $t = { name => $table, alias => 'm', columns => $tables{$table} };
	my @columns = map { $_->[0] } @{ $t->{columns} };
	my $returning = $self->chance(60) ? ' RETURNING ' . join(', ', map { "m.$_" } @columns) : '';
	my $r = $self->pick_number(10);

	if ($r < 4)
	{
		my @settable = @{ $t->{columns} }[ 2 .. $#{ $t->{columns} } ];
		my $set = $self->pick(@settable);
		my $value = $self->chance(40) && $set->[1] =~ /int|num/ ? "m.$set->[0] + 1" : $self->constant($set->[1]);
		return "UPDATE $table m SET $set->[0] = $value" . $self->where([$t]) . $returning;
	}
	if ($r < 6)
	{
		my $other = $self->new_table;
		my $condition = $self->join_condition([$other], $t);
		my $set = $t->{columns}[-1];
		return "UPDATE $table m SET $set->[0] = " . $self->constant($set->[1])
		  . " FROM $other->{name} $other->{alias} WHERE $condition$returning";
	}
	return "DELETE FROM $table m" . $self->where([$t]) . $returning if $r < 8;
	return "UPDATE $table m SET $columns[0] = m.$columns[0] + 1000000 " . $self->where([$t]) . $returning
	  if $r < 9 && $t->{columns}[0][1] eq 'int';
	my $number = $self->column([$t], 'int');
	return "INSERT INTO notes SELECT $number, 1, 'x' FROM $table m" . $self->where([$t]);
}

sub row_values
{
	my ($self, $id) = @_;
	return '(' . join(', ', 1 + $self->pick_number(50), $id // 1 + $self->pick_number(200), "'new'", $self->pick_number(9),
		$self->constant('date'), $self->pick('NULL', '1.5')) . ')';
}

sub insertion
{
	my ($self) = @_;
	my $r = $self->pick_number(11);
	my $returning = $self->chance(60) ? ' RETURNING *' : '';
	my $action = $self->pick('likes = posts.likes + 1', 'title = excluded.title, day = NULL', 'score = excluded.score')
	  . $self->pick('', ' WHERE posts.likes > 5');

	return $self->merge if $r > 7;
	return 'INSERT INTO posts VALUES ' . join(', ', map { $self->row_values } 0 .. $self->pick_number(4))
	  . " ON CONFLICT (user_id, id) DO UPDATE SET $action$returning" if $r == 5;
	return 'INSERT INTO posts (user_id, id, title) SELECT ' . $self->pick('user_id', 'user_id + 1', 'liker_id') . ', '
	  . $self->pick('min(post_id)', '1 + max(post_id)') . ", 'from likes' FROM likes m" . $self->where([ { name => 'likes', alias => 'm', columns => $tables{likes} } ])
	  . " GROUP BY 1 ON CONFLICT (user_id, id) DO " . $self->pick('NOTHING', "UPDATE SET $action") . $returning if $r == 6;
	return "WITH gone AS (DELETE FROM likes WHERE user_id = " . $self->pick_number(40) . ' RETURNING *) INSERT INTO likes SELECT user_id, post_id + 1000, liker_id, weight, day FROM gone'
	  . $returning if $r == 7;

	return 'INSERT INTO posts VALUES ' . join(', ', map { $self->row_values } 0 .. $self->pick_number(6))
	  . ($self->chance(70) ? ' ON CONFLICT DO NOTHING' : '') . $returning if $r < 2;
	return 'INSERT INTO posts VALUES ' . $self->row_values . ' ON CONFLICT (user_id, id) DO UPDATE SET '
	  . $self->pick('likes = posts.likes + 1', 'title = excluded.title, day = NULL', 'score = excluded.score')
	  . $self->pick('', ' WHERE posts.likes > 5') . $returning if $r == 2;
	my $other = $self->new_table;
	my $where = $self->where([$other]);
	my $number = $self->column([$other], 'int') // '7';
	return "INSERT INTO likes SELECT $number, 1, $number, 1.5, " . ($self->column([$other], 'date') // 'NULL')
	  . " FROM $other->{name} $other->{alias}$where$returning" if $r == 3;
	return "WITH gone AS (DELETE FROM likes m" . $self->where([ { name => 'likes', alias => 'm', columns => $tables{likes} } ])
	  . ' RETURNING *) INSERT INTO likes SELECT liker_id, post_id, user_id, weight, day FROM gone' . $returning;
}

# The source has one row for a key, or several; then both sides refuse, or neither.
sub merge
{
	my ($self) = @_;
	my $key = $self->pick('user_id', 'user_id', 'user_id + 2', 'liker_id');
	my $source = $self->pick("(SELECT $key AS k, max(post_id) AS n FROM likes m"
		  . $self->where([ { name => 'likes', alias => 'm', columns => $tables{likes} } ]) . ' GROUP BY 1) s',
		'(VALUES ' . join(', ', map { '(' . (1 + $_ * 7 + $self->pick_number(7)) . ', ' . $self->pick_number(99) . ')' } 0 .. 3) . ') s (k, n)',
		'(SELECT user_id AS k, id AS n FROM posts WHERE id < ' . $self->pick_number(30) . ') s',
		'(SELECT rank AS k, rank AS n FROM regions) s');
	my @actions = ($self->pick('WHEN MATCHED THEN UPDATE SET score = s.n', 'WHEN MATCHED AND t.active THEN DELETE',
			'WHEN MATCHED AND s.n > 20 THEN UPDATE SET name = t.name || s.n'));

	push @actions, $self->pick('WHEN NOT MATCHED THEN INSERT (id, name) VALUES (s.k, s.n)',
		"WHEN NOT MATCHED AND s.n > 10 THEN INSERT (id, region) VALUES (s.k, 'eu')", 'WHEN NOT MATCHED THEN DO NOTHING')
	  if $self->chance(60);
	push @actions, 'WHEN MATCHED THEN DELETE' if $self->chance(40);
	return "MERGE INTO users t USING $source ON t.id = s.k" . ($self->chance(30) ? ' AND t.score > ' . $self->pick_number(40) : '')
	  . ' ' . join(' ', @actions);
}

# One statement, or a list of them for a modification and what it left.
sub statement
{
	my ($self) = @_;
	my $r = $self->pick_number(100);
	$self->{alias} = 0;

	if ($r < 10)
	{
		local $self->{prepared} = 1;
		my $sql = $self->chance(60) ? $self->plain_select(3) : $self->aggregate_select(3);
		return ("PREPARE q(bigint) AS $sql", map({ "EXECUTE q($_)" } $self->pick_number(45), $self->pick_number(45), 'NULL'),
			'DEALLOCATE q');
	}
	return $self->plain_select(4) if $r < 38;
	return $self->aggregate_select(4) if $r < 66;
	return $self->set_operation if $r < 74;
	return $self->with_cte if $r < 84;
	my $dml = $self->chance(45) ? $self->insertion : $self->modification;
	my ($table) = $dml =~ /(?:UPDATE|DELETE FROM|INSERT INTO|MERGE INTO) (\w+)/;
	return ('BEGIN', $dml, "SELECT * FROM $table", 'ROLLBACK');
}

1;
