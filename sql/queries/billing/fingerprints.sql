-- ClickHouse. Grain: organization, time zone and local month, of these: a hash of all that was measured, whatever the order.
-- Both marts are ordered by organization and partitioned by month.
SELECT organization_id, time_zone, toStartOfMonth(local_day) AS month, toString(sum(hash)) AS fingerprint
FROM (
    SELECT organization_id, time_zone, local_day, cityHash64(device_id, local_day) AS hash
    FROM device_days
    WHERE toStartOfMonth(local_day) IN {months:Array(Date)} AND organization_id IN {organizations:Array(UUID)}
    UNION ALL
    SELECT
        organization_id, time_zone, local_day,
        cityHash64(local_day, kind, rule, quantity, gb_milliseconds, known_milliseconds, completeness) AS hash
    FROM usage_days
    WHERE toStartOfMonth(local_day) IN {months:Array(Date)} AND organization_id IN {organizations:Array(UUID)}
)
GROUP BY organization_id, time_zone, month
