-- The names that some devices have used since `since`. Grain: one name. Twins of one name differ in nothing but the day.
-- Served by ORDER BY (organization_id, device_id, ...): one short range a device.
SELECT organization_id, device_id, kind, name, max(device_series.seen_on) AS seen_on
FROM device_series
WHERE organization_id IN {organizations:Array(UUID)} AND device_id IN {devices:Array(UUID)}
    AND device_series.seen_on >= {since:Date}
GROUP BY organization_id, device_id, kind, name
