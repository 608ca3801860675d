--
-- What an audit found: the same statements over plain tables are the oracle.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
SELECT dbscale.add_local_node('audit_a');
SELECT dbscale.add_local_node('audit_b');
CREATE SCHEMA audit;
SET search_path = audit;
CREATE TABLE users (id bigint PRIMARY KEY, name text);
SELECT dbscale.distribute_table('users', 'id', shard_count => 4);
INSERT INTO users SELECT i, 'name ' || i % 3 FROM generate_series(1, 10) i;
CREATE TABLE wide (k int, id int, f float8, b bytea, p point, ta text[], x xml);
SELECT dbscale.distribute_table('wide', 'k', shard_count => 4);
INSERT INTO wide SELECT i % 4, i, i / 3.0, decode(lpad(to_hex(i * 7919), 8, '0'), 'hex'), point(i, i / 3.0), ARRAY['x' || i, NULL],
	('<a>' || i || '</a>')::xml FROM generate_series(1, 6) i;
RESET client_min_messages;

-- nobody may have the planner's placeholder scanned for a task of his own: neither by a
-- call nor by a function that is inlined
CREATE ROLE audit_eve;
GRANT USAGE, CREATE ON SCHEMA audit TO audit_eve;
SELECT 'users'::regclass::oid AS users \gset
SELECT format('(1 (o %1$s) (o %1$s) (o 0) 0 1 (o 10) 0 <> ("\ SELECT\ name\ FROM\ " "\ users") (i 0) <> <> (o %1$s) (i 2) <> 0 0 0 "\1000" "whole\ rows" <>)',
	:users) AS task \gset
SET ROLE audit_eve;
SELECT name FROM dbscale.shard_rows(:'task', NULL::text) AS t(name text);
CREATE FUNCTION stolen() RETURNS TABLE (name text) LANGUAGE sql STABLE AS
	$$ SELECT t.name FROM dbscale.shard_rows('(1 2', NULL::text) AS t(name text) $$;
SELECT * FROM stolen();
SELECT name FROM dbscale.shard_rows(repeat('0', 32) || :'task', NULL::text) AS t(name text);
RESET ROLE;
DO $$ BEGIN PERFORM * FROM dbscale.shard_rows('(1 2', NULL::text) AS t(name text);
EXCEPTION WHEN feature_not_supported THEN RAISE NOTICE '%', sqlerrm; END $$;

-- what is printed by the session's settings is printed here
SET bytea_output = escape;
SET extra_float_digits = -5;
SET xmlbinary = hex;
SELECT b, b::text, f::text, f || ' x', p::text, xmlelement(name b, b) FROM wide WHERE k = 2 ORDER BY id;
SELECT max(b::text), max(f::text) FROM wide WHERE id < 3;
EXPLAIN (VERBOSE, COSTS OFF) SELECT id FROM wide WHERE f::text = '1';
RESET bytea_output;
RESET extra_float_digits;
RESET xmlbinary;

-- text from a node is read as the node wrote it
SET array_nulls = off;
SELECT ta, ta[2] IS NULL FROM wide WHERE k = 2 ORDER BY id;
RESET array_nulls;
INSERT INTO wide (k, x) VALUES (9, 'no document');
SET xmloption = document;
SELECT x FROM wide WHERE k = 9;
SELECT count(x) FROM wide;
RESET xmloption;

-- nor is a string's backslash taken as this session takes it
SET escape_string_warning = off;
SET standard_conforming_strings = off;
SELECT count(*) FROM users WHERE name ~ 'name\\s1';
SELECT name FROM users WHERE id = 1 AND name ~ 'name\\s1';
RESET standard_conforming_strings;
RESET escape_string_warning;

-- a recursion's rows can be read in one place only
WITH RECURSIVE r AS (SELECT id, 0 AS depth FROM users WHERE id < 3
	UNION ALL (WITH x AS NOT MATERIALIZED (SELECT * FROM r WHERE depth < 2)
		SELECT a.id + b.id, a.depth + 1 FROM x a JOIN x b ON a.id <= b.id JOIN users u ON u.id = a.id))
SELECT count(*) FROM r;

-- a recursion within one key is one shard's; one that leaves it is not
CREATE TABLE comments (user_id bigint, id int, parent int, PRIMARY KEY (user_id, id));
SELECT dbscale.distribute_table('comments', 'user_id', colocate_with => 'users');
INSERT INTO comments SELECT u, i, NULLIF(i / 2, 0) FROM generate_series(1, 3) u, generate_series(1, 6) i;
EXPLAIN (COSTS OFF) WITH RECURSIVE tree AS (SELECT user_id, id, 1 AS depth FROM comments WHERE user_id = 3 AND parent IS NULL
	UNION ALL SELECT c.user_id, c.id, depth + 1 FROM tree t JOIN comments c ON c.user_id = t.user_id AND c.parent = t.id)
SELECT depth, count(*), min(u.name) FROM tree JOIN users u ON u.id = user_id GROUP BY depth;
WITH RECURSIVE tree AS (SELECT user_id, id, 1 AS depth FROM comments WHERE user_id = 3 AND parent IS NULL
	UNION ALL SELECT c.user_id, c.id, depth + 1 FROM tree t JOIN comments c ON c.user_id = t.user_id AND c.parent = t.id)
SELECT depth, count(*), min(u.name) FROM tree JOIN users u ON u.id = user_id GROUP BY depth ORDER BY depth;
WITH RECURSIVE tree AS (SELECT user_id, id, 1 AS depth FROM comments WHERE user_id = 1 AND parent IS NULL
	UNION ALL SELECT c.user_id + 1, c.id, depth + 1 FROM tree t JOIN comments c ON c.user_id = t.user_id AND c.id = t.id WHERE depth < 4)
SELECT t.*, u.id FROM tree t JOIN users u ON u.id = t.user_id ORDER BY depth;

-- beside WITH and set-returning functions tables are read by one statement a node
EXPLAIN (COSTS OFF) WITH early AS MATERIALIZED (SELECT id FROM users WHERE id < 4)
SELECT e.id, c.id FROM early e JOIN comments c ON c.user_id = e.id WHERE c.parent > 1;
EXPLAIN (VERBOSE, COSTS OFF) SELECT unnest(ARRAY[id, id + 1]), name FROM users WHERE id < 4;

-- operators of one's own are not the node's, whatever function they have
CREATE OPERATOR < (LEFTARG = text, RIGHTARG = text, FUNCTION = text_gt);
CREATE OPERATOR <# (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = int8gt);
CREATE OPERATOR ># (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = int8lt);
CREATE FUNCTION down(bigint, bigint) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT btint8cmp($2, $1)';
CREATE OPERATOR CLASS down FOR TYPE bigint USING btree AS OPERATOR 1 <#, OPERATOR 3 =, OPERATOR 5 >#, FUNCTION 1 down(bigint, bigint);
SELECT min(id), max(id) FROM users WHERE name OPERATOR(audit.<) 'name 1';
SELECT id FROM users WHERE id = 3 AND name OPERATOR(audit.<) ANY (ARRAY['name 2', 'name 1']);
SELECT id FROM users ORDER BY id USING <# LIMIT 3;
SELECT id, rank() OVER (PARTITION BY id ORDER BY id USING <#) FROM users WHERE id < 3 ORDER BY id USING >#;
SELECT array_agg(id ORDER BY id USING <#) FROM users WHERE id = 3;
DROP OPERATOR audit.< (text, text);

-- a key that is compared with what its type cannot hold equals nothing
SELECT count(*) FROM wide WHERE k = 99999999999;
SELECT id FROM wide WHERE k IN (3, 99999999999) ORDER BY id;
PREPARE of_key(bigint) AS SELECT count(*) FROM wide WHERE k = $1;
EXECUTE of_key(-99999999999);
MERGE INTO wide w USING (VALUES (99999999999, 1), (2, 2)) v (k, id) ON w.k = v.k AND w.id = v.id WHEN MATCHED THEN UPDATE SET f = 0;

-- a subquery that is not asked for may not fail
SELECT count(CASE WHEN id < 0 THEN (SELECT w.id FROM wide w) END), count(coalesce(id, (SELECT w.id FROM wide w))) FROM users;

-- an expression that no row asks for may not fail: the same over plain tables
CREATE TABLE lazy (k int, v int, w int, PRIMARY KEY (k, v));
INSERT INTO lazy SELECT i % 4, i, NULLIF(i % 3, 1) FROM generate_series(1, 12) i;
CREATE TABLE lazy_plain AS TABLE lazy;
ALTER TABLE lazy_plain ADD PRIMARY KEY (k, v);
SELECT dbscale.distribute_table('lazy', 'k', shard_count => 4);
CREATE FUNCTION fails(int) RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN RAISE division_by_zero; END $$;
CREATE FUNCTION fails_always(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE division_by_zero; END $$;
CREATE FUNCTION asked(statement text, arguments text DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE answers text[]; answer text; t text; mode text;
BEGIN
	FOREACH mode IN ARRAY '{force_custom_plan,force_generic_plan}'::text[] LOOP
		PERFORM set_config('plan_cache_mode', mode, true);
		answers := NULL;
		FOREACH t IN ARRAY '{lazy_plain,lazy}'::text[] LOOP
			BEGIN
				EXECUTE 'PREPARE lazily' || CASE WHEN arguments IS NULL THEN '' ELSE '(int)' END || ' AS ' || format(statement, t);
				IF statement ~ '^(UPDATE|INSERT|DELETE|MERGE)' AND statement !~ 'RETURNING' THEN
					EXECUTE 'EXECUTE lazily' || coalesce('(' || arguments || ')', '');
					EXECUTE format('SELECT string_agg(l::text, '' '' ORDER BY k, v) FROM %I l', t) INTO answer;
				ELSE
					EXECUTE format('CREATE TEMP TABLE answer (line text)');
					FOR answer IN EXECUTE 'EXECUTE lazily' || coalesce('(' || arguments || ')', '') LOOP
						INSERT INTO answer VALUES (answer);
					END LOOP;
					SELECT coalesce(string_agg(line, ' ' ORDER BY line), 'none') FROM answer INTO answer;
					DROP TABLE answer;
				END IF;
				DEALLOCATE lazily;
				-- undo
				RAISE EXCEPTION USING errcode = 'P0099', message = answer;
			EXCEPTION WHEN SQLSTATE 'P0099' THEN answers := answers || sqlerrm;
			WHEN OTHERS THEN answers := answers || (SQLSTATE || ' ' || sqlerrm);
			END;
			BEGIN DEALLOCATE lazily; EXCEPTION WHEN OTHERS THEN NULL; END;
		END LOOP;
		IF answers[1] IS DISTINCT FROM answers[2] THEN
			RETURN format('%s: %s, not %s', mode, answers[2], answers[1]);
		END IF;
	END LOOP;
	RETURN answers[1];
END $$;
SELECT statement, arguments, asked(statement, arguments) FROM (VALUES
	-- arms of CASE
	(1, 'SELECT v, CASE WHEN v < 0 THEN fails(1) ELSE 1 END FROM %I WHERE k = 1', NULL),
	(2, 'SELECT CASE WHEN v > 0 THEN v ELSE fails(1) END FROM %I', NULL),
	(3, 'SELECT CASE WHEN v > 0 THEN v WHEN fails(1) > 0 THEN 0 END FROM %I WHERE k = 1', NULL),
	(4, 'SELECT CASE v WHEN fails(1) THEN 1 END FROM %I WHERE k = 1 AND v < 0', NULL),
	(5, 'SELECT v, CASE WHEN $1 = 0 THEN v ELSE 10 / $1 + v END FROM %I WHERE k = 1', '0'),
	(6, 'SELECT v, CASE WHEN $1 = 0 THEN v ELSE 10 / $1 + v END FROM %I WHERE k = 1', '2'),
	(7, 'SELECT v, CASE WHEN $1 = 0 THEN v ELSE 10 / $1 END FROM %I WHERE k = 1', '0'),
	(8, 'SELECT v, CASE WHEN $1 = 0 THEN v ELSE fails($1) END FROM %I', '0'),
	(9, 'SELECT v, CASE WHEN $1 = 0 THEN 1 ELSE fails($1) END FROM %I WHERE k = 1', '0'),
	(10, 'SELECT CASE WHEN v < 0 THEN current_setting(''no.such'') ELSE ''no'' END FROM %I WHERE k = 1', NULL),
	(11, 'SELECT CASE WHEN v < 0 THEN fails_always(1) ELSE 1 END FROM %I WHERE k = 1', NULL),
	-- COALESCE, AND, OR
	(20, 'SELECT coalesce(v, fails(1)) FROM %I WHERE k = 1', NULL),
	(21, 'SELECT coalesce(w, fails(1)) FROM %I WHERE k = 1', NULL),
	(22, 'SELECT v > 0 OR fails(1) > 0, v < 0 AND fails(1) > 0 FROM %I WHERE k = 1', NULL),
	(23, 'SELECT $1 = 0 OR fails($1) > 0, v FROM %I WHERE k = 1', '0'),
	(24, 'SELECT v FROM %I WHERE k = 1 AND ($1 = 0 OR v > 10 / $1)', '0'),
	(25, 'SELECT v FROM %I WHERE k = 1 AND ($1 = 0 OR v > 10 / $1)', '2'),
	(26, 'SELECT v FROM %I WHERE k = 1 AND $1 <> 0 AND v > 10 / $1', '0'),
	(27, 'SELECT v FROM %I WHERE k = 1 AND ($1 = 0 OR v > fails($1))', '0'),
	(28, 'SELECT v FROM %I WHERE $1 = 0 OR v > fails($1)', '0'),
	(29, 'SELECT v FROM %I WHERE k = 1 AND (v > 0 OR fails(1) + v > 3)', NULL),
	(30, 'SELECT count(*) FROM %I WHERE k = 1 AND v > fails(1)', NULL),
	-- no row, no group
	(40, 'SELECT fails(1) FROM %I WHERE k = 1 AND v < 0', NULL),
	(41, 'SELECT fails(1) FROM %I WHERE k = 1', NULL),
	(42, 'SELECT fails(1), v FROM %I WHERE v < 0', NULL),
	(43, 'SELECT sum(fails(1)), count(*) FROM %I WHERE k = 1 AND v < 0', NULL),
	(44, 'SELECT count(*) FILTER (WHERE v > fails(1)), count(*) FROM %I WHERE v < 0', NULL),
	(45, 'SELECT v FROM %I WHERE v < 0 GROUP BY k, v HAVING count(*) > 0 OR fails(1) > 0', NULL),
	(46, 'SELECT sum(CASE WHEN v > 0 THEN v ELSE fails(1) END) FROM %I', NULL),
	(47, 'SELECT sum(v) FILTER (WHERE v > 0 OR v > fails(1)) FROM %I', NULL),
	(48, 'SELECT (SELECT fails(1)) FROM %I WHERE k = 1 AND v < 0', NULL),
	-- subqueries of several rows
	(50, 'SELECT count(*) FROM %1$I WHERE v > 0 OR v = (SELECT x.v FROM %1$I x)', NULL),
	(51, 'SELECT count(*) FROM %1$I WHERE v < 0 OR v = (SELECT x.v FROM %1$I x)', NULL),
	(52, 'SELECT v > 0 OR v = (SELECT x.v FROM %1$I x) FROM %1$I', NULL),
	(53, 'SELECT count(*) FROM %1$I WHERE v < 0 OR v = (SELECT max(x.v) FROM %1$I x)', NULL),
	-- writes
	(60, 'UPDATE %I SET w = CASE WHEN v < 0 THEN fails(1) ELSE 7 END WHERE k = 1', NULL),
	(61, 'UPDATE %I SET w = coalesce(v, fails(1))', NULL),
	(62, 'UPDATE %I SET w = CASE WHEN $1 = 0 THEN v ELSE 10 / $1 END WHERE k = 1', '0'),
	(63, 'DELETE FROM %I WHERE k = 1 AND CASE WHEN v > 0 THEN v < 5 ELSE fails(1) > 0 END', NULL),
	(64, 'DELETE FROM %I WHERE k = 1 AND v < 0 RETURNING fails(1)', NULL),
	(65, 'INSERT INTO %I VALUES (1, 100, CASE WHEN $1 = 0 THEN 0 ELSE fails($1) END)', '0'),
	(66, 'INSERT INTO %I VALUES (1, $1 + 200, CASE WHEN $1 = 0 AND 1 / $1 = 1 THEN 0 END), (2, 100, coalesce($1, fails($1)))', '1'),
	(67, 'INSERT INTO %1$I SELECT k, v + 100, CASE WHEN v > 0 THEN v ELSE fails(1) END FROM %1$I', NULL),
	(68, 'INSERT INTO %I VALUES (1, 1, 1) ON CONFLICT (k, v) DO UPDATE SET w = CASE WHEN $1 = 0 THEN 3 ELSE EXCLUDED.w / $1 END', '0'),
	(69, 'INSERT INTO %I AS l VALUES (1, 1, 1) ON CONFLICT (k, v) DO UPDATE SET w = CASE WHEN $1 = 0 THEN l.v ELSE 10 / $1 END', '0'),
	(70, 'MERGE INTO %I l USING (VALUES (1, 1), (2, 2)) n (k, v) ON l.k = n.k AND l.v = n.v WHEN MATCHED AND $1 = 0 OR l.v > 10 / $1 THEN UPDATE SET w = 9', '0')
) s (n, statement, arguments) ORDER BY n;
-- what cannot fail goes to the nodes as before
EXPLAIN (COSTS OFF, VERBOSE) SELECT CASE WHEN v > 0 THEN now() - interval '1 day' END, coalesce(w::text, current_user)
FROM lazy WHERE k = 1 AND (v > 3 OR w > 0 AND date_trunc('day', now()) > '2020-01-01');
EXPLAIN (COSTS OFF, VERBOSE) SELECT v FROM lazy WHERE k = 1 AND (w = 3 OR w = fails(1));

-- what each node did, in all formats
CREATE FUNCTION explain_nodes(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$ DECLARE line text; BEGIN
	FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || statement LOOP
		IF line ~ '^ *(Strategy|Nodes?|Shards?)' THEN RETURN NEXT line; END IF;
	END LOOP; END $$;
SELECT explain_nodes('SELECT * FROM users WHERE id = 3');
SELECT explain_nodes('SELECT name FROM users WHERE id IN (3, 4, 5)');
SELECT explain_nodes('UPDATE users SET name = name WHERE id < 6');
SELECT explain_nodes('INSERT INTO users VALUES (3, ''x''), (4, ''y'') ON CONFLICT (id) DO UPDATE SET name = users.name RETURNING id');
EXPLAIN (COSTS OFF) DELETE FROM users WHERE id IN (3, 4, 5) AND name = '';
CREATE FUNCTION explain_json(statement text) RETURNS json LANGUAGE plpgsql AS $$ DECLARE result json;
BEGIN EXECUTE 'EXPLAIN (ANALYZE, VERBOSE, COSTS OFF, FORMAT JSON) ' || statement INTO result; RETURN result->0->'Plan'; END $$;
SELECT p->'Node', p->'Shard', r->'Node', r->'Rows', r->'Bytes', (r->>'Time')::float > 0
FROM explain_json('SELECT * FROM users WHERE id = 3') p, json_array_elements(p->'Node Results') r;
SELECT p->'Strategy', p->'Shards', r->'Node', r->'Rows', r->'Bytes', (r->>'Time')::float > 0
FROM explain_json('SELECT * FROM users') p, json_array_elements(p->'Node Results') r;
SELECT p->'Strategy', p->'Shards', r->'Node', r->'Rows', r->'Bytes', (r->>'Time')::float > 0
FROM explain_json('UPDATE users SET name = name') p, json_array_elements(p->'Node Results') r;

-- ANALYZE: nodes analyze their shards, one sample is taken of all, and partitions need none
CREATE TABLE sampled (k bigint, v int, t text, n numeric);
SELECT dbscale.distribute_table('sampled', 'k', shard_count => 4);
INSERT INTO sampled SELECT i, i % 50, 'text ' || i % 10, NULL FROM generate_series(1, 40000) i;
ANALYZE sampled;
SELECT attname, inherited, round(n_distinct::numeric, 1), null_frac FROM pg_stats WHERE tablename = 'sampled' ORDER BY attname;
SELECT count(*) FROM pg_stats WHERE schemaname = 'dbscale_shards' AND tablename LIKE 'sampled_%';
SELECT sum(reltuples), min(relpages) > 10 FROM pg_class WHERE relname LIKE 'sampled__' AND relkind = 'f';
SELECT reltuples FROM pg_class WHERE oid = 'sampled'::regclass;
SELECT node, result FROM dbscale.run_on_nodes($$SELECT count(*) FROM pg_stats WHERE tablename LIKE 'sampled_%'$$) ORDER BY 1;
-- a shard that is read as a foreign table has the parent's statistics
CREATE FUNCTION estimated_rows(statement text) RETURNS float LANGUAGE plpgsql AS $$ DECLARE result json;
BEGIN EXECUTE 'EXPLAIN (FORMAT JSON) ' || statement INTO result; RETURN result->0->'Plan'->>'Plan Rows'; END $$;
SELECT estimated_rows('SELECT s FROM sampled s WHERE v = 7') BETWEEN 600 AND 1000;
DELETE FROM sampled WHERE k > 100;
ANALYZE sampled (v);
SELECT reltuples FROM pg_class WHERE oid = 'sampled'::regclass;
VACUUM ANALYZE sampled;
BEGIN;
ANALYZE sampled;
ROLLBACK;
-- of a table that is another's it is skipped, with a warning that differs by version
SET client_min_messages = error;
SET ROLE audit_eve;
ANALYZE sampled;
RESET ROLE;
RESET client_min_messages;

-- it tells nothing to whom the table is closed
SET ROLE audit_eve;
EXPLAIN (VERBOSE) SELECT * FROM users WHERE id = 3;
EXPLAIN (VERBOSE) SELECT count(*) FROM users;
EXPLAIN (VERBOSE) DELETE FROM users;
EXPLAIN (VERBOSE) SELECT u FROM users u;
RESET ROLE;

-- dropped columns, before and after: shards count the others otherwise
CREATE TABLE d (j text, k int, l int, id int, a text, v int, m date, PRIMARY KEY (k, id));
ALTER TABLE d DROP COLUMN j, DROP COLUMN l;
CREATE TABLE plain_d (LIKE d INCLUDING ALL);
SELECT dbscale.distribute_table('d', 'k', shard_count => 4);
ALTER TABLE d DROP COLUMN m;
ALTER TABLE d ADD COLUMN w text DEFAULT 'w';
ALTER TABLE plain_d DROP COLUMN m, ADD COLUMN w text DEFAULT 'w';
CREATE FUNCTION on_both(statement text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	EXECUTE format(statement, 'd'); EXECUTE format(statement, 'plain_d'); END $$;
SELECT on_both(u) FROM unnest(ARRAY[
	$$INSERT INTO %1$I SELECT i %% 5, i, 'a' || i %% 3, i FROM generate_series(1, 20) i$$,
	$$INSERT INTO %1$I VALUES (1, 1, 'x', 2) ON CONFLICT (k, id) DO UPDATE SET a = excluded.a || %1$I.a, v = %1$I.v + excluded.v WHERE %1$I.w = 'w'$$,
	$$INSERT INTO %1$I AS t (w, id, k) VALUES ('n', 30, 1), ('u', 1, 1) ON CONFLICT (k, id) DO UPDATE SET (w, a) = (t.w || excluded.w, t.a || '!')$$,
	$$UPDATE %1$I SET a = w || a, v = v + 1 WHERE k = 2$$,
	$$UPDATE %1$I t SET w = o.a FROM %1$I o WHERE o.k = t.k AND o.id = t.id + 5 AND t.v > 3$$,
	$$UPDATE %1$I t SET (a, w) = (SELECT max(a), min(w) FROM %1$I o WHERE o.k = t.k) WHERE id = 4$$,
	$$MERGE INTO %1$I t USING (VALUES (1, 1, 'm'), (3, 33, 'i')) s (k, id, w) ON t.k = s.k AND t.id = s.id WHEN MATCHED THEN UPDATE SET w = s.w WHEN NOT MATCHED THEN INSERT (k, id, w) VALUES (s.k, s.id, s.w)$$,
	$$INSERT INTO %1$I (k, id, w) SELECT k, id + 100, a FROM %1$I WHERE v > 10$$,
	$$WITH gone AS (DELETE FROM %1$I WHERE k = 3 RETURNING *) INSERT INTO %1$I SELECT 3, id + 500, w, v, a FROM gone WHERE k = 3$$,
	$$DELETE FROM %1$I WHERE k = 4 AND w <> a$$]) WITH ORDINALITY x (u, n) ORDER BY n;
SELECT count(*), (SELECT count(*) FROM (SELECT * FROM d EXCEPT SELECT * FROM plain_d) x) AS other FROM d;
EXPLAIN (VERBOSE, COSTS OFF) INSERT INTO d VALUES (1, 1) ON CONFLICT (k, id) DO UPDATE SET w = excluded.w;

-- an enum is set and compared on the nodes by its labels; what needs its order is not
SELECT count(*) FROM dbscale.run_on_nodes('CREATE SCHEMA audit');
SELECT count(*) FROM dbscale.run_on_nodes($$CREATE TYPE audit.state AS ENUM ('new', 'paid', 'gone')$$);
CREATE TYPE state AS ENUM ('new', 'paid', 'gone');
CREATE TABLE orders (k int, id int, s state, PRIMARY KEY (k, id));
SELECT dbscale.distribute_table('orders', 'k', shard_count => 4);
INSERT INTO orders SELECT i % 4, i, (enum_range(NULL::state))[1 + i % 3] FROM generate_series(1, 12) i;
EXPLAIN (COSTS OFF) UPDATE orders SET s = 'paid' WHERE k = 1 AND s = 'new';
PREPARE pay(state, int) AS UPDATE orders SET s = $1 WHERE k = $2 AND s IN ('new', $1) RETURNING id, s;
EXPLAIN (COSTS OFF) EXECUTE pay('paid', 1);
EXECUTE pay('paid', 1);
EXPLAIN (VERBOSE, COSTS OFF) SELECT count(*) FROM orders WHERE s IN ('new', 'gone');
SELECT count(*) FROM orders WHERE s IN ('new', 'gone');
INSERT INTO orders VALUES (1, 1, 'new'), (2, 2, 'new') ON CONFLICT (k, id) DO UPDATE SET s = 'gone' WHERE orders.s <> 'gone' RETURNING *;
INSERT INTO orders VALUES (1, 1, 'new') ON CONFLICT (k, id) DO UPDATE SET s = 'new' RETURNING s;
EXPLAIN (VERBOSE, COSTS OFF) SELECT id FROM orders WHERE k = 1 AND s > 'new';
SELECT s, count(*), min(s) FROM orders WHERE s > 'new' GROUP BY s ORDER BY s;
DROP TABLE orders;
SELECT count(*) FROM dbscale.run_on_nodes('DROP TYPE audit.state');
SELECT count(*) FROM dbscale.run_on_nodes('DROP SCHEMA audit');

-- writes through a view name its table once
CREATE VIEW early AS SELECT id, name FROM users WHERE id < 8;
CREATE VIEW earlier AS SELECT * FROM early WHERE id < 5;
UPDATE early SET name = 'of ' || name WHERE id = 3 RETURNING *;
UPDATE earlier e SET name = 'e' || e.name FROM users u WHERE u.id = e.id AND u.id IN (2, 4);
DELETE FROM early WHERE id = 1 RETURNING id;
DELETE FROM earlier e USING users u WHERE u.id = e.id AND u.name LIKE 'of %';
MERGE INTO users u USING early e ON u.id = e.id WHEN MATCHED AND u.id > 5 THEN UPDATE SET name = 'merged';
SELECT * FROM users ORDER BY id;

-- an UPDATE of generated columns only is no list of columns that a node could be given
CREATE TABLE made (k int PRIMARY KEY, v int, g int GENERATED ALWAYS AS (v * 2) STORED);
SELECT dbscale.distribute_table('made', 'k', shard_count => 4);
INSERT INTO made VALUES (1, 1), (2, 2), (3, 3);
UPDATE made SET g = DEFAULT WHERE k = 2 RETURNING g;
UPDATE made SET g = DEFAULT;
INSERT INTO made VALUES (1, 5), (2, 5) ON CONFLICT (k) DO UPDATE SET g = DEFAULT;

-- columns of the system: a row has no version here, and shards number their places alike
SELECT xmin FROM made WHERE k = 1;
UPDATE made SET v = 0 WHERE k = 1 AND xmin = '0';
DELETE FROM made WHERE ctid IN (SELECT ctid FROM made LIMIT 1);
SELECT id FROM early WHERE EXISTS (SELECT FROM made m WHERE EXISTS (SELECT FROM pg_class c WHERE c.ctid = m.ctid));
WITH one AS (DELETE FROM made WHERE (tableoid, ctid) = (SELECT tableoid, ctid FROM made ORDER BY k LIMIT 1 FOR UPDATE)
	RETURNING *, ctid IS NULL AS lost) SELECT * FROM one;
SELECT k, ctid IS NULL AS lost FROM made ORDER BY k;

-- what is computed here keeps its collation there, by which it is compared and made upper case
CREATE TABLE words (k int, id int, t text, c text COLLATE "C", PRIMARY KEY (k, id));
INSERT INTO words SELECT i % 3, i, w, w FROM unnest('{é,Öl,a,B,ß}'::text[]) WITH ORDINALITY x (w, i);
CREATE TABLE plain_words AS TABLE words;
ALTER TABLE plain_words ADD PRIMARY KEY (k, id);
SELECT dbscale.distribute_table('words', 'k', shard_count => 4);
CREATE FUNCTION same_words(statement text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE answer text; answers text[]; t text;
BEGIN
	FOREACH t IN ARRAY '{words,plain_words}'::text[] LOOP
		EXECUTE format('CREATE TEMP TABLE answer AS ' || statement, t);
		SELECT string_agg(a::text, ' ' ORDER BY a::text COLLATE "C") INTO STRICT answer FROM answer a;
		answers := answers || answer;
		DROP TABLE answer;
	END LOOP;
	RETURN answers[1] = answers[2];
END $$;
CREATE FUNCTION same_writes(statement text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format(statement, 'words');
	EXECUTE format(statement, 'plain_words');
	RETURN same_words('SELECT * FROM %1$I');
END $$;
SELECT statement, same_words(statement) FROM (VALUES
	(1, 'SELECT upper(t || current_user::text) AS u FROM %1$I'),
	(2, 'SELECT upper(t || current_user::text) AS u FROM %1$I WHERE k = 1'),
	(3, 'SELECT upper(coalesce(t || ''é'', current_user::text)) AS u, count(*) FROM %1$I GROUP BY 1'),
	(4, 'SELECT id FROM %1$I WHERE upper(t || current_user::text) = ''é'' || upper(current_user::text)'),
	(5, 'SELECT id FROM %1$I WHERE upper(t || (SELECT max(c) FROM %1$I)) < ''Ö'''),
	(6, 'SELECT id FROM %1$I WHERE upper(t || current_user::text) COLLATE "POSIX" < current_user::text'),
	(7, 'SELECT x.id, upper(x.t || y.c) AS u FROM %1$I x JOIN (SELECT id, c FROM %1$I WHERE k = 1) y ON x.id = y.id + 1'),
	(8, 'SELECT id FROM %1$I WHERE k = 1 AND (upper(t || current_user::text), id) > (''Ö'', 1)')
) s (n, statement) ORDER BY n;
SELECT statement, same_writes(statement) FROM (VALUES
	(1, 'UPDATE %1$I SET t = upper(t || current_user::text) WHERE k = 1'),
	(2, 'UPDATE %1$I SET t = upper(t || current_user::text) WHERE id < 4'),
	(3, 'INSERT INTO %1$I VALUES (1, 1, current_user::text, ''x''), (2, 2, ''é'', current_user)
		ON CONFLICT (k, id) DO UPDATE SET t = upper(excluded.t || ''é'' || current_user::text)'),
	(4, 'MERGE INTO %1$I w USING (SELECT 1 AS k, n AS id, (''é'' || n) COLLATE "C" AS c FROM generate_series(1, 9) n) s
		ON s.k = w.k AND s.id = w.id WHEN MATCHED THEN UPDATE SET t = upper(w.t || s.c)')
) s (n, statement) ORDER BY n;
EXPLAIN (VERBOSE, COSTS OFF) SELECT id FROM words WHERE k = 1 AND upper(t || current_user::text) = 'x' AND c < current_user::text;
DROP TABLE words;

SET client_min_messages = warning;
DROP SCHEMA audit CASCADE;
DROP ROLE audit_eve;
SELECT dbscale.remove_node('audit_a');
SELECT dbscale.remove_node('audit_b');
