-- Who did what to which entity.

-- migrate: up
CREATE SCHEMA audit;

CREATE TABLE audit.audit_logs (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations (id),
    actor_id uuid REFERENCES users (id),
    entity_type text NOT NULL,
    entity_id uuid NOT NULL,
    action text NOT NULL CHECK (action IN ('CREATE', 'UPDATE', 'DELETE', 'READ')),
    old_values jsonb,
    new_values jsonb,
    ip_address inet,
    user_agent text,
    occurred_at timestamptz NOT NULL
);
COMMENT ON TABLE audit.audit_logs IS 'Append only. actor_id is null where the platform itself acted.';
CREATE INDEX audit_logs_by_entity ON audit.audit_logs (organization_id, entity_type, entity_id, occurred_at);

-- migrate: down
DROP TABLE audit.audit_logs;
DROP SCHEMA audit;
