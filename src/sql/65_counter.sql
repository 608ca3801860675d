-- Denormalized counters.

CREATE TABLE dbscale.counter (
    counter       name PRIMARY KEY,
    target        regclass NOT NULL,
    target_column name NOT NULL,
    source        regclass NOT NULL,
    target_key    name[] NOT NULL CHECK (cardinality(target_key) > 0),
    source_key    name[] NOT NULL CHECK (cardinality(source_key) = cardinality(target_key)),
    aggregate     text NOT NULL CHECK (aggregate IN ('count', 'sum', 'min', 'max')),
    value_column  name CHECK (value_column IS NOT NULL OR aggregate = 'count'),
    filter        text,                     -- as PostgreSQL prints it
    mode          text NOT NULL CHECK (mode IN ('sync', 'buffered')),
    fingerprint   text,                     -- of the SQL that keeps it, as it is installed
    suspended     boolean NOT NULL DEFAULT false,   -- only within a transaction that distributes its tables
    apart         boolean NOT NULL DEFAULT false CHECK (NOT apart OR mode = 'buffered'),   -- its tables are not colocated
    UNIQUE (target, target_column)
);
CREATE INDEX counter_source_idx ON dbscale.counter (source);
GRANT SELECT ON dbscale.counter TO PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('dbscale.counter', '');
COMMENT ON TABLE dbscale.counter IS 'columns that hold an aggregate over the rows of another table, kept by triggers';

-- A transaction that distributes one of a counter's tables has to distribute the other too.
CREATE FUNCTION dbscale.check_counter_is_kept() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM dbscale.counter c WHERE c.counter = NEW.counter AND c.suspended;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '55000',
            MESSAGE = format('counter "%s" cannot be kept', NEW.counter),
            DETAIL = format('Of the tables %s and %s only one has been distributed, or undistributed.', NEW.target, NEW.source),
            HINT = format('Do the same with the other in the same transaction, or use dbscale.drop_counter(%L).', NEW.counter);
    END IF;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION dbscale.check_counter_is_kept() FROM PUBLIC;
COMMENT ON FUNCTION dbscale.check_counter_is_kept() IS 'trigger: no transaction leaves a counter between a distributed table and one that is not';
CREATE CONSTRAINT TRIGGER check_is_kept AFTER UPDATE OF suspended ON dbscale.counter DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.suspended) EXECUTE FUNCTION dbscale.check_counter_is_kept();
ALTER TABLE dbscale.counter ENABLE ALWAYS TRIGGER check_is_kept;

CREATE FUNCTION dbscale.create_counter(target regclass, target_column name, source regclass, target_key name[], source_key name[],
    aggregate text DEFAULT 'count', value_column name DEFAULT NULL, filter text DEFAULT NULL, mode text DEFAULT 'sync') RETURNS name
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dbscale_create_counter';
REVOKE ALL ON FUNCTION dbscale.create_counter(regclass, name, regclass, name[], name[], text, name, text, text) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.create_counter(regclass, name, regclass, name[], name[], text, name, text, text)
    IS 'keeps an aggregate over the rows of a table in a column of another; returns the counter''s name';

CREATE FUNCTION dbscale.drop_counter(counter name) RETURNS void
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'dbscale_drop_counter';
REVOKE ALL ON FUNCTION dbscale.drop_counter(name) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.drop_counter(name) IS 'ends a counter; its column stays, with the values it has';

CREATE FUNCTION dbscale.verify_counter(counter name, OUT key jsonb, OUT stored text, OUT actual text) RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'dbscale_verify_counter';
REVOKE ALL ON FUNCTION dbscale.verify_counter(name) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.verify_counter(name) IS 'rows whose counter is not what the source''s rows say: none, unless triggers were disabled';

CREATE FUNCTION dbscale.counter_parts(counter name, OUT key jsonb, OUT stored numeric, OUT carried numeric, OUT orphan boolean) RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'dbscale_counter_parts';
REVOKE ALL ON FUNCTION dbscale.counter_parts(name) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.counter_parts(name) IS 'for verify_counter: what a counter''s shards have of each key, where its tables are not colocated';

CREATE FUNCTION dbscale.repair_counter(counter name) RETURNS bigint
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'dbscale_repair_counter';
REVOKE ALL ON FUNCTION dbscale.repair_counter(name) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.repair_counter(name) IS 'computes a counter anew; returns how many rows were wrong';

CREATE FUNCTION dbscale.fold_counter(counter name) RETURNS bigint
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'dbscale_fold_counter';
REVOKE ALL ON FUNCTION dbscale.fold_counter(name) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.fold_counter(name) IS 'folds what a buffered counter has pending, as the maintenance worker does; returns how many rows of the target changed';

CREATE FUNCTION dbscale.counter_value(counter name, VARIADIC key "any") RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dbscale_counter_value';
COMMENT ON FUNCTION dbscale.counter_value(name, "any") IS 'the counter of one target row, with what is pending, as of one moment';

CREATE FUNCTION dbscale.counter_pending(OUT counter name, OUT pending bigint, OUT oldest timestamptz, OUT last_fold timestamptz,
    OUT problem text) RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'dbscale_counter_pending';
COMMENT ON FUNCTION dbscale.counter_pending() IS 'deltas of buffered counters that are not folded yet, since when, when the worker last folded on all their nodes, and what cannot be carried';

CREATE VIEW dbscale.counters AS
SELECT c.counter, c.target, c.target_column, c.source, c.aggregate, c.value_column, c.filter, c.mode,
       COALESCE(p.pending, 0) AS pending,
       COALESCE(pg_catalog.clock_timestamp() - p.oldest, '0'::interval) AS lag,
       p.last_fold, p.problem
FROM dbscale.counter c
LEFT JOIN (SELECT counter, pg_catalog.max(pending) AS pending, pg_catalog.min(oldest) AS oldest, pg_catalog.min(last_fold) AS last_fold,
                  pg_catalog.min(problem) AS problem
           FROM dbscale.counter_pending() GROUP BY counter) p ON p.counter = c.counter;
GRANT SELECT ON dbscale.counters TO PUBLIC;
COMMENT ON VIEW dbscale.counters IS 'counters, and what is pending of the buffered ones';
