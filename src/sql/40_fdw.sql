-- The foreign data wrapper: its servers are the nodes.
CREATE FUNCTION dbscale.fdw_handler() RETURNS fdw_handler
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'dbscale_fdw_handler';
COMMENT ON FUNCTION dbscale.fdw_handler() IS 'handler of foreign data wrapper dbscale_fdw';

CREATE FUNCTION dbscale.fdw_validator(text[], oid) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'dbscale_fdw_validator';
COMMENT ON FUNCTION dbscale.fdw_validator(text[], oid) IS 'validator of foreign data wrapper dbscale_fdw';

REVOKE ALL ON FUNCTION dbscale.fdw_handler(), dbscale.fdw_validator(text[], oid) FROM PUBLIC;

CREATE FOREIGN DATA WRAPPER dbscale_fdw
    HANDLER dbscale.fdw_handler VALIDATOR dbscale.fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER dbscale_fdw IS 'shards on nodes: each server of it is a node';
