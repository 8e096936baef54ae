-- ClickHouse. Grain: one device with samples in `hours`. `share` is how many of these hours its samples cover.
SELECT toString(organization_id) AS organization_id, toString(device_id) AS device_id, sum(sample_share) AS share
FROM device_metrics_hourly
WHERE timestamp IN {hours:Array(DateTime('UTC'))}
GROUP BY device_metrics_hourly.organization_id, device_metrics_hourly.device_id
