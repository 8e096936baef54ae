-- PostgreSQL. Grain: one active organization with its active devices, by name, as a JSON array: PostgreSQL writes and we read
-- that in a third of the time that rows take, and a time that there is not (infinity) is text in it. Current state, so the
-- system of record and not its hourly copy: a new device is listed at once.
SELECT
    organizations.id AS organization_id,
    coalesce(json_agg(json_build_object(
        'organization_id', organizations.id, 'device_id', devices.id, 'hostname', devices.name, 'kind', kind,
        'operating_system', os_version, 'registered_at', devices.created_at
    ) ORDER BY devices.name, devices.id) FILTER (WHERE devices.id IS NOT NULL), '[]')::text AS devices
FROM organizations
LEFT JOIN devices ON devices.organization_id = organizations.id AND retired_at IS NULL
WHERE deactivated_at IS NULL
GROUP BY organizations.id
ORDER BY organizations.id
