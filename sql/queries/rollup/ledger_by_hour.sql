-- What the ledger has of each hour of [start, stop). Grain: one hour that a message reached.
-- `points` counts each instant of a device once, whatever brought it, and readings of counters and of volumes apart, as
-- the metrics store does (by a hash: of a million points, one in a million times one too few). Without FINAL: a row that
-- was recorded twice lists the same instants. So a row that is missing is seen where no other row lists its instants, and
-- only there.
-- `messages_without_instants` were recorded before the ledger kept instants: of such an hour nothing can be said.
-- Served by the index of recorded_at: nothing is recorded before it happened, but for clocks that are ahead
-- (`recorded_since`).
SELECT hour, sum(listed) AS points, sum(unlisted) AS messages_without_instants
FROM (
    SELECT toStartOfHour(instant) AS hour, uniqExact(cityHash64(device, instant, kind)) AS listed, 0 AS unlisted
    FROM message_deliveries
    ARRAY JOIN
        arrayConcat(instants, counter_instants, volume_instants) AS instant,
        arrayConcat(
            arrayWithConstant(length(instants), 0),
            arrayWithConstant(length(counter_instants), 1),
            arrayWithConstant(length(volume_instants), 2)
        ) AS kind,
        if(
            length(instant_devices) < 2, -- one device for all: the row's own, or of another agent the only one listed
            arrayWithConstant(
                length(instants) + length(counter_instants) + length(volume_instants),
                if(empty(instant_devices), device_id, instant_devices[1])
            ),
            instant_devices
        ) AS device
    WHERE queue = 'agent.metrics' AND recorded_at >= {recorded_since:DateTime64(6, 'UTC')}
        AND last_time >= {start:DateTime('UTC')} AND first_time < {stop:DateTime('UTC')}
        AND instant >= {start:DateTime('UTC')} AND instant < {stop:DateTime('UTC')}
    GROUP BY hour
    UNION ALL
    SELECT
        toStartOfHour(assumeNotNull(first_time)) + INTERVAL arrayJoin(
            range(toUInt32(dateDiff('hour', assumeNotNull(first_time), assumeNotNull(last_time)) + 1))
        ) HOUR AS hour,
        0 AS listed,
        count() AS unlisted
    FROM message_deliveries
    WHERE queue = 'agent.metrics' AND recorded_at >= {recorded_since:DateTime64(6, 'UTC')}
        AND last_time >= {start:DateTime('UTC')} AND first_time < {stop:DateTime('UTC')}
        AND points_written > 0 AND empty(instants) AND empty(counter_instants) AND empty(volume_instants)
    GROUP BY hour
)
WHERE hour >= {start:DateTime('UTC')} AND hour < {stop:DateTime('UTC')}
GROUP BY hour
