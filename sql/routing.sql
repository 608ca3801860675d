-- Where a key's rows are: shard_for, core's pruning and tuple routing, and the nodes
-- themselves must agree, for every type of key, with and without directory entries.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
SELECT count(*) FROM (SELECT dbscale.add_local_node('routing_1'), dbscale.add_local_node('routing_2')) n;
CREATE SCHEMA routing;
SET search_path = routing;

-- A collation under which 'A' equals 'a', where the server has ICU; else "C" takes its place.
SELECT EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i') AS has_icu \gset
\if :has_icu
CREATE COLLATION public.dbscale_ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
SELECT count(*) FROM dbscale.run_on_nodes($$CREATE COLLATION public.dbscale_ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)$$);
\else
CREATE COLLATION public.dbscale_ci FROM "C";
SELECT count(*) FROM dbscale.run_on_nodes($$CREATE COLLATION public.dbscale_ci FROM "C"$$);
\endif

CREATE TABLE cases (name text PRIMARY KEY, type text, keys text);
INSERT INTO cases VALUES
('k_int2', 'int2', $$SELECT (g * 109)::int2 FROM generate_series(-300, 300) g UNION VALUES ((-32768)::int2), (32767::int2), (NULL)$$),
('k_int4', 'int4', $$SELECT (g * 7000001)::int4 FROM generate_series(-300, 300) g UNION VALUES ((-2147483648)::int4), (2147483647), (1), (NULL)$$),
('k_int8', 'int8', $$SELECT g * 700000000100001 FROM generate_series(-300, 300) g UNION VALUES ((-9223372036854775808)::int8), (9223372036854775807), (1), (-1), (42), (NULL)$$),
('k_text', 'text', $$SELECT 'key ' || g FROM generate_series(1, 300) g UNION VALUES (''), (' '), ('äöü'), (E'\t\n\\'), ('key'), ('KEY'), (NULL)$$),
('k_text_c', 'text COLLATE "C"', $$SELECT 'key ' || g FROM generate_series(1, 300) g UNION VALUES (''), (' '), ('äöü'), ('key'), ('KEY'), (NULL)$$),
('k_text_ci', 'text COLLATE public.dbscale_ci', $$SELECT CASE WHEN g % 2 = 0 THEN 'key ' ELSE 'KEY ' END || g FROM generate_series(1, 300) g UNION VALUES (''), ('Äöü'), ('Key'), (NULL)$$),
('k_varchar', 'varchar(30)', $$SELECT 'key ' || g FROM generate_series(1, 300) g UNION VALUES (''), (' '), ('äöü'), ('key'), (NULL)$$),
('k_char', 'char(12)', $$SELECT 'key ' || g FROM generate_series(1, 300) g UNION VALUES (''), ('äöü'), ('key'), (NULL)$$),
('k_uuid', 'uuid', $$SELECT md5(g::text)::uuid FROM generate_series(1, 300) g UNION VALUES ('00000000-0000-0000-0000-000000000000'::uuid), ('ffffffff-ffff-ffff-ffff-ffffffffffff'), (NULL)$$),
('k_numeric', 'numeric', $$SELECT g * 1.10 FROM generate_series(-300, 300) g UNION VALUES (0.000), (1e100), (-1e-100), ('NaN'), ('Infinity'), ('-Infinity'), (NULL)$$),
('k_date', 'date', $$SELECT date '2000-01-01' + g * 10 FROM generate_series(-300, 300) g UNION VALUES (date 'infinity'), ('-infinity'), ('4713-01-01 BC'), ('5874897-12-31'), (NULL)$$),
('k_timestamp', 'timestamp', $$SELECT timestamp '2000-01-01' + g * interval '10.123 hours' FROM generate_series(-300, 300) g UNION VALUES (timestamp 'infinity'), ('-infinity'), ('4713-01-01 BC'), (NULL)$$),
('k_timestamptz', 'timestamptz', $$SELECT timestamptz '2000-01-01' + g * interval '10.123 hours' FROM generate_series(-300, 300) g UNION VALUES (timestamptz 'infinity'), ('-infinity'), ('2000-06-01 00:00+14'), (NULL)$$),
('k_bytea', 'bytea', $$SELECT decode(md5(g::text), 'hex') FROM generate_series(1, 300) g UNION VALUES (bytea ''), ('\x00'), ('\x5c27'), (NULL)$$);

SELECT format('CREATE TABLE %I (k %s, v int)', name, type) FROM cases ORDER BY name \gexec
-- rows that come before and rows that come after the table is distributed
SELECT format('INSERT INTO %I SELECT k, row_number() OVER () FROM (%s) keys (k)', name, keys) FROM cases ORDER BY name \gexec
CREATE TABLE stays AS SELECT NULL::text AS name, NULL::int AS v, NULL::text AS key WHERE false;
SELECT format('INSERT INTO stays SELECT %L, v, k::text FROM %I', name, name) FROM cases \gexec
SELECT format('DELETE FROM %I WHERE v %% 2 = 0', name) FROM cases \gexec
SELECT count(*) FROM (SELECT dbscale.distribute_table(name::regclass, 'k', CASE WHEN name ~ 'int' THEN 'hash' ELSE 'directory' END, 8) FROM cases ORDER BY name) d;
SELECT format('INSERT INTO %I SELECT k, v FROM (SELECT k, row_number() OVER () AS v FROM (%s) keys (k)) x WHERE v %% 2 = 0', name, keys) FROM cases ORDER BY name \gexec

-- How a table's rows are placed: rows is what the nodes hold, the others count disagreements.
--   by_value, by_text: shard_for of the key, and of its text, against the row's partition
--   on_node: the row's partition against the shard of the node that the row is really in
--   lookup (of every third key): keys whose row is not found, alone, by an equality with the key as a parameter
--   pruned (of every twelfth): keys for which a plan over the key as a constant names another shard, or more than one
-- The join with a local table keeps the statement with core's planner, whose pruning is meant.
CREATE TABLE beside AS SELECT 1 AS one;
CREATE FUNCTION check_placement(name text, OUT rows bigint, OUT shards bigint, OUT by_value bigint,
                                OUT by_text bigint, OUT on_node bigint, OUT lookup bigint, OUT pruned bigint)
LANGUAGE plpgsql AS $$
DECLARE
    type text := (SELECT split_part(c.type, ' ', 1) FROM cases c WHERE c.name = check_placement.name);
    found bigint;
    r record;
    line text;
    plan text;
BEGIN
    EXECUTE format('CREATE TEMP TABLE placed ON COMMIT DROP AS SELECT k, v, '
                   'substring(tableoid::regclass::text, ''_([0-9]+)$'')::int AS shard FROM %I', name);
    EXECUTE format('SELECT count(*), count(DISTINCT shard), '
                   'count(*) FILTER (WHERE shard <> dbscale.shard_for(%1$L, k)), '
                   'count(*) FILTER (WHERE shard <> dbscale.shard_for(%1$L, k::text)) FROM placed', name)
        INTO rows, shards, by_value, by_text;
    SELECT count(*) INTO on_node
    FROM dbscale.run_on_shards(name::regclass, 'SELECT array_agg(v) FROM %s') n
    CROSS JOIN unnest(n.result::int[]) AS held (v)
    FULL JOIN placed p ON p.v = held.v
    WHERE p.shard IS DISTINCT FROM n.shard;
    lookup := 0;
    pruned := 0;
    FOR r IN SELECT k::text AS k, v, shard FROM placed WHERE k IS NOT NULL LOOP
        CONTINUE WHEN r.v % 3 <> 0;
        EXECUTE format('SELECT count(*) FROM %I t, beside WHERE t.k = $1::%s AND v = $2', name, type) INTO found USING r.k, r.v;
        lookup := lookup + (found <> 1)::int;
        CONTINUE WHEN r.v % 12 <> 0;
        plan := '';
        FOR line IN EXECUTE format('EXPLAIN (VERBOSE, COSTS OFF) SELECT v FROM %I t, beside WHERE t.k = %L::%s', name, r.k, type) LOOP
            plan := plan || line;
        END LOOP;
        SELECT count(DISTINCT m[1]) INTO found FROM regexp_matches(plan, name || '_([0-9]+)', 'g') m;
        pruned := pruned + (found <> 1 OR plan !~ (name || '_' || r.shard || '\M'))::int;
    END LOOP;
    DROP TABLE placed;
END $$;
SELECT c.name, p.* FROM cases c, check_placement(c.name) p ORDER BY c.name;

-- nothing was lost or changed
SELECT format('SELECT %L AS name, count(*) AS differences FROM (SELECT v, k::text AS key FROM %I) t FULL JOIN (SELECT * FROM stays WHERE name = %1$L) s USING (v) WHERE t.key IS DISTINCT FROM s.key', name, name) FROM cases ORDER BY name \gexec

-- the answer does not depend on the session
SET TimeZone = 'Asia/Tokyo';
SET DateStyle = 'SQL, DMY';
SET bytea_output = 'escape';
SELECT c.name, p.by_value, p.on_node, p.lookup FROM cases c, check_placement(c.name) p WHERE c.name ~ 'date|time|bytea' ORDER BY c.name;
RESET TimeZone;
RESET DateStyle;
RESET bytea_output;

-- untyped literals, other types, NULL
SELECT dbscale.shard_for('k_int8', '42') = dbscale.shard_for('k_int8', 42) AS literal,
       dbscale.shard_for('k_int8', 42) = dbscale.shard_for('k_int8', 42::int2) AS int2,
       dbscale.shard_for('k_int8', 42) = dbscale.shard_for('k_int4', 42) AS other_table,
       dbscale.shard_for('k_int8', NULL) AS "null",
       dbscale.shard_for('k_text', 'key'::varchar) = dbscale.shard_for('k_text', 'key') AS "varchar",
       dbscale.node_for('k_int8', 42) = dbscale.node_for('k_int8', '42') AS node,
       dbscale.node_for('k_int8', NULL) AS node_of_null;
-- equal keys are in one shard, however they are written
SELECT dbscale.shard_for('k_numeric', 1.1) = dbscale.shard_for('k_numeric', 1.100) AS numeric,
       dbscale.shard_for('k_char', 'key') = dbscale.shard_for('k_char', 'key   ') AS char,
       dbscale.shard_for('k_text_ci', 'key') = dbscale.shard_for('k_text_ci', 'KEY') OR NOT :'has_icu' AS collation,
       dbscale.shard_for('k_timestamptz', '2000-01-01 00:00+00') = dbscale.shard_for('k_timestamptz', '2000-01-01 09:00+09') AS timestamptz;

-- comparisons across types prune too
SELECT count(*) FROM k_int8 WHERE k = 42::int4;
SELECT count(*) FROM k_int8 WHERE k = 1::int2;
SELECT count(*) FROM k_int4 WHERE k = 1::int8;
SELECT count(*) FROM k_int8 a JOIN k_int4 b ON a.k = b.k;

-- the directory: some keys go two or three shards further, to the same node and to the other
CREATE FUNCTION assign_some(name text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    type text := (SELECT split_part(c.type, ' ', 1) FROM cases c WHERE c.name = assign_some.name);
    r record;
    n bigint := 0;
BEGIN
    FOR r IN EXECUTE format('SELECT k::text AS k, dbscale.shard_for(%L, k) AS shard FROM %I WHERE v %% 36 = 0 AND k IS NOT NULL', name, name) LOOP
        EXECUTE format('SELECT dbscale.assign_key(%L, %L::%s, %s)', name, r.k, type, (r.shard + CASE WHEN n % 2 = 0 THEN 3 ELSE 2 END) % 8);
        n := n + 1;
    END LOOP;
    RETURN n;
END $$;
SELECT name, assign_some(name) > 5 AS assigned FROM cases ORDER BY name;
SELECT c.name, p.* FROM cases c, check_placement(c.name) p ORDER BY c.name;
SELECT format('SELECT %L AS name, count(*) AS differences FROM (SELECT v, k::text AS key FROM %I) t FULL JOIN (SELECT * FROM stays WHERE name = %1$L) s USING (v) WHERE t.key IS DISTINCT FROM s.key', name, name) FROM cases ORDER BY name \gexec

-- new rows of these keys go where the directory says
SELECT format('INSERT INTO %I SELECT key::%s, v + 100000 FROM stays WHERE name = %L AND v %% 36 = 0', name, split_part(type, ' ', 1), name) FROM cases ORDER BY name \gexec
SELECT c.name, p.by_value, p.on_node FROM cases c, check_placement(c.name) p ORDER BY c.name;

-- plans that were made before follow: with the key as a parameter, and as a constant
CREATE TABLE posts (author bigint, id bigint, title text, words int GENERATED ALWAYS AS (length(title)) STORED, PRIMARY KEY (author, id));
CREATE TABLE comments (author bigint, post bigint, id bigint, body text, PRIMARY KEY (author, post, id));
SELECT dbscale.distribute_table('posts', 'author', 'directory', 4);
SELECT dbscale.distribute_table('comments', 'author', colocate_with => 'posts');
ALTER TABLE comments ADD CONSTRAINT comments_post_fkey FOREIGN KEY (author, post) REFERENCES posts ON DELETE CASCADE;
INSERT INTO posts SELECT a, i, 'post ' || i || E'\t\\ \n' FROM generate_series(1, 20) a, generate_series(1, 10) i;
INSERT INTO comments SELECT a, i, c, CASE WHEN c <> 2 THEN 'comment' END FROM generate_series(1, 20) a, generate_series(1, 10) i, generate_series(1, 3) c;
CREATE VIEW held AS
SELECT 'posts' AS relation, shard, result::bigint AS rows FROM dbscale.run_on_shards('posts', 'SELECT count(*) FROM %s WHERE author = 7')
UNION ALL
SELECT 'comments', shard, result::bigint FROM dbscale.run_on_shards('comments', 'SELECT count(*) FROM %s WHERE author = 7');
SET plan_cache_mode = force_generic_plan;
PREPARE by_parameter (bigint) AS SELECT count(*), sum(words), count(body) FROM posts JOIN comments ON comments.author = posts.author AND post = posts.id WHERE posts.author = $1;
PREPARE by_constant AS SELECT count(*), sum(words), count(body) FROM posts JOIN comments ON comments.author = posts.author AND post = posts.id WHERE posts.author = 7;
PREPARE one_table (bigint) AS SELECT count(*) FROM comments WHERE author = $1;
EXECUTE by_parameter (7);
EXECUTE by_constant;
EXECUTE one_table (7);
SELECT dbscale.shard_for('posts', 7) AS home \gset
SELECT count(*) AS rows_elsewhere FROM held WHERE shard <> :home AND rows <> 0;
SELECT dbscale.assign_key('posts', 7, (:home + 1) % 4);
SELECT relation, shard = (:home + 1) % 4 AS as_assigned, rows FROM held WHERE rows > 0 ORDER BY 1;
EXECUTE by_parameter (7);
EXECUTE by_constant;
EXECUTE one_table (7);
-- rolled back, in a savepoint and as a whole
BEGIN;
SAVEPOINT s;
SELECT dbscale.assign_key('comments', '7', (:home + 2) % 4);
EXECUTE by_parameter (7);
SELECT relation, shard = (:home + 2) % 4 AS as_assigned, rows FROM held WHERE rows > 0 ORDER BY 1;
ROLLBACK TO s;
EXECUTE by_constant;
INSERT INTO posts VALUES (7, 100, 'new');
SELECT dbscale.assign_key('comments', 7, (:home + 3) % 4);
EXECUTE by_parameter (7);
EXECUTE one_table (7);
ROLLBACK;
SELECT relation, shard = (:home + 1) % 4 AS as_assigned, rows FROM held WHERE rows > 0 ORDER BY 1;
EXECUTE by_constant;
-- back home: the entry is gone
SELECT sum(directory_keys) FROM dbscale.shards WHERE relation = 'posts'::regclass;
SELECT dbscale.assign_key('posts', 7::int2, :home);
SELECT sum(directory_keys) FROM dbscale.shards WHERE relation = 'posts'::regclass;
SELECT relation, shard = :home AS at_home, rows FROM held WHERE rows > 0 ORDER BY 1;
EXECUTE by_parameter (7);
EXECUTE one_table (7);
RESET plan_cache_mode;

-- range and list
CREATE TABLE events (day date, v int);
SELECT dbscale.distribute_table('events', 'day', 'range', step => '1 month', bounds => '{"from": "2026-01-01", "to": "2026-04-01"}');
CREATE TABLE customers (region text, v int);
SELECT dbscale.distribute_table('customers', 'region', 'list', bounds => '{"us": ["us-east", "us-west"], "eu": {"values": ["eu-west"], "node": "routing_2"}}');
SELECT dbscale.shard_for('events', '2026-01-01') AS first, dbscale.shard_for('events', date '2026-01-31') AS same,
       dbscale.shard_for('events', '2026-02-01') AS next, dbscale.shard_for('events', '2026-03-31') AS last;
SELECT dbscale.shard_for('customers', 'us-west') AS us, dbscale.shard_for('customers', 'eu-west') AS eu, dbscale.node_for('customers', 'eu-west') AS eu_node;

-- the views
SELECT relation, strategy, key, shard_count FROM dbscale.tables WHERE relation::text IN ('posts', 'comments', 'events', 'customers') ORDER BY relation::text;
SELECT relation, shard, node, bounds, directory_keys FROM dbscale.shards WHERE relation::text IN ('posts', 'events', 'customers') ORDER BY relation::text, shard;
SELECT count(*) FROM dbscale.run_on_shards('posts', 'ANALYZE %s');
SELECT relation, rows, bytes > 0 AS has_bytes FROM dbscale.tables WHERE relation::text IN ('posts', 'events') ORDER BY relation::text;
SELECT sum(rows) AS rows, bool_and(bytes > 0) AS have_bytes FROM dbscale.shards WHERE relation = 'posts'::regclass;
SELECT node, dbname <> '' AS dbname, state, shards > 0 AS has_shards, bytes > 0 AS has_bytes, replicas FROM dbscale.nodes WHERE node ~ '^routing' ORDER BY node;
-- anybody may look at them, and nobody sees the directory's keys
CREATE ROLE dbscale_routing_visitor;
GRANT USAGE ON SCHEMA routing TO dbscale_routing_visitor;
SET ROLE dbscale_routing_visitor;
SELECT count(*) > 0 AS ok FROM dbscale.shards WHERE directory_keys > 0;
SELECT count(*) > 0 AS ok FROM dbscale.tables;
SELECT count(*) > 0 AS ok FROM dbscale.nodes;
SELECT count(*) FROM dbscale.directory;
SELECT dbscale.shard_for('posts', 7) = :home AS ok;
SELECT dbscale.assign_key('posts', 7, 0);
RESET ROLE;
REVOKE USAGE ON SCHEMA routing FROM dbscale_routing_visitor;
DROP ROLE dbscale_routing_visitor;

-- a node that is disabled leaves its columns empty
SELECT dbscale.disable_node('routing_2');
SET client_min_messages = notice;
SELECT node, state, bytes IS NULL AS no_bytes, replicas FROM dbscale.nodes WHERE node ~ '^routing' ORDER BY node;
SET client_min_messages = warning;
SELECT dbscale.assign_key('posts', k, s) FROM generate_series(1, 20) k, generate_series(0, 3) s WHERE dbscale.node_for('posts', k) = 'routing_2' AND s <> dbscale.shard_for('posts', k) LIMIT 1;
SELECT dbscale.enable_node('routing_2');

-- what is refused
CREATE TABLE plain (k int);
SELECT dbscale.shard_for('plain', 1);
SELECT dbscale.shard_for('dbscale_shards.posts_0', 1);
SELECT dbscale.shard_for('k_int8', 'x');
SELECT dbscale.shard_for('k_int8', now());
SELECT dbscale.shard_for('k_int2', 100000);
SELECT dbscale.shard_for('events', '2027-01-01');
SELECT dbscale.shard_for('events', NULL);
SELECT dbscale.node_for('customers', 'mars');
SELECT dbscale.assign_key('plain', 1, 0);
SELECT dbscale.assign_key('events', '2026-01-01', 0);
SELECT dbscale.assign_key('posts', 7, 4);
SELECT dbscale.assign_key('posts', 7, -1);
SELECT dbscale.assign_key('posts', NULL, 1);
SELECT dbscale.assign_key('posts', 7, NULL);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT dbscale.assign_key('posts', 7, 1);
ROLLBACK;

-- a row of the directory that was written by hand is heard of
SELECT group_id AS posts_group FROM dbscale.distributed_table WHERE relation = 'posts'::regclass \gset
INSERT INTO dbscale.directory VALUES (:posts_group, '1000', 3);
SELECT dbscale.shard_for('posts', 1000);
UPDATE dbscale.directory SET shard = 2 WHERE key = '1000';
SELECT dbscale.shard_for('posts', 1000);
DELETE FROM dbscale.directory WHERE key = '1000';

SELECT count(*) FROM (SELECT dbscale.undistribute_table(relation) FROM dbscale.distributed_table t JOIN pg_class c ON c.oid = t.relation WHERE c.relnamespace = 'routing'::regnamespace ORDER BY relation = 'posts'::regclass) u;
DROP SCHEMA routing CASCADE;
SELECT count(*) FROM (SELECT dbscale.remove_node('routing_1'), dbscale.remove_node('routing_2')) n;
DROP COLLATION public.dbscale_ci;
