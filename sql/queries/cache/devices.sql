-- PostgreSQL. Grain: one active device; an active organization without any has one row of nulls. Current state, so the
-- system of record and not its hourly copy: a new device is listed at once.
SELECT
    organizations.id AS organization_id, devices.id AS device_id, devices.name AS hostname, kind, os_version AS operating_system,
    devices.created_at AS registered_at
FROM organizations
LEFT JOIN devices ON devices.organization_id = organizations.id AND retired_at IS NULL
WHERE deactivated_at IS NULL
ORDER BY organizations.id, devices.name
