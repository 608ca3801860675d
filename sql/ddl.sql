-- DDL on distributed tables: what PostgreSQL does here, and what the shards then have.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
SELECT dbscale.add_local_node('ddl1');
SELECT dbscale.add_local_node('ddl2');
SET client_min_messages = notice;
CREATE SCHEMA ddl;
SET search_path = ddl;

-- what the shards of a table have: one row when all agree
CREATE FUNCTION columns(relation regclass) RETURNS TABLE (shards bigint, columns text) LANGUAGE sql AS $$
    SELECT count(*), result FROM dbscale.run_on_shards(relation, $q$
        SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' not null' ELSE '' END
                          || CASE WHEN atthasdef THEN ' default' ELSE '' END, ', ' ORDER BY attnum)
        FROM pg_attribute WHERE attrelid = '%s'::regclass AND attnum > 0 AND NOT attisdropped$q$) GROUP BY 2 $$;
CREATE FUNCTION indexes(relation regclass) RETURNS TABLE (shards bigint, indexes text) LANGUAGE sql AS $$
    SELECT count(*), result FROM dbscale.run_on_shards(relation, $q$
        SELECT string_agg(regexp_replace(c.relname, '_[0-9]+$', '') || CASE WHEN indisprimary THEN ' primary' WHEN indisunique THEN ' unique' ELSE '' END
                          || CASE WHEN indisvalid THEN '' ELSE ' invalid' END, ', ' ORDER BY c.relname COLLATE "C")
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE indrelid = '%s'::regclass$q$) GROUP BY 2 $$;
CREATE FUNCTION constraints(relation regclass) RETURNS TABLE (shards bigint, constraints text) LANGUAGE sql AS $$
    SELECT count(*), result FROM dbscale.run_on_shards(relation, $q$
        SELECT string_agg(conname || ' ' || contype::text || CASE WHEN convalidated THEN '' ELSE ' not valid' END, ', ' ORDER BY conname COLLATE "C")
        FROM pg_constraint WHERE conrelid = '%s'::regclass AND contype IN ('c', 'f')$q$) GROUP BY 2 $$;

CREATE TABLE users (id bigint PRIMARY KEY, name text);
CREATE TABLE posts (id bigserial, user_id bigint NOT NULL, body text, PRIMARY KEY (user_id, id));
CREATE TABLE kinds (kind int PRIMARY KEY, label text);
INSERT INTO kinds VALUES (1, 'one'), (2, 'two');
SELECT dbscale.distribute_table('users', 'id', shard_count => 4);
SELECT dbscale.distribute_table('posts', 'user_id', colocate_with => 'users');
SELECT dbscale.distribute_reference('kinds');
INSERT INTO users SELECT i, 'u' || i FROM generate_series(1, 20) i;
INSERT INTO posts (user_id, body) SELECT i % 20 + 1, 'b' || i FROM generate_series(1, 100) i;

-- indexes
CREATE INDEX ON posts (body);
CREATE INDEX IF NOT EXISTS posts_body_idx ON posts (id);
CREATE UNIQUE INDEX "Posts %s U" ON posts (user_id, lower(body)) WHERE id > 0;
CREATE UNIQUE INDEX ON posts (body);
CREATE INDEX CONCURRENTLY ON posts (id);
SELECT * FROM indexes('posts');
SELECT indexrelid::regclass, indisvalid FROM pg_index WHERE indrelid = 'posts'::regclass ORDER BY indexrelid::regclass::text COLLATE "C";
ALTER INDEX posts_body_idx RENAME TO posts_b;
ALTER INDEX posts_b SET (fillfactor = 50);
DROP INDEX "Posts %s U";
SELECT * FROM indexes('posts');
DROP INDEX IF EXISTS posts_b, nothing;
SELECT * FROM indexes('posts');
CREATE INDEX posts_b ON posts (body);

-- columns
ALTER TABLE posts ADD COLUMN likes int NOT NULL DEFAULT 5, ADD COLUMN IF NOT EXISTS body text,
    ADD COLUMN "it's 100%s" text DEFAULT 'it''s 100%s', ADD n numeric(8,2) DEFAULT 2 * 1.5, ADD CHECK (likes >= 0);
SELECT * FROM columns('posts');
SELECT count(*), sum(likes), sum(n), min("it's 100%s"), max("it's 100%s") FROM posts;
ALTER TABLE posts ADD COLUMN u uuid DEFAULT gen_random_uuid();
ALTER TABLE posts ADD COLUMN s serial;
ALTER TABLE posts ADD COLUMN must int NOT NULL;
ALTER TABLE posts ADD COLUMN k int REFERENCES kinds;
ALTER TABLE posts ADD COLUMN words int GENERATED ALWAYS AS (length(body)) STORED;
SELECT sum(words) FROM posts;
ALTER TABLE posts RENAME COLUMN likes TO hearts;
ALTER TABLE posts RENAME user_id TO author;
SELECT * FROM columns('posts');
SELECT count(*) FROM posts WHERE author = 3;
ALTER TABLE posts ALTER body SET DEFAULT 'none', ALTER body SET NOT NULL;
INSERT INTO posts (author) VALUES (3) RETURNING author, body, hearts;
INSERT INTO posts (author, body) VALUES (3, NULL);
ALTER TABLE posts ALTER body DROP DEFAULT, ALTER body DROP NOT NULL;
DELETE FROM posts WHERE body = 'none';
ALTER TABLE posts DROP COLUMN "it's 100%s", DROP COLUMN IF EXISTS nothing, DROP n;
ALTER TABLE posts DROP COLUMN author;
SELECT * FROM columns('posts');
ALTER TABLE posts ALTER COLUMN body TYPE varchar(10);
ALTER TABLE posts ALTER COLUMN body SET STORAGE EXTERNAL;
-- after a dropped column, rows still find their columns
INSERT INTO posts (author, body) VALUES (7, 'after') RETURNING author, body, hearts, words;
UPDATE posts SET hearts = hearts + 1 WHERE body = 'after' RETURNING hearts;

-- constraints
ALTER TABLE posts ADD CONSTRAINT short CHECK (length(body) < 5);
ALTER TABLE posts ADD CONSTRAINT short CHECK (length(body) < 5) NOT VALID;
SELECT * FROM constraints('posts');
DELETE FROM posts WHERE body = 'after';
ALTER TABLE posts VALIDATE CONSTRAINT short;
ALTER TABLE posts RENAME CONSTRAINT short TO "short %";
SELECT * FROM constraints('posts');
INSERT INTO posts (author, body) VALUES (7, 'too long');
ALTER TABLE posts DROP CONSTRAINT "short %", DROP CONSTRAINT IF EXISTS nothing;
SELECT * FROM constraints('posts');
ALTER TABLE posts DROP CONSTRAINT posts_pkey;
SELECT * FROM indexes('posts');
ALTER TABLE posts ADD PRIMARY KEY (id);
ALTER TABLE posts ADD PRIMARY KEY (author, id);
ALTER TABLE posts ADD CONSTRAINT once UNIQUE (author, body, id);
SELECT * FROM indexes('posts');
\set VERBOSITY sqlstate
INSERT INTO posts (id, author) VALUES (1, 2);
\set VERBOSITY default
ALTER TABLE posts RENAME CONSTRAINT once TO twice;
ALTER TABLE posts DROP CONSTRAINT twice;
SELECT * FROM indexes('posts');

-- foreign keys are enforced by the shards
ALTER TABLE posts ADD FOREIGN KEY (author) REFERENCES users ON DELETE CASCADE;
ALTER TABLE posts ADD COLUMN kind int;
ALTER TABLE posts ADD CONSTRAINT kind_key FOREIGN KEY (kind) REFERENCES kinds (kind);
SELECT name, referenced, definition FROM dbscale.foreign_key ORDER BY 1;
SELECT * FROM constraints('posts');
\set VERBOSITY sqlstate
INSERT INTO posts (author) VALUES (1000);
INSERT INTO posts (author, kind) VALUES (1, 9);
\set VERBOSITY default
DELETE FROM users WHERE id = 20;
SELECT count(*) FROM posts WHERE author = 20;
CREATE TABLE local (id bigint PRIMARY KEY, user_id bigint);
ALTER TABLE posts ADD FOREIGN KEY (id) REFERENCES local;
ALTER TABLE posts ADD FOREIGN KEY (id) REFERENCES users;
ALTER TABLE posts ADD FOREIGN KEY (author) REFERENCES users ON DELETE SET NULL;
ALTER TABLE local ADD FOREIGN KEY (user_id) REFERENCES users;
ALTER TABLE users RENAME id TO user_no;
ALTER TABLE kinds RENAME TO "Kinds";
ALTER TABLE posts RENAME CONSTRAINT kind_key TO kind_fk;
SELECT name, referenced, definition FROM dbscale.foreign_key ORDER BY 1;
DROP TABLE users;
ALTER TABLE posts DROP CONSTRAINT kind_fk;
SELECT * FROM constraints('posts');
ALTER TABLE users RENAME user_no TO id;

-- a reference table's copies follow it
ALTER TABLE "Kinds" RENAME TO kinds;
ALTER TABLE kinds ADD COLUMN weight int NOT NULL DEFAULT 1, ADD CHECK (weight > 0);
CREATE INDEX kinds_label ON kinds (label);
ALTER TABLE kinds RENAME label TO title;
SELECT * FROM columns('kinds');
SELECT * FROM indexes('kinds');
SELECT DISTINCT result FROM dbscale.run_on_shards('kinds', 'SELECT sum(weight) FROM %s');
INSERT INTO kinds VALUES (3, 'three');
ALTER TABLE kinds DROP weight;
DROP INDEX kinds_label;
SELECT * FROM columns('kinds');
ALTER TABLE kinds DISABLE TRIGGER ALL;

-- here only: names, schema, comments, policies, triggers, grants
ALTER TABLE posts RENAME TO "My Posts";
CREATE SCHEMA ddl2;
ALTER TABLE "My Posts" SET SCHEMA ddl2;
SELECT count(*) FROM ddl2."My Posts";
ALTER TABLE ddl2."My Posts" SET SCHEMA ddl;
ALTER TABLE "My Posts" RENAME TO posts;
COMMENT ON TABLE posts IS 'what users say';
ALTER TABLE posts ALTER body SET STATISTICS 500;
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.body := upper(NEW.body); RETURN NEW; END$$;
CREATE TRIGGER shout BEFORE INSERT ON posts FOR EACH ROW EXECUTE FUNCTION shout();
INSERT INTO posts (author, body) VALUES (4, 'loud') RETURNING body;
ALTER TABLE posts DISABLE TRIGGER shout;
INSERT INTO posts (author, body) VALUES (4, 'soft') RETURNING body;
DROP TRIGGER shout ON posts;
CREATE ROLE dbscale_ddl_role;
SELECT dbscale.grant_node_access('dbscale_ddl_role');
GRANT USAGE ON SCHEMA ddl, ddl2 TO dbscale_ddl_role;
GRANT CREATE ON SCHEMA ddl TO dbscale_ddl_role;
GRANT SELECT ON posts TO dbscale_ddl_role;
ALTER TABLE posts ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON posts USING (author = 4);
SET ROLE dbscale_ddl_role;
SELECT count(*) FROM posts;
SELECT count(*) FROM users;
ALTER TABLE posts ADD COLUMN no int;
ALTER TABLE posts ADD FOREIGN KEY (author) REFERENCES users;
CREATE INDEX ON posts (id);
REINDEX TABLE posts;
DROP TABLE posts;
RESET ROLE;
REVOKE SELECT ON posts FROM dbscale_ddl_role;
DROP POLICY mine ON posts;
ALTER TABLE posts DISABLE ROW LEVEL SECURITY;
ALTER TABLE posts OWNER TO dbscale_ddl_role;
SELECT DISTINCT relowner::regrole FROM pg_class WHERE relname ~ '^posts_\d$' AND relkind = 'f';
SET ROLE dbscale_ddl_role;
ALTER TABLE posts ADD COLUMN yes int DEFAULT 1;
SELECT sum(yes) > 90 FROM posts;
CREATE INDEX of_owner ON posts (yes);
ALTER TABLE posts DROP COLUMN yes;
RESET ROLE;

-- maintenance
VACUUM posts;
VACUUM (ANALYZE) users, posts, local, kinds;
BEGIN;
VACUUM posts;
ROLLBACK;
ANALYZE posts;
REINDEX TABLE posts;
REINDEX INDEX posts_pkey;
CLUSTER posts USING posts_pkey;
TRUNCATE posts;
SELECT count(*) FROM posts;

-- what has no meaning on shards
CREATE RULE r AS ON INSERT TO posts DO NOTHING;
ALTER TABLE posts REPLICA IDENTITY FULL;
ALTER TABLE posts SET (fillfactor = 50);
ALTER TABLE posts SET UNLOGGED;
ALTER TABLE posts DETACH PARTITION dbscale_shards.posts_0;
ALTER TABLE posts ATTACH PARTITION local FOR VALUES WITH (MODULUS 4096, REMAINDER 9);
CREATE TABLE part PARTITION OF posts FOR VALUES WITH (MODULUS 4096, REMAINDER 9);
CREATE TABLE child () INHERITS (kinds);
ALTER TABLE local ADD CONSTRAINT f FOREIGN KEY (user_id) REFERENCES users (id);
ALTER TABLE dbscale_shards.posts_0 ADD COLUMN x int;
ALTER FOREIGN TABLE dbscale_shards.posts_0 RENAME TO other;
DROP FOREIGN TABLE dbscale_shards.posts_0;
ALTER SCHEMA dbscale_shards RENAME TO other;

-- all or nothing
BEGIN;
ALTER TABLE posts ADD COLUMN a int;
SAVEPOINT s;
ALTER TABLE posts ADD COLUMN b int;
CREATE INDEX gone ON posts (b);
ROLLBACK TO s;
CREATE INDEX stays ON posts (a);
COMMIT;
SELECT * FROM columns('posts');
BEGIN;
DROP TABLE posts;
ROLLBACK;
SELECT * FROM indexes('posts');
SELECT * FROM dbscale.check();

-- DROP, by name, by CASCADE, with a schema, with an owner
DROP TABLE kinds;
SELECT DISTINCT result FROM dbscale.run_on_nodes('SELECT count(*) FROM pg_class WHERE relname = ''kinds''');
DROP TABLE users CASCADE;
SELECT count(*) FROM dbscale.foreign_key;
DROP OWNED BY dbscale_ddl_role CASCADE;
DROP ROLE dbscale_ddl_role;
SELECT to_regclass('posts');
CREATE TABLE ddl2.a (id int PRIMARY KEY);
SELECT dbscale.distribute_table('ddl2.a', 'id', shard_count => 2);
SET client_min_messages = warning;
DROP SCHEMA ddl2 CASCADE;
-- a dropped type takes its columns with it, on the shards too
CREATE TABLE b (id int PRIMARY KEY, i int);
SELECT dbscale.distribute_table('b', 'id', shard_count => 2);
SELECT * FROM dbscale.run_on_nodes('CREATE SCHEMA ddl') ORDER BY 1;
SELECT * FROM dbscale.run_on_nodes('CREATE DOMAIN ddl.small AS int') ORDER BY 1;
CREATE DOMAIN small AS int;
ALTER TABLE b ADD COLUMN d small;
DROP DOMAIN small CASCADE;
SELECT * FROM columns('b');
SELECT * FROM dbscale.check();
DROP TABLE b, local;
SELECT count(*) FROM dbscale.table_group;
SELECT DISTINCT result FROM dbscale.run_on_nodes('SELECT count(*) FROM pg_class WHERE relnamespace = ''dbscale_shards''::regnamespace');
DROP SCHEMA ddl CASCADE;
SELECT dbscale.remove_node('ddl1');
SELECT dbscale.remove_node('ddl2');
