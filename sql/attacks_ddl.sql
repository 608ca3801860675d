-- What once broke: commands that left the catalog, or the copies, not as they should be.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
CREATE SCHEMA attacks;
SET search_path = attacks;
SELECT dbscale.add_local_node('attack1');
SELECT dbscale.add_local_node('attack2');

-- a table made in this transaction is distributed, taken back and distributed in another way
BEGIN;
CREATE TABLE twice (a int PRIMARY KEY, b text);
INSERT INTO twice SELECT i, i FROM generate_series(1, 50) i;
SELECT dbscale.distribute_table('twice', 'a', shard_count => 3);
SELECT dbscale.undistribute_table('twice');
SELECT dbscale.distribute_table('twice', 'a', 'range', step => '30');
SELECT tableoid::regclass, count(*) FROM twice GROUP BY 1 ORDER BY 1;
SELECT dbscale.undistribute_table('twice');
SAVEPOINT one;
SELECT dbscale.distribute_table('twice', 'a', 'range', step => '10');
ROLLBACK TO one;
SELECT dbscale.distribute_table('twice', 'a', shard_count => 2);
SAVEPOINT two;
SELECT dbscale.undistribute_table('twice');     -- the old key could not be had back
ROLLBACK TO two;
INSERT INTO twice VALUES (51);
COMMIT;
SELECT count(*), count(DISTINCT tableoid) FROM twice;
SELECT * FROM dbscale.check();
DROP TABLE twice;

-- what a reference table cannot do without
CREATE TABLE ref (a int, b int, PRIMARY KEY (a));
INSERT INTO ref VALUES (1, 1);
SELECT dbscale.distribute_reference('ref');
DROP TRIGGER dbscale_replicate ON ref;
ALTER TRIGGER dbscale_replicate_end ON ref RENAME TO other;
CREATE OR REPLACE TRIGGER dbscale_replicate AFTER INSERT ON ref FOR EACH ROW
    EXECUTE FUNCTION suppress_redundant_updates_trigger();
ALTER TABLE ref DROP CONSTRAINT ref_pkey;
ALTER TABLE ref DROP COLUMN a CASCADE;
ALTER TABLE ref DROP CONSTRAINT ref_pkey, ADD PRIMARY KEY (a, b);
UPDATE ref SET b = 2;
SELECT * FROM dbscale.check();
BEGIN;
DROP TABLE ref;                                 -- with its triggers
ROLLBACK;
SELECT dbscale.undistribute_table('ref');
ALTER TABLE ref DROP CONSTRAINT ref_pkey;

-- transition tables: core takes the trigger, and fails each INSERT
CREATE TABLE h (a int PRIMARY KEY, b int);
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER rows_of AFTER INSERT ON h REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION nothing();
SELECT dbscale.distribute_table('h', 'a', shard_count => 2);
DROP TRIGGER rows_of ON h;
SELECT dbscale.distribute_table('h', 'a', shard_count => 2);
CREATE TRIGGER rows_of AFTER INSERT ON h REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION nothing();

-- a foreign key hidden in a new column
CREATE TABLE local (x int);
ALTER TABLE local ADD COLUMN h int REFERENCES h;

-- forms without a name of their own
ALTER TABLE h SET WITHOUT CLUSTER;
ALTER TABLE h OF pg_class;

-- foreign keys: validated later, dropped with the key they need
CREATE TABLE par (a int PRIMARY KEY, x int, UNIQUE (a, x));
CREATE TABLE chi (a int, x int, PRIMARY KEY (a, x));
SELECT dbscale.distribute_table('par', 'a', shard_count => 2);
SELECT dbscale.distribute_table('chi', 'a', colocate_with => 'par');
INSERT INTO chi VALUES (1, 1);
ALTER TABLE chi ADD CONSTRAINT c1 FOREIGN KEY (a) REFERENCES par (a) NOT VALID,
    ADD CONSTRAINT c2 FOREIGN KEY (a, x) REFERENCES par (a, x) NOT VALID;
\set VERBOSITY terse
ALTER TABLE chi VALIDATE CONSTRAINT c1;
INSERT INTO par VALUES (1, 1);
ALTER TABLE chi VALIDATE CONSTRAINT c1;
SELECT name, definition FROM dbscale.foreign_key ORDER BY 1;
SELECT DISTINCT result FROM dbscale.run_on_shards('chi',
    'SELECT string_agg(conname || convalidated, '','' ORDER BY conname) FROM pg_constraint WHERE conrelid = ''%s''::regclass AND contype = ''f''');
ALTER TABLE par DROP CONSTRAINT par_a_x_key;
ALTER TABLE par DROP COLUMN x;
\set VERBOSITY default
ALTER TABLE par DROP CONSTRAINT par_a_x_key CASCADE;
SELECT name, definition FROM dbscale.foreign_key ORDER BY 1;
ALTER TABLE par ADD UNIQUE (a, x);
ALTER TABLE chi ADD CONSTRAINT c2 FOREIGN KEY (a, x) REFERENCES par (a, x);
ALTER TABLE par DROP COLUMN x CASCADE;
SELECT name, definition FROM dbscale.foreign_key ORDER BY 1;
SELECT * FROM dbscale.check();
DROP TABLE par, chi;

-- the catalog is the only map to the rows
DROP EXTENSION dbscale CASCADE;
DROP EXTENSION IF EXISTS postgres_fdw CASCADE;
DROP SCHEMA dbscale CASCADE;

-- steps and bounds that say nothing, or what nobody meant
CREATE TABLE bad (a int, d date, t text);
SELECT dbscale.distribute_table('bad', 'a', 'range', step => 'abc');
SELECT dbscale.distribute_table('bad', 'd', 'range', step => 'abc');
INSERT INTO bad (d) VALUES ('-infinity');         -- was a crash: no range at all
SELECT dbscale.distribute_table('bad', 'd', 'range', step => '1 month');
SELECT dbscale.distribute_table('bad', 't', 'list', bounds => '{"eu": {"values": ["x"], "nodes": "attack1"}}');
SELECT * FROM dbscale.check();

SELECT dbscale.undistribute_table('h');
DROP SCHEMA attacks CASCADE;
SELECT dbscale.remove_node('attack1');
SELECT dbscale.remove_node('attack2');
