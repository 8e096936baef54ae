-- What is known of the senders: what of their messages is left out, and when each device was last heard of.

-- migrate: up
-- In the row of the copy, so that a copy delivered again replaces what it had, and nothing is counted twice. The names
-- are the senders' own, cut to 100 characters, and bounded in number for each message.
ALTER TABLE message_deliveries
    ADD COLUMN IF NOT EXISTS agent LowCardinality(String) COMMENT 'telegraf or collectd; empty for our own agents' AFTER device_id,
    ADD COLUMN IF NOT EXISTS host String COMMENT 'The first host that a message of another agent names' AFTER agent,
    ADD COLUMN IF NOT EXISTS left_out Array(Tuple(device_id UUID, host String, measurement String, example String, readings UInt32)) COMMENT 'Readings of other agents of which nothing was taken, by host and measurement; empty 9 days later' CODEC(ZSTD(1)) TTL toDateTime(recorded_at) + INTERVAL 9 DAY,
    COMMENT COLUMN outcome 'written, partly_quarantined, quarantined, dead_lettered, or not_understood: nothing in it is bad, and nothing is for us';

-- Replaced in one step, so that whoever reads them finds them at every moment.
CREATE OR REPLACE VIEW message_ledger (
    queue LowCardinality(String) COMMENT 'The queue that it came from',
    message_id UUID COMMENT 'The message: its own id, or one made from queue and content',
    delivery_id String COMMENT 'This published copy; the same when the broker delivers it again',
    organization_id UUID COMMENT 'The organization that it names; all zeros where that could not be read',
    agent LowCardinality(String) COMMENT 'telegraf or collectd; empty for our own agents',
    host String COMMENT 'The first host that a message of another agent names',
    run_id String COMMENT 'The Dagster run that drained it',
    outcome String COMMENT 'written, partly_quarantined, quarantined, dead_lettered, not_understood (nothing in it is bad, and nothing is for us), or duplicate: another copy of the same message counts instead',
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
    queue, message_id, delivery_id, organization_id, agent, host, run_id,
    if(row_number() OVER (
        PARTITION BY queue, organization_id, message_id
        ORDER BY outcome = 'written' DESC, outcome = 'partly_quarantined' DESC, recorded_at, delivery_id
    ) > 1, 'duplicate', outcome) AS outcome,
    points, points_written, points_quarantined, unknown_fields, bytes, first_time, last_time, published_at, recorded_at
FROM message_deliveries FINAL
COMMENT 'Every message that left a queue, with what became of it. Grain: one published copy; per organization and message one copy is not a duplicate.';

CREATE OR REPLACE VIEW conservation (
    queue LowCardinality(String) COMMENT 'The queue',
    hour DateTime('UTC') COMMENT 'The hour in which the copies were recorded, UTC',
    messages UInt64 COMMENT 'Copies that left the queue',
    duplicates UInt64 COMMENT 'Of them, copies of a message of which another copy counts',
    not_understood UInt64 COMMENT 'Of them, those in which nothing is bad and nothing is for us, without duplicates: see left_out',
    points UInt64 COMMENT 'Points (or events) in all copies',
    points_written UInt64 COMMENT 'Of them, given to their store and not refused, without those of duplicates',
    points_quarantined UInt64 COMMENT 'Of them, put in quarantine, without those of duplicates',
    points_of_duplicates UInt64 COMMENT 'Of them, in duplicates',
    balance Int64 COMMENT 'Points of which nobody knows what became: must be 0. The three are counted apart: from the body, the rows and the rejections'
)
AS SELECT
    queue, toStartOfHour(recorded_at) AS hour, count() AS messages, countIf(copy > 1) AS duplicates,
    countIf(outcome = 'not_understood' AND copy = 1) AS not_understood,
    sum(copies.points) AS points, sumIf(copies.points_written, copy = 1) AS points_written,
    sumIf(copies.points_quarantined, copy = 1) AS points_quarantined, sumIf(copies.points, copy > 1) AS points_of_duplicates,
    toInt64(points) - points_written - points_quarantined - points_of_duplicates AS balance
FROM (
    SELECT
        queue, recorded_at, outcome, points, points_written, points_quarantined,
        row_number() OVER (
            PARTITION BY queue, organization_id, message_id
            ORDER BY outcome = 'written' DESC, outcome = 'partly_quarantined' DESC, recorded_at, delivery_id
        ) AS copy
    FROM message_deliveries FINAL
    WHERE recorded_at >= toStartOfHour(now('UTC')) - INTERVAL 8 DAY
) AS copies
GROUP BY queue, hour
COMMENT 'Is everything accounted for? The last 8 days; a copy that comes later than that after the first counts as a message. Grain: queue and hour of recording.';

-- The measurements are bounded by an hour and host, because a sender may invent any number of them.
-- Read by recorded_at: ask for some days by `WHERE hour >= ...`.
CREATE VIEW left_out (
    hour DateTime('UTC') COMMENT 'The hour in which the messages were recorded, UTC',
    organization_id UUID COMMENT 'The organization; all zeros where the message names none',
    device_id UUID COMMENT 'The device of this host name; all zeros where none is registered',
    agent LowCardinality(String) COMMENT 'telegraf or collectd',
    host String COMMENT 'The host, as the agent names it',
    measurement String COMMENT 'Telegraf''s measurement, or plugin/type of collectd; (others) beyond 100 of an hour and host, whose readings are estimates then',
    readings UInt64 COMMENT 'Lines or value lists of which nothing was taken',
    example String COMMENT 'A field of one of them; of collectd its type instance',
    first_at DateTime64(6, 'UTC') COMMENT 'When the first of the host was recorded in this hour',
    last_at DateTime64(6, 'UTC') COMMENT 'When the last of the host was recorded in this hour'
)
AS SELECT
    hour, organization_id, device_id, agent, host, top.1 AS measurement, top.2 AS readings,
    arrayFirst(one -> one.1 = top.1, examples).2 AS example, first_at, last_at
FROM (
    SELECT
        toStartOfHour(recorded_at) AS hour, organization_id, entry.device_id AS device_id, agent, entry.host AS host,
        topKWeighted(100, 3, 'counts')(entry.measurement, entry.readings) AS most, sum(entry.readings) AS total,
        toInt64(total) - toInt64(arraySum(most.2)) AS rest,
        arrayConcat(most, if(rest > 0, [('(others)', toUInt64(rest), toUInt64(0))], [])) AS measurements,
        groupUniqArray(300)((entry.measurement, entry.example)) AS examples,
        min(recorded_at) AS first_at, max(recorded_at) AS last_at
    FROM message_deliveries FINAL
    ARRAY JOIN left_out AS entry
    GROUP BY hour, organization_id, device_id, agent, host
)
ARRAY JOIN measurements AS top
COMMENT 'What do other agents send of which nobody takes anything? The last 9 days. Grain: hour of recording, organization, host and measurement.';

-- ORDER BY: one row a device, whichever batch is merged first: of each time the latest one counts, so that a batch that
-- is recorded twice, and old readings that come late, change nothing.
CREATE TABLE device_sightings (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    last_seen SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'Time of the newest reading; 1970 where none was understood',
    cpu_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'Time of the newest reading of cpu',
    memory_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'Time of the newest reading of memory',
    disk_used_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'Time of the newest reading of disk_used',
    sent_at SimpleAggregateFunction(max, DateTime64(6, 'UTC')) DEFAULT now64(6) COMMENT 'When the last message with anything of the device was recorded',
    understood_at SimpleAggregateFunction(max, DateTime64(6, 'UTC')) DEFAULT if(last_seen > toDateTime64(0, 3, 'UTC'), now64(6), toDateTime64(0, 6, 'UTC')) COMMENT 'When the last reading was recorded'
)
ENGINE = AggregatingMergeTree
ORDER BY (organization_id, device_id)
COMMENT 'Storage of device_last_seen: read that view instead, here stand parts of it.';

CREATE VIEW device_last_seen (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    last_seen DateTime64(3, 'UTC') COMMENT 'Time of the newest reading, and not later than it was recorded, whatever the device''s clock says; 1970 where no reading was understood',
    cpu_at DateTime64(3, 'UTC') COMMENT 'Time of the newest reading of cpu; 1970 where there was none',
    memory_at DateTime64(3, 'UTC') COMMENT 'The same of memory',
    disk_used_at DateTime64(3, 'UTC') COMMENT 'The same of disk_used',
    sent_at DateTime64(6, 'UTC') COMMENT 'When the last message with anything of the device was recorded, understood or not',
    understood_at DateTime64(6, 'UTC') COMMENT 'When the last reading was recorded; 1970 where there was none'
)
AS SELECT
    organization_id, device_id, least(max(seen.last_seen), toDateTime64(max(seen.sent_at), 3, 'UTC')) AS last_seen,
    max(seen.cpu_at) AS cpu_at, max(seen.memory_at) AS memory_at, max(seen.disk_used_at) AS disk_used_at,
    max(seen.sent_at) AS sent_at, max(seen.understood_at) AS understood_at
FROM device_sightings AS seen
GROUP BY organization_id, device_id
COMMENT 'When was each device last heard of by its metrics, and of what? Grain: device.';

-- migrate: down
-- The two views as they were; the comments may stay.
CREATE OR REPLACE VIEW message_ledger (
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

CREATE OR REPLACE VIEW conservation (
    queue LowCardinality(String) COMMENT 'The queue',
    hour DateTime('UTC') COMMENT 'The hour in which the copies were recorded, UTC',
    messages UInt64 COMMENT 'Copies that left the queue',
    duplicates UInt64 COMMENT 'Of them, copies of a message of which another copy counts',
    points UInt64 COMMENT 'Points (or events) in all copies',
    points_written UInt64 COMMENT 'Of them, given to their store and not refused, without those of duplicates',
    points_quarantined UInt64 COMMENT 'Of them, put in quarantine, without those of duplicates',
    points_of_duplicates UInt64 COMMENT 'Of them, in duplicates',
    balance Int64 COMMENT 'Points of which nobody knows what became: must be 0. The three are counted apart: from the body, the rows and the rejections'
)
AS SELECT
    queue, toStartOfHour(recorded_at) AS hour, count() AS messages, countIf(copy > 1) AS duplicates,
    sum(copies.points) AS points, sumIf(copies.points_written, copy = 1) AS points_written,
    sumIf(copies.points_quarantined, copy = 1) AS points_quarantined, sumIf(copies.points, copy > 1) AS points_of_duplicates,
    toInt64(points) - points_written - points_quarantined - points_of_duplicates AS balance
FROM (
    SELECT
        queue, recorded_at, points, points_written, points_quarantined,
        row_number() OVER (
            PARTITION BY queue, organization_id, message_id
            ORDER BY outcome = 'written' DESC, outcome = 'partly_quarantined' DESC, recorded_at, delivery_id
        ) AS copy
    FROM message_deliveries FINAL
    WHERE recorded_at >= toStartOfHour(now('UTC')) - INTERVAL 8 DAY
) AS copies
GROUP BY queue, hour
COMMENT 'Is everything accounted for? The last 8 days; a copy that comes later than that after the first counts as a message. Grain: queue and hour of recording.';

DROP VIEW IF EXISTS device_last_seen;
DROP TABLE IF EXISTS device_sightings;
DROP VIEW IF EXISTS left_out;
ALTER TABLE message_deliveries
    DROP COLUMN IF EXISTS agent, DROP COLUMN IF EXISTS host, DROP COLUMN IF EXISTS left_out;
