-- The hourly roll-up: what analysts, billing, caches, reports and the archive read.

-- migrate: up
-- ORDER BY: dashboards and billing read an organization or a device over time. PARTITION BY: month, of the sort key; an hour's
-- rerun touches one partition.
CREATE TABLE device_metrics_hourly_versions (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    hour DateTime('UTC') COMMENT 'Start of the hour, UTC',
    cpu_avg Nullable(Float64) COMMENT 'Mean CPU use, percent of all cores',
    cpu_max Nullable(Float64) COMMENT 'Greatest CPU use, percent of all cores',
    memory_avg Nullable(Float64) COMMENT 'Mean memory in use, MiB',
    memory_max Nullable(Float64) COMMENT 'Greatest memory in use, MiB',
    disk_usage Nullable(Float64) COMMENT 'Disk in use at the last sample, MiB',
    network_in Nullable(Float64) COMMENT 'Bytes received in the hour',
    network_out Nullable(Float64) COMMENT 'Bytes sent in the hour',
    uptime Nullable(Float64) COMMENT 'Seconds since boot at the last sample',
    sample_count UInt32 COMMENT 'Samples that the hour has',
    sample_share Float64 COMMENT 'Of the 120 samples that an hour has at one in 30 seconds, the share that arrived',
    source_tier LowCardinality(String) COMMENT 'The tier that the row was made from',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
ENGINE = ReplacingMergeTree(as_of)
PARTITION BY toYYYYMM(hour)
ORDER BY (organization_id, device_id, hour)
COMMENT 'Storage of device_metrics_hourly: read that view instead, here stand replaced versions too.';

CREATE VIEW device_metrics_hourly (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    hour DateTime('UTC') COMMENT 'Start of the hour, UTC',
    cpu_avg Nullable(Float64) COMMENT 'Mean CPU use, percent of all cores',
    cpu_max Nullable(Float64) COMMENT 'Greatest CPU use, percent of all cores',
    memory_avg Nullable(Float64) COMMENT 'Mean memory in use, MiB',
    memory_max Nullable(Float64) COMMENT 'Greatest memory in use, MiB',
    disk_usage Nullable(Float64) COMMENT 'Disk in use at the last sample, MiB',
    network_in Nullable(Float64) COMMENT 'Bytes received in the hour',
    network_out Nullable(Float64) COMMENT 'Bytes sent in the hour',
    uptime Nullable(Float64) COMMENT 'Seconds since boot at the last sample',
    sample_count UInt32 COMMENT 'Samples that the hour has',
    sample_share Float64 COMMENT 'Of the 120 samples that an hour has at one in 30 seconds, the share that arrived',
    source_tier LowCardinality(String) COMMENT 'The tier that the row was made from',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT organization_id, device_id, hour, cpu_avg, cpu_max, memory_avg, memory_max, disk_usage, network_in, network_out, uptime, sample_count, sample_share, source_tier, as_of
FROM device_metrics_hourly_versions FINAL
COMMENT 'Device metrics by the hour. Grain: one device and hour in which it sent at least one sample.';

-- migrate: down
DROP VIEW IF EXISTS device_metrics_hourly;
DROP TABLE IF EXISTS device_metrics_hourly_versions;
