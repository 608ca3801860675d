-- Shards that are split and merged, and keys that get a shard of their own.  Faults are in t/012_reshard.pl.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
SELECT count(*) FROM (SELECT dbscale.add_local_node('reshard_a'), dbscale.add_local_node('reshard_b')) n;

CREATE TABLE re_users (
    id bigint PRIMARY KEY, name text NOT NULL CHECK (name <> ''), dropped int, raw bytea,
    upper_name text GENERATED ALWAYS AS (upper(name)) STORED, UNIQUE (id, name) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE re_notes (no int, "the text" text, "user" bigint, PRIMARY KEY ("user", no));
CREATE TABLE re_log ("user" bigint, entry text);
ALTER TABLE re_log REPLICA IDENTITY FULL;
ALTER TABLE re_users DROP COLUMN dropped;
ALTER TABLE re_users ALTER COLUMN raw SET STORAGE EXTERNAL;
SELECT dbscale.distribute_table('re_users', 'id', shard_count => 3);
SELECT dbscale.distribute_table('re_notes', 'user', colocate_with => 're_users');
SELECT dbscale.distribute_table('re_log', 'user', colocate_with => 're_users');
ALTER TABLE re_notes ADD CONSTRAINT re_notes_user FOREIGN KEY ("user") REFERENCES re_users ON DELETE CASCADE;
CREATE INDEX re_notes_text ON re_notes (lower("the text"));
CREATE STATISTICS re_notes_both ON no, "user" FROM re_notes;
INSERT INTO re_users SELECT i, E'p\t\\' || i, decode(repeat(md5(i::text), 100), 'hex') FROM generate_series(1, 90) i;
INSERT INTO re_notes SELECT n, E'line 1\nline ' || n, p FROM generate_series(1, 90) p, generate_series(1, 4) n;
INSERT INTO re_log SELECT i % 90 + 1, 'entry' FROM generate_series(1, 180) i;
INSERT INTO re_log SELECT NULL, 'nobody' FROM generate_series(1, 3);

-- what is to be so at every moment
CREATE TABLE users_before AS SELECT * FROM re_users;
CREATE TABLE notes_before AS SELECT * FROM re_notes;
CREATE TABLE log_before AS SELECT * FROM re_log;
CREATE VIEW differences AS
    SELECT (SELECT count(*) FROM (TABLE re_users EXCEPT ALL TABLE users_before) d) + (SELECT count(*) FROM (TABLE users_before EXCEPT ALL TABLE re_users) d)
         + (SELECT count(*) FROM (TABLE re_notes EXCEPT ALL TABLE notes_before) d) + (SELECT count(*) FROM (TABLE notes_before EXCEPT ALL TABLE re_notes) d)
         + (SELECT count(*) FROM (TABLE re_log EXCEPT ALL TABLE log_before) d) + (SELECT count(*) FROM (TABLE log_before EXCEPT ALL TABLE re_log) d) AS rows;
-- rows that are in another shard than their key's
CREATE FUNCTION misplaced(t regclass, key text) RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM dbscale.run_on_shards(t, format('SELECT coalesce(json_agg(%I), ''[]'') FROM %%s', key)) r, json_array_elements_text(r.result::json) k
    WHERE CASE WHEN k IS NULL THEN r.shard <> dbscale.shard_for(t, NULL::text) ELSE dbscale.shard_for(t, k) <> r.shard END $$;
CREATE VIEW misplaced AS SELECT misplaced('re_users', 'id') + misplaced('re_notes', 'user') + misplaced('re_log', 'user') AS rows;
CREATE PROCEDURE clean_up() LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 200 LOOP
        EXIT WHEN dbscale.run_cleanup() = 0;
        PERFORM pg_sleep(0.05);
    END LOOP;
END $$;
CREATE VIEW hashes AS SELECT s.shard, s.hash_from, s.hash_to FROM dbscale.shard s JOIN dbscale.distributed_table t USING (group_id) WHERE t.relation = 're_users'::regclass;
-- what the tables of a shard are made of, without its number
CREATE FUNCTION definition_of(int) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT regexp_replace(r.result, '_' || $1 || '\M', '_N', 'g') FROM unnest(ARRAY['re_users', 're_notes', 're_log']::regclass[]) t, dbscale.run_on_shards(t, $q$
        SELECT concat_ws(' ; ', (SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attstorage, attnotnull, attgenerated), ', ' ORDER BY attnum)
                FROM pg_attribute WHERE attrelid = '%s'::regclass AND attnum > 0),
            (SELECT string_agg(conname || ' ' || pg_get_constraintdef(oid) || ' ' || convalidated, ', ' ORDER BY conname)
                FROM pg_constraint WHERE conrelid = '%s'::regclass AND contype <> 'n'),
            (SELECT string_agg(pg_get_indexdef(indexrelid) || ' ' || indisvalid, ', ' ORDER BY indexrelid::regclass::text) FROM pg_index WHERE indrelid = '%s'::regclass),
            (SELECT string_agg(stxname, ', ' ORDER BY stxname) FROM pg_statistic_ext WHERE stxrelid = '%s'::regclass),
            (SELECT relreplident FROM pg_class WHERE oid = '%s'::regclass))$q$) r
    WHERE r.shard = $1 ORDER BY t::text $$;
SELECT rows FROM misplaced;

-- plans of before the split follow it
SET plan_cache_mode = force_generic_plan;
PREPARE one_user(bigint) AS SELECT id, length(raw) FROM re_users WHERE id = $1;
PREPARE all_notes AS SELECT count(*) FROM re_notes;
PREPARE add_note(bigint) AS INSERT INTO re_notes VALUES (100, 'new', $1);
PREPARE touch(text) AS UPDATE re_users SET name = name WHERE name LIKE $1;
PREPARE local_join AS SELECT count(*) FROM re_users JOIN re_notes ON "user" = id;
EXECUTE one_user(5);
EXECUTE all_notes;
EXECUTE touch('p%');
EXECUTE local_join;

-- hash: shard 0 has the null keys too
SELECT dbscale.split_shard('re_users', 0);
TABLE hashes ORDER BY 2;
SELECT relation, shard, node FROM dbscale.shards WHERE relation = 're_notes'::regclass ORDER BY shard;
SELECT rows FROM differences;
SELECT rows FROM misplaced;
CALL clean_up();
SELECT * FROM dbscale.check();
SELECT definition_of(0) EXCEPT SELECT definition_of(1);
SELECT definition_of(3) EXCEPT SELECT definition_of(1);
SELECT count(*) FROM definition_of(3);
DO $$ BEGIN FOR i IN 1 .. 90 LOOP EXECUTE format('EXECUTE one_user(%s)', i); EXECUTE format('EXECUTE add_note(%s)', i); END LOOP; END $$;
EXECUTE all_notes;
EXECUTE touch('p%');
EXECUTE local_join;
SELECT rows FROM misplaced;
DELETE FROM re_notes WHERE no = 100;
SELECT rows FROM differences;

-- the parts again, in three, and at a hash
SELECT dbscale.split_shard('re_notes', 3, 3);
SELECT dbscale.split_shard('re_notes', 1, bound => '2000000000');
TABLE hashes ORDER BY 2;
SELECT rows FROM differences;
SELECT rows FROM misplaced;

-- the directory's keys stay with the number, and merging takes them along
SELECT dbscale.assign_key('re_users', 7, 1);
SELECT dbscale.assign_key('re_users', 8, 1);
SELECT dbscale.split_shard('re_users', 1);
SELECT dbscale.shard_for('re_users', 7) AS seven, dbscale.shard_for('re_users', 8) AS eight;
SELECT rows FROM misplaced;
-- a key of its own: by its hash, or by an entry of the directory; on another node
SELECT dbscale.isolate_key('re_users', 7) AS own, count(*) FROM dbscale.directory;
SELECT dbscale.isolate_key('re_users', 7) AS again;
SELECT dbscale.isolate_key('re_users', '42', 'reshard_a') AS a, dbscale.node_for('re_users', 42);
SELECT dbscale.isolate_key('re_users', 42, 'reshard_b') AS b, dbscale.node_for('re_users', 42);
SELECT hash_from = hash_to AS one_hash FROM hashes WHERE shard = dbscale.shard_for('re_users', 42);
SELECT count(*), count(DISTINCT id) FROM re_users;
SELECT rows FROM differences;
SELECT rows FROM misplaced;

-- merged: neighbours only; nodes may differ; null keys stay in shard 0
SELECT dbscale.merge_shards('re_users', 1, 0);
SELECT dbscale.merge_shards('re_users', 0, 3);
SELECT dbscale.merge_shards('re_users', 3, 3);
SELECT dbscale.merge_shards('re_users', dbscale.shard_for('re_users', 7), dbscale.shard_for('re_users', 1));
DO $$
BEGIN
    -- what PL/pgSQL runs is in a transaction
    PERFORM dbscale.split_shard('re_users', 0);
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING '% %', SQLSTATE, SQLERRM;
END $$;
SELECT format('SELECT dbscale.merge_shards(''re_users'', %s, 0)', b.shard) FROM hashes a, hashes b WHERE a.shard = 0 AND b.hash_from = a.hash_to + 1 \gexec
SELECT format('SELECT dbscale.merge_shards(''re_users'', %s, 0)', b.shard) FROM hashes a, hashes b WHERE a.shard = 0 AND b.hash_from = a.hash_to + 1 \gexec
SELECT format('SELECT dbscale.merge_shards(''re_users'', %s, 0)', b.shard) FROM hashes a, hashes b WHERE a.shard = 0 AND b.hash_from = a.hash_to + 1 \gexec
SELECT rows FROM differences;
SELECT rows FROM misplaced;
CALL clean_up();
SELECT * FROM dbscale.check();
SELECT definition_of(0) EXCEPT SELECT definition_of(1);
EXECUTE one_user(5);
EXECUTE all_notes;
EXECUTE local_join;
RESET plan_cache_mode;


-- range
CREATE TABLE re_events (id int, at date, what text, PRIMARY KEY (id, at));
SELECT dbscale.distribute_table('re_events', 'at', 'range', step => '1 year', bounds => '{"from": "2024-01-01", "to": "2026-01-01"}');
CREATE TABLE re_visits (at date, n int, PRIMARY KEY (at, n));
SELECT dbscale.distribute_table('re_visits', 'at', 'range', colocate_with => 're_events');
INSERT INTO re_events SELECT i, date '2024-01-01' + i, 'e' || i FROM generate_series(0, 730) i;
INSERT INTO re_visits SELECT date '2024-01-01' + i, n FROM generate_series(0, 730) i, generate_series(1, 2) n;
SELECT dbscale.split_shard('re_events', 0);
SELECT dbscale.split_shard('re_events', 1, 2, '2025-03-01');
SELECT dbscale.isolate_key('re_events', date '2025-07-01') AS own;
SELECT dbscale.isolate_key('re_events', '2025-07-01') AS again;
SELECT shard, bounds FROM dbscale.shards WHERE relation = 're_events'::regclass ORDER BY bounds::text;
SELECT count(*), sum(id) FROM re_events;
SELECT misplaced('re_events', 'at') + misplaced('re_visits', 'at') AS misplaced;
EXPLAIN (COSTS OFF) SELECT count(*) FROM re_events WHERE at >= '2025-02-01' AND at < '2025-02-10';
EXPLAIN (COSTS OFF) SELECT what FROM re_events WHERE at = '2025-07-01';
SELECT dbscale.merge_shards('re_events', 0, 1);
SELECT dbscale.merge_shards('re_events', 2, 0);
SELECT dbscale.merge_shards('re_events', dbscale.shard_for('re_events', date '2025-07-01'), dbscale.shard_for('re_events', date '2025-06-01'));
SELECT shard, bounds FROM dbscale.shards WHERE relation = 're_events'::regclass ORDER BY bounds::text;
SELECT count(*), sum(id) FROM re_events;
SELECT misplaced('re_events', 'at') + misplaced('re_visits', 'at') AS misplaced;
SELECT dbscale.add_shard('re_events', '{"from": "2026-01-01", "to": "2027-01-01"}') AS added;

-- list
CREATE TABLE re_places (region text, id int, PRIMARY KEY (region, id));
SELECT dbscale.distribute_table('re_places', 'region', 'list', bounds => '{"eu": ["at", "be", "cz"], "us": {"values": ["ny", "ca"], "node": "reshard_b"}}');
INSERT INTO re_places SELECT r, i FROM unnest(ARRAY['at', 'be', 'cz', 'ny', 'ca']) r, generate_series(1, 10) i;
SELECT dbscale.split_shard('re_places', 0);
SELECT dbscale.isolate_key('re_places', 'be'::text) AS own;
SELECT dbscale.isolate_key('re_places', 'ny'::text, 'reshard_a');
SELECT dbscale.isolate_key('re_places', 'ny'::text) AS pinned;
SELECT s.shard, s.label, s.bounds, s.pinned FROM dbscale.shard s JOIN dbscale.distributed_table t USING (group_id) WHERE t.relation = 're_places'::regclass ORDER BY s.bounds::text;
SELECT dbscale.merge_shards('re_places', 0, 1);
SELECT dbscale.merge_shards('re_places', 2, 0);
SELECT region, count(*) FROM re_places GROUP BY region ORDER BY region;
SELECT misplaced('re_places', 'region');

-- directory
CREATE TABLE re_tenants (tenant text, id int, PRIMARY KEY (tenant, id));
SELECT dbscale.distribute_table('re_tenants', 'tenant', 'directory', 2);
INSERT INTO re_tenants SELECT 'tenant ' || t, i FROM generate_series(1, 20) t, generate_series(1, 5) i;
SELECT dbscale.isolate_key('re_tenants', 'tenant 3'::text, 'reshard_b') AS own, dbscale.node_for('re_tenants', 'tenant 3'::text);
SELECT key, shard FROM dbscale.directory JOIN dbscale.table_group USING (group_id) WHERE strategy = 'directory';
SELECT dbscale.split_shard('re_tenants', 2);
SELECT dbscale.split_shard('re_tenants', 0, 2);
SELECT tenant, count(*) FROM re_tenants GROUP BY tenant HAVING count(*) <> 5;
SELECT misplaced('re_tenants', 'tenant');
SELECT dbscale.merge_shards('re_tenants', 2, 0);
SELECT misplaced('re_tenants', 'tenant'), dbscale.shard_for('re_tenants', 'tenant 3'::text);
CALL clean_up();
SELECT * FROM dbscale.check();

-- a key of many rows goes to its shard by a job, and leaves no other behind
SET dbscale.assign_key_online_rows = 6;
CREATE VIEW shards_now AS SELECT shard, node FROM dbscale.shards WHERE relation = 're_users'::regclass;
CREATE TABLE shards_before AS TABLE shards_now;
SELECT dbscale.assign_key('re_users', 11, (SELECT min(shard) FROM shards_now WHERE node <> dbscale.node_for('re_users', 11)));
SELECT dbscale.assign_key('re_users', 11::text, (SELECT min(shard) FROM shards_now WHERE node = dbscale.node_for('re_users', 11) AND shard <> dbscale.shard_for('re_users', 11)));
SELECT count(*) AS entries FROM dbscale.directory WHERE key = '11';
SELECT rows FROM differences;
SELECT rows FROM misplaced;
SELECT dbscale.assign_key('re_users', 11, (SELECT shard FROM hashes WHERE hashint8extended(11, 0) >> 32 & 4294967295 BETWEEN hash_from AND hash_to));
SELECT count(*) AS entries FROM dbscale.directory WHERE key = '11';
SELECT kind, state, steps, count(*) FROM dbscale.jobs WHERE kind = 'assign' GROUP BY 1, 2, 3;
-- one that has a shard of its own goes with it
SELECT dbscale.isolate_key('re_tenants', 'tenant 5'::text) = dbscale.shard_for('re_tenants', 'tenant 5'::text) AS own;
SELECT count(*) FROM dbscale.shards WHERE relation = 're_tenants'::regclass;
SET dbscale.assign_key_online_rows = 4;
SELECT dbscale.assign_key('re_tenants', 'tenant 5', 0);
SELECT count(*) FROM dbscale.shards WHERE relation = 're_tenants'::regclass;
SELECT tenant, count(*) FROM re_tenants GROUP BY tenant HAVING count(*) <> 5;
SELECT misplaced('re_tenants', 'tenant'), dbscale.shard_for('re_tenants', 'tenant 5'::text);
-- few rows, in a transaction, while the statement has the table locked: at once
SELECT dbscale.assign_key('re_users', 95, 1 - sign(dbscale.shard_for('re_users', 95))::int);
SET dbscale.assign_key_online_rows = 0;
BEGIN;
SELECT dbscale.assign_key('re_users', 12, 1 - sign(dbscale.shard_for('re_users', 12))::int);
SELECT rows FROM misplaced;
ROLLBACK;
DO $$ BEGIN PERFORM count(*) FROM re_users; PERFORM dbscale.assign_key('re_users', 12, 1 - sign(dbscale.shard_for('re_users', 12))::int); END $$;
SELECT dbscale.assign_key('re_users', 12, 1 - sign(dbscale.shard_for('re_users', 12))::int) WHERE (SELECT count(*) FROM re_users) >= 0;
SET dbscale.assign_key_online_rows = -1;
SELECT dbscale.assign_key('re_users', 14, 1 - sign(dbscale.shard_for('re_users', 14))::int);
SELECT count(*) FROM dbscale.jobs WHERE kind = 'assign';
SET dbscale.assign_key_online_rows = 0;
-- no such log: at once, and said so
CREATE TABLE re_plain ("user" bigint, x json);
SELECT dbscale.distribute_table('re_plain', 'user', colocate_with => 're_users');
SET client_min_messages = notice;
SELECT dbscale.assign_key('re_users', 15, 1 - sign(dbscale.shard_for('re_users', 15))::int);
SET client_min_messages = warning;
DROP TABLE re_plain;
SELECT dbscale.assign_key('re_users', 15, 77);
SELECT dbscale.assign_key('re_users', NULL::bigint, 0);
SELECT dbscale.assign_key('re_events', date '2025-01-01', 0);
RESET dbscale.assign_key_online_rows;
SELECT rows FROM differences;
SELECT rows FROM misplaced;
TABLE shards_before EXCEPT TABLE shards_now;
TABLE shards_now EXCEPT TABLE shards_before;
DROP TABLE shards_before;
DROP VIEW shards_now;
CALL clean_up();
SELECT * FROM dbscale.check();

-- refused, and nothing is changed
SELECT dbscale.split_shard('re_users', 77);
SELECT dbscale.split_shard('re_users', 0, 1);
SELECT dbscale.split_shard('re_users', 0, 3, '5');
SELECT dbscale.split_shard('re_users', 0, bound => 'x');
SELECT dbscale.split_shard('re_users', NULL);
SELECT dbscale.split_shard('re_events', 1, 2, '2030-01-01');
SELECT dbscale.split_shard('re_events', 1, 2, 'yesterday or so');
SELECT dbscale.split_shard('re_places', 1, 9);
SELECT dbscale.split_shard('users_before', 0);
SELECT dbscale.isolate_key('re_users', NULL::bigint);
SELECT dbscale.isolate_key('re_events', date '1999-01-01');
SELECT dbscale.isolate_key('re_users', 5, 'nowhere');
CREATE TABLE re_plain ("user" bigint, x json);
SELECT dbscale.distribute_table('re_plain', 'user', colocate_with => 're_users');
SELECT dbscale.split_shard('re_users', 2);
DROP TABLE re_plain;
BEGIN;
SELECT dbscale.split_shard('re_users', 2);
ROLLBACK;
CREATE TABLE re_authors (name text PRIMARY KEY, notes bigint);
SELECT dbscale.distribute_table('re_authors', 'name', shard_count => 1);
SELECT dbscale.create_counter('re_authors', 'notes', 're_notes', '{name}', '{the text}', mode => 'buffered');
-- its tables are not colocated: counters_outbox
SELECT dbscale.split_shard('re_users', 2);
SELECT dbscale.split_shard('re_authors', 0);
SELECT * FROM dbscale.verify_counter('re_authors_notes');
SELECT dbscale.drop_counter('re_authors_notes');
DROP TABLE re_authors;
CREATE ROLE reshard_user;
GRANT USAGE ON SCHEMA dbscale TO reshard_user;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dbscale TO reshard_user;
SET ROLE reshard_user;
SELECT dbscale.split_shard('re_users', 2);
SELECT dbscale.merge_shards('re_users', 2, 0);
SELECT dbscale.isolate_key('re_users', 5);
RESET ROLE;
DROP OWNED BY reshard_user;
DROP ROLE reshard_user;
SELECT DISTINCT kind, state FROM dbscale.jobs WHERE kind IN ('split', 'merge', 'isolate') ORDER BY 1, 2;

-- a table that comes later has the same shards
CREATE TABLE re_late ("user" bigint, n int, PRIMARY KEY ("user", n));
INSERT INTO re_late SELECT i, 1 FROM generate_series(1, 90) i;
SELECT dbscale.distribute_table('re_late', 'user', colocate_with => 're_users');
SELECT count(*), misplaced('re_late', 'user') FROM re_late JOIN re_users ON id = "user";
SELECT dbscale.undistribute_table('re_late');
SELECT count(*) FROM re_late;

DROP TABLE re_late, re_notes, re_log, re_users, re_events, re_visits, re_places, re_tenants CASCADE;
DROP TABLE users_before, notes_before, log_before;
DROP FUNCTION misplaced(regclass, text), definition_of(int);
CALL clean_up();
DROP PROCEDURE clean_up();
SELECT count(*) FROM (SELECT dbscale.remove_node('reshard_a'), dbscale.remove_node('reshard_b')) n;
