-- DDL on distributed tables.

CREATE FUNCTION dbscale.on_drop() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'dbscale_on_drop';
REVOKE ALL ON FUNCTION dbscale.on_drop() FROM PUBLIC;
COMMENT ON FUNCTION dbscale.on_drop() IS 'event trigger: drops on the nodes what was dropped of distributed tables';

CREATE EVENT TRIGGER dbscale_on_drop ON sql_drop EXECUTE FUNCTION dbscale.on_drop();
ALTER EVENT TRIGGER dbscale_on_drop ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER dbscale_on_drop IS 'dbscale: drops on the nodes what was dropped of distributed tables';
