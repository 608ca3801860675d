-- Shards that are split and merged.

CREATE FUNCTION dbscale.split_shard(relation regclass, shard integer, parts integer DEFAULT 2, bound text DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dbscale_split_shard';
REVOKE ALL ON FUNCTION dbscale.split_shard(regclass, integer, integer, text) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.split_shard(regclass, integer, integer, text)
    IS 'splits a shard, of all tables of the group, into parts on its node, while it is read and written';

CREATE FUNCTION dbscale.merge_shards(relation regclass, shard integer, into_shard integer) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dbscale_merge_shards';
REVOKE ALL ON FUNCTION dbscale.merge_shards(regclass, integer, integer) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.merge_shards(regclass, integer, integer)
    IS 'merges a shard, of all tables of the group, into another, on the node of that one, while they are read and written';

CREATE FUNCTION dbscale.isolate_key(relation regclass, key anyelement, node name DEFAULT NULL) RETURNS integer
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dbscale_isolate_key';
REVOKE ALL ON FUNCTION dbscale.isolate_key(regclass, anyelement, name) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.isolate_key(regclass, anyelement, name)
    IS 'gives a key a shard of its own, on a node of choice, and returns its number';

CREATE FUNCTION dbscale.isolate_key(relation regclass, key text, node name DEFAULT NULL) RETURNS integer
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dbscale_isolate_key';
REVOKE ALL ON FUNCTION dbscale.isolate_key(regclass, text, name) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.isolate_key(regclass, text, name)
    IS 'gives a key a shard of its own, on a node of choice, and returns its number';
