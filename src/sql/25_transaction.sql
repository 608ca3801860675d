-- Transactions over several nodes.

CREATE FUNCTION dbscale.recover_transactions() RETURNS integer
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'dbscale_recover_transactions';
REVOKE ALL ON FUNCTION dbscale.recover_transactions() FROM PUBLIC;
COMMENT ON FUNCTION dbscale.recover_transactions() IS 'commits or rolls back what interrupted transactions left prepared on the nodes, and returns how many; the maintenance worker does so by itself';

CREATE FUNCTION dbscale.prepared_transactions(
    OUT node name, OUT gid text, OUT database name, OUT prepared_at timestamptz, OUT state text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'dbscale_prepared_transactions';
REVOKE ALL ON FUNCTION dbscale.prepared_transactions() FROM PUBLIC;
COMMENT ON FUNCTION dbscale.prepared_transactions() IS 'asks all nodes for the prepared transactions of this database; see the view prepared';

CREATE VIEW dbscale.prepared AS
    SELECT node, gid, database, prepared_at, state
      FROM dbscale.prepared_transactions();
COMMENT ON VIEW dbscale.prepared IS 'transactions prepared on nodes and how the coordinator ended them: in progress, committed or rolled back; those not in progress are in doubt until the maintenance worker has reached the node';
