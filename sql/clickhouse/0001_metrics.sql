-- The three tiers of device metrics, where no InfluxDB is used. Same names, fields and retention as its buckets.

-- migrate: up
-- ORDER BY: the roll-up reads one hour of all devices, so the hour comes first and is one contiguous range; a
-- chart of one device reads one short range an hour. PARTITION BY: retention drops whole partitions, which cost nothing.
CREATE TABLE metrics (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    time DateTime64(6, 'UTC') COMMENT 'The instant of the sample, UTC',
    cpu Nullable(Float64) COMMENT 'Percent of all cores; null where the sample did not carry it',
    memory Nullable(Float64) COMMENT 'Mib in use; null where the sample did not carry it',
    disk_used Nullable(Float64) COMMENT 'Mib in use; null where the sample did not carry it',
    network_in Nullable(Float64) COMMENT 'Bytes received since the previous sample; null where the sample did not carry it',
    network_out Nullable(Float64) COMMENT 'Bytes sent since the previous sample; null where the sample did not carry it',
    uptime Nullable(Float64) COMMENT 'Seconds since the last boot; null where the sample did not carry it',
    received_at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When it was written; of two points with one key the later one counts'
)
ENGINE = ReplacingMergeTree(received_at)
PARTITION BY toYYYYMMDD(time)
ORDER BY (toStartOfHour(time), organization_id, device_id, time)
TTL toDateTime(time) + INTERVAL 8 DAY DELETE
SETTINGS ttl_only_drop_parts = 1
COMMENT 'Device metrics at full resolution, 7 days (and one of margin). Grain: one sample. Read with FINAL.';

-- As in metrics; by the month, because there are fewer rows and more days.
CREATE TABLE metrics_5m (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    time DateTime64(6, 'UTC') COMMENT 'Start of the window (5 minutes); a late sample that came after finer retention stands alone, 1 us after its instant',
    samples Float64 COMMENT 'Samples in the window, whatever fields they carried',
    cpu_sum Nullable(Float64) COMMENT 'Sum of cpu values (percent of all cores)',
    cpu_count Nullable(Float64) COMMENT 'Number of cpu values',
    cpu_min Nullable(Float64) COMMENT 'Least of cpu values (percent of all cores)',
    cpu_max Nullable(Float64) COMMENT 'Greatest of cpu values (percent of all cores)',
    cpu_last Nullable(Float64) COMMENT 'Last of cpu values (percent of all cores)',
    memory_sum Nullable(Float64) COMMENT 'Sum of memory values (MiB in use)',
    memory_count Nullable(Float64) COMMENT 'Number of memory values',
    memory_min Nullable(Float64) COMMENT 'Least of memory values (MiB in use)',
    memory_max Nullable(Float64) COMMENT 'Greatest of memory values (MiB in use)',
    memory_last Nullable(Float64) COMMENT 'Last of memory values (MiB in use)',
    disk_used_sum Nullable(Float64) COMMENT 'Sum of disk_used values (MiB in use)',
    disk_used_count Nullable(Float64) COMMENT 'Number of disk_used values',
    disk_used_min Nullable(Float64) COMMENT 'Least of disk_used values (MiB in use)',
    disk_used_max Nullable(Float64) COMMENT 'Greatest of disk_used values (MiB in use)',
    disk_used_last Nullable(Float64) COMMENT 'Last of disk_used values (MiB in use)',
    network_in_sum Nullable(Float64) COMMENT 'Sum of network_in values (bytes received since the previous sample)',
    network_in_count Nullable(Float64) COMMENT 'Number of network_in values',
    network_in_min Nullable(Float64) COMMENT 'Least of network_in values (bytes received since the previous sample)',
    network_in_max Nullable(Float64) COMMENT 'Greatest of network_in values (bytes received since the previous sample)',
    network_in_last Nullable(Float64) COMMENT 'Last of network_in values (bytes received since the previous sample)',
    network_out_sum Nullable(Float64) COMMENT 'Sum of network_out values (bytes sent since the previous sample)',
    network_out_count Nullable(Float64) COMMENT 'Number of network_out values',
    network_out_min Nullable(Float64) COMMENT 'Least of network_out values (bytes sent since the previous sample)',
    network_out_max Nullable(Float64) COMMENT 'Greatest of network_out values (bytes sent since the previous sample)',
    network_out_last Nullable(Float64) COMMENT 'Last of network_out values (bytes sent since the previous sample)',
    uptime_sum Nullable(Float64) COMMENT 'Sum of uptime values (seconds since the last boot)',
    uptime_count Nullable(Float64) COMMENT 'Number of uptime values',
    uptime_min Nullable(Float64) COMMENT 'Least of uptime values (seconds since the last boot)',
    uptime_max Nullable(Float64) COMMENT 'Greatest of uptime values (seconds since the last boot)',
    uptime_last Nullable(Float64) COMMENT 'Last of uptime values (seconds since the last boot)',
    received_at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When it was written; of two points with one key the later one counts'
)
ENGINE = ReplacingMergeTree(received_at)
PARTITION BY toYYYYMM(time)
ORDER BY (toStartOfHour(time), organization_id, device_id, time)
TTL toDateTime(time) + INTERVAL 91 DAY DELETE
SETTINGS ttl_only_drop_parts = 1
COMMENT 'Device metrics by 5 minutes, 90 days (and one of margin). Grain: one device and window. Read with FINAL.';

-- As in metrics; by the month, because there are fewer rows and more days.
CREATE TABLE metrics_1h (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    time DateTime64(6, 'UTC') COMMENT 'Start of the window (1 hour); a late sample that came after finer retention stands alone, 1 us after its instant',
    samples Float64 COMMENT 'Samples in the window, whatever fields they carried',
    cpu_sum Nullable(Float64) COMMENT 'Sum of cpu values (percent of all cores)',
    cpu_count Nullable(Float64) COMMENT 'Number of cpu values',
    cpu_min Nullable(Float64) COMMENT 'Least of cpu values (percent of all cores)',
    cpu_max Nullable(Float64) COMMENT 'Greatest of cpu values (percent of all cores)',
    cpu_last Nullable(Float64) COMMENT 'Last of cpu values (percent of all cores)',
    memory_sum Nullable(Float64) COMMENT 'Sum of memory values (MiB in use)',
    memory_count Nullable(Float64) COMMENT 'Number of memory values',
    memory_min Nullable(Float64) COMMENT 'Least of memory values (MiB in use)',
    memory_max Nullable(Float64) COMMENT 'Greatest of memory values (MiB in use)',
    memory_last Nullable(Float64) COMMENT 'Last of memory values (MiB in use)',
    disk_used_sum Nullable(Float64) COMMENT 'Sum of disk_used values (MiB in use)',
    disk_used_count Nullable(Float64) COMMENT 'Number of disk_used values',
    disk_used_min Nullable(Float64) COMMENT 'Least of disk_used values (MiB in use)',
    disk_used_max Nullable(Float64) COMMENT 'Greatest of disk_used values (MiB in use)',
    disk_used_last Nullable(Float64) COMMENT 'Last of disk_used values (MiB in use)',
    network_in_sum Nullable(Float64) COMMENT 'Sum of network_in values (bytes received since the previous sample)',
    network_in_count Nullable(Float64) COMMENT 'Number of network_in values',
    network_in_min Nullable(Float64) COMMENT 'Least of network_in values (bytes received since the previous sample)',
    network_in_max Nullable(Float64) COMMENT 'Greatest of network_in values (bytes received since the previous sample)',
    network_in_last Nullable(Float64) COMMENT 'Last of network_in values (bytes received since the previous sample)',
    network_out_sum Nullable(Float64) COMMENT 'Sum of network_out values (bytes sent since the previous sample)',
    network_out_count Nullable(Float64) COMMENT 'Number of network_out values',
    network_out_min Nullable(Float64) COMMENT 'Least of network_out values (bytes sent since the previous sample)',
    network_out_max Nullable(Float64) COMMENT 'Greatest of network_out values (bytes sent since the previous sample)',
    network_out_last Nullable(Float64) COMMENT 'Last of network_out values (bytes sent since the previous sample)',
    uptime_sum Nullable(Float64) COMMENT 'Sum of uptime values (seconds since the last boot)',
    uptime_count Nullable(Float64) COMMENT 'Number of uptime values',
    uptime_min Nullable(Float64) COMMENT 'Least of uptime values (seconds since the last boot)',
    uptime_max Nullable(Float64) COMMENT 'Greatest of uptime values (seconds since the last boot)',
    uptime_last Nullable(Float64) COMMENT 'Last of uptime values (seconds since the last boot)',
    received_at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When it was written; of two points with one key the later one counts'
)
ENGINE = ReplacingMergeTree(received_at)
PARTITION BY toYYYYMM(time)
ORDER BY (toStartOfHour(time), organization_id, device_id, time)
TTL toDateTime(time) + INTERVAL 731 DAY DELETE
SETTINGS ttl_only_drop_parts = 1
COMMENT 'Device metrics by 1 hour, 730 days (and one of margin). Grain: one device and window. Read with FINAL.';

-- migrate: down
DROP TABLE IF EXISTS metrics_1h;
DROP TABLE IF EXISTS metrics_5m;
DROP TABLE IF EXISTS metrics;
