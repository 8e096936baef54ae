-- Neither the pipeline nor its readers may select a password hash: of users they may read all other columns.

-- migrate: up
DO $rights$
DECLARE one name
; BEGIN
    FOR one IN SELECT rolname FROM pg_roles WHERE rolname IN ('ninjait_pipelines', 'ninjait_reader') LOOP
        EXECUTE format('REVOKE SELECT ON users FROM %I', one)
        ; EXECUTE format(
            'GRANT SELECT (id, organization_id, email, full_name, role, created_at, updated_at, deactivated_at) ON users TO %I', one
        )
    ; END LOOP
; END $rights$;

-- migrate: down
DO $rights$
DECLARE one name
; BEGIN
    FOR one IN SELECT rolname FROM pg_roles WHERE rolname IN ('ninjait_pipelines', 'ninjait_reader') LOOP
        EXECUTE format('GRANT SELECT ON users TO %I', one)
    ; END LOOP
; END $rights$;
