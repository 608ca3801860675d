-- Long operations: those that run, from shared memory, and those that wait or are done.

CREATE FUNCTION dbscale.running_jobs(
    OUT job bigint, OUT kind text, OUT relation text, OUT step text, OUT step_number integer, OUT steps integer,
    OUT done_bytes bigint, OUT total_bytes bigint, OUT lag bigint, OUT rate bigint, OUT started_at timestamptz)
    RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'dbscale_running_jobs';
COMMENT ON FUNCTION dbscale.running_jobs() IS 'long operations of this database that are running: lag in bytes of write-ahead log, rate in bytes a second';

CREATE VIEW dbscale.jobs AS
    SELECT j.job, j.kind, j.state,
           nullif(concat_ws(': ', j.relation || coalesce(' shard ' || j.shard, ''),
                            CASE j.state WHEN 'running' THEN coalesce(r.step, j.step) ELSE j.step END), '') AS step,
           j.steps,
           coalesce(CASE j.state WHEN 'running' THEN r.done_bytes END, j.done_bytes) AS done_bytes,
           coalesce(CASE j.state WHEN 'running' THEN r.total_bytes END, j.total_bytes) AS total_bytes,
           CASE j.state WHEN 'running' THEN r.lag END AS lag,
           CASE j.state WHEN 'running' THEN r.rate END AS rate,
           j.started_at, j.finished_at, j.error, j.parent, j.from_node, j.to_node
      FROM dbscale.job j LEFT JOIN dbscale.running_jobs() r USING (job)
    UNION ALL
    SELECT r.job, r.kind, 'running', nullif(concat_ws(': ', r.relation, r.step), ''), r.steps, r.done_bytes, r.total_bytes,
           r.lag, r.rate, r.started_at, NULL, NULL, NULL, NULL, NULL
      FROM dbscale.running_jobs() r
     WHERE NOT EXISTS (SELECT FROM dbscale.job j WHERE j.job = r.job);
GRANT SELECT ON dbscale.jobs TO PUBLIC;
COMMENT ON VIEW dbscale.jobs IS 'long operations: waiting, running and ended; one that ran in its caller''s transaction and failed has undone itself and is not listed';
