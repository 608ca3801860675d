-- Long operations: those that run, from shared memory, and those that are done.

CREATE FUNCTION dbscale.running_jobs(
    OUT job bigint, OUT kind text, OUT relation text, OUT step text, OUT step_number integer, OUT steps integer,
    OUT done_bytes bigint, OUT total_bytes bigint, OUT started_at timestamptz)
    RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'dbscale_running_jobs';
COMMENT ON FUNCTION dbscale.running_jobs() IS 'long operations of this database whose transactions have not ended';

CREATE VIEW dbscale.jobs AS
    SELECT j.job, j.kind, j.state, nullif(concat_ws(': ', j.relation, j.step), '') AS step, j.steps, j.done_bytes, j.total_bytes,
           j.started_at, j.finished_at, j.error
      FROM dbscale.job j
    UNION ALL
    SELECT r.job, r.kind, 'running', nullif(concat_ws(': ', r.relation, r.step), ''), r.steps, r.done_bytes, r.total_bytes,
           r.started_at, NULL, NULL
      FROM dbscale.running_jobs() r
     WHERE NOT EXISTS (SELECT FROM dbscale.job j WHERE j.job = r.job);
GRANT SELECT ON dbscale.jobs TO PUBLIC;
COMMENT ON VIEW dbscale.jobs IS 'long operations, running and done; one that failed has undone itself and is not listed';
