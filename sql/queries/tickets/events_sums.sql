-- ClickHouse. Grain: one UTC day since `since`: as history_sums.sql, of the copy. The sort key does not serve it: a month's
-- partition is read whole, four of its columns.
SELECT
    toDate(timestamp) AS day, count() AS events,
    sum(
        reinterpretAsUInt32(reverse(unhex(substring(toString(event_id), 1, 8))))::UInt64
        + reinterpretAsUInt32(reverse(unhex(substring(toString(event_id), 29, 8))))::UInt64
    ) AS sum
FROM ticket_events
WHERE timestamp >= toDateTime64({since:Date}, 3, 'UTC')
GROUP BY day
