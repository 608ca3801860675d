--
-- Statements of one key go to one shard whole; all others do not.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
RESET client_min_messages;
SELECT dbscale.add_local_node('router_a');
SELECT dbscale.add_local_node('router_b');
CREATE SCHEMA router;
SET search_path = router;
CREATE TABLE users (id bigint PRIMARY KEY, name text, region text DEFAULT 'us');
CREATE TABLE posts (user_id bigint, id bigserial, title text, day date DEFAULT DATE '2024-01-01',
                    shout text GENERATED ALWAYS AS (upper(title)) STORED, PRIMARY KEY (user_id, id));
CREATE TABLE notes (user_id bigint, body text);
SELECT dbscale.distribute_table('users', 'id', shard_count => 4);
SELECT dbscale.distribute_table('posts', 'user_id', colocate_with => 'users');
INSERT INTO users SELECT i, 'user ' || i FROM generate_series(1, 20) i;
INSERT INTO posts (user_id, title) SELECT 1 + i % 20, 'post ' || i FROM generate_series(1, 60) i;

-- how a statement is planned: the top node, and where
CREATE FUNCTION plan_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || statement LOOP
        RETURN CASE WHEN line LIKE '%dbscale router%' THEN 'one shard' ELSE 'core' END;
    END LOOP;
END $$;

SELECT statement, plan_of(statement) FROM unnest(ARRAY[
    'SELECT * FROM users WHERE id = 7',
    'SELECT * FROM users WHERE id = 7::int2',
    'SELECT * FROM users WHERE 7 = id AND name <> ''x''',
    'SELECT * FROM users u JOIN posts p ON p.user_id = u.id WHERE u.id = 7',
    'SELECT * FROM users u LEFT JOIN posts p ON p.user_id = u.id WHERE u.id = 7',
    'SELECT * FROM users u LEFT JOIN posts p ON p.user_id = u.id AND u.id = 7',
    'SELECT * FROM users u LEFT JOIN posts p ON p.user_id = u.id WHERE p.user_id = 7',
    'SELECT * FROM users u FULL JOIN posts p ON p.user_id = u.id WHERE u.id = 7',
    'SELECT * FROM users u FULL JOIN posts p ON p.user_id = u.id AND u.id = 7',
    'SELECT * FROM users WHERE id = 7 OR id = 8',
    'SELECT * FROM users WHERE id = 7 AND EXISTS (SELECT 1 FROM posts WHERE user_id = users.id)',
    'SELECT * FROM users WHERE EXISTS (SELECT 1 FROM posts WHERE user_id = users.id AND user_id = 7)',
    'SELECT * FROM users WHERE id = 7 AND EXISTS (SELECT 1 FROM posts WHERE user_id <> users.id)',
    'WITH p AS (SELECT * FROM posts WHERE user_id = 7) SELECT * FROM users, p WHERE users.id = 7',
    'SELECT id FROM users WHERE id = 7 UNION ALL SELECT id FROM posts WHERE user_id = 7',
    'SELECT id FROM users WHERE id = 7 UNION ALL SELECT id FROM posts WHERE user_id = 8',
    'SELECT count(*), max(title) FROM posts WHERE user_id = 7 GROUP BY day HAVING count(*) > 1',
    'SELECT * FROM users JOIN notes ON notes.user_id = users.id WHERE users.id = 7',
    'SELECT * FROM users WHERE id = 7 AND name = current_user',
    'SELECT random() FROM users WHERE id = 7',
    'SELECT u FROM users u WHERE id = 7',
    'SELECT tableoid, * FROM users WHERE id = 7',
    'SELECT * FROM users WHERE id = 7 AND name = plan_of(name)',
    'SELECT * FROM users WHERE id = 7.0',
    'SELECT * FROM users WHERE id = 7 FOR UPDATE',
    'INSERT INTO users VALUES (21, ''new'')',
    'INSERT INTO posts (user_id, title) VALUES (7, ''x'') RETURNING id',
    'INSERT INTO users VALUES (21, ''a''), (22, ''b'')',
    'INSERT INTO users VALUES (21, ''new'') ON CONFLICT (id) DO UPDATE SET name = excluded.name',
    'INSERT INTO users VALUES (21, ''new'') ON CONFLICT (id) DO NOTHING',
    'UPDATE users SET name = ''x'' WHERE id = 7',
    'UPDATE users SET id = 8 WHERE id = 7',
    'DELETE FROM posts USING users WHERE users.id = posts.user_id AND users.id = 7',
    'DELETE FROM users'
]) AS statement;

-- what it says of itself
EXPLAIN (COSTS OFF, VERBOSE) SELECT u.name, count(*) FROM users u JOIN posts p ON p.user_id = u.id
WHERE u.id = 7 AND p.day < current_date GROUP BY u.name;

-- the same answers, and the effects
SELECT u.name, p.title, p.shout FROM users u LEFT JOIN posts p ON p.user_id = u.id WHERE u.id = 7 ORDER BY p.id;
SELECT count(*) FROM users WHERE id = NULL;
SELECT count(*) FROM posts WHERE user_id = 99;
INSERT INTO posts (user_id, title) VALUES (7, 'default day') RETURNING user_id, title, day, shout;
INSERT INTO users VALUES (7, 'again') ON CONFLICT (id) DO UPDATE SET name = excluded.name || '!' RETURNING *;
INSERT INTO users VALUES (7, 'again') ON CONFLICT DO NOTHING;
INSERT INTO users VALUES (7, 'again');
UPDATE users SET name = 'seven' WHERE id = 7 RETURNING id, name;
DELETE FROM posts WHERE user_id = 7 AND title = 'default day' RETURNING title;
DELETE FROM posts WHERE user_id = 7 AND title = 'none';
INSERT INTO users VALUES (NULL, 'no key');

-- generic plans find the shard at execution
SET plan_cache_mode = force_generic_plan;
PREPARE one(bigint) AS SELECT id, name FROM users WHERE id = $1;
EXPLAIN (COSTS OFF) EXECUTE one(3);
EXECUTE one(3);
EXECUTE one(4);
EXECUTE one(NULL);
PREPARE rename(text, bigint) AS UPDATE users SET name = $1 WHERE id = $2 RETURNING id, name;
EXECUTE rename('three', 3);
EXECUTE rename(NULL, 4);
SELECT dbscale.assign_key('users', 3, (dbscale.shard_for('users', 3) + 1) % 4);
EXECUTE one(3);
RESET plan_cache_mode;

-- PL/pgSQL, cursors, settings of the session
CREATE FUNCTION titles(who bigint) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT title FROM posts WHERE user_id = who ORDER BY id;
END $$;
SELECT * FROM titles(5);
BEGIN;
DECLARE c CURSOR FOR SELECT title FROM posts WHERE user_id = 5 ORDER BY id;
FETCH 1 FROM c;
UPDATE posts SET title = 'changed' WHERE user_id = 5;
FETCH 5 FROM c;
ROLLBACK;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT title FROM posts WHERE user_id = 5 ORDER BY id;
FETCH 2 FROM c;
FETCH BACKWARD 1 FROM c;
ROLLBACK;
SET datestyle = 'German, DMY';
SELECT day FROM posts WHERE user_id = 5 AND day = '01.01.2024' LIMIT 1;
RESET datestyle;

-- privileges, views of other owners, row-level security, security barriers
CREATE ROLE router_user;
GRANT USAGE ON SCHEMA router TO router_user;
SELECT dbscale.grant_node_access('router_user');
CREATE VIEW names AS SELECT id, name FROM users;
GRANT SELECT ON names TO router_user;
GRANT SELECT (id) ON users TO router_user;
SET ROLE router_user;
SELECT id FROM users WHERE id = 7;
SELECT name FROM users WHERE id = 7;
SELECT name FROM names WHERE id = 7;
UPDATE users SET name = 'x' WHERE id = 7;
RESET ROLE;
GRANT ALL ON users TO router_user;
ALTER TABLE users ENABLE ROW LEVEL SECURITY;
CREATE POLICY odd ON users TO router_user USING (id % 2 = 1);
SET ROLE router_user;
SELECT id, name FROM users WHERE id = 7;
SELECT id, name FROM users WHERE id = 8;
RESET ROLE;
ALTER TABLE users DISABLE ROW LEVEL SECURITY;

-- a user's own equality is not the key's
CREATE FUNCTION same(bigint, bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT mod($1, 10) OPERATOR(pg_catalog.=) mod($2, 10)';
CREATE OPERATOR = (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = same);
SET search_path = router, pg_catalog;
SELECT count(*) FROM users WHERE id = 7::bigint;
SET search_path = router;

-- statements that repeat are printed once: again and again, with other constants, and when their tables have changed
CREATE TYPE mood AS ENUM ('sad', 'glad');
SELECT count(*) FROM dbscale.run_on_nodes('CREATE SCHEMA router');
SELECT count(*) FROM dbscale.run_on_nodes($$CREATE TYPE router.mood AS ENUM ('sad', 'glad')$$);
CREATE TABLE repeated (k int PRIMARY KEY, a int, b text, m mood, d date);
CREATE TABLE repeated_plain (LIKE repeated INCLUDING ALL);
SELECT dbscale.distribute_table('repeated', 'k', shard_count => 4);
CREATE FUNCTION repeats(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE t text; k int; x text; answers text[]; error text;
BEGIN
	FOREACH t IN ARRAY '{repeated_plain,repeated}'::text[] LOOP
		answers := answers || ''::text;
		FOR k IN 1..5 LOOP
			BEGIN
				FOR x IN EXECUTE 'WITH s AS (' || format(statement, t, k) || ') SELECT s::text FROM s' LOOP
					answers[cardinality(answers)] := answers[cardinality(answers)] || ' ' || x;
				END LOOP;
			EXCEPTION WHEN OTHERS THEN answers[cardinality(answers)] := answers[cardinality(answers)] || ' ' || SQLSTATE;
			END;
		END LOOP;
	END LOOP;
	RETURN CASE WHEN answers[1] = answers[2] THEN answers[1] ELSE format('%s, not %s', answers[2], answers[1]) END;
END $$;
CREATE TABLE statements AS SELECT * FROM (VALUES
	(1, 'INSERT INTO %s VALUES (%s, 3, ''x'', ''sad'', ''2024-01-01'') RETURNING *'),
	(2, 'UPDATE %s SET b = repeat(''x'', %s) WHERE k = %2$s RETURNING *'),
	(3, 'UPDATE %s SET a = %s, m = ''glad'' WHERE k = %2$s RETURNING a, m'),
	(4, 'UPDATE %s SET a = a + 1 WHERE k = %s AND m = ''glad'' RETURNING a::text || b AS b'),
	(5, 'SELECT * FROM %s WHERE k = %s AND b = ''xxx'''),
	(6, 'SELECT a::numeric(5,2), a::numeric(6,1), b::varchar(2), d::timestamp, d + 1 FROM %s WHERE k = %s'),
	(7, 'SELECT a::numeric(6,1), a::numeric(5,2), b::char(2), d::timestamp(0), d - 1 FROM %s WHERE k = %s'),
	(8, 'SELECT (SELECT max(b) FROM %s y WHERE y.k = x.k) FROM %1$s x WHERE x.k = %s::bigint'),
	(9, 'SELECT b COLLATE "C" < ''xy'' AS x, b > ''xy'' COLLATE "POSIX" AS y FROM %s WHERE k = %s'),
	(10, 'SELECT 1 FROM %s WHERE k = %s AND a = NULL'),
	(11, 'SELECT m::text FROM %s WHERE k = %s AND m IN (''sad'', ''glad'')'),
	(12, 'DELETE FROM %s WHERE k = %s RETURNING k')
) v (n, s);
SELECT repeats(s) FROM statements ORDER BY n;
ALTER TABLE repeated RENAME b TO c;
ALTER TABLE repeated RENAME a TO b;
ALTER TABLE repeated RENAME c TO a;
ALTER TABLE repeated_plain RENAME b TO c;
ALTER TABLE repeated_plain RENAME a TO b;
ALTER TABLE repeated_plain RENAME c TO a;
SELECT repeats('INSERT INTO %s VALUES (%s, 3, ''x'', ''sad'', ''2024-01-01'') RETURNING a, b');
SELECT repeats('SELECT a, b FROM %s WHERE k = %s');
ALTER TABLE repeated DROP COLUMN b, ADD COLUMN b int DEFAULT 9;
ALTER TABLE repeated_plain DROP COLUMN b, ADD COLUMN b int DEFAULT 9;
SELECT repeats('SELECT a, b FROM %s WHERE k = %s');
ALTER TABLE repeated RENAME TO renamed;
SELECT b FROM renamed WHERE k = 3;
SELECT b FROM renamed WHERE k = 4;
SELECT b FROM renamed WHERE k = 5;
ALTER TABLE renamed RENAME TO repeated;
SELECT repeats('UPDATE %s SET b = b + 1 WHERE k = %s RETURNING a, b');
SELECT repeats('SELECT a, b FROM %s WHERE k = %s');

-- and so are their plans, if they have no query in them: the same with other values, and when what they depend on has changed
CREATE TABLE others (k int PRIMARY KEY, a int);
CREATE TABLE others_plain (LIKE others INCLUDING ALL);
SELECT dbscale.distribute_table('others', 'k', colocate_with => 'repeated');
INSERT INTO others SELECT i, i FROM generate_series(1, 5) i;
INSERT INTO others_plain TABLE others;
INSERT INTO repeated (k, a, m, b) SELECT i, 'x', 'sad', 3 FROM generate_series(6, 9) i;
INSERT INTO repeated_plain (k, a, m, b) SELECT i, 'x', 'sad', 3 FROM generate_series(6, 9) i;
CREATE FUNCTION again(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE suffix text; k int; r record; answers text[]; answer text;
BEGIN
	FOREACH suffix IN ARRAY '{_plain,""}'::text[] LOOP
		answer := '';
		FOR k IN 1..5 LOOP
			BEGIN
				FOR r IN EXECUTE format(statement, 'repeated' || suffix, 'others' || suffix, k) LOOP
					answer := answer || ' ' || r::text;
				END LOOP;
			EXCEPTION WHEN OTHERS THEN answer := answer || ' ' || SQLSTATE;
			END;
		END LOOP;
		answers := answers || answer;
	END LOOP;
	RETURN CASE WHEN answers[1] = answers[2] THEN answers[1] ELSE format('%s, not %s', answers[2], answers[1]) END;
END $$;
CREATE TABLE values_only AS SELECT * FROM (VALUES
	(1, 'SELECT k, a, b FROM %1$s WHERE k = %3$s'),
	(2, 'SELECT k, a FROM %1$s WHERE k = %3$s::bigint AND b = 3'),
	(3, 'SELECT r.k, o.a FROM %1$s r, %2$s o WHERE r.k = %3$s AND o.k = 3'),
	(4, 'SELECT r.k, o.a FROM %1$s r, %2$s o WHERE r.k = %3$s AND o.k = %3$s'),
	(5, 'SELECT r.k, o.a FROM %2$s r JOIN %2$s o ON o.k = 3 WHERE r.k = %3$s'),
	(6, 'SELECT r.k, o.a FROM %2$s r LEFT JOIN %2$s o ON o.k = r.k AND o.a = 4 WHERE r.k = %3$s'),
	(7, 'SELECT k FROM %1$s WHERE k = 3 AND k = %3$s'),
	(8, 'SELECT k, %3$s = 3 AS x, k = 3 AS y FROM %1$s WHERE k = %3$s'),
	(9, 'SELECT count(*), %3$s AS x FROM %1$s WHERE k = 3 HAVING count(*) < %3$s'),
	(10, 'SELECT k FROM %1$s WHERE k > %3$s AND k = 3 ORDER BY k LIMIT %3$s'),
	(11, 'INSERT INTO %2$s VALUES (%3$s, 5) ON CONFLICT (k) DO UPDATE SET a = %3$s * 2 RETURNING k, a'),
	(12, 'INSERT INTO %2$s VALUES (%3$s::bigint * 1, 5) ON CONFLICT (k) DO UPDATE SET a = 5 RETURNING k, a'),
	(13, 'INSERT INTO %2$s VALUES (9 - %3$s, %3$s) ON CONFLICT DO NOTHING RETURNING k, a'),
	(14, 'UPDATE %1$s SET b = %3$s WHERE k = %3$s RETURNING k, b'),
	(15, 'UPDATE %1$s SET b = 7, a = ''x%3$s'', d = ''2024-01-0%3$s'' WHERE k = 5 AND b = %3$s RETURNING k, a, b, d'),
	(16, 'UPDATE %1$s SET a = NULLIF(%3$s, 3)::text, b = NULL WHERE k = %3$s RETURNING k, a, b'),
	(17, 'DELETE FROM %2$s WHERE k = %3$s AND a = 5 RETURNING k'),
	(18, 'SELECT * FROM %2$s WHERE k = %3$s OR k = 3'),
	(19, 'INSERT INTO %2$s VALUES (%3$s, %3$s) ON CONFLICT DO NOTHING RETURNING k, a')
) v (n, s);
SELECT n, again(s) FROM values_only ORDER BY n;
SELECT n, again(s) FROM values_only ORDER BY n;
SELECT n, plan_of(format(s, 'repeated', 'others', 4)) AS other, plan_of(format(s, 'repeated', 'others', 3)) AS same FROM values_only ORDER BY n;
-- a constant compared with a cast column is not taken out, but is the same key
CREATE TABLE words (k text PRIMARY KEY);
SELECT dbscale.distribute_table('words', 'k', shard_count => 4);
SELECT word, plan_of(format('SELECT * FROM words w, words s WHERE w.k = %L AND s.k::varchar = ''x''', word)) FROM unnest('{x,x,x,y,x}'::text[]) word;
-- a trigger, a policy, a column and the table itself come and go
CREATE FUNCTION add_mark() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.a := NEW.a || '!'; RETURN NEW; END $$;
SELECT again('UPDATE %1$s SET a = ''m'' WHERE k = %3$s RETURNING k, a');
CREATE TRIGGER add_mark BEFORE UPDATE ON repeated FOR EACH ROW EXECUTE FUNCTION add_mark();
CREATE TRIGGER add_mark BEFORE UPDATE ON repeated_plain FOR EACH ROW EXECUTE FUNCTION add_mark();
SELECT again('UPDATE %1$s SET a = ''m'' WHERE k = %3$s RETURNING k, a');
DROP TRIGGER add_mark ON repeated;
DROP TRIGGER add_mark ON repeated_plain;
SELECT again('UPDATE %1$s SET a = ''m'' WHERE k = %3$s RETURNING k, a');
INSERT INTO others SELECT i, i FROM generate_series(1, 5) i ON CONFLICT DO NOTHING;
INSERT INTO others_plain SELECT i, i FROM generate_series(1, 5) i ON CONFLICT DO NOTHING;
SELECT again('SELECT a FROM %2$s WHERE k = %3$s');
ALTER TABLE others RENAME a TO c;
ALTER TABLE others_plain RENAME a TO c;
SELECT again('SELECT a FROM %2$s WHERE k = %3$s');
SELECT again('SELECT c FROM %2$s WHERE k = %3$s');
ALTER TABLE others ADD COLUMN a int DEFAULT 8;
ALTER TABLE others_plain ADD COLUMN a int DEFAULT 8;
SELECT again('SELECT a FROM %2$s WHERE k = %3$s');
GRANT SELECT (k, c) ON others, others_plain TO router_user;
GRANT USAGE ON SCHEMA router TO router_user;
SET ROLE router_user;
SELECT again('SELECT c FROM %2$s WHERE k = %3$s');
SELECT again('SELECT a FROM %2$s WHERE k = %3$s');
RESET ROLE;
ALTER TABLE others ENABLE ROW LEVEL SECURITY;
ALTER TABLE others_plain ENABLE ROW LEVEL SECURITY;
CREATE POLICY small ON others USING (k < 3);
CREATE POLICY small ON others_plain USING (k < 3);
SET ROLE router_user;
SELECT again('SELECT c FROM %2$s WHERE k = %3$s');
RESET ROLE;
SELECT again('SELECT c FROM %2$s WHERE k = %3$s');
SELECT plan_of('SELECT c FROM others WHERE k = 2');
SELECT dbscale.undistribute_table('others');
SELECT again('SELECT c FROM %2$s WHERE k = %3$s');
SELECT plan_of('SELECT c FROM others WHERE k = 2');

-- a transaction that repeats more statements than are kept does not heap up what gives way
BEGIN;
DO $$ BEGIN FOR round IN 1..4 LOOP FOR n IN 1..200 LOOP EXECUTE format('SELECT FROM users WHERE id = 7 LIMIT %s', n); END LOOP; END LOOP; END $$;
SELECT count(*) BETWEEN 1 AND 256 AS bounded FROM pg_backend_memory_contexts WHERE name = 'dbscale kept for a query';
COMMIT;

-- rows without columns
SELECT FROM users WHERE id = 7;
DO $$ BEGIN PERFORM FROM users WHERE id = 7; ASSERT FOUND; END $$;

SET client_min_messages = warning;
DROP SCHEMA router CASCADE;
DROP OWNED BY router_user;
DROP ROLE router_user;
SELECT dbscale.remove_node('router_a');
SELECT dbscale.remove_node('router_b');
