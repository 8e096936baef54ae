-- Numbers that are right: sizes of memory and disks, whose counter a reading is, volumes one by one, and what an hour's row
-- needs so that its share and its means are true at every interval.

-- migrate: up
ALTER TABLE metrics
    ADD COLUMN IF NOT EXISTS disk_free SimpleAggregateFunction(anyLast, Nullable(Float64)) COMMENT 'MiB that are free on them; null where the sample did not carry it' AFTER uptime,
    ADD COLUMN IF NOT EXISTS disk_total SimpleAggregateFunction(anyLast, Nullable(Float64)) COMMENT 'MiB that all fixed local volumes have; null where the sample did not carry it' AFTER uptime,
    ADD COLUMN IF NOT EXISTS memory_total SimpleAggregateFunction(anyLast, Nullable(Float64)) COMMENT 'MiB of memory that the device has; null where the sample did not carry it' AFTER uptime;

ALTER TABLE metrics_5m
    ADD COLUMN IF NOT EXISTS covered Nullable(Float64) COMMENT 'Minutes of the window that samples cover, each one its sender''s interval; null where it was written before 0.4.0' AFTER samples,
    ADD COLUMN IF NOT EXISTS several_senders Nullable(Float64) COMMENT '1 where several machines or agents write as this device in the hour, else 0' AFTER covered,
    ADD COLUMN IF NOT EXISTS memory_total_sum Nullable(Float64) COMMENT 'Sum of memory_total values (MiB of memory that the device has)' AFTER uptime_last,
    ADD COLUMN IF NOT EXISTS memory_total_count Nullable(Float64) COMMENT 'Number of memory_total values' AFTER memory_total_sum,
    ADD COLUMN IF NOT EXISTS memory_total_min Nullable(Float64) COMMENT 'Least of memory_total values (MiB of memory that the device has)' AFTER memory_total_count,
    ADD COLUMN IF NOT EXISTS memory_total_max Nullable(Float64) COMMENT 'Greatest of memory_total values (MiB of memory that the device has)' AFTER memory_total_min,
    ADD COLUMN IF NOT EXISTS memory_total_last Nullable(Float64) COMMENT 'Last of memory_total values (MiB of memory that the device has)' AFTER memory_total_max,
    ADD COLUMN IF NOT EXISTS disk_total_sum Nullable(Float64) COMMENT 'Sum of disk_total values (MiB that all fixed local volumes have)' AFTER memory_total_last,
    ADD COLUMN IF NOT EXISTS disk_total_count Nullable(Float64) COMMENT 'Number of disk_total values' AFTER disk_total_sum,
    ADD COLUMN IF NOT EXISTS disk_total_min Nullable(Float64) COMMENT 'Least of disk_total values (MiB that all fixed local volumes have)' AFTER disk_total_count,
    ADD COLUMN IF NOT EXISTS disk_total_max Nullable(Float64) COMMENT 'Greatest of disk_total values (MiB that all fixed local volumes have)' AFTER disk_total_min,
    ADD COLUMN IF NOT EXISTS disk_total_last Nullable(Float64) COMMENT 'Last of disk_total values (MiB that all fixed local volumes have)' AFTER disk_total_max,
    ADD COLUMN IF NOT EXISTS disk_free_sum Nullable(Float64) COMMENT 'Sum of disk_free values (MiB that are free on them)' AFTER disk_total_last,
    ADD COLUMN IF NOT EXISTS disk_free_count Nullable(Float64) COMMENT 'Number of disk_free values' AFTER disk_free_sum,
    ADD COLUMN IF NOT EXISTS disk_free_min Nullable(Float64) COMMENT 'Least of disk_free values (MiB that are free on them)' AFTER disk_free_count,
    ADD COLUMN IF NOT EXISTS disk_free_max Nullable(Float64) COMMENT 'Greatest of disk_free values (MiB that are free on them)' AFTER disk_free_min,
    ADD COLUMN IF NOT EXISTS disk_free_last Nullable(Float64) COMMENT 'Last of disk_free values (MiB that are free on them)' AFTER disk_free_max;

ALTER TABLE metrics_1h
    ADD COLUMN IF NOT EXISTS covered Nullable(Float64) COMMENT 'Minutes of the window that samples cover, each one its sender''s interval; null where it was written before 0.4.0' AFTER samples,
    ADD COLUMN IF NOT EXISTS several_senders Nullable(Float64) COMMENT '1 where several machines or agents write as this device in the hour, else 0' AFTER covered,
    ADD COLUMN IF NOT EXISTS memory_total_sum Nullable(Float64) COMMENT 'Sum of memory_total values (MiB of memory that the device has)' AFTER uptime_last,
    ADD COLUMN IF NOT EXISTS memory_total_count Nullable(Float64) COMMENT 'Number of memory_total values' AFTER memory_total_sum,
    ADD COLUMN IF NOT EXISTS memory_total_min Nullable(Float64) COMMENT 'Least of memory_total values (MiB of memory that the device has)' AFTER memory_total_count,
    ADD COLUMN IF NOT EXISTS memory_total_max Nullable(Float64) COMMENT 'Greatest of memory_total values (MiB of memory that the device has)' AFTER memory_total_min,
    ADD COLUMN IF NOT EXISTS memory_total_last Nullable(Float64) COMMENT 'Last of memory_total values (MiB of memory that the device has)' AFTER memory_total_max,
    ADD COLUMN IF NOT EXISTS disk_total_sum Nullable(Float64) COMMENT 'Sum of disk_total values (MiB that all fixed local volumes have)' AFTER memory_total_last,
    ADD COLUMN IF NOT EXISTS disk_total_count Nullable(Float64) COMMENT 'Number of disk_total values' AFTER disk_total_sum,
    ADD COLUMN IF NOT EXISTS disk_total_min Nullable(Float64) COMMENT 'Least of disk_total values (MiB that all fixed local volumes have)' AFTER disk_total_count,
    ADD COLUMN IF NOT EXISTS disk_total_max Nullable(Float64) COMMENT 'Greatest of disk_total values (MiB that all fixed local volumes have)' AFTER disk_total_min,
    ADD COLUMN IF NOT EXISTS disk_total_last Nullable(Float64) COMMENT 'Last of disk_total values (MiB that all fixed local volumes have)' AFTER disk_total_max,
    ADD COLUMN IF NOT EXISTS disk_free_sum Nullable(Float64) COMMENT 'Sum of disk_free values (MiB that are free on them)' AFTER disk_total_last,
    ADD COLUMN IF NOT EXISTS disk_free_count Nullable(Float64) COMMENT 'Number of disk_free values' AFTER disk_free_sum,
    ADD COLUMN IF NOT EXISTS disk_free_min Nullable(Float64) COMMENT 'Least of disk_free values (MiB that are free on them)' AFTER disk_free_count,
    ADD COLUMN IF NOT EXISTS disk_free_max Nullable(Float64) COMMENT 'Greatest of disk_free values (MiB that are free on them)' AFTER disk_free_min,
    ADD COLUMN IF NOT EXISTS disk_free_last Nullable(Float64) COMMENT 'Last of disk_free values (MiB that are free on them)' AFTER disk_free_max;

-- Readings of two agents on one device are two series: they read one counter at different moments, and what the earlier one
-- says would look like a decrease. Rows of earlier versions have the empty source.
ALTER TABLE interface_counters
    ADD COLUMN IF NOT EXISTS source String COMMENT 'The agent that sent it: telegraf, collectd; empty in rows written before 0.4.0' AFTER device_id,
    MODIFY ORDER BY (toStartOfHour(time), organization_id, device_id, interface, time, source);

-- ORDER BY: the roll-up reads the hours of all devices, each volume in order of time. PARTITION BY: as in metrics.
CREATE TABLE volumes (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    source String COMMENT 'The agent that sent it: telegraf, collectd',
    disk String COMMENT 'The disk or partition that it lies on, as its agent names it: mounted several times, it counts once; empty where the agent does not say',
    volume String COMMENT 'The mount point, drive letter or name',
    time DateTime64(6, 'UTC') COMMENT 'The instant of the reading, UTC',
    used SimpleAggregateFunction(anyLast, Nullable(Float64)) COMMENT 'MiB in use; null where the reading did not carry it',
    total SimpleAggregateFunction(anyLast, Nullable(Float64)) COMMENT 'MiB that it has; null where the reading did not carry it',
    free SimpleAggregateFunction(anyLast, Nullable(Float64)) COMMENT 'MiB that are free; null where the reading did not carry it',
    received_at SimpleAggregateFunction(max, DateTime64(6, 'UTC')) DEFAULT now64(6) COMMENT 'When it was last written to'
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMMDD(time)
ORDER BY (toStartOfHour(time), organization_id, device_id, source, disk, volume, time)
TTL toDateTime(time) + INTERVAL 8 DAY DELETE
SETTINGS ttl_only_drop_parts = 1
COMMENT 'Readings of fixed local volumes, 7 days (and one of margin). Grain: one volume and instant. Read with FINAL.';

ALTER TABLE message_deliveries
    ADD COLUMN IF NOT EXISTS volume_instants Array(DateTime64(3, 'UTC')) COMMENT 'The times of the written readings of volumes, likewise' CODEC(Delta(8), ZSTD(1)) TTL toDateTime(recorded_at) + INTERVAL 9 DAY AFTER counter_instants,
    COMMENT COLUMN instant_devices 'The device of each of the instants, then of the counter_instants and the volume_instants, where device_id is zeros',
    MODIFY COLUMN first_time DEFAULT if(empty(instants) AND empty(counter_instants) AND empty(volume_instants), NULL, arrayMin(arrayConcat(instants, counter_instants, volume_instants))),
    MODIFY COLUMN last_time DEFAULT if(empty(instants) AND empty(counter_instants) AND empty(volume_instants), NULL, arrayMax(arrayConcat(instants, counter_instants, volume_instants)));

ALTER TABLE device_metrics_hourly_versions
    ADD COLUMN IF NOT EXISTS cpu_count Nullable(UInt32) COMMENT 'Samples that carry cpu: the weight of cpu_avg in means over devices or hours; null in rows computed before 0.4.0' AFTER cpu_max,
    ADD COLUMN IF NOT EXISTS memory_count Nullable(UInt32) COMMENT 'Samples that carry memory: the weight of memory_avg; null in rows computed before 0.4.0' AFTER memory_max,
    ADD COLUMN IF NOT EXISTS memory_total Nullable(Float64) COMMENT 'Memory that the device has, at the last sample that says so, MiB' AFTER memory_count,
    COMMENT COLUMN disk_usage 'In use on all fixed local volumes at the last sample, each counted once, MiB',
    ADD COLUMN IF NOT EXISTS disk_total Nullable(Float64) COMMENT 'Size of all fixed local volumes at the last sample, MiB; null where no sender says' AFTER disk_usage,
    ADD COLUMN IF NOT EXISTS disk_free Nullable(Float64) COMMENT 'Free on all fixed local volumes at the last sample, MiB; null where no sender says' AFTER disk_total,
    COMMENT COLUMN network_in 'Bytes received in the hour, by one sender''s readings',
    COMMENT COLUMN network_out 'Bytes sent in the hour, by one sender''s readings',
    COMMENT COLUMN sample_count 'Samples that the hour has; readings of counters and of volumes count apart',
    COMMENT COLUMN sample_share 'Share of the hour that its samples cover, 0 to 1: minutes with a sample, each counted as long as the sender''s interval, of 60',
    ADD COLUMN IF NOT EXISTS several_senders Nullable(Bool) COMMENT 'Whether several machines or agents write as this device; null in rows computed before 0.4.0' AFTER sample_share;

-- Replaced in one step, so that whoever reads it finds it at every moment.
CREATE OR REPLACE VIEW device_metrics_hourly (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    hour DateTime('UTC') COMMENT 'Start of the hour, UTC',
    cpu_avg Nullable(Float64) COMMENT 'Mean CPU use, percent of all cores',
    cpu_max Nullable(Float64) COMMENT 'Greatest CPU use, percent of all cores',
    cpu_count Nullable(UInt32) COMMENT 'Samples that carry cpu: the weight of cpu_avg in means over devices or hours; null in rows computed before 0.4.0',
    memory_avg Nullable(Float64) COMMENT 'Mean memory in use, MiB',
    memory_max Nullable(Float64) COMMENT 'Greatest memory in use, MiB',
    memory_count Nullable(UInt32) COMMENT 'Samples that carry memory: the weight of memory_avg; null in rows computed before 0.4.0',
    memory_total Nullable(Float64) COMMENT 'Memory that the device has, at the last sample that says so, MiB',
    disk_usage Nullable(Float64) COMMENT 'In use on all fixed local volumes at the last sample, each counted once, MiB',
    disk_total Nullable(Float64) COMMENT 'Size of all fixed local volumes at the last sample, MiB; null where no sender says',
    disk_free Nullable(Float64) COMMENT 'Free on all fixed local volumes at the last sample, MiB; null where no sender says',
    network_in Nullable(Float64) COMMENT 'Bytes received in the hour, by one sender''s readings',
    network_out Nullable(Float64) COMMENT 'Bytes sent in the hour, by one sender''s readings',
    uptime Nullable(Float64) COMMENT 'Seconds since boot at the last sample',
    sample_count UInt32 COMMENT 'Samples that the hour has; readings of counters and of volumes count apart',
    sample_share Float64 COMMENT 'Share of the hour that its samples cover, 0 to 1: minutes with a sample, each counted as long as the sender''s interval, of 60',
    several_senders Nullable(Bool) COMMENT 'Whether several machines or agents write as this device; null in rows computed before 0.4.0',
    source_tier LowCardinality(String) COMMENT 'The tier that the row was made from',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT organization_id, device_id, hour, cpu_avg, cpu_max, cpu_count, memory_avg, memory_max, memory_count, memory_total, disk_usage, disk_total, disk_free, network_in, network_out, uptime, sample_count, sample_share, several_senders, source_tier, as_of
FROM device_metrics_hourly_versions FINAL
COMMENT 'Device metrics by the hour. Grain: one device and hour in which it sent at least one sample.';

-- migrate: down
CREATE OR REPLACE VIEW device_metrics_hourly AS SELECT organization_id, device_id, hour, cpu_avg, cpu_max, memory_avg, memory_max, disk_usage, network_in, network_out, uptime, sample_count, sample_share, source_tier, as_of FROM device_metrics_hourly_versions FINAL;
ALTER TABLE device_metrics_hourly_versions
    DROP COLUMN IF EXISTS cpu_count, DROP COLUMN IF EXISTS memory_count, DROP COLUMN IF EXISTS memory_total, DROP COLUMN IF EXISTS disk_total, DROP COLUMN IF EXISTS disk_free, DROP COLUMN IF EXISTS several_senders;
ALTER TABLE message_deliveries
    MODIFY COLUMN first_time DEFAULT if(empty(instants) AND empty(counter_instants), NULL, arrayMin(arrayConcat(instants, counter_instants))),
    MODIFY COLUMN last_time DEFAULT if(empty(instants) AND empty(counter_instants), NULL, arrayMax(arrayConcat(instants, counter_instants)));
ALTER TABLE message_deliveries DROP COLUMN IF EXISTS volume_instants;
DROP TABLE IF EXISTS volumes;
ALTER TABLE interface_counters MODIFY ORDER BY (toStartOfHour(time), organization_id, device_id, interface, time);
ALTER TABLE interface_counters DROP COLUMN IF EXISTS source;
ALTER TABLE metrics_1h
    DROP COLUMN IF EXISTS covered, DROP COLUMN IF EXISTS several_senders, DROP COLUMN IF EXISTS memory_total_sum, DROP COLUMN IF EXISTS memory_total_count, DROP COLUMN IF EXISTS memory_total_min, DROP COLUMN IF EXISTS memory_total_max, DROP COLUMN IF EXISTS memory_total_last, DROP COLUMN IF EXISTS disk_total_sum, DROP COLUMN IF EXISTS disk_total_count, DROP COLUMN IF EXISTS disk_total_min, DROP COLUMN IF EXISTS disk_total_max, DROP COLUMN IF EXISTS disk_total_last, DROP COLUMN IF EXISTS disk_free_sum, DROP COLUMN IF EXISTS disk_free_count, DROP COLUMN IF EXISTS disk_free_min, DROP COLUMN IF EXISTS disk_free_max, DROP COLUMN IF EXISTS disk_free_last;
ALTER TABLE metrics_5m
    DROP COLUMN IF EXISTS covered, DROP COLUMN IF EXISTS several_senders, DROP COLUMN IF EXISTS memory_total_sum, DROP COLUMN IF EXISTS memory_total_count, DROP COLUMN IF EXISTS memory_total_min, DROP COLUMN IF EXISTS memory_total_max, DROP COLUMN IF EXISTS memory_total_last, DROP COLUMN IF EXISTS disk_total_sum, DROP COLUMN IF EXISTS disk_total_count, DROP COLUMN IF EXISTS disk_total_min, DROP COLUMN IF EXISTS disk_total_max, DROP COLUMN IF EXISTS disk_total_last, DROP COLUMN IF EXISTS disk_free_sum, DROP COLUMN IF EXISTS disk_free_count, DROP COLUMN IF EXISTS disk_free_min, DROP COLUMN IF EXISTS disk_free_max, DROP COLUMN IF EXISTS disk_free_last;
ALTER TABLE metrics DROP COLUMN IF EXISTS memory_total, DROP COLUMN IF EXISTS disk_total, DROP COLUMN IF EXISTS disk_free;
