-- Counters of network interfaces, and points that merge field by field: agents that are not ours spread one reading over
-- several messages.
-- formerly: 28df0859dbaf086dc15421c6953f06828805ef2eead8d5a66243f4dccef14ae6

-- migrate: up
-- ORDER BY: the roll-up reads the hours of all devices, each interface in order of time. PARTITION BY: as in metrics.
CREATE TABLE interface_counters (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    interface String COMMENT 'The network interface, as its agent names it',
    time DateTime64(6, 'UTC') COMMENT 'The instant of the reading, UTC',
    network_in SimpleAggregateFunction(anyLast, Nullable(Float64)) COMMENT 'Bytes received since the device booted; null where the reading did not carry it',
    network_out SimpleAggregateFunction(anyLast, Nullable(Float64)) COMMENT 'Bytes sent since the device booted; null where the reading did not carry it',
    received_at SimpleAggregateFunction(max, DateTime64(6, 'UTC')) DEFAULT now64(6) COMMENT 'When it was last written to'
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMMDD(time)
ORDER BY (toStartOfHour(time), organization_id, device_id, interface, time)
TTL toDateTime(time) + INTERVAL 8 DAY DELETE
SETTINGS ttl_only_drop_parts = 1
COMMENT 'Readings of network counters, 7 days (and one of margin). Grain: one interface and instant. Read with FINAL.';

-- metrics again, its columns unchanged; only what becomes of two rows with one key differs: each field keeps the value
-- that was received last and is not null. Sorted and partitioned as before, so that parts move as they are.
CREATE TABLE metrics_merging (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    time DateTime64(6, 'UTC') COMMENT 'The instant of the sample, UTC',
    cpu SimpleAggregateFunction(anyLast, Nullable(Float64)) COMMENT 'Percent of all cores; null where the sample did not carry it',
    memory SimpleAggregateFunction(anyLast, Nullable(Float64)) COMMENT 'MiB in use; null where the sample did not carry it',
    disk_used SimpleAggregateFunction(anyLast, Nullable(Float64)) COMMENT 'MiB in use; null where the sample did not carry it',
    network_in SimpleAggregateFunction(anyLast, Nullable(Float64)) COMMENT 'Bytes received since the previous sample; null where the sample did not carry it',
    network_out SimpleAggregateFunction(anyLast, Nullable(Float64)) COMMENT 'Bytes sent since the previous sample; null where the sample did not carry it',
    uptime SimpleAggregateFunction(anyLast, Nullable(Float64)) COMMENT 'Seconds since the last boot; null where the sample did not carry it',
    received_at SimpleAggregateFunction(max, DateTime64(6, 'UTC')) DEFAULT now64(6) COMMENT 'When it was last written to'
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMMDD(time)
ORDER BY (toStartOfHour(time), organization_id, device_id, time)
TTL toDateTime(time) + INTERVAL 8 DAY DELETE
SETTINGS ttl_only_drop_parts = 1
COMMENT 'Device metrics at full resolution, 7 days (and one of margin). Grain: one sample. Read with FINAL.';

-- In one step, so that a drain that writes meanwhile finds a table at every moment; metrics_merging is the old one now.
EXCHANGE TABLES metrics AND metrics_merging;

-- The old rows join the new ones as whole parts (hard links, so it takes no longer for more rows).
ALTER TABLE metrics ATTACH PARTITION ALL FROM metrics_merging;

DROP TABLE metrics_merging;

ALTER TABLE device_metrics_hourly_versions
    COMMENT COLUMN sample_share 'Of the 120 samples that an hour has at one in 30 seconds, the share that arrived, by the field that arrived most often';

ALTER TABLE device_metrics_hourly
    COMMENT COLUMN sample_share 'Of the 120 samples that an hour has at one in 30 seconds, the share that arrived, by the field that arrived most often';

-- migrate: down
-- Wherever `up` was stopped, one of the two tables is called metrics and the other, if it is there, metrics_merging: what
-- it has is brought home, row by row, as an engine that cannot exchange tables or attach their parts can do as well.
-- Where it is not there nothing is read; read twice, the rows replace themselves. metrics may keep its new engine: it
-- takes the same writes and reads as the old one.
INSERT INTO metrics (organization_id, device_id, time, cpu, memory, disk_used, network_in, network_out, uptime, received_at)
SELECT organization_id, device_id, time, cpu, memory, disk_used, network_in, network_out, uptime, received_at
FROM merge(currentDatabase(), '^metrics(_merging)?$')
WHERE _table = 'metrics_merging';
DROP TABLE IF EXISTS metrics_merging;
DROP TABLE IF EXISTS interface_counters;
