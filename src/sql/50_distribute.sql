-- Distributing tables, and back.

CREATE FUNCTION dbscale.distribute_table(relation regclass, key name, strategy text DEFAULT 'hash',
    shard_count integer DEFAULT 32, colocate_with regclass DEFAULT NULL,
    step text DEFAULT NULL, bounds jsonb DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dbscale_distribute_table';
REVOKE ALL ON FUNCTION dbscale.distribute_table(regclass, name, text, integer, regclass, text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.distribute_table(regclass, name, text, integer, regclass, text, jsonb)
    IS 'splits a table, with its rows, into shards on the nodes';

CREATE FUNCTION dbscale.add_shard(relation regclass, bounds jsonb, node name DEFAULT NULL) RETURNS integer
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dbscale_add_shard';
REVOKE ALL ON FUNCTION dbscale.add_shard(regclass, jsonb, name) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.add_shard(regclass, jsonb, name)
    IS 'adds a shard for more values to a table distributed by range or list, and to the tables colocated with it';

CREATE FUNCTION dbscale.undistribute_table(relation regclass) RETURNS void
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'dbscale_undistribute_table';
REVOKE ALL ON FUNCTION dbscale.undistribute_table(regclass) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.undistribute_table(regclass)
    IS 'brings the rows of a distributed or reference table back: an ordinary table again';

CREATE FUNCTION dbscale.distribute_reference(relation regclass) RETURNS void
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'dbscale_distribute_reference';
REVOKE ALL ON FUNCTION dbscale.distribute_reference(regclass) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.distribute_reference(regclass)
    IS 'copies a small table whole to every node; changes to it go to all of them';

-- The triggers of reference tables.
CREATE FUNCTION dbscale.replicate_reference() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'dbscale_replicate_reference';
REVOKE ALL ON FUNCTION dbscale.replicate_reference() FROM PUBLIC;
COMMENT ON FUNCTION dbscale.replicate_reference() IS 'trigger: sends the changes of a reference table to every node';
