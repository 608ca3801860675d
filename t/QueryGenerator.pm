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
	codes => [ [ code => 'text' ], [ id => 'int' ], [ v => 'int' ] ],
	notes => [ [ id => 'int' ], [ user_id => 'int' ], [ body => 'text' ] ],
);
# the column that is a user's number, by which most tables are joined
my %user_column = (users => 'id', posts => 'user_id', likes => 'user_id', events => 'user_id', notes => 'user_id');
my @names = sort keys %tables;
my @weighted = (qw(users users posts posts posts likes likes likes events customers codes regions notes));

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

# A value that is compared with a key: of its own type, of another, a parameter or a NULL.
sub key_value
{
	my ($self, $kind) = @_;
	return $self->pick("'a'", "'A'", "'us'", "'a '", "''", "'a'::varchar(3)", "NULL::text") if $kind ne 'int';
	my $n = $self->pick_number(50);
	return $self->pick($n, $n, $n, $n, $n, "$n.0", "'$n'", "$n\::smallint", "$n\::int", "$n\::numeric", "NULL::int", "$n + 1",
		"abs(-$n)", "(SELECT $n)", "(SELECT min(rank) FROM regions)");
}

# What is less common: rows, lists of keys, NOT IN, quantified subqueries.
sub odd_predicate
{
	my ($self, $scope, $depth) = @_;
	my $table = $self->pick(@$scope);
	my ($first, $second) = @{ $table->{columns} };
	my ($a, $b) = map { "$table->{alias}.$_->[0]" } $first, $second;
	my $r = $self->pick_number(10);

	return "$a " . $self->pick('=', '=', 'IS NOT DISTINCT FROM', '<=') . ' ' . $self->key_value($first->[1]) if $r < 3 && $first->[1] ne 'date';
	return "$a " . $self->pick('IN', 'IN', 'NOT IN') . ' (' . join(', ', map { $self->key_value($first->[1]) } 0 .. $self->pick_number(4)) . ')'
	  if $r < 5 && $first->[1] ne 'date';
	return "$a = ANY (ARRAY[" . join(', ', map { $self->constant($first->[1]) } 0 .. $self->pick_number(4)) . '])' if $r == 5;
	return "($a, $b) " . $self->comparison . ' (' . $self->constant($first->[1]) . ', ' . $self->constant($second->[1]) . ')' if $r == 6;
	my $other = $self->new_table;
	my $match = $self->column([$other], $first->[1]) // return "$a IS NOT NULL";
	my $match2 = $self->column([$other], $second->[1]);
	my $where = $self->chance(60) ? ' WHERE ' . $self->predicate([$other], $depth + 2) : '';
	my $from = "FROM $other->{name} $other->{alias}$where";
	return "$a " . $self->pick('NOT IN', '<> ALL', '>= ALL', '< SOME', '= ANY') . " (SELECT $match $from)" if $r < 9 || !defined $match2;
	return "($a, $b) " . $self->pick('IN', 'NOT IN') . " (SELECT $match, $match2 $from)";
}

sub predicate
{
	my ($self, $scope, $depth) = @_;
	my $r = $self->pick_number(100);
	my ($column, $kind) = $self->any_column($scope);

	return $self->odd_predicate($scope, $depth) if $self->chance(15) && $depth < 3;
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
	my %user = %user_column;
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
		$source = $self->derived($table) if $self->chance(12);
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

# A subquery with the columns of the table, which may see to it that its rows are not the table's.
sub derived
{
	my ($self, $table) = @_;
	my @names = map { $_->[0] } @{ $table->{columns} };
	my @inner = map { "s.$_" } @names;
	my $scope = [ { %$table, alias => 's' } ];
	my $from = "FROM $table->{name} s" . $self->where($scope);
	my $all = join(', ', @inner);
	my $first = $inner[ $self->pick_number(scalar @inner) ];
	my $r = $self->pick_number(9);
	my $sql;

	if ($r == 0) { $sql = "SELECT DISTINCT ON ($first) s.* $from ORDER BY $first, $all"; }
	elsif ($r == 1) { $sql = "SELECT s.* $from ORDER BY $all LIMIT " . $self->pick_number(30); }
	elsif ($r == 2) { $sql = "SELECT s.*, row_number() OVER (PARTITION BY $first ORDER BY $all) AS rn $from"; }
	elsif ($r == 3) { $sql = "SELECT s.* $from " . $self->pick('UNION', 'UNION ALL', 'EXCEPT', 'INTERSECT') . " SELECT s.* FROM $table->{name} s" . $self->where($scope); }
	elsif ($r == 4)
	{
		my $group = $self->chance(60) ? $inner[0] : $first;
		$sql = 'SELECT ' . join(', ', map { my ($n) = /\.(.*)/; $_ eq $group ? $_ : "(array_agg($_ ORDER BY $all))[1] AS $n" } @inner) . " $from GROUP BY $group";
	}
	elsif ($r == 5) { $sql = "SELECT DISTINCT s.* $from"; }
	elsif ($r == 6) { $sql = "SELECT s.* $from OFFSET 0"; }
	elsif ($r == 7) { $sql = "WITH w AS " . $self->pick('', 'MATERIALIZED ') . "(SELECT s.* $from) SELECT * FROM w"; }
	else
	{
		my $g = $inner[0];
		$sql = 'SELECT ' . join(', ', map { my ($n) = /\.(.*)/; $_ eq $g ? $_ : $table->{columns}[ $self->index_of(\@inner, $_) ][1] eq 'bool' ? "bool_or($_) AS $n" : "max($_) AS $n" } @inner)
		  . " $from GROUP BY $g";
	}
	return "($sql) $table->{alias}";
}

sub index_of
{
	my ($self, $list, $item) = @_;
	foreach my $i (0 .. $#$list) { return $i if $list->[$i] eq $item; }
	return 0;
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

	push @columns, $self->window($scope, $columns[0]) if $self->chance(20) && !$distinct;
	return $self->distinct_on($from, $scope, @columns) if $self->chance(6);
	push @columns, $self->scalar_subquery($scope) if $self->chance(10);
	push @columns, "(SELECT count(*) FROM likes l WHERE l.post_id = " . ($self->column($scope, 'int') // '1') . ')'
	  if $self->chance(8);
	return "SELECT $distinct" . join(', ', @columns) . " FROM $from" . $self->where($scope)
	  . $self->order_and_limit(scalar @columns);
}

sub window
{
	my ($self, $scope, $column) = @_;
	my ($by) = $self->any_column($scope);
	my $key = "$scope->[0]{alias}.$scope->[0]{columns}[0][0]";
	my $partition = $self->pick('', "PARTITION BY $column ", "PARTITION BY $key ", "PARTITION BY $key, $by ", "PARTITION BY $by ");
	my $order = 'ORDER BY ' . join(', ', $self->whole_order($scope));
	my $number = $self->column($scope, $self->pick('int', 'num')) // 1;
	my $frame = $self->pick('', '', ' ROWS BETWEEN 2 PRECEDING AND CURRENT ROW', ' ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING',
		' GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING EXCLUDE CURRENT ROW', ' RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW EXCLUDE TIES');
	my $function = $self->pick('row_number()', 'rank()', "lag($number)", "lead($number, 2, 0)", "first_value($by)", "last_value($by)",
		"nth_value($by, 2)", 'ntile(3)', 'count(*)', "sum($number)", "avg($number)", "count($by) FILTER (WHERE " . $self->predicate($scope, 3) . ')');

	return "max($number) OVER ($partition)" if $self->chance(15);
	if ($self->chance(10) && $number ne '1')
	{
		return "sum($number) OVER (${partition}ORDER BY $number RANGE BETWEEN 3 PRECEDING AND 2 FOLLOWING)";
	}
	return "$function OVER ($partition$order$frame)";
}

sub scalar_subquery
{
	my ($self, $scope) = @_;
	my $table = $self->new_table;
	my ($column, $kind) = $self->any_column($scope);
	my $match = $self->column([$table], $kind) // return '1';
	my $number = $self->column([$table], 'int') // '1';
	my $what = $self->pick('count(*)', "max($number)", "string_agg($match\::text, ',' ORDER BY $match)", "sum($number) + " . ($self->column($scope, 'int') // '0'));
	my $where = "$match = $column" . ($self->chance(40) ? ' AND ' . $self->predicate([ $table, @$scope ], 2) : '');

	return "(SELECT $what FROM $table->{name} $table->{alias} WHERE $where)" if $self->chance(70);
	return "ARRAY(SELECT $number FROM $table->{name} $table->{alias} WHERE $where ORDER BY 1)" if $self->chance(50);
	return $self->pick('', 'NOT ') . "EXISTS (SELECT 1 FROM $table->{name} $table->{alias} WHERE $where)";
}

sub distinct_on
{
	my ($self, $from, $scope, @columns) = @_;
	my $on = $self->pick($columns[0], "$scope->[0]{alias}.$scope->[0]{columns}[0][0]");
	return "SELECT DISTINCT ON ($on) " . join(', ', @columns) . " FROM $from" . $self->where($scope)
	  . " ORDER BY $on, " . join(', ', $self->whole_order($scope));
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
	# what has no order of its own is measured
	return $self->pick("length(string_agg($text, '; '))", "cardinality(array_agg($any))", "length(json_agg($any)::text)", "length(jsonb_agg($number)::text)") if $self->chance(6);
	return $self->pick('count(*)', "count($any)", "count(DISTINCT $any)", "sum($number)", "avg($number)",
		"min($number)", "max($number)", "sum(DISTINCT $number)",
		"string_agg($text, ',' ORDER BY $text)", "array_agg($number ORDER BY $number)",
		"bool_or($number > 10)", "variance($number)", "stddev_pop($number)", "stddev($number)", "var_pop($number * 1000)",
		"sum(length($text))", "regr_count($number, $number)",
		'avg(age(' . ($self->column($scope, 'date') // "DATE '2024-01-01'") . ", DATE '2020-02-29'))",
		"json_agg($number ORDER BY $number)", "count(DISTINCT ($number, $text))", "array_agg(DISTINCT $any)", "string_agg(DISTINCT $text, ',')", "every($number < 30)",
		"bit_or($number\::int)", "jsonb_object_agg($text, 1) FILTER (WHERE $text IS NOT NULL)",
		"max($text)", "min($any\::text)",
		"percentile_disc(0.5) WITHIN GROUP (ORDER BY $number)") =~ s/( FILTER .*)?$/$1 || $filter/er;
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
		if ($self->chance(20))
		{
			$list = $self->pick("ROLLUP ($list)", "CUBE ($list)", "GROUPING SETS (($list), ())", "GROUPING SETS ("
				  . join(', ', map { "($_)" } @keys) . ')', "$keys[0], ROLLUP ($list)", "DISTINCT ROLLUP ($list), ROLLUP ($keys[0])");
			$sql =~ s/^SELECT /"SELECT grouping(" . join(', ', @keys) . '), '/e;
			$ordered = 0;
		}
		$sql .= " GROUP BY $list";
		$sql .= ' HAVING count(*) ' . $self->comparison . ' ' . $self->pick_number(5) if $self->chance(25);
	}
	return $ordered ? $sql . $self->order_and_limit(@keys + @aggregates) : $sql;
}

# ---- what stands where a column may ----

# An expression of this kind over the tables in scope.
sub expression
{
	my ($self, $scope, $kind) = @_;
	my $a = $self->column($scope, $kind) // $self->constant($kind);
	my $b = $self->chance(70) ? $self->column($scope, $kind) // $self->constant($kind) : $self->constant($kind);
	my $r = $self->pick_number(12);

	return $a if $r < 3;
	return "coalesce($a, $b)" if $r < 5;
	return 'CASE WHEN ' . $self->predicate($scope, 3) . " THEN $a ELSE $b END" if $r < 7;
	return "CASE WHEN $a IS NULL THEN $b WHEN " . $self->predicate($scope, 3) . " THEN $a END" if $r == 7;
	return "nullif($a, $b)" if $r == 8;
	return $self->pick('greatest', 'least') . "($a, $b)" if $r == 9 && $kind ne 'bool';
	return "($a + $b)" if $kind eq 'num' || $kind eq 'int';
	return "($a || '/' || $b)" if $kind eq 'text';
	return "($a + " . $self->pick_number(9) . ')' if $kind eq 'date';
	return "($a AND " . $self->predicate($scope, 3) . ')';
}

sub any_expression { my ($self, $scope) = @_; return $self->expression($scope, $self->pick('int', 'int', 'text', 'num', 'date', 'bool')); }

# A join of joins: ((t1 JOIN t2) LEFT JOIN (t3 FULL JOIN t4)), VALUES, keys merged by USING.
sub nested_from
{
	my ($self, $depth) = @_;
	my $r = $self->pick_number(10);

	if ($depth >= 2 || $r == 0)
	{
		my $table = $self->new_table;
		return ("$table->{name} $table->{alias}", [$table]);
	}
	if ($r == 1)
	{
		my $alias = 't' . ++$self->{alias};
		my $rows = join(', ', map { '(' . $self->pick($self->pick_number(45), 'NULL') . ', ' . $self->constant('text') . ')' } 0 .. 1 + $self->pick_number(4));
		return ("(VALUES $rows) $alias (user_id, x)", [ { name => 'values', alias => $alias, columns => [ [ user_id => 'int' ], [ x => 'text' ] ] } ]);
	}
	return $self->subquery_from($depth) if $r == 2;
	my ($left, $left_scope) = $self->nested_from($depth + 1);
	my ($right, $right_scope) = $self->nested_from($depth + 1);
	my ($join, $condition) = ($self->pick('JOIN', 'JOIN', 'LEFT JOIN', 'LEFT JOIN', 'RIGHT JOIN', 'FULL JOIN'));

	$condition = $self->key_join($left_scope, $right_scope);
	$condition .= ' AND ' . $self->predicate([ @$left_scope, @$right_scope ], 2) if $join ne 'FULL JOIN' && $self->chance(35);
	return ("($left $join $right ON $condition)", [ @$left_scope, @$right_scope ]);
}

sub key_join
{
	my ($self, $left, $right) = @_;
	my ($a, $b) = map { my @keys = map { my $c = $user_column{ $_->{name} } // ($_->{name} =~ /^(values|sub)$/ ? 'user_id' : undef); $c ? "$_->{alias}.$c" : () } @$_; @keys ? $self->pick(@keys) : undef } $left, $right;

	return "$a = $b" if defined $a && defined $b && $self->chance(85);
	foreach my $kind ('text', 'int')
	{
		my ($x, $y) = ($self->column($left, $kind), $self->column($right, $kind));
		return "$x = $y" if $x && $y;
	}
	return 'false';
}

# A subquery of several tables, grouped, distinct, with set operations, or plain.
sub subquery_from
{
	my ($self, $depth) = @_;
	my $alias = 't' . ++$self->{alias};
	my ($from, $scope) = $self->nested_from($depth + 1);
	my $where = $self->where($scope);
	my @keys = map { my $c = $user_column{ $_->{name} } // ($_->{name} =~ /^(values|sub)$/ ? 'user_id' : undef); $c ? "$_->{alias}.$c" : () } @$scope;
	my $key = @keys && $self->chance(85) ? $self->pick(@keys) : $self->expression($scope, 'int');
	my ($n, $x) = ($self->expression($scope, 'int'), $self->expression($scope, 'text'));
	my $r = $self->pick_number(7);
	my $sql;

	if ($r < 2) { $sql = "SELECT $key AS user_id, max($n) AS n, max($x) AS x FROM $from$where GROUP BY $key"; }
	elsif ($r == 2) { $sql = "SELECT DISTINCT $key AS user_id, $n AS n, $x AS x FROM $from$where"; }
	elsif ($r == 3) { $sql = "SELECT $key AS user_id, $n AS n, $x AS x FROM $from$where ORDER BY 1, 2, 3 LIMIT 15"; }
	elsif ($r == 4)
	{
		my ($from2, $scope2) = $self->nested_from(2);
		$sql = "SELECT $key AS user_id, $n AS n, $x AS x FROM $from$where " . $self->pick('UNION', 'UNION ALL', 'EXCEPT', 'INTERSECT')
		  . ' SELECT ' . ($self->column($scope2, 'int') // '3') . ', ' . $self->expression($scope2, 'int') . ', ' . $self->expression($scope2, 'text') . " FROM $from2" . $self->where($scope2);
	}
	else { $sql = "SELECT $key AS user_id, $n AS n, $x AS x FROM $from$where"; }
	return ("($sql) $alias", [ { name => 'sub', alias => $alias, columns => [ [ user_id => 'int' ], [ n => 'int' ], [ x => 'text' ] ] } ]);
}

# Joins of joins and expressions in all places: select list, groups, HAVING, windows, whole rows.
sub nested_select
{
	my ($self) = @_;
	my ($from, $scope) = $self->nested_from(0);
	my $where = $self->where($scope);
	my $r = $self->pick_number(10);
	my @columns = map { $self->any_expression($scope) } 0 .. $self->pick_number(3);

	if ($r < 4)
	{
		my @aggregates = map { $self->aggregate($scope) } 0 .. $self->pick_number(3);
		my $sum = $self->expression($scope, 'int');
		push @aggregates, "sum($sum)", "count(DISTINCT $sum)", "max($sum) - min($sum)";
		my $having = $self->chance(25) ? ' HAVING ' . $self->pick("count(*) > " . $self->pick_number(4), "max($sum) > (SELECT min(id) FROM posts WHERE user_id = " . $self->pick_number(40) . ')',
			"sum($sum) IS NOT NULL") : '';
		return 'SELECT ' . join(', ', @aggregates) . " FROM $from$where$having" if $self->chance(25);
		return 'SELECT ' . join(', ', @columns, @aggregates) . " FROM $from$where GROUP BY " . join(', ', 1 .. @columns) . $having
		  . ($having ? '' : $self->order_and_limit(@columns + @aggregates));
	}
	return "SELECT * FROM (SELECT " . join(', ', map { "$columns[$_] AS c$_" } 0 .. $#columns) . " FROM $from$where ORDER BY " . (1 + $self->pick_number(scalar @columns))
	  . ' FETCH FIRST ' . (1 + $self->pick_number(9)) . ' ROWS WITH TIES) s' if $r == 4;
	my @tables = grep { $_->{name} !~ /values|sub/ } @$scope;
	my $whole = @tables ? $self->pick(@tables) : undef;
	push @columns, $self->pick("$whole->{alias}\::text", "$whole->{alias} IS NULL", "to_jsonb($whole->{alias})") if $whole && $self->chance(20);
	push @columns, 'unnest(ARRAY[' . join(', ', map { $self->expression($scope, 'int') } 0 .. 1) . '])' if $self->chance(10);
	push @columns, $self->deep_subquery($scope) if @$scope < 3 && $self->chance(20);
	return 'SELECT ' . $self->pick('', '', 'DISTINCT ') . join(', ', @columns) . " FROM $from$where" . $self->order_and_limit(scalar @columns);
}

# A subquery whose own subquery looks at the outer query, or whose aggregate is the outer query's concern.
sub deep_subquery
{
	my ($self, $scope) = @_;
	my ($from, $inner) = $self->nested_from(2);
	my ($from2, $inner2) = $self->nested_from(2);
	my $outer = $self->column($scope, 'int') // '3';
	my $one = $self->column($inner, 'int') // '3';
	my $two = $self->column($inner2, 'int') // '3';

	return "(SELECT count(*) FROM $from WHERE $one = $outer AND EXISTS (SELECT 1 FROM $from2 WHERE $two = $outer))" if $self->chance(40);
	return "(SELECT max($one) FROM $from WHERE $one IN (SELECT $two FROM $from2 WHERE $two " . $self->comparison . " $outer))" if $self->chance(50);
	return "(SELECT sum((SELECT count(*) FROM $from2 WHERE $two = $one AND $two <= $outer)) FROM $from WHERE $one = $outer)";
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

# A recursion over whom a user likes, or within one key.
sub recursion
{
	my ($self) = @_;
	my $start = 'SELECT id, 0 AS depth FROM users s'
	  . ($self->chance(40) ? ' WHERE id = ' . $self->pick_number(45) : $self->where([ { name => 'users', alias => 's', columns => $tables{users} } ]));
	my $step = $self->pick('SELECT l.liker_id, r.depth + 1 FROM r JOIN likes l ON l.user_id = r.id',
		'SELECT p.user_id + 1, r.depth + 1 FROM posts p, r WHERE p.user_id = r.id AND p.likes > 8',
		'SELECT p.user_id, r.depth + 1 FROM r JOIN posts p ON p.user_id = r.id AND p.id < 60',
		'SELECT u.id, r.depth + 1 FROM r JOIN users u ON u.id = r.id + 3 JOIN posts p ON p.user_id = u.id',
		'SELECT n.id, r.depth + 1 FROM notes n JOIN r ON n.user_id = r.id');
	$step .= ($step =~ /WHERE/ ? ' AND ' : ' WHERE ') . 'r.depth < 3';
	return "WITH RECURSIVE r AS ($start UNION $step) SELECT " . $self->pick('r.id, r.depth FROM r', 'r.depth, count(*) FROM r GROUP BY 1',
		'u.id, u.name, r.depth FROM r JOIN users u ON u.id = r.id');
}

# A cursor that goes there and back.
sub cursor
{
	my ($self) = @_;
	my ($from, $scope) = $self->from_clause(2);
	my $sql = 'SELECT ' . join(', ', $self->whole_order($scope)) . " FROM $from" . $self->where($scope)
	  . ' ORDER BY ' . join(', ', $self->whole_order($scope));
	return ('BEGIN', "DECLARE c SCROLL CURSOR FOR $sql", 'FETCH 5 FROM c', 'FETCH BACKWARD 3 FROM c', 'FETCH LAST FROM c', 'FETCH ABSOLUTE 2 FROM c',
		'MOVE FORWARD ALL IN c', 'FETCH PRIOR FROM c', 'FETCH FIRST FROM c', 'ROLLBACK');
}

# The statement in a function, whose parameter is a key; called often enough for a generic plan.
sub in_function
{
	my ($self) = @_;
	local $self->{prepared} = 1;
	my $sql = $self->chance(60) ? $self->plain_select(3) : $self->aggregate_select(3);
	my $columns = () = $sql =~ /\$1/g;
	return ("CREATE FUNCTION pg_temp.f(bigint) RETURNS SETOF text LANGUAGE plpgsql AS \$f\$ BEGIN RETURN QUERY SELECT x::text FROM ($sql) x; END \$f\$",
		"SELECT i, x FROM generate_series(1, 8) i, pg_temp.f(i * 5) x", 'DROP FUNCTION pg_temp.f(bigint)');
}

# DML, to be run inside a transaction that is rolled back (see statement()).
sub modification
{
	my ($self) = @_;
	my $table = $self->pick('users', 'posts', 'likes', 'events', 'customers');
	my $t = { name => $table, alias => 'm', columns => $tables{$table} };
	my @columns = map { $_->[0] } @{ $t->{columns} };
	my $returning = $self->chance(60) ? ' RETURNING ' . join(', ', map { "m.$_" } @columns) : '';
	my $r = $self->pick_number(12);

	return $self->joined_modification($t, $returning) if $r > 9;
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

# UPDATE … FROM and DELETE … USING of several tables; values by subqueries; WITH around them.
sub joined_modification
{
	my ($self, $t, $returning) = @_;
	my ($from, $scope) = $self->from_clause(2);
	my $condition = $self->join_condition($scope, $t);
	my $set = $t->{columns}[-1];
	my $where = $self->chance(50) ? ' AND ' . $self->predicate([ $t, @$scope ], 1) : '';
	my $r = $self->pick_number(4);

	return "DELETE FROM $t->{name} m USING $from WHERE $condition$where$returning" if $r == 0;
	return "UPDATE $t->{name} m SET $set->[0] = " . $self->constant($set->[1]) . " FROM $from WHERE $condition$where$returning" if $r == 1;
	if ($r == 2 && $set->[1] ne 'bool')
	{
		my $other = $self->new_table;
		my $value = $self->column([$other], $set->[1]) // $self->constant($set->[1]);
		return "UPDATE $t->{name} m SET $set->[0] = (SELECT max($value) FROM $other->{name} $other->{alias} WHERE "
		  . $self->join_condition([$t], $other) . ')' . $self->where([$t]) . $returning;
	}
	return "WITH w AS (DELETE FROM $t->{name} m WHERE " . $self->predicate([$t], 1) . " RETURNING *) SELECT count(*), min($t->{columns}[0][0]) FROM w";
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
# ---- statements of one key, whose plans are kept (planner/plan_cache.c) ----

# A place for a constant, as in fill().
sub place
{
	my ($self, $kind) = @_;
	return "{$kind}" . ($kind eq 'int' && $self->chance(20) ? '::bigint' : '');
}

# Conditions on the key and some other columns of a table under this alias.
sub key_conditions
{
	my ($self, $table, $alias) = @_;
	my ($key, @others) = @{ $tables{$table} };
	my @conditions = map { "$alias.$_->[0] = " . $self->place($_->[1]) } $key, grep { $self->chance(25) } @others;

	push @conditions, $conditions[0] =~ s/::bigint//r if $self->chance(15);
	@conditions = map { my ($column, $value) = split / = /; $self->chance(20) ? "$value = $column" : $_ } @conditions;
	return join ' AND ', @conditions;
}

sub routed_template
{
	my ($self) = @_;
	my $table = $self->pick(@weighted);
	my $columns = $tables{$table};
	my $kind = $self->pick_number(10);

	return "SELECT * FROM $table t1 WHERE " . $self->key_conditions($table, 't1') if $kind < 3;
	return "SELECT count(*), max(t2.day) FROM posts t1 JOIN likes t2 ON t1.user_id = t2.user_id"
	  . ($self->chance(50) ? ' AND t2.post_id = {int}' : '') . ' WHERE ' . $self->key_conditions($self->pick('posts'), 't1')
	  . ($self->chance(40) ? ' AND t2.user_id = {int}' : '') if $kind < 5;
	return "DELETE FROM $table t1 WHERE " . $self->key_conditions($table, 't1') . ' RETURNING *' if $kind < 6;
	# a list takes its own values only
	return $self->routed_template if $table eq 'customers';
	return "INSERT INTO $table VALUES (" . join(', ', map { $self->place($_->[1]) } @$columns) . ') RETURNING *' if $kind < 8;
	my @set = map { "$_->[0] = {$_->[1]}" } $columns->[ 1 + $self->pick_number($#$columns) ], $self->chance(25) ? $columns->[0] : ();
	return "UPDATE $table t1 SET " . join(', ', @set) . ' WHERE ' . $self->key_conditions($table, 't1') . ' RETURNING *';
}

# So many statements that differ in their constants only, which are mostly two of a kind.
sub routed
{
	my ($self, $count) = @_;
	my $template = $self->routed_template;
	my @statements;

	while (@statements < $count)
	{
		my %constants = map { my $kind = $_; ($kind => [ map { $self->constant($kind) } 1 .. 2 ]) } qw(int num date bool text);
		my $any = sub { my ($kind) = @_; return $self->chance(8) ? 'NULL' : $self->pick(@{ $constants{$kind} }); };
		push @statements, $template =~ s/\{(\w+)\}/$any->($1)/ger;
	}
	return @statements;
}

sub statement
{
	my ($self) = @_;
	my $r = $self->pick_number(100);
	$self->{alias} = 0;

	if ($r < 10)
	{
		local $self->{prepared} = 1;
		my $sql = $self->chance(60) ? $self->plain_select(3) : $self->aggregate_select(3);
		return ("PREPARE q(bigint) AS $sql", map({ "EXECUTE q($_)" } $self->pick_number(45), $self->pick_number(45), 'NULL', $self->pick_number(45)),
			'DEALLOCATE q');
	}
	return $self->cursor if $r < 13;
	return $self->in_function if $r < 17;
	return $self->recursion if $r < 19;
	return $self->plain_select(4) if $r < 33;
	return $self->nested_select if $r < 47;
	return $self->aggregate_select(4) if $r < 66;
	return $self->set_operation if $r < 74;
	return $self->with_cte if $r < 84;
	my $dml = $self->chance(45) ? $self->insertion : $self->modification;
	my ($table) = $dml =~ /(?:UPDATE|DELETE FROM|INSERT INTO|MERGE INTO) (\w+)/;
	return ('BEGIN', $dml, "SELECT * FROM $table", 'ROLLBACK');
}

1;
