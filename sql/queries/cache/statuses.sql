-- ClickHouse. Grain: one device that sent a heartbeat or a reading since `since`, in order of its organization. Read are one
-- row a device of each table, or a few where they are not merged yet; `revision` differs when anything was recorded of it.
-- The rule is that of the view device_status_realtime: a heartbeat says the status. Readings do where there is none, where
-- they go on for 15 minutes after the last one, or where they follow one that says offline: online until 5 minutes after
-- the newest one.
-- One thread: more of them take half as much processor time again, and a few milliseconds less.
-- `carried`: fields that it sent since `latest_since`, by their places in FIELDS, as bits; `read_at`: when the newest was read.
SELECT
    toString(organization_id) AS organization_id, toString(device_id) AS device_id, status,
    toUnixTimestamp64Milli(heard_of_at) AS last_seen, toUnixTimestamp64Micro(sent_at) AS recorded_at,
    sipHash64(by_device.device_id, status, heard_of_at, heard, seen_at, sent_at) AS revision,
    replaceOne(toString(arrayMax(times)), ' ', 'T') AS read_at,
    arraySum(
        (at, place) -> bitShiftLeft(toUInt64(at >= {latest_since:DateTime64(3, 'UTC')}), place), times, range(length(times))
    ) AS carried
FROM (
    SELECT
        organization_id, device_id, max(heartbeat) AS heard, max(seen) AS seen_at, max(sent) AS sent_at,
        maxForEach(fields_at) AS times,
        heard.1 AS heartbeat_at, heard.3 AS said, least(seen_at, toDateTime64(sent_at, 3, 'UTC')) AS reading_at,
        if(
            reading_at > heartbeat_at + toIntervalMinute(if(said IN ('', 'offline'), 0, 15)),
            if(reading_at > {as_of:DateTime64(3, 'UTC')} - INTERVAL 5 MINUTE, 'online', 'offline'),
            said
        ) AS status,
        greatest(heartbeat_at, reading_at) AS heard_of_at
    FROM (
        SELECT
            organization_id, device_id, newest AS heartbeat, toDateTime64(0, 3, 'UTC') AS seen,
            toDateTime64(0, 6, 'UTC') AS sent, [toDateTime64(0, 3, 'UTC')] AS fields_at
        FROM device_newest_heartbeat
        UNION ALL
        SELECT
            organization_id, device_id, (toDateTime64(0, 3, 'UTC'), toUUID('00000000-0000-0000-0000-000000000000'), ''),
            last_seen, sent_at, array(COLUMNS('_at$') EXCEPT (sent_at, understood_at))
        FROM device_sightings
    )
    GROUP BY organization_id, device_id
) AS by_device
WHERE heard_of_at >= {since:DateTime64(3, 'UTC')}
ORDER BY organization_id
SETTINGS max_threads = 1
