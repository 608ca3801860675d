-- Nodes: databases that hold shards.

CREATE FUNCTION dbscale.add_node(node name, host text, port integer DEFAULT 5432,
                                 dbname text DEFAULT current_database(), options text[] DEFAULT '{}')
    RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'dbscale_add_node';
REVOKE ALL ON FUNCTION dbscale.add_node(name, text, integer, text, text[]) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.add_node(name, text, integer, text, text[]) IS
    'adds a database on another server as a node, after checking it; options are libpq''s, as key=value';

CREATE FUNCTION dbscale.add_local_node(node name)
    RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'dbscale_add_local_node';
REVOKE ALL ON FUNCTION dbscale.add_local_node(name) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.add_local_node(name) IS
    'creates a database in this server and adds it as a node';

CREATE FUNCTION dbscale.remove_node(node name)
    RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'dbscale_remove_node';
REVOKE ALL ON FUNCTION dbscale.remove_node(name) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.remove_node(name) IS
    'removes a node that holds no shards; a local node''s database is dropped';

CREATE FUNCTION dbscale.set_node_state(node name, state text)
    RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'dbscale_set_node_state';
REVOKE ALL ON FUNCTION dbscale.set_node_state(name, text) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.set_node_state(name, text) IS 'internal: disable_node and enable_node';

CREATE FUNCTION dbscale.disable_node(node name)
    RETURNS void LANGUAGE sql AS $$SELECT dbscale.set_node_state($1, 'disabled')$$
    SET search_path = pg_catalog, pg_temp;
REVOKE ALL ON FUNCTION dbscale.disable_node(name) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.disable_node(name) IS
    'statements that need the node are refused at once, until enable_node';

CREATE FUNCTION dbscale.enable_node(node name)
    RETURNS void LANGUAGE sql AS $$SELECT dbscale.set_node_state($1, 'enabled')$$
    SET search_path = pg_catalog, pg_temp;
REVOKE ALL ON FUNCTION dbscale.enable_node(name) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.enable_node(name) IS 'ends disable_node, after checking that the node answers';

CREATE FUNCTION dbscale.grant_node_access(role regrole, remote_user text DEFAULT NULL, password text DEFAULT NULL)
    RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'dbscale_grant_node_access';
REVOKE ALL ON FUNCTION dbscale.grant_node_access(regrole, text, text) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.grant_node_access(regrole, text, text) IS
    'lets a role use all nodes; without remote_user and password, as the nodes'' service user';

CREATE FUNCTION dbscale.run_on_nodes(command text)
    RETURNS TABLE (node name, result text) LANGUAGE c AS 'MODULE_PATHNAME', 'dbscale_run_on_nodes';
REVOKE ALL ON FUNCTION dbscale.run_on_nodes(text) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.run_on_nodes(text) IS
    'runs a command on every enabled node, in the current transaction; result is the first column of the first row, or the number of rows';

CREATE FUNCTION dbscale.run_on_shards(relation regclass, command text)
    RETURNS TABLE (shard integer, node name, result text) LANGUAGE c AS 'MODULE_PATHNAME', 'dbscale_run_on_shards';
REVOKE ALL ON FUNCTION dbscale.run_on_shards(regclass, text) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.run_on_shards(regclass, text) IS
    'runs a command for every shard of a table on its node, in the current transaction; %s in it is the shard table';
