-- Queries over many shards: the same rows as from plain tables, and what the plans are.
SET client_min_messages = error;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
SELECT dbscale.add_local_node('fanout_a');
SELECT dbscale.add_local_node('fanout_b');
CREATE SCHEMA plain;
CREATE SCHEMA sharded;
CREATE FUNCTION make_tables() RETURNS void LANGUAGE sql AS $$
    CREATE TABLE users (id bigint PRIMARY KEY, region text, age int, score numeric, f float8, born date, gone text);
    CREATE TABLE posts (user_id bigint, id bigint, title text, likes int, big bigint, ok bool, created timestamptz, PRIMARY KEY (user_id, id));
    CREATE TABLE likes (user_id bigint, post_id bigint, liker_id bigint);
    CREATE TABLE events (id int, day date, kind text);
    CREATE TABLE regions (region text PRIMARY KEY, title text);
    CREATE TABLE tags (tag text, user_id bigint);
$$ SET check_function_bodies = off;
CREATE FUNCTION fill_tables() RETURNS void LANGUAGE sql AS $$
    INSERT INTO users SELECT i, CASE WHEN i % 11 > 0 THEN 'r' || i % 5 END, NULLIF(i % 40, 7), i / 7.0, i / 2.0, date '2000-01-01' + i FROM generate_series(1, 200) i;
    INSERT INTO posts SELECT 1 + i % 150, i, 'post ' || i % 60, NULLIF(i % 20, 3), i * 1000000007::bigint, i % 3 = 0, timestamptz '2026-01-01 12:00+00' + i * interval '1 hour' FROM generate_series(1, 600) i;
    INSERT INTO likes SELECT NULLIF(1 + i % 150, 50), i % 600, (i * 7) % 220 FROM generate_series(1, 1500) i;
    INSERT INTO events SELECT i % 90, date '2026-01-01' + i % 100, 'k' || i % 3 FROM generate_series(1, 300) i;
    INSERT INTO regions SELECT 'r' || i, 'Region ' || i FROM generate_series(0, 6) i;
    INSERT INTO tags SELECT 't' || i % 4, i FROM generate_series(1, 60) i;
$$ SET check_function_bodies = off;
SET search_path = plain, public;
SELECT make_tables();
SELECT fill_tables();
SET search_path = sharded, public;
SELECT make_tables();
SELECT dbscale.distribute_table('users', 'id', shard_count => 4);
SELECT dbscale.distribute_table('posts', 'user_id', colocate_with => 'users');
SELECT dbscale.distribute_table('likes', 'user_id', colocate_with => 'users');
SELECT dbscale.distribute_table('events', 'id', shard_count => 3);
SELECT dbscale.distribute_reference('regions');
-- a dropped column, so that numbers differ between the parent and its shards
ALTER TABLE users DROP COLUMN gone;
SELECT fill_tables();
ALTER TABLE plain.users DROP COLUMN gone;
ALTER TABLE plain.users ADD COLUMN late int DEFAULT 3;
ALTER TABLE users ADD COLUMN late int DEFAULT 3;
RESET client_min_messages;

-- Rows as text; sorted unless the statement orders them itself.
CREATE FUNCTION public.rows_of(statement text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    r record;
    result text[] := '{}';
BEGIN
    FOR r IN EXECUTE statement LOOP
        result := result || r::text;
    END LOOP;
    IF statement !~ 'ORDER BY [^()]*$' THEN
        result := ARRAY(SELECT x FROM unnest(result) x ORDER BY x COLLATE "C");
    END IF;
    RETURN result;
EXCEPTION WHEN others THEN
    RETURN ARRAY[SQLSTATE];
END $$;
-- Lines of a plan.
CREATE FUNCTION public.lines_of(options text, statement text, wanted text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE format('EXPLAIN (%s) %s', options, statement) LOOP
        IF line ~ wanted THEN
            -- 18 says users.id where others say id
            RETURN NEXT trim(replace(line, 'users.', ''));
        END IF;
    END LOOP;
END $$;
-- What the two differ in; "same" and how many rows, if in nothing.
CREATE FUNCTION public.compare(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    a text[];
    b text[];
BEGIN
    PERFORM set_config('search_path', 'plain, public', true);
    a := public.rows_of(statement);
    PERFORM set_config('search_path', 'sharded, public', true);
    b := public.rows_of(statement);
    IF a = b THEN
        RETURN format('same, %s', CASE WHEN a[1] ~ '^[0-9A-Z]{5}$' THEN 'error ' || a[1] ELSE cardinality(a) || ' rows' END);
    END IF;
    RETURN format('DIFFERENT: %s: plain %s sharded %s', statement, a, b);
END $$;

-- one table
SELECT compare('SELECT count(*) FROM users');
SELECT compare('SELECT count(*), count(age), sum(age), avg(age), min(age), max(age) FROM users WHERE id < 0');
SELECT compare('SELECT region, count(*), count(age), sum(age), avg(age), min(born), max(region), sum(score), avg(score), sum(late) FROM users GROUP BY region');
SELECT compare('SELECT sum(big), avg(big), bool_and(ok), bool_or(ok), every(ok), bit_and(likes), bit_or(likes), bit_xor(likes) FROM posts');
SELECT compare('SELECT likes, sum(f) FROM posts JOIN users ON users.id = user_id GROUP BY likes');
SELECT compare('SELECT age % 3, count(*) FILTER (WHERE region IS NULL), avg(age) FILTER (WHERE age > 20) FROM users GROUP BY age % 3 HAVING count(*) > 3');
SELECT compare('SELECT count(DISTINCT liker_id) FROM likes');
SELECT compare('SELECT user_id % 5, count(DISTINCT liker_id), count(*), sum(DISTINCT liker_id), max(post_id) FROM likes GROUP BY 1');
SELECT compare('SELECT count(DISTINCT region), count(DISTINCT age) FROM users');
SELECT compare('SELECT region, stddev(age), variance(score), corr(age, f) IS NULL FROM users GROUP BY region');
SELECT compare('SELECT region, stddev(age), var_pop(age), variance(id), stddev_pop(id), var_samp(score), stddev_samp(score), stddev(age) FILTER (WHERE age > 20) FROM users GROUP BY region');
SELECT compare('SELECT stddev(age), stddev_pop(age), variance(score), var_pop(score), var_samp(late), length(string_agg(region, '','')) FROM users WHERE id = ANY (ARRAY[1, 12]) AND age < ' || n) FROM generate_series(1, 31, 10) n;
SELECT compare('SELECT likes, stddev(big), stddev_pop(big), var_pop(big), variance(big), stddev_samp(likes * 1000000), variance(DISTINCT user_id % 7), count(*) FROM posts GROUP BY likes');
SELECT compare('SELECT user_id % 37, stddev(big * 7919 % 1000000007), stddev_pop(big * 7919 % 1000000000000007), stddev((big % 1009)::int2), variance((big % 104729)::numeric / 1000) FROM posts GROUP BY 1');
SELECT compare('SELECT variance(x), var_pop(x), stddev(x) FROM (VALUES (''NaN''::numeric), (1)) v (x), users WHERE id < 9');
SELECT compare('SELECT ok, avg(created - timestamptz ''2026-01-01 00:00+00''), regr_count(likes, big), range_intersect_agg(int8range(0, 1000 + big)) FROM posts GROUP BY ok');
SELECT compare('SELECT age % 3, length(string_agg(region, ''; '')), length(string_agg(region, NULL)), length(string_agg('''', ''-'') FILTER (WHERE id > 20)), length(string_agg(region::bytea, ''\x00'')), count(DISTINCT region) FROM users GROUP BY 1');
SELECT compare('SELECT string_agg(''a'', ''''''\'') FROM users WHERE id < 9');
SELECT compare('SELECT count(*), length(string_agg(region, region)) > 0 FROM users');
-- arrays and documents, whose order is nobody's business
SELECT DISTINCT compare(format($$SELECT g, n, (SELECT array_agg(x ORDER BY x) FROM unnest(a) x), array_ndims(a), array_lower(a, 1) FROM
    (SELECT region AS g, array_agg(%s) %s AS a, count(*) AS n FROM users GROUP BY region) s$$, x, f))
FROM unnest('{id,age,score,f,born,region::varchar(2),NULLIF(id % 3\, 1)::text,(region || id)::bytea,id > 9}'::text[]) x, unnest('{"",FILTER (WHERE age < 9)}'::text[]) f;
SELECT DISTINCT compare(format($$SELECT g, (SELECT array_agg(x ORDER BY x) FROM json%1$s_array_elements_text(a) x), length(a::text), json%1$s_typeof(a -> 0) FROM
    (SELECT age %% 3 AS g, json%1$s_agg(%2$s) %3$s AS a FROM users GROUP BY 1) s$$, j, x, f))
FROM unnest('{"",b}'::text[]) j, unnest('{id,age,score,born,born::timestamp,born::timestamptz,f,region,"E''\\n\"'' || region",id > 9,to_json(id),to_jsonb(region),ARRAY[1\,2]}'::text[]) x,
     unnest('{"",FILTER (WHERE age < 9)}'::text[]) f;
SELECT compare('SELECT array_agg(id), json_agg(id), jsonb_agg(region) FROM users WHERE id < 0');
SELECT compare('SELECT count(DISTINCT region), cardinality(array_agg(DISTINCT region)) FROM users');
SELECT compare('SELECT sum(cardinality(array_agg(id))) OVER (), count(*) FROM posts GROUP BY title HAVING 5 = ANY (array_agg(likes))');
SELECT compare('SELECT array_agg(ARRAY[1, age]) FROM users WHERE id IN (3, 7) AND age > 6');
SELECT replace(lines_of('VERBOSE, COSTS OFF', 'SELECT region, array_agg(id), json_agg(age), count(*) FROM users GROUP BY region', 'Output: shards.c1, [^s]|Remote SQL|_agg|count'), 'users.', '');
SELECT replace(lines_of('VERBOSE, COSTS OFF', 'SELECT region, jsonb_agg(age) FROM users GROUP BY region', 'Output: shards.c1, [^s]|Remote SQL|_agg'), 'users.', '');
SELECT compare('SELECT region, array_agg(id ORDER BY id), string_agg(id::text, '','' ORDER BY id DESC) FROM users GROUP BY region');
SELECT compare('SELECT region, age, count(*), grouping(region), grouping(age) FROM users GROUP BY CUBE (region, age)');
SELECT compare('SELECT region, sum(age) FROM users GROUP BY GROUPING SETS ((region), ())');
SELECT compare('SELECT sum(age) FROM users WHERE id < 0 GROUP BY ROLLUP (region)');
SELECT compare('SELECT id, count(*), (SELECT 1) FROM users GROUP BY id HAVING max(age) > 30');
SELECT compare('SELECT id, region, age FROM users GROUP BY id');
SELECT compare('SELECT DISTINCT region, age % 2 FROM users');
SELECT compare('SELECT DISTINCT ON (region) region, id FROM users ORDER BY region, id DESC');
SELECT compare('SELECT id, age FROM users ORDER BY age DESC NULLS LAST, id LIMIT 7 OFFSET 3');
SELECT compare('SELECT age FROM users ORDER BY age FETCH FIRST 3 ROWS WITH TIES');
SELECT compare('SELECT count(*) FROM (SELECT id FROM users LIMIT 13) x');
SELECT compare('SELECT id FROM users ORDER BY id LIMIT (SELECT 3)');
SELECT compare('SELECT id, row_number() OVER (PARTITION BY region ORDER BY id) FROM users');
SELECT compare('SELECT user_id, id, rank() OVER (PARTITION BY user_id ORDER BY likes DESC, id), sum(likes) OVER w FROM posts WINDOW w AS (PARTITION BY user_id, ok)');
SELECT compare('SELECT region, count(*), rank() OVER (ORDER BY count(*) DESC, region) FROM users GROUP BY region');
SELECT compare('SELECT 1 FROM users');
SELECT compare('SELECT FROM users');
SELECT compare('SELECT users FROM users WHERE age = 3');
SELECT compare('SELECT * FROM users WHERE id IN (3, 30, 31, NULL)');
SELECT compare('SELECT id FROM users WHERE id = ANY (ARRAY[5, 6, 700]) AND age > 0');
SELECT compare('SELECT count(*) FROM posts WHERE user_id = ANY (''{1,2,3}''::bigint[]) OR likes = 1');
SELECT compare('SELECT count(*), to_char(min(created), ''YYYY-MM-DD'') FROM posts WHERE created > now() - interval ''100 years''');
SELECT compare('SELECT date_trunc(''day'', created), count(*) FROM posts GROUP BY 1');
SELECT compare('SELECT sum(1 / (age - 5)) FROM users');
-- joins
SELECT compare('SELECT u.region, count(*), avg(p.likes) FROM users u JOIN posts p ON p.user_id = u.id GROUP BY 1');
SELECT compare('SELECT u.id, count(p.id) FROM users u LEFT JOIN posts p ON p.user_id = u.id AND p.likes > 10 GROUP BY u.id');
SELECT compare('SELECT p.user_id, count(*) FROM users u LEFT JOIN posts p ON p.user_id = u.id GROUP BY p.user_id');
SELECT compare('SELECT DISTINCT p.user_id FROM users u LEFT JOIN posts p ON p.user_id = u.id');
SELECT compare('SELECT u.id, p.user_id, row_number() OVER (PARTITION BY p.user_id ORDER BY u.id, p.id) FROM users u LEFT JOIN posts p ON p.user_id = u.id');
SELECT compare('SELECT count(*) FROM users u RIGHT JOIN posts p ON p.user_id = u.id AND u.age < 5');
SELECT compare('SELECT count(*), count(u.id), count(l.user_id) FROM users u FULL JOIN likes l ON l.user_id = u.id');
SELECT compare('SELECT u.region, count(*), count(u.id), sum(l.post_id) FROM users u FULL JOIN likes l ON l.user_id = u.id AND l.post_id % 2 = 0 GROUP BY 1');
SELECT compare('SELECT u.id, l.user_id, count(*) FROM users u FULL JOIN likes l ON l.user_id = u.id GROUP BY 1, 2');
SELECT compare('SELECT l.user_id, count(*), rank() OVER (PARTITION BY l.user_id) FROM users u FULL JOIN likes l ON l.user_id = u.id GROUP BY 1');
SELECT compare('SELECT DISTINCT u.id FROM users u FULL JOIN likes l ON l.user_id = u.id');
SELECT compare('SELECT coalesce(u.id, p.user_id), count(*) FROM users u FULL JOIN posts p ON p.user_id = u.id GROUP BY 1');
SELECT compare('SELECT user_id, p.id, l.post_id FROM posts p FULL JOIN likes l USING (user_id)');
SELECT compare('SELECT count(*), count(u.id) FROM users u FULL JOIN likes l ON l.user_id = u.id WHERE l.user_id = 3');
SELECT compare('SELECT count(*), count(u.id) FROM users u FULL JOIN likes l ON l.user_id = u.id WHERE u.id IN (3, 50, 180)');
SELECT compare('SELECT count(*), count(u.id) FROM users u FULL JOIN likes l ON l.user_id = u.id AND u.id = 3');
SELECT compare('SELECT count(*), count(u.id) FROM users u FULL JOIN likes l ON l.user_id = u.id WHERE u.id IS NULL');
SELECT compare('SELECT count(*), count(u.id), count(p.id) FROM (users u JOIN regions r USING (region)) FULL JOIN (posts p JOIN regions s ON p.likes > 3) ON p.user_id = u.id LEFT JOIN likes l ON l.user_id = u.id AND l.post_id = p.id');
SELECT compare('SELECT count(*), count(u.id) FROM (users u JOIN regions r ON u.id = 5) FULL JOIN likes l ON l.user_id = u.id JOIN posts p ON p.user_id = u.id');
SELECT compare('SELECT count(*), count(u.id) FROM (users u JOIN regions r ON u.id = 5) FULL JOIN likes l ON l.user_id = u.id LEFT JOIN posts p ON p.user_id = l.user_id');
SELECT compare('SELECT count(*), count(u.id) FROM regions r LEFT JOIN (users u FULL JOIN likes l ON l.user_id = u.id) ON r.region = u.region');
SELECT compare('SELECT count(*), count(u.id) FROM (users u FULL JOIN likes l ON l.user_id = u.id) FULL JOIN regions r ON r.region = u.region');
SELECT compare('SELECT count(*), count(u.id), count(p.id) FROM (users u FULL JOIN likes l ON l.user_id = u.id) FULL JOIN posts p ON p.user_id = u.id');
SELECT compare('SELECT count(*), count(u.id), count(p.id) FROM (users u FULL JOIN likes l ON l.user_id = u.id) FULL JOIN (posts p FULL JOIN users v ON v.id = p.user_id) ON l.user_id = p.user_id');
SELECT compare('SELECT count(*), count(u.id), count(p.id) FROM (users u LEFT JOIN likes l ON l.user_id = u.id) FULL JOIN posts p ON p.user_id = l.user_id');
SELECT compare('SELECT count(*), count(u.id), count(p.id) FROM posts p LEFT JOIN (users u FULL JOIN likes l ON l.user_id = u.id) ON p.user_id = l.user_id');
SELECT compare('SELECT count(*), count(u.id) FROM posts p LEFT JOIN (users u FULL JOIN likes l ON l.user_id = u.id AND u.age > l.post_id) ON p.user_id = u.id WHERE p.user_id < 20');
SELECT compare('SELECT u.id, l.post_id, (SELECT count(*) FROM posts p WHERE p.user_id = u.id), (SELECT count(*) FROM posts p WHERE p.user_id = l.user_id) FROM users u FULL JOIN likes l ON l.user_id = u.id');
SELECT compare('SELECT count(*) FROM users u FULL JOIN likes l ON l.user_id = u.id WHERE EXISTS (SELECT FROM posts p WHERE p.user_id = u.id AND p.likes > 10)');
SELECT compare('SELECT u.id, x.n FROM users u, LATERAL (SELECT count(*) n FROM (SELECT id, user_id FROM posts WHERE user_id = u.id) p FULL JOIN likes l ON l.user_id = p.user_id AND l.post_id = p.id) x WHERE u.id < 5');
SELECT compare('SELECT u.id, (SELECT count(*) FROM (posts p JOIN regions r ON p.user_id = u.id) FULL JOIN likes l ON l.user_id = p.user_id) FROM users u WHERE u.id < 9');
SELECT compare('SELECT u.id, l.post_id FROM users u FULL JOIN likes l ON l.user_id = u.id ORDER BY u.id NULLS FIRST, l.post_id LIMIT 30');
SELECT compare('SELECT count(*), count(u.id) FROM users u FULL JOIN events e ON e.id = u.id');
SELECT compare('SELECT count(*), count(p.id), count(l.post_id) FROM users u LEFT JOIN (posts p JOIN likes l ON l.user_id = p.user_id AND l.post_id = p.id) ON p.user_id = u.id');
SELECT compare('SELECT count(*) FROM users u JOIN posts p ON p.user_id = u.id LEFT JOIN likes l ON l.user_id = p.user_id AND l.post_id = p.id WHERE l.user_id IS NULL');
SELECT compare('SELECT r.title, count(*) FROM users u JOIN regions r USING (region) GROUP BY 1');
SELECT compare('SELECT r.title, count(u.id) FROM regions r LEFT JOIN users u USING (region) GROUP BY 1');
SELECT compare('SELECT u.id, r.title FROM users u LEFT JOIN regions r USING (region)');
SELECT compare('SELECT count(*) FROM regions r FULL JOIN users u USING (region)');
SELECT compare('SELECT count(*) FROM regions r WHERE EXISTS (SELECT FROM users u WHERE u.region = r.region)');
SELECT compare('SELECT r.region FROM regions r WHERE NOT EXISTS (SELECT FROM users u WHERE u.region = r.region)');
SELECT compare('SELECT count(*) FROM users u JOIN likes l ON l.liker_id = u.id WHERE u.region = ''r1''');
SELECT compare('SELECT u.region, p.title, count(*) FROM users u JOIN likes l ON l.liker_id = u.id JOIN posts p ON p.user_id = l.user_id AND p.id = l.post_id GROUP BY 1, 2');
SELECT compare('SELECT count(*) FROM users u JOIN events e ON e.id = u.id');
SELECT compare('SELECT e.kind, count(*) FROM events e JOIN users u ON u.age = e.id WHERE u.region = ''r2'' GROUP BY 1');
SELECT compare('SELECT t.tag, count(*), sum(p.likes) FROM tags t JOIN posts p ON p.user_id = t.user_id GROUP BY 1');
SELECT compare('SELECT count(*) FROM users u, tags t WHERE u.age > 35 AND t.tag = ''t1''');
SELECT compare('SELECT a.id, b.id FROM users a JOIN users b ON a.id = b.id + 1 WHERE a.region = b.region');
SELECT compare('SELECT count(*) FROM users a JOIN users b ON a.id = b.id JOIN posts p ON p.user_id = b.id');
SELECT compare('SELECT count(*) FROM users u JOIN posts p ON p.user_id = u.id::numeric');
SELECT compare('SELECT count(*) FROM users u JOIN posts p ON p.user_id >= u.id AND p.user_id <= u.id');
SELECT compare('SELECT u.id, x.n FROM users u, LATERAL (SELECT count(*) n FROM posts p WHERE p.user_id = u.id) x');
SELECT compare('SELECT count(*) FROM users u JOIN (VALUES (1), (2), (3)) v (id) ON v.id = u.id');
SELECT compare('SELECT u.id, g FROM users u JOIN generate_series(1, 3) g ON g = u.id % 4');
-- subqueries, set operations, WITH
SELECT compare('SELECT count(*) FROM users u WHERE EXISTS (SELECT FROM posts p WHERE p.user_id = u.id AND p.likes > 17)');
SELECT compare('SELECT count(*) FROM users u WHERE u.id NOT IN (SELECT user_id FROM posts WHERE likes > 17)');
SELECT compare('SELECT count(*) FROM users u WHERE u.id NOT IN (SELECT user_id FROM likes)');
SELECT compare('SELECT count(*) FROM users u WHERE u.id IN (SELECT user_id FROM likes)');
SELECT compare('SELECT count(*) FROM users u WHERE u.id IN (SELECT liker_id FROM likes WHERE post_id < 20)');
SELECT compare('SELECT count(*) FROM users u WHERE (u.id IN (SELECT user_id FROM likes)) IS NULL');
SELECT compare('SELECT count(*) FROM users u WHERE u.id IN (SELECT user_id FROM posts ORDER BY likes DESC, id LIMIT 5)');
SELECT compare('SELECT count(*) FROM users WHERE age > (SELECT avg(age) FROM users)');
SELECT compare('SELECT id, (SELECT count(*) FROM posts p WHERE p.user_id = u.id), (SELECT max(likes) FROM posts) FROM users u');
SELECT compare('SELECT id, (SELECT title FROM regions r WHERE r.region = u.region) FROM users u');
SELECT compare('SELECT id, (SELECT count(*) FROM tags t WHERE t.user_id = u.id) FROM users u');
SELECT compare('SELECT sum(n) FROM (SELECT count(*) n FROM posts GROUP BY user_id) x');
SELECT compare('SELECT x.region, sum(y.n) FROM (SELECT id, region FROM users WHERE age < 30) x JOIN (SELECT user_id, count(*) n FROM posts GROUP BY user_id) y ON y.user_id = x.id GROUP BY 1');
SELECT compare('SELECT id FROM users UNION SELECT user_id FROM posts');
SELECT compare('SELECT region FROM users EXCEPT SELECT region FROM regions');
SELECT compare('SELECT age FROM users INTERSECT ALL SELECT likes FROM posts');
SELECT compare('WITH x AS (SELECT region, count(*) n FROM users GROUP BY 1) SELECT a.region, a.n + b.n FROM x a JOIN x b USING (region)');
SELECT compare('WITH x AS (SELECT 10 AS a) SELECT count(*) FROM x, users u JOIN posts p ON p.user_id = u.id WHERE p.likes > x.a');
SELECT compare('WITH RECURSIVE r AS (SELECT id FROM users WHERE id = 1 UNION ALL SELECT u.id FROM r JOIN users u ON u.id = r.id * 2) SELECT * FROM r');
-- WITH that is read once is as if it stood there
SELECT compare('WITH c AS (SELECT user_id, count(*) n FROM posts GROUP BY 1) SELECT u.id, c.n FROM users u LEFT JOIN c ON c.user_id = u.id');
SELECT compare('WITH a AS (SELECT id, region FROM users WHERE age > 5), b AS (SELECT a.id, p.likes FROM a JOIN posts p ON p.user_id = a.id) SELECT b.id, sum(b.likes), count(l.post_id) FROM b JOIN likes l ON l.user_id = b.id GROUP BY b.id');
SELECT compare('WITH a AS (SELECT id, region FROM users WHERE age > 5) SELECT count(*) FROM posts p WHERE EXISTS (SELECT FROM a WHERE a.id = p.user_id AND p.likes > 3)');
SELECT compare('WITH a AS (SELECT id, region FROM users) SELECT r.region, (SELECT count(*) FROM (SELECT * FROM a WHERE a.region = r.region) x) FROM regions r');
SELECT compare('WITH a AS (SELECT id FROM users WHERE id < 20) SELECT (WITH a AS (SELECT count(*) n FROM posts p WHERE p.user_id = u.id) SELECT n FROM a), u.id FROM users u WHERE u.id IN (SELECT id FROM a)');
SELECT compare('WITH a AS (SELECT id FROM users WHERE id < 20) SELECT * FROM (WITH b AS (SELECT id + 1 AS id FROM a) SELECT b.id, p.title FROM b JOIN posts p ON p.user_id = b.id) x');
SELECT compare('WITH a AS NOT MATERIALIZED (SELECT id, age FROM users) SELECT count(*) FROM a x JOIN a y USING (id) JOIN posts p ON p.user_id = x.id');
SELECT compare('WITH a AS MATERIALIZED (SELECT id, age FROM users) SELECT count(*) FROM a JOIN posts p ON p.user_id = a.id');
SELECT compare('WITH a AS (SELECT id, age FROM users), b AS (SELECT * FROM a x WHERE x.id IN (SELECT user_id FROM likes)) SELECT count(*) FROM a JOIN b USING (id)');
SELECT compare('WITH a AS (SELECT id, random() < 2 AS r FROM users) SELECT count(*) FROM a JOIN posts p ON p.user_id = a.id WHERE a.r');
SELECT compare('WITH RECURSIVE a AS (SELECT id FROM users WHERE id < 3), r AS (SELECT id FROM a UNION ALL SELECT id + 1 FROM r WHERE id < 5) SELECT * FROM r');
SELECT compare('SELECT u.id FROM users u WHERE u.id IN (WITH a AS (SELECT user_id FROM posts WHERE likes = u.age) SELECT user_id FROM a UNION ALL SELECT user_id FROM likes)');
-- settings of the session
SET timezone = 'Asia/Kolkata'; SET datestyle = 'German';
SELECT compare('SELECT min(created), max(created) FROM posts WHERE created > ''3.1.2026 05:30''');
SELECT compare('SELECT created::date, count(*) FROM posts GROUP BY 1');
RESET timezone; RESET datestyle;
SELECT id, created FROM posts WHERE user_id = 3 AND created < timestamptz '2026-01-02 12:00+00';
SET timezone = 'Asia/Kolkata'; SET datestyle = 'German';
SELECT id FROM posts WHERE user_id = 3 AND created < timestamptz '2.1.2026 17:45';
RESET timezone; RESET datestyle;
-- names of the user's own are the user's own
CREATE FUNCTION public.count(text) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 42::bigint';
CREATE FUNCTION public.nothing(bigint, bigint) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT false';
CREATE OPERATOR public.=== (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = public.nothing);
SELECT compare('SELECT public.count(region), count(id) FROM users WHERE id < 3 GROUP BY region');
SELECT compare('SELECT count(*) FROM users u JOIN posts p ON p.user_id === u.id');

-- columns of subqueries, WITH, VALUES and USING
SELECT compare('SELECT count(*) FROM (SELECT user_id FROM posts ORDER BY id LIMIT 3) x JOIN users u ON u.id = x.user_id WHERE u.id = 5');
SELECT compare('SELECT u.id, x.n FROM users u LEFT JOIN (SELECT user_id, count(*) AS n FROM posts GROUP BY user_id) x ON x.user_id = u.id WHERE u.id = 5');
SELECT compare('SELECT u.id, x.n FROM users u LEFT JOIN (SELECT user_id, count(*) OVER () AS n FROM posts) x ON x.user_id = u.id WHERE u.id = 5');
SELECT compare('SELECT u.id, x.r FROM users u JOIN (SELECT user_id, id, row_number() OVER (ORDER BY id) AS r FROM posts) x ON x.user_id = u.id WHERE u.id = 7');
SELECT compare('SELECT u.id, x.r FROM users u JOIN (SELECT user_id, id, row_number() OVER (PARTITION BY user_id ORDER BY id) AS r FROM posts) x ON x.user_id = u.id WHERE u.id = 7');
SELECT compare('SELECT x.user_id, count(*) FROM (SELECT DISTINCT ON (id % 7) user_id, id FROM posts ORDER BY id % 7, id) x JOIN users u ON u.id = x.user_id GROUP BY 1');
SELECT compare('SELECT count(*) FROM (SELECT DISTINCT user_id FROM posts) x JOIN users u ON u.id = x.user_id');
SELECT compare('SELECT count(*) FROM (SELECT user_id, id FROM posts UNION SELECT user_id, post_id FROM likes) x JOIN users u ON u.id = x.user_id');
SELECT compare('SELECT count(*) FROM (SELECT user_id, id FROM posts EXCEPT SELECT user_id, post_id FROM likes) x JOIN users u ON u.id = x.user_id WHERE u.id = 9');
SELECT compare('SELECT count(*) FROM (SELECT user_id FROM posts UNION ALL SELECT 9::bigint) x JOIN users u ON u.id = x.user_id WHERE u.id = 9');
SELECT compare('SELECT count(*) FROM (SELECT user_id FROM posts WHERE user_id = 9 UNION ALL SELECT 10::bigint) x JOIN users u ON u.id = x.user_id');
SELECT compare('SELECT count(*) FROM (SELECT user_id FROM posts WHERE user_id = 9 UNION ALL SELECT id FROM users WHERE id = 9) x JOIN users u ON u.id = x.user_id');
SELECT compare('SELECT count(*) FROM (SELECT user_id FROM posts UNION ALL SELECT user_id FROM likes ORDER BY 1 LIMIT 100) x JOIN users u ON u.id = x.user_id WHERE u.id = 9');
SELECT compare('WITH x AS (SELECT user_id, count(*) AS n FROM posts GROUP BY user_id) SELECT a.n, b.n FROM x a JOIN x b ON b.user_id = a.user_id + 1 WHERE a.user_id = 5');
SELECT compare('WITH x AS (SELECT user_id, count(*) AS n FROM posts GROUP BY user_id) SELECT u.id, x.n FROM users u LEFT JOIN x ON x.user_id = u.id WHERE u.id = 5');
SELECT compare('WITH x AS MATERIALIZED (SELECT user_id FROM posts WHERE user_id = 5) SELECT count(*) FROM x RIGHT JOIN users u ON u.id = x.user_id');
SELECT compare('WITH x AS (SELECT 5::bigint AS k) SELECT u.id FROM users u JOIN x ON x.k = u.id');
SELECT compare('WITH RECURSIVE r(k, d) AS (SELECT 5::bigint, 0 UNION ALL SELECT r.k + 1, d + 1 FROM r JOIN users u ON u.id = r.k WHERE d < 5) SELECT * FROM r');
SELECT compare('WITH RECURSIVE r(k) AS (SELECT id FROM users WHERE id = 5 UNION SELECT p.user_id FROM r JOIN posts p ON p.user_id = r.k) SELECT * FROM r');
SELECT compare('SELECT count(*) FROM (VALUES (5::bigint), (5)) v (k) JOIN users u ON u.id = v.k');
SELECT compare('SELECT count(*) FROM (VALUES (5::bigint), (6)) v (k) JOIN users u ON u.id = v.k');
SELECT compare('SELECT count(*) FROM users u LEFT JOIN (VALUES (5::bigint), (5)) v (k) ON u.id = v.k');
SELECT compare('SELECT u.region, count(p.id) FROM users u LEFT JOIN (SELECT * FROM posts WHERE likes > 5) p ON p.user_id = u.id GROUP BY u.region');
SELECT compare('SELECT count(*) FROM users u FULL JOIN (SELECT user_id FROM posts WHERE user_id = 5) p ON p.user_id = u.id');
SELECT compare('SELECT count(*) FROM users u JOIN LATERAL (SELECT p.id FROM posts p WHERE p.user_id = u.id ORDER BY p.id LIMIT 2) x ON true');
SELECT compare('SELECT count(*) FROM users u JOIN LATERAL (SELECT u.id AS k, p.id FROM posts p WHERE p.user_id = u.id + 1) x ON x.k = u.id');
SELECT compare('SELECT count(*) FROM users u LEFT JOIN LATERAL (SELECT u.id AS k) x ON x.k = 5');
SELECT compare('SELECT count(*) FROM (SELECT p.user_id AS k FROM users u LEFT JOIN posts p ON p.user_id = u.id AND p.id < 50) x LEFT JOIN likes l ON l.user_id = x.k');
SELECT compare('SELECT count(*) FROM (SELECT p.user_id AS k FROM users u LEFT JOIN posts p ON p.user_id = u.id AND p.user_id = 5) x JOIN likes l ON l.user_id = x.k');
SELECT compare('SELECT x.k, count(*) FROM (SELECT p.user_id AS k FROM users u LEFT JOIN posts p ON p.user_id = u.id AND p.id < 50) x GROUP BY x.k');
SELECT compare('SELECT count(*) FROM (SELECT user_id AS id FROM posts) a JOIN (SELECT user_id AS id, post_id FROM likes) b USING (id)');
SELECT compare('SELECT id, count(*) FROM (SELECT user_id AS id FROM posts) a LEFT JOIN (SELECT user_id AS id, post_id FROM likes) b USING (id) GROUP BY id');
SELECT compare('SELECT id, count(*) FROM (SELECT user_id AS id FROM posts WHERE user_id < 20) a FULL JOIN (SELECT user_id AS id, post_id FROM likes WHERE user_id < 30) b USING (id) GROUP BY id');
SELECT compare('SELECT count(*) FROM users u WHERE EXISTS (SELECT FROM (SELECT user_id, sum(likes) AS s FROM posts GROUP BY user_id) x WHERE x.user_id = u.id AND x.s > 20)');
SELECT compare('SELECT count(*) FROM users u WHERE u.id IN (SELECT user_id FROM (SELECT user_id FROM posts GROUP BY user_id HAVING count(*) > 3) x)');
SELECT compare('SELECT count(*) FROM users u WHERE u.id NOT IN (SELECT x.user_id FROM (SELECT user_id FROM posts WHERE likes > 17) x)');
SELECT compare('SELECT count(*) FROM users u WHERE u.age > (SELECT avg(x.n) FROM (SELECT user_id, count(*) AS n FROM posts GROUP BY user_id) x)');
SELECT compare('SELECT count(*) FROM (SELECT max(user_id) AS k FROM posts) x JOIN users u ON u.id = x.k');
SELECT compare('SELECT count(*) FROM (SELECT user_id AS k, max(id) FROM posts GROUP BY ROLLUP (user_id)) x LEFT JOIN users u ON u.id = x.k');
SELECT compare('SELECT (SELECT count(*) FROM (SELECT user_id FROM posts) x WHERE x.user_id = u.id) FROM users u WHERE u.id = 12');
SELECT compare('SELECT count(*) FROM users a JOIN users b USING (id) JOIN likes l ON l.user_id = id WHERE id = 3');
SELECT compare('SELECT a.region, count(*) FROM users a JOIN regions r USING (region) JOIN posts p ON p.user_id = a.id GROUP BY a.region');

-- prepared, with plans for any parameter; in a cursor; in PL/pgSQL
SET plan_cache_mode = force_generic_plan;
PREPARE by_age (int) AS SELECT region, count(*) FROM users WHERE age > $1 GROUP BY region ORDER BY region;
EXECUTE by_age (30);
EXECUTE by_age (38);
EXECUTE by_age (NULL);
PREPARE some_users (bigint[]) AS SELECT id, age FROM users WHERE id = ANY ($1) ORDER BY id;
EXECUTE some_users ('{1,2,3}');
EXECUTE some_users ('{}');
EXECUTE some_users (NULL);
RESET plan_cache_mode;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT id FROM users ORDER BY id;
FETCH 2 FROM c;
UPDATE users SET age = 99 WHERE id = 3;
SELECT max(age) FROM users;
SAVEPOINT s;
FETCH 1 FROM c;
ROLLBACK TO s;
FETCH BACKWARD 2 FROM c;
ROLLBACK;
-- INSERT … SELECT reads before it writes
BEGIN;
INSERT INTO users (id, age) SELECT id + 1000, age FROM users;
SELECT count(*), count(DISTINCT id) FROM users;
ROLLBACK;

-- privileges and policies are the coordinator's
CREATE ROLE fanout_reader;
SELECT dbscale.grant_node_access('fanout_reader');
GRANT USAGE ON SCHEMA sharded TO fanout_reader;
GRANT SELECT (id, region) ON users TO fanout_reader;
SET ROLE fanout_reader;
SELECT count(id), max(region) > '' FROM users;
SELECT sum(age) FROM users;
SELECT count(*) FROM users u WHERE EXISTS (SELECT FROM posts p WHERE p.user_id = u.id);
RESET ROLE;
CREATE POLICY few ON users FOR SELECT TO fanout_reader USING (id < 4);
ALTER TABLE users ENABLE ROW LEVEL SECURITY;
SET ROLE fanout_reader;
SELECT count(id) FROM users;
RESET ROLE;
ALTER TABLE users DISABLE ROW LEVEL SECURITY;
CREATE VIEW old AS SELECT id, age FROM users WHERE age > 30;
GRANT SELECT ON old TO fanout_reader;
SET ROLE fanout_reader;
SELECT count(*), min(age) FROM old;
RESET ROLE;

-- plans
EXPLAIN (VERBOSE, COSTS OFF) SELECT u.region, count(*), avg(p.likes) FROM users u JOIN posts p ON p.user_id = u.id WHERE u.age > 3 GROUP BY u.region;
EXPLAIN (COSTS OFF) SELECT u.id, count(p.id) FROM users u LEFT JOIN posts p ON p.user_id = u.id GROUP BY u.id;
EXPLAIN (COSTS OFF) SELECT id FROM users ORDER BY age, id LIMIT 3;
EXPLAIN (COSTS OFF) SELECT id FROM users WHERE id IN (1, 2) AND age > 0;
EXPLAIN (VERBOSE, COSTS OFF) SELECT stddev(age), string_agg(region, ',\') FROM users;
EXPLAIN (VERBOSE, COSTS OFF) SELECT corr(age, f) FROM users;
EXPLAIN (COSTS OFF) SELECT u.id, count(*) FROM users u FULL JOIN likes l ON l.user_id = u.id GROUP BY u.id;
EXPLAIN (COSTS OFF) SELECT count(*) FROM users u FULL JOIN likes l ON l.user_id = u.id WHERE u.id IN (1, 2);
EXPLAIN (COSTS OFF) WITH c AS (SELECT user_id, count(*) n FROM posts GROUP BY 1) SELECT u.id, c.n FROM users u JOIN c ON c.user_id = u.id;
CREATE FUNCTION public.nodes_of(statement text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT public.lines_of('ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF', statement, 'Node [a-z_]*:|Shards:|Remote SQL')
$$;
CREATE FUNCTION public.sides_of(statement text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT public.lines_of('VERBOSE, COSTS OFF', statement, 'CTE dbscale|Sort|Strategy|UNNEST|big side|WHERE')
$$;

-- a small side goes to the nodes in the order of what it is joined by, if that has one
ANALYZE users, likes;
SELECT public.sides_of('SELECT u.region, count(*) FROM users u JOIN likes l ON u.id = l.liker_id WHERE u.age = 3 GROUP BY 1');
SELECT compare('SELECT u.region, count(*) FROM users u JOIN likes l ON u.id = l.liker_id WHERE u.age = 3 GROUP BY 1');
CREATE TABLE plain.unordered (id bigint, x xid, y int);
INSERT INTO plain.unordered SELECT i, (i % 100)::text::xid, i FROM generate_series(1, 1000) i;
CREATE TABLE unordered (LIKE plain.unordered);
SELECT dbscale.distribute_table('unordered', 'id', shard_count => 4);
INSERT INTO unordered SELECT * FROM plain.unordered;
ANALYZE unordered;
SELECT public.sides_of('SELECT a.y, count(*) FROM unordered a JOIN unordered b ON a.x = b.x WHERE a.y = 3 GROUP BY 1');
SELECT compare('SELECT a.y, count(*) FROM unordered a JOIN unordered b ON a.x = b.x WHERE a.y = 3 GROUP BY 1');
DROP TABLE plain.unordered, unordered;
-- outer joins off the shard key, and local tables: each side is fetched by one statement, and a small one is sent to where the other is
CREATE TYPE public.mood AS ENUM ('sad', 'happy');
ALTER TABLE plain.tags ADD mood public.mood, ADD list int[];
ALTER TABLE tags ADD mood public.mood, ADD list int[];
UPDATE plain.tags SET mood = (ARRAY['sad', 'happy', NULL])[1 + user_id % 3]::public.mood, list = ARRAY[user_id];
UPDATE tags SET mood = (ARRAY['sad', 'happy', NULL])[1 + user_id % 3]::public.mood, list = ARRAY[user_id];
CREATE VIEW plain.guarded WITH (security_barrier) AS SELECT * FROM plain.tags WHERE user_id % 2 = 0;
CREATE VIEW guarded WITH (security_barrier) AS SELECT * FROM tags WHERE user_id % 2 = 0;
ANALYZE users, posts, likes, tags;
SELECT compare(q) AS compare, q FROM unnest(ARRAY[
    $$users u LEFT JOIN likes k ON k.liker_id = u.id WHERE u.age = 3$$,
    $$likes k RIGHT JOIN users u ON k.liker_id = u.id WHERE u.age = 3$$,
    $$likes k FULL JOIN users u ON k.liker_id = u.id WHERE u.age = 3 OR k.post_id = 7$$,
    $$users u LEFT JOIN likes k ON k.liker_id = u.id AND k.post_id < 40 AND u.id > 20 WHERE u.age = 3$$,
    $$users u LEFT JOIN likes k ON k.liker_id = u.id WHERE u.age = 3 AND k.user_id IS NULL$$,
    $$users u LEFT JOIN likes k ON k.liker_id = u.id LEFT JOIN posts p ON p.likes = k.post_id WHERE u.age = 3$$,
    $$users u LEFT JOIN (likes k JOIN tags t ON t.user_id = k.liker_id) ON k.liker_id = u.id WHERE u.age = 3$$,
    $$users u LEFT JOIN (likes k LEFT JOIN tags t ON t.user_id = k.liker_id) ON k.liker_id = u.id AND t.tag = 't1' WHERE u.age = 3$$,
    $$(posts p FULL JOIN likes k ON p.likes = k.post_id) JOIN tags t ON t.user_id = k.liker_id WHERE t.tag = 't1'$$,
    $$(users u LEFT JOIN posts p ON p.user_id = u.id) JOIN tags t ON t.user_id = u.id WHERE t.tag = 't1'$$,
    $$(users u LEFT JOIN likes k ON k.liker_id = u.id) JOIN tags t ON t.user_id = k.user_id WHERE t.tag = 't1'$$,
    $$tags t JOIN likes k ON k.liker_id = t.user_id WHERE t.tag = 't1'$$,
    $$tags t LEFT JOIN likes k ON k.liker_id = t.user_id WHERE t.tag = 't1'$$,
    $$tags t RIGHT JOIN likes k ON k.liker_id = t.user_id AND t.tag = 't1' WHERE k.post_id < 50$$,
    $$tags t JOIN likes k ON k.liker_id = t.user_id AND k.user_id > t.user_id JOIN posts p ON p.user_id = k.user_id AND p.likes = k.post_id$$,
    $$tags t JOIN tags t2 USING (tag) JOIN likes k ON k.liker_id = t.user_id AND k.user_id = t2.user_id WHERE t.user_id < 9$$,
    $$tags t JOIN regions r ON r.title = 'Region 2' JOIN likes k ON k.liker_id = t.user_id WHERE t.user_id < 9$$,
    $$guarded t JOIN likes k ON k.liker_id = t.user_id$$,
    $$(SELECT user_id, random() < 2 AS r FROM tags) t JOIN likes k ON k.liker_id = t.user_id WHERE r$$,
    $$(SELECT user_id, max(mood) FROM tags GROUP BY 1) t JOIN likes k ON k.liker_id = t.user_id WHERE t.user_id < 9$$,
    $$(VALUES (3, 'x'), (4, NULL), (4, 'y')) v (id, name) JOIN likes k ON k.liker_id = v.id$$,
    $$generate_series(3::bigint, 5) g JOIN likes k ON k.liker_id = g$$,
    $$tags t JOIN likes k ON k.liker_id = t.user_id WHERE t.user_id < 9 AND EXISTS (SELECT FROM posts p WHERE p.likes = t.user_id)$$,
    $$tags t, likes k WHERE k.liker_id = t.user_id AND k.post_id < (SELECT max(age) FROM users) AND t.user_id < 9$$,
    $$tags t JOIN users u ON u.id = t.user_id LEFT JOIN posts p ON p.likes = t.user_id AND p.ok WHERE t.user_id < 9$$
]) f, LATERAL (SELECT 'SELECT * FROM ' || f AS q UNION ALL SELECT 'SELECT count(*), min(k.post_id) FROM ' || f WHERE f ~ 'likes k' AND f ~ 'tags') s;
SELECT compare('SELECT t.mood, t.list, count(*), sum(k.post_id) FROM tags t JOIN likes k ON k.liker_id = t.user_id WHERE t.user_id < 9 GROUP BY 1, 2');
SELECT compare('SELECT t.mood FROM tags t JOIN likes k ON k.liker_id = t.user_id AND (t.mood = ''happy'') = (k.post_id < 300) WHERE t.user_id < 9');
SELECT compare('SELECT u.id, (SELECT count(*) FROM tags t JOIN likes k ON k.liker_id = t.user_id WHERE t.user_id = u.age) FROM users u WHERE u.id < 9');
SELECT compare('SELECT * FROM tags t JOIN likes k ON k.liker_id = t.user_id WHERE t.tag = ''t1'' ORDER BY k.liker_id, k.user_id, k.post_id LIMIT 5');
SELECT public.sides_of('SELECT t.tag, count(*) FROM tags t JOIN likes k ON k.liker_id = t.user_id WHERE t.tag = ''t1'' GROUP BY 1');
SELECT public.sides_of('SELECT t.mood, k.post_id FROM tags t JOIN likes k ON k.liker_id = t.user_id WHERE t.tag = ''t1''');
SELECT public.sides_of('SELECT t.tag, k.post_id FROM tags t LEFT JOIN likes k ON k.liker_id = t.user_id AND k.post_id < 40 WHERE t.tag = ''t1''');
SELECT public.sides_of('SELECT u.region, k.post_id FROM likes k RIGHT JOIN users u ON k.liker_id = u.id WHERE u.age = 3');
SELECT public.sides_of('SELECT u.region, k.post_id FROM likes k FULL JOIN users u ON k.liker_id = u.id');
SELECT public.sides_of('SELECT u.region, k.post_id FROM likes k LEFT JOIN users u ON k.liker_id = u.id AND u.age = 3');
SELECT public.sides_of('SELECT u.region, k.post_id FROM users u LEFT JOIN likes k ON k.liker_id = u.id WHERE k.post_id = 3');
SELECT public.sides_of('SELECT u.region FROM users u WHERE EXISTS (SELECT FROM likes k WHERE k.liker_id = u.id AND k.post_id = 3)');
SELECT public.sides_of('SELECT u.region FROM users u WHERE NOT EXISTS (SELECT FROM likes k WHERE k.liker_id = u.id AND k.post_id = 3)');
SELECT public.lines_of('VERBOSE, COSTS OFF', 'UPDATE likes k SET post_id = 1 WHERE liker_id IN (SELECT user_id FROM tags WHERE tag = ''t1'')', 'Remote SQL.*_0');
SELECT public.lines_of('VERBOSE, COSTS OFF', 'DELETE FROM likes k USING tags t WHERE t.user_id = k.liker_id AND t.tag = ''t1''', 'Remote SQL.*_0');
SELECT public.lines_of('VERBOSE, COSTS OFF', 'DELETE FROM likes k USING users u WHERE u.id = k.liker_id AND u.age = 3', 'Remote SQL.*(likes|users)_0|FROM dbscale.*_0');
PREPARE tagged AS SELECT count(*) FROM tags t JOIN likes k ON k.liker_id = t.user_id WHERE t.tag = $1;
SET plan_cache_mode = force_generic_plan;
EXECUTE tagged('t1');
EXECUTE tagged('t2');
EXECUTE tagged(NULL);
RESET plan_cache_mode;
DROP VIEW plain.guarded, guarded;
ALTER TABLE plain.tags DROP mood, DROP list;
ALTER TABLE tags DROP mood, DROP list;
DROP TYPE public.mood;
-- by range: core prunes the ranges by conditions on the key; without one, all are asked at once
CREATE TABLE visits (day date, kind text);
SELECT dbscale.distribute_table('visits', 'day', strategy => 'range', step => '1 month', bounds => '{"from": "2026-01-01", "to": "2026-05-01"}');
INSERT INTO visits SELECT date '2026-01-01' + i % 120, 'k' || i % 3 FROM generate_series(1, 240) i;
EXPLAIN (COSTS OFF) SELECT kind FROM visits WHERE day >= '2026-04-01';
SELECT count(*), min(day) FROM visits WHERE day >= '2026-04-01';
SELECT kind, count(*), max(day) FROM visits GROUP BY kind ORDER BY kind;
SELECT count(*) FROM visits WHERE day IN ('2026-02-03', '2026-03-03', '2030-01-01');
SELECT public.nodes_of('SELECT count(*) FROM users');
SELECT public.nodes_of('SELECT count(*) FROM users WHERE age > (SELECT avg(likes) FROM posts)');

-- why a statement goes through the foreign tables: told once
CREATE FUNCTION public.reason_of(statement text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT public.lines_of('VERBOSE, COSTS OFF', statement, 'Not Pushed Down:')
$$;
SELECT public.reason_of('SELECT * FROM users FOR UPDATE');
SELECT public.reason_of('SELECT tableoid, id FROM users');
SELECT public.reason_of('SELECT kind FROM visits WHERE day >= ''2026-02-01''');
SELECT public.reason_of('SELECT kind FROM visits WHERE day >= now() - interval ''100 years''');
SELECT public.reason_of('UPDATE posts SET likes = random() * 100');
SELECT public.reason_of('UPDATE posts SET likes = 1 WHERE user_id IN (SELECT liker_id FROM likes WHERE post_id > random())');
SELECT public.reason_of('WITH gone AS (DELETE FROM likes RETURNING *) SELECT count(*) FROM gone JOIN users ON liker_id = id');
SET plan_cache_mode = force_generic_plan;
PREPARE all_users AS SELECT users FROM users;
SELECT public.reason_of('EXECUTE all_users') FROM generate_series(1, 2);
EXECUTE all_users \g /dev/null
RESET plan_cache_mode;

-- scans of shards and what they send; what stands above differs by version
CREATE FUNCTION public.scans_of(statement text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT public.lines_of('VERBOSE, COSTS OFF', statement, '(Foreign|Custom) Scan|Strategy:|Shards:|FROM dbscale_shards|^ *(WHERE|ORDER BY|LIMIT)')
$$;

-- subqueries that are computed for each row: one statement a node, or for the one shard of a key
SELECT scans_of('SELECT tag, (SELECT count(*) FROM posts p WHERE p.likes = t.user_id) FROM tags t');
SELECT scans_of('SELECT t.tag, x.id FROM tags t LEFT JOIN LATERAL (SELECT id FROM posts p WHERE p.user_id = t.user_id ORDER BY id LIMIT 2) x ON true');
SELECT scans_of('SELECT id FROM users WHERE id = (SELECT max(user_id) FROM tags)');
SELECT nodes_of('SELECT count(*) FROM users WHERE id IN (SELECT user_id FROM tags WHERE user_id < 3)');
-- what all executions together have sent
SELECT nodes_of('SELECT tag, (SELECT count(*) FROM posts p WHERE p.user_id = t.user_id) FROM tags t WHERE t.user_id < 11');
SELECT compare(q) FROM unnest(ARRAY[
    'SELECT tag, (SELECT count(*) FROM posts p WHERE p.likes = t.user_id) FROM tags t',
    'SELECT tag, (SELECT avg(likes) FROM posts p WHERE p.user_id = t.user_id AND p.title > t.tag), (SELECT max(kind) FROM events e WHERE e.id = t.user_id) FROM tags t',
    'SELECT id, (SELECT count(*) FROM likes l WHERE l.liker_id = u.id AND l.post_id < u.age) FROM users u',
    'SELECT id, ARRAY(SELECT l.post_id FROM likes l WHERE l.liker_id = u.id ORDER BY 1 LIMIT 3) FROM users u WHERE id < 30',
    'SELECT region, (SELECT count(*) FROM events e WHERE e.id = max(u.id)) FROM users u GROUP BY region',
    'SELECT t.tag, (SELECT sum((SELECT count(*) FROM events e WHERE e.id = p.likes AND e.id < t.user_id)) FROM posts p WHERE p.user_id = t.user_id) FROM tags t',
    'SELECT t.tag, x.* FROM tags t, LATERAL (SELECT p.user_id, count(*), max(t.tag || p.title) FROM posts p WHERE p.likes = t.user_id GROUP BY p.user_id) x',
    'SELECT t.tag, x.* FROM tags t LEFT JOIN LATERAL (SELECT DISTINCT p.likes FROM posts p WHERE p.user_id = t.user_id) x ON x.likes > 5',
    'SELECT u.id, p.id, x.n FROM users u, posts p, LATERAL (SELECT count(*) n FROM events e WHERE e.id = u.age) x WHERE p.likes = u.age AND u.id < 40',
    'SELECT count(*) FROM users WHERE id = (SELECT max(user_id) FROM tags)',
    'SELECT count(*) FROM users WHERE id = (SELECT user_id FROM tags WHERE tag = ''none'')',
    'SELECT count(*) FROM users WHERE id = ANY (ARRAY(SELECT user_id FROM tags))']) q;
-- joins off the key: also below outer joins and EXISTS each table is read by one statement a node, with its own conditions
SELECT scans_of('SELECT u.id, e.day FROM users u LEFT JOIN events e ON e.id = u.age AND e.kind = ''k1'' WHERE u.region = ''r1''');
SELECT scans_of('SELECT t.tag FROM tags t WHERE NOT EXISTS (SELECT FROM posts p WHERE p.likes = t.user_id AND p.ok)');
SELECT compare(q) FROM unnest(ARRAY[
    'SELECT u.id, e.day FROM users u LEFT JOIN events e ON e.id = u.age AND e.kind = ''k1'' WHERE u.region = ''r1''',
    'SELECT u.id, e.day FROM users u LEFT JOIN events e ON e.id = u.age WHERE e.kind = ''k1''',
    'SELECT u.id, e.day FROM users u LEFT JOIN events e ON e.id = u.age WHERE e.kind IS NULL OR u.id < 5',
    'SELECT u.id, e.day FROM users u FULL JOIN events e ON e.id = u.age AND u.id = e.id WHERE e.kind = ''k1''',
    'SELECT u.id, e.day FROM users u FULL JOIN events e ON e.id = u.age AND u.id = e.id WHERE e.kind = ''k1'' OR u.region = ''r1''',
    'SELECT t.tag, u.id, p.id FROM tags t LEFT JOIN (users u JOIN posts p ON p.user_id = u.id AND p.likes > 15) ON u.age = t.user_id AND u.region > ''r2'' WHERE t.tag < ''t3''',
    'SELECT t.tag, u.id, e.day FROM tags t LEFT JOIN (users u LEFT JOIN events e ON e.id = u.age AND e.id < 5) ON u.id = t.user_id AND e.kind = ''k1''',
    'SELECT t.tag, u.id, p.id FROM (users u LEFT JOIN posts p ON p.user_id = u.id) RIGHT JOIN tags t ON t.user_id = p.likes WHERE u.region = ''r1'' OR p.id IS NULL',
    'SELECT j.id, j.user_id FROM (users u JOIN tags t ON t.user_id = u.age) AS j WHERE j.region = ''r1''',
    'SELECT j.b, x.id FROM (users u LEFT JOIN events e ON e.id = u.age) AS j(b) LEFT JOIN events x ON x.id = j.b + 1 AND x.kind = ''k1'' WHERE j.b < 20',
    'SELECT (SELECT count(*) FROM likes WHERE liker_id = user_id % 7) FROM tags FULL JOIN (SELECT id AS user_id FROM users) u USING (user_id)',
    'SELECT t.tag FROM tags t WHERE NOT EXISTS (SELECT FROM posts p WHERE p.likes = t.user_id AND p.ok) AND EXISTS (SELECT FROM users u, events e WHERE u.age = t.user_id AND e.id = u.id)',
    'SELECT t.tag FROM tags t WHERE EXISTS (SELECT FROM posts p WHERE p.likes = t.user_id LIMIT 0)']) q;
-- a small table of the coordinator is a filter for a big one
SET client_min_messages = error;
CREATE TABLE plain.few (id bigint, note text);
CREATE TABLE sharded.few (id bigint, note text);
INSERT INTO plain.few SELECT i, 'note ' || i % 3 FROM generate_series(1, 9) i;
INSERT INTO sharded.few TABLE plain.few;
ANALYZE sharded.few, users, posts, likes;
RESET client_min_messages;
SELECT scans_of('SELECT f.note, p.id FROM few f LEFT JOIN posts p ON p.likes = f.id AND p.ok WHERE f.note = ''note 1''');
SELECT nodes_of('SELECT count(*) FROM few f JOIN posts p ON p.user_id = f.id WHERE f.id < 3');
SELECT compare(q) FROM unnest(ARRAY[
    'SELECT f.note, p.id FROM few f LEFT JOIN posts p ON p.likes = f.id AND p.ok WHERE f.note = ''note 1''',
    'SELECT f.note, p.id FROM few f RIGHT JOIN posts p ON p.likes = f.id',
    'SELECT f.note, p.id FROM few f FULL JOIN posts p ON p.likes = f.id',
    'SELECT f.note, p.id FROM few f JOIN posts p ON p.likes = f.id AND f.note <> ''note 2''',
    'SELECT f.note, p.id, l.liker_id FROM few f LEFT JOIN posts p ON p.likes = f.id LEFT JOIN likes l ON l.liker_id = f.id AND l.post_id = p.id',
    'SELECT f.note, u.id FROM few f LEFT JOIN (posts p LEFT JOIN users u ON u.age = p.likes) ON u.id = f.id',
    'SELECT f.note, p.id FROM tags t LEFT JOIN few f ON f.id = t.user_id LEFT JOIN posts p ON p.likes = f.id WHERE f.note IS NULL OR f.id = 3',
    'SELECT count(*) FROM few f JOIN posts p ON p.user_id = f.id WHERE f.id < 3']) q;

-- how many parallel workers a node may use is told with the next statement, and taken back
SELECT result AS own FROM dbscale.run_on_nodes('SHOW max_parallel_workers_per_gather') LIMIT 1 \gset
SET dbscale.node_parallel_workers = 0;
SELECT DISTINCT result FROM dbscale.run_on_nodes('SHOW max_parallel_workers_per_gather');
BEGIN;
SET LOCAL dbscale.node_parallel_workers = 5;
SELECT count(*) FROM users;
SELECT DISTINCT result FROM dbscale.run_on_nodes('SHOW max_parallel_workers_per_gather');
ROLLBACK;
SELECT DISTINCT result FROM dbscale.run_on_nodes('SHOW max_parallel_workers_per_gather');
RESET dbscale.node_parallel_workers;
SELECT DISTINCT result = :'own' FROM dbscale.run_on_nodes('SHOW max_parallel_workers_per_gather');

SET client_min_messages = error;
DROP SCHEMA plain CASCADE;
DROP SCHEMA sharded CASCADE;
DROP FUNCTION public.count(text);
DROP OPERATOR public.=== (bigint, bigint);
DROP FUNCTION public.nothing(bigint, bigint), public.compare(text), public.rows_of(text), public.lines_of(text, text, text), public.nodes_of(text), public.sides_of(text), public.reason_of(text), public.scans_of(text);
DROP OWNED BY fanout_reader;
DROP ROLE fanout_reader;
SELECT dbscale.remove_node('fanout_a');
SELECT dbscale.remove_node('fanout_b');
