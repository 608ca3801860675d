--
-- What a hostile user tries.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
SELECT dbscale.add_local_node('attack_a');
SELECT dbscale.add_local_node('attack_b');
RESET client_min_messages;
CREATE SCHEMA attacks;
SET search_path = attacks;
CREATE ROLE attack_alice;
CREATE ROLE attack_bob;
SELECT dbscale.grant_node_access('attack_alice'), dbscale.grant_node_access('attack_bob');
GRANT USAGE ON SCHEMA attacks TO attack_alice, attack_bob;

CREATE TABLE secrets (k bigint, id int, owner name, val int, txt text, PRIMARY KEY (k, id));
SELECT dbscale.distribute_table('secrets', 'k', shard_count => 4);
INSERT INTO secrets SELECT i % 10, i, CASE WHEN i % 2 = 0 THEN 'attack_alice' ELSE 'attack_bob' END, i, 'secret ' || i
FROM generate_series(0, 39) i;
ANALYZE secrets;
GRANT SELECT, INSERT, UPDATE, DELETE ON secrets TO attack_alice;

-- policies that come later hold for plans made before
SET plan_cache_mode = force_generic_plan;
PREPARE all_of_key(bigint) AS SELECT id FROM secrets WHERE k = $1 ORDER BY id;
PREPARE touch(bigint) AS UPDATE secrets SET val = val WHERE k = $1 RETURNING id;
PREPARE sneak(bigint) AS INSERT INTO secrets VALUES ($1, 1000, 'attack_bob', 1) RETURNING id;
SET ROLE attack_alice;
EXECUTE all_of_key(3);
RESET ROLE;
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON secrets USING (owner = current_user);
EXECUTE all_of_key(3);
SET ROLE attack_alice;
EXECUTE all_of_key(3);
EXECUTE touch(3);
EXECUTE sneak(3);

-- a row may not be written that the policy would hide
INSERT INTO secrets VALUES (3, 99, 'attack_bob', 2);
INSERT INTO secrets VALUES (3, 99, 'attack_bob', 2) ON CONFLICT DO NOTHING;
INSERT INTO secrets VALUES (3, 98, 'attack_alice', 2), (4, 99, 'attack_bob', 2) RETURNING id;
UPDATE secrets SET owner = 'attack_bob' WHERE k = 2;
UPDATE secrets SET k = k + 1, owner = 'attack_bob' WHERE k = 2;
BEGIN;
UPDATE secrets SET k = k + 1 WHERE k = 2 RETURNING k, id;
ROLLBACK;

-- no condition, order or value is computed for hidden rows: 3, 13 and 33 are
SELECT count(*) FROM secrets WHERE 1 / (val - 3) = 1;
SELECT count(*) FROM secrets WHERE k = 3 AND 1 / (val - 13) = 1;
SELECT id FROM secrets WHERE id < 6 ORDER BY 1 / (val - 3), id;
SELECT a.id FROM secrets a JOIN secrets b ON a.k = b.k AND a.id = b.id AND 1 / (b.val - 3) = 1;
SELECT k, max(1 / (val - 3)) FROM secrets WHERE id < 10 GROUP BY k ORDER BY k;
BEGIN;
UPDATE secrets SET val = 1 / (val - 3) WHERE 1 / (val - 33) = 0;
DELETE FROM secrets WHERE id < 30 AND 1 / (id - 13) = 0;
ROLLBACK;
RESET ROLE;
ALTER TABLE secrets DISABLE ROW LEVEL SECURITY;

-- the same behind a view with security_barrier
CREATE VIEW barrier WITH (security_barrier) AS SELECT * FROM secrets WHERE owner = 'attack_alice';
GRANT SELECT, UPDATE ON barrier TO attack_bob;
SET ROLE attack_bob;
SELECT count(*) FROM barrier WHERE 1 / (val - 3) = 1;
SELECT count(*) FROM barrier WHERE k = 3 AND 1 / (val - 3) = 1;
BEGIN;
UPDATE barrier SET val = 1 / (val - 3) WHERE 1 / (val - 3) = 1;
ROLLBACK;
SELECT count(*) FROM secrets WHERE k = 3;
RESET ROLE;
RESET plan_cache_mode;

-- parts of one statement that write one table find it as it was before all of them
CREATE TABLE posts (k bigint, id int, likes int DEFAULT 0, PRIMARY KEY (k, id));
SELECT dbscale.distribute_table('posts', 'k', colocate_with => 'secrets');
INSERT INTO posts SELECT i % 8, i, i FROM generate_series(1, 24) i;
BEGIN;
WITH i AS (INSERT INTO posts VALUES (3, 100) RETURNING id), u AS (UPDATE posts SET likes = likes + 1 WHERE k = 3 RETURNING id)
SELECT (SELECT count(*) FROM i), (SELECT count(*) FROM u);
SELECT likes FROM posts WHERE id = 100;
ROLLBACK;
BEGIN;
WITH d AS (DELETE FROM posts WHERE k = 3 RETURNING *), i AS (INSERT INTO posts SELECT k + 100, id FROM d RETURNING id),
     u AS (UPDATE posts SET likes = 1 WHERE k > 100 RETURNING id)
SELECT (SELECT count(*) FROM d), (SELECT count(*) FROM i), (SELECT count(*) FROM u);
ROLLBACK;
BEGIN;
WITH u AS (UPDATE posts SET likes = 77 WHERE k < 5) UPDATE posts SET likes = 78 WHERE k < 6 OR likes = 77;
SELECT count(*) FROM posts WHERE likes IN (77, 78);
ROLLBACK;

-- an error that was rolled back is told once only, also where several nodes had it
\set VERBOSITY sqlstate
BEGIN;
SAVEPOINT a;
UPDATE posts SET likes = 1 / (likes - likes);
ROLLBACK TO a;
SELECT count(*) FROM posts WHERE k = 1;
SELECT count(*) FROM posts;
ROLLBACK;
UPDATE posts SET likes = 1 / (likes - likes);
SELECT count(*) FROM posts WHERE k = 1;
UPDATE posts SET likes = 0 WHERE k = 2;
\set VERBOSITY default

-- a cursor from before a savepoint keeps its rows, also those on their way
INSERT INTO posts SELECT i, i, 1 FROM generate_series(1000, 3999) i;
BEGIN;
DECLARE c CURSOR FOR SELECT 'row 3024' FROM posts;
SAVEPOINT a;
MOVE 1 IN c;
ROLLBACK TO a;
MOVE 3022 IN c;
FETCH 1 FROM c;
ROLLBACK;

-- a query that has begun does not see what is written before its rows are fetched
BEGIN;
DECLARE one_shard CURSOR FOR SELECT likes FROM posts WHERE k = 1000;
DECLARE every_shard CURSOR FOR SELECT likes FROM posts WHERE id BETWEEN 1000 AND 1002;
SAVEPOINT a;
UPDATE posts SET likes = 5 WHERE k = 1000;
UPDATE posts SET likes = 5;
FETCH ALL FROM one_shard;
ROLLBACK TO a;
FETCH ALL FROM every_shard;
ROLLBACK;

-- a stable function sees what its statement saw at first, a volatile one what was done
CREATE FUNCTION likes_then(bigint) RETURNS bigint STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT sum(likes) FROM posts WHERE k = $1); END';
CREATE FUNCTION likes_now(bigint) RETURNS bigint VOLATILE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT sum(likes) FROM posts WHERE k = $1); END';
BEGIN;
INSERT INTO posts SELECT 1000, i, likes_then(1000) FROM generate_series(1, 3) i RETURNING likes;
INSERT INTO posts SELECT 1001, i, likes_now(1001) FROM generate_series(1, 3) i RETURNING likes;
ROLLBACK;

-- users of one transaction see each other's writes, and do not wait for each other
GRANT SELECT, UPDATE ON posts TO attack_bob;
BEGIN;
UPDATE posts SET likes = 100 WHERE k = 1000;
SET LOCAL ROLE attack_bob;
SELECT likes FROM posts WHERE k = 1000;
UPDATE posts SET likes = likes + 1 WHERE id = 1000 RETURNING likes;
RESET ROLE;
SELECT likes FROM posts WHERE k = 1000;
ROLLBACK;

SET client_min_messages = warning;
DROP SCHEMA attacks CASCADE;
DROP OWNED BY attack_alice, attack_bob;
DROP ROLE attack_alice, attack_bob;
SELECT dbscale.remove_node('attack_a');
SELECT dbscale.remove_node('attack_b');
