-- check(): break things on the nodes, and see them reported.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
SELECT dbscale.add_local_node('check1');
SELECT dbscale.add_local_node('check2');
CREATE SCHEMA chk;
SET search_path = chk;
CREATE TABLE people (id int PRIMARY KEY, name text CHECK (name <> ''), born date NOT NULL, twice int GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE pets (id int, person int, name varchar(20), PRIMARY KEY (person, id));
CREATE INDEX pets_name ON pets (name);
CREATE TABLE species (id int PRIMARY KEY, name text);
INSERT INTO species VALUES (1, 'cat'), (2, 'dog');
SELECT dbscale.distribute_table('people', 'id', shard_count => 2);
SELECT dbscale.distribute_table('pets', 'person', colocate_with => 'people');
SELECT dbscale.distribute_reference('species');
ALTER TABLE pets ADD CONSTRAINT owner FOREIGN KEY (person) REFERENCES people;
SELECT * FROM dbscale.check();

CREATE FUNCTION breaks(command text) RETURNS TABLE (node name, object text, problem text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM dbscale.run_on_nodes(command);
    RETURN QUERY SELECT * FROM dbscale.check();
    RAISE EXCEPTION 'undo';
EXCEPTION WHEN raise_exception THEN
    NULL;
END $$;
SELECT * FROM breaks('ALTER TABLE IF EXISTS dbscale_shards.people_0 ALTER born DROP NOT NULL');
SELECT * FROM breaks('ALTER TABLE IF EXISTS dbscale_shards.people_0 ADD extra int, DROP COLUMN name');
SELECT * FROM breaks('ALTER TABLE IF EXISTS dbscale_shards.pets_1 ALTER name TYPE text');
SELECT * FROM breaks('ALTER TABLE IF EXISTS dbscale_shards.people_1 ALTER twice DROP EXPRESSION');
SELECT * FROM breaks('ALTER TABLE IF EXISTS dbscale_shards.people_1 DROP CONSTRAINT people_name_check');
SELECT * FROM breaks('ALTER TABLE IF EXISTS dbscale_shards.pets_1 DROP CONSTRAINT owner');
SELECT * FROM breaks('DROP INDEX IF EXISTS dbscale_shards.pets_name_0');
SELECT * FROM breaks('ALTER TABLE IF EXISTS dbscale_shards.pets_0 DROP CONSTRAINT pets_pkey_0');
SELECT * FROM breaks('ALTER TABLE IF EXISTS dbscale_shards.pets_0 RENAME TO pets_9');
SELECT * FROM breaks('DELETE FROM dbscale_shards.species WHERE id = 2');
SELECT * FROM breaks('CREATE TABLE dbscale_shards.left_over (a int)');
SELECT * FROM breaks('DROP SCHEMA dbscale_shards CASCADE');
SELECT * FROM dbscale.check();

-- what keeps counters
ALTER TABLE people ADD COLUMN pet_count int, ADD COLUMN seen int;
SELECT dbscale.create_counter('people', 'pet_count', 'pets', '{id}', '{person}');
SELECT dbscale.create_counter('people', 'seen', 'pets', '{id}', '{person}', mode => 'buffered');
SELECT * FROM dbscale.check();
SELECT * FROM breaks('DO $do$ BEGIN IF to_regclass(''dbscale_shards.pets_0'') IS NOT NULL THEN DROP TRIGGER dbscale_counter_insert ON dbscale_shards.pets_0; END IF; END $do$');
SELECT * FROM breaks('ALTER TABLE IF EXISTS dbscale_shards.people_1 DISABLE TRIGGER "~dbscale_counter_guard"');
SELECT * FROM breaks('DROP FUNCTION IF EXISTS dbscale_shards.people_seen_fold_1()');
SELECT * FROM breaks('DROP TABLE IF EXISTS dbscale_shards.people_seen_deltas_0');
SELECT * FROM breaks('CREATE FUNCTION dbscale_shards.left_over() RETURNS int LANGUAGE sql AS ''SELECT 1''');
BEGIN;
DELETE FROM dbscale.counter;
SELECT * FROM dbscale.check();
ROLLBACK;
SELECT dbscale.drop_counter(counter) FROM dbscale.counter;
SELECT * FROM dbscale.check();

-- the catalog itself
BEGIN;
UPDATE dbscale.shard SET node = 'check2' WHERE shard = 0;
SELECT * FROM dbscale.check();
ROLLBACK;
BEGIN;
DELETE FROM dbscale.shard_table WHERE relation = 'pets'::regclass AND shard = 1;
SELECT * FROM dbscale.check();
ROLLBACK;

SELECT dbscale.disable_node('check1');
SELECT * FROM dbscale.check();
SELECT dbscale.enable_node('check1');
-- a node that cannot be reached is a row, not an error
\set VERBOSITY terse
ALTER SERVER check1 OPTIONS (SET port '1');
SELECT node, object, problem LIKE '%check1%' AS names_it FROM dbscale.check();
SELECT current_setting('port') AS port \gset
ALTER SERVER check1 OPTIONS (SET port :'port');
SELECT * FROM dbscale.check();

DROP TABLE pets, people, species;
DROP SCHEMA chk CASCADE;
SELECT dbscale.remove_node('check1');
SELECT dbscale.remove_node('check2');
