-- From a key to its shard and node.  The overload with text takes untyped literals.

CREATE FUNCTION dbscale.shard_for(relation regclass, key anyelement) RETURNS integer
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'dbscale_shard_for';
COMMENT ON FUNCTION dbscale.shard_for(regclass, anyelement) IS 'number of the shard that a key''s rows are in';

CREATE FUNCTION dbscale.shard_for(relation regclass, key text) RETURNS integer
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'dbscale_shard_for';
COMMENT ON FUNCTION dbscale.shard_for(regclass, text) IS 'number of the shard that a key''s rows are in';

CREATE FUNCTION dbscale.node_for(relation regclass, key anyelement) RETURNS name
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'dbscale_node_for';
COMMENT ON FUNCTION dbscale.node_for(regclass, anyelement) IS 'node that a key''s rows are on';

CREATE FUNCTION dbscale.node_for(relation regclass, key text) RETURNS name
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'dbscale_node_for';
COMMENT ON FUNCTION dbscale.node_for(regclass, text) IS 'node that a key''s rows are on';
