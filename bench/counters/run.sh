# run.sh: what counters cost; sourced by bench/run --counters, on its coordinator alone.
#
# Four pairs of tables, posts and likes, with a foreign key: without a counter, with the
# row trigger that people write, with a counter in mode sync and with one in mode buffered.
# Every figure is the best of three rounds in which all four take turns; ratios are to the
# tables without a counter.
kinds=(none row sync buffered)
on() { as_unprivileged "$bin/psql" -X -q -At -v ON_ERROR_STOP=1 -h "$work" -p "${port[coordinator]}" -U postgres -d counters "$@"; }

run_sql coordinator postgres <<<"CREATE DATABASE counters"
on >/dev/null <<SQL
SET client_min_messages = error;
CREATE EXTENSION dbscale CASCADE;
$(for kind in "${kinds[@]}"; do cat <<TABLES
CREATE TABLE posts_$kind (id bigint PRIMARY KEY, author int, title text, like_count bigint NOT NULL DEFAULT 0);
CREATE TABLE likes_$kind (post_id bigint REFERENCES posts_$kind, liker bigint, at timestamptz DEFAULT now(), PRIMARY KEY (post_id, liker));
INSERT INTO posts_$kind SELECT i, i % 1000, 'the title of post ' || i FROM generate_series(1, 10000) i;
CREATE INDEX ON posts_$kind (author);
TABLES
done)
CREATE FUNCTION row_trigger() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
    UPDATE posts_row SET like_count = like_count + 1 WHERE id = NEW.post_id;
    RETURN NULL;
END \$\$;
CREATE TRIGGER row_trigger AFTER INSERT ON likes_row FOR EACH ROW EXECUTE FUNCTION row_trigger();
SELECT dbscale.create_counter('posts_sync', 'like_count', 'likes_sync', '{id}', '{post_id}'),
       dbscale.create_counter('posts_buffered', 'like_count', 'likes_buffered', '{id}', '{post_id}', mode => 'buffered');
SQL

declare -A best
keep_least() { [ -n "${best[$1]:-}" ] && [ "${best[$1]}" -le "$2" ] || best[$1]=$2; }
keep_most() { [ -n "${best[$1]:-}" ] && [ "${best[$1]}" -ge "$2" ] || best[$1]=$2; }
tps() { # KIND CLIENTS SQL
	echo "$3" >"$work/counter.sql"
	chmod 644 "$work/counter.sql"
	as_unprivileged "$bin/pgbench" -n -M prepared -c "$2" -j 2 -T "$seconds" -f "$work/counter.sql" -h "$work" \
		-p "${port[coordinator]}" -U postgres counters 2>/dev/null | sed -n 's/^tps = \([0-9]*\).*/\1/p'
}
like="INSERT INTO likes_KIND VALUES (POST, (random() * 1e15)::bigint);"

for round in 1 2 3; do
	for kind in "${kinds[@]}"; do
		on <<<"VACUUM ANALYZE posts_$kind, likes_$kind; CHECKPOINT;"
		start=$(now_ms)
		on <<<"INSERT INTO likes_$kind SELECT i % 10000 + 1, i + $round * 1000000 FROM generate_series(1, 100000) i"
		keep_least "bulk_$kind" $(($(now_ms) - start))
	done
	for kind in "${kinds[@]}"; do
		one=${like/KIND/$kind}
		keep_most "one_$kind" "$(tps "$kind" 1 "${one/POST/1 + (random() * 9999)::int}")"
	done
	for kind in "${kinds[@]}"; do
		one=${like/KIND/$kind}
		keep_most "hot_$kind" "$(tps "$kind" 32 "${one/POST/1}")"
	done
done

row() { printf '%-46s %10s %10s %10s %10s   %s\n' "$@"; }
row "" "${kinds[@]}" "row, sync, buffered : none"
report() { # KEY TITLE
	row "$2" "${best[$1_none]}" "${best[$1_row]}" "${best[$1_sync]}" "${best[$1_buffered]}" \
		"$(ratio "${best[$1_row]}" "${best[$1_none]}") $(ratio "${best[$1_sync]}" "${best[$1_none]}") $(ratio "${best[$1_buffered]}" "${best[$1_none]}")"
}
report bulk "100,000 likes in one INSERT, ms"
report one "likes of any post, one client, a second"
report hot "likes of one post, 32 clients, a second"
echo "one hot post, buffered : row trigger = $(ratio "${best[hot_buffered]}" "${best[hot_row]}")"

# the seed query: the posts of a user with their likes
joined="SELECT p.id, count(l.liker) FROM posts_sync p LEFT JOIN likes_sync l ON l.post_id = p.id WHERE p.author = 7 GROUP BY p.id"
counted="SELECT id, like_count FROM posts_sync WHERE author = 7"
on <<<"VACUUM ANALYZE posts_sync, likes_sync"
joined=$(tps sync 1 "$joined;") counted=$(tps sync 1 "$counted;")
echo "posts of a user with their likes, a second: join $joined, counter $counted, ratio $(ratio "$counted" "$joined")"
[ "$(on <<<"SELECT count(*) FROM dbscale.counters c, LATERAL dbscale.verify_counter(c.counter)")" = 0 ] || { echo "a counter is wrong"; exit 1; }
