-- ClickHouse. Grain: a device of these organizations, which have no agreement, that reported on days of [start, end), those of a
-- local month of one time zone. device_metrics_hourly is ordered by organization and device.
SELECT organization_id, device_id, uniqExact(toDate(timestamp, {time_zone:String})) AS days
FROM device_metrics_hourly
WHERE organization_id IN {organizations:Array(UUID)}
    AND timestamp >= {start:DateTime('UTC')} AND timestamp < {end:DateTime('UTC')}
GROUP BY organization_id, device_id
ORDER BY organization_id, device_id
