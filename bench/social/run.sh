# run.sh: the social network; sourced by bench/run, whose servers it uses.
#
# Every workload is a file: q* are queries, p* pgbench scripts.  Its first line has its name and
# what is aimed at, as a ratio to plain PostgreSQL: of times, and for pgbench scripts of
# latency with one client and of throughput with eight.

servers=(plain coordinator)
for name in plain coordinator node_1 node_2; do run_sql $name postgres <<<"CREATE DATABASE social"; done
run_sql coordinator postgres <<<"CREATE DATABASE social_fdw"
for name in node_1 node_2; do
	run_sql $name postgres <<<"CREATE DATABASE social_fdw"
	# where nodes share the cores of one machine, workers of one take them from the other
	echo "max_parallel_workers_per_gather = 0" >>"$work/$name/postgresql.auto.conf"
	as_unprivileged "$bin/pg_ctl" -D "$work/$name" reload >/dev/null
done

copy_table="CREATE TABLE likes_copy (LIKE likes INCLUDING ALL);"
run_sql plain social <<<"$(cat bench/social/schema.sql) $copy_table"
run_sql coordinator social >/dev/null <<SQL
SET client_min_messages = error;
CREATE EXTENSION dbscale CASCADE;
SELECT dbscale.add_node('node_1', host => '$work', port => ${port[node_1]});
SELECT dbscale.add_node('node_2', host => '$work', port => ${port[node_2]});
$(cat bench/social/schema.sql) $copy_table
SELECT dbscale.distribute_table('users', 'id', shard_count => $shards);
SELECT dbscale.distribute_table(t, 'user_id', colocate_with => 'users') FROM unnest('{posts,likes,likes_copy}'::regclass[]) t;
SQL

# By hand: partitions of postgres_fdw.
{
	echo "CREATE EXTENSION postgres_fdw;"
	for node in node_1 node_2; do
		echo "CREATE SERVER $node FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$work', port '${port[$node]}', dbname 'social_fdw', batch_size '1000', async_capable 'true', fetch_size '10000');"
		echo "CREATE USER MAPPING FOR postgres SERVER $node OPTIONS (user 'postgres');"
	done
	sed 's/, primary key ([^)]*)//; s/ primary key//; /^create index/d; s/^create table users (\(.*\));/create table users (\1) PARTITION BY HASH (id);/; s/^create table \(posts\|likes\) (\(.*\));/create table \1 (\2) PARTITION BY HASH (user_id);/' bench/social/schema.sql
	echo "CREATE TABLE likes_copy (LIKE likes) PARTITION BY HASH (user_id);"
	for table in users posts likes likes_copy; do
		for n in $(seq 0 $((shards - 1))); do
			echo "CREATE FOREIGN TABLE ${table}_$n PARTITION OF $table FOR VALUES WITH (MODULUS $shards, REMAINDER $n) SERVER node_$((1 + n % 2));"
		done
	done
} >"$work/fdw.sql"
run_sql coordinator social_fdw <"$work/fdw.sql"
for node in 1 2; do
	for n in $(seq 0 $((shards - 1))); do
		[ $((1 + n % 2)) = $node ] || continue
		sed "s/\(create table \|index \)\([a-z_]*\)/\1\2_$n/; s/ on \([a-z]*\) (/ on \1_$n (/" bench/social/schema.sql
		echo "CREATE TABLE likes_copy_$n (LIKE likes_$n INCLUDING ALL);"
	done | run_sql node_$node social_fdw
done

echo "PostgreSQL $("$pg_config" --version | cut -d' ' -f2), $(nproc) cores, $users users, $shards shards on 2 nodes with no parallel workers, fsync on"
line "" plain dbscale postgres_fdw dbscale/ p_fdw/
line "" "" "" "" plain plain
run_sql plain social -v users="$users" -f "$work/src/bench/social/data.sql"
for table in users posts likes; do
	as_unprivileged "$bin/psql" -X -q -h "$work" -p "${port[plain]}" -U postgres -d social -c "\\copy $table TO STDOUT" >"$work/$table.data"
	chmod 644 "$work/$table.data"
done
head -n 500000 "$work/posts.data" >"$work/part.data"
chmod 644 "$work/part.data"
copy_posts() { # SERVER DATABASE: milliseconds
	local start
	run_sql "$1" "$2" <<<"TRUNCATE posts; CHECKPOINT;"
	start=$(now_ms)
	run_sql "$1" "$2" <<<"\\copy posts FROM '$work/part.data'"
	echo $(($(now_ms) - start))
}
least() { sort -n | head -1; }
a=$(for _ in 1 2 3; do copy_posts plain social; done | least)
b=$(for _ in 1 2 3; do copy_posts coordinator social; done | least)
c=$(copy_posts coordinator social_fdw)
line "COPY of 500,000 posts, ms (0.75)" "$a" "$b" "$c" "$(ratio "$b" "$a")" "$(ratio "$c" "$a")"
for where in "plain social" "coordinator social" "coordinator social_fdw"; do
	set -- $where
	run_sql $1 $2 <<<"TRUNCATE posts;"
	for table in users posts likes; do
		[ "$where $table" != "plain social posts" ] && [ "$1" = plain ] || run_sql $1 $2 <<<"\\copy $table FROM '$work/$table.data'"
	done
done
for name in plain node_1 node_2; do for d in social social_fdw; do [ "$name $d" = "plain social_fdw" ] || run_sql $name $d <<<"VACUUM ANALYZE"; done; done
for d in social social_fdw; do run_sql coordinator $d <<<"ANALYZE users; ANALYZE posts; ANALYZE likes"; done

# time_of SERVER DATABASE FILE: ms of the statement as the first of a new session
time_of() {
	local output
	output=$(as_unprivileged "$bin/psql" -X -q -At -v ON_ERROR_STOP=1 -h "$work" -p "${port[$1]}" -U postgres -d "$2" -c '\timing on' -f "$work/src/bench/social/$3.sql" -o /dev/null 2>"$work/psql.log") || { echo 0; return; }
	sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p' <<<"$output" | tail -1
}
best_of() { # SERVER DATABASE FILE
	for _ in 1 2 3; do
		[ "$3" != q80-insert-select ] || run_sql $1 $2 <<<"TRUNCATE likes_copy"
		time_of "$@"
	done | least
}
title() { sed -n '1s/^-- \([^|]*[^| ]\) *|.*/\1/p' "bench/social/$1.sql"; }
aim() { sed -n '1p' "bench/social/$1.sql" | cut -d'|' -f"$2" | tr -d ' '; }
for file in bench/social/q*.sql; do
	q=$(basename "$file" .sql)
	a=$(best_of plain social $q) b=$(best_of coordinator social $q) c=$(best_of coordinator social_fdw $q)
	line "$(title $q), ms ($(aim $q 2))" "$a" "$b" "$c" "$(ratio "$b" "$a")" "$(ratio "$c" "$a")"
done

# bench_of SERVER DATABASE FILE CLIENTS MODE: "latency throughput"
bench_of() {
	as_unprivileged "$bin/pgbench" -n -M "$5" -h "$work" -p "${port[$1]}" -U postgres -c "$4" -j 2 -T "$seconds" \
		-D users="$users" -f "$work/src/bench/social/$3.sql" $6 "$2" 2>"$work/pgbench.log" |
		awk '/^latency average/ { l = $4 } /^tps/ { t = $3 } END { printf "%s %.0f", l + 0, t }'
}
pgbench_row() { # FILE MODE NAME AIM_1 AIM_8 [OPTION]
	local a b c
	a=$(bench_of plain social $1 1 $2 "${6:-}") b=$(bench_of coordinator social $1 1 $2 "${6:-}") c=$(bench_of coordinator social_fdw $1 1 $2 "${6:-}")
	line "$3, ms, c=1 ($4)" "${a% *}" "${b% *}" "${c% *}" "$(ratio "${b% *}" "${a% *}")" "$(ratio "${c% *}" "${a% *}")"
	[ -n "$5" ] || return 0
	a=$(bench_of plain social $1 8 $2 "") b=$(bench_of coordinator social $1 8 $2 "") c=$(bench_of coordinator social_fdw $1 8 $2 "")
	line "  a second, c=8 (share $5)" "${a#* }" "${b#* }" "${c#* }" "$(ratio "${b#* }" "${a#* }")" "$(ratio "${c#* }" "${a#* }")"
}
for file in bench/social/p*.sql; do
	p=$(basename "$file" .sql)
	pgbench_row $p prepared "$(title $p)" "$(aim $p 2)" "$(aim $p 3)"
	[ $p != p10-select ] || pgbench_row $p simple "$(title $p), simple" 2.0 0.50
done
pgbench_row p10-select simple "new connection, one SELECT" 2.0 "" -C
