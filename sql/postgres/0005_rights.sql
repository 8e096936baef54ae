-- The rights of the role that the pipeline signs in by, where there is one: sql/roles/postgres.sql says which and why.

-- migrate: up
DO $rights$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'ninjait_pipelines') THEN
        GRANT USAGE ON SCHEMA billing TO ninjait_pipelines
        ; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA billing TO ninjait_pipelines
        ; ALTER DEFAULT PRIVILEGES IN SCHEMA billing GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO ninjait_pipelines
    ; END IF
; END $rights$;

-- migrate: down
DO $rights$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'ninjait_pipelines') THEN
        ALTER DEFAULT PRIVILEGES IN SCHEMA billing REVOKE ALL ON TABLES FROM ninjait_pipelines
        ; REVOKE INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA billing FROM ninjait_pipelines
    ; END IF
; END $rights$;
