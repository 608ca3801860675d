-- The views over the catalog.  Columns that only a node knows come from functions
-- that ask each node once; a query that does not name these columns asks nobody,
-- since the planner removes a left join to a subquery that is unique and unused.

CREATE FUNCTION dbscale.shard_sizes(OUT node name, OUT relation regclass, OUT shard integer,
                                    OUT rows bigint, OUT bytes bigint) RETURNS SETOF record
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dbscale_shard_sizes';
COMMENT ON FUNCTION dbscale.shard_sizes() IS 'estimated rows, and bytes, of every shard on every node; shard is null for a reference table''s copy';

CREATE FUNCTION dbscale.node_replicas(OUT node name, OUT replicas bigint) RETURNS SETOF record
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dbscale_node_replicas';
COMMENT ON FUNCTION dbscale.node_replicas() IS 'streaming standbys of every node; null where the node does not let us see them';

CREATE FUNCTION dbscale.shard_load(OUT table_group integer, OUT shard integer, OUT reads bigint, OUT writes bigint)
    RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'dbscale_shard_load';
COMMENT ON FUNCTION dbscale.shard_load() IS 'statements that read and wrote each shard of a table group since the server''s start; null where they are not counted';

CREATE FUNCTION dbscale.reset_shard_load() RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'dbscale_reset_shard_load';
REVOKE ALL ON FUNCTION dbscale.reset_shard_load() FROM PUBLIC;
COMMENT ON FUNCTION dbscale.reset_shard_load() IS 'counts the reads and writes of this database''s shards from zero';
-- an extension that was here before has left its counts under the same numbers of groups
SELECT dbscale.reset_shard_load();

CREATE VIEW dbscale.shards AS
SELECT t.relation,
       s.shard,
       s.node,
       CASE WHEN s.hash_from IS NOT NULL
            THEN pg_catalog.jsonb_build_object('from', s.hash_from, 'to', s.hash_to)
            ELSE s.bounds
       END AS bounds,
       COALESCE(d.keys, 0) AS directory_keys,
       z.rows,
       z.bytes,
       l.reads,
       l.writes
FROM dbscale.distributed_table t
JOIN dbscale.shard s USING (group_id)
LEFT JOIN (SELECT group_id, shard, pg_catalog.count(*) AS keys
           FROM dbscale.directory GROUP BY group_id, shard) d
       ON d.group_id = s.group_id AND d.shard = s.shard
LEFT JOIN (SELECT relation, shard, pg_catalog.max(rows) AS rows, pg_catalog.max(bytes) AS bytes
           FROM dbscale.shard_sizes() GROUP BY relation, shard) z
       ON z.relation = t.relation AND z.shard = s.shard
LEFT JOIN (SELECT table_group, shard, pg_catalog.max(reads) AS reads, pg_catalog.max(writes) AS writes
           FROM dbscale.shard_load() GROUP BY table_group, shard) l
       ON l.table_group = s.group_id AND l.shard = s.shard;
COMMENT ON VIEW dbscale.shards IS 'shards of distributed tables: where they are, what they hold, how large they are, and how much they are used (all colocated tables together)';

CREATE VIEW dbscale.tables AS
SELECT t.relation,
       COALESCE(g.strategy, 'reference') AS strategy,
       (SELECT a.attname
        FROM pg_catalog.pg_partitioned_table p
        JOIN pg_catalog.pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
        WHERE p.partrelid = t.relation) AS key,
       t.group_id AS table_group,
       (SELECT pg_catalog.count(*) FROM dbscale.shard s WHERE s.group_id = t.group_id) AS shard_count,
       z.rows,
       z.bytes
FROM dbscale.distributed_table t
LEFT JOIN dbscale.table_group g USING (group_id)
LEFT JOIN (SELECT relation,
                  -- a reference table is counted once, not once a node
                  COALESCE(pg_catalog.sum(rows) FILTER (WHERE shard IS NOT NULL),
                           pg_catalog.max(rows))::bigint AS rows,
                  COALESCE(pg_catalog.sum(bytes) FILTER (WHERE shard IS NOT NULL),
                           pg_catalog.max(bytes))::bigint AS bytes
           FROM dbscale.shard_sizes() GROUP BY relation) z
       ON z.relation = t.relation;
COMMENT ON VIEW dbscale.tables IS 'distributed and reference tables';

CREATE VIEW dbscale.nodes AS
SELECT n.node,
       (SELECT option_value FROM pg_catalog.pg_options_to_table(f.srvoptions)
        WHERE option_name = 'host') AS host,
       (SELECT option_value FROM pg_catalog.pg_options_to_table(f.srvoptions)
        WHERE option_name = 'port')::integer AS port,
       (SELECT option_value FROM pg_catalog.pg_options_to_table(f.srvoptions)
        WHERE option_name = 'dbname') AS dbname,
       n.state,
       (SELECT pg_catalog.count(*)
        FROM dbscale.shard s JOIN dbscale.distributed_table t USING (group_id)
        WHERE s.node = n.node) AS shards,
       z.bytes,
       r.replicas,
       n.capacity
FROM dbscale.node n
LEFT JOIN pg_catalog.pg_foreign_server f ON f.srvname = n.node
LEFT JOIN (SELECT node, pg_catalog.sum(bytes)::bigint AS bytes
           FROM dbscale.shard_sizes() GROUP BY node) z
       ON z.node = n.node
LEFT JOIN (SELECT node, pg_catalog.max(replicas) AS replicas
           FROM dbscale.node_replicas() GROUP BY node) r
       ON r.node = n.node;
COMMENT ON VIEW dbscale.nodes IS 'nodes, how to reach them, and what is on them';

GRANT SELECT ON dbscale.shards, dbscale.tables, dbscale.nodes TO PUBLIC;
