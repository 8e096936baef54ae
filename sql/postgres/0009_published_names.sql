-- Users, devices, tickets and the audit log have the columns that the platform publishes. Names are changed in place; what is
-- new is filled by rewriting the table, not by UPDATE, which rows that break a constraint (0008) would stop.

-- migrate: up
ALTER TABLE users
    ADD COLUMN password_hash text NOT NULL DEFAULT '!',
    ADD COLUMN updated_at timestamptz;
ALTER TABLE users ALTER COLUMN updated_at TYPE timestamptz USING created_at;
ALTER TABLE users
    ALTER COLUMN id SET DEFAULT gen_random_uuid(),
    ALTER COLUMN created_at SET DEFAULT now(),
    ALTER COLUMN updated_at SET DEFAULT now(),
    ALTER COLUMN updated_at SET NOT NULL;
COMMENT ON COLUMN users.password_hash IS 'The platform''s own; ! lets nobody in. Neither the pipeline nor its readers may select it.';
COMMENT ON COLUMN users.updated_at IS 'When the platform last changed the row.';

ALTER TABLE devices RENAME COLUMN hostname TO name;
ALTER TABLE devices RENAME COLUMN operating_system TO os_version;
ALTER TABLE devices RENAME COLUMN registered_at TO created_at;
ALTER TABLE devices
    ADD COLUMN status text,
    ADD COLUMN os_type text,
    ADD COLUMN ip_address inet,
    ADD COLUMN last_seen timestamptz,
    ALTER COLUMN os_version DROP NOT NULL;
ALTER TABLE devices
    ALTER COLUMN status TYPE text USING CASE WHEN retired_at IS NULL THEN 'active' ELSE 'retired' END,
    ALTER COLUMN os_type TYPE text USING CASE
        WHEN os_version ILIKE '%windows%' THEN 'windows'
        WHEN os_version ~* 'macos|darwin' THEN 'macos'
        WHEN os_version ~* 'linux|ubuntu|debian|centos|fedora|red hat|rocky|alma|suse|arch|alpine|mint' THEN 'linux'
    END;
ALTER TABLE devices
    ALTER COLUMN id SET DEFAULT gen_random_uuid(),
    ALTER COLUMN created_at SET DEFAULT now(),
    ALTER COLUMN status SET DEFAULT 'active',
    ALTER COLUMN status SET NOT NULL;
COMMENT ON COLUMN devices.name IS 'The host name, by which its agents are known.';
COMMENT ON COLUMN devices.status IS 'The platform''s word for it. What its heartbeats and readings say is in ClickHouse: device_status_realtime.';
COMMENT ON COLUMN devices.os_type IS 'windows, macos, linux or what the platform writes; null where os_version does not tell.';
COMMENT ON COLUMN devices.os_version IS 'The operating system with its version, as registered.';
COMMENT ON COLUMN devices.last_seen IS 'The platform''s own. The pipeline''s is in ClickHouse: device_last_seen.';

ALTER TABLE tickets RENAME COLUMN subject TO title;
ALTER TABLE tickets RENAME COLUMN assignee_id TO assigned_to;
ALTER TABLE tickets RENAME COLUMN requester_id TO created_by;
ALTER TABLE tickets
    ADD COLUMN description text,
    ADD COLUMN updated_at timestamptz;
ALTER TABLE tickets ALTER COLUMN updated_at TYPE timestamptz USING created_at;
ALTER TABLE tickets
    ALTER COLUMN id SET DEFAULT gen_random_uuid(),
    ALTER COLUMN created_at SET DEFAULT now(),
    ALTER COLUMN updated_at SET DEFAULT now(),
    ALTER COLUMN updated_at SET NOT NULL;
COMMENT ON COLUMN tickets.assigned_to IS 'The technician who has it.';
COMMENT ON COLUMN tickets.created_by IS 'The user who asked.';
COMMENT ON COLUMN tickets.updated_at IS 'When the platform last changed the row; ticket_history has what happened when.';

CREATE TYPE audit.audit_action AS ENUM ('CREATE', 'UPDATE', 'DELETE', 'READ');
ALTER TABLE audit.audit_logs RENAME COLUMN actor_id TO user_id;
ALTER TABLE audit.audit_logs RENAME COLUMN occurred_at TO created_at;
ALTER TABLE audit.audit_logs
    DROP CONSTRAINT audit_logs_action_check,
    ADD COLUMN metadata text,
    ALTER COLUMN action TYPE audit.audit_action USING action::audit.audit_action,
    ALTER COLUMN ip_address TYPE text USING host(ip_address),
    ALTER COLUMN id SET DEFAULT gen_random_uuid(),
    ALTER COLUMN created_at SET DEFAULT now();
COMMENT ON TABLE audit.audit_logs IS 'Append only. user_id is null where the platform itself acted.';
-- What a user did, and what happened in a time; by entity there is an index.
CREATE INDEX audit_logs_by_user ON audit.audit_logs (user_id, created_at);
CREATE INDEX audit_logs_by_time ON audit.audit_logs (created_at);

-- migrate: down
DROP INDEX audit.audit_logs_by_time;
DROP INDEX audit.audit_logs_by_user;
ALTER TABLE audit.audit_logs
    DROP COLUMN metadata,
    ALTER COLUMN action TYPE text USING action::text,
    ALTER COLUMN ip_address TYPE inet USING ip_address::inet,
    ALTER COLUMN id DROP DEFAULT,
    ALTER COLUMN created_at DROP DEFAULT;
ALTER TABLE audit.audit_logs
    ADD CONSTRAINT audit_logs_action_check CHECK (action IN ('CREATE', 'UPDATE', 'DELETE', 'READ'));
ALTER TABLE audit.audit_logs RENAME COLUMN user_id TO actor_id;
ALTER TABLE audit.audit_logs RENAME COLUMN created_at TO occurred_at;
COMMENT ON TABLE audit.audit_logs IS 'Append only. actor_id is null where the platform itself acted.';
DROP TYPE audit.audit_action;
ALTER TABLE tickets
    DROP COLUMN description, DROP COLUMN updated_at, ALTER COLUMN id DROP DEFAULT, ALTER COLUMN created_at DROP DEFAULT;
COMMENT ON COLUMN tickets.assigned_to IS NULL;
COMMENT ON COLUMN tickets.created_by IS NULL;
ALTER TABLE tickets RENAME COLUMN title TO subject;
ALTER TABLE tickets RENAME COLUMN assigned_to TO assignee_id;
ALTER TABLE tickets RENAME COLUMN created_by TO requester_id;
ALTER TABLE devices
    DROP COLUMN status, DROP COLUMN os_type, DROP COLUMN ip_address, DROP COLUMN last_seen,
    ALTER COLUMN os_version TYPE text USING coalesce(os_version, ''),
    ALTER COLUMN id DROP DEFAULT, ALTER COLUMN created_at DROP DEFAULT;
COMMENT ON COLUMN devices.name IS NULL;
COMMENT ON COLUMN devices.os_version IS NULL;
ALTER TABLE devices RENAME COLUMN name TO hostname;
ALTER TABLE devices RENAME COLUMN os_version TO operating_system;
ALTER TABLE devices RENAME COLUMN created_at TO registered_at;
-- Under its old name: PostgreSQL 18 calls the constraint after the column.
ALTER TABLE devices ALTER COLUMN operating_system SET NOT NULL;
ALTER TABLE users
    DROP COLUMN password_hash, DROP COLUMN updated_at, ALTER COLUMN id DROP DEFAULT, ALTER COLUMN created_at DROP DEFAULT;
