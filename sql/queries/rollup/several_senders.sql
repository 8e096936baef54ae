-- Grain: one hour of [start, stop) in which several machines or agents write as one device: how many devices, and ten of
-- them, by the host name where the reference has it.
SELECT
    timestamp AS hour,
    uniqExact(hourly.device_id) AS devices,
    arraySlice(arraySort(groupUniqArray(if(hostname = '', toString(hourly.device_id), hostname))), 1, 10) AS examples
FROM device_metrics_hourly AS hourly
LEFT JOIN devices ON devices.id = hourly.device_id AND devices.organization_id = hourly.organization_id
WHERE timestamp >= {start:DateTime('UTC')} AND timestamp < {stop:DateTime('UTC')} AND several_senders
GROUP BY hour
