-- What rebalance() and drain_node() would move.  These only look, so anybody may who may see
-- the sizes in dbscale.shards.

CREATE FUNCTION dbscale.set_node_capacity(node name, capacity real) RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'dbscale_set_node_capacity';
REVOKE ALL ON FUNCTION dbscale.set_node_capacity(name, real) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.set_node_capacity(name, real) IS
    'a node of capacity 2 is to hold twice as much as one of capacity 1, the default';

CREATE FUNCTION dbscale.rebalance_plan(by text DEFAULT 'bytes')
    RETURNS TABLE (step integer, relation regclass, shard integer, from_node name, to_node name, bytes bigint)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dbscale_rebalance_plan_sql';
COMMENT ON FUNCTION dbscale.rebalance_plan(text) IS
    'the moves that give every node its fair share, by bytes, rows, shards or load; changes nothing';

CREATE FUNCTION dbscale.drain_plan(node name)
    RETURNS TABLE (step integer, relation regclass, shard integer, from_node name, to_node name, bytes bigint)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dbscale_drain_plan_sql';
COMMENT ON FUNCTION dbscale.drain_plan(name) IS
    'the moves that empty a node; changes nothing';

CREATE FUNCTION dbscale.balance_internal(capacities double precision[], takes boolean[], node integer[], table_group integer[],
                                         weight bigint[], bytes bigint[], fixed boolean[], threshold double precision)
    RETURNS integer[] LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'dbscale_balance_internal';
REVOKE ALL ON FUNCTION dbscale.balance_internal(double precision[], boolean[], integer[], integer[], bigint[], bigint[], boolean[], double precision) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.balance_internal(double precision[], boolean[], integer[], integer[], bigint[], bigint[], boolean[], double precision) IS
    'internal, for tests: the algorithm of rebalance_plan over numbers';

CREATE FUNCTION dbscale.rebalance_is_due(time_window text)
    RETURNS boolean LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'dbscale_rebalance_is_due_sql';
REVOKE ALL ON FUNCTION dbscale.rebalance_is_due(text) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.rebalance_is_due(text) IS
    'internal, for tests: would dbscale.auto_rebalance, if it were on, begin now?';
