-- Grain: one device and hour of [start, stop) of which it is known when samples came.
-- Read by hour across all devices, which the order by device serves badly: at most one month's partition is scanned.
SELECT
    toString(organization_id) AS organization_id,
    toString(device_id) AS device_id,
    toDateTime64(h.timestamp, 0, 'UTC') AS timestamp,
    toDateTime64(h.first_sample, 0, 'UTC') AS first_sample,
    toDateTime64(h.last_sample, 0, 'UTC') AS last_sample
FROM device_metrics_hourly AS h
WHERE h.timestamp >= {start:DateTime('UTC')} AND h.timestamp < {stop:DateTime('UTC')} AND h.first_sample IS NOT NULL
