-- The catalog held against what the nodes really have.

CREATE FUNCTION dbscale.ask_node(node name, question text, OUT answer text, OUT error text)
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'dbscale_ask_node';
REVOKE ALL ON FUNCTION dbscale.ask_node(name, text) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.ask_node(name, text) IS
    'runs a query on a node: the first column of its first row, or the error';

CREATE FUNCTION dbscale.count_rows(relation regclass) RETURNS bigint
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'dbscale_count_rows';
REVOKE ALL ON FUNCTION dbscale.count_rows(regclass) FROM PUBLIC;
COMMENT ON FUNCTION dbscale.count_rows(regclass) IS
    'how many rows a table has here (for dbscale.check())';

-- What a node has in dbscale_shards, as one jsonb; runs on the node.
CREATE FUNCTION dbscale.check_question() RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $check$
SELECT $question$
SELECT jsonb_build_object(
  'tables', (SELECT coalesce(jsonb_object_agg(c.relname, coalesce(
       (SELECT jsonb_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)
                 || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
                 || CASE WHEN a.attgenerated <> '' THEN ' generated' ELSE '' END)
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '{}')), '{}')
     FROM pg_class c WHERE c.relnamespace = to_regnamespace('dbscale_shards') AND c.relkind IN ('r', 'p')),
  'constraints', (SELECT coalesce(jsonb_object_agg(c.relname || '.' || k.conname, k.convalidated), '{}')
     FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
     WHERE c.relnamespace = to_regnamespace('dbscale_shards')),
  'indexes', (SELECT coalesce(jsonb_object_agg(c.relname, jsonb_build_array(t.relname, i.indisvalid, i.indisunique)), '{}')
     FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
     WHERE c.relnamespace = to_regnamespace('dbscale_shards')),
  -- of counters: triggers by table, and functions that no trigger calls
  'triggers', (SELECT coalesce(jsonb_object_agg(x.relname, x.names), '{}') FROM (
     SELECT c.relname, jsonb_agg(t.tgname) AS names FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
     WHERE c.relnamespace = to_regnamespace('dbscale_shards') AND t.tgname ~ '^~?dbscale_counter_' AND t.tgenabled <> 'D'
     GROUP BY c.relname) x),
  'functions', (SELECT coalesce(jsonb_agg(p.proname), '[]') FROM pg_proc p
     WHERE p.pronamespace = to_regnamespace('dbscale_shards')
       AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = p.oid)),
  'statistics', (SELECT coalesce(jsonb_object_agg(e.stxname, c.relname), '{}')
     FROM pg_statistic_ext e JOIN pg_class c ON c.oid = e.stxrelid
     WHERE e.stxnamespace = to_regnamespace('dbscale_shards')),
  'publications', (SELECT coalesce(jsonb_agg(pubname), '[]') FROM pg_publication WHERE pubname ~ '^dbscale_move_'),
  'slots', (SELECT coalesce(jsonb_agg(slot_name), '[]') FROM pg_replication_slots
     WHERE database = current_database() AND slot_name ~ '^dbscale_'),
  'prepared', (SELECT coalesce(jsonb_agg(gid), '[]') FROM pg_prepared_xacts
     WHERE database = current_database() AND gid ~ '^dbscale_'))$question$
$check$;
REVOKE ALL ON FUNCTION dbscale.check_question() FROM PUBLIC;
COMMENT ON FUNCTION dbscale.check_question() IS 'internal: what check() asks a node';

CREATE FUNCTION dbscale.check()
    RETURNS TABLE (node name, object text, problem text)
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $check$
WITH reply AS MATERIALIZED (
    SELECT n.node, a.answer::jsonb AS has, a.error
    FROM dbscale.node n, LATERAL dbscale.ask_node(n.node, dbscale.check_question()) a
    WHERE n.state <> 'disabled' AND EXISTS (SELECT FROM pg_foreign_server s WHERE s.srvname = n.node)),
-- every table that should be on a node
placed AS MATERIALIZED (
    SELECT t.relation, s.shard, s.node, t.stored_name || '_' || s.shard AS table_name, '_' || s.shard AS suffix
    FROM dbscale.distributed_table t JOIN dbscale.shard s USING (group_id)
    UNION ALL
    SELECT t.relation, NULL, n.node, t.stored_name::text, ''
    FROM dbscale.distributed_table t, dbscale.node n WHERE t.group_id IS NULL),
-- what buffered counters have beside the shards
deltas AS MATERIALIZED (
    SELECT c.counter, s.node, c.counter || '_deltas_' || s.shard AS table_name,
           CASE WHEN NOT c.apart THEN c.counter || '_fold_' || s.shard END AS fold_name
    FROM dbscale.counter c JOIN dbscale.distributed_table t ON t.relation = CASE WHEN c.apart THEN c.source ELSE c.target END
    JOIN dbscale.shard s USING (group_id) WHERE c.mode = 'buffered' AND NOT c.suspended
    UNION ALL
    SELECT c.counter, s.node, c.counter || '_orphans_' || s.shard, c.counter || '_lock_' || s.shard
    FROM dbscale.counter c JOIN dbscale.distributed_table t ON t.relation = c.target
    JOIN dbscale.shard s USING (group_id) WHERE c.apart),
-- triggers that every counter's tables have
counting(relation, trigger_name) AS (
    SELECT c.source, t.name FROM dbscale.counter c, unnest(ARRAY['dbscale_counter_insert', 'dbscale_counter_delete',
        'dbscale_counter_update', 'dbscale_counter_truncate']) t(name) WHERE NOT c.suspended
    UNION
    SELECT c.target, t.name FROM dbscale.counter c, unnest(ARRAY['~dbscale_counter_begin', '~dbscale_counter_guard']) t(name)
    WHERE NOT c.suspended
    UNION
    SELECT c.source, '~dbscale_counter_empty' FROM dbscale.counter c WHERE c.apart
    UNION
    SELECT c.target, t.name FROM dbscale.counter c, unnest(ARRAY['dbscale_counter_made', 'dbscale_counter_rekeyed',
        'dbscale_counter_gone', '~dbscale_counter_all_gone']) t(name) WHERE c.apart),
there AS MATERIALIZED (
    SELECT p.*, r.has, r.has->'tables'->p.table_name AS columns
    FROM placed p JOIN reply r ON r.node = p.node AND r.has IS NOT NULL),
wanted_column AS (
    SELECT a.attrelid, a.attname, format_type(a.atttypid, a.atttypmod)
           || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
           || CASE WHEN a.attgenerated <> '' THEN ' generated' ELSE '' END AS definition
    FROM pg_attribute a WHERE a.attnum > 0 AND NOT a.attisdropped),
in_doubt AS (
    SELECT r.node, g.gid FROM reply r, jsonb_array_elements_text(r.has->'prepared') g(gid)
    WHERE g.gid LIKE format('dbscale\_%s\_%s\_%%', (SELECT system_identifier FROM pg_control_system()),
                            (SELECT oid FROM pg_database WHERE datname = current_database()))),
found(node, object, problem) AS (
    SELECT n.node, 'node', 'the node has no foreign server' FROM dbscale.node n
    WHERE NOT EXISTS (SELECT FROM pg_foreign_server s WHERE s.srvname = n.node)
    UNION ALL
    SELECT n.node, 'node', 'the node is disabled, and was not checked' FROM dbscale.node n WHERE n.state = 'disabled'
    UNION ALL
    SELECT r.node, 'node', r.error FROM reply r WHERE r.error IS NOT NULL
    UNION ALL
    SELECT i.node, 'transaction ' || i.gid, 'prepared, and in doubt' FROM in_doubt i
    WHERE pg_xact_status(split_part(i.gid, '_', 4)::xid8) IS DISTINCT FROM 'in progress'
    UNION ALL
    SELECT NULL, t.relation::text, 'the catalog has a table that does not exist' FROM dbscale.distributed_table t
    WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.relation)
    UNION ALL
    -- the foreign tables on the coordinator
    SELECT p.node, p.table_name, 'shard ' || p.shard || ' of ' || p.relation || ' has no foreign table'
    FROM placed p WHERE p.shard IS NOT NULL AND NOT EXISTS (
        SELECT FROM dbscale.shard_table st JOIN pg_inherits i ON i.inhrelid = st.foreign_table AND i.inhparent = p.relation
        WHERE st.relation = p.relation AND st.shard = p.shard)
    UNION ALL
    SELECT p.node, st.foreign_table::text, format('the foreign table is on server %I, the shard on node %I', s.srvname, p.node)
    FROM placed p JOIN dbscale.shard_table st ON st.relation = p.relation AND st.shard = p.shard
    JOIN pg_foreign_table f ON f.ftrelid = st.foreign_table JOIN pg_foreign_server s ON s.oid = f.ftserver
    WHERE s.srvname <> p.node
    UNION ALL
    -- tables
    SELECT t.node, t.table_name, CASE WHEN t.shard IS NULL THEN 'the copy of ' || t.relation || ' is missing'
                                      ELSE 'shard ' || t.shard || ' of ' || t.relation || ' is missing' END
    FROM there t WHERE t.columns IS NULL
    UNION ALL
    SELECT r.node, x.name, 'the node has a table that the catalog does not place there'
    FROM reply r, jsonb_object_keys(r.has->'tables') x(name)
    WHERE NOT EXISTS (SELECT FROM placed p WHERE p.node = r.node AND p.table_name = x.name)
      AND NOT EXISTS (SELECT FROM deltas d WHERE d.node = r.node AND d.table_name = x.name)
      AND NOT EXISTS (SELECT FROM dbscale.cleanup c WHERE c.node = r.node AND c.kind = 'table' AND c.name = x.name)
    UNION ALL
    -- what moves make on nodes
    SELECT r.node, 'publication ' || x.name, 'it is left of a move'
    FROM reply r, jsonb_array_elements_text(r.has->'publications') x(name)
    WHERE NOT EXISTS (SELECT FROM dbscale.cleanup c WHERE c.node = r.node AND c.kind = 'publication' AND c.name = x.name)
    UNION ALL
    SELECT r.node, 'replication slot ' || x.name, 'it is left of a move'
    FROM reply r, jsonb_array_elements_text(r.has->'slots') x(name)
    WHERE NOT EXISTS (SELECT FROM dbscale.job j WHERE j.kind IN ('move', 'split', 'isolate', 'merge', 'assign') AND j.state = 'running' AND r.node IN (j.from_node, j.to_node)
                      AND x.name ~ format('_%s$', j.job))
    UNION ALL
    SELECT d.node, d.table_name, 'the deltas of counter ' || d.counter || ' are missing'
    FROM deltas d JOIN reply r ON r.node = d.node AND r.has IS NOT NULL
    WHERE NOT r.has->'tables' ? d.table_name
    UNION ALL
    SELECT d.node, d.fold_name, 'the function that folds counter ' || d.counter || ' is missing'
    FROM deltas d JOIN reply r ON r.node = d.node AND r.has IS NOT NULL
    WHERE NOT r.has->'functions' ? d.fold_name
    UNION ALL
    SELECT r.node, x.name, 'the node has a function that the catalog does not place there'
    FROM reply r, jsonb_array_elements_text(r.has->'functions') x(name)
    WHERE NOT EXISTS (SELECT FROM deltas d WHERE d.node = r.node AND d.fold_name = x.name)
      AND NOT EXISTS (SELECT FROM dbscale.cleanup c WHERE c.node = r.node AND c.kind = 'function' AND c.name = x.name)
    UNION ALL
    SELECT t.node, t.table_name, format('trigger %I, which keeps counters, is missing or disabled', w.trigger_name)
    FROM there t JOIN counting w ON w.relation = t.relation
    WHERE t.columns IS NOT NULL AND t.shard IS NOT NULL AND NOT coalesce(t.has->'triggers'->t.table_name ? w.trigger_name, false)
    UNION ALL
    SELECT t.node, t.table_name, 'the table has triggers of counters, and no counter'
    FROM there t
    WHERE t.has->'triggers' ? t.table_name AND NOT EXISTS (SELECT FROM counting w WHERE w.relation = t.relation)
    UNION ALL
    -- columns
    SELECT t.node, t.table_name, CASE
        WHEN t.columns->>w.attname::text IS NULL THEN format('column %I is missing', w.attname)
        ELSE format('column %I is %s, and should be %s', w.attname, t.columns->>w.attname::text, w.definition) END
    FROM there t JOIN wanted_column w ON w.attrelid = t.relation
    WHERE t.columns IS NOT NULL AND t.columns->>w.attname::text IS DISTINCT FROM w.definition
    UNION ALL
    SELECT t.node, t.table_name, format('column %I is not a column of %s', x.name, t.relation)
    FROM there t, jsonb_object_keys(t.columns) x(name)
    WHERE NOT EXISTS (SELECT FROM wanted_column w WHERE w.attrelid = t.relation AND w.attname = x.name)
    UNION ALL
    -- indexes
    SELECT t.node, t.table_name, CASE
        WHEN n.stored_name IS NULL OR t.has->'indexes'->(n.stored_name || t.suffix) IS NULL
            THEN format('index %I is missing', c.relname)
        WHEN t.has->'indexes'->(n.stored_name || t.suffix)->>0 <> t.table_name
            THEN format('index %I is on table %I', c.relname, t.has->'indexes'->(n.stored_name || t.suffix)->>0)
        WHEN NOT (t.has->'indexes'->(n.stored_name || t.suffix)->>1)::boolean
            THEN format('index %I is not valid', c.relname)
        ELSE format('index %I is %s', c.relname, CASE WHEN i.indisunique THEN 'not unique' ELSE 'unique' END) END
    FROM there t JOIN pg_index i ON i.indrelid = t.relation JOIN pg_class c ON c.oid = i.indexrelid
    LEFT JOIN dbscale.index_name n ON n.relation = t.relation AND n.index_name = c.relname
    WHERE t.columns IS NOT NULL
      AND t.has->'indexes'->(n.stored_name || t.suffix) IS DISTINCT FROM jsonb_build_array(t.table_name, true, i.indisunique)
    UNION ALL
    -- constraints that shards enforce
    SELECT t.node, t.table_name, format('constraint %I is missing', k.name)
    FROM there t JOIN (SELECT conrelid AS relation, conname AS name FROM pg_constraint WHERE contype = 'c'
                       UNION ALL SELECT relation, name FROM dbscale.foreign_key) k ON k.relation = t.relation
    WHERE t.columns IS NOT NULL AND t.has->'constraints'->(t.table_name || '.' || k.name) IS NULL
    UNION ALL
    -- extended statistics
    SELECT t.node, t.table_name, format('statistics %I are missing', e.stxname)
    FROM there t JOIN pg_statistic_ext e ON e.stxrelid = t.relation
    LEFT JOIN dbscale.statistics_name n ON n.relation = t.relation AND n.statistics_name = e.stxname
          AND n.schema_name = (SELECT nspname FROM pg_namespace WHERE oid = e.stxnamespace)
    WHERE t.columns IS NOT NULL AND t.has->'statistics'->>(n.stored_name || t.suffix) IS DISTINCT FROM t.table_name
    UNION ALL
    -- copies of reference tables
    SELECT t.node, t.table_name, coalesce(there_rows.error,
        format('the copy has %s rows, and the table %s', there_rows.answer, local_rows.answer))
    FROM there t,
    LATERAL (SELECT dbscale.count_rows(t.relation)::text AS answer
             WHERE t.shard IS NULL AND t.columns IS NOT NULL) local_rows,
    LATERAL dbscale.ask_node(t.node, format('SELECT count(*) FROM dbscale_shards.%I', t.table_name)) there_rows
    WHERE there_rows.answer IS DISTINCT FROM local_rows.answer)
SELECT f.node, f.object, f.problem FROM found f ORDER BY f.node, f.object, f.problem
$check$;
REVOKE ALL ON FUNCTION dbscale.check() FROM PUBLIC;
COMMENT ON FUNCTION dbscale.check() IS
    'every row of the catalog held against what the nodes really have; no rows: no problems';
