-- Grain: device and hour of one UTC day. Without as_of and in a fixed order: computed again from the same samples, a day
-- must give the same bytes in the archive.
SELECT
    toString(organization_id) AS organization_id, toString(device_id) AS device_id, hour, cpu_avg, cpu_max, memory_avg,
    memory_max, disk_usage, network_in, network_out, uptime, sample_count, sample_share, source_tier
FROM device_metrics_hourly
WHERE hour >= {start:DateTime('UTC')} AND hour < {stop:DateTime('UTC')}
ORDER BY organization_id, device_id, hour
