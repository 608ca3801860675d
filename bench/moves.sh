# moves.sh: what a move of a shard costs; sourced by bench/run, whose servers it uses.
#
# A table of eight shards of some 15 MB each on two nodes, and shard 0 moves to and fro:
#
#	speed   without anybody else, against pg_dump | psql of the same table from node to node
#	stall   four clients update rows of the shard; the longest of their transactions that end
#	        after a move began; of clients that use both nodes, and of such as have to connect to
#	        the target when the shard is there
#	others  four clients update rows of the other shards, without and with moves, one after the other

moves=10
run_sql coordinator postgres <<<"CREATE DATABASE moves"
for name in node_1 node_2; do run_sql $name postgres <<<"CREATE DATABASE moves"; done
run_sql coordinator moves >/dev/null <<SQL
SET client_min_messages = error;
CREATE EXTENSION dbscale CASCADE;
SELECT dbscale.add_node('node_1', host => '$work', port => ${port[node_1]});
SELECT dbscale.add_node('node_2', host => '$work', port => ${port[node_2]});
CREATE TABLE posts (id bigint PRIMARY KEY, user_id bigint NOT NULL, title text, created timestamptz, score int);
CREATE INDEX posts_user_id ON posts (user_id);
SELECT dbscale.distribute_table('posts', 'id', shard_count => 8);
INSERT INTO posts SELECT i, i % 10000, 'the title of post ' || i, now(), 0 FROM generate_series(1, 1000000) i;
ANALYZE posts;
-- rows of the shard that moves, and of the others, by a number that pgbench can draw
CREATE TABLE hot AS SELECT row_number() OVER () AS i, id FROM generate_series(1, 100000) id WHERE dbscale.shard_for('posts', id) = 0;
CREATE TABLE cold AS SELECT row_number() OVER () AS i, id FROM generate_series(1, 100000) id WHERE dbscale.shard_for('posts', id) <> 0;
ALTER TABLE hot ADD PRIMARY KEY (i);
ALTER TABLE cold ADD PRIMARY KEY (i);
ANALYZE hot, cold;
SQL
for table in hot cold; do
	cat >"$work/$table.sql" <<SQL
\\set i random(1, $(run_sql coordinator moves <<<"SELECT count(*) FROM $table"))
SELECT id FROM $table WHERE i = :i \\gset
UPDATE posts SET score = score + 1 WHERE id = :id;
SQL
	chmod 644 "$work/$table.sql"
done

place() { run_sql coordinator moves <<<"SELECT node FROM dbscale.shards WHERE relation = 'posts'::regclass AND shard = 0"; }
other_node() { [ "$1" = node_1 ] && echo node_2 || echo node_1; }
move() { run_sql coordinator moves <<<"SELECT dbscale.move_shard('posts', 0, '$(other_node "$(place)")')" >/dev/null; }
# the old tables must be gone before the shard can come back
settle() {
	until [ "$(run_sql coordinator moves <<<"SELECT count(*) FROM dbscale.cleanup")" = 0 ]; do
		run_sql coordinator moves <<<"SELECT dbscale.run_cleanup()" >/dev/null
		sleep 0.1
	done
}
clients() { # SCRIPT SECONDS [pgbench options]
	as_unprivileged "$bin/pgbench" -n -M prepared -h "$work" -p "${port[coordinator]}" -U postgres -c 4 -j 4 -T "$2" -f "$work/$1.sql@20" "${@:3}" moves 2>>"$work/pgbench.log"
}
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

echo "PostgreSQL $("$pg_config" --version | cut -d' ' -f2), $(nproc) cores, a shard of $(run_sql coordinator moves <<<"SELECT pg_size_pretty(bytes) FROM dbscale.shards WHERE relation = 'posts'::regclass AND shard = 0"), fsync on"
bytes=$(run_sql coordinator moves <<<"SELECT bytes FROM dbscale.shards WHERE relation = 'posts'::regclass AND shard = 0")
dump_once() {
	local from start
	from=$(place)
	run_sql "$(other_node "$from")" moves <<<"SET client_min_messages = error; DROP TABLE IF EXISTS dbscale_shards.posts_0"
	start=$(now_ms)
	as_unprivileged bash -c "'$bin/pg_dump' -h '$work' -p ${port[$from]} -U postgres -t dbscale_shards.posts_0 moves | '$bin/psql' -X -q -h '$work' -p ${port[$(other_node "$from")]} -U postgres moves" >/dev/null
	echo $(($(now_ms) - start))
	run_sql "$(other_node "$from")" moves <<<"DROP TABLE dbscale_shards.posts_0"
}
move_once() {
	local start
	settle
	start=$(now_ms)
	move
	echo $(($(now_ms) - start))
	settle
}
for _ in 1 2 3; do move_once >>"$work/move.ms"; dump_once >>"$work/dump.ms"; done
a=$(median <"$work/dump.ms") b=$(median <"$work/move.ms")
echo "pg_dump | psql: $a ms, $((bytes / 1000 / a)) MB/s; move_shard: $b ms, $((bytes / 1000 / b)) MB/s (ratio of times $(ratio "$b" "$a"))"

cat >"$work/any.sql" <<SQL
\\set id random(1, 1000000)
SELECT score FROM posts WHERE id = :id;
SQL
chmod 644 "$work/any.sql"
mkdir "$work/stalls"
give_to_unprivileged "$work/stalls"
longest() { # LOGS BEGIN: of the first script's transactions, in ms
	cat "$1".* | awk -v begin="$2" '$4 == 0 && $5 + $6 / 1e6 > begin && $3 > most { most = $3 } END { printf "%.0f\n", most / 1000 }'
}
stalls() { # NAME [pgbench options]
	local begin n
	for n in $(seq $moves); do
		settle
		clients hot 4 -l --log-prefix="$work/stalls/$1.$n" "${@:2}" >/dev/null &
		sleep 1.5
		begin=$(date +%s.%N)
		move
		wait
		longest "$work/stalls/$1.$n" "$begin" >>"$work/$1.ms"
	done
	begin=$(date +%s.%N)
	clients hot 4 -l --log-prefix="$work/stalls/$1.without" "${@:2}" >/dev/null
	echo "longest transaction of 4 clients that $1, ms, in each of $moves moves: $(sort -n "$work/$1.ms" | tr '\n' ' ')(median $(median <"$work/$1.ms")); without a move: $(longest "$work/stalls/$1.without" "${begin%.*}.999")"
}
stalls know_both_nodes -f "$work/any.sql@1"
stalls know_one_node

tps() { awk '/^tps/ { printf "%d", $3 }'; }
while_moving() { # MB/s, 0 for as fast as it goes: updates a second
	run_sql coordinator moves >/dev/null <<<"ALTER SYSTEM SET dbscale.move_rate_limit = $1; SELECT pg_reload_conf()"
	rm -f "$work/enough"
	(while [ ! -e "$work/enough" ]; do settle; move; done) &
	clients cold 10 | tps
	touch "$work/enough"
	wait
}
before=$(clients cold 10 | tps)
for limit in 0 5; do
	during=$(while_moving $limit)
	echo "updates of the other shards, a second: $before without a move, $during while one follows the other (share $(ratio "$during" "$before"), move_rate_limit $limit)"
done
