-- Writes to many shards: the same rows, counts and errors as with plain tables.
SET client_min_messages = error;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
SELECT dbscale.add_local_node('writes_a');
SELECT dbscale.add_local_node('writes_b');
CREATE SCHEMA wplain;
CREATE SCHEMA wsharded;
CREATE TYPE public.writes_mood AS ENUM ('sad', 'ok', 'happy');
SELECT dbscale.run_on_nodes('CREATE TYPE public.writes_mood AS ENUM (''sad'', ''ok'', ''happy'')');
CREATE FUNCTION make_written() RETURNS void LANGUAGE sql AS $$
    CREATE TABLE users (id bigint PRIMARY KEY, name text, region text DEFAULT 'none', n int DEFAULT 0);
    CREATE TABLE posts (user_id bigint, id bigint, title text, likes int DEFAULT 0, at timestamptz, PRIMARY KEY (user_id, id),
                        CONSTRAINT posts_title UNIQUE (user_id, title));
    CREATE TABLE archive (user_id bigint, id bigint, title text, kept bool DEFAULT true, PRIMARY KEY (user_id, id));
    CREATE TABLE other (k int PRIMARY KEY, v text, total numeric);
    CREATE TABLE kinds (k int, mood public.writes_mood, tags text[], doc jsonb, born date, span interval, raw bytea, f float8, b bool, c char(4), u uuid, PRIMARY KEY (k));
    CREATE TABLE serials (k int, id serial, v text, doubled int GENERATED ALWAYS AS (k * 2) STORED, PRIMARY KEY (k, id));
    CREATE TABLE months (day date, what text, n int, PRIMARY KEY (day, what));
    CREATE TABLE regions (region text PRIMARY KEY, title text);
    CREATE TABLE incoming (id bigint, name text, n int);
$$ SET check_function_bodies = off;
CREATE FUNCTION fill_written() RETURNS void LANGUAGE sql AS $$
    INSERT INTO users SELECT i, 'user ' || i, 'r' || i % 5, i FROM generate_series(1, 60) i;
    INSERT INTO posts SELECT 1 + i % 50, i, 'post ' || i, i % 7, timestamptz '2026-01-01 12:00+00' + i * interval '1 hour' FROM generate_series(1, 200) i;
    INSERT INTO archive SELECT 1 + i % 50, i, 'old ' || i FROM generate_series(1, 20) i;
    INSERT INTO other SELECT i, 'v' || i, i * 1.5 FROM generate_series(1, 30) i;
    INSERT INTO kinds SELECT i, 'ok', ARRAY['a', NULL, 'b"' || i], '{"a": 1}', '2026-01-01', '1 day', '\x01', i / 3.0, true, 'x', '00000000-0000-0000-0000-000000000001' FROM generate_series(1, 20) i;
    INSERT INTO months SELECT date '2026-01-05' + i, 'k' || i % 3, i FROM generate_series(0, 80) i;
    INSERT INTO regions SELECT 'r' || i, 'Region ' || i FROM generate_series(0, 3) i;
    INSERT INTO incoming SELECT i, 'new ' || i, i * 10 FROM generate_series(50, 75) i;
$$ SET check_function_bodies = off;
SET search_path = wplain, public;
SELECT make_written();
SELECT fill_written();
SET search_path = wsharded, public;
SELECT make_written();
SELECT dbscale.distribute_table('users', 'id', shard_count => 4);
SELECT dbscale.distribute_table('posts', 'user_id', colocate_with => 'users');
SELECT dbscale.distribute_table('archive', 'user_id', colocate_with => 'users');
SELECT dbscale.distribute_table('other', 'k', shard_count => 3);
SELECT dbscale.distribute_table('kinds', 'k', shard_count => 3);
SELECT dbscale.distribute_table('serials', 'k', shard_count => 3);
SELECT dbscale.distribute_table('months', 'day', 'range', step => '1 month', bounds => '{"from": "2026-01-01", "to": "2026-07-01"}');
SELECT dbscale.distribute_reference('regions');
SELECT fill_written();
RESET client_min_messages;

CREATE FUNCTION public.contents() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    t text;
    one text;
    result text := '';
BEGIN
    FOREACH t IN ARRAY '{users,posts,archive,other,kinds,serials,months,regions,incoming}'::text[] LOOP
        EXECUTE format('SELECT string_agg(t::text, E''\n'' ORDER BY t::text COLLATE "C") FROM %I t', t) INTO one;
        result := result || t || E':\n' || COALESCE(one, '') || E'\n';
    END LOOP;
    RETURN result;
END $$;
CREATE FUNCTION public.outcome(statement text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    r record;
    n bigint;
    result text[] := '{}';
    outside text := statement;
BEGIN
    WHILE outside ~ '\(' LOOP
        outside := regexp_replace(outside, '\([^()]*\)', '', 'g');
    END LOOP;
    IF outside ~* 'returning' OR outside !~* '(insert|update|delete|merge)' THEN
        FOR r IN EXECUTE statement LOOP
            result := result || r::text;
        END LOOP;
        RETURN ARRAY(SELECT x FROM unnest(result) x ORDER BY x COLLATE "C");
    END IF;
    EXECUTE statement;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN ARRAY['count ' || n];
EXCEPTION WHEN others THEN
    RETURN ARRAY['error ' || SQLSTATE];
END $$;
-- Runs it on both; what they differ in (and then undone), else what came of it.
CREATE FUNCTION public.compare_write(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    a text[];
    b text[];
    ca text[];
    cb text[];
BEGIN
    PERFORM set_config('search_path', 'wplain, public', true);
    a := public.outcome(statement);
    ca := string_to_array(public.contents(), E'\n');
    PERFORM set_config('search_path', 'wsharded, public', true);
    b := public.outcome(statement);
    cb := string_to_array(public.contents(), E'\n');
    IF a <> b OR ca <> cb THEN
        RAISE EXCEPTION 'DIFFERENT: plain % sharded %; only in plain %, only sharded %', a, b,
            ARRAY(SELECT unnest(ca) EXCEPT SELECT unnest(cb) LIMIT 5), ARRAY(SELECT unnest(cb) EXCEPT SELECT unnest(ca) LIMIT 5)
            USING ERRCODE = 'DF001';
    END IF;
    RETURN 'same, ' || CASE WHEN a[1] ~ '^(error|count)' THEN a[1] ELSE cardinality(a) || ' rows' END;
EXCEPTION WHEN SQLSTATE 'DF001' THEN
    RETURN SQLERRM;
END $$;
-- The scan that does it, with how
CREATE FUNCTION public.way(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    line text;
    result text := '';
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || statement LOOP
        IF line ~ 'Custom Scan|Strategy|Shards?:' THEN
            result := result || CASE WHEN result <> '' THEN '; ' ELSE '' END || trim(line);
        END IF;
    END LOOP;
    RETURN result;
END $$;

-- several rows, and a conflict
SELECT compare_write('INSERT INTO users VALUES (1, ''a''), (2, ''b''), (61, ''c'') ON CONFLICT (id) DO UPDATE SET name = excluded.name || users.name');
SELECT compare_write('INSERT INTO users (id, name) VALUES (3, ''a''), (4, NULL), (62, ''c'') ON CONFLICT (id) DO UPDATE SET name = COALESCE(excluded.name, ''none''), n = users.n + 1 WHERE users.id <> 3 RETURNING id, name, n, region');
SELECT compare_write('INSERT INTO users VALUES (5, ''a''), (5, ''b'') ON CONFLICT (id) DO UPDATE SET name = excluded.name');
SELECT compare_write('INSERT INTO users VALUES (63, ''a''), (63, ''b'') ON CONFLICT (id) DO NOTHING');
SELECT compare_write('INSERT INTO users VALUES (64, ''a''), (65, ''b'') ON CONFLICT ON CONSTRAINT users_pkey DO UPDATE SET n = 5 RETURNING *');
SELECT compare_write('INSERT INTO posts VALUES (1, 1000, ''post 50''), (2, 1001, ''fresh'') ON CONFLICT ON CONSTRAINT posts_title DO UPDATE SET likes = posts.likes + 100 RETURNING user_id, id, likes');
SELECT compare_write('INSERT INTO posts VALUES (1, 50, ''other title''), (1, 1002, ''post 50'') ON CONFLICT (user_id, title) DO NOTHING');
SELECT compare_write('INSERT INTO posts VALUES (1, 50, ''x''), (1, 1003, ''y'') ON CONFLICT (user_id, id) DO NOTHING RETURNING id');
SELECT compare_write('INSERT INTO posts SELECT user_id, id, title || '' again'', 9 FROM posts WHERE id < 20 ON CONFLICT (user_id, id) DO UPDATE SET likes = excluded.likes');
SELECT compare_write('INSERT INTO users SELECT id, name FROM incoming ON CONFLICT (id) DO UPDATE SET name = excluded.name, n = users.n + 1');
SELECT compare_write('INSERT INTO users (id, name) SELECT 1 + n % 60, max(name) FROM incoming GROUP BY 1 ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING id, name');
SELECT compare_write('WITH x AS (SELECT id + 100 AS id, name FROM incoming) INSERT INTO users (id, name) SELECT * FROM x ON CONFLICT (id) DO UPDATE SET name = ''dup'' RETURNING id');
SELECT compare_write('INSERT INTO users (id, n) VALUES (NULL, 1), (2, 3) ON CONFLICT (id) DO UPDATE SET n = excluded.n');
SELECT compare_write('INSERT INTO users (name) VALUES (''nokey''), (''nokey2'') ON CONFLICT (id) DO NOTHING');
SELECT compare_write('INSERT INTO users (id, n) VALUES (7, (SELECT max(n) FROM users)), (8, (SELECT min(id) FROM incoming)) ON CONFLICT (id) DO UPDATE SET n = excluded.n');
SELECT compare_write('INSERT INTO kinds VALUES (1, ''happy'', ''{x,NULL,"a b"}'', ''[1,2]'', ''infinity'', ''1 mon -2 days 03:00'', ''\xdeadbeef'', ''NaN'', NULL, ''abc'', NULL), (200, ''sad'', NULL, NULL, ''-infinity'', NULL, ''\x'', ''-Infinity'', false, NULL, ''00000000-0000-0000-0000-0000000000ff'')
             ON CONFLICT (k) DO UPDATE SET mood = excluded.mood, tags = excluded.tags, doc = excluded.doc, born = excluded.born, span = excluded.span, raw = excluded.raw, f = excluded.f, b = excluded.b, c = excluded.c, u = excluded.u RETURNING *');
SELECT compare_write('INSERT INTO kinds (k, tags) SELECT k, tags || ''more''::text FROM kinds ON CONFLICT (k) DO UPDATE SET tags = excluded.tags');
SELECT compare_write('INSERT INTO serials (k, v) VALUES (1, ''a''), (2, ''b''), (3, ''c'') ON CONFLICT (k, id) DO UPDATE SET v = ''no'' RETURNING k, id, doubled');
SELECT compare_write('INSERT INTO serials (k, id, v) VALUES (1, 1, ''x''), (2, 2, ''y''), (9, 9, ''z'') ON CONFLICT (k, id) DO UPDATE SET v = excluded.v || serials.v RETURNING *');
SELECT compare_write('INSERT INTO months VALUES (''2026-01-05'', ''k0'', 100), (''2026-06-30'', ''k9'', 1) ON CONFLICT (day, what) DO UPDATE SET n = excluded.n');
SELECT compare_write('INSERT INTO users VALUES (1, ''time'') , (2, ''time'') ON CONFLICT (id) DO UPDATE SET name = to_char(now(), ''YYYY'') || excluded.name RETURNING length(name)');
-- a key outside of all ranges: as core says it of a partitioned table
INSERT INTO months VALUES ('2030-01-01', 'k0', 100), ('2026-06-30', 'k9', 1) ON CONFLICT (day, what) DO UPDATE SET n = excluded.n;

-- INSERT … SELECT where the rows are
SELECT compare_write('INSERT INTO archive SELECT user_id, id, title FROM posts WHERE id > 100');
SELECT compare_write('INSERT INTO archive (user_id, id) SELECT user_id, max(id) + 5000 FROM posts GROUP BY user_id RETURNING user_id, id, kept');
SELECT compare_write('INSERT INTO archive (user_id, id, title) SELECT p.user_id, p.id + 10000, u.name FROM posts p JOIN users u ON u.id = p.user_id LEFT JOIN regions r ON r.region = u.region WHERE r.title LIKE ''%1'' ON CONFLICT DO NOTHING');
SELECT compare_write('INSERT INTO archive (user_id, id, title) SELECT DISTINCT user_id, 20000, ''d'' FROM posts');
SELECT compare_write('INSERT INTO archive SELECT user_id, id, title FROM posts ON CONFLICT (user_id, id) DO UPDATE SET title = excluded.title || ''!''');
SELECT compare_write('INSERT INTO archive (user_id, id) SELECT user_id + 1, id + 30000 FROM posts WHERE id < 50');
SELECT compare_write('INSERT INTO archive (user_id, id) SELECT id, user_id + 40000 FROM posts WHERE id < 50');
SELECT compare_write('INSERT INTO archive (user_id, id) SELECT user_id, 50000 + row_number() OVER (PARTITION BY user_id ORDER BY id) FROM posts');
SELECT compare_write('INSERT INTO archive (user_id, id) SELECT user_id, 60000 + row_number() OVER (ORDER BY id) FROM posts');
SELECT compare_write('INSERT INTO archive (user_id, id) SELECT user_id, 70000 FROM posts ORDER BY id LIMIT 1');
SELECT compare_write('INSERT INTO archive (user_id, id) SELECT u.id, p.id + 80000 FROM users u LEFT JOIN posts p ON p.user_id = u.id AND p.id < 3 WHERE p.id IS NOT NULL');
SELECT compare_write('INSERT INTO archive (user_id, id) SELECT p.user_id, 90000 + u.id FROM users u LEFT JOIN posts p ON p.user_id = u.id AND p.id = 1 WHERE u.id < 3');
SELECT compare_write('INSERT INTO other SELECT 1000 + k, v FROM other');
SELECT compare_write('INSERT INTO archive SELECT user_id, id + 100000, title FROM posts UNION ALL SELECT user_id, id + 200000, title FROM posts');
SELECT compare_write('INSERT INTO archive SELECT user_id, id, title FROM posts WHERE user_id IN (1, 2, 3) AND id > 100');
SELECT compare_write('INSERT INTO archive (user_id, id) SELECT user_id, id + 300000 FROM posts WHERE user_id IN (1, 2, 3) AND likes = ANY (ARRAY[1, 2])');

-- UPDATE and DELETE
SELECT compare_write('UPDATE posts p SET title = u.name || p.id FROM users u WHERE u.id = p.user_id AND u.region = ''r1''');
SELECT compare_write('UPDATE posts p SET likes = x.n FROM (SELECT user_id, count(*) AS n FROM archive GROUP BY user_id) x WHERE x.user_id = p.user_id RETURNING p.user_id, p.id, p.likes');
SELECT compare_write('UPDATE users SET n = (SELECT count(*) FROM posts WHERE user_id = users.id)');
SELECT compare_write('UPDATE users SET n = n + 1, name = upper(name) WHERE EXISTS (SELECT FROM posts WHERE user_id = users.id AND likes > 2) RETURNING id, n');
SELECT compare_write('UPDATE users SET region = r.title FROM regions r WHERE r.region = users.region AND users.id > 10');
SELECT compare_write('UPDATE users u SET name = i.name FROM incoming i WHERE i.id = u.id');
SELECT compare_write('UPDATE users SET n = n WHERE id IN (1, 2, 500)');
SELECT compare_write('UPDATE users SET name = NULL WHERE id = ANY (ARRAY[1, 5, 9]) RETURNING *');
SELECT compare_write('UPDATE posts SET at = now() - interval ''0'' WHERE likes IS NULL');
SELECT compare_write('UPDATE users SET id = id + 1000 WHERE id > 55');
SELECT compare_write('UPDATE users SET n = n / (id - 30) WHERE id BETWEEN 20 AND 40');
SELECT compare_write('DELETE FROM archive a USING posts p WHERE p.user_id = a.user_id AND p.id = a.id AND p.likes > 3');
SELECT compare_write('DELETE FROM archive WHERE user_id IN (SELECT id FROM users WHERE region = ''r2'') RETURNING user_id');
SELECT compare_write('DELETE FROM archive WHERE id > (SELECT avg(id) FROM posts)');
SELECT compare_write('DELETE FROM archive a WHERE NOT EXISTS (SELECT FROM users u WHERE u.id = a.user_id)');
SELECT compare_write('WITH gone AS (DELETE FROM archive WHERE id % 2 = 0 RETURNING *) SELECT count(*), sum(id) FROM gone');
SELECT compare_write('UPDATE months SET n = n + 1 WHERE day >= ''2026-02-01'' AND day < ''2026-03-01''');
SELECT compare_write('UPDATE months SET n = n + 1');

-- MERGE
SELECT compare_write('MERGE INTO users u USING incoming i ON u.id = i.id WHEN MATCHED AND i.n > 600 THEN DELETE WHEN MATCHED THEN UPDATE SET name = i.name, n = u.n + i.n WHEN NOT MATCHED THEN INSERT (id, name, n) VALUES (i.id, i.name, i.n)');
SELECT compare_write('MERGE INTO users u USING (VALUES (1, ''one''), (2, ''two''), (900, ''nine'')) v (id, name) ON u.id = v.id WHEN MATCHED THEN UPDATE SET name = v.name WHEN NOT MATCHED THEN INSERT (id, name) VALUES (v.id, v.name)');
SELECT compare_write('MERGE INTO users u USING (VALUES (1, ''one''), (1, ''two'')) v (id, name) ON u.id = v.id WHEN MATCHED THEN UPDATE SET name = v.name');
SELECT compare_write('MERGE INTO archive a USING posts p ON a.user_id = p.user_id AND a.id = p.id WHEN MATCHED THEN UPDATE SET title = p.title WHEN NOT MATCHED AND p.likes > 2 THEN INSERT VALUES (p.user_id, p.id, ''merged'') WHEN NOT MATCHED THEN DO NOTHING');
SELECT compare_write('MERGE INTO archive a USING (SELECT user_id, max(id) AS id FROM posts GROUP BY user_id) p ON a.user_id = p.user_id AND a.id = p.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (user_id, id) VALUES (p.user_id, p.id)');
SELECT compare_write('MERGE INTO users u USING posts p ON u.id = p.user_id AND p.id < 40 WHEN MATCHED THEN UPDATE SET n = p.likes');
SELECT compare_write('MERGE INTO users u USING regions r ON r.region = u.region WHEN MATCHED THEN UPDATE SET name = r.title');
SELECT compare_write('MERGE INTO users u USING regions r ON r.region = u.region AND u.id = 7 WHEN MATCHED THEN UPDATE SET name = r.title');
SELECT compare_write('MERGE INTO users u USING (SELECT 33 AS id) s ON u.id = s.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)');
SELECT compare_write('MERGE INTO users u USING (SELECT 33 AS id) s ON u.id = s.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)');
SELECT compare_write('MERGE INTO users u USING (SELECT NULL::bigint AS id) s ON u.id = s.id WHEN MATCHED THEN DELETE');
SELECT compare_write('MERGE INTO users u USING (incoming i JOIN regions r ON r.region = ''r'' || i.id % 5) ON u.id = i.id WHEN MATCHED THEN UPDATE SET region = r.title, n = length(i.name)');
SELECT compare_write('WITH s AS (SELECT id, n FROM incoming) MERGE INTO users u USING s ON s.id = u.id WHEN MATCHED THEN UPDATE SET n = s.n WHEN NOT MATCHED THEN INSERT (id, n) VALUES (s.id, s.n)');
SELECT compare_write('MERGE INTO months m USING (SELECT day, sum(n) AS n FROM months GROUP BY day) s ON s.day = m.day WHEN MATCHED THEN UPDATE SET n = s.n');
SELECT compare_write('MERGE INTO months m USING (VALUES (date ''2031-01-01'', 5), (NULL, 6), (''2026-01-05'', 7)) s (day, n) ON s.day = m.day WHEN MATCHED THEN UPDATE SET n = s.n');
SELECT compare_write('MERGE INTO kinds k USING (SELECT 1 AS k, ''sad''::public.writes_mood AS mood, ARRAY[''q''] AS tags) s ON s.k = k.k WHEN MATCHED THEN UPDATE SET mood = s.mood, tags = s.tags');
SELECT compare_write('MERGE INTO serials t USING (SELECT 5 AS k) s ON s.k = t.k WHEN NOT MATCHED THEN INSERT (k, v) VALUES (s.k, ''x'')');
-- refused before anything is written
MERGE INTO users u USING incoming i ON u.name = i.name WHEN NOT MATCHED THEN INSERT (id) VALUES (i.id);
MERGE INTO users u USING incoming i ON u.id = i.id WHEN NOT MATCHED THEN INSERT (id) VALUES (i.id + 1);
MERGE INTO users u USING incoming i ON u.id = i.id WHEN MATCHED THEN UPDATE SET id = 5;
INSERT INTO users VALUES (1, 'a'), (2, 'b') ON CONFLICT (id) DO UPDATE SET id = excluded.id + 1;
INSERT INTO users VALUES (1, 'a'), (2, 'b') ON CONFLICT (id) DO UPDATE SET n = random();

-- one key: the router
SELECT compare_write('WITH d AS (DELETE FROM posts WHERE user_id = 3 RETURNING *) INSERT INTO archive (user_id, id, title) SELECT user_id, id + 400000, title FROM d');
SELECT compare_write('WITH d AS (DELETE FROM posts WHERE user_id = 4 RETURNING *), u AS (UPDATE users SET n = 0 WHERE id = 4 RETURNING n) SELECT count(*), (SELECT n FROM u) FROM d');
SELECT compare_write('WITH i AS (INSERT INTO posts (user_id, id) VALUES (5, 7777) RETURNING user_id, id) UPDATE users SET n = i.id FROM i WHERE users.id = i.user_id AND users.id = 5 RETURNING users.id, n');
SELECT compare_write('INSERT INTO archive (user_id, id) SELECT user_id, id + 500000 FROM posts WHERE user_id = 6');
SELECT compare_write('INSERT INTO archive (user_id, id) VALUES (6, 600000), (6, 600001) ON CONFLICT DO NOTHING');
SELECT compare_write('MERGE INTO users u USING (SELECT 8::bigint AS id) s ON u.id = s.id WHEN MATCHED THEN UPDATE SET n = 88 WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)');

-- how they are done
SELECT way(s) FROM unnest(ARRAY[
    'INSERT INTO users VALUES (1, ''a''), (2, ''b'') ON CONFLICT (id) DO UPDATE SET n = 1',
    'INSERT INTO archive SELECT user_id, id, title FROM posts',
    'INSERT INTO archive SELECT user_id, id, title FROM posts WHERE user_id = 6',
    'INSERT INTO archive (user_id, id) SELECT user_id, max(id) FROM posts GROUP BY user_id',
    'INSERT INTO archive (user_id, id) SELECT id, user_id FROM posts',
    'UPDATE users SET n = 1',
    'UPDATE users SET n = 1 WHERE id IN (1, 2)',
    'UPDATE posts p SET title = u.name FROM users u WHERE u.id = p.user_id',
    'UPDATE users u SET name = i.name FROM incoming i WHERE i.id = u.id',
    'DELETE FROM archive a USING posts p WHERE p.user_id = a.user_id',
    'MERGE INTO archive a USING posts p ON a.user_id = p.user_id AND a.id = p.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (user_id, id) VALUES (p.user_id, p.id)',
    'MERGE INTO users u USING incoming i ON u.id = i.id WHEN MATCHED THEN DELETE',
    'MERGE INTO users u USING regions r ON r.region = u.region WHEN MATCHED THEN DELETE',
    'MERGE INTO users u USING (SELECT 8::bigint AS id) s ON u.id = s.id WHEN MATCHED THEN DELETE',
    'WITH d AS (DELETE FROM posts WHERE user_id = 3 RETURNING *) INSERT INTO archive (user_id, id) SELECT user_id, id FROM d',
    'SELECT count(*) FROM users JOIN posts USING (id) WHERE id = 5',
    'SELECT count(*) FROM (SELECT user_id, count(*) AS n FROM posts GROUP BY user_id) x JOIN users u ON u.id = x.user_id WHERE u.id = 5',
    'WITH x AS (SELECT user_id, id FROM posts WHERE user_id = 5) SELECT count(*) FROM x JOIN users u ON u.id = x.user_id',
    'SELECT count(*) FROM (SELECT user_id FROM posts UNION ALL SELECT user_id FROM archive) x JOIN users u ON u.id = x.user_id WHERE u.id = 5'
]) s;

-- prepared, with one plan for all keys
PREPARE upsert(bigint, text, bigint, text) AS INSERT INTO users (id, name) VALUES ($1, $2), ($3, $4) ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING id, name;
SET plan_cache_mode = force_generic_plan;
EXECUTE upsert(1, 'p1', 2, 'p2');
EXECUTE upsert(1, 'p3', 2000, NULL);
PREPARE move(bigint) AS WITH d AS (DELETE FROM posts WHERE user_id = $1 RETURNING *) INSERT INTO archive (user_id, id) SELECT user_id, id + 800000 FROM d;
EXECUTE move(9);
EXECUTE move(10);
RESET plan_cache_mode;
EXPLAIN (VERBOSE, COSTS OFF) INSERT INTO users VALUES (1, 'a'), (2, 'b') ON CONFLICT (id) DO UPDATE SET name = excluded.name || $$'$$ RETURNING id;
-- 18 prints an alias without AS
CREATE FUNCTION public.plan_of(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (VERBOSE, COSTS OFF) ' || statement LOOP
        RETURN NEXT regexp_replace(line, '(MERGE INTO \S+) AS ', '\1 ');
    END LOOP;
END $$;
SELECT * FROM plan_of('MERGE INTO users u USING incoming i ON u.id = i.id WHEN MATCHED THEN UPDATE SET n = i.n WHEN NOT MATCHED THEN INSERT (id, name) VALUES (i.id, i.name)');

-- a part that fails undoes all; a savepoint keeps what was before
BEGIN;
UPDATE users SET n = 4242 WHERE id < 10;
SAVEPOINT s;
UPDATE users SET n = 1 / (id - 12) WHERE id > 5;
ROLLBACK TO s;
COMMIT;
SELECT count(*) FROM users WHERE n = 4242;

-- a constraint that is checked when the node commits
ALTER TABLE posts ADD CONSTRAINT author FOREIGN KEY (user_id) REFERENCES users (id) DEFERRABLE INITIALLY DEFERRED;
INSERT INTO posts (user_id, id) VALUES (777777, 1);
INSERT INTO posts (user_id, id) VALUES (777777, 1) RETURNING id;
SELECT count(*) FROM posts WHERE user_id = 777777;
ALTER TABLE posts DROP CONSTRAINT author;

-- privileges
CREATE ROLE writes_user;
SELECT dbscale.grant_node_access('writes_user');
GRANT USAGE ON SCHEMA wsharded TO writes_user;
GRANT SELECT, INSERT ON users TO writes_user;
GRANT UPDATE (n) ON users TO writes_user;
GRANT SELECT ON posts, incoming TO writes_user;
SET ROLE writes_user;
INSERT INTO users (id, n) VALUES (1, 1), (2, 2) ON CONFLICT (id) DO UPDATE SET n = excluded.n;
INSERT INTO users (id, n) VALUES (1, 1), (2, 2) ON CONFLICT (id) DO UPDATE SET name = 'x';
INSERT INTO archive SELECT user_id, id, title FROM posts;
UPDATE users SET n = 3 FROM archive a WHERE a.user_id = users.id;
UPDATE users SET name = 'x';
MERGE INTO users u USING incoming i ON u.id = i.id WHEN MATCHED THEN DELETE;
MERGE INTO users u USING incoming i ON u.id = i.id WHEN MATCHED THEN UPDATE SET n = 12;
WITH d AS (DELETE FROM posts WHERE user_id = 3 RETURNING *) SELECT * FROM d;
RESET ROLE;

-- what a rolled back transaction had queued is not kept for the rest of the session
SELECT sum(used_bytes) AS bytes FROM pg_backend_memory_contexts WHERE name = 'dbscale connection' \gset
DO $$
BEGIN
    FOR i IN 1..1000 LOOP
        BEGIN
            UPDATE users SET n = n WHERE id = 1;
        EXCEPTION WHEN division_by_zero THEN
        END;
        ROLLBACK;
    END LOOP;
END $$;
SELECT sum(used_bytes) < :bytes + 16384 AS forgotten FROM pg_backend_memory_contexts WHERE name = 'dbscale connection';

SET client_min_messages = error;
DROP SCHEMA wplain CASCADE;
DROP SCHEMA wsharded CASCADE;
REASSIGN OWNED BY writes_user TO CURRENT_USER;
DROP OWNED BY writes_user;
DROP ROLE writes_user;
SELECT dbscale.run_on_nodes('DROP TYPE public.writes_mood');
DROP TYPE public.writes_mood;
DROP FUNCTION make_written, fill_written, contents, outcome, compare_write, way;
SELECT dbscale.remove_node('writes_a'), dbscale.remove_node('writes_b');
