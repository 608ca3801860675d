-- Counters whose tables are not colocated.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
SELECT dbscale.add_local_node('o1'), dbscale.add_local_node('o2');
CREATE SCHEMA apart;
SET search_path = apart, public;
-- carry all that is pending; the worker may be at it too, and holds others out then
CREATE PROCEDURE settle(which name) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..200 LOOP
        PERFORM dbscale.fold_counter(which);
        COMMIT;
        EXIT WHEN (SELECT pending = 0 FROM dbscale.counters WHERE counter = which);
        PERFORM pg_sleep(0.05);
    END LOOP;
END $$;
CREATE PROCEDURE settle() LANGUAGE plpgsql AS $$
DECLARE
    which name;
BEGIN
    FOR which IN SELECT counter FROM dbscale.counter ORDER BY 1 LOOP
        CALL settle(which);
    END LOOP;
END $$;
CREATE PROCEDURE tidy() LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..600 LOOP
        EXIT WHEN dbscale.run_cleanup() = 0;
        COMMIT;
        PERFORM pg_sleep(0.05);
    END LOOP;
END $$;
CREATE TABLE posts (id bigint PRIMARY KEY, author int, like_count bigint NOT NULL DEFAULT 0, strong numeric);
CREATE TABLE likes (liker int, post bigint, w int, ok boolean, PRIMARY KEY (liker, post));
SELECT dbscale.distribute_table('posts', 'id', shard_count => 3);
SELECT dbscale.distribute_table('likes', 'liker', shard_count => 4);
INSERT INTO posts (id, author, like_count) SELECT i, i % 3, 77 FROM generate_series(1, 8) i;
INSERT INTO likes SELECT i, i % 10, i, i % 3 = 0 FROM generate_series(1, 40) i;
CREATE VIEW wrong AS SELECT c.counter, v.* FROM dbscale.counters c, LATERAL dbscale.verify_counter(c.counter) v;

-- refused
SELECT dbscale.create_counter('posts', 'like_count', 'likes', '{id}', '{post}');
SELECT dbscale.create_counter('posts', 'strong', 'likes', '{id}', '{post}', 'max', 'w', mode => 'buffered');
CREATE TABLE odd (id interval PRIMARY KEY, n int);
CREATE TABLE odd_likes (liker int, odd interval);
SELECT dbscale.distribute_table('odd_likes', 'liker', shard_count => 2);
CREATE TABLE objects_before AS SELECT sum(result::bigint) FROM dbscale.run_on_nodes($$SELECT count(*) FROM pg_class WHERE relnamespace = 'dbscale_shards'::regnamespace
    UNION ALL SELECT count(*) FROM pg_proc WHERE pronamespace = 'dbscale_shards'::regnamespace UNION ALL SELECT count(*) FROM pg_trigger$$);
SELECT dbscale.create_counter('odd', 'n', 'odd_likes', '{id}', '{odd}', mode => 'buffered');

SELECT dbscale.create_counter('posts', 'like_count', 'likes', '{id}', '{post}', mode => 'buffered');
SELECT dbscale.create_counter('posts', 'strong', 'likes', '{id}', '{post}', 'sum', 'w', 'ok', mode => 'buffered');
SELECT * FROM posts ORDER BY id;
SELECT * FROM wrong;
SELECT counter, mode, pending FROM dbscale.counters ORDER BY 1;
SELECT * FROM dbscale.check();

-- every way that a write can take
INSERT INTO likes VALUES (7, 1, 70, true);
INSERT INTO likes SELECT 2, i + 100, i * 2, true FROM generate_series(5, 12) i;
INSERT INTO likes VALUES (7, 1, 3, true) ON CONFLICT (liker, post) DO UPDATE SET w = excluded.w;
UPDATE likes SET ok = NOT ok WHERE post % 2 = 0;
UPDATE likes SET post = 9 WHERE post = 4;
UPDATE likes SET liker = liker + 1000 WHERE post = 5;
DELETE FROM likes WHERE post = 3 AND w > 30;
COPY likes FROM STDIN (DELIMITER ',');
50,1,9,true
51,2,9,true
52,110,9,true
\.
SELECT * FROM wrong;
SELECT id, dbscale.counter_value('posts_like_count', id), dbscale.counter_value('posts_strong', id) FROM posts ORDER BY id;
CALL settle();
SELECT * FROM posts ORDER BY id;
SELECT * FROM wrong;

-- targets that come later, go, and come again
INSERT INTO posts (id, like_count) SELECT i, 55 FROM generate_series(9, 12) i;
SELECT * FROM posts WHERE id > 8 ORDER BY id;
DELETE FROM posts WHERE id IN (1, 2, 9);
SELECT dbscale.counter_value('posts_like_count', 1) IS NULL AS no_row;
INSERT INTO likes VALUES (60, 1, 4, true), (60, 9, 4, true);
CALL settle();
SELECT * FROM wrong;
INSERT INTO posts (id) VALUES (1), (2), (9), (110);
SELECT * FROM posts WHERE id IN (1, 2, 9, 110) ORDER BY id;
UPDATE posts SET id = 105 WHERE id = 6;
UPDATE posts SET id = 6 WHERE id = 1;
SELECT * FROM posts ORDER BY id;
SELECT * FROM wrong;
BEGIN;
DELETE FROM posts WHERE id = 7;
INSERT INTO posts (id) VALUES (7);
SAVEPOINT s;
INSERT INTO likes VALUES (61, 7, 4, true);
ROLLBACK TO s;
UPDATE posts SET author = 5 WHERE id = 7;
DELETE FROM posts WHERE id = 8;
SELECT * FROM wrong;
ROLLBACK;
SELECT * FROM wrong;
TRUNCATE posts;
SELECT * FROM wrong;
INSERT INTO posts (id) SELECT generate_series(1, 8);
SELECT * FROM posts ORDER BY id;
TRUNCATE likes;
SELECT * FROM wrong;
CALL settle();
SELECT * FROM posts ORDER BY id;
INSERT INTO likes SELECT i, i % 10, i, i % 3 = 0 FROM generate_series(1, 40) i;
SELECT sum(dbscale.counter_value('posts_like_count', id)::int) FROM posts;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT dbscale.counter_value('posts_like_count', 1);
ROLLBACK;
CALL settle();

-- by hand, and repaired
UPDATE posts SET like_count = 0 WHERE id = 1;
SELECT count(*) FROM dbscale.run_on_shards('posts', 'ALTER TABLE %s DISABLE TRIGGER USER');
UPDATE posts SET like_count = 1000 WHERE id = 1;
SELECT count(*) FROM dbscale.check();
SELECT count(*) FROM dbscale.run_on_shards('posts', 'ALTER TABLE %s ENABLE TRIGGER USER');
SELECT * FROM wrong;
SELECT dbscale.repair_counter('posts_like_count'), dbscale.repair_counter('posts_strong');
SELECT * FROM wrong;
SELECT * FROM posts ORDER BY id;

-- DDL
ALTER TABLE likes RENAME COLUMN post TO "the post";
ALTER TABLE posts RENAME COLUMN like_count TO liked;
ALTER TABLE posts RENAME TO "Posts";
ALTER TABLE "Posts" ADD COLUMN more text;
INSERT INTO likes VALUES (70, 1, 1, true), (70, 77, 1, true);
INSERT INTO "Posts" (id) VALUES (77);
CALL settle();
SELECT * FROM wrong;
SELECT * FROM "Posts" WHERE id IN (1, 77) ORDER BY id;
ALTER TABLE likes DROP COLUMN w;
SELECT * FROM dbscale.check();

-- shards and keys move, with what is pending and what is kept of a post that is not there
CREATE FUNCTION other_node(node name) RETURNS name RETURN CASE node WHEN 'o1' THEN 'o2' ELSE 'o1' END;
INSERT INTO likes VALUES (80, 500, 1, true), (81, 500, 1, true), (82, 500, 1, false), (82, 2, 1, true);
CALL settle();
SELECT * FROM dbscale.counter_parts('posts_like_count') WHERE orphan AND key = '{"id": 500}';
INSERT INTO likes VALUES (83, 500, 1, true), (84, 500, 1, true), (84, 2, 1, true);
SELECT dbscale.move_shard('likes', shard, other_node(node)) FROM dbscale.shards WHERE relation = 'likes'::regclass;
SELECT * FROM wrong;
DELETE FROM likes WHERE liker = 80;
INSERT INTO likes VALUES (85, 500, 1, true), (85, 2, 1, true);
SELECT dbscale.move_shard('"Posts"', shard, other_node(node)) FROM dbscale.shards WHERE relation = '"Posts"'::regclass;
SELECT * FROM wrong;
SELECT dbscale.counter_value('posts_like_count', 2) = count(*)::text FROM likes WHERE "the post" = 2;
CALL settle();
SELECT * FROM dbscale.counter_parts('posts_like_count') WHERE orphan AND key = '{"id": 500}';
CALL tidy();
SELECT * FROM dbscale.check();
INSERT INTO likes VALUES (86, 500, 1, true);
BEGIN;
SELECT dbscale.move_shard('likes', shard, other_node(node), 'blocking') FROM dbscale.shards WHERE relation = 'likes'::regclass;
INSERT INTO likes VALUES (87, 500, 1, true);
SELECT dbscale.move_shard('"Posts"', shard, other_node(node), 'blocking') FROM dbscale.shards WHERE relation = '"Posts"'::regclass;
SELECT * FROM wrong;
COMMIT;
SELECT * FROM wrong;
SELECT * FROM dbscale.check();
SELECT dbscale.assign_key('"Posts"', 500, (dbscale.shard_for('"Posts"', 500) + 1) % 3);
SELECT dbscale.assign_key('"Posts"', 1, (dbscale.shard_for('"Posts"', 1) + 1) % 3);
SELECT dbscale.assign_key('"Posts"', 500, (dbscale.shard_for('"Posts"', 500) + 1) % 3);
SELECT dbscale.assign_key('likes', 85, (dbscale.shard_for('likes', 85) + 1) % 4);
SELECT * FROM wrong;
INSERT INTO "Posts" (id) VALUES (500);
CALL settle();
SELECT * FROM wrong;
SELECT liked = (SELECT count(*) FROM likes WHERE "the post" = 500) FROM "Posts" WHERE id = 500;
SELECT * FROM dbscale.check();

-- one table becomes a plain one, the other too; and both are distributed again
SELECT dbscale.undistribute_table('likes');
SELECT * FROM wrong;
SELECT * FROM dbscale.check();
INSERT INTO likes VALUES (88, 500, 1, true), (88, 501, 1, true);
DELETE FROM likes WHERE liker = 87;
INSERT INTO "Posts" (id) VALUES (501);
CALL settle();
SELECT * FROM wrong;
BEGIN;
INSERT INTO likes VALUES (89, 500, 1, true), (89, 502, 1, true);
SELECT dbscale.undistribute_table('"Posts"');
INSERT INTO "Posts" (id) VALUES (502);
SELECT counter, apart, mode FROM dbscale.counter WHERE counter LIKE 'posts%' ORDER BY 1;
SELECT * FROM wrong;
ROLLBACK;
SELECT * FROM wrong;
SELECT dbscale.undistribute_table('"Posts"');
SELECT counter, apart, mode FROM dbscale.counter WHERE counter LIKE 'posts%' ORDER BY 1;
INSERT INTO likes VALUES (89, 500, 1, true), (89, 502, 1, true);
DELETE FROM likes WHERE liker = 88;
SELECT * FROM wrong;
CALL settle();
SELECT * FROM wrong;
SELECT * FROM dbscale.check();
SELECT relname FROM pg_class WHERE relnamespace = 'dbscale_shards'::regnamespace AND relname ~ 'orphans';
SELECT dbscale.distribute_table('likes', 'liker', shard_count => 4);
BEGIN;
SELECT dbscale.distribute_table('"Posts"', 'id', shard_count => 3);
SELECT dbscale.distribute_table('likes', 'liker', shard_count => 4);
COMMIT;
SELECT counter, apart, mode FROM dbscale.counter WHERE counter LIKE 'posts%' ORDER BY 1;
INSERT INTO likes VALUES (90, 500, 1, true), (90, 502, 1, true);
SELECT * FROM wrong;
CALL settle();
SELECT p.id, liked FROM "Posts" p WHERE liked <> (SELECT count(*) FROM likes WHERE "the post" = p.id);
SELECT * FROM dbscale.check();

-- a writer of the source needs no right on the target
CREATE ROLE outbox_writer;
GRANT USAGE ON SCHEMA apart TO outbox_writer;
GRANT SELECT, INSERT, DELETE ON likes TO outbox_writer;
SELECT dbscale.grant_node_access('outbox_writer');
SET ROLE outbox_writer;
INSERT INTO likes VALUES (71, 1, 1);
SELECT dbscale.counter_value('posts_like_count', 1);
RESET ROLE;
CALL settle();
SELECT liked FROM "Posts" WHERE id = 1;

-- no trace
SELECT dbscale.drop_counter('posts_strong');
SELECT * FROM dbscale.check();
INSERT INTO likes VALUES (72, 1, 1);
SELECT dbscale.drop_counter('posts_like_count');
SELECT liked FROM "Posts" WHERE id = 1;
SELECT * FROM dbscale.check();
CALL tidy();
SELECT * FROM objects_before EXCEPT SELECT sum(result::bigint) FROM dbscale.run_on_nodes($$SELECT count(*) FROM pg_class WHERE relnamespace = 'dbscale_shards'::regnamespace
    UNION ALL SELECT count(*) FROM pg_proc WHERE pronamespace = 'dbscale_shards'::regnamespace UNION ALL SELECT count(*) FROM pg_trigger$$);

-- a table that counts its own rows, by another column than its shard key
CREATE TABLE comments (id int PRIMARY KEY, parent int, replies int NOT NULL DEFAULT 0);
SELECT dbscale.distribute_table('comments', 'id', shard_count => 4);
SELECT dbscale.create_counter('comments', 'replies', 'comments', '{id}', '{parent}', mode => 'buffered');
INSERT INTO comments (id, parent) SELECT i, nullif(i / 3, 0) FROM generate_series(1, 30) i;
CALL settle();
SELECT * FROM comments WHERE id < 12 ORDER BY id;
DELETE FROM comments WHERE id % 4 = 0;
CALL settle();
SELECT * FROM wrong;
TRUNCATE comments;
CALL settle();
SELECT * FROM wrong;
DROP TABLE comments;
SELECT count(*) FROM dbscale.counter;

-- a value that does not fit into the column keeps back its own key alone
CREATE TABLE games (id int PRIMARY KEY, score smallint NOT NULL DEFAULT 0, exact numeric(5,2));
CREATE TABLE points (player int, game int, p int);
SELECT dbscale.distribute_table('games', 'id', shard_count => 2);
SELECT dbscale.distribute_table('points', 'player', shard_count => 2);
INSERT INTO games SELECT generate_series(1, 4);
SELECT dbscale.create_counter('games', 'score', 'points', '{id}', '{game}', 'sum', 'p', mode => 'buffered');
SELECT dbscale.create_counter('games', 'exact', 'points', '{id}', '{game}', 'sum', 'p', mode => 'buffered');
INSERT INTO points SELECT i, i % 4 + 1, 10 FROM generate_series(1, 40) i;
CALL settle('games_score');
CALL settle('games_exact');
SET client_min_messages = error;
INSERT INTO points VALUES (1, 2, 800), (1, 3, -800);
CALL settle('games_score');
CALL settle('games_exact');
SELECT problem FROM dbscale.counters WHERE counter = 'games_score';
INSERT INTO points VALUES (1, 2, 40000), (1, 3, 1), (1, 9, 40000);
DO $$
BEGIN
    FOR i IN 1..200 LOOP
        PERFORM dbscale.fold_counter(counter) FROM dbscale.counters WHERE counter IN ('games_score', 'games_exact');
        COMMIT;
        EXIT WHEN (SELECT sum(pending) = 2 FROM dbscale.counters WHERE counter IN ('games_score', 'games_exact'));
        PERFORM pg_sleep(0.05);
    END LOOP;
END $$;
SELECT * FROM games ORDER BY id;
SELECT counter, pending, problem FROM dbscale.counters WHERE counter IN ('games_score', 'games_exact') ORDER BY 1;
SELECT dbscale.counter_value('games_score', 2), dbscale.counter_value('games_exact', 2);
SELECT * FROM wrong;
DELETE FROM points WHERE p = 40000 AND game = 2;
CALL settle('games_score');
CALL settle('games_exact');
SELECT * FROM games ORDER BY id;
SELECT counter, pending, problem FROM dbscale.counters WHERE counter IN ('games_score', 'games_exact') ORDER BY 1;
INSERT INTO points VALUES (1, 2, 40000), (1, 4, 5);
-- what fits is carried at last
SELECT dbscale.drop_counter('games_score');
SELECT id, score FROM games ORDER BY id;
SELECT dbscale.create_counter('games', 'score', 'points', '{id}', '{game}', 'sum', 'p', mode => 'buffered');
SET client_min_messages = warning;
DROP TABLE games, points;

-- a target here: of the coordinator, and a reference table
CREATE TABLE topics (name text, lang text, n int NOT NULL DEFAULT 0, PRIMARY KEY (name, lang));
CREATE TABLE tags (post int, name text, lang text);
SELECT dbscale.distribute_table('tags', 'post', shard_count => 4);
INSERT INTO topics VALUES ('a', 'en'), ('b', 'en');
INSERT INTO tags SELECT i, chr(97 + i % 3), 'en' FROM generate_series(1, 30) i;
SELECT dbscale.create_counter('topics', 'n', 'tags', '{name,lang}', '{name,lang}', mode => 'buffered');
INSERT INTO topics VALUES ('c', 'en'), ('d', 'en');
INSERT INTO tags VALUES (1, 'd', 'en'), (2, 'e', NULL), (3, 'it''s', 'fr');
INSERT INTO topics VALUES ('it''s', 'fr');
SELECT name, dbscale.counter_value('topics_n', name, lang) FROM topics ORDER BY 1;
CALL settle();
SELECT * FROM topics ORDER BY 1;
SELECT dbscale.distribute_reference('topics');
DELETE FROM topics WHERE name = 'a';
DELETE FROM tags WHERE post < 10;
CALL settle();
SELECT * FROM wrong;
INSERT INTO topics VALUES ('a', 'en');
SELECT * FROM topics ORDER BY 1;
SELECT * FROM wrong;
SELECT * FROM dbscale.check();
DROP TABLE tags;

-- a source here
CREATE TABLE people (id int PRIMARY KEY, visits int, spent numeric(10,2));
CREATE TABLE visits (person int, paid numeric(8,2));
SELECT dbscale.distribute_table('people', 'id', shard_count => 4);
INSERT INTO people SELECT generate_series(1, 6);
INSERT INTO visits SELECT i % 8, i / 4.0 FROM generate_series(1, 40) i;
SELECT dbscale.create_counter('people', 'visits', 'visits', '{id}', '{person}', mode => 'buffered');
SELECT dbscale.create_counter('people', 'spent', 'visits', '{id}', '{person}', 'sum', 'paid', mode => 'buffered');
SELECT * FROM people ORDER BY id;
UPDATE visits SET person = 8 - person WHERE paid < 4;
DELETE FROM visits WHERE person = 2;
INSERT INTO people VALUES (7), (8);
SELECT id, dbscale.counter_value('people_visits', id), dbscale.counter_value('people_spent', id) FROM people ORDER BY id;
CALL settle();
SELECT * FROM people ORDER BY id;
TRUNCATE visits;
SELECT * FROM wrong;
CALL settle();
SELECT sum(visits), sum(spent) FROM people;
ALTER SCHEMA apart RENAME TO apart2;
SET search_path = apart2, public;
INSERT INTO visits VALUES (1, 1), (2, 2.5);
SELECT dbscale.distribute_table('visits', 'person', colocate_with => 'people');
SELECT * FROM wrong;
DROP TABLE visits;
SELECT count(*) FROM dbscale.counter;
SELECT relname FROM pg_class WHERE relnamespace = 'dbscale_shards'::regnamespace AND relname ~ 'deltas|orphans';
SELECT * FROM dbscale.check();

-- shards of both tables are split and merged, with what is pending and what is kept of keys without a row
CREATE TABLE places (id int, region text, n bigint, w numeric, PRIMARY KEY (region, id));
CREATE TABLE trips (rider int PRIMARY KEY, place int, region text);
SELECT dbscale.distribute_table('places', 'region', shard_count => 2);
SELECT dbscale.distribute_table('trips', 'rider', shard_count => 2);
SELECT dbscale.create_counter('places', 'n', 'trips', '{id,region}', '{place,region}', mode => 'buffered');
SELECT dbscale.create_counter('places', 'w', 'trips', '{id,region}', '{place,region}', 'sum', 'rider', 'rider > 9', mode => 'buffered');
CREATE VIEW regions AS SELECT r FROM unnest(ARRAY[E'a\tb', E'c\\d', E'e\nf', '', '\N']) r UNION ALL SELECT 'g' || i FROM generate_series(1, 12) i;
CREATE VIEW not_as_counted AS SELECT * FROM places p, LATERAL (SELECT count(*), coalesce(sum(rider) FILTER (WHERE rider > 9), 0) AS sum
    FROM trips t WHERE t.place = p.id AND t.region = p.region) t WHERE p.n <> t.count OR p.w <> t.sum;
INSERT INTO places SELECT 1, r FROM regions;
INSERT INTO trips SELECT row_number() OVER (), i % 3, r FROM regions, generate_series(1, 12) i;
CALL settle();
DELETE FROM trips WHERE rider % 7 = 0;
SELECT dbscale.split_shard('trips', 0, 3);
SELECT dbscale.split_shard('places', 0, 3);
SELECT dbscale.isolate_key('places', E'a\tb') > 0 AS isolated;
SELECT * FROM wrong;
-- each takes what is kept for it, where its shard is now
INSERT INTO places SELECT 2, r FROM regions;
CALL settle();
SELECT * FROM not_as_counted;
UPDATE trips SET place = 3 - place WHERE rider % 5 = 0 AND place > 0;
DELETE FROM places WHERE id = 1;
SELECT dbscale.merge_shards('places', 2, 0);
SELECT dbscale.merge_shards('trips', 2, 0);
INSERT INTO places SELECT 0, r FROM regions;
CALL settle();
SELECT * FROM not_as_counted;
SELECT * FROM wrong;
INSERT INTO places SELECT 1, r FROM regions;
CALL settle();
SELECT * FROM not_as_counted;
SELECT count(*), sum(n), sum(w) FROM places;
SELECT count(*), sum(rider) FILTER (WHERE rider > 9) FROM trips;
CALL tidy();
SELECT * FROM dbscale.check();
DROP TABLE places, trips CASCADE;
SELECT sum(result::int) AS left_over FROM dbscale.run_on_nodes($$SELECT count(*) FROM pg_class WHERE relnamespace = 'dbscale_shards'::regnamespace
    AND relname ~ 'places|trips'$$);
SET client_min_messages = error;
DROP SCHEMA apart2 CASCADE;
SELECT dbscale.remove_node('o1'), dbscale.remove_node('o2');
DROP OWNED BY outbox_writer;
DROP ROLE outbox_writer;
