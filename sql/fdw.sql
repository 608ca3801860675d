-- dbscale_fdw: every way core can reach a shard, against plain tables with the same data
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
SELECT dbscale.add_local_node('fdw_1');
SELECT dbscale.add_local_node('fdw_2');

CREATE TABLE fdw_t (
    id int, gone int, k int NOT NULL, v text DEFAULT 'none',
    twice int GENERATED ALWAYS AS (k * 2) STORED,
    d date, iv interval, f float8, n numeric(10,2), j jsonb, a text[], b bytea,
    CONSTRAINT positive CHECK (k >= 0), PRIMARY KEY (id, k)
);
ALTER TABLE fdw_t DROP COLUMN gone;
SELECT dbscale.distribute_table('fdw_t', 'k', shard_count => 4);
CREATE TABLE fdw_p (LIKE fdw_t INCLUDING ALL);

-- the same rows must be in both; shows how many, or the rows that differ
CREATE FUNCTION fdw_same() RETURNS TABLE (rows bigint, missing bigint, extra bigint, misplaced bigint)
LANGUAGE sql AS $$
    SELECT (SELECT count(*) FROM fdw_t),
           (SELECT count(*) FROM (TABLE fdw_p EXCEPT ALL TABLE fdw_t) x),
           (SELECT count(*) FROM (TABLE fdw_t EXCEPT ALL TABLE fdw_p) x),
           (SELECT count(*) FROM fdw_t WHERE tableoid <> format('dbscale_shards.fdw_t_%s', dbscale.shard_for('fdw_t', k))::regclass)
$$;

-- INSERT: one row, a few, many; special values under unusual settings
INSERT INTO fdw_t (id, k) VALUES (1, 1);
INSERT INTO fdw_p (id, k) VALUES (1, 1);
SET datestyle = 'SQL, DMY'; SET intervalstyle = 'sql_standard'; SET extra_float_digits = 0;
INSERT INTO fdw_t VALUES (2, 2, E'tab\tnl\n\\.', DEFAULT, '03/04/2021', '-1 day +02:00', 1e-300/3, 1.005, '{"a": [1, null]}', '{"a,b",NULL,"\\"}', '\x00ff'),
    (3, 3, '', DEFAULT, 'infinity', '1 year', 'NaN', 'NaN', 'null', '{}', ''), (4, 4, '\N', DEFAULT, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO fdw_p VALUES (2, 2, E'tab\tnl\n\\.', DEFAULT, '03/04/2021', '-1 day +02:00', 1e-300/3, 1.005, '{"a": [1, null]}', '{"a,b",NULL,"\\"}', '\x00ff'),
    (3, 3, '', DEFAULT, 'infinity', '1 year', 'NaN', 'NaN', 'null', '{}', ''), (4, 4, '\N', DEFAULT, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT * FROM fdw_same();
SELECT id FROM fdw_t WHERE d = '03/04/2021' AND iv = '-1 day +02:00';
RESET datestyle; RESET intervalstyle; RESET extra_float_digits;
INSERT INTO fdw_t (id, k, v, d, f, j) SELECT i, i % 50, 'v' || i, date '2024-01-01' + i, i / 3.0, to_jsonb(i) FROM generate_series(5, 1000) i;
INSERT INTO fdw_p (id, k, v, d, f, j) SELECT i, i % 50, 'v' || i, date '2024-01-01' + i, i / 3.0, to_jsonb(i) FROM generate_series(5, 1000) i;
SELECT * FROM fdw_same();

-- COPY
COPY fdw_t (id, k, v) FROM stdin;
1001	1	a\tb
1002	2	\N
1003	3	
\.
COPY fdw_p (id, k, v) FROM stdin;
1001	1	a\tb
1002	2	\N
1003	3	
\.
SELECT * FROM fdw_same();

-- RETURNING, ON CONFLICT, errors
INSERT INTO fdw_t (id, k) VALUES (2001, 1), (2002, 2) RETURNING id, twice, v, tableoid::regclass IS NOT NULL AS has_table;
INSERT INTO fdw_t (id, k) VALUES (2003, 1) RETURNING ctid IS NOT NULL AS has_ctid, twice;
INSERT INTO fdw_t (id, k) VALUES (2003, 1), (2004, 4) ON CONFLICT DO NOTHING RETURNING id;
\set VERBOSITY terse
INSERT INTO fdw_t (id, k) VALUES (2005, 5), (2003, 1);
INSERT INTO fdw_t (id, k) VALUES (2005, -1);
INSERT INTO fdw_t (id, k) VALUES (2005, NULL);
INSERT INTO fdw_t (id, k) SELECT 3000 + i, 1 FROM generate_series(1, 20) i UNION ALL SELECT 2003, 1;
\set VERBOSITY default
INSERT INTO fdw_p (id, k) VALUES (2001, 1), (2002, 2), (2003, 1), (2004, 4);
SELECT * FROM fdw_same();

-- a row written to the wrong shard itself is refused
DO $$
DECLARE
    wrong int := (SELECT s FROM generate_series(0, 3) s WHERE s <> dbscale.shard_for('fdw_t', 7) LIMIT 1);
BEGIN
    EXECUTE format('INSERT INTO dbscale_shards.fdw_t_%s (id, k) VALUES (1, 7)', wrong);
EXCEPTION WHEN check_violation THEN
    RAISE WARNING 'refused: %', regexp_replace(sqlerrm, 't_\d', 't_N');
END $$;

-- UPDATE: on the shards, row by row, and moving rows to other shards
UPDATE fdw_t SET v = v || '!' WHERE id < 10;
UPDATE fdw_p SET v = v || '!' WHERE id < 10;
UPDATE fdw_t SET k = k + 1 WHERE id BETWEEN 20 AND 60;
UPDATE fdw_p SET k = k + 1 WHERE id BETWEEN 20 AND 60;
UPDATE fdw_t SET k = 49 - k, v = 'moved' WHERE id = 100 RETURNING id, k, twice, v;
UPDATE fdw_p SET k = 49 - k, v = 'moved' WHERE id = 100;
UPDATE fdw_t t SET f = x.id FROM generate_series(200, 210) x (id) WHERE t.id = x.id;
UPDATE fdw_p t SET f = x.id FROM generate_series(200, 210) x (id) WHERE t.id = x.id;
UPDATE fdw_t SET n = (SELECT max(id) FROM fdw_t) WHERE id BETWEEN 300 AND 310;
UPDATE fdw_p SET n = (SELECT max(id) FROM fdw_p) WHERE id BETWEEN 300 AND 310;
-- a subquery that reads the table again for each row sees it as it was before
UPDATE fdw_t t SET f = (SELECT sum(x.f) FROM fdw_t x WHERE x.k = t.k AND x.id <= t.id) WHERE f IS NOT NULL AND id < 300;
UPDATE fdw_p t SET f = (SELECT sum(x.f) FROM fdw_p x WHERE x.k = t.k AND x.id <= t.id) WHERE f IS NOT NULL AND id < 300;
-- a row that is met twice is written once
UPDATE fdw_t t SET v = t.v || '2' FROM (VALUES (210), (210), (211)) x (id) WHERE t.id = x.id;
UPDATE fdw_p t SET v = t.v || '2' FROM (VALUES (210), (210), (211)) x (id) WHERE t.id = x.id;
SELECT * FROM fdw_same();
SELECT * FROM (SELECT id, k FROM fdw_t WHERE id IN (20, 100)) x ORDER BY id;

-- DELETE
DELETE FROM fdw_t WHERE id % 10 = 7;
DELETE FROM fdw_p WHERE id % 10 = 7;
DELETE FROM fdw_t WHERE id = 500 RETURNING id, k, v, twice;
DELETE FROM fdw_p WHERE id = 500;
DELETE FROM fdw_t USING fdw_p p WHERE fdw_t.id = p.id AND p.k = 33;
DELETE FROM fdw_p WHERE k = 33;
SELECT * FROM fdw_same();

-- a table without generated columns is updated and deleted from by the shards themselves
CREATE TABLE fdw_d (k int, v text);
SELECT dbscale.distribute_table('fdw_d', 'k', shard_count => 4, colocate_with => NULL);
INSERT INTO fdw_d SELECT i, 'v' || i FROM generate_series(1, 100) i;
WITH u AS (UPDATE fdw_d SET v = 'x' WHERE k <= 10 RETURNING k, v) SELECT count(*), min(v), sum(k) FROM u;
UPDATE fdw_d SET v = 'y' WHERE k > 90;
DELETE FROM fdw_d WHERE v = 'y' RETURNING 1;
DELETE FROM fdw_d WHERE k BETWEEN 11 AND 20;
SELECT count(*), count(*) FILTER (WHERE v = 'x') FROM fdw_d;

-- one statement sees one state: writes are not read back
INSERT INTO fdw_d SELECT k + 1000, v FROM fdw_d;
SELECT count(*) FROM fdw_d;
WITH i AS (INSERT INTO fdw_d VALUES (5001, 'new'), (5002, 'new') RETURNING *)
SELECT (SELECT count(*) FROM i), (SELECT count(*) FROM fdw_d WHERE k > 5000);
WITH gone AS (DELETE FROM fdw_d WHERE k > 5000 RETURNING *) INSERT INTO fdw_d SELECT k + 1000, 'again' FROM gone RETURNING *;

-- triggers, WITH CHECK OPTION
CREATE FUNCTION fdw_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE WARNING '% % % %', tg_when, tg_op, old, new;
    IF tg_when = 'BEFORE' AND tg_op <> 'DELETE' THEN new.v := new.v || '+'; END IF;
    RETURN coalesce(new, old);
END $$;
CREATE TRIGGER b BEFORE INSERT OR UPDATE OR DELETE ON fdw_d FOR EACH ROW EXECUTE FUNCTION fdw_trigger();
CREATE TRIGGER a AFTER INSERT OR UPDATE OR DELETE ON fdw_d FOR EACH ROW EXECUTE FUNCTION fdw_trigger();
INSERT INTO fdw_d VALUES (9001, 'a'), (9002, 'b');
UPDATE fdw_d SET v = 'c' WHERE k = 9001;
UPDATE fdw_d SET k = 9003 WHERE k = 9001;
DELETE FROM fdw_d WHERE k > 9000 AND v = 'b+';
DROP TRIGGER b ON fdw_d;
DROP TRIGGER a ON fdw_d;
CREATE VIEW fdw_v AS SELECT * FROM fdw_d WHERE k < 9500 WITH CHECK OPTION;
INSERT INTO fdw_v VALUES (9400, 'in view') RETURNING *;
INSERT INTO fdw_v VALUES (9600, 'not in view');
SELECT * FROM fdw_d WHERE k > 9000 ORDER BY k;

-- reading: joins, correlated subqueries, whole rows, cursors, locks
SELECT count(*) FROM fdw_t a JOIN fdw_p b USING (id, k) WHERE a.v IS DISTINCT FROM b.v;
SELECT a.id, (SELECT count(*) FROM fdw_t b WHERE b.id < a.id) FROM fdw_t a WHERE a.id < 6 ORDER BY 1;
SELECT a.id, (SELECT count(*) FROM fdw_t b WHERE b.id + random() * 0 < a.id) FROM fdw_t a WHERE a.id < 6 ORDER BY 1;
SELECT d, d.tableoid::regclass IS NOT NULL AS has_table FROM fdw_d d WHERE k = 5;
SELECT count(*) FROM (SELECT id FROM fdw_t LIMIT 7) x;
BEGIN;
DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT k FROM fdw_d ORDER BY k;
FETCH 3 FROM c;
FETCH BACKWARD 2 FROM c;
DECLARE d CURSOR FOR SELECT count(*) OVER (), v FROM fdw_d;
FETCH 1 FROM d;
UPDATE fdw_d SET v = 'seen by nobody';
FETCH 1 FROM d;
SELECT k FROM fdw_d WHERE k = 3 FOR UPDATE;
ROLLBACK;
SELECT count(*) FROM fdw_d WHERE v = 'seen by nobody';
SET plan_cache_mode = force_generic_plan;
PREPARE fdw_q (int, date) AS SELECT id, k FROM fdw_t WHERE k = $1 AND d <= $2 ORDER BY id;
EXECUTE fdw_q (5, '2024-02-15');
EXECUTE fdw_q (5, 'infinity');
RESET plan_cache_mode;
SELECT count(*) FROM fdw_t TABLESAMPLE system (10);

-- partition-wise joins run on the nodes, and their writes too
SET enable_partitionwise_join = on;
SELECT count(*) FROM fdw_t a JOIN fdw_t b ON a.k = b.k AND a.id = b.id WHERE a.k = 5;
SELECT a.v, b FROM fdw_d a JOIN fdw_d b ON a.k = b.k WHERE a.k = 2;
UPDATE fdw_d a SET v = b.v || 'j' FROM fdw_d b WHERE a.k = b.k AND b.k = 2 RETURNING a.k, a.v, b.v;
UPDATE fdw_d a SET v = b.v || 'j' FROM fdw_d b WHERE a.k = b.k AND b.k = 2;
SELECT * FROM fdw_d WHERE k = 2;
RESET enable_partitionwise_join;

-- PL/pgSQL: errors are caught where they happen
DO $$
BEGIN
    BEGIN
        INSERT INTO fdw_t (id, k) VALUES (2003, 1);
    EXCEPTION WHEN unique_violation THEN
        RAISE WARNING 'caught a duplicate';
    END;
    INSERT INTO fdw_t (id, k) VALUES (2010, 1);
    RAISE WARNING 'inserted %', (SELECT count(*) FROM fdw_t WHERE id = 2010);
END $$;

-- ANALYZE, TRUNCATE
ANALYZE fdw_t;
SELECT reltuples = (SELECT count(*) FROM fdw_t) AS analyzed FROM pg_class WHERE oid = 'fdw_t'::regclass;
SELECT count(*) > 0 AS has_statistics FROM pg_stats WHERE tablename = 'fdw_t' AND inherited;
TRUNCATE fdw_t;
SELECT count(*) FROM fdw_t;

-- options of postgres_fdw that do not apply
CREATE SERVER fdw_bad FOREIGN DATA WRAPPER dbscale_fdw OPTIONS (use_remote_estimate 'true');
CREATE SERVER fdw_bad FOREIGN DATA WRAPPER dbscale_fdw OPTIONS (fetch_size '10');


SET client_min_messages = warning;
DO $$
DECLARE
    t regclass;
BEGIN
    FOR t IN SELECT relation FROM dbscale.distributed_table LOOP
        EXECUTE format('DROP TABLE %s CASCADE', t);
    END LOOP;
END $$;
SELECT dbscale.remove_node('fdw_1'), dbscale.remove_node('fdw_2');
