# A group of two tables and its writers, who keep a record of what was acknowledged to them:
# whatever happens to the shards meanwhile, the rows are to equal it.
package Ledger;

use strict;
use warnings;

use Test::More;

# Options: db, ids, per_id (items of each), shards.
sub new
{
	my ($class, %options) = @_;
	my $self = bless {%options, seq => 1000}, $class;
	my ($ids, $per_id) = @options{qw(ids per_id)};

	$self->{db}->sql(qq(
CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL, note text);
SELECT dbscale.distribute_table('counters', 'id', shard_count => $options{shards});
CREATE TABLE items (body text, counter_id int, seq int, twice int GENERATED ALWAYS AS (seq * 2) STORED, PRIMARY KEY (counter_id, seq));
SELECT dbscale.distribute_table('items', 'counter_id', colocate_with => 'counters');
ALTER TABLE items ADD CONSTRAINT items_counter FOREIGN KEY (counter_id) REFERENCES counters ON DELETE CASCADE;
CREATE INDEX items_body ON items (body);
INSERT INTO counters SELECT i, 0, repeat('x', 3000) FROM generate_series(1, $ids) i;
INSERT INTO items SELECT E'tab\\t and \\\\ and "' || k, i, k FROM generate_series(1, $ids) i, generate_series(1, $per_id) k;
CREATE TABLE transfers (from_id int, to_id int);
));
	$self->{n} = { map { $_ => 0 } 1 .. $ids };
	$self->{items} = { map { my $id = $_; map { ("$id.$_" => 1) } 1 .. $per_id } 1 .. $ids };
	return $self;
}

sub n { return $_[0]->{n}; }
sub items { return $_[0]->{items}; }
sub any_id { my ($self) = @_; return 1 + int rand $self->{ids}; }

# Scripts of clients.  Statements of their own are one round trip, which the node commits;
# what they are told is the record.
sub adder
{
	my ($self, $statements) = @_;
	return join '', map { 'UPDATE counters SET n = n + 1 WHERE id = ' . $self->any_id . " RETURNING 'n', id;\n" } 1 .. $statements;
}

sub inserter
{
	my ($self, $statements) = @_;
	return join '', map {
		my ($id, $other, $seq) = ($self->any_id, $self->any_id, ++$self->{seq});
		# a row whose key is changed goes to another shard, or to another part of the same
		"INSERT INTO items VALUES ('item $seq', $id, $seq) RETURNING '+', counter_id, seq;\n"
		  . ($_ % 3 == 0 ? "DELETE FROM items WHERE counter_id = $id AND seq = $seq RETURNING '-', counter_id, seq;\n" : '')
		  . ($_ % 3 == 1 ? "UPDATE items SET counter_id = $other WHERE counter_id = $id AND seq = $seq RETURNING '>', $id, $seq, counter_id;\n" : '')
	} 1 .. $statements;
}

# Over two nodes, mostly; recorded in a local table by the same transaction.
sub transferrer
{
	my ($self, $statements) = @_;
	return join '', map {
		my ($from, $to) = sort { $a <=> $b } map { $self->any_id } 1, 2;
		"BEGIN;\nUPDATE counters SET n = n - 1 WHERE id = $from;\nUPDATE counters SET n = n + 1 WHERE id = $to;\n"
		  . "INSERT INTO transfers VALUES ($from, $to);\nCOMMIT;\n"
	} 1 .. $statements;
}

# Plans of before: each row is seen once by each of them.
sub reader
{
	my ($self, $statements) = @_;
	return "SET plan_cache_mode = force_generic_plan;\nPREPARE one(int) AS SELECT '=', count(*) FROM counters WHERE id = \$1;\n"
	  . "PREPARE whole AS SELECT '#', count(*) FROM counters;\n"
	  . join '', map { 'EXECUTE one(' . $self->any_id . ");\nEXECUTE whole;\n" } 1 .. $statements;
}

# Takes what a client was told into the record; returns what a reader should not have been told.
sub acknowledge
{
	my ($self, $out) = @_;
	my ($n, $items) = @$self{qw(n items)};
	my @wrong;

	foreach my $line (split /\n/, $out)
	{
		my ($what, @key) = split /\|/, $line;
		$n->{ $key[0] }++ if $what eq 'n';
		$items->{"$key[0].$key[1]"} = 1 if $what eq '+';
		delete $items->{"$key[0].$key[1]"} if $what eq '-' || $what eq '>';
		$items->{"$key[2].$key[1]"} = 1 if $what eq '>';
		push @wrong, $line if ($what eq '=' && $key[0] != 1) || ($what eq '#' && $key[0] != $self->{ids});
	}
	return @wrong;
}

# The keys of rows that are not as the record says.
sub differences
{
	my ($self) = @_;
	my ($db, $items) = @$self{qw(db items)};
	my %want = %{ $self->{n} };

	foreach my $row (split /\n/, $db->sql('SELECT from_id, to_id FROM transfers'))
	{
		my ($from, $to) = split /\|/, $row;
		$want{$from}--;
		$want{$to}++;
	}
	my %have = map { split /\|/ } split /\n/, $db->sql('SELECT id, n FROM counters');
	my @bad = grep { ($have{$_} // 'none') ne ($want{$_} // 'none') } sort keys %{ { %want, %have } };
	my %rows = map { $_ => 1 } split /\n/, $db->sql(q(SELECT counter_id || '.' || seq FROM items));
	push @bad, grep { !$rows{$_} != !$items->{$_} } sort keys %{ { %rows, %$items } };
	return join ' ', @bad;
}

sub misplaced
{
	my ($self, $table, $key) = @_;
	return $self->{db}->sql("SELECT count(*) FROM dbscale.run_on_shards('$table', 'SELECT coalesce(json_agg($key), ''[]'') FROM %s') r, "
		  . "json_array_elements_text(r.result::json) k WHERE dbscale.shard_for('$table', k) <> r.shard");
}

# Nothing is left over on any node, and the rows equal the record.
sub is_clean
{
	my ($self, $what) = @_;
	my $db = $self->{db};

	$db->is_consistent($what);
	is(join('', map { $db->on($_, 'SELECT pubname FROM pg_publication UNION ALL SELECT slot_name FROM pg_replication_slots') } $db->nodes),
		'', "$what: no publication and no slot is left");
	is(join('', map { $db->on($_, q(SELECT conname FROM pg_constraint WHERE NOT convalidated)) } $db->nodes),
		'', "$what: all foreign keys are validated");
	is($self->differences, '', "$what: every acknowledged write is there, once");
	is($self->misplaced('counters', 'id') + $self->misplaced('items', 'counter_id'), 0, "$what: every row is in its key's shard");
	return;
}

1;
