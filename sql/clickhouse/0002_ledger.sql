-- What became of every message, and which hours it touched.

-- migrate: up
-- ORDER BY: a copy that is drained again (the drain died before its acknowledgement) replaces its own row, and the copies
-- of one message lie together. INDEX: the checks of a drain read what is minutes old, and skip the parts of all earlier
-- days. No PARTITION BY: such twins may be days apart, and only meet within one partition.
CREATE TABLE message_deliveries (
    queue LowCardinality(String) COMMENT 'The queue that it came from',
    message_id UUID COMMENT 'The message: its own id, or one made from queue and content',
    delivery_id String COMMENT 'This published copy; the same when the broker delivers it again',
    organization_id UUID COMMENT 'The organization that it names; all zeros where that could not be read',
    run_id String COMMENT 'The Dagster run that drained it',
    outcome LowCardinality(String) COMMENT 'written, partly_quarantined, quarantined or dead_lettered',
    points UInt32 COMMENT 'Points (or events) in the message',
    points_written UInt32 COMMENT 'Of them, written to their store',
    points_quarantined UInt32 COMMENT 'Of them, put in quarantine',
    unknown_fields UInt32 COMMENT 'Fields that the contract does not name, left out',
    bytes UInt32 COMMENT 'Size of the body',
    first_time Nullable(DateTime64(3, 'UTC')) COMMENT 'Earliest time among the written points',
    last_time Nullable(DateTime64(3, 'UTC')) COMMENT 'Latest time among the written points',
    published_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When the broker took it, where it says so',
    recorded_at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When the drain recorded it',
    INDEX recent recorded_at TYPE minmax GRANULARITY 4
)
ENGINE = ReplacingMergeTree(recorded_at)
ORDER BY (queue, message_id, delivery_id)
TTL toDateTime(recorded_at) + INTERVAL 90 DAY DELETE
COMMENT 'Storage of message_ledger. Grain: one published copy of a message.';

CREATE VIEW message_ledger (
    queue LowCardinality(String) COMMENT 'The queue that it came from',
    message_id UUID COMMENT 'The message: its own id, or one made from queue and content',
    delivery_id String COMMENT 'This published copy; the same when the broker delivers it again',
    organization_id UUID COMMENT 'The organization that it names; all zeros where that could not be read',
    run_id String COMMENT 'The Dagster run that drained it',
    outcome String COMMENT 'written, partly_quarantined, quarantined, dead_lettered, or duplicate: another copy of the same message counts instead',
    points UInt32 COMMENT 'Points (or events) in the message',
    points_written UInt32 COMMENT 'Of them, written to their store',
    points_quarantined UInt32 COMMENT 'Of them, put in quarantine',
    unknown_fields UInt32 COMMENT 'Fields that the contract does not name, left out',
    bytes UInt32 COMMENT 'Size of the body',
    first_time Nullable(DateTime64(3, 'UTC')) COMMENT 'Earliest time among the written points',
    last_time Nullable(DateTime64(3, 'UTC')) COMMENT 'Latest time among the written points',
    published_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When the broker took it, where it says so',
    recorded_at DateTime64(6, 'UTC') COMMENT 'When the drain recorded it'
)
AS SELECT
    queue, message_id, delivery_id, organization_id, run_id,
    if(row_number() OVER (
        PARTITION BY queue, organization_id, message_id
        ORDER BY outcome = 'written' DESC, outcome = 'partly_quarantined' DESC, recorded_at, delivery_id
    ) > 1, 'duplicate', outcome) AS outcome,
    points, points_written, points_quarantined, unknown_fields, bytes, first_time, last_time, published_at, recorded_at
FROM message_deliveries FINAL
COMMENT 'Every message that left a queue, with what became of it. Grain: one published copy; per organization and message one copy is not a duplicate.';

-- ORDER BY: it is asked by hour, whether anything came after its roll-up.
CREATE TABLE touched_hours (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    hour DateTime('UTC') COMMENT 'The hour of the samples, UTC',
    points UInt32 COMMENT 'Points that arrived for it',
    run_id String COMMENT 'The Dagster run that drained them',
    touched_at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'After they were written to their store'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (hour, organization_id)
TTL hour + INTERVAL 731 DAY DELETE
COMMENT 'Which hours ingest wrote to, and when. Grain: one batch, organization and hour. Append only.';

-- ORDER BY: one row an hour, looked up by it.
CREATE TABLE rolled_up_hours (
    hour DateTime('UTC') COMMENT 'The hour, UTC',
    as_of DateTime64(6, 'UTC') COMMENT 'Taken before the roll-up read the store: points of a later touch may be missing from it',
    source_tier LowCardinality(String) COMMENT 'The tier that it was made from',
    row_count UInt32 COMMENT 'Rows that it has in device_metrics_hourly'
)
ENGINE = ReplacingMergeTree(as_of)
PARTITION BY toYear(hour)
ORDER BY hour
COMMENT 'The last roll-up of each hour. Grain: one hour. Read with FINAL.';

CREATE VIEW late_hours (
    hour DateTime('UTC') COMMENT 'The hour, UTC',
    organizations UInt64 COMMENT 'Organizations that it was touched for since',
    points UInt64 COMMENT 'Points that arrived since',
    touched_at DateTime64(6, 'UTC') COMMENT 'The last touch',
    as_of DateTime64(6, 'UTC') COMMENT 'The roll-up that is too old'
)
AS SELECT touched.hour, uniqExact(organization_id) AS organizations, sum(touched.points) AS points,
    max(touched.touched_at) AS touched_at, any(rolled.as_of) AS as_of
FROM touched_hours AS touched
INNER JOIN (SELECT hour, as_of FROM rolled_up_hours FINAL) AS rolled ON rolled.hour = touched.hour
WHERE touched.touched_at > rolled.as_of
GROUP BY touched.hour
COMMENT 'Hours that were rolled up before their last points came: they repair themselves within minutes.';

-- migrate: down
DROP VIEW IF EXISTS late_hours;
DROP TABLE IF EXISTS rolled_up_hours;
DROP TABLE IF EXISTS touched_hours;
DROP VIEW IF EXISTS message_ledger;
DROP TABLE IF EXISTS message_deliveries;
