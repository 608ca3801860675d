-- The rows that the shards of a query send: it stands in the FROM of a query that was
-- split, where the planner puts the scan of the shards in its place.
CREATE FUNCTION dbscale.shard_rows(task text, VARIADIC expressions "any") RETURNS SETOF record
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'dbscale_shard_rows';
COMMENT ON FUNCTION dbscale.shard_rows(text, "any") IS 'internal: the place of a scan of shards in a query that was split';

REVOKE ALL ON FUNCTION dbscale.shard_rows(text, "any") FROM PUBLIC;

CREATE FUNCTION dbscale.variance_of_parts(count numeric, sum numeric, sum_of_squares numeric, aggregate text) RETURNS numeric
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'dbscale_variance_of_parts';
COMMENT ON FUNCTION dbscale.variance_of_parts(numeric, numeric, numeric, text) IS 'internal: variance or standard deviation of a column whose parts were summed up on the shards';
