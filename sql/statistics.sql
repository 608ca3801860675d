-- Extended statistics, and what ANALYZE is told of columns: on the coordinator and on the shards.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
SELECT count(*) FROM (SELECT dbscale.add_local_node('stats1'), dbscale.add_local_node('stats2')) n;
CREATE SCHEMA stats;
SET search_path = stats;

-- what the shards of a table have: one row when all agree
CREATE FUNCTION statistics(relation regclass) RETURNS TABLE (shards bigint, statistics text) LANGUAGE sql AS $$
    SELECT count(*), result FROM dbscale.run_on_shards(relation, $q$
        SELECT string_agg(regexp_replace(stxname, '_[0-9]+$', '') || ' ' || array_to_string(stxkind, '') || ' ('
                          || pg_get_statisticsobjdef_columns(oid) || ') ' || coalesce(stxstattarget, -1), ', ' ORDER BY stxname COLLATE "C")
        FROM pg_statistic_ext WHERE stxrelid = '%s'::regclass$q$) GROUP BY 2 $$;
CREATE FUNCTION columns(relation regclass) RETURNS TABLE (shards bigint, columns text) LANGUAGE sql AS $$
    SELECT count(*), result FROM dbscale.run_on_shards(relation, $q$
        SELECT string_agg(concat_ws(' ', attname, coalesce(attstattarget, -1), (SELECT string_agg(o, ' ') FROM unnest(attoptions) o WHERE o LIKE 'n%')), ', ' ORDER BY attnum)
        FROM pg_attribute WHERE attrelid = '%s'::regclass AND attnum > 0 AND NOT attisdropped$q$) GROUP BY 2 $$;
CREATE VIEW names AS SELECT relation, schema_name, statistics_name, stored_name FROM dbscale.statistics_name ORDER BY 3, 2;

-- those that are there go with the table
CREATE TABLE places (id int PRIMARY KEY, city int, zip int, "Long Name" text);
CREATE TABLE kinds (kind int PRIMARY KEY, a int, b int);
CREATE STATISTICS city_zip (dependencies, ndistinct) ON city, zip FROM places;
ALTER STATISTICS city_zip SET STATISTICS 200;
CREATE STATISTICS "Odd %s" ON lower("Long Name"), (city + 1) FROM places;
INSERT INTO places SELECT i, i % 50, i % 50 * 10, 'name ' || i % 7 FROM generate_series(1, 2000) i;
ANALYZE places;
SELECT dbscale.distribute_table('places', 'id', shard_count => 4);
SELECT dbscale.distribute_reference('kinds');
SELECT * FROM statistics('places');
TABLE names;

-- new ones
CREATE STATISTICS IF NOT EXISTS city_zip ON id, zip FROM places;
CREATE STATISTICS stats.kind_ab (mcv) ON a, b FROM kinds;
CREATE STATISTICS nothing ON nothing, id FROM places;
CREATE STATISTICS shard_only ON id, city FROM dbscale_shards.places_0;
BEGIN;
CREATE STATISTICS rolled_back ON id, zip FROM places;
ROLLBACK;
SELECT * FROM statistics('places');
SELECT * FROM statistics('kinds');

-- ANALYZE builds them, on the nodes and here
INSERT INTO kinds SELECT i, i % 10, i % 10 FROM generate_series(1, 1000) i;
ANALYZE places, kinds;
SELECT DISTINCT result FROM dbscale.run_on_shards('places', $q$
    SELECT string_agg(s.statistics_name || ' ' || (s.n_distinct IS NOT NULL) || (s.dependencies IS NOT NULL), ', ' ORDER BY s.statistics_name)
    FROM (SELECT regexp_replace(statistics_name, '_[0-9]+$', '') AS statistics_name, n_distinct, dependencies, tablename FROM pg_stats_ext) s
    WHERE 'dbscale_shards.' || s.tablename = '%s'$q$);
SELECT DISTINCT result FROM dbscale.run_on_shards('kinds', $q$SELECT count(*) FROM pg_stats_ext WHERE 'dbscale_shards.' || tablename = '%s' AND most_common_vals IS NOT NULL$q$);
SELECT statistics_name, inherited, dependencies IS NOT NULL AS dependencies FROM pg_stats_ext WHERE tablename = 'places' ORDER BY 1;
-- and a node's planner uses them: 2000 / 50 rows, not 2000 / 2500
SELECT sum(substring(result FROM 'rows=(\d+)')::int) BETWEEN 30 AND 50 AS right_on_the_nodes
FROM dbscale.run_on_shards('places', 'EXPLAIN SELECT * FROM %s WHERE city = 7 AND zip = 70');

-- targets and options
ALTER STATISTICS city_zip SET STATISTICS -1;
ALTER STATISTICS stats.kind_ab SET STATISTICS 50;
ALTER STATISTICS IF EXISTS no_such SET STATISTICS 5;
ALTER TABLE places ALTER city SET STATISTICS 300, ALTER zip SET (n_distinct = -0.5), ALTER "Long Name" SET (n_distinct_inherited = 7);
ALTER TABLE kinds ALTER a SET STATISTICS 10;
SELECT * FROM statistics('places');
SELECT * FROM statistics('kinds');
SELECT * FROM columns('places');
SELECT * FROM columns('kinds');
ALTER TABLE places ALTER city SET STATISTICS -1, ALTER zip RESET (n_distinct);
SELECT * FROM columns('places');

-- names and schemas: only the catalog follows
CREATE SCHEMA stats2;
ALTER STATISTICS city_zip RENAME TO zip_city;
ALTER STATISTICS zip_city SET SCHEMA stats2;
CREATE STATISTICS zip_city ON zip, "Long Name" FROM places;
ALTER SCHEMA stats2 RENAME TO stats3;
TABLE names;
SELECT count(*) FROM dbscale.check();
ALTER STATISTICS stats3.zip_city SET STATISTICS 20;
SELECT * FROM statistics('places');

-- a move makes them on the target
SELECT dbscale.move_shard('places', 0, CASE dbscale.node_for('places', k) WHEN 'stats1' THEN 'stats2' ELSE 'stats1' END)
FROM generate_series(1, 100) k WHERE dbscale.shard_for('places', k) = 0 LIMIT 1;
SELECT * FROM statistics('places');
DO $$ BEGIN WHILE dbscale.run_cleanup() > 0 LOOP PERFORM pg_sleep(0.05); END LOOP; END $$;
SELECT * FROM dbscale.check();
SELECT count(*) FROM dbscale.run_on_nodes('DROP STATISTICS dbscale_shards.kind_ab');
SELECT object, problem FROM dbscale.check() GROUP BY 1, 2;

-- in a restored dump the catalog's row comes first, and the shards have them
INSERT INTO dbscale.statistics_name VALUES ('places', 'stats', 'restored', 'restored');
CREATE STATISTICS restored ON id, zip FROM places;
SELECT DISTINCT result FROM dbscale.run_on_shards('places', $$SELECT count(*) FROM pg_statistic_ext WHERE stxrelid = '%s'::regclass AND stxname ~ 'restored'$$);
DROP STATISTICS restored;

-- dropped by name, with a column, with their schema, with the table
DROP STATISTICS "Odd %s", kind_ab;
SELECT * FROM statistics('places');
SELECT * FROM statistics('kinds');
ALTER TABLE places DROP COLUMN "Long Name";
SELECT * FROM statistics('places');
DROP SCHEMA stats3 CASCADE;
SELECT * FROM statistics('places');
TABLE names;
CREATE STATISTICS kept ON id, zip FROM places;
ANALYZE places;
SELECT dbscale.undistribute_table('places');
TABLE names;
SELECT pg_get_statisticsobjdef(oid) FROM pg_statistic_ext WHERE stxrelid = 'places'::regclass ORDER BY stxname;
SELECT count(*) FROM pg_stats_ext WHERE tablename = 'places';
SELECT count(*) FROM pg_statistic_ext_data d JOIN pg_statistic_ext e ON e.oid = d.stxoid WHERE stxrelid = 'places'::regclass;
CREATE STATISTICS gone ON a, b FROM kinds;
SELECT count(*) FROM names;
DROP TABLE places, kinds CASCADE;
TABLE names;
SELECT count(*) FROM dbscale.run_on_nodes($$SELECT stxname FROM pg_statistic_ext WHERE stxnamespace = 'dbscale_shards'::regnamespace$$) WHERE result <> '0';

\set VERBOSITY terse
SET client_min_messages = error;
DROP SCHEMA stats CASCADE;
SELECT dbscale.remove_node(node) FROM dbscale.nodes WHERE node LIKE 'stats_';
DELETE FROM dbscale.job WHERE relation LIKE 'stats.%';
