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
