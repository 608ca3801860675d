-- Counters of distributed and reference tables.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
SELECT dbscale.add_local_node('c1'), dbscale.add_local_node('c2');
CREATE SCHEMA sharded;
SET search_path = sharded, public;
-- fold all that is pending; the worker may be at it too, and has rows locked then
CREATE PROCEDURE settle(which name) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..200 LOOP
        PERFORM dbscale.fold_counter(which);
        EXIT WHEN (SELECT pending = 0 FROM dbscale.counters WHERE counter = which);
        COMMIT;
        PERFORM pg_sleep(0.05);
    END LOOP;
END $$;
CREATE TABLE posts (id bigint PRIMARY KEY, title text, like_count bigint NOT NULL DEFAULT 0, strong int, last int, hot bigint NOT NULL DEFAULT 0);
CREATE TABLE likes (post_id bigint, liker int, w int, ok boolean, PRIMARY KEY (post_id, liker));
SELECT dbscale.distribute_table('posts', 'id', shard_count => 4);
SELECT dbscale.distribute_table('likes', 'post_id', colocate_with => 'posts');
INSERT INTO posts SELECT i, 'post ' || i FROM generate_series(1, 10) i;
INSERT INTO likes SELECT i % 5, i, i, i % 3 = 0 FROM generate_series(1, 40) i;
CREATE VIEW wrong AS SELECT c.counter, v.* FROM dbscale.counters c, LATERAL dbscale.verify_counter(c.counter) v;

SELECT dbscale.create_counter('posts', 'like_count', 'likes', '{id}', '{post_id}');
SELECT dbscale.create_counter('posts', 'strong', 'likes', '{id}', '{post_id}', 'sum', 'w', 'ok');
SELECT dbscale.create_counter('posts', 'last', 'likes', '{id}', '{post_id}', 'max', 'w');
SELECT dbscale.create_counter('posts', 'hot', 'likes', '{id}', '{post_id}', mode => 'buffered');
SELECT * FROM posts ORDER BY id;
SELECT * FROM wrong;

-- every way that a write can take
INSERT INTO likes VALUES (7, 1, 70, true);
INSERT INTO likes SELECT i, 2, i * 2, true FROM generate_series(5, 12) i;
INSERT INTO likes VALUES (7, 1, 3, true) ON CONFLICT (post_id, liker) DO UPDATE SET w = excluded.w;
UPDATE likes SET ok = NOT ok WHERE liker % 2 = 0;
UPDATE likes SET post_id = post_id + 1 WHERE liker = 2 AND post_id = 12;
UPDATE likes SET post_id = 9 WHERE liker < 9 AND post_id = 4;
DELETE FROM likes WHERE post_id = 3 AND w > 30;
COPY likes FROM STDIN (DELIMITER ',');
9,9,9,true
10,9,9,true
11,9,9,true
\.
INSERT INTO posts (id, like_count) SELECT i, 55 FROM generate_series(11, 13) i;
UPDATE posts SET id = 20 WHERE id = 13;
CALL settle('posts_hot');
SELECT * FROM posts ORDER BY id;
SELECT * FROM wrong;
UPDATE posts SET like_count = 0 WHERE id = 1;
BEGIN;
INSERT INTO likes VALUES (1, 77, 77, true), (2, 77, 77, true);
SELECT hot, dbscale.counter_value('posts_hot', id) AS value FROM posts WHERE id = 1;
SELECT pending FROM dbscale.counters WHERE counter = 'posts_hot';
ROLLBACK;
SELECT * FROM wrong;

-- a key moves with its counters
INSERT INTO likes VALUES (2, 78, 78, true);
SELECT dbscale.assign_key('posts', 2, (dbscale.shard_for('posts', 2) + 1) % 4);
SELECT like_count, strong, last, hot FROM posts WHERE id = 2;
SELECT * FROM wrong;
SELECT dbscale.assign_key('posts', 2, (dbscale.shard_for('posts', 2) + 3) % 4);
INSERT INTO likes VALUES (2, 79, 79, true);
SELECT like_count, strong, last FROM posts WHERE id = 2;
SELECT * FROM dbscale.check();

-- a shard moves with them, and what is pending does too
CREATE PROCEDURE move(which int, method text) LANGUAGE plpgsql AS $$
DECLARE
    here name := (SELECT node FROM dbscale.shards WHERE relation = 'posts'::regclass AND shard = which);
BEGIN
    PERFORM dbscale.move_shard('posts', which, CASE here WHEN 'c1' THEN 'c2' ELSE 'c1' END::name, method);
END $$;
CREATE PROCEDURE like_all(liker int) LANGUAGE sql AS $$
    INSERT INTO likes SELECT i, liker, liker, true FROM generate_series(1, 12) i;
$$;
CALL like_all(100);
BEGIN;
CALL like_all(101);
CALL move(0, 'blocking');
CALL like_all(102);
SELECT * FROM wrong;
SELECT count(*), min(dbscale.counter_value('posts_hot', id)::int - like_count) AS min, max(dbscale.counter_value('posts_hot', id)::int - like_count) AS max FROM posts;
CALL move(0, 'blocking');
CALL like_all(103);
SELECT * FROM wrong;
COMMIT;
SELECT * FROM dbscale.check();
BEGIN;
CALL move(1, 'blocking');
CALL like_all(104);
ROLLBACK;
SELECT * FROM wrong;
SELECT * FROM dbscale.check();
CALL move(1, 'online');
CALL like_all(105);
DELETE FROM likes WHERE liker = 104;
UPDATE likes SET post_id = 20 WHERE liker = 101 AND post_id = 9;
CALL move(1, 'online');
CALL like_all(106);
SELECT * FROM wrong;
DO $$
BEGIN
    FOR i IN 1..300 LOOP
        EXIT WHEN NOT EXISTS (SELECT FROM dbscale.cleanup);
        PERFORM pg_sleep(0.1);
        COMMIT;
    END LOOP;
END $$;
SELECT * FROM dbscale.check();
CALL settle('posts_hot');
SELECT count(*), bool_and(like_count = hot) FROM posts;

-- shards are split and merged with them, pending deltas and all; nothing is left of shards that are no more
CREATE VIEW beside AS
    SELECT o::int AS shard, count(*) FROM dbscale.run_on_nodes($$
        SELECT string_agg(n, ' ') FROM (
            SELECT substring(relname FROM '^posts_hot_deltas_(\d+)$') FROM pg_class WHERE relnamespace = 'dbscale_shards'::regnamespace AND relkind = 'r'
            UNION ALL SELECT substring(proname FROM '^(?:posts_hot_fold|posts|likes)_(\d+)') FROM pg_proc WHERE pronamespace = 'dbscale_shards'::regnamespace) o(n)$$) r,
        regexp_split_to_table(r.result, ' ') o GROUP BY 1;
TABLE beside ORDER BY 1;
CALL like_all(107);
SELECT dbscale.split_shard('posts', 0, 3);
CALL like_all(108);
SELECT * FROM wrong;
TABLE beside ORDER BY 1;
SELECT dbscale.isolate_key('posts', 5) > 0 AS isolated;
DELETE FROM likes WHERE liker = 107;
UPDATE likes SET post_id = 5 WHERE post_id = 9 AND liker = 9;
INSERT INTO posts (id) VALUES (50);
INSERT INTO likes VALUES (50, 1, 1, true);
SELECT * FROM wrong;
SELECT dbscale.merge_shards('posts', 4, 0);
SELECT dbscale.split_shard('posts', 3);
CALL like_all(109);
DELETE FROM likes WHERE post_id = 50;
DELETE FROM posts WHERE id = 50;
SELECT * FROM wrong;
SELECT * FROM dbscale.check();
-- DDL finds its way to the new shards
ALTER TABLE posts RENAME COLUMN strong TO mighty;
CALL like_all(110);
ALTER TABLE posts RENAME COLUMN mighty TO strong;
CALL like_all(111);
SELECT * FROM wrong;
DELETE FROM likes WHERE liker > 107;
CALL settle('posts_hot');
SELECT count(*), bool_and(like_count = hot) FROM posts;
SELECT s.shard, b.count FROM dbscale.shards s FULL JOIN beside b ON b.shard = s.shard WHERE s.relation = 'posts'::regclass OR s.relation IS NULL ORDER BY 1;
DROP VIEW beside;

-- repaired
SELECT count(*) FROM dbscale.run_on_shards('likes', 'ALTER TABLE %s DISABLE TRIGGER USER');
DELETE FROM likes WHERE post_id IN (1, 2);
SELECT count(*) FROM dbscale.run_on_shards('likes', 'ALTER TABLE %s ENABLE TRIGGER USER');
SELECT * FROM wrong ORDER BY 1, 2;
SELECT counter, dbscale.repair_counter(counter) FROM dbscale.counter ORDER BY 1;
SELECT * FROM wrong;

-- DDL is carried
ALTER TABLE posts RENAME COLUMN like_count TO "like count";
ALTER TABLE likes RENAME TO hearts;
ALTER TABLE posts DROP COLUMN title;
ALTER TABLE hearts DROP COLUMN w;
SELECT dbscale.undistribute_table('posts');
DELETE FROM hearts WHERE post_id = 0;
INSERT INTO posts SELECT DISTINCT post_id FROM hearts ON CONFLICT DO NOTHING;
ALTER TABLE hearts ADD FOREIGN KEY (post_id) REFERENCES posts ON DELETE CASCADE;
INSERT INTO hearts VALUES (4, 500, 500, true);
DELETE FROM posts WHERE id IN (3, 7);
INSERT INTO posts (id) VALUES (3);
CALL settle('posts_hot');
SELECT * FROM posts WHERE id IN (3, 4) ORDER BY id;
SELECT * FROM wrong;
ALTER TABLE hearts DROP CONSTRAINT hearts_post_id_fkey;
TRUNCATE hearts;
SELECT DISTINCT "like count", strong, last, hot FROM posts;

-- a column goes with its type, and a key with its index
CREATE DOMAIN weight AS int;
SELECT node FROM dbscale.run_on_nodes('CREATE SCHEMA sharded CREATE TABLE nothing ()') ORDER BY 1;
SELECT node FROM dbscale.run_on_nodes('CREATE DOMAIN sharded.weight AS int') ORDER BY 1;
CREATE TABLE boxes (id int PRIMARY KEY, total int, heavy int);
CREATE TABLE things (box int, no int, kilos weight, colour int);
SELECT dbscale.distribute_table('boxes', 'id', shard_count => 2), dbscale.distribute_table('things', 'box', colocate_with => 'boxes');
SELECT dbscale.create_counter('boxes', 'total', 'things', '{id}', '{box}', 'sum', 'colour'),
       dbscale.create_counter('boxes', 'heavy', 'things', '{id}', '{box}', filter => 'kilos > 3', mode => 'buffered');
DROP DOMAIN weight CASCADE;
CREATE UNIQUE INDEX boxes_2 ON boxes (id);
ALTER TABLE boxes DROP CONSTRAINT boxes_pkey;
DROP INDEX boxes_2;
CREATE UNIQUE INDEX boxes_3 ON boxes (id);
DROP INDEX boxes_2;
SELECT dbscale.drop_counter('boxes_heavy');
DROP DOMAIN weight CASCADE;
INSERT INTO boxes (id) VALUES (1), (2);
INSERT INTO things VALUES (1, 1, 3), (1, 2, 4), (2, 1, 7);
SELECT * FROM boxes ORDER BY id;
SELECT * FROM wrong;
SELECT * FROM dbscale.check();
DROP TABLE things, boxes;

-- new shards have counters too
CREATE TABLE days (day int PRIMARY KEY, events bigint, seen bigint);
CREATE TABLE events (day int, what int);
SELECT dbscale.distribute_table('days', 'day', 'range', step => '10', bounds => '{"from": 0, "to": 20}');
SELECT dbscale.distribute_table('events', 'day', 'range', colocate_with => 'days');
SELECT dbscale.create_counter('days', 'events', 'events', '{day}', '{day}');
SELECT dbscale.create_counter('days', 'seen', 'events', '{day}', '{day}', mode => 'buffered');
SELECT dbscale.add_shard('days', '{"from": 20, "to": 30}');
INSERT INTO days (day) VALUES (5), (25);
INSERT INTO events VALUES (5, 1), (25, 1), (25, 2);
SELECT day, events, dbscale.counter_value('days_seen', day) AS seen FROM days ORDER BY 1;

-- reference tables: where they are written
CREATE TABLE tags (id int PRIMARY KEY, uses int);
CREATE TABLE taggings (tag int, post bigint);
SELECT dbscale.distribute_reference('tags');
INSERT INTO tags (id) VALUES (1), (2);
SELECT dbscale.create_counter('tags', 'uses', 'taggings', '{id}', '{tag}');
INSERT INTO taggings VALUES (1, 1), (1, 2), (2, 1);
SELECT * FROM tags ORDER BY id;
SELECT node, result FROM dbscale.run_on_nodes('SELECT string_agg(id || '':'' || uses, '' '' ORDER BY id) FROM dbscale_shards.tags') ORDER BY 1;
SELECT dbscale.distribute_table('taggings', 'tag');

-- not colocated
CREATE TABLE views (id int PRIMARY KEY, post_id bigint);
SELECT dbscale.create_counter('posts', 'last', 'views', '{id}', '{post_id}');
SELECT dbscale.drop_counter('posts_last');
SELECT dbscale.create_counter('posts', 'last', 'views', '{id}', '{post_id}');
SELECT dbscale.distribute_table('views', 'id');
SELECT dbscale.create_counter('posts', 'last', 'views', '{id}', '{post_id}');
SELECT dbscale.create_counter('days', 'day', 'events', '{events}', '{what}');

-- tables with counters are distributed, and back again, together
CREATE TABLE shops (id int PRIMARY KEY, orders int, total numeric, best int, seen bigint);
CREATE TABLE orders (shop int, no int, amount int, PRIMARY KEY (shop, no));
CREATE TABLE visits (shop int, at int);
ALTER TABLE orders ADD FOREIGN KEY (shop) REFERENCES shops;
INSERT INTO shops SELECT generate_series(1, 9);
SELECT dbscale.create_counter('shops', 'orders', 'orders', '{id}', '{shop}');
SELECT dbscale.create_counter('shops', 'total', 'orders', '{id}', '{shop}', 'sum', 'amount', mode => 'buffered');
SELECT dbscale.create_counter('shops', 'best', 'orders', '{id}', '{shop}', 'max', 'amount');
SELECT dbscale.create_counter('shops', 'seen', 'visits', '{id}', '{shop}', mode => 'buffered');
INSERT INTO orders SELECT i % 9 + 1, i, i FROM generate_series(1, 40) i;
INSERT INTO visits SELECT i % 9 + 1 FROM generate_series(1, 50) i;
SELECT dbscale.distribute_table('shops', 'id');
ALTER TABLE orders DROP CONSTRAINT orders_shop_fkey;
SELECT dbscale.distribute_table('shops', 'id', shard_count => 3);
BEGIN;
SELECT dbscale.distribute_table('shops', 'id', shard_count => 3);
SELECT dbscale.distribute_table('orders', 'shop', colocate_with => 'shops');
SAVEPOINT s;
SELECT dbscale.verify_counter('shops_seen');
ROLLBACK TO s;
SELECT dbscale.repair_counter('shops_seen');
ROLLBACK TO s;
SELECT dbscale.counter_value('shops_seen', 1);
ROLLBACK TO s;
SELECT dbscale.distribute_table('visits', 'at', colocate_with => 'shops');
ROLLBACK TO s;
SELECT counter, pending FROM dbscale.counters WHERE target = 'shops'::regclass ORDER BY 1;
SELECT * FROM dbscale.check();
COMMIT;
SELECT relation FROM dbscale.tables WHERE relation = 'shops'::regclass;
SELECT * FROM wrong;
BEGIN;
SELECT dbscale.distribute_table('shops', 'id', shard_count => 3);
SELECT dbscale.distribute_table('orders', 'shop', colocate_with => 'shops');
INSERT INTO visits VALUES (3);
UPDATE shops SET seen = 5 WHERE id = 3;
INSERT INTO shops VALUES (10, 5, 5, 5, 5);
INSERT INTO orders VALUES (10, 1, 70), (11, 1, 80), (1, 500, 90);
ALTER TABLE visits RENAME COLUMN shop TO "the shop";
SELECT dbscale.distribute_table('visits', 'the shop', colocate_with => 'shops');
SELECT * FROM wrong;
COMMIT;
SELECT * FROM wrong;
SELECT * FROM dbscale.check();
INSERT INTO visits VALUES (10);
INSERT INTO orders VALUES (10, 2, 60);
SELECT id, orders, dbscale.counter_value('shops_total', id) AS total, best, dbscale.counter_value('shops_seen', id) AS seen FROM shops WHERE id IN (1, 3, 10) ORDER BY id;
SELECT count(*) FROM pg_proc WHERE pronamespace = 'dbscale_shards'::regnamespace AND proname LIKE ANY ('{shops%,orders%,visits%}');
DELETE FROM orders WHERE shop = 11;
ALTER TABLE orders ADD FOREIGN KEY (shop) REFERENCES shops ON DELETE CASCADE;
SELECT dbscale.undistribute_table('orders');
BEGIN;
SELECT dbscale.undistribute_table('orders');
SELECT dbscale.undistribute_table('shops');
SELECT dbscale.undistribute_table('visits');
SELECT * FROM wrong;
COMMIT;
DELETE FROM shops WHERE id = 9;
DELETE FROM orders WHERE shop = 9 AND no < 20;
INSERT INTO shops VALUES (9);
INSERT INTO visits VALUES (9);
SELECT id, orders, dbscale.counter_value('shops_total', id) AS total, best, dbscale.counter_value('shops_seen', id) AS seen FROM shops WHERE id IN (1, 3, 9, 10) ORDER BY id;
SELECT * FROM wrong;
SELECT result FROM dbscale.run_on_nodes('SELECT count(*) FROM pg_proc WHERE pronamespace = ''dbscale_shards''::regnamespace AND proname LIKE ANY (''{shops%,orders%,visits%}'')');
-- a counter between them is no reason to keep the other when it is dropped on the way, or its table is
BEGIN;
SELECT dbscale.distribute_table('shops', 'id', shard_count => 2);
SELECT dbscale.drop_counter('shops_seen');
DROP TABLE orders;
COMMIT;
SELECT counter FROM dbscale.counter WHERE target = 'shops'::regclass;
SELECT * FROM dbscale.check();
DROP TABLE shops, visits;
-- reference tables stay where they are written
CREATE TABLE labels (id int PRIMARY KEY, uses int);
CREATE TABLE labelings (label int, post bigint, PRIMARY KEY (label, post));
INSERT INTO labels SELECT generate_series(1, 3);
SELECT dbscale.create_counter('labels', 'uses', 'labelings', '{id}', '{label}');
SELECT dbscale.distribute_reference('labels');
INSERT INTO labelings VALUES (1, 1), (1, 2), (2, 1);
SELECT dbscale.distribute_reference('labelings');
DELETE FROM labelings WHERE post = 2;
SELECT node, result FROM dbscale.run_on_nodes('SELECT string_agg(id || '':'' || uses, '' '' ORDER BY id) FROM dbscale_shards.labels') ORDER BY 1;
SELECT dbscale.undistribute_table('labels'), dbscale.undistribute_table('labelings');
INSERT INTO labelings VALUES (3, 1);
SELECT * FROM labels ORDER BY id;
SELECT * FROM wrong;
-- one that counts its own rows is alone
CREATE TABLE notes (page int, id int, parent int, answers int, PRIMARY KEY (page, id));
SELECT dbscale.create_counter('notes', 'answers', 'notes', '{page,id}', '{page,parent}');
INSERT INTO notes VALUES (1, 1, NULL), (1, 2, 1), (2, 1, NULL), (2, 2, 1), (2, 3, 1);
SELECT dbscale.distribute_table('notes', 'page', shard_count => 2);
INSERT INTO notes VALUES (1, 3, 1);
SELECT * FROM notes ORDER BY page, id;
SELECT dbscale.undistribute_table('notes');
INSERT INTO notes VALUES (1, 4, 3);
SELECT * FROM notes ORDER BY page, id;
DROP TABLE notes, labels, labelings;
-- whoever owns the tables need be no more
CREATE ROLE regress_shopkeeper;
GRANT USAGE ON SCHEMA dbscale TO regress_shopkeeper;
GRANT ALL ON SCHEMA sharded TO regress_shopkeeper;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dbscale TO regress_shopkeeper;
SELECT dbscale.grant_node_access('regress_shopkeeper');
SET ROLE regress_shopkeeper;
CREATE TABLE carts (id int PRIMARY KEY, things int, pieces int);
CREATE TABLE things (cart int, pieces int);
SELECT dbscale.create_counter('carts', 'things', 'things', '{id}', '{cart}'), dbscale.create_counter('carts', 'pieces', 'things', '{id}', '{cart}', 'sum', 'pieces', mode => 'buffered');
INSERT INTO carts SELECT generate_series(1, 4);
INSERT INTO things SELECT i % 4 + 1, i FROM generate_series(1, 10) i;
BEGIN;
SELECT dbscale.distribute_table('carts', 'id', shard_count => 2);
SELECT dbscale.distribute_table('things', 'cart', colocate_with => 'carts');
COMMIT;
INSERT INTO things VALUES (1, 1), (2, 2), (3, 3), (4, 4);
SELECT dbscale.move_shard('carts', 0, CASE dbscale.node_for('carts', k) WHEN 'c1' THEN 'c2' ELSE 'c1' END::name, 'blocking')
FROM (SELECT min(i) AS k FROM generate_series(1, 4) i WHERE dbscale.shard_for('carts', i) = 0) k;
INSERT INTO things VALUES (1, 1), (2, 2), (3, 3), (4, 4);
SELECT id, things, dbscale.counter_value('carts_pieces', id) AS pieces FROM carts ORDER BY id;
BEGIN;
SELECT dbscale.undistribute_table('things');
SELECT dbscale.undistribute_table('carts');
COMMIT;
SELECT * FROM dbscale.verify_counter('carts_pieces');
DROP TABLE carts, things;
RESET ROLE;

-- gone without a trace
SELECT dbscale.drop_counter(counter) FROM dbscale.counter WHERE target = 'days'::regclass;
DROP TABLE hearts;
DROP TABLE posts, views, tags, taggings;
SELECT counter FROM dbscale.counter;
SELECT result FROM dbscale.run_on_nodes('SELECT count(*) FROM pg_proc WHERE pronamespace = ''dbscale_shards''::regnamespace');
SELECT * FROM dbscale.check();
DROP TABLE days, events;
DROP SCHEMA sharded CASCADE;
SELECT dbscale.remove_node('c1'), dbscale.remove_node('c2');
DROP OWNED BY regress_shopkeeper;
DROP ROLE regress_shopkeeper;
