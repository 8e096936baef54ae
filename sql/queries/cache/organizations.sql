-- PostgreSQL. Grain: one active organization. Current state, so the system of record and not its hourly copy.
SELECT id AS organization_id FROM organizations WHERE deactivated_at IS NULL ORDER BY id
