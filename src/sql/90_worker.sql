-- The maintenance worker looks at this database once the installing transaction has ended.

CREATE FUNCTION dbscale.start_worker() RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'dbscale_start_worker';
REVOKE ALL ON FUNCTION dbscale.start_worker() FROM PUBLIC;
COMMENT ON FUNCTION dbscale.start_worker() IS 'starts this database''s maintenance worker, once the current transaction has ended';
SELECT dbscale.start_worker();
