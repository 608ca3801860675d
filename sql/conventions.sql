-- Rules every SQL object of the extension keeps.  Each query lists who breaks one.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dbscale CASCADE;
RESET client_min_messages;

-- functions, views and tables without a comment
SELECT p.oid::regprocedure AS function_without_comment
FROM pg_proc p
WHERE p.pronamespace = 'dbscale'::regnamespace
  AND EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e')
  AND obj_description(p.oid, 'pg_proc') IS NULL
ORDER BY p.oid::regprocedure::text;

SELECT c.oid::regclass AS relation_without_comment
FROM pg_class c
WHERE c.relnamespace = 'dbscale'::regnamespace AND c.relkind IN ('r', 'v')
  AND obj_description(c.oid, 'pg_class') IS NULL
ORDER BY c.oid::regclass::text;

-- functions that may change something (they are volatile) and that anybody may call;
-- a handler only hands out pointers, a validator only looks at its arguments, and the
-- functions named here read what no snapshot covers: shared memory, and the nodes
SELECT p.oid::regprocedure AS function_open_to_public
FROM pg_proc p
WHERE p.pronamespace = 'dbscale'::regnamespace
  AND EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e')
  AND p.provolatile = 'v'
  AND p.prorettype <> 'fdw_handler'::regtype
  AND p.proname NOT IN ('running_jobs', 'shard_sizes', 'shard_load', 'node_replicas', 'rebalance_plan', 'drain_plan',
                        'counter_pending', 'counter_value')
  AND NOT EXISTS (SELECT FROM pg_foreign_data_wrapper w WHERE w.fdwvalidator = p.oid)
  AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
              WHERE a.grantee = 0 AND a.privilege_type = 'EXECUTE')
ORDER BY p.oid::regprocedure::text;

-- SECURITY DEFINER functions whose search_path somebody else could set
SELECT p.oid::regprocedure AS function_with_open_search_path
FROM pg_proc p
WHERE p.pronamespace = 'dbscale'::regnamespace AND p.prosecdef
  AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS c WHERE c LIKE 'search\_path=%')
ORDER BY p.oid::regprocedure::text;

-- tables of the catalog that others may write to
SELECT c.oid::regclass AS table_open_to_public, a.privilege_type
FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
WHERE c.relnamespace = 'dbscale'::regnamespace AND c.relkind IN ('r', 'v')
  AND a.grantee = 0 AND a.privilege_type <> 'SELECT'
ORDER BY 1, 2;

-- settings without a description
SELECT name FROM pg_settings WHERE name LIKE 'dbscale.%' AND coalesce(short_desc, '') = '';
