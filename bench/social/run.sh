# run.sh: the social network; sourced by bench/run, whose servers it uses.
#
# Every workload is a file: q* are queries, p* pgbench scripts.  Its first line has its name and
# what is aimed at, as a ratio to plain PostgreSQL: of times, and for pgbench scripts of
# latency with one client and of throughput with eight.
#
# A *target* is a database that holds the tables: plain PostgreSQL first, dbscale, partitions of
# postgres_fdw made by hand (unless --no-peer), and what --other names by a connection
# string: any coordinator that holds users, posts, likes and an empty likes_copy already.

targets=(plain dbscale)
declare -A conn
conn[plain]="host=$work port=${port[plain]} user=postgres dbname=social"
conn[dbscale]="host=$work port=${port[coordinator]} user=postgres dbname=social"
[ -n "$no_peer" ] || { targets+=(postgres_fdw); conn[postgres_fdw]="host=$work port=${port[coordinator]} user=postgres dbname=social_fdw"; }
[ -z "$other" ] || { targets+=(other); conn[other]=$other; }

on() { # TARGET [psql options]; SQL from standard input
	local target=$1
	shift
	as_unprivileged "$bin/psql" -X -q -At -v ON_ERROR_STOP=1 -d "${conn[$target]}" "$@"
}
wanted() { [ -z "$only" ] || [[ $1 =~ $only ]]; }

for name in plain coordinator node_1 node_2; do run_sql $name postgres <<<"CREATE DATABASE social"; done
for name in node_1 node_2; do
	# where nodes share the cores of one machine, workers of one take them from the other
	echo "max_parallel_workers_per_gather = 0" >>"$work/$name/postgresql.auto.conf"
	as_unprivileged "$bin/pg_ctl" -D "$work/$name" reload >/dev/null
done

[ -z "$pooler" ] || for name in node_1 node_2; do make_pooler $name; done

copy_table="CREATE TABLE likes_copy (LIKE likes INCLUDING ALL);"
on plain <<<"$(cat bench/social/schema.sql) $copy_table"
on dbscale >/dev/null <<SQL
SET client_min_messages = error;
CREATE EXTENSION dbscale CASCADE;
SELECT dbscale.add_node('node_1', host => '$work', port => ${port[node_1]});
SELECT dbscale.add_node('node_2', host => '$work', port => ${port[node_2]});
$(cat bench/social/schema.sql) $copy_table
SELECT dbscale.distribute_table('users', 'id', shard_count => $shards);
SELECT dbscale.distribute_table(t, 'user_id', colocate_with => 'users') FROM unnest('{posts,likes,likes_copy}'::regclass[]) t;
SQL

# By hand: partitions of postgres_fdw.
peer_tables() {
	local node table n
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
}
make_peer() {
	local name node n
	for name in coordinator node_1 node_2; do run_sql $name postgres <<<"CREATE DATABASE social_fdw"; done
	peer_tables >"$work/fdw.sql"
	on postgres_fdw <"$work/fdw.sql"
	for node in 1 2; do
		for n in $(seq 0 $((shards - 1))); do
			[ $((1 + n % 2)) = $node ] || continue
			sed "s/\(create table \|index \)\([a-z_]*\)/\1\2_$n/; s/ on \([a-z]*\) (/ on \1_$n (/" bench/social/schema.sql
			echo "CREATE TABLE likes_copy_$n (LIKE likes_$n INCLUDING ALL);"
		done | run_sql node_$node social_fdw
	done
}
[ -n "$no_peer" ] || make_peer

# row TITLE VALUE…: the targets' values, and each one's ratio to the first
row() {
	local title=$1 value
	shift
	printf '%-56s' "$title"
	for value in "$@"; do printf ' %12s' "$value"; done
	for value in "${@:2}"; do printf ' %8s' "$(ratio "$value" "$1")"; done
	echo
}
echo "PostgreSQL $("$pg_config" --version | cut -d' ' -f2), $(nproc) cores, $users users, $shards shards on 2 nodes with no parallel workers, fsync on"
printf '%-56s' ""
for target in "${targets[@]}"; do printf ' %12s' $target; done
for target in "${targets[@]:1}"; do printf ' %8s' "${target:0:6}/"; done
echo

on plain -v users="$users" -f "$work/src/bench/social/data.sql"
for table in users posts likes; do
	on plain -c "\\copy $table TO STDOUT" >"$work/$table.data"
	chmod 644 "$work/$table.data"
done
head -n 500000 "$work/posts.data" >"$work/part.data"
chmod 644 "$work/part.data"

copy_posts() { # TARGET: milliseconds
	local start
	on $1 <<<"TRUNCATE posts; CHECKPOINT;"
	start=$(now_ms)
	on $1 <<<"\\copy posts FROM '$work/part.data'"
	echo $(($(now_ms) - start))
}
least() { sort -n | head -1; }
copy_row() {
	local target values=()
	for target in "${targets[@]}"; do
		# the peer takes half a minute each time
		values+=("$(for _ in 1 2 3; do copy_posts $target; [ $target != postgres_fdw ] || break; done | least)")
	done
	row "COPY of 500,000 posts, ms (0.75)" "${values[@]}"
}
! wanted copy || copy_row
for target in "${targets[@]}"; do
	[ $target != other ] || continue
	on $target <<<"TRUNCATE posts;"
	for table in users posts likes; do
		[ $target != plain ] || [ $table = posts ] || continue
		on $target <<<"\\copy $table FROM '$work/$table.data'"
	done
done
run_sql plain social <<<"VACUUM ANALYZE"
for name in node_1 node_2; do
	run_sql $name social <<<"VACUUM ANALYZE"
	[ -n "$no_peer" ] || run_sql $name social_fdw <<<"VACUUM ANALYZE"
done
for target in "${targets[@]:1}"; do on $target <<<"ANALYZE users; ANALYZE posts; ANALYZE likes"; done

# time_of TARGET FILE TIMES: ms of the statement's last run in a new session
time_of() {
	local output files=() n
	for n in $(seq "$3"); do files+=(-f "$work/src/bench/social/$2.sql"); done
	output=$(as_unprivileged "$bin/psql" -X -q -At -v ON_ERROR_STOP=1 -d "${conn[$1]}" -c '\timing on' "${files[@]}" -o /dev/null 2>"$work/psql.log") || { echo 0; return; }
	sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p' <<<"$output" | tail -1
}
best_of() { # TARGET FILE TIMES
	for _ in 1 2 3; do
		[ "$2" != q80-insert-select ] || on $1 <<<"TRUNCATE likes_copy"
		time_of "$@"
	done | least
}
title() { sed -n '1s/^-- \([^|]*[^| ]\) *|.*/\1/p' "bench/social/$1.sql"; }
aim() { sed -n '1p' "bench/social/$1.sql" | cut -d'|' -f"$2" | tr -d ' '; }
query_row() { # FILE TIMES TITLE AIM
	local target values=()
	for target in "${targets[@]}"; do values+=("$(best_of $target $1 $2)"); done
	row "$3, ms ($4)" "${values[@]}"
}
for file in bench/social/q*.sql; do
	q=$(basename "$file" .sql)
	wanted $q || continue
	query_row $q 1 "$(title $q)" "$(aim $q 2)"
	case $q in
		q30-top) query_row $q 2 "  again in the same session" 12 ;;
		q40-router-join) query_row $q 2 "  again in the same session" 1.9 ;;
	esac
done

# bench_of TARGET FILE CLIENTS MODE [OPTION]: "latency throughput"
bench_of() {
	as_unprivileged "$bin/pgbench" -n -M "$4" -c "$3" -j 2 -T "$seconds" \
		-D users="$users" -f "$work/src/bench/social/$2.sql" ${5:-} "${conn[$1]}" 2>"$work/pgbench.log" |
		awk '/^latency average/ { l = $4 } /^tps/ { t = $3 } END { printf "%s %.0f", l + 0, t }'
}
pgbench_row() { # FILE MODE NAME AIM_1 AIM_8 [OPTION]
	local target values=() result
	for target in "${targets[@]}"; do
		result=$(bench_of $target $1 1 $2 "${6:-}")
		values+=("${result% *}")
	done
	row "$3, ms, c=1 ($4)" "${values[@]}"
	[ -n "$5" ] || return 0
	values=()
	for target in "${targets[@]}"; do
		result=$(bench_of $target $1 8 $2)
		values+=("${result#* }")
	done
	row "  a second, c=8 (share $5)" "${values[@]}"
}
for file in bench/social/p*.sql; do
	p=$(basename "$file" .sql)
	wanted $p || continue
	pgbench_row $p prepared "$(title $p)" "$(aim $p 2)" "$(aim $p 3)"
	[ $p != p10-select ] || pgbench_row $p simple "$(title $p), simple protocol" 2.0 0.50
done
! wanted connect || pgbench_row p10-select simple "a new connection and one SELECT" 2.0 "" -C

# What planning a routed statement costs with ever more shards, and how many connections a client opens.
planning_rows() {
	local n
	for n in 4 32 256; do
		on dbscale >/dev/null <<<"CREATE TABLE of_$n (id bigint PRIMARY KEY, name text); SELECT dbscale.distribute_table('of_$n', 'id', shard_count => $n);"
		echo "SELECT name FROM of_$n WHERE id = 42;" >"$work/planning.sql"
		chmod 644 "$work/planning.sql"
		printf '%-56s %12s\n' "a routed SELECT, simple protocol, $n shards, ms" \
			"$(as_unprivileged "$bin/pgbench" -n -M simple -c 1 -T "$seconds" -f "$work/planning.sql" "${conn[dbscale]}" 2>"$work/pgbench.log" | awk '/^latency average/ { print $4 }')"
	done
	on dbscale <<SQL | sed 's/^/connections to the nodes of a client after count(*) of 256 shards: /'
SELECT count(*) AS n FROM of_256 \\gset
SELECT sum(result::int) FROM dbscale.run_on_nodes('SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE ''dbscale % ' || pg_backend_pid() || '''');
SQL
}
! wanted planning || planning_rows
