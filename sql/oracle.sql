-- The oracle: every statement here runs over plain tables (schema plain) and over
-- distributed ones with the same rows and names (schema dist).  Rows, their number, errors
-- and the tables' contents afterwards must agree; only differences are reported.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
CREATE SCHEMA oracle;
CREATE SCHEMA plain;
CREATE SCHEMA dist;
SET search_path = oracle;

-- 1. tables and rows -------------------------------------------------------------------

CREATE TABLE ddl (command text);
INSERT INTO ddl VALUES
($$CREATE TABLE users (id bigint PRIMARY KEY, name text NOT NULL, region text, score numeric(10,2) DEFAULT 1.5,
    born date, active boolean DEFAULT true, tags text[], info jsonb, boss bigint, UNIQUE (id, name))$$),
($$CREATE TABLE posts (user_id bigint, id bigint, title text, likes int NOT NULL DEFAULT 0 CHECK (likes >= 0),
    created timestamptz, words int GENERATED ALWAYS AS (length(title)) STORED, PRIMARY KEY (user_id, id))$$),
($$CREATE TABLE likes (user_id bigint, post_id bigint, liker bigint, weight numeric, PRIMARY KEY (user_id, post_id, liker))$$),
($$CREATE TABLE events (day date, id int, user_id bigint, kind text, amount numeric, PRIMARY KEY (day, id))$$),
($$CREATE TABLE customers (region text, id int, name text, balance numeric, PRIMARY KEY (region, id))$$),
($$CREATE TABLE tenants (tenant text, id int, plan text, seats int, since timestamp, PRIMARY KEY (tenant, id))$$),
($$CREATE TABLE devices (device uuid PRIMARY KEY, n int, reading numeric, at timestamptz, span interval, raw bytea)$$),
($$CREATE TABLE keyless (k int, v text, n int)$$),
($$CREATE TABLE regions (region text PRIMARY KEY, label text, rank int)$$),
($$CREATE TABLE notes (id int PRIMARY KEY, user_id bigint, body text)$$),
($$CREATE TABLE audit (n bigint GENERATED ALWAYS AS IDENTITY, what text)$$);
SELECT format('SET search_path = %s; %s', s, command) FROM (VALUES ('plain'), ('dist')) v (s), ddl \gexec
SET search_path = oracle;

INSERT INTO plain.users SELECT i, 'user' || i, (ARRAY['us', 'eu', 'asia', NULL])[1 + i % 4], (i * 37 % 1000) / 10.0,
    date '1960-01-01' + i * 97, i % 5 <> 0, ARRAY['t' || i % 3, 't' || i % 7],
    jsonb_build_object('n', i, 'deep', jsonb_build_object('even', i % 2 = 0)), nullif(i / 10, 0) FROM generate_series(1, 120) i;
INSERT INTO plain.users VALUES (-5, 'negative', 'eu', -1, '1999-12-31', false, '{}', '{}', NULL),
    (9007199254740993, 'huge', 'us', NULL, NULL, NULL, NULL, NULL, 1);
INSERT INTO plain.posts SELECT 1 + i % 100, i, CASE WHEN i % 11 <> 0 THEN repeat('x', i % 13) || i END, i % 17,
    timestamptz '2026-01-01 00:00+00' + i * interval '7 hours' FROM generate_series(1, 400) i;
INSERT INTO plain.likes SELECT user_id, id, l, (id + l) / 4.0 FROM plain.posts, generate_series(1, 3) l WHERE id % 3 < l;
INSERT INTO plain.events SELECT date '2026-01-01' + i % 150, i, i % 90, (ARRAY['view', 'click', 'buy'])[1 + i % 3], i * 1.25 FROM generate_series(1, 300) i;
INSERT INTO plain.customers SELECT (ARRAY['us-east', 'us-west', 'eu-west', 'asia'])[1 + i % 4], i, 'c' || i, i * 10 - 500 FROM generate_series(1, 100) i;
INSERT INTO plain.tenants SELECT 'tenant ' || i % 12, i, (ARRAY['free', 'pro'])[1 + i % 2], i % 9, timestamp '2025-06-01' + i * interval '1 day' FROM generate_series(1, 120) i;
INSERT INTO plain.devices SELECT md5(i::text)::uuid, i, i / 8.0, timestamptz '2026-03-01 12:00+00' + i * interval '1 minute', i * interval '1 hour', decode(md5(i::text), 'hex') FROM generate_series(1, 80) i;
INSERT INTO plain.keyless SELECT nullif(i % 10, 3), 'v' || i % 6, i FROM generate_series(1, 60) i;
INSERT INTO plain.regions VALUES ('us', 'United States', 1), ('eu', 'Europe', 2), ('asia', 'Asia', 3), ('mars', 'Mars', NULL);
INSERT INTO plain.notes SELECT i, i * 3, 'note ' || i FROM generate_series(1, 40) i;

-- Some tables get their rows before they are distributed, the others after.
INSERT INTO dist.users SELECT * FROM plain.users;
INSERT INTO dist.posts SELECT user_id, id, title, likes, created FROM plain.posts;
INSERT INTO dist.customers SELECT * FROM plain.customers;
INSERT INTO dist.regions SELECT * FROM plain.regions;
INSERT INTO dist.notes SELECT * FROM plain.notes;

SELECT count(*) FROM (SELECT dbscale.add_local_node('oracle_1'), dbscale.add_local_node('oracle_2')) n;
SELECT dbscale.distribute_reference('dist.regions');
SELECT dbscale.distribute_table('dist.users', 'id', shard_count => 8);
SELECT dbscale.distribute_table('dist.posts', 'user_id', colocate_with => 'dist.users');
SELECT dbscale.distribute_table('dist.likes', 'user_id', colocate_with => 'dist.users');
SELECT dbscale.distribute_table('dist.events', 'day', strategy => 'range', step => '1 month', bounds => '{"from": "2026-01-01", "to": "2026-07-01"}');
SELECT dbscale.distribute_table('dist.customers', 'region', strategy => 'list',
    bounds => '{"us": ["us-east", "us-west"], "eu": {"values": ["eu-west"], "node": "oracle_2"}, "asia": ["asia"]}');
SELECT dbscale.distribute_table('dist.tenants', 'tenant', strategy => 'directory', shard_count => 4);
SELECT dbscale.distribute_table('dist.devices', 'device', shard_count => 4);
SELECT dbscale.distribute_table('dist.keyless', 'k', shard_count => 4);
INSERT INTO dist.likes SELECT * FROM plain.likes;
INSERT INTO dist.events SELECT * FROM plain.events;
INSERT INTO dist.tenants SELECT * FROM plain.tenants;
INSERT INTO dist.devices SELECT * FROM plain.devices;
INSERT INTO dist.keyless SELECT * FROM plain.keyless;
SELECT dbscale.assign_key('dist.tenants', 'tenant 3', 2);

SELECT format($$SET search_path = %s;
ALTER TABLE posts ADD FOREIGN KEY (user_id) REFERENCES users;
ALTER TABLE likes ADD FOREIGN KEY (user_id, post_id) REFERENCES posts ON DELETE CASCADE$$, s)
FROM (VALUES ('plain'), ('dist')) v (s) \gexec
SELECT format($$SET search_path = %s;
CREATE VIEW busy AS SELECT u.id, u.name, count(*) AS posts, sum(p.likes) AS likes FROM users u JOIN posts p ON p.user_id = u.id GROUP BY u.id, u.name;
CREATE VIEW young AS SELECT * FROM users WHERE born > '1980-01-01' WITH CHECK OPTION;
CREATE VIEW fenced WITH (security_barrier) AS SELECT id, name, score FROM users WHERE active;
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO %1$s.audit (what) VALUES (TG_OP || '' '' || coalesce(NEW.id, OLD.id)); RETURN NULL; END';
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.plan := upper(NEW.plan); RETURN NEW; END';
CREATE FUNCTION total_likes(bigint) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT sum(likes) FROM %1$s.posts WHERE user_id = $1';
CREATE TRIGGER note_change AFTER INSERT OR UPDATE OR DELETE ON customers FOR EACH ROW EXECUTE FUNCTION note_change();
CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON tenants FOR EACH ROW EXECUTE FUNCTION shout();
ANALYZE users, posts, likes, events, customers, tenants, devices, keyless, regions, notes$$, s)
FROM (VALUES ('plain'), ('dist')) v (s) \gexec
SET search_path = oracle;

-- 2. the comparison ----------------------------------------------------------------------

CREATE TABLE statement (id int GENERATED ALWAYS AS IDENTITY, sql text, plain text[], plain_tables text);
CREATE TABLE difference (id int, sql text, what text, plain text, dist text);

CREATE FUNCTION contents(s text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    t text; part text; whole text := '';
BEGIN
    FOREACH t IN ARRAY ARRAY['users', 'posts', 'likes', 'events', 'customers', 'tenants', 'devices', 'keyless', 'regions', 'notes'] LOOP
        EXECUTE format('SELECT %L || '' '' || count(*) || '' '' || coalesce(md5(string_agg(x::text, ''|'' ORDER BY x::text COLLATE "C")), ''-'') || '';'' FROM %I.%I x', t, s, t) INTO part;
        whole := whole || part;
    END LOOP;
    EXECUTE format('SELECT ''audit '' || count(*) || '' '' || coalesce(md5(string_agg(what, ''|'' ORDER BY what COLLATE "C")), ''-'') FROM %I.audit', s) INTO part;
    RETURN whole || part;
END $$;

-- The rows a statement gives, or the number it changes, or its SQLSTATE.
CREATE FUNCTION outcome(sql text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    r record; n bigint; rows text[] := '{}';
BEGIN
    IF sql ~* '^\s*(/\*ordered\*/\s*)?(select|with|values|table|execute)\M' OR sql ~* '^(?!do\M).*\mreturning\M' THEN
        FOR r IN EXECUTE sql LOOP rows := rows || r::text; END LOOP;
        IF sql NOT LIKE '%/*ordered*/%' THEN
            rows := ARRAY(SELECT x FROM unnest(rows) x ORDER BY x COLLATE "C");
        END IF;
    ELSE
        EXECUTE sql;
        GET DIAGNOSTICS n = ROW_COUNT;
        rows := ARRAY[n::text];
    END IF;
    RETURN rows;
END $$;
-- What must fail is in a block of its own, so a savepoint stands around it.
CREATE FUNCTION outcome_or_error(sql text) RETURNS text[] LANGUAGE plpgsql AS $$
BEGIN
    RETURN oracle.outcome(sql);
EXCEPTION WHEN others THEN
    RETURN ARRAY['error ' || SQLSTATE];
END $$;

CREATE PROCEDURE run_in(s text, statement_id int) LANGUAGE plpgsql AS $$
DECLARE
    st oracle.statement; got text[]; tables text;
    changes boolean;
BEGIN
    SELECT * INTO st FROM oracle.statement WHERE id = statement_id;
    changes := st.sql !~* '^\s*(/\*ordered\*/\s*)?(select|values|table)\M';
    PERFORM set_config('search_path', s, false);
    IF st.sql LIKE '%/*fails*/%' THEN got := oracle.outcome_or_error(st.sql);
    ELSE got := oracle.outcome(st.sql);
    END IF;
    COMMIT;
    PERFORM set_config('search_path', 'oracle', false);
    IF changes THEN tables := oracle.contents(s); END IF;
    IF s = 'plain' THEN
        UPDATE oracle.statement SET plain = got, plain_tables = tables WHERE id = st.id;
    ELSE
        IF got IS DISTINCT FROM st.plain THEN
            INSERT INTO oracle.difference SELECT st.id, st.sql, 'rows', array_to_string(st.plain[1:20], ' '), array_to_string(got[1:20], ' ');
        END IF;
        -- a table that differs is reported once, with the statement after which it did
        INSERT INTO oracle.difference
        SELECT st.id, st.sql, split_part(d, ' ', 1), (SELECT x FROM regexp_split_to_table(st.plain_tables, ';') x WHERE split_part(x, ' ', 1) = split_part(d, ' ', 1)), d
        FROM regexp_split_to_table(tables, ';') d
        WHERE d NOT IN (SELECT regexp_split_to_table(st.plain_tables, ';')) AND split_part(d, ' ', 1) NOT IN (SELECT what FROM oracle.difference);
    END IF;
END $$;

-- 3. the statements ----------------------------------------------------------------------

-- one shard, some shards, all shards
INSERT INTO statement (sql) VALUES
($q$SELECT * FROM users WHERE id = 7$q$),
($q$SELECT * FROM users WHERE id = -5$q$),
($q$SELECT name FROM users WHERE id = 9007199254740993$q$),
($q$SELECT * FROM users WHERE id = 7::int2$q$),
($q$SELECT * FROM users WHERE id = 7.0$q$),
($q$SELECT * FROM users WHERE id IN (1, 2, 3, 999)$q$),
($q$SELECT * FROM users WHERE id = ANY ('{4,5,6}'::bigint[])$q$),
($q$SELECT * FROM users WHERE id BETWEEN 10 AND 20 AND active$q$),
($q$SELECT * FROM users WHERE id = 3 OR id = 4$q$),
($q$SELECT * FROM users WHERE id = 3 AND id = 4$q$),
($q$SELECT * FROM users WHERE id IS NULL$q$),
($q$SELECT * FROM users$q$),
($q$SELECT count(*), count(score), sum(score), min(born), max(name), avg(score) FROM users$q$),
($q$SELECT id, tags[1], info -> 'deep' ->> 'even', info @> '{"n": 4}' FROM users WHERE 't2' = ANY (tags)$q$),
($q$SELECT count(*) FROM users WHERE name LIKE 'user1%' AND region IS DISTINCT FROM 'eu'$q$),
($q$SELECT * FROM users WHERE name ~ '^user[0-9]$' OR name ILIKE 'HUGE'$q$),
($q$SELECT id, CASE WHEN score > 50 THEN 'high' WHEN score > 20 THEN 'middle' ELSE 'low' END FROM users$q$),
($q$SELECT id, coalesce(region, '?') || '/' || upper(name), abs(score), round(score), born + 1, extract(year FROM born) FROM users WHERE id < 30$q$),
($q$SELECT (u).name, u FROM users u WHERE id < 4$q$),
($q$SELECT u FROM users u WHERE id = 9$q$),
($q$SELECT tableoid::regclass::text LIKE '%users%' FROM users WHERE id = 4$q$),
($q$SELECT * FROM users WHERE false$q$),
($q$SELECT 1 FROM users WHERE id = 11$q$),
($q$SELECT exists(SELECT FROM users WHERE id = 11), exists(SELECT FROM users WHERE id = 1100)$q$),
($q$TABLE regions$q$),
($q$SELECT * FROM devices WHERE device = md5('5')::uuid$q$),
($q$SELECT n, at, at AT TIME ZONE 'Asia/Tokyo', span, raw FROM devices WHERE n < 9$q$),
($q$SELECT count(*), sum(span), min(at), max(reading) FROM devices WHERE raw > '\x80'$q$),
($q$SELECT * FROM keyless WHERE k IS NULL$q$),
($q$SELECT * FROM keyless WHERE k = 4 ORDER BY n$q$),
($q$SELECT k, count(*), string_agg(v, ',' ORDER BY n) FROM keyless GROUP BY k$q$),
($q$SELECT * FROM tenants WHERE tenant = 'tenant 3'$q$),
($q$SELECT tenant, count(*), sum(seats) FROM tenants WHERE tenant IN ('tenant 3', 'tenant 4', 'none') GROUP BY tenant$q$),
($q$SELECT * FROM customers WHERE region = 'eu-west' AND balance > 0$q$),
($q$SELECT region, count(*), sum(balance) FROM customers WHERE region LIKE 'us-%' GROUP BY 1$q$),
($q$SELECT * FROM events WHERE day = '2026-03-01'$q$),
($q$SELECT count(*), sum(amount) FROM events WHERE day >= '2026-02-10' AND day < '2026-04-10'$q$),
($q$SELECT count(*) FROM events WHERE day < timestamptz '2026-02-01 00:00+00'$q$),
($q$SELECT date_trunc('month', day), kind, count(*), sum(amount) FROM events GROUP BY 1, 2$q$);
-- order, limit, distinct
INSERT INTO statement (sql) VALUES
($q$/*ordered*/ SELECT id, name FROM users ORDER BY name COLLATE "C" DESC, id LIMIT 10$q$),
($q$/*ordered*/ SELECT id, score FROM users ORDER BY score DESC NULLS LAST, id LIMIT 7 OFFSET 5$q$),
($q$/*ordered*/ SELECT id FROM users ORDER BY id DESC FETCH FIRST 3 ROWS ONLY$q$),
($q$/*ordered*/ SELECT score FROM users WHERE score > 90 ORDER BY score FETCH FIRST 2 ROWS WITH TIES$q$),
($q$/*ordered*/ SELECT day, id FROM events ORDER BY day, id LIMIT 20$q$),
($q$/*ordered*/ SELECT region, id FROM customers ORDER BY region COLLATE "C", id$q$),
($q$SELECT DISTINCT region FROM users$q$),
($q$SELECT DISTINCT ON (user_id) user_id, id, likes FROM posts ORDER BY user_id, likes DESC, id$q$),
($q$SELECT DISTINCT kind, user_id % 3 FROM events$q$),
($q$SELECT count(DISTINCT region), count(DISTINCT (region, active)) FROM users$q$),
($q$SELECT * FROM users ORDER BY id LIMIT 0$q$);
-- aggregates
INSERT INTO statement (sql) VALUES
($q$SELECT user_id, count(*), sum(likes), max(created) FROM posts GROUP BY user_id$q$),
($q$SELECT user_id, count(*) FROM posts GROUP BY user_id HAVING sum(likes) > 40$q$),
($q$SELECT region, active, count(*), sum(score), avg(score), min(id), max(id) FROM users GROUP BY region, active$q$),
($q$SELECT stddev_pop(likes), var_samp(likes), bool_and(likes >= 0), bool_or(likes > 15), bit_or(likes) FROM posts$q$),
($q$SELECT array_agg(id ORDER BY id) FROM users WHERE id < 20$q$),
($q$SELECT jsonb_object_agg(id, name ORDER BY id), json_agg(name ORDER BY id DESC) FROM users WHERE id BETWEEN 1 AND 9$q$),
($q$SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY likes), mode() WITHIN GROUP (ORDER BY likes % 3), percentile_disc(0.9) WITHIN GROUP (ORDER BY id) FROM posts$q$),
($q$SELECT count(*) FILTER (WHERE active), sum(score) FILTER (WHERE region = 'eu') FROM users$q$),
($q$SELECT region, kind, count(*) FROM users u JOIN events e ON e.user_id = u.id GROUP BY ROLLUP (region, kind)$q$),
($q$SELECT kind, day > '2026-03-01', sum(amount), grouping(kind) FROM events GROUP BY CUBE (kind, 2)$q$),
($q$SELECT region, active, count(*), grouping(region, active) FROM users GROUP BY GROUPING SETS ((region), (active), (region, active), ())$q$),
($q$SELECT user_id % 4 AS r, likes % 2 AS l, count(*) FROM posts GROUP BY GROUPING SETS (r, l) HAVING count(*) > 20$q$),
($q$SELECT u.id, u.name, u.score, count(p.id) FROM users u LEFT JOIN posts p ON p.user_id = u.id GROUP BY u.id$q$),
($q$SELECT sum(x) FROM (SELECT max(likes) AS x FROM posts GROUP BY user_id) m$q$),
($q$SELECT max(c), min(c) FROM (SELECT count(*) AS c FROM events GROUP BY user_id) x$q$),
($q$SELECT regr_count(likes, id), corr(1, likes) FROM posts$q$),
($q$SELECT sum(DISTINCT likes), avg(DISTINCT likes) FROM posts$q$),
($q$SELECT count(*) FROM users HAVING count(*) > 1000$q$),
($q$SELECT GROUPING(active), active, sum(id) FROM users WHERE id < 100 GROUP BY ROLLUP (active)$q$);
-- joins
INSERT INTO statement (sql) VALUES
($q$SELECT u.name, p.title FROM users u JOIN posts p ON p.user_id = u.id WHERE u.id = 12$q$),
($q$SELECT u.name, p.title FROM users u JOIN posts p ON p.user_id = u.id WHERE p.likes > 14$q$),
($q$SELECT u.name, p.id, l.liker FROM users u JOIN posts p ON p.user_id = u.id JOIN likes l ON l.user_id = p.user_id AND l.post_id = p.id WHERE l.weight > 80$q$),
($q$SELECT u.id, p.id FROM users u LEFT JOIN posts p ON p.user_id = u.id AND p.likes > 10$q$),
($q$SELECT u.id, p.id FROM users u LEFT JOIN posts p ON p.user_id = u.id WHERE p.id IS NULL$q$),
($q$SELECT u.id, p.id FROM posts p RIGHT JOIN users u ON p.user_id = u.id AND p.likes = 3 WHERE u.score > 20$q$),
($q$SELECT u.id, e.id FROM users u FULL JOIN events e ON e.user_id = u.id AND e.kind = 'buy'$q$),
($q$SELECT coalesce(u.id, p.user_id), count(*) FROM users u FULL JOIN posts p ON p.user_id = u.id + 50 GROUP BY 1$q$),
($q$SELECT u.id, r.label FROM users u JOIN regions r USING (region)$q$),
($q$SELECT r.label, u.id FROM regions r LEFT JOIN users u ON u.region = r.region AND u.score > 95$q$),
($q$SELECT u.id, r.label FROM users u LEFT JOIN regions r ON r.region = u.region AND r.rank > 1$q$),
($q$SELECT * FROM regions r NATURAL JOIN (SELECT region, count(*) FROM users GROUP BY region) c$q$),
($q$SELECT a.id, b.id FROM users a JOIN users b ON b.id = a.boss WHERE a.score > b.score$q$),
($q$SELECT a.id, b.id FROM users a JOIN users b ON b.id = a.id AND b.active$q$),
($q$SELECT count(*) FROM users a CROSS JOIN regions b$q$),
($q$SELECT count(*) FROM users a, events b WHERE a.id < 5 AND b.id < 5$q$),
($q$SELECT n.body, u.name FROM notes n JOIN users u ON u.id = n.user_id$q$),
($q$SELECT n.body, u.name FROM notes n LEFT JOIN users u ON u.id = n.user_id AND u.active WHERE n.id < 10$q$),
($q$SELECT c.name, t.tenant FROM customers c JOIN tenants t ON t.id = c.id WHERE c.balance > 300$q$),
($q$SELECT u.id, e.day FROM users u JOIN events e ON u.id = e.user_id WHERE e.day BETWEEN '2026-02-01' AND '2026-02-07'$q$),
($q$SELECT u.id, d.n FROM users u JOIN devices d ON d.n = u.id AND d.reading > 5$q$),
($q$SELECT p.id, e.id FROM posts p JOIN events e ON e.user_id = p.user_id AND e.id > p.id WHERE p.likes = 9$q$),
($q$SELECT * FROM users u JOIN (VALUES (1, 'a'), (5, 'b'), (77, 'c')) v (id, tag) ON v.id = u.id$q$),
($q$SELECT u.id FROM users u WHERE u.id IN (SELECT user_id FROM posts WHERE likes = 16)$q$),
($q$SELECT u.id FROM users u WHERE u.id NOT IN (SELECT user_id FROM posts)$q$),
($q$SELECT u.id FROM users u WHERE EXISTS (SELECT FROM posts p WHERE p.user_id = u.id AND p.title IS NULL)$q$),
($q$SELECT u.id FROM users u WHERE NOT EXISTS (SELECT FROM events e WHERE e.user_id = u.id)$q$),
($q$SELECT p.user_id, p.id FROM posts p WHERE EXISTS (SELECT FROM likes l WHERE l.user_id = p.user_id AND l.post_id = p.id AND l.liker = 3)$q$),
($q$SELECT u.id, p.id, l.liker FROM users u LEFT JOIN (posts p JOIN likes l ON l.user_id = p.user_id AND l.post_id = p.id AND l.liker = 1) ON p.user_id = u.id WHERE u.id < 15$q$),
($q$SELECT k.v, u.id FROM keyless k LEFT JOIN users u ON u.id = k.k WHERE k.n < 15$q$),
($q$SELECT a.k, b.n FROM keyless a JOIN keyless b ON a.k = b.k AND a.n < b.n WHERE a.n < 12$q$),
($q$SELECT a.k, b.k FROM keyless a FULL JOIN keyless b ON a.k = b.k AND a.n = b.n + 1$q$),
($q$SELECT u.region, count(DISTINCT p.id), sum(l.weight) FROM users u LEFT JOIN posts p ON p.user_id = u.id LEFT JOIN likes l ON l.user_id = u.id AND l.post_id = p.id GROUP BY u.region$q$),
($q$SELECT p.user_id, count(*) FROM users u LEFT JOIN posts p ON p.user_id = u.id AND p.likes > 12 GROUP BY p.user_id$q$),
($q$SELECT DISTINCT p.user_id FROM users u LEFT JOIN posts p ON p.user_id = u.id AND p.likes > 12$q$),
($q$SELECT t.tenant, c.n FROM tenants t, LATERAL (SELECT count(*) AS n FROM customers c WHERE c.id < t.id) c WHERE t.seats = 8$q$),
($q$SELECT u.id, top.id, top.likes FROM users u CROSS JOIN LATERAL (SELECT id, likes FROM posts p WHERE p.user_id = u.id ORDER BY likes DESC, id LIMIT 2) top WHERE u.id < 20$q$),
($q$SELECT u.id, e.id FROM users u LEFT JOIN LATERAL (SELECT e.id FROM events e WHERE e.user_id = u.id ORDER BY e.day, e.id LIMIT 1) e ON true WHERE u.id < 40$q$),
($q$SELECT u.id, g FROM users u, LATERAL generate_series(1, u.id % 4) g WHERE u.id < 10$q$),
($q$SELECT u.id, t FROM users u, unnest(u.tags) t WHERE u.id BETWEEN 20 AND 30$q$);
-- subqueries
INSERT INTO statement (sql) VALUES
($q$SELECT id, (SELECT count(*) FROM posts p WHERE p.user_id = u.id), (SELECT max(day) FROM events e WHERE e.user_id = u.id) FROM users u WHERE id < 25$q$),
($q$SELECT id FROM users WHERE score > (SELECT avg(score) FROM users)$q$),
($q$SELECT id FROM users WHERE score = (SELECT max(score) FROM users WHERE region = 'us')$q$),
($q$SELECT id FROM users WHERE score > ALL (SELECT score FROM users WHERE id IN (1, 2))$q$),
($q$SELECT id FROM users WHERE score < ANY (SELECT likes FROM posts WHERE user_id = 3)$q$),
($q$SELECT id FROM users WHERE (region, active) IN (SELECT region, true FROM regions)$q$),
($q$SELECT id FROM users u WHERE (SELECT sum(likes) FROM posts p WHERE p.user_id = u.id) > 40$q$),
($q$SELECT s.region, s.n FROM (SELECT region, count(*) AS n FROM users GROUP BY region) s WHERE s.n > 20$q$),
($q$SELECT ARRAY(SELECT id FROM users WHERE region = 'eu' ORDER BY id)$q$),
($q$SELECT * FROM (SELECT id, name FROM users ORDER BY id LIMIT 5) a JOIN posts p ON p.user_id = a.id$q$),
($q$SELECT (SELECT name FROM users WHERE id = p.user_id), p.id FROM posts p WHERE p.id < 20$q$),
($q$SELECT id FROM users WHERE id = (SELECT min(user_id) FROM posts WHERE likes = 5)$q$),
($q$SELECT id, total_likes(id) FROM users WHERE id < 15$q$),
($q$SELECT count(*) FROM users WHERE total_likes(id) > 30$q$),
($q$SELECT u.id FROM users u WHERE u.id = ANY (ARRAY(SELECT user_id FROM notes WHERE id < 6))$q$),
($q$SELECT count(*) FROM (SELECT * FROM posts OFFSET 0) p WHERE p.user_id = 4$q$);
-- with
INSERT INTO statement (sql) VALUES
($q$WITH a AS (SELECT user_id, sum(likes) AS s FROM posts GROUP BY 1) SELECT u.id, a.s FROM users u JOIN a ON a.user_id = u.id WHERE a.s > 30$q$),
($q$WITH a AS MATERIALIZED (SELECT * FROM users WHERE id < 50), b AS NOT MATERIALIZED (SELECT * FROM a WHERE active) SELECT a.id, b.id FROM a LEFT JOIN b ON b.id = a.id$q$),
($q$WITH RECURSIVE up AS (SELECT id, boss, 0 AS depth FROM users WHERE id = 117 UNION ALL SELECT u.id, u.boss, depth + 1 FROM users u JOIN up ON u.id = up.boss) SELECT * FROM up$q$),
($q$WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 10) SELECT i, (SELECT count(*) FROM posts WHERE user_id = i) FROM n$q$),
($q$WITH a AS (SELECT 5::bigint AS key) SELECT u.* FROM users u, a WHERE u.id = a.key$q$),
($q$WITH x AS (SELECT region, count(*) AS c FROM users GROUP BY region) SELECT a.region, b.region FROM x a, x b WHERE a.c < b.c$q$);
-- windows
INSERT INTO statement (sql) VALUES
($q$SELECT id, row_number() OVER (ORDER BY id), rank() OVER (ORDER BY score), sum(score) OVER (ORDER BY id ROWS 2 PRECEDING) FROM users$q$),
($q$SELECT user_id, id, rank() OVER (PARTITION BY user_id ORDER BY likes DESC, id), lag(id) OVER (PARTITION BY user_id ORDER BY id) FROM posts$q$),
($q$SELECT region, id, sum(score) OVER w, first_value(id) OVER w, ntile(3) OVER w FROM users WINDOW w AS (PARTITION BY region ORDER BY id)$q$),
($q$SELECT p.user_id, count(*) OVER (PARTITION BY p.user_id) FROM users u LEFT JOIN posts p ON p.user_id = u.id AND p.likes > 14$q$),
($q$SELECT * FROM (SELECT user_id, id, row_number() OVER (PARTITION BY user_id ORDER BY id DESC) AS r FROM posts) x WHERE r = 1$q$),
($q$SELECT region, sum(count(*)) OVER (ORDER BY region COLLATE "C") FROM users GROUP BY region$q$),
($q$SELECT day, count(*) OVER (ORDER BY day RANGE BETWEEN '3 days' PRECEDING AND CURRENT ROW) FROM events WHERE day < '2026-02-15'$q$);
-- set operations
INSERT INTO statement (sql) VALUES
($q$SELECT id FROM users WHERE id < 10 UNION SELECT user_id FROM posts WHERE likes = 1$q$),
($q$SELECT id FROM users WHERE id < 10 UNION ALL SELECT user_id FROM events WHERE id < 12$q$),
($q$SELECT id FROM users INTERSECT SELECT user_id FROM events$q$),
($q$SELECT id FROM users EXCEPT SELECT user_id FROM posts$q$),
($q$SELECT user_id FROM posts EXCEPT ALL SELECT user_id FROM events$q$),
($q$(SELECT id FROM users ORDER BY id LIMIT 3) UNION ALL (SELECT id FROM users ORDER BY id DESC LIMIT 3)$q$),
($q$SELECT region, 1 FROM users UNION SELECT region, 2 FROM regions$q$),
($q$/*ordered*/ SELECT id FROM users WHERE id < 6 UNION SELECT id::bigint FROM notes WHERE id < 9 ORDER BY 1$q$),
($q$SELECT count(*) FROM (SELECT tenant FROM tenants UNION SELECT region FROM customers UNION SELECT name FROM users) x$q$);
-- views, functions, values
INSERT INTO statement (sql) VALUES
($q$SELECT * FROM busy WHERE likes > 35$q$),
($q$SELECT * FROM busy WHERE id = 8$q$),
($q$SELECT b.name, r.label FROM busy b JOIN users u USING (id) JOIN regions r USING (region)$q$),
($q$SELECT * FROM fenced WHERE score > 60$q$),
($q$SELECT count(*) FROM young$q$),
($q$VALUES (1, (SELECT count(*) FROM users)), (2, (SELECT count(*) FROM posts))$q$),
($q$SELECT id, current_date - born > 0, now() IS NOT NULL, pg_typeof(score) FROM users WHERE id < 12$q$),
($q$/*fails*/ SELECT 1 / (id - 7) FROM users WHERE id BETWEEN 5 AND 9$q$),
($q$/*fails*/ SELECT name::int FROM users WHERE id = 3$q$),
($q$SELECT id FROM users WHERE id < 8 FOR UPDATE$q$),
($q$SELECT u.id, p.id FROM users u JOIN posts p ON p.user_id = u.id WHERE u.id = 21 FOR SHARE OF p$q$),
($q$SELECT id FROM users WHERE id = 20 FOR NO KEY UPDATE SKIP LOCKED$q$);
-- insert
INSERT INTO statement (sql) VALUES
($q$INSERT INTO users (id, name) VALUES (1001, 'new')$q$),
($q$INSERT INTO users (id, name, region) VALUES (1002, 'a', 'eu'), (1003, 'b', 'us'), (1004, 'c', NULL), (1005, 'd', 'asia') RETURNING *$q$),
($q$INSERT INTO users (id, name, score) SELECT 1100 + i, 'gen' || i, i FROM generate_series(1, 40) i$q$),
($q$INSERT INTO posts (user_id, id, title) VALUES (1001, 1, 'hello'), (1002, 1, NULL) RETURNING user_id, id, likes, words$q$),
($q$INSERT INTO posts (user_id, id, title, likes) SELECT user_id, id + 1000, title, likes FROM posts WHERE user_id < 10$q$),
($q$INSERT INTO posts (user_id, id, title) SELECT id, 5000, name FROM users WHERE id > 1100 RETURNING user_id, words$q$),
($q$INSERT INTO users (id, name) VALUES (1, 'again'), (1200, 'fresh') ON CONFLICT DO NOTHING$q$),
($q$INSERT INTO users (id, name) VALUES (2, 'again'), (1201, 'fresh') ON CONFLICT DO NOTHING RETURNING id$q$),
($q$INSERT INTO likes SELECT user_id, id, 77, 1 FROM posts WHERE likes = 5 ON CONFLICT DO NOTHING$q$),
($q$/*fails*/ INSERT INTO users (id, name) VALUES (1, 'duplicate')$q$),
($q$/*fails*/ INSERT INTO users (id) VALUES (1300)$q$),
($q$/*fails*/ INSERT INTO posts (user_id, id, likes) VALUES (1, 9999, -1)$q$),
($q$/*fails*/ INSERT INTO posts (user_id, id) VALUES (424242, 1)$q$),
($q$/*fails*/ INSERT INTO users (id, name) VALUES (1400, 'x'), (1401, 'y'), (1, 'duplicate'), (1402, 'z')$q$),
($q$/*fails*/ INSERT INTO posts (user_id, id, words) VALUES (1, 7777, 3)$q$),
($q$INSERT INTO keyless VALUES (NULL, 'null key', 100), (3, 'three', 101) RETURNING *$q$),
($q$INSERT INTO keyless (n) VALUES (102)$q$),
($q$INSERT INTO keyless DEFAULT VALUES$q$),
($q$INSERT INTO customers VALUES ('eu-west', 900, 'Ana', 5), ('asia', 901, 'Bo', NULL) RETURNING region, id$q$),
($q$INSERT INTO tenants VALUES ('tenant 3', 500, 'trial', 1, '2026-05-05'), ('tenant new', 501, 'trial', 2, NULL) RETURNING *$q$),
($q$INSERT INTO events VALUES ('2026-06-30', 1000, 1, 'view', 1), ('2026-01-31', 1001, 2, 'view', 2)$q$),
($q$INSERT INTO events SELECT day + 30, id + 2000, user_id, kind, amount FROM events WHERE day < '2026-02-01'$q$),
($q$INSERT INTO devices SELECT gen, 1000, 1.5, '2026-01-01 00:00+00', '1 mon 2 days 03:04:05', '\x00ff' FROM (SELECT md5('x')::uuid AS gen) g RETURNING *$q$),
($q$INSERT INTO notes SELECT id, id, name FROM users WHERE id BETWEEN 100 AND 110 RETURNING id$q$),
($q$INSERT INTO regions VALUES ('africa', 'Africa', 4) RETURNING *$q$),
($q$WITH moved AS (INSERT INTO users (id, name) VALUES (1500, 'cte'), (1501, 'cte') RETURNING id) SELECT count(*), max(id) FROM moved$q$),
($q$WITH u AS (INSERT INTO users (id, name) VALUES (1502, 'cte2') RETURNING id, name) INSERT INTO keyless SELECT id, name, 1 FROM u RETURNING *$q$),
($q$INSERT INTO users (id, name, info) VALUES (1600, E'quote '' and \\ back', '{"a": "b''c"}'), (1601, 'ünïcödé ☃', '["x"]') RETURNING name, info$q$),
($q$INSERT INTO young VALUES (1700, 'view', 'eu', 1, '1990-01-01')$q$),
($q$/*fails*/ INSERT INTO young VALUES (1701, 'view', 'eu', 1, '1970-01-01')$q$);
-- update
INSERT INTO statement (sql) VALUES
($q$UPDATE users SET score = score + 1 WHERE id = 7$q$),
($q$UPDATE users SET score = score * 2, active = NOT active WHERE id = 8 RETURNING *$q$),
($q$UPDATE users SET region = 'mars' WHERE region IS NULL$q$),
($q$UPDATE users SET name = upper(name) WHERE id BETWEEN 10 AND 30 AND active RETURNING id, name$q$),
($q$UPDATE posts SET likes = likes + 1 WHERE user_id = 5$q$),
($q$UPDATE posts SET title = title || '!' WHERE likes > 12$q$),
($q$UPDATE posts p SET likes = p.likes + 10 FROM users u WHERE u.id = p.user_id AND u.region = 'eu' RETURNING p.user_id, p.id, u.region$q$),
($q$UPDATE users u SET score = x.s FROM (SELECT user_id, sum(likes) AS s FROM posts GROUP BY user_id) x WHERE x.user_id = u.id AND u.id < 20$q$),
($q$UPDATE users SET score = (SELECT count(*) FROM posts p WHERE p.user_id = users.id) WHERE id BETWEEN 40 AND 45$q$),
($q$UPDATE users SET score = r.rank FROM regions r WHERE r.region = users.region AND r.rank = 2$q$),
($q$UPDATE users SET (name, score) = (SELECT 'from notes', n.id FROM notes n WHERE n.user_id = users.id LIMIT 1) WHERE id IN (3, 6, 9)$q$),
($q$UPDATE users SET tags = tags || 'added'::text, info = jsonb_set(info, '{k}', '"v"') WHERE id IN (11, 12, 13)$q$),
($q$UPDATE users SET score = DEFAULT WHERE id = 14 RETURNING score$q$),
($q$UPDATE customers SET balance = balance + 100 WHERE region = 'asia' AND id < 20$q$),
($q$UPDATE tenants SET plan = 'gold', seats = seats + 1 WHERE tenant = 'tenant 3' RETURNING *$q$),
($q$UPDATE events SET amount = 0 WHERE day = '2026-03-05'$q$),
($q$UPDATE notes n SET body = u.name FROM users u WHERE u.id = n.user_id AND n.id < 12 RETURNING n.id, n.body$q$),
($q$UPDATE regions SET rank = 9 WHERE region = 'mars'$q$),
($q$/*fails*/ UPDATE posts SET likes = -1 WHERE user_id = 6$q$),
($q$/*fails*/ UPDATE users SET name = NULL WHERE id = 15$q$),
($q$WITH changed AS (UPDATE users SET score = 0 WHERE id IN (50, 51, 52) RETURNING id) SELECT c.id, u.score FROM changed c JOIN users u USING (id)$q$),
($q$UPDATE young SET score = 77 WHERE id = 100$q$),
($q$UPDATE users SET score = 5 WHERE false$q$),
($q$UPDATE users SET score = 1 WHERE id = 99 AND random() >= 0$q$);
-- rows whose key changes move
INSERT INTO statement (sql) VALUES
($q$UPDATE keyless SET k = k + 1 WHERE k = 5$q$),
($q$UPDATE keyless SET k = NULL WHERE k = 1 RETURNING *$q$),
($q$UPDATE keyless SET k = n % 7$q$),
($q$UPDATE keyless SET k = 4 WHERE k IS NULL RETURNING k, n$q$),
($q$UPDATE users SET id = 2000 WHERE id = 1200 RETURNING id, name$q$),
($q$UPDATE users SET id = id + 5000 WHERE id BETWEEN 1003 AND 1005$q$),
($q$/*fails*/ UPDATE users SET id = 1 WHERE id = 1201$q$),
($q$/*fails*/ UPDATE users SET id = 4242 WHERE id = 5$q$),
($q$UPDATE customers SET region = 'us-east' WHERE region = 'eu-west' AND id % 3 = 0 RETURNING id, region$q$),
($q$UPDATE events SET day = day + 31 WHERE id BETWEEN 40 AND 60 RETURNING id, day$q$),
($q$UPDATE tenants SET tenant = 'tenant 3' WHERE tenant = 'tenant 5' RETURNING tenant, id$q$),
($q$UPDATE devices SET device = md5(n || 'moved')::uuid WHERE n BETWEEN 10 AND 14 RETURNING n$q$),
($q$UPDATE customers SET region = 'asia' FROM users u WHERE u.id = customers.id AND u.score < 5 AND customers.region = 'us-west' RETURNING customers.id$q$);
-- delete
INSERT INTO statement (sql) VALUES
($q$DELETE FROM likes WHERE user_id = 4$q$),
($q$DELETE FROM likes WHERE weight < 5 RETURNING *$q$),
($q$DELETE FROM posts p USING users u WHERE u.id = p.user_id AND u.name LIKE 'gen%' RETURNING p.user_id$q$),
($q$DELETE FROM likes l WHERE NOT EXISTS (SELECT FROM users u WHERE u.id = l.liker AND u.active)$q$),
($q$DELETE FROM events WHERE day < '2026-01-10' RETURNING day, id$q$),
($q$DELETE FROM tenants WHERE tenant = 'tenant 4' AND seats > 5 RETURNING id$q$),
($q$DELETE FROM keyless WHERE k IS NULL$q$),
($q$DELETE FROM posts WHERE user_id = 2$q$),
($q$DELETE FROM customers WHERE id IN (SELECT id FROM tenants WHERE seats = 0) RETURNING region, id$q$),
($q$/*fails*/ DELETE FROM users WHERE id = 3$q$),
($q$WITH gone AS (DELETE FROM keyless WHERE n > 90 RETURNING *) SELECT count(*), min(n) FROM gone$q$),
($q$WITH gone AS (DELETE FROM posts WHERE user_id = 9 RETURNING *) INSERT INTO notes SELECT 10000 + id, user_id, title FROM gone RETURNING id$q$),
($q$DELETE FROM regions WHERE region = 'africa'$q$);
-- joined with a local table, or with what is elsewhere: only the rows that can match are fetched
INSERT INTO statement (sql) VALUES
($q$UPDATE users u SET score = n.id FROM notes n WHERE n.user_id = u.id AND n.id < 20 AND NOT EXISTS (SELECT FROM notes m WHERE m.user_id = n.user_id AND m.id < n.id) RETURNING u.id, u.score, n.body$q$),
($q$UPDATE users SET active = true WHERE id IN (SELECT user_id FROM notes WHERE id < 12) RETURNING id$q$),
($q$UPDATE users SET active = false WHERE id IN (SELECT liker FROM likes WHERE weight < 30) AND score < 50 RETURNING id$q$),
($q$UPDATE users SET region = 'us' WHERE id NOT IN (SELECT user_id FROM notes WHERE user_id IS NOT NULL) AND id < 50 RETURNING id$q$),
($q$UPDATE likes l SET weight = u.score FROM users u WHERE u.id = l.liker AND u.region = 'eu' RETURNING l.*$q$),
($q$UPDATE users SET score = (SELECT count(*) FROM likes WHERE liker = 3) WHERE id IN (SELECT NULL::bigint UNION ALL SELECT 7)$q$),
($q$UPDATE posts p SET title = n.body FROM (notes n JOIN regions r ON r.rank = n.id % 4) WHERE p.id = n.user_id AND n.id < 9 AND r.region = 'eu' RETURNING p.user_id, p.id$q$),
($q$UPDATE customers c SET name = n.body FROM notes n WHERE c.id = n.id AND n.user_id < 30 RETURNING c.region, c.id, c.name$q$),
($q$WITH n AS (SELECT * FROM notes WHERE id < 7) UPDATE users u SET name = u.name || '!' FROM n WHERE n.user_id = u.id AND n.id = 3 RETURNING u.name$q$),
($q$/*fails*/ UPDATE users u SET score = 1 / (n.id - n.id) FROM notes n WHERE n.user_id = u.id AND n.id < 20$q$),
($q$DELETE FROM likes l USING notes n WHERE n.user_id = l.liker AND n.id < 5 RETURNING l.*$q$),
($q$DELETE FROM likes l USING users u WHERE u.id = l.liker AND u.name LIKE 'user1%' AND l.weight > 60 RETURNING l.*, u.name$q$),
($q$DELETE FROM posts WHERE (user_id, id) IN (SELECT user_id, id FROM notes WHERE id < 30)$q$),
($q$DELETE FROM events e WHERE EXISTS (SELECT FROM notes n WHERE n.user_id = e.user_id AND n.id < 4) RETURNING e.id$q$),
($q$SELECT u.id FROM users u WHERE EXISTS (SELECT FROM likes l WHERE l.liker = u.id AND l.weight > 5)$q$),
($q$SELECT u.id FROM users u WHERE NOT EXISTS (SELECT FROM likes l WHERE l.liker = u.id AND l.weight > 5)$q$),
($q$SELECT u.id FROM users u WHERE NOT EXISTS (SELECT FROM likes l WHERE l.liker = u.id AND l.weight > u.score) AND u.active$q$),
($q$SELECT n.id FROM notes n WHERE EXISTS (SELECT FROM users u WHERE u.id = n.user_id AND u.boss IS NULL)$q$),
($q$SELECT n.id FROM notes n WHERE NOT EXISTS (SELECT FROM users u JOIN likes l ON l.liker = u.id WHERE u.id = n.user_id AND l.weight > 3)$q$),
($q$SELECT u.id FROM users u WHERE u.score > 20 AND EXISTS (SELECT DISTINCT l.weight FROM likes l WHERE u.boss = l.liker ORDER BY 1)$q$),
($q$SELECT u.id FROM users u WHERE u.id < 30 OR EXISTS (SELECT FROM likes l WHERE l.liker = u.id AND l.weight > 70)$q$),
($q$SELECT u.id FROM users u LEFT JOIN notes n ON n.user_id = u.boss WHERE EXISTS (SELECT FROM likes l WHERE l.liker = n.user_id)$q$),
($q$SELECT u.id FROM users u WHERE EXISTS (SELECT FROM likes l WHERE l.liker = u.id AND l.user_id IN (SELECT p.user_id FROM posts p WHERE p.likes = u.id))$q$),
($q$SELECT u.id, l.post_id FROM users u LEFT JOIN likes l ON l.liker = u.id WHERE l.weight > 90$q$),
($q$SELECT u.id, l.post_id FROM users u LEFT JOIN likes l ON l.liker = u.id WHERE l.weight > 90 OR l.weight IS NULL$q$),
($q$SELECT u.id, l.post_id, n.id FROM users u LEFT JOIN likes l ON l.liker = u.id LEFT JOIN notes n ON n.id = l.post_id WHERE coalesce(n.id, 3) = 3 AND l.weight > 50$q$),
($q$SELECT u.id, l.post_id, n.id FROM notes n RIGHT JOIN (likes l LEFT JOIN users u ON l.liker = u.id AND u.region = 'eu') ON n.id = l.post_id WHERE u.score > 1$q$);
-- merge
INSERT INTO statement (sql) VALUES
($q$MERGE INTO notes n USING users u ON u.id = n.user_id WHEN MATCHED AND u.active THEN UPDATE SET body = u.name WHEN MATCHED THEN DELETE$q$),
($q$MERGE INTO notes n USING (SELECT id, name FROM users WHERE id BETWEEN 200 AND 1300) u ON n.user_id = u.id WHEN NOT MATCHED THEN INSERT VALUES (u.id + 50000, u.id, u.name)$q$),
($q$MERGE INTO regions r USING (SELECT region, count(*) AS n FROM users GROUP BY region) c ON c.region = r.region WHEN MATCHED THEN UPDATE SET rank = c.n$q$);
-- prepared statements with generic plans
INSERT INTO statement (sql) VALUES
($q$DO $$ DECLARE i int; r record; BEGIN SET LOCAL plan_cache_mode = force_generic_plan; PREPARE q1 (bigint) AS SELECT id, name FROM users WHERE id = $1; FOR i IN 1..8 LOOP FOR r IN EXECUTE 'EXECUTE q1(' || i || ')' LOOP INSERT INTO audit (what) VALUES (r::text); END LOOP; END LOOP; DEALLOCATE q1; END $$$q$),
($q$DO $$ DECLARE i int; r record; BEGIN PREPARE q2 (text) AS SELECT count(*) FROM tenants WHERE tenant = $1; FOR i IN 1..12 LOOP FOR r IN EXECUTE format('EXECUTE q2(%L)', 'tenant ' || i) LOOP INSERT INTO audit (what) VALUES (r::text); END LOOP; END LOOP; DEALLOCATE q2; END $$$q$),
($q$DO $$ DECLARE i int; r record; BEGIN SET LOCAL plan_cache_mode = force_generic_plan; PREPARE q3 (date, date) AS SELECT count(*), sum(amount) FROM events WHERE day BETWEEN $1 AND $2; FOR i IN 1..5 LOOP FOR r IN EXECUTE format('EXECUTE q3(%L, %L)', date '2026-01-01' + i * 20, date '2026-01-10' + i * 25) LOOP INSERT INTO audit (what) VALUES (r::text); END LOOP; END LOOP; DEALLOCATE q3; END $$$q$),
($q$DO $$ DECLARE i int; BEGIN SET LOCAL plan_cache_mode = force_generic_plan; PREPARE q4 (bigint, int) AS UPDATE posts SET likes = likes + $2 WHERE user_id = $1; FOR i IN 10..20 LOOP EXECUTE 'EXECUTE q4(' || i || ', 3)'; END LOOP; DEALLOCATE q4; END $$$q$),
($q$DO $$ DECLARE i int; BEGIN SET LOCAL plan_cache_mode = force_generic_plan; PREPARE q5 (bigint, text) AS INSERT INTO users (id, name) VALUES ($1, $2); FOR i IN 3000..3020 LOOP EXECUTE format('EXECUTE q5(%s, %L)', i, 'prepared ' || i); END LOOP; DEALLOCATE q5; END $$$q$),
($q$DO $$ DECLARE i int; BEGIN SET LOCAL plan_cache_mode = force_generic_plan; PREPARE q6 (bigint) AS DELETE FROM users WHERE id = $1; FOR i IN 3000..3009 LOOP EXECUTE 'EXECUTE q6(' || i || ')'; END LOOP; DEALLOCATE q6; END $$$q$);
-- PL/pgSQL
INSERT INTO statement (sql) VALUES
($q$DO $$ DECLARE u users; n bigint := 0; BEGIN FOR u IN SELECT * FROM users WHERE id BETWEEN 1 AND 60 ORDER BY id LOOP n := n + u.id; UPDATE users SET score = n WHERE id = u.id; END LOOP; INSERT INTO audit (what) VALUES (n); END $$$q$),
($q$DO $$ DECLARE v int; BEGIN FOR i IN 1..10 LOOP SELECT count(*) INTO v FROM posts WHERE user_id = i; INSERT INTO audit (what) VALUES (i || ':' || v); END LOOP; END $$$q$),
($q$DO $$ DECLARE r users%ROWTYPE; BEGIN SELECT * INTO STRICT r FROM users WHERE id = 60; r.id := 4000; INSERT INTO users SELECT r.*; UPDATE users SET name = 'row ' || r.name WHERE id = r.id; END $$$q$),
($q$DO $$ DECLARE n int; BEGIN UPDATE users SET active = true WHERE id < 30; GET DIAGNOSTICS n = ROW_COUNT; INSERT INTO audit (what) VALUES ('rows ' || n); DELETE FROM users WHERE id = 123456; INSERT INTO audit (what) VALUES ('found ' || FOUND); END $$$q$),
($q$DO $$ BEGIN FOR i IN 1..6 LOOP BEGIN INSERT INTO users (id, name) VALUES (CASE WHEN i % 2 = 0 THEN 1 ELSE 4100 + i END, 'x'); EXCEPTION WHEN unique_violation THEN INSERT INTO audit (what) VALUES ('duplicate ' || i); END; END LOOP; END $$$q$),
($q$DO $$ BEGIN UPDATE users SET score = 1 WHERE id = 61; BEGIN UPDATE users SET score = 2 WHERE id IN (61, 62, 63); RAISE EXCEPTION 'undo'; EXCEPTION WHEN raise_exception THEN UPDATE users SET score = 3 WHERE id = 62; END; END $$$q$),
($q$DO $$ BEGIN BEGIN INSERT INTO posts (user_id, id) VALUES (61, 90001); BEGIN INSERT INTO posts (user_id, id) VALUES (62, 90002); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN NULL; END; INSERT INTO posts (user_id, id) VALUES (63, 90003); END; END $$$q$),
($q$DO $$ DECLARE r record; BEGIN FOR r IN UPDATE tenants SET seats = seats + 10 WHERE tenant = 'tenant 6' RETURNING id, seats LOOP INSERT INTO audit (what) VALUES (r::text); END LOOP; END $$$q$),
($q$DO $$ DECLARE c CURSOR FOR SELECT id FROM users ORDER BY id; v bigint; BEGIN OPEN c; FOR i IN 1..3 LOOP FETCH c INTO v; INSERT INTO audit (what) VALUES ('cursor ' || v); END LOOP; MOVE FORWARD 5 FROM c; FETCH c INTO v; INSERT INTO audit (what) VALUES ('moved ' || v); CLOSE c; END $$$q$),
($q$DO $$ DECLARE c SCROLL CURSOR FOR SELECT day, id FROM events ORDER BY day, id; r record; BEGIN OPEN c; FETCH LAST FROM c INTO r; INSERT INTO audit (what) VALUES (r::text); FETCH PRIOR FROM c INTO r; INSERT INTO audit (what) VALUES (r::text); FETCH ABSOLUTE 4 FROM c INTO r; INSERT INTO audit (what) VALUES (r::text); FETCH FIRST FROM c INTO r; INSERT INTO audit (what) VALUES (r::text); CLOSE c; END $$$q$),
($q$DO $$ DECLARE a CURSOR FOR SELECT id FROM users WHERE id < 40 ORDER BY id; b CURSOR (k bigint) FOR SELECT id FROM posts WHERE user_id = k ORDER BY id; BEGIN FOR x IN a LOOP FOR y IN b (x.id) LOOP IF y.id % 5 = 0 THEN INSERT INTO audit (what) VALUES (x.id || '/' || y.id); END IF; END LOOP; END LOOP; END $$$q$),
($q$DO $$ DECLARE r refcursor; v record; BEGIN OPEN r FOR EXECUTE 'SELECT region, count(*) FROM customers GROUP BY region ORDER BY region COLLATE "C"'; LOOP FETCH r INTO v; EXIT WHEN NOT FOUND; INSERT INTO audit (what) VALUES (v::text); END LOOP; END $$$q$),
($q$DO $$ DECLARE x record; BEGIN FOR x IN SELECT id FROM users WHERE id BETWEEN 70 AND 80 LOOP INSERT INTO keyless VALUES (x.id, 'loop', 1); DELETE FROM keyless WHERE k = x.id AND x.id % 2 = 0; END LOOP; END $$$q$);
-- truncate
INSERT INTO statement (sql) VALUES
($q$TRUNCATE likes$q$),
($q$INSERT INTO likes SELECT user_id, id, 1, 1 FROM posts WHERE likes > 8$q$),
($q$TRUNCATE events, customers$q$),
($q$SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM customers), (SELECT count(*) FROM likes)$q$),
($q$/*fails*/ TRUNCATE users$q$);

-- Each in a transaction of its own, first over the plain tables, then over the distributed.
\set ECHO none
SELECT format('CALL run_in(%L, %s)', s, id) FROM statement, (VALUES (1, 'plain'), (2, 'dist')) v (o, s) ORDER BY id, o \gexec
\set ECHO all

-- 4. transactions, as a client writes them -------------------------------------------------

CREATE TABLE state (id int, s text, tables text);
\set t1 'BEGIN; UPDATE users SET score = 10 WHERE id = 1; UPDATE users SET score = 20 WHERE id IN (2, 3, 4); COMMIT;'
\set t2 'BEGIN; DELETE FROM posts; INSERT INTO users (id, name) VALUES (7001, $$gone$$); ROLLBACK;'
\set t3 'BEGIN; INSERT INTO users (id, name) VALUES (7002, $$a$$); SAVEPOINT s; INSERT INTO users (id, name) VALUES (7003, $$b$$); ROLLBACK TO s; INSERT INTO users (id, name) VALUES (7004, $$c$$); RELEASE s; COMMIT;'
\set t4 'BEGIN; SAVEPOINT a; UPDATE posts SET likes = 100 WHERE user_id = 31; SAVEPOINT b; DELETE FROM posts WHERE user_id = 32; ROLLBACK TO b; UPDATE posts SET likes = 101 WHERE user_id = 33; ROLLBACK TO a; UPDATE posts SET likes = 102 WHERE user_id = 34; COMMIT;'
\set t5 'BEGIN ISOLATION LEVEL REPEATABLE READ; UPDATE users SET score = 5 WHERE id = 5; INSERT INTO notes VALUES (8000, 1, $$local$$); INSERT INTO regions VALUES ($$moon$$, $$Moon$$, 1); COMMIT;'
\set t6 'BEGIN; DECLARE c CURSOR FOR SELECT id FROM users ORDER BY id; MOVE 3 IN c; UPDATE users SET score = 33 WHERE id = 33; MOVE 10 IN c; CLOSE c; DELETE FROM regions WHERE region = $$moon$$; COMMIT;'
\set t7 'BEGIN; TRUNCATE keyless; INSERT INTO keyless VALUES (1, $$after$$, 1), (2, $$after$$, 2); SAVEPOINT s; TRUNCATE keyless; ROLLBACK TO s; COMMIT;'
\set t8 'BEGIN; SET LOCAL DateStyle = $$German$$; SET LOCAL TimeZone = $$Asia/Tokyo$$; SET LOCAL IntervalStyle = $$sql_standard$$; INSERT INTO devices VALUES (md5($$tz$$)::uuid, 7, 1, $$05.04.2026 03:00$$, $$1 2:03:04$$, NULL); UPDATE devices SET at = at + span WHERE n = 7; COMMIT;'
\set t9 'BEGIN; INSERT INTO users (id, name) VALUES (7005, $$x$$); COMMIT AND CHAIN; UPDATE users SET name = $$y$$ WHERE id = 7005; INSERT INTO posts (user_id, id) VALUES (7005, 1); COMMIT;'
\set t10 'COPY (SELECT id, name, score FROM users) TO PROGRAM $$cat > /dev/null$$; CREATE TEMP TABLE mine AS SELECT id, name FROM users WHERE id < 50; UPDATE users u SET name = m.name || $$?$$ FROM mine m WHERE m.id = u.id AND m.id % 2 = 0; DROP TABLE mine;'

SET search_path = plain; :t1 INSERT INTO oracle.state VALUES (1, 'plain', oracle.contents('plain'));
SET search_path = dist; :t1 INSERT INTO oracle.state VALUES (1, 'dist', oracle.contents('dist'));
SET search_path = plain; :t2 INSERT INTO oracle.state VALUES (2, 'plain', oracle.contents('plain'));
SET search_path = dist; :t2 INSERT INTO oracle.state VALUES (2, 'dist', oracle.contents('dist'));
SET search_path = plain; :t3 INSERT INTO oracle.state VALUES (3, 'plain', oracle.contents('plain'));
SET search_path = dist; :t3 INSERT INTO oracle.state VALUES (3, 'dist', oracle.contents('dist'));
SET search_path = plain; :t4 INSERT INTO oracle.state VALUES (4, 'plain', oracle.contents('plain'));
SET search_path = dist; :t4 INSERT INTO oracle.state VALUES (4, 'dist', oracle.contents('dist'));
SET search_path = plain; :t5 INSERT INTO oracle.state VALUES (5, 'plain', oracle.contents('plain'));
SET search_path = dist; :t5 INSERT INTO oracle.state VALUES (5, 'dist', oracle.contents('dist'));
SET search_path = plain; :t6 INSERT INTO oracle.state VALUES (6, 'plain', oracle.contents('plain'));
SET search_path = dist; :t6 INSERT INTO oracle.state VALUES (6, 'dist', oracle.contents('dist'));
SET search_path = plain; :t7 INSERT INTO oracle.state VALUES (7, 'plain', oracle.contents('plain'));
SET search_path = dist; :t7 INSERT INTO oracle.state VALUES (7, 'dist', oracle.contents('dist'));
SET search_path = plain; :t8 INSERT INTO oracle.state VALUES (8, 'plain', oracle.contents('plain'));
SET search_path = dist; :t8 INSERT INTO oracle.state VALUES (8, 'dist', oracle.contents('dist'));
SET search_path = plain; :t9 INSERT INTO oracle.state VALUES (9, 'plain', oracle.contents('plain'));
SET search_path = dist; :t9 INSERT INTO oracle.state VALUES (9, 'dist', oracle.contents('dist'));
SET search_path = plain; :t10 INSERT INTO oracle.state VALUES (10, 'plain', oracle.contents('plain'));
SET search_path = dist; :t10 INSERT INTO oracle.state VALUES (10, 'dist', oracle.contents('dist'));
SET search_path = oracle;

-- COPY in, and what COPY out gives
COPY plain.customers FROM stdin WITH (FORMAT csv);
us-east,1,"with, comma",1.5
eu-west,2,,
asia,3,"two
lines",-3
us-west,4,ünï,0
\.
COPY dist.customers FROM stdin WITH (FORMAT csv);
us-east,1,"with, comma",1.5
eu-west,2,,
asia,3,"two
lines",-3
us-west,4,ünï,0
\.
COPY (SELECT * FROM plain.customers ORDER BY id) TO stdout;
COPY (SELECT * FROM dist.customers ORDER BY id) TO stdout;
COPY plain.keyless (n, k) FROM stdin;
10	1
11	\N
12	-4
\.
COPY dist.keyless (n, k) FROM stdin;
10	1
11	\N
12	-4
\.
COPY plain.keyless FROM stdin WHERE n > 20;
5	five	20
6	six	21
\.
COPY dist.keyless FROM stdin WHERE n > 20;
5	five	20
6	six	21
\.
INSERT INTO state VALUES (11, 'plain', contents('plain')), (11, 'dist', contents('dist'));

-- 5. every row is in the shard its key says, and on no other ---------------------------------

SELECT count(*) AS misplaced FROM dist.users WHERE tableoid::regclass::text <> 'dbscale_shards.users_' || dbscale.shard_for('dist.users', id);
SELECT count(*) AS misplaced FROM dist.keyless WHERE tableoid::regclass::text <> 'dbscale_shards.keyless_' || dbscale.shard_for('dist.keyless', k);
SELECT count(*) AS misplaced FROM dist.tenants WHERE tableoid::regclass::text <> 'dbscale_shards.tenants_' || dbscale.shard_for('dist.tenants', tenant);
SELECT count(*) AS misplaced FROM dist.events WHERE tableoid::regclass::text <> 'dbscale_shards.events_' || dbscale.shard_for('dist.events', day);
SELECT count(*) AS misplaced FROM dist.customers WHERE tableoid::regclass::text <> 'dbscale_shards.customers_' || dbscale.shard_for('dist.customers', region);

-- 6. the verdict -----------------------------------------------------------------------------

SELECT id, what, sql, plain, dist FROM difference ORDER BY id, what;
SELECT a.id AS different_transaction FROM state a JOIN state b USING (id) WHERE a.s = 'plain' AND b.s = 'dist' AND a.tables <> b.tables ORDER BY 1;
SELECT count(*) > 200 AS enough, count(*) AS statements, count(plain) AS compared, (SELECT count(*) FROM difference) AS differences, (SELECT count(DISTINCT id) FROM state) AS transactions FROM statement;
-- a comparison that cannot fail proves nothing: one row changed on one side is seen
UPDATE dist.users SET score = score + 1 WHERE id = 1;
SELECT contents('plain') <> contents('dist') AS seen;

DROP SCHEMA dist CASCADE;
DROP SCHEMA plain CASCADE;
DROP SCHEMA oracle CASCADE;
SELECT dbscale.remove_node('oracle_1'), dbscale.remove_node('oracle_2');
