-- The platform's system of record. Every row belongs to one organization; ids are UUIDs; times have a zone.

-- migrate: up
CREATE TABLE organizations (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    slug text NOT NULL UNIQUE,
    time_zone text NOT NULL,
    created_at timestamptz NOT NULL,
    deactivated_at timestamptz
);
COMMENT ON TABLE organizations IS 'Customers of the platform: the tenants. Grain: one organization.';
COMMENT ON COLUMN organizations.time_zone IS 'IANA name; billing days and reports are local to it.';

CREATE TABLE users (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations (id),
    email text NOT NULL UNIQUE,
    full_name text NOT NULL,
    role text NOT NULL CHECK (role IN ('owner', 'admin', 'technician', 'customer')),
    created_at timestamptz NOT NULL,
    deactivated_at timestamptz
);
COMMENT ON TABLE users IS 'People who sign in. Grain: one user of one organization.';
CREATE INDEX users_by_organization ON users (organization_id);

CREATE TABLE devices (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations (id),
    hostname text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('server', 'workstation', 'laptop')),
    operating_system text NOT NULL,
    registered_at timestamptz NOT NULL,
    retired_at timestamptz,
    UNIQUE (organization_id, hostname)
);
COMMENT ON TABLE devices IS 'Monitored machines. Ingest quarantines what comes from a device that is not here.';

CREATE TABLE alerts (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations (id),
    device_id uuid REFERENCES devices (id),
    severity text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    kind text NOT NULL,
    message text NOT NULL,
    raised_at timestamptz NOT NULL,
    acknowledged_at timestamptz,
    resolved_at timestamptz
);
COMMENT ON TABLE alerts IS 'What the platform warned an organization about. Open while resolved_at is null.';
CREATE INDEX alerts_open ON alerts (organization_id, raised_at) WHERE resolved_at IS NULL;

CREATE TABLE scripts (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations (id),
    name text NOT NULL,
    language text NOT NULL CHECK (language IN ('bash', 'powershell', 'python')),
    body text NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (organization_id, name)
);
COMMENT ON TABLE scripts IS 'Scripts that technicians run on devices.';

CREATE TABLE script_executions (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations (id),
    script_id uuid NOT NULL REFERENCES scripts (id),
    device_id uuid NOT NULL REFERENCES devices (id),
    started_by uuid NOT NULL REFERENCES users (id),
    status text NOT NULL CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    exit_code integer,
    output text NOT NULL DEFAULT ''
);
COMMENT ON TABLE script_executions IS 'One run of a script on one device.';
CREATE INDEX script_executions_by_device ON script_executions (device_id, started_at);

-- migrate: down
DROP TABLE script_executions;
DROP TABLE scripts;
DROP TABLE alerts;
DROP TABLE devices;
DROP TABLE users;
DROP TABLE organizations;
