-- The directory.

CREATE FUNCTION dbscale.assign_key(relation regclass, key anyelement, shard integer) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dbscale_assign_key';
REVOKE ALL ON FUNCTION dbscale.assign_key(regclass, anyelement, integer) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.assign_key(regclass, anyelement, integer)
    IS 'places a key in a shard, and moves its rows there, in all tables of the group';

CREATE FUNCTION dbscale.assign_key(relation regclass, key text, shard integer) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dbscale_assign_key';
REVOKE ALL ON FUNCTION dbscale.assign_key(regclass, text, integer) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.assign_key(regclass, text, integer)
    IS 'places a key in a shard, and moves its rows there, in all tables of the group';
