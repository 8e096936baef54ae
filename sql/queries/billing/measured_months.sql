-- ClickHouse. Grain: local month of which a day was measured after `since`, and when last. Each version of a day has one marker,
-- whose organization is zero: the first of the sort key, so only markers are read.
SELECT toStartOfMonth(local_day) AS month, max(as_of) AS measured_at
FROM (
    SELECT local_day, as_of FROM device_days_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000')
    UNION ALL
    SELECT local_day, as_of FROM usage_days_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000')
)
WHERE as_of > {since:DateTime64(6, 'UTC')}
GROUP BY month
