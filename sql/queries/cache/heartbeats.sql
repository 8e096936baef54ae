-- ClickHouse. Grain: one device that sent a heartbeat since `since`. Twins of one message agree, so the storage is read
-- without FINAL; `since` bounds the read, because two years of heartbeats are no answer to "now".
SELECT organization_id, device_id, argMax(device_heartbeats_versions.status, timestamp) AS status, max(timestamp) AS last_seen
FROM device_heartbeats_versions
WHERE timestamp >= {since:DateTime64(3, 'UTC')}
GROUP BY organization_id, device_id
