-- PostgreSQL. Grain: one device.
SELECT
    id, organization_id, name AS hostname, kind, coalesce(os_version, '') AS operating_system, created_at AS registered_at,
    retired_at
FROM devices
