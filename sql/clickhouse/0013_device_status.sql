-- The status of devices that send no heartbeat: Telegraf's and collectd's.

-- migrate: up
-- Replaced in one step, so that whoever reads it finds it at every moment. The rule is that of sql/queries/cache/statuses.sql.
CREATE OR REPLACE VIEW device_status_realtime (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    status LowCardinality(String) COMMENT 'online, offline or maintenance',
    devices UInt64 COMMENT 'Devices whose latest heartbeat says so. Readings say it where there is none, where they go on for 15 minutes after it, or where they follow one that says offline: online until 5 minutes after the newest one, then offline',
    as_of DateTime64(3, 'UTC') COMMENT 'The latest heartbeat or reading of these devices'
)
AS SELECT organization_id, status, count() AS devices, max(last_seen) AS as_of
FROM (
    SELECT
        organization_id, device_id,
        if(
            reading_at > heartbeat_at + toIntervalMinute(if(said IN ('', 'offline'), 0, 15)),
            if(reading_at > now64(3, 'UTC') - INTERVAL 5 MINUTE, 'online', 'offline'),
            said
        ) AS status,
        greatest(heartbeat_at, reading_at) AS last_seen
    FROM (
        SELECT
            organization_id, device_id, argMax(heard.status, heard.heartbeat_at) AS said,
            max(heard.heartbeat_at) AS heartbeat_at, max(heard.reading_at) AS reading_at
        FROM (
            SELECT
                organization_id, device_id, toString(device_heartbeats_versions.status) AS status,
                timestamp AS heartbeat_at, toDateTime64(0, 3, 'UTC') AS reading_at
            FROM device_heartbeats_versions
            UNION ALL
            SELECT organization_id, device_id, '', toDateTime64(0, 3, 'UTC'), last_seen
            FROM device_last_seen
            WHERE last_seen > toDateTime64(0, 3, 'UTC')
        ) AS heard
        GROUP BY organization_id, device_id
    )
)
GROUP BY organization_id, status
COMMENT 'How many devices are in which state now. Grain: organization and status.';

-- migrate: down
CREATE OR REPLACE VIEW device_status_realtime (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    status LowCardinality(String) COMMENT 'online, offline or maintenance',
    devices UInt64 COMMENT 'Devices whose latest heartbeat says so',
    as_of DateTime64(3, 'UTC') COMMENT 'The latest of those heartbeats'
)
AS SELECT organization_id, status, count() AS devices, max(last_seen) AS as_of
FROM (
    SELECT organization_id, device_id, argMax(device_heartbeats_versions.status, timestamp) AS status, max(timestamp) AS last_seen
    FROM device_heartbeats_versions GROUP BY organization_id, device_id
)
GROUP BY organization_id, status
COMMENT 'How many devices are in which state now. Grain: organization and status.';
