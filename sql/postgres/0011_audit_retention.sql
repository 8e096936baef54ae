-- The pipeline deletes audit logs by a function alone, and none of the last 366 days: no role of its may change or delete a
-- younger row.

-- migrate: up
CREATE FUNCTION audit.delete_expired(kept_days integer, max_rows integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = audit, pg_temp
AS $delete$
    WITH expired AS (
        SELECT id FROM audit.audit_logs
        WHERE created_at < now() - make_interval(days => greatest(kept_days, 366)) AND created_at > '-infinity'
        ORDER BY created_at LIMIT max_rows FOR UPDATE SKIP LOCKED
    ), deleted AS (
        DELETE FROM audit.audit_logs USING expired WHERE audit_logs.id = expired.id RETURNING audit_logs.id
    )
    SELECT count(*) FROM deleted
$delete$;
COMMENT ON FUNCTION audit.delete_expired IS 'Deletes up to max_rows audit logs older than kept_days, which count as 366 at least, oldest first; returns how many.';
REVOKE ALL ON FUNCTION audit.delete_expired FROM PUBLIC;
DO $rights$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'ninjait_pipelines') THEN
        GRANT EXECUTE ON FUNCTION audit.delete_expired TO ninjait_pipelines
    ; END IF
; END $rights$;
COMMENT ON TABLE audit.audit_logs IS 'Append only; delete_expired deletes old rows where AUDIT_KEPT_DAYS is set. user_id is null where the platform itself acted.';

-- migrate: down
COMMENT ON TABLE audit.audit_logs IS 'Append only. user_id is null where the platform itself acted.';
DROP FUNCTION IF EXISTS audit.delete_expired;
