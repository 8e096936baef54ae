-- PostgreSQL. Grain: one active device. Current state, so the system of record: a new device is listed at once.
SELECT devices.organization_id, devices.id AS device_id, hostname, kind, operating_system, registered_at
FROM devices
JOIN organizations ON organizations.id = devices.organization_id
WHERE retired_at IS NULL AND deactivated_at IS NULL
ORDER BY devices.organization_id, hostname
