-- ClickHouse. Grain: organization, of those in the three parallel arrays: its window [start, end) of one local day.
-- `first` and `last` enclose all windows, so that each table is read once and only where it matters. They come as DateTime64
-- too: compared with a DateTime, the index of a DateTime64 column leaves out the last second (ClickHouse 26.9).
-- devices: devices with a row in device_metrics_hourly, that is at least one sample, in an hour that begins in the window.
-- storage_gb, backup_gb: the last report before the window's end that is at most 7 days older than its start; 0 without.
-- api_calls: calls answered in the window. hours: hours that begin in the window and have been rolled up.
WITH
    windows AS (
        SELECT w.1 AS organization_id, w.2 AS window_start, w.3 AS window_end
        FROM (
            SELECT arrayJoin(arrayZip(
                {organizations:Array(UUID)}, {starts:Array(DateTime('UTC'))}, {ends:Array(DateTime('UTC'))}
            )) AS w
        )
    ),
    devices AS (
        SELECT organization_id, uniqExact(device_id) AS devices
        FROM (
            SELECT organization_id, device_id, timestamp FROM device_metrics_hourly
            WHERE timestamp >= {first:DateTime('UTC')} AND timestamp < {last:DateTime('UTC')}
        ) AS h
        INNER JOIN windows USING (organization_id)
        WHERE timestamp >= window_start AND timestamp < window_end
        GROUP BY organization_id
    ),
    usage AS (
        SELECT
            organization_id,
            argMax(storage_gb, (timestamp, message_id)) AS storage_gb,
            argMax(backup_gb, (timestamp, message_id)) AS backup_gb
        FROM (
            SELECT organization_id, timestamp, message_id, storage_gb, backup_gb FROM usage_reports
            WHERE timestamp >= {first64:DateTime64(3, 'UTC')} - INTERVAL 7 DAY AND timestamp < {last64:DateTime64(3, 'UTC')}
        ) AS u
        INNER JOIN windows USING (organization_id)
        WHERE timestamp >= window_start - INTERVAL 7 DAY AND timestamp < window_end
        GROUP BY organization_id
    ),
    calls AS (
        SELECT organization_id, count() AS api_calls
        FROM (
            SELECT organization_id, timestamp FROM api_calls
            WHERE timestamp >= {first64:DateTime64(3, 'UTC')} AND timestamp < {last64:DateTime64(3, 'UTC')}
        ) AS c
        INNER JOIN windows USING (organization_id)
        WHERE timestamp >= window_start AND timestamp < window_end
        GROUP BY organization_id
    ),
    rolled_up AS (
        SELECT organization_id, count() AS hours
        FROM windows
        CROSS JOIN (
            SELECT hour FROM rolled_up_hours FINAL
            WHERE hour >= {first:DateTime('UTC')} AND hour < {last:DateTime('UTC')}
        ) AS r
        WHERE hour >= window_start AND hour < window_end
        GROUP BY organization_id
    )
SELECT
    organization_id,
    ifNull(devices, 0) AS devices,
    ifNull(storage_gb, 0) AS storage_gb,
    ifNull(backup_gb, 0) AS backup_gb,
    ifNull(api_calls, 0) AS api_calls,
    ifNull(hours, 0) AS hours
FROM windows
LEFT JOIN devices USING (organization_id)
LEFT JOIN usage USING (organization_id)
LEFT JOIN calls USING (organization_id)
LEFT JOIN rolled_up USING (organization_id)
