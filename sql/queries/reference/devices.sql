-- PostgreSQL. Grain: one device.
SELECT id, organization_id, hostname, kind, operating_system, registered_at, retired_at
FROM devices
ORDER BY id
