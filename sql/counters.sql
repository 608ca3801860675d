-- Counters of plain tables: no node is needed.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
SET client_min_messages = notice;
CREATE SCHEMA counting;
SET search_path = counting, public;
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

CREATE TABLE users (id int PRIMARY KEY, follower_count int, following_count int);
CREATE TABLE follows (follower int, followee int, PRIMARY KEY (follower, followee));
CREATE TABLE posts (id bigint PRIMARY KEY, title text, like_count bigint NOT NULL DEFAULT 0, strong int, weight numeric(10,2),
    first int, last int, hot bigint NOT NULL DEFAULT 0);
CREATE TABLE likes (post_id bigint, liker int, w int, v numeric(6,2), ok boolean, UNIQUE (post_id, liker));
INSERT INTO users SELECT i FROM generate_series(1, 5) i;
INSERT INTO follows SELECT i, j FROM generate_series(1, 5) i, generate_series(1, 5) j WHERE (i + j) % 3 = 0 AND i <> j;
INSERT INTO posts SELECT i, 'post ' || i FROM generate_series(1, 5) i;
INSERT INTO likes SELECT i % 4, i, i, i / 4.0, i % 2 = 0 FROM generate_series(1, 20) i;

-- what all of them say, against what the rows say
CREATE VIEW wrong AS SELECT c.counter, v.* FROM dbscale.counters c, LATERAL dbscale.verify_counter(c.counter) v;

-- made, and backfilled
SELECT dbscale.create_counter('users', 'follower_count', 'follows', '{id}', '{followee}');
SELECT dbscale.create_counter('users', 'following_count', 'follows', '{id}', '{follower}');
SELECT dbscale.create_counter('posts', 'like_count', 'likes', '{id}', '{post_id}');
SELECT dbscale.create_counter('posts', 'strong', 'likes', '{id}', '{post_id}', filter => 'ok AND w > 5');
SELECT dbscale.create_counter('posts', 'weight', 'likes', '{id}', '{post_id}', 'sum', 'v');
SELECT dbscale.create_counter('posts', 'first', 'likes', '{id}', '{post_id}', 'min', 'w');
SELECT dbscale.create_counter('posts', 'last', 'likes', '{id}', '{post_id}', 'max', 'w', 'ok');
SELECT counter, target, target_column, source, aggregate, value_column, filter, mode, pending FROM dbscale.counters ORDER BY 1;
SELECT * FROM users ORDER BY id;
SELECT * FROM posts ORDER BY id;
SELECT * FROM wrong;

-- every kind of write
INSERT INTO likes VALUES (5, 1, 7, 1.25, true);
INSERT INTO likes VALUES (5, 2, 1, NULL, NULL), (5, 3, NULL, 2, true), (4, 1, 1, 1, false), (99, 1, 1, 1, true), (NULL, 2, 2, 2, true);
SELECT * FROM posts WHERE id > 3 ORDER BY id;
INSERT INTO likes VALUES (5, 1, 9, 3, false), (5, 9, 9, 3, true) ON CONFLICT (post_id, liker) DO UPDATE SET w = excluded.w, ok = excluded.ok, v = excluded.v;
INSERT INTO likes VALUES (5, 1, 9, 3, false) ON CONFLICT DO NOTHING;
SELECT * FROM posts WHERE id > 3 ORDER BY id;
UPDATE likes SET post_id = 4 WHERE post_id = 5 AND liker IN (2, 3);
UPDATE likes SET w = w + 1, ok = NOT ok WHERE post_id IN (1, 2);
UPDATE likes SET v = v * 2 WHERE liker % 3 = 1;
MERGE INTO likes l USING (VALUES (1, 1), (1, 77), (2, 2)) n(p, u) ON l.post_id = n.p AND l.liker = n.u
    WHEN MATCHED AND l.ok THEN DELETE
    WHEN MATCHED THEN UPDATE SET w = 50
    WHEN NOT MATCHED THEN INSERT VALUES (n.p, n.u, 3, 3, true);
DELETE FROM likes WHERE post_id = 3 AND w IN (SELECT max(w) FROM likes WHERE post_id = 3);
COPY likes FROM STDIN (DELIMITER ',');
4,100,100,1,true
4,101,101,1,true
\.
SELECT * FROM wrong;
SELECT * FROM posts ORDER BY id;
-- two ways from one table; rows that point to themselves
INSERT INTO follows VALUES (1, 1), (5, 5), (3, 1);
DELETE FROM follows WHERE follower = 2;
UPDATE follows SET follower = followee, followee = follower WHERE follower = 1 AND followee = 2;
SELECT * FROM users ORDER BY id;
SELECT * FROM wrong;

-- undone
BEGIN;
DELETE FROM likes;
SAVEPOINT a;
INSERT INTO likes VALUES (1, 1, 1, 1, true);
ROLLBACK TO a;
INSERT INTO likes VALUES (1, 2, 2, 2, true);
SELECT id, like_count, last FROM posts ORDER BY id;
ROLLBACK;
SELECT * FROM wrong;

-- a target made later, deleted and made again, with a new key
INSERT INTO posts (id, like_count, last) VALUES (99, 1000, 1000);
INSERT INTO likes VALUES (6, 1, 60, 1, true), (6, 2, 61, 1, true);
INSERT INTO posts (id) SELECT i FROM generate_series(6, 8) i;
DELETE FROM posts WHERE id = 6;
DELETE FROM likes WHERE post_id = 6 AND liker = 1;
INSERT INTO posts (id) VALUES (6), (10);
UPDATE posts SET id = 11 WHERE id = 1;
UPDATE posts SET id = 100 - id WHERE id IN (2, 99);
INSERT INTO posts (id) VALUES (2) ON CONFLICT DO NOTHING;
INSERT INTO posts (id) VALUES (98) ON CONFLICT (id) DO UPDATE SET title = 'there';
SELECT * FROM posts WHERE id > 5 ORDER BY id;
SELECT * FROM wrong;
-- both in one statement, in either order, and in one transaction
WITH p AS (INSERT INTO posts (id) VALUES (20)), l AS (INSERT INTO likes VALUES (20, 1, 1, 1, true), (20, 2, 2, 2, true)) SELECT;
WITH l AS (INSERT INTO likes VALUES (21, 1, 1, 1, true), (21, 2, 2, 2, true)), p AS (INSERT INTO posts (id) VALUES (21)) SELECT;
BEGIN;
INSERT INTO likes VALUES (22, 1, 1, 1, true);
INSERT INTO posts (id) VALUES (22);
INSERT INTO likes VALUES (22, 2, 2, 2, true), (1, 50, 2, 2, true);
DELETE FROM likes WHERE post_id = 22 AND liker = 1;
COMMIT;
SELECT id, like_count, strong, weight, first, last FROM posts WHERE id BETWEEN 20 AND 22 ORDER BY id;
SELECT * FROM wrong;
-- a trigger of the user makes the target when it sees the row
CREATE FUNCTION make_post() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO counting.posts (id) VALUES (NEW.post_id) ON CONFLICT DO NOTHING; RETURN NULL; END $$;
CREATE TRIGGER make_post AFTER INSERT ON likes FOR EACH ROW EXECUTE FUNCTION make_post();
INSERT INTO likes VALUES (30, 1, 1, 1, true), (30, 2, 2, 2, true), (31, 1, 5, 5, true);
SELECT id, like_count, strong, weight, first, last FROM posts WHERE id >= 30 AND id < 40 ORDER BY id;
SELECT * FROM wrong;
DROP TRIGGER make_post ON likes;

-- what an older snapshot would get wrong
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO likes VALUES (4, 300, 1, 1, true);
SAVEPOINT a;
INSERT INTO likes VALUES (12345, 300, 1, 1, true);
ROLLBACK TO a;
INSERT INTO posts (id) VALUES (12345);
ROLLBACK TO a;
DELETE FROM likes WHERE post_id = 4;
ROLLBACK;

-- the column belongs to the counter
UPDATE posts SET like_count = 0 WHERE id = 4;
UPDATE posts SET like_count = like_count, title = 'same' WHERE id = 4;
-- not while somebody who may disables the triggers
ALTER TABLE likes DISABLE TRIGGER USER;
DELETE FROM likes WHERE post_id = 4;
ALTER TABLE likes ENABLE TRIGGER USER;
SELECT * FROM wrong ORDER BY 1, 2;
SELECT counter, dbscale.repair_counter(counter) FROM dbscale.counter WHERE target = 'posts'::regclass ORDER BY 1;
SELECT * FROM wrong;

-- a user who may write the source need not be able to write the target
CREATE ROLE regress_liker;
GRANT USAGE ON SCHEMA counting TO regress_liker;
GRANT SELECT, INSERT ON likes TO regress_liker;
SET ROLE regress_liker;
INSERT INTO likes VALUES (4, 1, 1, 1, true);
CREATE TEMP TABLE mine (post_id bigint, liker int, w int, v numeric, ok boolean);
CREATE TRIGGER mine AFTER INSERT ON mine REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION dbscale_shards.likes_counter_source();
SELECT dbscale.drop_counter('posts_like_count');
RESET ROLE;
SELECT like_count FROM posts WHERE id = 4;

-- buffered
SELECT dbscale.create_counter('posts', 'hot', 'likes', '{id}', '{post_id}', filter => 'w IS NOT NULL', mode => 'buffered');
BEGIN;
INSERT INTO likes SELECT 4, i, i, i, true FROM generate_series(200, 220) i;
INSERT INTO likes VALUES (4, 221, 1, 1, true), (4, 222, NULL, 1, true), (5, 221, 1, 1, true), (12, 1, 1, 1, true);
SELECT hot, dbscale.counter_value('posts_hot', id) AS value, dbscale.counter_value('posts_like_count', 4) FROM posts WHERE id = 4;
SELECT pending, lag >= '0' AS lag FROM dbscale.counters WHERE counter = 'posts_hot';
SELECT * FROM wrong;
COMMIT;
CALL settle('posts_hot');
SELECT id, hot FROM posts WHERE id IN (4, 5) ORDER BY id;
SELECT pending, lag FROM dbscale.counters WHERE counter = 'posts_hot';
INSERT INTO posts (id) VALUES (12);
DELETE FROM posts WHERE id = 4;
DELETE FROM likes WHERE post_id = 4 AND liker < 210;
INSERT INTO posts (id) VALUES (4);
SELECT id, hot, dbscale.counter_value('posts_hot', id) AS value FROM posts WHERE id IN (4, 12) ORDER BY id;
SELECT * FROM wrong;
-- the worker does it too
INSERT INTO likes VALUES (12, 2, 1, 1, true);
DO $$ BEGIN FOR i IN 1..100 LOOP
    EXIT WHEN (SELECT hot = 2 FROM counting.posts WHERE id = 12);
    COMMIT; PERFORM pg_sleep(0.1);
END LOOP; END $$;
SELECT hot FROM posts WHERE id = 12;
-- nothing is pending for a key without a target
SELECT dbscale.counter_value('posts_hot', 12345), dbscale.counter_value('posts_hot', NULL), dbscale.counter_value('posts_hot', '12');
SELECT dbscale.counter_value('posts_hot', 1, 2);
TRUNCATE likes;
SELECT DISTINCT like_count, strong, weight, first, last, hot FROM posts;
SELECT * FROM wrong;

-- refused, before anything is changed
CREATE TABLE odd (id int, k int PRIMARY KEY, n int, t text, f float8, d date, g int GENERATED ALWAYS AS (1) STORED, x int);
CREATE TABLE odd_source (id int, k int, kl bigint, t text, f float8, w int, v numeric, ts timestamptz, d date);
SELECT dbscale.create_counter('odd', 't', 'odd_source', '{k}', '{k}');
SELECT dbscale.create_counter('odd', 'g', 'odd_source', '{k}', '{k}');
SELECT dbscale.create_counter('odd', 'k', 'odd_source', '{k}', '{k}');
SELECT dbscale.create_counter('odd', 'nix', 'odd_source', '{k}', '{k}');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{kl}');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k,id}');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{id}', '{k}');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{}', '{}');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k}', 'avg', 'w');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k}', 'sum');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k}', 'sum', 't');
SELECT dbscale.create_counter('odd', 'f', 'odd_source', '{k}', '{k}', 'sum', 'f');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k}', 'sum', 'f');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k}', 'sum', 'v');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k}', 'max', 'd');
SELECT dbscale.create_counter('odd', 't', 'odd_source', '{k}', '{k}', 'max', 't');
SELECT dbscale.create_counter('odd', 'd', 'odd_source', '{k}', '{k}', 'max', 'd', mode => 'buffered');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k}', mode => 'fast');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k}', filter => 'w >');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k}', filter => 'nix > 1');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k}', filter => 'w');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k}', filter => 'ts > now()');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k}', filter => 'random() > 0.5');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k}', filter => 'w IN (SELECT 1)');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k}', filter => 'w = 1) FROM odd WHERE (true');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k}', filter => 'true); DROP TABLE odd; SELECT (1');
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k}', filter => 'odd_source IS NOT NULL');
SELECT dbscale.create_counter('odd', 'n', 'wrong', '{k}', '{k}');
SELECT dbscale.create_counter('odd', 'n', 'mine', '{k}', '{k}');
SELECT dbscale.create_counter('odd', 'n', NULL, '{k}', '{k}');
SELECT dbscale.create_counter('posts', 'hot', 'likes', '{id}', '{post_id}');
SELECT dbscale.drop_counter('nix');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k}');
ROLLBACK;
SET ROLE regress_liker;
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k}');
RESET ROLE;
-- dates and filters that depend on settings are kept as they were meant
SET datestyle = 'SQL, DMY';
SELECT dbscale.create_counter('odd', 'n', 'odd_source', '{k}', '{k}', filter => $$d > '02/03/2020'$$);
RESET datestyle;
SELECT dbscale.create_counter('odd', 'd', 'odd_source', '{k}', '{k}', 'max', 'd');
SELECT filter FROM dbscale.counter WHERE counter = 'odd_n';
INSERT INTO odd (k) VALUES (1);
INSERT INTO odd_source (k, d, v) VALUES (1, '2020-02-20', 1), (1, '2020-03-03', 2);
SELECT k, n, d FROM odd;
SELECT dbscale.create_counter('odd', 'x', 'odd_source', '{k}', '{k}', 'count', 'w');
ALTER TABLE odd ADD total numeric;
SELECT dbscale.create_counter('odd', 'total', 'odd_source', '{k}', '{k}', 'sum', 'v');
INSERT INTO odd_source (k, v) VALUES (1, 'NaN');
INSERT INTO odd_source (k, w, v) VALUES (1, 1, 0.5);
SELECT k, n, x, total FROM odd;

-- DDL
ALTER TABLE posts RENAME TO articles;
ALTER TABLE likes RENAME COLUMN post_id TO "the post";
ALTER TABLE likes RENAME COLUMN ok TO fine;
ALTER TABLE articles RENAME COLUMN like_count TO "like count";
ALTER TABLE likes ADD COLUMN note text;
ALTER TABLE articles DROP COLUMN title;
ALTER SCHEMA counting RENAME TO counted;
SET search_path = counted, public;
SELECT counter, target_column, source_key, filter FROM dbscale.counter WHERE target = 'articles'::regclass ORDER BY 1;
INSERT INTO likes VALUES (7, 1, 6, 6, true);
SELECT * FROM articles WHERE id = 7;
ALTER TABLE likes DROP COLUMN w;
ALTER TABLE articles DROP CONSTRAINT posts_pkey;
ALTER TABLE likes ALTER COLUMN "the post" TYPE int;
ALTER TABLE articles ALTER COLUMN "like count" TYPE text;
ALTER TABLE articles FORCE ROW LEVEL SECURITY;
DROP TRIGGER dbscale_counter_insert ON likes;
-- with a foreign key a new target begins empty; without it, it is computed
DELETE FROM likes WHERE "the post" NOT IN (SELECT id FROM articles);
ALTER TABLE likes ADD CONSTRAINT known FOREIGN KEY ("the post") REFERENCES articles ON DELETE CASCADE ON UPDATE CASCADE;
SELECT tgname FROM pg_trigger WHERE tgrelid = 'articles'::regclass AND tgname ~ 'counter' ORDER BY 1;
INSERT INTO likes VALUES (8, 1, 8, 8, true), (8, 2, 9, 9, true);
UPDATE articles SET id = 800 WHERE id = 8;
DELETE FROM articles WHERE id = 7;
INSERT INTO articles (id) VALUES (7), (8);
INSERT INTO likes VALUES (8, 1, 8, 8, true);
CALL settle('posts_hot');
SELECT * FROM articles WHERE id IN (7, 8, 800) ORDER BY id;
SELECT dbscale.drop_counter('posts_hot');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'articles'::regclass AND tgname ~ 'counter' ORDER BY 1;
ALTER TABLE likes DROP CONSTRAINT known;
SELECT tgname FROM pg_trigger WHERE tgrelid = 'articles'::regclass AND tgname ~ 'counter' ORDER BY 1;

-- a table that counts its own rows
CREATE TABLE comments (id int PRIMARY KEY, parent int, replies int);
SELECT dbscale.create_counter('comments', 'replies', 'comments', '{id}', '{parent}');
INSERT INTO comments VALUES (2, 1), (1, NULL), (3, 1), (4, 4);
INSERT INTO comments VALUES (5, 1), (6, 5);
DELETE FROM comments WHERE id = 3;
SELECT * FROM comments ORDER BY id;
SELECT * FROM dbscale.verify_counter('comments_replies');

-- an index that goes concurrently would be gone before anybody could object
CREATE TABLE topics (id int NOT NULL, posts int, readers int);
CREATE UNIQUE INDEX topics_1 ON topics (id);
CREATE UNIQUE INDEX topics_2 ON topics (id) INCLUDE (posts);
CREATE INDEX topics_3 ON topics (id);
CREATE TABLE topic_posts (topic int);
SELECT dbscale.create_counter('topics', 'posts', 'topic_posts', '{id}', '{topic}');
DROP INDEX CONCURRENTLY topics_3;
DROP INDEX CONCURRENTLY topics_1;
DROP INDEX CONCURRENTLY topics_2;
DROP INDEX topics_2;
REINDEX INDEX CONCURRENTLY topics_2;
INSERT INTO topic_posts VALUES (1);
INSERT INTO topics (id) VALUES (1), (2);
SELECT * FROM topics ORDER BY id;
SELECT dbscale.drop_counter('topics_posts');
DROP INDEX CONCURRENTLY topics_2;
DROP INDEX CONCURRENTLY topics_2;
DROP TABLE topics, topic_posts;

-- what a counter needs goes by other ways too: with a type, by CASCADE, with a role; what it does not need may go
SET client_min_messages = warning;
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE TYPE moods AS ENUM ('all');
CREATE DOMAIN topic_id AS int;
CREATE COLLATION plain FROM "C";
CREATE TEXT SEARCH CONFIGURATION words (COPY = simple);
CREATE TABLE topics (id topic_id PRIMARY KEY, posts int, glad int, late int, found int, moody int);
CREATE TABLE topic_posts (topic topic_id, felt mood, n int, body text);
SELECT dbscale.create_counter('topics', 'posts', 'topic_posts', '{id}', '{topic}'),
       dbscale.create_counter('topics', 'glad', 'topic_posts', '{id}', '{topic}', filter => $$felt = 'glad'$$),
       dbscale.create_counter('topics', 'late', 'topic_posts', '{id}', '{topic}', filter => $$body COLLATE plain > 'm'$$),
       dbscale.create_counter('topics', 'found', 'topic_posts', '{id}', '{topic}', filter => $$to_tsvector('words', body) @@ 'x'$$),
       dbscale.create_counter('topics', 'moody', 'topic_posts', '{id}', '{topic}', filter => $$'glad'::mood IS NOT NULL AND body IS NULL$$);
SELECT counter, filter FROM dbscale.counter WHERE target = 'topics'::regclass ORDER BY 1;
DROP TYPE mood CASCADE;
DROP TYPE moods;
SELECT dbscale.drop_counter('topics_glad');
ALTER TABLE topic_posts DROP COLUMN felt;
DROP TYPE mood;
DROP COLLATION plain;
DROP TEXT SEARCH CONFIGURATION words;
DROP DOMAIN topic_id CASCADE;
DROP FUNCTION dbscale_shards.topic_posts_counter_source() CASCADE;
ALTER TABLE topics DROP COLUMN posts CASCADE;
ALTER TABLE topics ADD UNIQUE (id);
ALTER TABLE topics DROP CONSTRAINT topics_pkey;
ALTER TABLE topics DROP CONSTRAINT topics_id_key CASCADE;
ALTER TABLE topic_posts DROP COLUMN n;
INSERT INTO topics (id) VALUES (1);
INSERT INTO topic_posts VALUES (1, 'x'), (1, NULL);
SELECT * FROM topics;
DROP TABLE topics;
SELECT tgname FROM pg_trigger WHERE tgrelid = 'topic_posts'::regclass;
DROP TABLE topic_posts;
DROP TEXT SEARCH CONFIGURATION words;
DROP TYPE mood;
-- also for tables whose columns are a type's
CREATE TYPE post AS (topic int, n int);
CREATE TABLE topics (id int PRIMARY KEY, posts int);
CREATE TABLE topic_posts OF post;
SELECT dbscale.create_counter('topics', 'posts', 'topic_posts', '{id}', '{topic}');
ALTER TYPE post DROP ATTRIBUTE topic CASCADE;
ALTER TYPE post DROP ATTRIBUTE n CASCADE;
-- an event trigger that drops more
CREATE FUNCTION drop_more() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN DROP TABLE counted.topic_posts; END';
CREATE EVENT TRIGGER drop_more ON sql_drop WHEN tag IN ('DROP VIEW') EXECUTE FUNCTION drop_more();
CREATE VIEW seen AS SELECT 1 AS one;
DROP VIEW seen;
SELECT counter FROM dbscale.counter WHERE target = 'topics'::regclass;
SELECT tgname FROM pg_trigger WHERE tgrelid = 'topics'::regclass;
DROP EVENT TRIGGER drop_more;
DROP FUNCTION drop_more;
DROP TABLE topics;
-- a role's privileges and tables
CREATE ROLE regress_readers;
CREATE ROLE regress_topics IN ROLE regress_readers;
CREATE ROLE regress_posts;
GRANT USAGE ON SCHEMA counted TO regress_topics, regress_posts;
CREATE TABLE topics (id int PRIMARY KEY, posts int);
CREATE TABLE topic_posts (topic int);
ALTER TABLE topics OWNER TO regress_topics;
ALTER TABLE topic_posts OWNER TO regress_posts;
GRANT SELECT ON topic_posts TO regress_readers;
SELECT dbscale.create_counter('topics', 'posts', 'topic_posts', '{id}', '{topic}');
DROP OWNED BY regress_readers;
REASSIGN OWNED BY regress_topics TO regress_posts;
SELECT DISTINCT proname, proowner::regrole FROM pg_trigger t JOIN pg_proc p ON p.oid = tgfoid WHERE tgrelid = 'topics'::regclass;
DROP OWNED BY regress_readers;
DROP OWNED BY regress_posts;
SELECT counter FROM dbscale.counter WHERE counter ~ 'topics';
SELECT proname FROM pg_proc WHERE pronamespace = 'dbscale_shards'::regnamespace AND proname ~ 'topic';
DROP OWNED BY regress_topics;
DROP ROLE regress_readers, regress_topics, regress_posts;
SET client_min_messages = notice;

-- a target and its only row in one statement, with a foreign key: what the target's trigger has counted is not added again
CREATE TABLE songs (id int PRIMARY KEY, play_count bigint NOT NULL DEFAULT 0);
CREATE TABLE plays (song int NOT NULL REFERENCES songs, n int);
SELECT dbscale.create_counter('songs', 'play_count', 'plays', '{id}', '{song}', mode => 'buffered');
WITH s AS (INSERT INTO songs (id) VALUES (1)), p AS (INSERT INTO plays VALUES (1, 1)) SELECT;
WITH p AS (INSERT INTO plays VALUES (3, 1)), s AS (INSERT INTO songs (id) VALUES (3)) SELECT;
BEGIN;
INSERT INTO songs (id) VALUES (2);
INSERT INTO plays VALUES (2, 1);
DELETE FROM plays WHERE song = 1;
INSERT INTO plays VALUES (2, 2);
COMMIT;
CALL settle('songs_play_count');
SELECT * FROM songs ORDER BY id;
SELECT * FROM wrong;
DROP TABLE songs, plays;

-- statements of few and of many rows, whoever writes: names are PostgreSQL's own, whatever his search_path says, and afterwards it is as before
CREATE ROLE regress_thief;
CREATE SCHEMA theft AUTHORIZATION regress_thief;
GRANT USAGE ON SCHEMA counted TO regress_thief;
CREATE TABLE songs (id int PRIMARY KEY, play_count bigint NOT NULL DEFAULT 0, long_count bigint NOT NULL DEFAULT 0, seconds numeric NOT NULL DEFAULT 0);
CREATE TABLE plays (song int REFERENCES songs, n bigint, seconds numeric(8,2), hidden boolean);
INSERT INTO songs SELECT generate_series(1, 5);
SELECT dbscale.create_counter('songs', 'play_count', 'plays', '{id}', '{song}', filter => 'NOT hidden', mode => 'buffered'),
       dbscale.create_counter('songs', 'seconds', 'plays', '{id}', '{song}', 'sum', 'seconds', mode => 'buffered');
SELECT count(*) AS without_path FROM pg_proc WHERE proname = 'plays_counter_source' AND prosecdef AND proconfig IS NULL;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON plays TO regress_thief;
SET ROLE regress_thief;
CREATE FUNCTION theft.steal() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'this runs as %', current_user; END $$;
CREATE FUNCTION theft.compare(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT theft.steal()';
CREATE FUNCTION theft.compare(bigint, int) RETURNS boolean LANGUAGE sql AS 'SELECT theft.steal()';
CREATE FUNCTION theft.compare(numeric, int) RETURNS boolean LANGUAGE sql AS 'SELECT theft.steal()';
CREATE FUNCTION theft.compare(numeric, numeric) RETURNS boolean LANGUAGE sql AS 'SELECT theft.steal()';
CREATE FUNCTION theft.compare(numeric, numeric[]) RETURNS boolean LANGUAGE sql AS 'SELECT theft.steal()';
CREATE FUNCTION theft.negative(numeric) RETURNS numeric LANGUAGE sql AS 'SELECT theft.steal()::int::numeric';
CREATE FUNCTION theft.add(bigint, bigint) RETURNS bigint LANGUAGE sql AS 'SELECT theft.steal()::int::bigint';
CREATE FUNCTION theft.add(numeric, numeric) RETURNS numeric LANGUAGE sql AS 'SELECT theft.steal()::int::numeric';
SELECT format('CREATE OPERATOR theft.%s (FUNCTION = theft.compare, LEFTARG = %s, RIGHTARG = %s)', o, l, r)
FROM unnest('{=,<>}'::text[]) o, (VALUES ('text', 'text'), ('bigint', 'int'), ('numeric', 'int'), ('numeric', 'numeric'), ('numeric', 'numeric[]')) a(l, r) \gexec
CREATE OPERATOR theft.- (FUNCTION = theft.negative, RIGHTARG = numeric);
CREATE AGGREGATE theft.sum(bigint) (SFUNC = theft.add, STYPE = bigint);
CREATE AGGREGATE theft.sum(numeric) (SFUNC = theft.add, STYPE = numeric);
CREATE FUNCTION theft.current_setting(text, boolean) RETURNS text LANGUAGE sql AS 'SELECT theft.steal()::text';
CREATE FUNCTION theft.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT theft.steal()::text';
CREATE FUNCTION theft.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS 'SELECT theft.steal()::text';
CREATE FUNCTION theft.transaction_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT theft.steal()::text::timestamptz';
CREATE DOMAIN theft.text AS pg_catalog.text CHECK (theft.steal());
CREATE TEMP TABLE new_rows (song int, n int);
CREATE TEMP TABLE old_rows (song int, n int);
SET search_path = theft, pg_temp, pg_catalog;
INSERT INTO counted.plays VALUES (1, 1, 1.5, false);
INSERT INTO counted.plays VALUES (1, 2, 0, false), (1, 3, NULL, true), (NULL, 4, 2, false);
INSERT INTO counted.plays VALUES (1, 5, 1, false), (2, 6, 2, false), (3, 7, 3, true), (1, 8, 4, NULL);
INSERT INTO counted.plays SELECT i % 5 + 1, i, i, i % 3 OPERATOR(pg_catalog.=) 0 FROM generate_series(10, 30) i;
INSERT INTO counted.plays VALUES (1, 40, 'NaN', false);
DELETE FROM counted.plays WHERE n BETWEEN 10 AND 18;
DELETE FROM counted.plays WHERE n BETWEEN 20 AND 20;
UPDATE counted.plays SET song = 4 WHERE n BETWEEN 1 AND 3;
SHOW search_path;
RESET search_path;
RESET ROLE;
SET search_path = counted, public;
SELECT * FROM wrong;
CALL settle('songs_play_count');
CALL settle('songs_seconds');
SELECT * FROM songs ORDER BY id;
SELECT song, count(*) FILTER (WHERE NOT hidden), sum(seconds) FROM plays WHERE song IS NOT NULL GROUP BY song ORDER BY song;
-- each of a statement's first four rows is pending, and the others as one for each key
BEGIN;
INSERT INTO plays SELECT i % 2 + 1, i, 1, i % 3 = 0 FROM generate_series(51, 70) i;
SELECT counter, pending FROM dbscale.counters WHERE counter IN ('songs_play_count', 'songs_seconds') ORDER BY counter;
DELETE FROM plays WHERE n BETWEEN 51 AND 53;
SELECT counter, pending FROM dbscale.counters WHERE counter IN ('songs_play_count', 'songs_seconds') ORDER BY counter;
SELECT * FROM wrong;
ROLLBACK;
SET ROLE regress_thief;
SET search_path = theft, pg_temp, pg_catalog;
TRUNCATE counted.plays;
SHOW search_path;
RESET ROLE;
SET search_path = counted, public;
SELECT DISTINCT play_count, seconds FROM songs;
-- in a filter there are names that cannot be qualified
SELECT dbscale.create_counter('songs', 'long_count', 'plays', '{id}', '{song}', filter => 'seconds > 20', mode => 'buffered');
SELECT count(*) AS with_path FROM pg_proc WHERE proname = 'plays_counter_source' AND prosecdef AND proconfig = '{"search_path=pg_catalog, pg_temp"}';
INSERT INTO plays SELECT i % 5 + 1, i, i, i % 3 = 0 FROM generate_series(10, 30) i;
DELETE FROM plays WHERE n IN (15, 20, 25, 30);
SELECT * FROM wrong;
CALL settle('songs_long_count');
SELECT id, long_count FROM songs ORDER BY id;
DROP TABLE songs, plays;
DROP TABLE pg_temp.new_rows, pg_temp.old_rows;
SET client_min_messages = warning;
DROP OWNED BY regress_thief CASCADE;
SET client_min_messages = notice;
DROP ROLE regress_thief;

-- where much is folded the worker vacuums: the deltas, and the target unless it is large
CREATE TABLE songs (id int PRIMARY KEY, play_count bigint NOT NULL DEFAULT 0);
CREATE TABLE films (id int PRIMARY KEY, view_count bigint NOT NULL DEFAULT 0) WITH (fillfactor = 10);
CREATE TABLE plays (song int NOT NULL REFERENCES songs);
CREATE TABLE views (film int NOT NULL REFERENCES films);
INSERT INTO songs VALUES (1);
INSERT INTO films SELECT generate_series(1, 60000);
SELECT pg_relation_size('films') / current_setting('block_size')::int > 2000 AS large;
SELECT dbscale.create_counter('songs', 'play_count', 'plays', '{id}', '{song}', mode => 'buffered'),
       dbscale.create_counter('films', 'view_count', 'views', '{id}', '{film}', mode => 'buffered');
DO $$ BEGIN FOR i IN 1..600 LOOP
    INSERT INTO counted.plays VALUES (1), (1), (1), (1); INSERT INTO counted.views VALUES (1), (1), (1), (1);
END LOOP; END $$;
DO $$ BEGIN FOR i IN 1..300 LOOP
    EXIT WHEN (SELECT min(pg_stat_get_vacuum_count(c.oid)) > 0 FROM pg_class c WHERE relname IN ('songs_play_count_deltas', 'films_view_count_deltas'));
    COMMIT; PERFORM pg_sleep(0.1);
END LOOP; END $$;
SELECT relname, pg_stat_get_vacuum_count(oid) > 0 AS vacuumed FROM pg_class
WHERE relname IN ('songs', 'films', 'songs_play_count_deltas', 'films_view_count_deltas') ORDER BY relname;
SELECT * FROM songs;
DROP TABLE songs, films, plays, views;

-- gone without a trace
DROP TABLE comments, odd, follows;
DROP TABLE likes;
SELECT counter FROM dbscale.counter;
SELECT tgname FROM pg_trigger WHERE tgrelid = 'articles'::regclass;
SELECT relname FROM pg_class WHERE relnamespace = 'dbscale_shards'::regnamespace
UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'dbscale_shards'::regnamespace;
UPDATE articles SET "like count" = 3 WHERE id = 7;
DROP OWNED BY regress_liker;
DROP ROLE regress_liker;
SET client_min_messages = warning;
DROP SCHEMA counted CASCADE;
