-- ClickHouse. Grain: one device that sent a heartbeat or a reading since `since`. Read are one row a device of each.
-- The rule is that of the view device_status_realtime: a heartbeat says the status. Readings do where there is none, where
-- they go on for 15 minutes after the last one, or where they follow one that says offline: online until 5 minutes after
-- the newest one.
SELECT
    organization_id, device_id,
    if(
        reading_at > heartbeat_at + toIntervalMinute(if(said IN ('', 'offline'), 0, 15)),
        if(reading_at > {as_of:DateTime64(3, 'UTC')} - INTERVAL 5 MINUTE, 'online', 'offline'),
        said
    ) AS status,
    greatest(heartbeat_at, reading_at) AS last_seen
FROM (
    SELECT
        organization_id, device_id, argMax(heard.status, heard.heartbeat_at) AS said,
        max(heard.heartbeat_at) AS heartbeat_at, max(heard.reading_at) AS reading_at
    FROM (
        SELECT
            organization_id, device_id, newest.3 AS status, newest.1 AS heartbeat_at, toDateTime64(0, 3, 'UTC') AS reading_at
        FROM device_newest_heartbeat FINAL
        WHERE newest.1 >= {since:DateTime64(3, 'UTC')}
        UNION ALL
        SELECT organization_id, device_id, '', toDateTime64(0, 3, 'UTC'), last_seen
        FROM device_last_seen
        WHERE last_seen >= {since:DateTime64(3, 'UTC')}
    ) AS heard
    GROUP BY organization_id, device_id
)
