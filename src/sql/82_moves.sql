-- Moving shards, and the jobs that do it.

CREATE FUNCTION dbscale.move_shard(relation regclass, shard integer, node name, method text DEFAULT 'online') RETURNS void
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'dbscale_move_shard';
REVOKE ALL ON FUNCTION dbscale.move_shard(regclass, integer, name, text) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.move_shard(regclass, integer, name, text)
    IS 'moves a shard, of all tables of the group, to another node; online: while it is read and written';

CREATE FUNCTION dbscale.drain_node(node name) RETURNS bigint
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'dbscale_drain_node';
REVOKE ALL ON FUNCTION dbscale.drain_node(name) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.drain_node(name)
    IS 'starts a job that moves all shards of a node to the others; the node takes no new ones';

CREATE FUNCTION dbscale.rebalance(by text DEFAULT 'bytes') RETURNS bigint
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'dbscale_rebalance';
REVOKE ALL ON FUNCTION dbscale.rebalance(text) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.rebalance(text) IS 'starts a job that carries out the moves of rebalance_plan';

CREATE FUNCTION dbscale.wait_job(job bigint, timeout interval DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dbscale_wait_job';
REVOKE ALL ON FUNCTION dbscale.wait_job(bigint, interval) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.wait_job(bigint, interval) IS 'waits until a job has ended, or for so long, and returns its state';

CREATE FUNCTION dbscale.cancel_job(job bigint) RETURNS boolean
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'dbscale_cancel_job';
REVOKE ALL ON FUNCTION dbscale.cancel_job(bigint) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.cancel_job(bigint) IS 'cancels a job that waits or runs, and the steps of a drain or rebalance; what it had begun is undone';

CREATE FUNCTION dbscale.run_cleanup() RETURNS integer
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'dbscale_run_cleanup';
REVOKE ALL ON FUNCTION dbscale.run_cleanup() FROM PUBLIC;
COMMENT ON FUNCTION dbscale.run_cleanup() IS 'removes from the nodes what moves have left and nobody needs any more, which the maintenance worker does by itself, and returns how much is left';
