-- Devices that sent something since `since` and lack readings of cpu, memory or disk: of none since then, or of one of
-- them for as long before their newest reading (their own clock, so that a laptop may send what it has kept). Grain: device.
-- One row a device is read, or a few where they are not merged yet.
SELECT
    organization_id, device_id,
    arrayFilter(
        (name, at) -> understood_at < {since:DateTime64(6, 'UTC')} OR at < last_seen - toIntervalHour({hours:UInt8}),
        ['cpu', 'memory', 'disk_used'], [cpu_at, memory_at, disk_used_at]
    ) AS missing
FROM device_last_seen
WHERE sent_at >= {since:DateTime64(6, 'UTC')} AND notEmpty(missing)
ORDER BY length(missing) DESC, organization_id, device_id
