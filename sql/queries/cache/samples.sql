-- ClickHouse. Grain: one device with samples in `hours`. An hour counts with at most the 120 samples that are expected of
-- it, so that a device that sends more often does not make up for hours of silence.
SELECT organization_id, device_id, sum(least(sample_count, 120)) AS samples
FROM device_metrics_hourly
WHERE hour IN {hours:Array(DateTime('UTC'))}
GROUP BY organization_id, device_id
