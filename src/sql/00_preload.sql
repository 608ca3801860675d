/* dbscale: installed by CREATE EXTENSION */
\echo Use "CREATE EXTENSION dbscale CASCADE" to load this file. \quit

-- The library must have been preloaded: the hooks and the worker start with the server.
CREATE FUNCTION dbscale.check_preload() RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'dbscale_check_preload';
REVOKE ALL ON FUNCTION dbscale.check_preload() FROM PUBLIC;
COMMENT ON FUNCTION dbscale.check_preload() IS 'raises an error unless dbscale is in shared_preload_libraries';
SELECT dbscale.check_preload();

GRANT USAGE ON SCHEMA dbscale TO PUBLIC;
COMMENT ON SCHEMA dbscale IS 'dbscale: catalog, functions and views';

-- The shards of distributed tables, here (foreign tables) and on the nodes (tables).
CREATE SCHEMA dbscale_shards;
GRANT USAGE ON SCHEMA dbscale_shards TO PUBLIC;
COMMENT ON SCHEMA dbscale_shards IS 'dbscale: shards of distributed tables';
