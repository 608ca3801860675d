-- The rows that the shards of a query send: it stands in the FROM of a query that was
-- split, where the planner puts the scan of the shards in its place.
CREATE FUNCTION dbscale.shard_rows(task text, VARIADIC expressions "any") RETURNS SETOF record
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'dbscale_shard_rows';
COMMENT ON FUNCTION dbscale.shard_rows(text, "any") IS 'internal: the place of a scan of shards in a query that was split';

REVOKE ALL ON FUNCTION dbscale.shard_rows(text, "any") FROM PUBLIC;

CREATE FUNCTION dbscale.variance_of_parts(count numeric, sum numeric, sum_of_squares numeric, aggregate text) RETURNS numeric
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'dbscale_variance_of_parts';
COMMENT ON FUNCTION dbscale.variance_of_parts(numeric, numeric, numeric, text) IS 'internal: variance or standard deviation of a column whose parts were summed up on the shards';

-- array_agg() of arrays that array_agg() has made of parts of the rows
CREATE FUNCTION dbscale.array_of_parts_add(state internal, part anyarray) RETURNS internal
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'dbscale_array_of_parts_add';
COMMENT ON FUNCTION dbscale.array_of_parts_add(internal, anyarray) IS 'internal: of array_of_parts()';
CREATE FUNCTION dbscale.array_of_parts_end(state internal, part anyarray) RETURNS anyarray
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'dbscale_array_of_parts_end';
COMMENT ON FUNCTION dbscale.array_of_parts_end(internal, anyarray) IS 'internal: of array_of_parts()';
CREATE AGGREGATE dbscale.array_of_parts(part anyarray)
    (SFUNC = dbscale.array_of_parts_add, STYPE = internal, FINALFUNC = dbscale.array_of_parts_end, FINALFUNC_EXTRA, PARALLEL = SAFE);
COMMENT ON AGGREGATE dbscale.array_of_parts(anyarray) IS 'internal: one array of the elements of those that the shards have sent';
