-- Nodes: adding, refusing, disabling, granting, removing.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
-- the server's own address and this database's name, for add_node
SELECT coalesce(nullif(split_part(current_setting('unix_socket_directories'), ',', 1), ''), 'localhost') AS host,
       current_setting('port') AS port \gset
CREATE VIEW known AS
    SELECT n.node, n.state, n.is_local, s.srvname IS NOT NULL AS server
    FROM dbscale.node n LEFT JOIN pg_foreign_server s ON s.srvname = n.node ORDER BY 1;

-- a local node is a database of this server
SELECT dbscale.add_local_node('reg1');
SELECT dbscale.add_local_node('reg "2"');
TABLE known;
SELECT node, result LIKE 'dbscale_' || current_database() || '%' AS named
FROM dbscale.run_on_nodes('SELECT current_database()') ORDER BY 1;
SELECT node, result FROM dbscale.run_on_nodes('SELECT count(*) FROM pg_namespace WHERE nspname = ''dbscale_shards''') ORDER BY 1;

-- refused before anything is changed
SELECT dbscale.add_local_node('reg1');
SELECT dbscale.add_local_node(NULL);
SELECT dbscale.add_local_node('');
SELECT dbscale.add_node('reg3', :'host', :port);
SELECT dbscale.add_node('reg3', :'host', 70000);
SELECT dbscale.add_node('reg3', :'host', :port, 'x', '{nonsense}');
\set VERBOSITY terse
SELECT dbscale.add_node('reg3', :'host', :port, 'x', '{nonsense=1}');
\set VERBOSITY default
SELECT dbscale.add_node('reg3', NULL, :port);
SELECT split_part(option, '=', 2) AS reg1_database
FROM pg_foreign_server, unnest(srvoptions) option WHERE srvname = 'reg1' AND option LIKE 'dbname=%' \gset
\set VERBOSITY sqlstate
SELECT dbscale.add_node('reg3', :'host', :port, :'reg1_database');
SELECT dbscale.add_node('reg3', :'host', :port, 'dbscale_no_such_database');
\set VERBOSITY default
CREATE DATABASE dbscale_reg_latin1 TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C';
\set VERBOSITY sqlstate
SELECT dbscale.add_node('reg3', :'host', :port, 'dbscale_reg_latin1');
\set VERBOSITY default
DROP DATABASE dbscale_reg_latin1 WITH (FORCE);
CREATE SERVER taken FOREIGN DATA WRAPPER dbscale_fdw;
SELECT dbscale.add_local_node('taken');
DROP SERVER taken;
TABLE known;

-- rolled back: nothing is left but an empty database, which the next one takes
BEGIN;
SELECT dbscale.add_local_node('reg3');
ROLLBACK;
TABLE known;
SELECT dbscale.add_local_node('reg3');
SELECT count(*) FROM pg_database WHERE datname LIKE 'dbscale\_' || current_database() || '\_reg3%';

-- commands on nodes are part of the transaction
BEGIN;
SELECT node, result FROM dbscale.run_on_nodes('CREATE TABLE public.t AS SELECT generate_series(1, 3) AS a') ORDER BY 1;
SELECT node, result FROM dbscale.run_on_nodes('UPDATE public.t SET a = a + 1') ORDER BY 1;
ROLLBACK;
SELECT node, result FROM dbscale.run_on_nodes('SELECT to_regclass(''public.t'')') ORDER BY 1;
SELECT * FROM dbscale.run_on_nodes('SELECT 1/0');

-- access of roles: mappings on all nodes, also on those that come later
CREATE ROLE dbscale_reg_role;
SELECT dbscale.grant_node_access('dbscale_reg_role', 'somebody', 'secret');
SELECT srvname, umoptions FROM pg_user_mappings WHERE usename = 'dbscale_reg_role' ORDER BY 1;
SELECT dbscale.grant_node_access('dbscale_reg_role');
SELECT dbscale.add_local_node('reg4');
SELECT m.srvname, option FROM pg_user_mappings m, unnest(m.umoptions) option
WHERE usename = 'dbscale_reg_role' AND option NOT LIKE 'user=%' ORDER BY 1, 2;
SELECT has_server_privilege('dbscale_reg_role', 'reg4', 'USAGE');
SET ROLE dbscale_reg_role;
SELECT dbscale.add_local_node('reg5');
SELECT dbscale.grant_node_access('dbscale_reg_role');
SELECT dbscale.run_on_nodes('SELECT 1');
RESET ROLE;
GRANT EXECUTE ON FUNCTION dbscale.add_local_node, dbscale.run_on_nodes TO dbscale_reg_role;
SET ROLE dbscale_reg_role;
SELECT dbscale.add_local_node('reg5');
SELECT dbscale.run_on_nodes('SELECT 1');
RESET ROLE;

-- a disabled node is not asked; what needs it says so
CREATE TABLE items (id int PRIMARY KEY, v text);
SELECT dbscale.distribute_table('items', 'id', shard_count => 4);
INSERT INTO items SELECT i, 'v' || i FROM generate_series(1, 20) i;
SELECT dbscale.disable_node('reg1');
TABLE known;
SELECT count(*) FROM items;
ALTER TABLE items ADD COLUMN w int;
SELECT count(*) FROM dbscale.run_on_nodes('SELECT 1');
SELECT dbscale.enable_node('reg1');
SELECT count(*) FROM items;
SELECT dbscale.disable_node('nobody');

-- a node that holds shards stays
SELECT dbscale.remove_node('reg1');
DROP SERVER reg1 CASCADE;
ALTER SERVER reg1 RENAME TO reg9;
ALTER SERVER reg1 OPTIONS (SET dbname 'other');
DROP TABLE items;

SELECT dbscale.remove_node('reg1');
SELECT dbscale.remove_node('reg1');
SELECT dbscale.remove_node('reg "2"');
SELECT dbscale.remove_node('reg3');
-- in a transaction block the database is left, and said so
BEGIN;
SET LOCAL client_min_messages = error;
SELECT dbscale.remove_node('reg4');
ROLLBACK;
TABLE known;
SELECT node, result FROM dbscale.run_on_nodes('SELECT 1');
SELECT dbscale.remove_node('reg4');
TABLE known;
SELECT count(*) FROM pg_database WHERE datname LIKE 'dbscale\_' || current_database() || '\_reg%';
DROP OWNED BY dbscale_reg_role;
DROP ROLE dbscale_reg_role;
DROP VIEW known;
