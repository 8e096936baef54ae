-- Grain: one device, the five of each organization with the highest mean CPU use in [start, stop), highest first.
SELECT usage.organization_id AS organization_id, device_id, devices.hostname AS hostname, usage.cpu_avg AS cpu_avg
FROM (
    SELECT organization_id, device_id, sum(cpu_avg * ifNull(cpu_count, sample_count)) / sum(ifNull(cpu_count, sample_count)) AS cpu_avg
    FROM device_metrics_hourly AS hourly
    WHERE timestamp >= {start:DateTime('UTC')} AND timestamp < {stop:DateTime('UTC')} AND hourly.cpu_avg IS NOT NULL
    GROUP BY organization_id, device_id
) AS usage
LEFT JOIN devices ON devices.id = usage.device_id AND devices.organization_id = usage.organization_id
ORDER BY organization_id, cpu_avg DESC, device_id
LIMIT 5 BY organization_id
