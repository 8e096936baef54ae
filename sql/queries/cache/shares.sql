-- ClickHouse. Grain: one device with samples in `hours`. `share` is how many of these hours its samples cover.
SELECT organization_id, device_id, sum(sample_share) AS share
FROM device_metrics_hourly
WHERE timestamp IN {hours:Array(DateTime('UTC'))}
GROUP BY organization_id, device_id
