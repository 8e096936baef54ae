-- Grain: device and hour of one UTC day. Without as_of and in a fixed order: computed again from the same samples, a day
-- must give the same bytes in the archive. hour is a DateTime64, because ClickHouse gives a DateTime to Arrow as a bare
-- number of seconds.
SELECT
    toString(day.organization_id) AS organization_id, toString(day.device_id) AS device_id,
    toDateTime64(day.timestamp, 3, 'UTC') AS hour, day.* EXCEPT (organization_id, device_id, timestamp, as_of)
FROM device_metrics_hourly AS day
WHERE day.timestamp >= {start:DateTime('UTC')} AND day.timestamp < {stop:DateTime('UTC')}
ORDER BY organization_id, device_id, hour
