-- ClickHouse. Messages that brought samples of a device on a local day. The ledger keeps a message for 90 days, and the times of
-- its samples for 9 days: until then `samples` counts each time once; after that, what was recorded within 2 days is read.
-- Served by the index of recorded_at.
SELECT uniqExact(message_id) AS messages, uniqExactArray(arrayFilter(at -> at >= first AND at < stop, times)) AS samples
FROM (
    SELECT
        message_id, toDateTime64(%(start)s, 3, 'UTC') AS first, toDateTime64(%(stop)s, 3, 'UTC') AS stop,
        if(
            device_id = toUUID(%(device_id)s) OR length(instant_devices) = 1, instants,
            arrayFilter((at, of) -> of = toUUID(%(device_id)s), instants, arraySlice(instant_devices, 1, length(instants)))
        ) AS times
    FROM message_deliveries
    WHERE organization_id = %(organization_id)s AND queue = 'agent.metrics'
        AND (device_id = toUUID(%(device_id)s) OR has(instant_devices, toUUID(%(device_id)s)))
        AND last_time >= first AND first_time < stop
        AND recorded_at > first - INTERVAL 1 HOUR AND recorded_at < toDateTime64(%(recorded_until)s, 3, 'UTC')
)
