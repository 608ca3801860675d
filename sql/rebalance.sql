-- What would be moved: reads and writes per shard, plans, and how good they are.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
CREATE SCHEMA reb;
SET search_path = reb;
SELECT dbscale.add_local_node('reb' || n) FROM generate_series(1, 2) n;

-- nothing to plan with
SELECT * FROM dbscale.rebalance_plan();
SELECT * FROM dbscale.drain_plan('reb1');

CREATE TABLE people (id int PRIMARY KEY, name text);
CREATE TABLE pets (id int, person int, name text, PRIMARY KEY (person, id));
CREATE TABLE kinds (id int PRIMARY KEY, name text);
SELECT dbscale.distribute_table('people', 'id', shard_count => 8);
SELECT dbscale.distribute_table('pets', 'person', colocate_with => 'people');
SELECT dbscale.distribute_reference('kinds');
INSERT INTO people SELECT i, 'somebody' FROM generate_series(1, 800) i;
INSERT INTO pets SELECT i, i, 'pet' FROM generate_series(1, 800) i;
INSERT INTO kinds VALUES (1, 'cat');

-- reads and writes: one for each statement and shard, for colocated tables together
CREATE VIEW load AS SELECT sum(reads) AS reads, sum(writes) AS writes, count(*) FILTER (WHERE reads > 0) AS read_shards,
                           count(*) FILTER (WHERE writes > 0) AS written_shards FROM dbscale.shards WHERE relation = 'people'::regclass;
SELECT dbscale.reset_shard_load();
TABLE load;
SELECT dbscale.shard_for('people', 1) AS one \gset
-- the router
SELECT name FROM people WHERE id = 1;
SELECT p.name FROM people p JOIN pets USING (name) WHERE p.id = 1 AND person = 1;
UPDATE people SET name = 'one' WHERE id = 1;
INSERT INTO people VALUES (1, 'again') ON CONFLICT DO NOTHING;
SELECT relation, shard = :one AS it, reads, writes FROM dbscale.shards WHERE reads > 0 OR writes > 0 ORDER BY relation::text;
SELECT dbscale.reset_shard_load();
EXPLAIN (COSTS OFF) SELECT count(*) FROM people;
TABLE load;
-- the fan-out, and its keys
SELECT count(*) FROM people JOIN pets ON person = people.id;
TABLE load;
SELECT count(*) FROM people WHERE id IN (1, 1, 1);
TABLE load;
SELECT dbscale.reset_shard_load();
-- writes shard by shard, row by row, and of rows; core's own scans
UPDATE people SET name = name || '.';
TABLE load;
INSERT INTO people SELECT 1000 + i, 'new' FROM generate_series(1, 800) i;
TABLE load;
COPY people FROM stdin;
3001	a
3002	b
\.
SELECT reads, writes BETWEEN 17 AND 18 AS copied FROM load;
SELECT dbscale.reset_shard_load();
DELETE FROM people WHERE id > 1000 AND name <> (SELECT name FROM kinds WHERE id = 1) AND random() < 2;
TABLE load;
SELECT dbscale.reset_shard_load();
-- a reference table has no shards, and its copies are not counted
UPDATE kinds SET name = 'dog';
TABLE load;
-- the counts belong to the shards of this database's tables
SELECT count(*), sum(reads), sum(writes) FROM dbscale.shard_load();

-- balanced: an empty plan, by any measure
ANALYZE people, pets;
SELECT by, (SELECT count(*) FROM dbscale.rebalance_plan(by)) AS moves FROM unnest('{bytes,rows,shards,load}'::text[]) by;
SELECT * FROM dbscale.rebalance_plan('money');
SELECT * FROM dbscale.rebalance_plan(NULL);

-- a node comes: shards go there, colocated tables as one
CREATE VIEW plan AS SELECT step, relation, shard, from_node, to_node, bytes > 0 AS has_bytes FROM dbscale.rebalance_plan('shards');
SELECT dbscale.add_local_node('reb3');
TABLE plan;
SELECT count(*) = 2 AS two, min(p.bytes) = min(s.bytes) AS of_all_tables
FROM dbscale.rebalance_plan('shards') p, LATERAL (SELECT sum(bytes) AS bytes FROM dbscale.shards s WHERE s.shard = p.shard) s;
SET dbscale.rebalance_threshold = 50;
TABLE plan;
SET dbscale.rebalance_threshold = 1001;
RESET dbscale.rebalance_threshold;

-- capacities
SELECT dbscale.set_node_capacity('reb3', 0);
SELECT dbscale.set_node_capacity('reb3', 'NaN');
SELECT dbscale.set_node_capacity('reb3', NULL);
SELECT dbscale.set_node_capacity('nobody', 2);
SELECT dbscale.set_node_capacity('reb3', 2);
SELECT node, capacity FROM dbscale.nodes WHERE node ~ '^reb' ORDER BY node;
TABLE plan;
SELECT dbscale.set_node_capacity('reb3', 0.01);
TABLE plan;
SELECT dbscale.set_node_capacity('reb3', 1);

-- by load: the shard that is asked for all the time has its node to itself
SELECT dbscale.reset_shard_load();
SELECT count(*) FROM dbscale.rebalance_plan('load');
DO $$ DECLARE busy int; other int; BEGIN
    SELECT min(id) FILTER (WHERE shard = 0), min(id) FILTER (WHERE shard = 2) INTO busy, other
    FROM (SELECT id, dbscale.shard_for('people', id) AS shard FROM people) p;
    PERFORM dbscale.reset_shard_load();
    FOR i IN 1 .. 30 LOOP
        PERFORM name FROM people WHERE id = busy;
        UPDATE people SET name = 'busy' WHERE id = busy;
        PERFORM name FROM people WHERE id = other;
    END LOOP;
END $$;
SELECT shard, reads, writes FROM dbscale.shards WHERE relation = 'people'::regclass AND (reads > 0 OR writes > 0) ORDER BY shard;
SELECT relation, shard, from_node, to_node FROM dbscale.rebalance_plan('load');

-- a node that is disabled gives nothing and gets nothing
SELECT dbscale.disable_node('reb3');
TABLE plan;
SELECT * FROM dbscale.drain_plan('reb3');
SELECT dbscale.enable_node('reb3');

-- drain: as one plan, or with all that is out of balance
SELECT from_node, to_node, count(*), count(DISTINCT shard) FROM dbscale.drain_plan('reb1') GROUP BY from_node, to_node ORDER BY 1, 2;
SELECT * FROM dbscale.drain_plan('nobody');
SELECT * FROM dbscale.drain_plan(NULL);
SELECT dbscale.set_node_state('reb1', 'draining');
SELECT from_node, to_node, count(*) FROM dbscale.rebalance_plan('shards') GROUP BY from_node, to_node ORDER BY 1, 2;
SELECT dbscale.set_node_state('reb2', 'draining');
SELECT from_node, to_node, count(*) FROM dbscale.rebalance_plan('shards') GROUP BY from_node, to_node ORDER BY 1, 2;
SELECT dbscale.set_node_state('reb3', 'draining');
SELECT * FROM dbscale.rebalance_plan('shards');
SELECT * FROM dbscale.drain_plan('reb1');
SELECT dbscale.set_node_state('reb' || n, 'enabled') FROM generate_series(1, 3) n;

-- what is pinned stays, and the others make room for it
CREATE TABLE customers (id int, region text, PRIMARY KEY (region, id));
SELECT dbscale.distribute_table('customers', 'region', strategy => 'list', bounds =>
    '{"eu": {"values": ["eu"], "node": "reb1"}, "us": {"values": ["us"], "node": "reb1"}, "asia": {"values": ["asia"], "node": "reb1"}, "rest": ["africa"]}');
SELECT relation, count(*) FROM dbscale.rebalance_plan('shards') GROUP BY relation ORDER BY relation::text;
SELECT from_node, count(*) FROM dbscale.rebalance_plan('shards') GROUP BY from_node ORDER BY 1;
SELECT * FROM dbscale.drain_plan('reb1');
SELECT dbscale.set_node_state('reb1', 'draining');
SELECT from_node, count(*), count(*) FILTER (WHERE relation = 'customers'::regclass) AS customers FROM dbscale.rebalance_plan('shards') GROUP BY from_node ORDER BY 1;
SELECT dbscale.set_node_state('reb1', 'enabled');

-- sizes that nobody knows are an error, not a guess
\set VERBOSITY terse
SET client_min_messages = error;
SELECT current_setting('port') AS port \gset
ALTER SERVER reb2 OPTIONS (SET port '1');
SELECT count(*) FROM dbscale.rebalance_plan();
ALTER SERVER reb2 OPTIONS (SET port :'port');
SET client_min_messages = warning;
\set VERBOSITY default

-- anybody may look, as at dbscale.shards; nobody else may set
CREATE ROLE dbscale_reb_role;
SET ROLE dbscale_reb_role;
SELECT count(*) > 0 AS planned FROM dbscale.rebalance_plan('shards');
SELECT dbscale.set_node_capacity('reb1', 2);
SELECT dbscale.reset_shard_load();
SELECT dbscale.rebalance_is_due('');
SELECT dbscale.balance_internal('{1}', '{t}', '{1}', '{1}', '{1}', '{1}', '{f}', 0.1);
RESET ROLE;
GRANT EXECUTE ON FUNCTION dbscale.set_node_capacity TO dbscale_reb_role;
SET ROLE dbscale_reb_role;
SELECT dbscale.set_node_capacity('reb1', 2);
RESET ROLE;
DROP OWNED BY dbscale_reb_role;
DROP ROLE dbscale_reb_role;

-- auto_rebalance: at the second look in the window that finds a plan
DROP TABLE customers;
SELECT format('%s-%s', to_char(now() - interval '2 hours', 'HH24:MI'), to_char(now() + interval '2 hours', 'HH24:MI')) AS inside,
       format('%s-%s', to_char(now() + interval '2 hours', 'HH24:MI'), to_char(now() + interval '4 hours', 'HH24:MI')) AS outside \gset
SELECT dbscale.rebalance_is_due(''), dbscale.rebalance_is_due('');
SET dbscale.rebalance_threshold = 100;
SELECT dbscale.rebalance_is_due('');
RESET dbscale.rebalance_threshold;
SELECT dbscale.rebalance_is_due(:'inside'), dbscale.rebalance_is_due(:'inside');
SELECT dbscale.rebalance_is_due(:'outside');
SELECT dbscale.rebalance_is_due(:'inside'), dbscale.rebalance_is_due(:'inside');
ALTER SYSTEM SET dbscale.auto_rebalance_window = '1-2';
ALTER SYSTEM SET dbscale.auto_rebalance_window = '01:00-01:00';
ALTER SYSTEM SET dbscale.auto_rebalance_window = '01:60-02:00';
ALTER SYSTEM SET dbscale.auto_rebalance_window = '01:00-24:01';
ALTER SYSTEM SET dbscale.auto_rebalance_window = '01:00-02:00 ';
ALTER SYSTEM SET dbscale.auto_rebalance_window = '22:30-24:00';
ALTER SYSTEM RESET dbscale.auto_rebalance_window;
SHOW dbscale.auto_rebalance;

-- a fifth node beside four equal ones: at most 1.1 times the least that has to leave the four
SELECT dbscale.add_local_node('reb4');
CREATE TABLE big (id int PRIMARY KEY, filler text);
SELECT dbscale.distribute_table('big', 'id', shard_count => 32);
INSERT INTO big SELECT i, repeat('x', 500) FROM generate_series(1, 8000) i;
DROP VIEW load, plan;
DROP TABLE people, pets;
SELECT count(*) FROM dbscale.rebalance_plan();
SELECT dbscale.add_local_node('reb5');
CREATE TABLE planned AS SELECT p.*, (SELECT count(*) FROM big WHERE dbscale.shard_for('big', id) = shard) AS shard_rows FROM dbscale.rebalance_plan() p;
SELECT count(*) > 0 AS planned, bool_and(to_node = 'reb5') AS to_the_fifth, sum(bytes) <= 1.1 * min(least) AS few_bytes,
       count(DISTINCT from_node) AS from_all, array_agg(step ORDER BY step) = array_agg(row_number ORDER BY step) AS steps
FROM (SELECT *, row_number() OVER (ORDER BY step)::int FROM planned) p,
     LATERAL (SELECT sum(greatest(bytes - (SELECT sum(bytes) FROM dbscale.shards) / 5 * 1.1, 0)) AS least
              FROM (SELECT sum(bytes) AS bytes FROM dbscale.shards GROUP BY node) n) l;
-- carried out, by hand, there is nothing more to do
BEGIN;
SELECT count(*) > 0 AS made
FROM planned, LATERAL dbscale.run_on_nodes(format($$DO 'BEGIN IF current_database() LIKE ''%%\_reb5%%'' THEN CREATE TABLE dbscale_shards.big_%s (id int PRIMARY KEY, filler text);
    INSERT INTO dbscale_shards.big_%s SELECT i, repeat(''x'', 500) FROM generate_series(1, %s) i; END IF; END'$$, shard, shard, shard_rows));
UPDATE dbscale.shard s SET node = 'reb5' FROM planned p WHERE s.shard = p.shard;
SELECT * FROM dbscale.rebalance_plan();
ROLLBACK;
DROP TABLE planned, big;

-- ---- the algorithm alone, over numbers ----
CREATE FUNCTION plan(capacity float8[], node int[], weight bigint[], threshold float8 DEFAULT 0.1, bytes bigint[] DEFAULT NULL, takes boolean[] DEFAULT NULL,
                     fixed boolean[] DEFAULT NULL, groups int[] DEFAULT NULL) RETURNS int[] LANGUAGE sql AS
$$ SELECT dbscale.balance_internal(capacity, coalesce(takes, array_fill(true, ARRAY[cardinality(capacity)])), node, coalesce(groups, array_fill(1, ARRAY[cardinality(node)])),
                                   weight, coalesce(bytes, weight), coalesce(fixed, array_fill(false, ARRAY[cardinality(node)])), threshold) $$;
-- the example of balance.c, and its second part
SELECT plan('{1,1,1}', '{1,1,1,2,3}', '{6,5,4,9,6}');
SELECT plan('{1,1,1}', '{1,1,1,1,2,3}', '{6,5,3,1,9,6}');
-- a giant on one node: nothing is done about it, but what is beside it leaves
SELECT plan('{1,1,1}', '{1,1,2,2,3}', '{100,10,10,10,20}');
-- pinned shards that are more than a fair share: the others share the rest
SELECT plan('{1,1,1}', '{1,1,2,2,2,2}', '{60,10,10,10,10,10}', fixed => '{t,f,f,f,f,f}');
-- shards too coarse for the threshold: the best there is, then nothing
SELECT plan('{1,1}', '{1,1,1}', '{10,10,10}'), plan('{1,1}', '{1,1,2}', '{10,10,10}');
-- no weight: nothing to balance
SELECT plan('{1,1}', '{1,1,1}', '{0,0,0}');
-- one node
SELECT plan('{1}', '{1,1,1}', '{1,2,3}');
-- a heavy shard pushes lighter ones out of the node that has the capacity for it
SELECT plan('{1,2,1}', '{1,2,1,2,2,2}', '{100,36,3,28,22,1}', 0.05);
-- the cheapest shards move
SELECT plan('{1,1}', '{1,1,1,1}', '{1,1,1,1}', bytes => '{50,10,40,20}');
-- emptying: heaviest first; the group's shards apart where it costs nothing
SELECT plan('{1,1,1}', '{1,1,1,1,2,3}', '{5,5,5,5,10,10}', takes => '{f,t,t}');
SELECT plan('{1,1,1}', '{1,1,1,1,2,2,3,3}', '{5,5,5,5,5,5,5,5}', takes => '{f,t,t}', groups => '{1,1,2,2,1,1,2,2}');
-- a new node takes as many of one group as of the other
SELECT plan('{1,1,1}', '{1,1,1,1,1,1,2,2,2,2,2,2}', '{5,5,5,5,5,5,5,5,5,5,5,5}', groups => '{1,1,1,2,2,2,1,1,1,2,2,2}');

-- a number from 0 to n - 1, the same everywhere
CREATE FUNCTION pick(seed text, n int) RETURNS int IMMUTABLE LANGUAGE sql AS
$$ SELECT ('x' || substr(md5(seed), 1, 7))::bit(28)::int % n $$;
CREATE FUNCTION loads(place int[], weight bigint[], nodes int) RETURNS numeric[] IMMUTABLE LANGUAGE sql AS
$$ SELECT array_agg((SELECT coalesce(sum(w), 0) FROM unnest(place, weight) u(p, w) WHERE p = n) ORDER BY n) FROM generate_series(1, nodes) n $$;
CREATE FUNCTION cost(place int[], node int[], bytes bigint[]) RETURNS bigint IMMUTABLE LANGUAGE sql AS
$$ SELECT coalesce(sum(b), 0)::bigint FROM unnest(place, node, bytes) u(p, n, b) WHERE p <> n $$;
-- the fullest node, in percent of its fair share
CREATE FUNCTION worst(load numeric[], capacity float8[]) RETURNS numeric IMMUTABLE LANGUAGE sql AS
$$ SELECT round(max(100 * l * (SELECT sum(x) FROM unnest(capacity) x)::numeric / (c::numeric * (SELECT sum(x) FROM unnest(load) x))), 6) FROM unnest(load, capacity) u(l, c) $$;

-- every assignment of up to 8 shards to up to 3 nodes: the best balance, and the fewest bytes for the threshold or, where it cannot be reached, for the best
CREATE FUNCTION optimum(capacity float8[], node int[], weight bigint[], bytes bigint[], threshold int, OUT worst numeric, OUT bytes bigint) LANGUAGE sql AS $$
    WITH RECURSIVE assignment AS (
        SELECT 0 AS shards, 0::bigint AS l1, 0::bigint AS l2, 0::bigint AS l3, 0::bigint AS cost
        UNION ALL
        SELECT shards + 1, l1 + CASE n WHEN 1 THEN weight[shards + 1] ELSE 0 END, l2 + CASE n WHEN 2 THEN weight[shards + 1] ELSE 0 END,
               l3 + CASE n WHEN 3 THEN weight[shards + 1] ELSE 0 END, cost + CASE WHEN n <> node[shards + 1] THEN bytes[shards + 1] ELSE 0 END
        FROM assignment, generate_series(1, cardinality(capacity)) n WHERE shards < cardinality(node)),
    rated AS (SELECT round(100 * greatest(l1 / capacity[1]::numeric, l2 / capacity[2]::numeric, l3 / capacity[3]::numeric)
                           * (SELECT sum(c) FROM unnest(capacity) c)::numeric / (SELECT sum(w) FROM unnest(weight) w), 6) AS worst, cost
              FROM assignment WHERE shards = cardinality(node)),
    balance AS MATERIALIZED (SELECT min(r.worst) AS best FROM rated r)
    SELECT greatest(best, 100 + threshold), min(cost) FILTER (WHERE worst <= greatest(best, 100 + threshold))
    FROM rated, balance GROUP BY best
$$;

CREATE TABLE instance AS
SELECT id, kind, threshold, capacity, node, weight, CASE WHEN kind = 'unlike' THEN bytes ELSE weight END AS bytes
FROM generate_series(1, 400) id,
     -- the weights, and the bytes: the same, but for the unlike ones
     LATERAL (SELECT (ARRAY['uniform', 'skewed', 'unlike', 'nearly equal'])[1 + id % 4] AS kind, (ARRAY[10, 10, 5, 25])[1 + pick(id || 't', 4)] AS threshold,
                     2 + pick(id || 'nodes', 2) AS nodes, 3 + pick(id || 'shards', 6) AS shards) k,
     LATERAL (SELECT array_agg(CASE pick(id || 'capacity', 3) WHEN 0 THEN 1 + pick(id || 'c' || n, 3) ELSE 1 END::float8 ORDER BY n) AS capacity
              FROM generate_series(1, nodes) n) c,
     -- a third of them begin with a node that is empty
     LATERAL (SELECT array_agg(1 + pick(id || 'n' || s, CASE pick(id || 'empty', 3) WHEN 0 THEN nodes - 1 ELSE nodes END) ORDER BY s) AS node,
                     array_agg(CASE kind WHEN 'skewed' THEN (1 + pick(id || 'w' || s, 30)) ^ 2 WHEN 'nearly equal' THEN 90 + pick(id || 'w' || s, 20)
                                         ELSE 1 + pick(id || 'w' || s, 100) END::bigint ORDER BY s) AS weight,
                     array_agg(1 + pick(id || 'b' || s, 100)::bigint ORDER BY s) AS bytes
              FROM generate_series(1, shards) s) p;
CREATE TABLE outcome AS
SELECT i.*, place, worst(loads(node, weight, cardinality(capacity)), capacity) AS worst_before, worst(loads(place, weight, cardinality(capacity)), capacity) AS worst,
       cost(place, node, i.bytes) AS cost, o.worst AS best_worst, o.bytes AS best_cost
FROM instance i, LATERAL plan(capacity, node, weight, threshold / 100.0, bytes) place, LATERAL optimum(capacity, node, weight, i.bytes, threshold) o;
-- where the threshold can be reached: how often it is; then how often with the fewest bytes, all bytes over the fewest, and the worst
SELECT count(*) AS reachable, count(*) FILTER (WHERE reached) AS reached, count(*) FILTER (WHERE reached AND cost = best_cost) AS best,
       round(sum(cost) FILTER (WHERE reached) / sum(best_cost) FILTER (WHERE reached), 4) AS total, round(max(cost / nullif(best_cost, 0)::numeric) FILTER (WHERE reached), 2) AS worst
FROM (SELECT *, worst <= best_worst AS reached FROM outcome WHERE best_worst = 100 + threshold) o;
-- where it can't: how often the best balance is found, and how far from it the others are, in points
SELECT count(*) AS unreachable, count(*) FILTER (WHERE worst <= best_worst) AS best, round(avg(worst - best_worst), 2) AS mean_gap, round(max(worst - best_worst), 1) AS greatest_gap
FROM outcome WHERE best_worst > 100 + threshold;
-- no plan makes it worse, is made without need, or is followed by another
SELECT count(*) FILTER (WHERE worst > worst_before) AS worse, count(*) FILTER (WHERE worst_before <= 100 + threshold AND cost > 0) AS needless,
       count(*) FILTER (WHERE plan(capacity, place, weight, threshold / 100.0, bytes) <> place) AS repeated
FROM outcome;
-- nor with groups, pinned shards and a node that is emptied: pinned ones stay, the others leave it, and that is that
SELECT count(*) AS instances,
       count(*) FILTER (WHERE EXISTS (SELECT FROM unnest(node, place, fixed) u(n, p, f) WHERE f AND n <> p)) AS unpinned,
       count(*) FILTER (WHERE EXISTS (SELECT FROM unnest(place, fixed) u(p, f) WHERE p = 1 AND NOT f)) AS not_emptied,
       count(*) FILTER (WHERE plan(capacity, place, weight, threshold / 100.0, bytes, takes, fixed, groups) <> place) AS repeated
FROM (SELECT i.*, array_fill(true, ARRAY[cardinality(capacity) - 1]) AS others FROM instance i) i,
     LATERAL (SELECT array_agg(pick(id || 'f' || s, 4) = 0 ORDER BY s) AS fixed, array_agg(1 + pick(id || 'g' || s, 3) ORDER BY s) AS groups FROM generate_series(1, cardinality(node)) s) f,
     LATERAL (SELECT false || others AS takes) t,
     LATERAL plan(capacity, node, weight, threshold / 100.0, bytes, takes, fixed, groups) place;

-- a fifth node beside four equal ones, with sizes as they are: 0.8 to 1.3 GB, or between 0.5 and 6 GB, many of them small
-- Nothing less can leave a node than its lightest set of shards that is heavy enough; where shards are many, than what it has above its bound.
CREATE FUNCTION lightest(weights bigint[], excess numeric) RETURNS numeric LANGUAGE sql AS $$
    WITH RECURSIVE chosen AS (
        SELECT 0 AS shards, 0::bigint AS weight
        UNION ALL
        SELECT shards + 1, weight + CASE n WHEN 1 THEN weights[shards + 1] ELSE 0 END
        FROM chosen, generate_series(0, 1) n WHERE shards < cardinality(weights))
    SELECT CASE WHEN cardinality(weights) > 12 THEN greatest(excess, 0)
                ELSE (SELECT min(weight) FROM chosen WHERE shards = cardinality(weights) AND weight >= excess) END
$$;
SELECT per_node, kind, max(moved / least) <= 1.1 AS few_bytes, max(worst) <= 110 AS balanced, bool_and(again = place) AS once
FROM (VALUES (8), (12), (32), (128)) v(per_node), (VALUES ('alike'), ('skewed')) k(kind), generate_series(1, 2) seed,
     LATERAL (SELECT array_agg(1 + s % 4 ORDER BY s) AS node, array_agg((CASE kind WHEN 'alike' THEN 800 + pick(seed || 's' || s, 500)
                                                                         ELSE 500 * exp(2.5 * pick(seed || 's' || s, 1000) / 1000) END)::bigint ORDER BY s) AS weight
              FROM generate_series(0, 4 * per_node - 1) s) i,
     LATERAL plan('{1,1,1,1,1}', node, weight) place, LATERAL plan('{1,1,1,1,1}', place, weight) again,
     LATERAL (SELECT cost(place, node, weight)::numeric AS moved, worst(loads(place, weight, 5), '{1,1,1,1,1}') AS worst,
                     (SELECT sum(lightest(weights, (SELECT sum(l) FROM unnest(weights) l) - 1.1 * (SELECT sum(w) FROM unnest(weight) w) / 5))
                      FROM (SELECT array_agg(w) AS weights FROM unnest(node, weight) u(n, w) GROUP BY n) n) AS least) o
GROUP BY per_node, kind ORDER BY per_node, kind;

DROP SCHEMA reb CASCADE;
SELECT dbscale.remove_node('reb' || n) FROM generate_series(1, 5) n;
