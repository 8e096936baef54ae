-- What the ledger's views say of themselves, put right: what they prove, by whose clock, and which copies count.

-- migrate: up
ALTER TABLE message_deliveries
    COMMENT COLUMN points_written 'Of them, given to their store and not refused; of a duplicate they may have been left out',
    COMMENT COLUMN instants 'The times of the points that points_written counts, as sent; empty 9 days later',
    COMMENT COLUMN published_at 'When it was published: by the publisher''s clock on RabbitMQ, by the broker''s on Dragonfly; null where nobody says';

ALTER TABLE message_ledger
    COMMENT COLUMN points_written 'Of them, given to their store and not refused; of a duplicate they may have been left out',
    COMMENT COLUMN published_at 'When it was published: by the publisher''s clock on RabbitMQ, by the broker''s on Dragonfly; null where nobody says';

ALTER TABLE conservation
    COMMENT COLUMN balance 'Points in the rows that are neither written, quarantined nor a duplicate''s: must be 0. Of our own agents'' messages the points are counted in the body, those written and refused by themselves; of Telegraf''s and collectd''s the points are the sum of both. A message without a row is not seen here';

ALTER TABLE conservation
    MODIFY COMMENT 'Is every point of the recorded messages accounted for? A missing message is found by the check of its drain and by hour_is_accounted_for. The last 8 days; a copy that comes later than that after the first counts as a message. Grain: queue and hour of recording.';

ALTER TABLE quarantined_by_reason
    COMMENT COLUMN messages 'Copies of messages, duplicates too, with at least one point that was refused for it; one with two reasons is in both rows',
    COMMENT COLUMN points_quarantined 'The points of these copies that were put in quarantine, for whatever reason: do not add them up over reasons',
    COMMENT COLUMN example 'One of them, as: ninjait quarantine show. It is deleted 30 days after it was replayed or discarded';

ALTER TABLE late_arrivals
    MODIFY COMMENT 'Which hours got points more than five minutes after their end, when most hours have been rolled up, and are they repaired? Grain: organization and hour.';

-- Replaced in one step, so that whoever reads them finds them at every moment.
CREATE OR REPLACE VIEW ingest_lag (
    queue LowCardinality(String) COMMENT 'The queue',
    hour DateTime('UTC') COMMENT 'The hour in which the messages were recorded, UTC',
    messages UInt64 COMMENT 'Copies with at least one written point: each counts once, by its newest point, however many it has',
    lag_p50 Float64 COMMENT 'Seconds from the newest point of a message to its record, median of the messages, without late ones; NaN where all are late',
    lag_p99 Float64 COMMENT 'The same, 99 of 100 messages',
    lag_max Float64 COMMENT 'The same, the slowest',
    oldest_p50 Float64 COMMENT 'Seconds from the oldest point of a message to its record, median of the messages, without late ones: more than lag_p50 by what agents collect before they send',
    oldest_p99 Float64 COMMENT 'The same, 99 of 100 messages',
    broker_p50 Float64 COMMENT 'Seconds from published_at to the record, median of all messages: on RabbitMQ by the publisher''s clock; NaN where nobody says when it was published',
    broker_p99 Float64 COMMENT 'The same, 99 of 100 messages',
    broker_max Float64 COMMENT 'The same, the slowest',
    messages_late UInt64 COMMENT 'Messages whose newest point was more than an hour old when they were sent: laptops that were away, not us (where nobody says when that was: when they were recorded, so perhaps us)',
    latest Float64 COMMENT 'Seconds from the newest point of the latest of these to its record'
)
AS SELECT
    queue, toStartOfHour(recorded_at) AS hour, count() AS messages,
    quantileIf(0.5)(lag, NOT late) AS lag_p50, quantileIf(0.99)(lag, NOT late) AS lag_p99, maxIf(lag, NOT late) AS lag_max,
    quantileIf(0.5)(lag_of_oldest, NOT late) AS oldest_p50, quantileIf(0.99)(lag_of_oldest, NOT late) AS oldest_p99,
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
COMMENT 'How far behind is the store? Per message, not per point. The last 90 days. Grain: queue and hour of recording.';

-- As before; and copies of one id without a common instant, looked for among the few ids whose copies differ in time.
CREATE OR REPLACE VIEW resent_points (
    message_id UUID COMMENT 'The message that was first',
    replaced_by UUID COMMENT 'The message that was written after it; the same id where a later copy had other values or points',
    organization_id UUID COMMENT 'The organization',
    device_id UUID COMMENT 'The device',
    kind String COMMENT 'same_values: harmless; other_values: the same instants, and the values of replaced_by are the ones that count (also where only their order differs); overlapping: only some instants are in both, where the values of replaced_by count, and they were not compared; other_points: copies of one id without a common instant, the points of both stay. Where replaced_by is the same id, its points older than 7 days were left out, and those that were there count',
    points UInt64 COMMENT 'Instants that are in both; of other_points those of the later copy',
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
        LIMIT 1 BY organization_id, device_id, message_id, values_digest, first_time, last_time
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
    ),
    repeated AS (
        SELECT organization_id, device_id, message_id, recorded_at, position, arraySort(arrayDistinct(instants)) AS times
        FROM message_deliveries FINAL
        WHERE queue = 'agent.metrics' AND recorded_at >= now() - INTERVAL 2 DAY
            AND notEmpty(instants) AND device_id != toUUID('00000000-0000-0000-0000-000000000000')
            AND (organization_id, message_id) IN (
                SELECT organization_id, message_id
                FROM message_deliveries
                WHERE queue = 'agent.metrics' AND recorded_at >= now() - INTERVAL 2 DAY
                    AND notEmpty(instants) AND device_id != toUUID('00000000-0000-0000-0000-000000000000')
                GROUP BY organization_id, message_id
                HAVING uniqExact(device_id, first_time, last_time) > 1
            )
        ORDER BY recorded_at DESC, position DESC
        LIMIT 1 BY organization_id, device_id, message_id, times
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
UNION ALL
SELECT
    message_id, message_id AS replaced_by, organization_id, second.3 AS device_id, 'other_points' AS kind,
    length(second.4) AS points, arrayMin(second.4) AS first_time, arrayMax(second.4) AS last_time, second.1 AS recorded_at
FROM (
    SELECT
        organization_id, message_id, arraySort(groupArray((recorded_at, position, device_id, times))) AS copies,
        arrayJoin(arrayZip(arrayPopBack(copies), arrayPopFront(copies))) AS pair, pair.1 AS first, pair.2 AS second
    FROM repeated
    GROUP BY organization_id, message_id
)
WHERE first.3 != second.3 OR NOT hasAny(first.4, second.4)
COMMENT 'Which points were sent again, or ids used again, and which message''s values count? Messages of our own agents of the last two days. Grain: a message and the one that was written after it with at least one of its points, or with its id.';

-- migrate: down
-- The two views as they were; the comments may stay.
CREATE OR REPLACE VIEW ingest_lag (
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

CREATE OR REPLACE VIEW resent_points (
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
