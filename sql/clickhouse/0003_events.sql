-- Events that arrive by the queue, other than metrics.

-- migrate: up
-- ORDER BY: the latest heartbeat of a device is one short read; message_id last, so that a message delivered twice stays one row. PARTITION BY: of the sort key, so that twins meet.
CREATE TABLE device_heartbeats_versions (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    timestamp DateTime64(3, 'UTC') COMMENT 'When the agent sent it, UTC',
    status LowCardinality(String) COMMENT 'online, offline or maintenance',
    agent_version LowCardinality(String) COMMENT 'Version of the agent',
    os_version LowCardinality(String) COMMENT 'Operating system and version',
    uptime_seconds Nullable(UInt64) COMMENT 'Seconds since boot',
    message_id UUID COMMENT 'The message that it came in: the same message twice is one row',
    as_of DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When it was stored'
)
ENGINE = ReplacingMergeTree(as_of)
PARTITION BY toYYYYMM(timestamp)
ORDER BY (organization_id, device_id, timestamp, message_id)
TTL toDateTime(timestamp) + INTERVAL 731 DAY DELETE
COMMENT 'Storage of device_heartbeats: read that view instead, here stand replaced versions too.';

CREATE VIEW device_heartbeats (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    timestamp DateTime64(3, 'UTC') COMMENT 'When the agent sent it, UTC',
    status LowCardinality(String) COMMENT 'online, offline or maintenance',
    agent_version LowCardinality(String) COMMENT 'Version of the agent',
    os_version LowCardinality(String) COMMENT 'Operating system and version',
    uptime_seconds Nullable(UInt64) COMMENT 'Seconds since boot',
    message_id UUID COMMENT 'The message that it came in: the same message twice is one row',
    as_of DateTime64(6, 'UTC') COMMENT 'When it was stored'
)
AS SELECT organization_id, device_id, timestamp, status, agent_version, os_version, uptime_seconds, message_id, as_of
FROM device_heartbeats_versions FINAL
COMMENT 'Heartbeats of the agents. Grain: one message.';

CREATE VIEW device_status_realtime (
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

-- ORDER BY: billing counts an organization's local day; message_id last, so that a message delivered twice stays one row. PARTITION BY: of the sort key, so that twins meet.
CREATE TABLE api_calls_versions (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    timestamp DateTime64(3, 'UTC') COMMENT 'When the call was answered, UTC',
    endpoint LowCardinality(String) COMMENT 'Path template of the call',
    method LowCardinality(String) COMMENT 'HTTP method',
    status_code UInt16 COMMENT 'HTTP status',
    response_time_ms Float64 COMMENT 'Time to answer, milliseconds',
    user_id Nullable(UUID) COMMENT 'Who called, null for a machine',
    message_id UUID COMMENT 'The message that it came in: the same message twice is one row',
    as_of DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When it was stored'
)
ENGINE = ReplacingMergeTree(as_of)
PARTITION BY toYYYYMM(timestamp)
ORDER BY (organization_id, timestamp, message_id)
TTL toDateTime(timestamp) + INTERVAL 731 DAY DELETE
COMMENT 'Storage of api_calls: read that view instead, here stand replaced versions too.';

CREATE VIEW api_calls (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    timestamp DateTime64(3, 'UTC') COMMENT 'When the call was answered, UTC',
    endpoint LowCardinality(String) COMMENT 'Path template of the call',
    method LowCardinality(String) COMMENT 'HTTP method',
    status_code UInt16 COMMENT 'HTTP status',
    response_time_ms Float64 COMMENT 'Time to answer, milliseconds',
    user_id Nullable(UUID) COMMENT 'Who called, null for a machine',
    message_id UUID COMMENT 'The message that it came in: the same message twice is one row',
    as_of DateTime64(6, 'UTC') COMMENT 'When it was stored'
)
AS SELECT organization_id, timestamp, endpoint, method, status_code, response_time_ms, user_id, message_id, as_of
FROM api_calls_versions FINAL
COMMENT 'Calls of the platform''s API. Grain: one call.';

-- ORDER BY: billing takes the last of an organization's local day; message_id last, so that a message delivered twice stays one row. PARTITION BY: of the sort key, so that twins meet.
CREATE TABLE usage_reports_versions (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    timestamp DateTime64(3, 'UTC') COMMENT 'When it was measured, UTC',
    storage_gb Decimal(18, 6) COMMENT 'Storage in use, GB (10^9 bytes)',
    backup_gb Decimal(18, 6) COMMENT 'Backups kept, GB (10^9 bytes)',
    message_id UUID COMMENT 'The message that it came in: the same message twice is one row',
    as_of DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When it was stored'
)
ENGINE = ReplacingMergeTree(as_of)
PARTITION BY toYYYYMM(timestamp)
ORDER BY (organization_id, timestamp, message_id)
TTL toDateTime(timestamp) + INTERVAL 731 DAY DELETE
COMMENT 'Storage of usage_reports: read that view instead, here stand replaced versions too.';

CREATE VIEW usage_reports (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    timestamp DateTime64(3, 'UTC') COMMENT 'When it was measured, UTC',
    storage_gb Decimal(18, 6) COMMENT 'Storage in use, GB (10^9 bytes)',
    backup_gb Decimal(18, 6) COMMENT 'Backups kept, GB (10^9 bytes)',
    message_id UUID COMMENT 'The message that it came in: the same message twice is one row',
    as_of DateTime64(6, 'UTC') COMMENT 'When it was stored'
)
AS SELECT organization_id, timestamp, storage_gb, backup_gb, message_id, as_of
FROM usage_reports_versions FINAL
COMMENT 'Storage and backups as measured. Grain: one measurement.';

-- migrate: down
DROP VIEW IF EXISTS usage_reports;
DROP TABLE IF EXISTS usage_reports_versions;
DROP VIEW IF EXISTS api_calls;
DROP TABLE IF EXISTS api_calls_versions;
DROP VIEW IF EXISTS device_status_realtime;
DROP VIEW IF EXISTS device_heartbeats;
DROP TABLE IF EXISTS device_heartbeats_versions;
