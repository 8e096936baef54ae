-- What the ledger needs to prove itself: which points each message brought and why others were refused, and the views
-- that a person on call reads.

-- migrate: up
-- The instants make the ledger exact: points are counted from it however often and in whatever pieces they were sent.
-- They are needed for as long as full resolution is there to be compared with, so they go before their rows do.
ALTER TABLE message_deliveries
    ADD COLUMN device_id UUID COMMENT 'The device that it names; all zeros where it names none: other agents'' messages name hosts' AFTER organization_id,
    ADD COLUMN reasons Array(LowCardinality(String)) COMMENT 'Why points, or all of it, were put in quarantine, each reason once' AFTER points_quarantined,
    ADD COLUMN position UInt32 COMMENT 'Its place in the batch that was recorded at once: the later one was written last' AFTER recorded_at,
    ADD COLUMN instants Array(DateTime64(3, 'UTC')) COMMENT 'The times of the written points, as sent; empty 9 days later' CODEC(Delta(8), ZSTD(1)) TTL toDateTime(recorded_at) + INTERVAL 9 DAY,
    ADD COLUMN counter_instants Array(DateTime64(3, 'UTC')) COMMENT 'The times of the written readings of network counters, likewise' CODEC(Delta(8), ZSTD(1)) TTL toDateTime(recorded_at) + INTERVAL 9 DAY,
    ADD COLUMN instant_devices Array(UUID) COMMENT 'The device of each of the instants, then of the counter_instants, where device_id is zeros' CODEC(ZSTD(1)) TTL toDateTime(recorded_at) + INTERVAL 9 DAY,
    ADD COLUMN values_digest UInt32 COMMENT 'Of the values of the points in their order: compares messages that have the same instants',
    MODIFY COLUMN first_time DEFAULT if(empty(instants) AND empty(counter_instants), NULL, arrayMin(arrayConcat(instants, counter_instants))),
    MODIFY COLUMN last_time DEFAULT if(empty(instants) AND empty(counter_instants), NULL, arrayMax(arrayConcat(instants, counter_instants)));

-- Every day some of the oldest rows expire, in a part that has nearly all of them: rewritten once a day, not six times.
ALTER TABLE message_deliveries MODIFY SETTING merge_with_ttl_timeout = 86400;

-- Read by recorded_at, whose index leaves out the parts of earlier days.
CREATE VIEW conservation (
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

-- As conservation; ask for some days by `WHERE hour >= ...`.
CREATE VIEW quarantined_by_reason (
    queue LowCardinality(String) COMMENT 'The queue',
    hour DateTime('UTC') COMMENT 'The hour in which the copies were recorded, UTC',
    organization_id UUID COMMENT 'The organization that they name; all zeros where that could not be read',
    reason LowCardinality(String) COMMENT 'Why',
    messages UInt64 COMMENT 'Copies of messages with at least one point that was refused for it; one with two reasons is in both rows',
    points_quarantined UInt64 COMMENT 'The points of these copies that were put in quarantine, for whatever reason',
    example String COMMENT 'One of them, as: ninjait quarantine show'
)
AS SELECT
    queue, toStartOfHour(recorded_at) AS hour, organization_id, reason, count() AS messages,
    sum(message_deliveries.points_quarantined) AS points_quarantined, any(concat(queue, '/', delivery_id)) AS example
FROM message_deliveries FINAL
ARRAY JOIN reasons AS reason
GROUP BY queue, hour, organization_id, reason
COMMENT 'What was quarantined, and why? The last 90 days, also what was replayed since. Grain: queue, hour of recording, organization and reason.';

-- As conservation; ask for some days by `WHERE hour >= ...`.
CREATE VIEW ingest_lag (
    queue LowCardinality(String) COMMENT 'The queue',
    hour DateTime('UTC') COMMENT 'The hour in which the messages were recorded, UTC',
    messages UInt64 COMMENT 'Copies with at least one written point',
    lag_p50 Float64 COMMENT 'Seconds from the newest point of a message to its record, median, without late messages; NaN where all are late',
    lag_p99 Float64 COMMENT 'The same, 99 of 100 messages',
    lag_max Float64 COMMENT 'The same, the slowest',
    oldest_p50 Float64 COMMENT 'Seconds from the oldest point of a message, median, without late messages: more than lag_p50 by what agents collect before they send',
    broker_p50 Float64 COMMENT 'Seconds from the broker''s stamp to the record, median of all; NaN where the broker does not stamp',
    broker_p99 Float64 COMMENT 'The same, 99 of 100 messages',
    broker_max Float64 COMMENT 'The same, the slowest',
    messages_late UInt64 COMMENT 'Messages whose newest point was more than an hour old when they were sent: laptops that were away, not us (where the broker does not stamp: when they were recorded, so perhaps us)',
    latest Float64 COMMENT 'Seconds from the newest point of the latest of these to its record'
)
AS SELECT
    queue, toStartOfHour(recorded_at) AS hour, count() AS messages,
    quantileIf(0.5)(lag, NOT late) AS lag_p50, quantileIf(0.99)(lag, NOT late) AS lag_p99, maxIf(lag, NOT late) AS lag_max,
    quantileIf(0.5)(lag_of_oldest, NOT late) AS oldest_p50,
    quantileIf(0.5)(waited, stamped) AS broker_p50, quantileIf(0.99)(waited, stamped) AS broker_p99,
    maxIf(waited, stamped) AS broker_max, countIf(late) AS messages_late, maxIf(lag, late) AS latest
FROM (
    SELECT
        queue, recorded_at,
        toFloat64(recorded_at) - assumeNotNull(toFloat64(last_time)) AS lag,
        toFloat64(recorded_at) - assumeNotNull(toFloat64(first_time)) AS lag_of_oldest,
        published_at IS NOT NULL AS stamped,
        toFloat64(recorded_at) - toFloat64(ifNull(published_at, recorded_at)) AS waited,
        lag - waited > 3600 AS late
    FROM message_deliveries FINAL
    WHERE last_time IS NOT NULL
)
GROUP BY queue, hour
COMMENT 'How far behind is the store? The last 90 days. Grain: queue and hour of recording.';

-- Read by hour, the beginning of the ORDER BY of touched_hours: ask for some days by `WHERE hour >= ...`.
CREATE VIEW late_arrivals (
    organization_id UUID COMMENT 'The organization',
    hour DateTime('UTC') COMMENT 'The hour of the points, UTC',
    points UInt64 COMMENT 'Points that arrived more than five minutes after its end, counted again where a drain died; with the readings of counters of the hour before, which change its increases',
    first_touched_at DateTime64(6, 'UTC') COMMENT 'When the first of them arrived',
    last_touched_at DateTime64(6, 'UTC') COMMENT 'When the last of them arrived',
    rolled_up_at DateTime64(6, 'UTC') COMMENT 'When its last roll-up began to read; 1970 where there was none',
    points_waiting UInt64 COMMENT 'Of the points, those that arrived after that: 0 where the hour is repaired'
)
AS SELECT
    touched.organization_id AS organization_id, touched.hour AS hour, sum(touched.points) AS points,
    min(touched.touched_at) AS first_touched_at, max(touched.touched_at) AS last_touched_at,
    any(rolled.as_of) AS rolled_up_at, sumIf(touched.points, touched.touched_at > rolled.as_of) AS points_waiting
FROM touched_hours AS touched
LEFT JOIN (SELECT hour, as_of FROM rolled_up_hours FINAL) AS rolled ON rolled.hour = touched.hour
WHERE touched.touched_at > touched.hour + INTERVAL 65 MINUTE
GROUP BY touched.organization_id, touched.hour
COMMENT 'Whose hours changed after they had been rolled up, and are they repaired? Hours are rolled up from five minutes after their end. Grain: organization and hour.';

-- In steps, so that instants are read of the few messages only whose time reaches into that of another one. Of copies of
-- one message that are alike the last one stands for all.
CREATE VIEW resent_points (
    message_id UUID COMMENT 'The message that was first',
    replaced_by UUID COMMENT 'The message that was written after it; the same id where its second copy had other values',
    organization_id UUID COMMENT 'The organization',
    device_id UUID COMMENT 'The device',
    kind String COMMENT 'same_values: harmless; other_values: the same instants, and the values of replaced_by are the ones that count (also where only their order differs); overlapping: only some instants are in both, where the values of replaced_by count, and they were not compared',
    points UInt64 COMMENT 'Instants that are in both',
    first_time DateTime64(3, 'UTC') COMMENT 'The earliest of them',
    last_time DateTime64(3, 'UTC') COMMENT 'The latest of them',
    recorded_at DateTime64(6, 'UTC') COMMENT 'When replaced_by was recorded; of two drains at once the one recorded last may have written first'
)
AS WITH
    messages AS (
        SELECT organization_id, device_id, message_id, delivery_id, recorded_at, position, first_time, last_time, values_digest
        FROM message_deliveries FINAL
        WHERE queue = 'agent.metrics' AND recorded_at >= now() - INTERVAL 2 DAY
            AND notEmpty(instants) AND device_id != toUUID('00000000-0000-0000-0000-000000000000')
        ORDER BY recorded_at DESC, position DESC
        LIMIT 1 BY organization_id, message_id, values_digest
    ),
    near AS (
        SELECT message_id, delivery_id
        FROM (
            SELECT
                message_id, delivery_id, first_time, last_time,
                max(last_time) OVER (by_time ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS last_before,
                min(first_time) OVER (by_time ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS first_after
            FROM messages
            WINDOW by_time AS (PARTITION BY organization_id, device_id ORDER BY first_time, delivery_id)
        )
        WHERE first_time <= last_before OR last_time >= first_after
    ),
    each AS (
        SELECT
            organization_id, device_id, recorded_at, position, message_id, values_digest, delivery_id,
            arrayDistinct(instants) AS times, length(times) AS size, arrayJoin(times) AS instant,
            cityHash64(organization_id, device_id, instant) AS known_by
        FROM message_deliveries FINAL
        WHERE queue = 'agent.metrics' AND recorded_at >= now() - INTERVAL 2 DAY
            AND (message_id, delivery_id) IN (SELECT message_id, delivery_id FROM near)
    )
SELECT
    first.3 AS message_id, second.3 AS replaced_by, organization_id, device_id,
    multiIf(points < first.5 OR points < second.5, 'overlapping', first.4 = second.4, 'same_values', 'other_values') AS kind,
    count() AS points, min(instant) AS first_time, max(instant) AS last_time, second.1 AS recorded_at
FROM (
    SELECT
        organization_id, device_id, instant,
        arraySort(groupArray((recorded_at, position, message_id, values_digest, size, delivery_id))) AS copies,
        arrayJoin(arrayZip(arrayPopBack(copies), arrayPopFront(copies))) AS pair, pair.1 AS first, pair.2 AS second
    FROM each
    WHERE known_by IN (SELECT known_by FROM each GROUP BY known_by HAVING count() > 1)
    GROUP BY organization_id, device_id, instant
    HAVING count() > 1
)
GROUP BY organization_id, device_id, first, second
COMMENT 'Which points were sent again by another message, and which message''s values count? Messages of our own agents of the last two days. Grain: a message and the one that was written after it with at least one of its points.';

-- migrate: down
DROP VIEW IF EXISTS resent_points;
DROP VIEW IF EXISTS late_arrivals;
DROP VIEW IF EXISTS ingest_lag;
DROP VIEW IF EXISTS quarantined_by_reason;
DROP VIEW IF EXISTS conservation;
ALTER TABLE message_deliveries RESET SETTING merge_with_ttl_timeout;
-- As they were: a column that may be null and has no default is null by default. This may run twice, REMOVE DEFAULT not.
ALTER TABLE message_deliveries MODIFY COLUMN first_time DEFAULT NULL, MODIFY COLUMN last_time DEFAULT NULL;
ALTER TABLE message_deliveries
    DROP COLUMN IF EXISTS device_id, DROP COLUMN IF EXISTS reasons, DROP COLUMN IF EXISTS position,
    DROP COLUMN IF EXISTS instants, DROP COLUMN IF EXISTS counter_instants, DROP COLUMN IF EXISTS instant_devices,
    DROP COLUMN IF EXISTS values_digest;
