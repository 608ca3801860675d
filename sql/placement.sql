-- On which nodes new shards are put: by capacity, and then where the fewest are.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
SELECT count(*) FROM (SELECT dbscale.add_local_node('place1'), dbscale.add_local_node('place2'), dbscale.add_local_node('place3')) n;
CREATE FUNCTION places(relation regclass) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(right(node::text, 1), ' ' ORDER BY shard) FROM dbscale.shards s WHERE s.relation = $1 $$;

-- equal nodes: one after the other, and tables of few shards not all on the first
CREATE TABLE p_a (id int PRIMARY KEY);
SELECT dbscale.distribute_table('p_a', 'id', shard_count => 7), places('p_a');
CREATE TABLE p_b (id int PRIMARY KEY);
CREATE TABLE p_c (id int PRIMARY KEY);
CREATE TABLE p_d (id int PRIMARY KEY);
SELECT dbscale.distribute_table('p_b', 'id', shard_count => 1), places('p_b');
SELECT dbscale.distribute_table('p_c', 'id', shard_count => 1), places('p_c');
SELECT dbscale.distribute_table('p_d', 'id', shard_count => 2), places('p_d');
DROP TABLE p_a, p_b, p_c, p_d;

-- by capacity
SELECT dbscale.set_node_capacity('place3', 2);
CREATE TABLE p_a (id int PRIMARY KEY);
SELECT dbscale.distribute_table('p_a', 'id', shard_count => 8), places('p_a');
SELECT count(*) FROM dbscale.rebalance_plan('shards');
SELECT dbscale.set_node_capacity('place1', 0.1), dbscale.set_node_capacity('place3', 1.7);
CREATE TABLE p_b (id int PRIMARY KEY);
SELECT dbscale.distribute_table('p_b', 'id', shard_count => 10), places('p_b');

-- a node that takes nothing
SELECT dbscale.set_node_capacity('place' || n, 1) FROM generate_series(1, 3) n;
SELECT dbscale.disable_node('place2');
CREATE TABLE p_c (id int PRIMARY KEY);
SELECT dbscale.distribute_table('p_c', 'id', shard_count => 4), places('p_c');
SELECT dbscale.enable_node('place2');
DROP TABLE p_a, p_b, p_c;

-- what is pinned counts, and the rest goes round it
CREATE TABLE p_list (region text PRIMARY KEY);
SELECT dbscale.distribute_table('p_list', 'region', strategy => 'list', bounds =>
    '{"a": ["a"], "b": {"values": ["b"], "node": "place1"}, "c": ["c"], "d": {"values": ["d"], "node": "place1"}, "e": ["e"], "f": ["f"]}');
SELECT label, node, pinned FROM dbscale.shard ORDER BY shard;
SELECT dbscale.add_shard('p_list', '{"g": ["g"]}'), places('p_list');
SELECT dbscale.set_node_capacity('place3', 3);
SELECT dbscale.add_shard('p_list', '{"h": ["h"]}'), dbscale.add_shard('p_list', '{"i": ["i"]}');
SELECT places('p_list');
CREATE TABLE p_range (at int PRIMARY KEY);
SELECT dbscale.distribute_table('p_range', 'at', strategy => 'range', step => '10', bounds => '{"from": 0, "to": 50}'), places('p_range');
DROP TABLE p_list, p_range;
SELECT count(*) FROM (SELECT dbscale.remove_node('place1'), dbscale.remove_node('place2'), dbscale.remove_node('place3')) n;
DROP FUNCTION places;
