-- What the platform publishes of billing and of devices' status.
--
-- billing_events is wide: one row an organization and local day. The quantities that invoices are made from, a row a kind, keep
-- their rows, and are called billing_quantities.
-- device_status_realtime reads the newest heartbeat of each device, which each insert of heartbeats brings along, instead
-- of all heartbeats of two years.

-- migrate: up
RENAME TABLE billing_events_versions TO billing_quantities_versions;

ALTER TABLE billing_quantities_versions
    ADD COLUMN IF NOT EXISTS cost Nullable(Decimal(38, 24)) COMMENT 'What the quantity costs on the day: the price of the plan for a month times the day''s share of the month; of calls, those beyond the day''s share of what is included. Null in days computed before 0.4.0, and where the plan''s prices give no amount' AFTER unit,
    ADD COLUMN IF NOT EXISTS base_fee Nullable(Decimal(38, 24)) COMMENT 'The day''s share of the contract''s base fee: once a day, on each of its kinds; null likewise' AFTER cost,
    ADD COLUMN IF NOT EXISTS currency LowCardinality(String) COMMENT 'ISO 4217 code of cost and base_fee; empty in days computed before 0.4.0' AFTER base_fee,
    MODIFY COMMENT 'Storage of billing_quantities: read that view instead, here stand replaced versions too.';

CREATE OR REPLACE VIEW billing_quantities (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    local_day Date COMMENT 'The day in the organization''s time zone',
    kind LowCardinality(String) COMMENT 'devices, storage, backup or api_calls',
    quantity Decimal(20, 6) COMMENT 'devices: devices with a sample on the day; storage, backup: GB at the last report of the day or the 7 days before; api_calls: calls',
    unit LowCardinality(String) COMMENT 'device-days, GB or calls',
    cost Nullable(Decimal(38, 24)) COMMENT 'What the quantity costs on the day: the price of the plan for a month times the day''s share of the month; of calls, those beyond the day''s share of what is included. Null in days computed before 0.4.0, and where the plan''s prices give no amount',
    base_fee Nullable(Decimal(38, 24)) COMMENT 'The day''s share of the contract''s base fee: once a day, on each of its kinds; null likewise',
    currency LowCardinality(String) COMMENT 'ISO 4217 code of cost and base_fee; empty in days computed before 0.4.0',
    contract_id UUID COMMENT 'The contract in force on the day',
    price_plan_id UUID COMMENT 'Its price plan',
    price_plan_version UInt32 COMMENT 'Its version of the plan',
    window_start DateTime('UTC') COMMENT 'Start of the local day, UTC',
    window_end DateTime('UTC') COMMENT 'End of the local day, UTC, exclusive',
    completeness Float64 COMMENT 'Share of the day''s hours that had been rolled up',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT organization_id, local_day, kind, quantity, unit, cost, base_fee, currency, contract_id, price_plan_id, price_plan_version, window_start, window_end, completeness, as_of
FROM billing_quantities_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000') AND (
    ifNull((SELECT max(n) FROM (SELECT uniqExact(as_of) AS n FROM billing_quantities_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY local_day)), 0) <= 1
    OR (local_day, as_of) NOT IN (
        SELECT local_day, arrayJoin(arrayPopBack(arraySort(groupUniqArray(as_of))))
        FROM billing_quantities_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY local_day
    )
)
COMMENT 'Billable quantities. Grain: organization, local day and kind.';

-- The shares of a month's days add up to exactly 1: the day's 18 places are the difference between two days' cumulated ones.
CREATE OR REPLACE VIEW billing_events (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    event_date Date COMMENT 'The day in the organization''s time zone',
    device_count Decimal(38, 24) COMMENT 'The day''s share of a month: devices / days of the month, so that the sum over a month''s days is what a monthly price multiplies. The plain number is devices',
    api_calls UInt64 COMMENT 'Calls answered on the day',
    storage_gb Decimal(38, 24) COMMENT 'The day''s share of a month: GB / days of the month, as device_count. The plain number is storage_gb_stored',
    backup_gb Decimal(38, 24) COMMENT 'The day''s share of a month: GB / days of the month, as device_count. The plain number is backup_gb_stored',
    cost_usd Nullable(Decimal(38, 24)) COMMENT 'cost, where its currency is USD; null where it is another one: no rate is known',
    devices UInt32 COMMENT 'Devices with a sample on the day',
    storage_gb_stored Decimal(20, 6) COMMENT 'GB (10^9 bytes) in use at the last report of the day or the 7 days before',
    backup_gb_stored Decimal(20, 6) COMMENT 'GB (10^9 bytes) of backups at the same report',
    cost Nullable(Decimal(38, 24)) COMMENT 'What the day costs by the contract''s plan, not rounded: a month''s sum is the invoice''s total, but for its lines'' cents, and for calls included, which are counted by the day here and by the month there. Null in days computed before 0.4.0, and where the plan''s prices give no amount',
    currency LowCardinality(String) COMMENT 'ISO 4217 code of cost; empty in days computed before 0.4.0',
    contract_id UUID COMMENT 'The contract in force on the day',
    price_plan_id UUID COMMENT 'Its price plan',
    price_plan_version UInt32 COMMENT 'Its version of the plan',
    window_start DateTime('UTC') COMMENT 'Start of the local day, UTC',
    window_end DateTime('UTC') COMMENT 'End of the local day, UTC, exclusive',
    completeness Float64 COMMENT 'Share of the day''s hours that had been rolled up',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT
    organization_id, local_day AS event_date, devices * share AS device_count, api_calls, storage_gb_stored * share AS storage_gb,
    backup_gb_stored * share AS backup_gb, if(currency = 'USD', cost, NULL) AS cost_usd, toUInt32(devices) AS devices,
    storage_gb_stored, backup_gb_stored, cost, currency, contract_id, price_plan_id, price_plan_version, window_start,
    window_end, completeness, as_of
FROM (
    SELECT
        organization_id, local_day,
        toDecimal128(
            intDiv(toInt128(toDayOfMonth(local_day)) * 1000000000000000000, toDayOfMonth(toLastDayOfMonth(local_day)))
            - intDiv(toInt128(toDayOfMonth(local_day) - 1) * 1000000000000000000, toDayOfMonth(toLastDayOfMonth(local_day))), 0
        ) * toDecimal128('0.000000000000000001', 18) AS share,
        toDecimal128(sumIf(quantity, kind = 'devices'), 6) AS devices,
        toUInt64(sumIf(quantity, kind = 'api_calls')) AS api_calls,
        toDecimal128(sumIf(quantity, kind = 'storage'), 6) AS storage_gb_stored,
        toDecimal128(sumIf(quantity, kind = 'backup'), 6) AS backup_gb_stored,
        if(countIf(q.cost IS NULL) > 0 OR any(q.base_fee) IS NULL, NULL, sum(q.cost) + any(q.base_fee)) AS cost,
        any(q.currency) AS currency, any(q.contract_id) AS contract_id, any(q.price_plan_id) AS price_plan_id,
        any(q.price_plan_version) AS price_plan_version, any(q.window_start) AS window_start, any(q.window_end) AS window_end,
        any(q.completeness) AS completeness, max(q.as_of) AS as_of
    FROM billing_quantities AS q
    GROUP BY organization_id, local_day
) AS days
COMMENT 'What was used and what it costs. Grain: organization and local day.';

CREATE OR REPLACE VIEW late_days (
    asset LowCardinality(String) COMMENT 'The mart that lacks them',
    day Date COMMENT 'Its day: UTC for the service desk, the organizations'' own for billing',
    organizations UInt64 COMMENT 'Organizations that something came for since',
    touched_at DateTime64(6, 'UTC') COMMENT 'The last arrival',
    as_of DateTime64(6, 'UTC') COMMENT 'When the day was computed'
)
AS SELECT asset, c.day AS day, uniqExact(organization_id) AS organizations, max(t.touched_at) AS touched_at, any(c.as_of) AS as_of
FROM (SELECT organization_id, toDate(hour) AS day, max(touched_events.touched_at) AS touched_at FROM touched_events WHERE kind = 'ticket_history' GROUP BY ALL) AS t
INNER JOIN (SELECT asset, day, computed_days.as_of AS as_of FROM computed_days FINAL) AS c ON c.day = t.day
WHERE t.touched_at > c.as_of
GROUP BY asset, day
UNION ALL
-- A call belongs to the local day that it lies in, a report to that one and to the seven after it. A day that is not over
-- is none of these: it is computed again with each hour. Nor is what came within its own hour: that hour brings it along.
SELECT 'billing_events' AS asset, t.day AS day, uniqExact(t.organization_id) AS organizations, max(t.touched_at) AS touched_at, any(b.as_of) AS as_of
FROM (
    SELECT
        organization_id, kind, hour, max(touched_events.touched_at) AS touched_at,
        toDate(hour) + arrayJoin(if(kind = 'api_calls', [-1, 0, 1], [-1, 0, 1, 2, 3, 4, 5, 6, 7, 8])) AS day
    FROM touched_events
    WHERE kind IN ('api_calls', 'usage_reports') AND touched_events.touched_at > hour + INTERVAL 1 HOUR
    GROUP BY organization_id, kind, hour
) AS t
INNER JOIN (
    SELECT organization_id, local_day, window_start, window_end, billing_quantities.as_of AS as_of FROM billing_quantities WHERE kind = 'api_calls'
) AS b ON b.organization_id = t.organization_id AND b.local_day = t.day
WHERE t.touched_at > b.as_of AND b.window_end < now() AND t.hour < b.window_end
    AND t.hour + INTERVAL 1 HOUR > b.window_start - toIntervalDay(if(t.kind = 'api_calls', 0, 7))
GROUP BY day
UNION ALL
-- Days computed before 0.4.0 do not say what they cost. Older ones than these are a person's decision, as after a correction.
SELECT 'billing_events' AS asset, local_day AS day, uniqExact(q.organization_id) AS organizations, max(q.as_of) AS touched_at, min(q.as_of) AS as_of
FROM billing_quantities AS q
WHERE q.currency = '' AND q.kind = 'api_calls' AND q.local_day >= today() - 62 AND q.window_end < now()
GROUP BY day
COMMENT 'Days that were computed before their last events came: they are computed again within minutes.';

-- ORDER BY: one row a device. No PARTITION BY: of one device rows must meet.
CREATE TABLE device_newest_heartbeat (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    newest SimpleAggregateFunction(max, Tuple(timestamp DateTime64(3, 'UTC'), message_id UUID, status String)) COMMENT 'Its newest heartbeat: when it was sent, the message, the status. One that comes late or twice changes nothing; of two of one instant the greater message id counts'
)
ENGINE = AggregatingMergeTree
ORDER BY (organization_id, device_id)
TTL toDateTime(newest.1) + INTERVAL 731 DAY DELETE
COMMENT 'The newest heartbeat of each device. Grain: device. Read with FINAL.';

CREATE MATERIALIZED VIEW device_newest_heartbeat_feed TO device_newest_heartbeat (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    newest Tuple(timestamp DateTime64(3, 'UTC'), message_id UUID, status String) COMMENT 'The newest heartbeat of what was inserted'
)
AS SELECT organization_id, device_id, max(tuple(timestamp, message_id, toString(status))) AS newest
FROM device_heartbeats_versions
GROUP BY organization_id, device_id
COMMENT 'Fills device_newest_heartbeat: each insert of heartbeats, also one that is repeated, goes through it.';

INSERT INTO device_newest_heartbeat (organization_id, device_id, newest)
SELECT organization_id, device_id, max(tuple(timestamp, message_id, toString(status)))
FROM device_heartbeats_versions
GROUP BY organization_id, device_id;

-- The rule is that of sql/queries/cache/statuses.sql.
CREATE OR REPLACE VIEW device_status_realtime (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    status LowCardinality(String) COMMENT 'online, offline or maintenance',
    device_count AggregateFunction(count) COMMENT 'How many devices, as a state: countMerge(device_count). The plain number is devices',
    last_update AggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'Their latest heartbeat or reading, as a state: maxMerge(last_update). The plain time is as_of',
    devices UInt64 COMMENT 'Devices whose latest heartbeat says so. Readings say it where there is none, where they go on for 15 minutes after it, or where they follow one that says offline: online until 5 minutes after the newest one, then offline',
    as_of DateTime64(3, 'UTC') COMMENT 'The latest heartbeat or reading of these devices'
)
AS SELECT organization_id, status, countState() AS device_count, maxState(last_seen) AS last_update, count() AS devices, max(last_seen) AS as_of
FROM (
    SELECT
        organization_id, device_id,
        if(
            reading_at > heartbeat_at + toIntervalMinute(if(said IN ('', 'offline'), 0, 15)),
            if(reading_at > now64(3, 'UTC') - INTERVAL 5 MINUTE, 'online', 'offline'),
            said
        ) AS status,
        greatest(heartbeat_at, reading_at) AS last_seen
    FROM (
        SELECT
            organization_id, device_id, argMax(heard.status, heard.heartbeat_at) AS said,
            max(heard.heartbeat_at) AS heartbeat_at, max(heard.reading_at) AS reading_at
        FROM (
            SELECT organization_id, device_id, newest.3 AS status, newest.1 AS heartbeat_at, toDateTime64(0, 3, 'UTC') AS reading_at
            FROM device_newest_heartbeat FINAL
            UNION ALL
            SELECT organization_id, device_id, '', toDateTime64(0, 3, 'UTC'), last_seen
            FROM device_last_seen
            WHERE last_seen > toDateTime64(0, 3, 'UTC')
        ) AS heard
        GROUP BY organization_id, device_id
    )
)
GROUP BY organization_id, status
COMMENT 'How many devices are in which state now. Grain: organization and status.';

-- migrate: down
CREATE OR REPLACE VIEW device_status_realtime (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    status LowCardinality(String) COMMENT 'online, offline or maintenance',
    devices UInt64 COMMENT 'Devices whose latest heartbeat says so. Readings say it where there is none, where they go on for 15 minutes after it, or where they follow one that says offline: online until 5 minutes after the newest one, then offline',
    as_of DateTime64(3, 'UTC') COMMENT 'The latest heartbeat or reading of these devices'
)
AS SELECT organization_id, status, count() AS devices, max(last_seen) AS as_of
FROM (
    SELECT
        organization_id, device_id,
        if(
            reading_at > heartbeat_at + toIntervalMinute(if(said IN ('', 'offline'), 0, 15)),
            if(reading_at > now64(3, 'UTC') - INTERVAL 5 MINUTE, 'online', 'offline'),
            said
        ) AS status,
        greatest(heartbeat_at, reading_at) AS last_seen
    FROM (
        SELECT
            organization_id, device_id, argMax(heard.status, heard.heartbeat_at) AS said,
            max(heard.heartbeat_at) AS heartbeat_at, max(heard.reading_at) AS reading_at
        FROM (
            SELECT
                organization_id, device_id, toString(device_heartbeats_versions.status) AS status,
                timestamp AS heartbeat_at, toDateTime64(0, 3, 'UTC') AS reading_at
            FROM device_heartbeats_versions
            UNION ALL
            SELECT organization_id, device_id, '', toDateTime64(0, 3, 'UTC'), last_seen
            FROM device_last_seen
            WHERE last_seen > toDateTime64(0, 3, 'UTC')
        ) AS heard
        GROUP BY organization_id, device_id
    )
)
GROUP BY organization_id, status
COMMENT 'How many devices are in which state now. Grain: organization and status.';

DROP VIEW IF EXISTS device_newest_heartbeat_feed;
DROP TABLE IF EXISTS device_newest_heartbeat;

RENAME TABLE IF EXISTS billing_quantities_versions TO billing_events_versions;
ALTER TABLE billing_events_versions
    DROP COLUMN IF EXISTS cost, DROP COLUMN IF EXISTS base_fee, DROP COLUMN IF EXISTS currency,
    MODIFY COMMENT 'Storage of billing_events: read that view instead, here stand replaced versions too.';
CREATE OR REPLACE VIEW billing_events (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    local_day Date COMMENT 'The day in the organization''s time zone',
    kind LowCardinality(String) COMMENT 'devices, storage, backup or api_calls',
    quantity Decimal(20, 6) COMMENT 'devices: devices with a sample on the day; storage, backup: GB at the last report of the day or the 7 days before; api_calls: calls',
    unit LowCardinality(String) COMMENT 'device-days, GB or calls',
    contract_id UUID COMMENT 'The contract in force on the day',
    price_plan_id UUID COMMENT 'Its price plan',
    price_plan_version UInt32 COMMENT 'Its version of the plan',
    window_start DateTime('UTC') COMMENT 'Start of the local day, UTC',
    window_end DateTime('UTC') COMMENT 'End of the local day, UTC, exclusive',
    completeness Float64 COMMENT 'Share of the day''s hours that had been rolled up',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT organization_id, local_day, kind, quantity, unit, contract_id, price_plan_id, price_plan_version, window_start, window_end, completeness, as_of
FROM billing_events_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000') AND (
    ifNull((SELECT max(n) FROM (SELECT uniqExact(as_of) AS n FROM billing_events_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY local_day)), 0) <= 1
    OR (local_day, as_of) NOT IN (
        SELECT local_day, arrayJoin(arrayPopBack(arraySort(groupUniqArray(as_of))))
        FROM billing_events_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY local_day
    )
)
COMMENT 'Billable quantities. Grain: organization, local day and kind.';

CREATE OR REPLACE VIEW late_days (
    asset LowCardinality(String) COMMENT 'The mart that lacks them',
    day Date COMMENT 'Its day: UTC for the service desk, the organizations'' own for billing',
    organizations UInt64 COMMENT 'Organizations that something came for since',
    touched_at DateTime64(6, 'UTC') COMMENT 'The last arrival',
    as_of DateTime64(6, 'UTC') COMMENT 'When the day was computed'
)
AS SELECT asset, c.day AS day, uniqExact(organization_id) AS organizations, max(t.touched_at) AS touched_at, any(c.as_of) AS as_of
FROM (SELECT organization_id, toDate(hour) AS day, max(touched_events.touched_at) AS touched_at FROM touched_events WHERE kind = 'ticket_history' GROUP BY ALL) AS t
INNER JOIN (SELECT asset, day, computed_days.as_of AS as_of FROM computed_days FINAL) AS c ON c.day = t.day
WHERE t.touched_at > c.as_of
GROUP BY asset, day
UNION ALL
-- A call belongs to the local day that it lies in, a report to that one and to the seven after it. A day that is not over
-- is none of these: it is computed again with each hour. Nor is what came within its own hour: that hour brings it along.
SELECT 'billing_events' AS asset, t.day AS day, uniqExact(t.organization_id) AS organizations, max(t.touched_at) AS touched_at, any(b.as_of) AS as_of
FROM (
    SELECT
        organization_id, kind, hour, max(touched_events.touched_at) AS touched_at,
        toDate(hour) + arrayJoin(if(kind = 'api_calls', [-1, 0, 1], [-1, 0, 1, 2, 3, 4, 5, 6, 7, 8])) AS day
    FROM touched_events
    WHERE kind IN ('api_calls', 'usage_reports') AND touched_events.touched_at > hour + INTERVAL 1 HOUR
    GROUP BY organization_id, kind, hour
) AS t
INNER JOIN (
    SELECT organization_id, local_day, window_start, window_end, billing_events.as_of AS as_of FROM billing_events WHERE kind = 'api_calls'
) AS b ON b.organization_id = t.organization_id AND b.local_day = t.day
WHERE t.touched_at > b.as_of AND b.window_end < now() AND t.hour < b.window_end
    AND t.hour + INTERVAL 1 HOUR > b.window_start - toIntervalDay(if(t.kind = 'api_calls', 0, 7))
GROUP BY day
COMMENT 'Days that were computed before their last events came: they are computed again within minutes.';

DROP VIEW IF EXISTS billing_quantities;
