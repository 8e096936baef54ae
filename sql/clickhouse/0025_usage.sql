-- What billing measures: on which local days each device reported, and how much of everything else each local day used. Of an
-- hour that midnight cuts, in a zone of half hours, the first and the last sample say on which side a device reported.

-- migrate: up
ALTER TABLE device_metrics_hourly_versions
    ADD COLUMN IF NOT EXISTS first_sample Nullable(DateTime('UTC')) COMMENT 'Start of the five minutes in which its first sample lies, UTC; null in rows computed before 0.5.0, or from the 1-hour tier alone' AFTER several_senders,
    ADD COLUMN IF NOT EXISTS last_sample Nullable(DateTime('UTC')) COMMENT 'Start of the five minutes in which its last sample lies, UTC; null likewise' AFTER first_sample;

-- ORDER BY: a document reads an organization's month, an analyst follows one device. PARTITION BY: month, of the sort key.
CREATE TABLE device_days_versions (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    time_zone LowCardinality(String) COMMENT 'The time zone of the day, that of an agreement: IANA name',
    device_id UUID COMMENT 'The device',
    local_day Date COMMENT 'The day in that time zone',
    hours UInt8 COMMENT 'Hours of the day in which it sent at least one sample',
    samples UInt32 COMMENT 'Samples of these hours; an hour that midnight cuts is on both days with all its samples, if it has some on both',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
ENGINE = ReplacingMergeTree(as_of)
PARTITION BY toYYYYMM(local_day)
ORDER BY (organization_id, time_zone, device_id, local_day)
SETTINGS non_replicated_deduplication_window = 1000
COMMENT 'Devices that reported, of organizations with an agreement. Grain: organization, time zone, local day and device with at least one sample. Versions: by local_day.';

-- ORDER BY: a document reads an organization's month. PARTITION BY: month, of the sort key.
CREATE TABLE usage_days_versions (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    time_zone LowCardinality(String) COMMENT 'The time zone of the day, that of an agreement: IANA name',
    local_day Date COMMENT 'The day in that time zone',
    kind LowCardinality(String) COMMENT 'hours, api_calls, storage or backup',
    rule LowCardinality(String) COMMENT 'api_calls: the answers that are not billed, such as 401,403,5xx; storage, backup: for how many days a silent reporter is carried forward',
    quantity Decimal(38, 9) COMMENT 'hours: hours of the day that have been rolled up; api_calls: calls, each id once, on the day of its first billed attempt unless one of the 7 days before had one; storage, backup: GB (10^9 bytes), weighted by time, rounded',
    unit LowCardinality(String) COMMENT 'hours, calls or GB',
    gb_milliseconds Decimal(38, 6) COMMENT 'storage, backup: GB times the milliseconds for which they are known: exact; divided by day_milliseconds it is quantity',
    known_milliseconds UInt32 COMMENT 'storage, backup: milliseconds of the day for which a report says how much there was',
    day_milliseconds UInt32 COMMENT 'Length of the day',
    completeness Float64 COMMENT 'hours, api_calls: share of the day''s hours that have been rolled up; storage, backup: known_milliseconds of day_milliseconds',
    inputs_hash UInt64 COMMENT 'Of the calls or reports that the row was computed from: another one where any of them changed',
    frozen Bool COMMENT 'Whether its source had begun to expire: then the row stays what it was before',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
ENGINE = ReplacingMergeTree(as_of)
PARTITION BY toYYYYMM(local_day)
ORDER BY (organization_id, time_zone, local_day, kind, rule)
SETTINGS non_replicated_deduplication_window = 1000
COMMENT 'Hours that are in, and API calls, storage and backups that are billed, of organizations with an agreement. Grain: organization, time zone, local day, kind and rule. Versions: by local_day.';

-- migrate: down
DROP VIEW IF EXISTS usage_days;
DROP VIEW IF EXISTS device_days;
DROP TABLE IF EXISTS usage_days_versions;
DROP TABLE IF EXISTS device_days_versions;
ALTER TABLE device_metrics_hourly_versions DROP COLUMN IF EXISTS first_sample, DROP COLUMN IF EXISTS last_sample;
