-- The detail of a day is that of agreements: by item, with its own unit, basis, completeness and hash of inputs. Days that 0.4.0
-- computed keep their rows, by kind: those of the last 62 days are computed again within minutes, older ones stay as they are.
-- ORDER BY gets what is new at its end, so that no row is written again.

-- migrate: up
ALTER TABLE billing_quantities_versions
    ADD COLUMN IF NOT EXISTS agreement_id UUID COMMENT 'The agreement; zero in days computed before 0.5.0',
    ADD COLUMN IF NOT EXISTS item String COMMENT 'The item of the agreement; empty in days computed before 0.5.0',
    MODIFY ORDER BY (organization_id, local_day, kind, agreement_id, item);

ALTER TABLE billing_quantities_versions
    ADD COLUMN IF NOT EXISTS product LowCardinality(String) COMMENT 'The product; empty in days computed before 0.5.0' AFTER kind,
    ADD COLUMN IF NOT EXISTS basis LowCardinality(String) COMMENT 'How devices and volumes are counted: registered, reporting, last_day, peak or average; empty for everything else, and in days computed before 0.5.0' AFTER unit,
    ADD COLUMN IF NOT EXISTS time_zone LowCardinality(String) COMMENT 'The agreement''s time zone, whose local day it is; empty in days computed before 0.5.0' AFTER currency,
    ADD COLUMN IF NOT EXISTS price_version UInt32 COMMENT 'The version of the price in use on the day; 0 in days computed before 0.5.0' AFTER time_zone,
    ADD COLUMN IF NOT EXISTS inputs_hash UInt64 COMMENT 'Of what the quantity was computed from: another one where any of it changed; 0 in days computed before 0.5.0' AFTER completeness,
    ADD COLUMN IF NOT EXISTS frozen Bool COMMENT 'Whether the source of the quantity had begun to expire: then it stays what it was before' AFTER inputs_hash,
    MODIFY COLUMN contract_id UUID DEFAULT toUUID('00000000-0000-0000-0000-000000000000') COMMENT 'In days computed before 0.5.0: the contract in force on the day; else zero',
    MODIFY COLUMN price_plan_id UUID DEFAULT toUUID('00000000-0000-0000-0000-000000000000') COMMENT 'In days computed before 0.5.0: its price plan; else zero',
    MODIFY COLUMN price_plan_version UInt32 DEFAULT 0 COMMENT 'In days computed before 0.5.0: its version of the plan; else 0',
    MODIFY COLUMN base_fee Nullable(Decimal(38, 24)) DEFAULT NULL COMMENT 'In days computed by 0.4.0: the day''s share of the contract''s base fee, once a day, on each of its kinds; else null: a fee is an item',
    MODIFY COLUMN quantity Decimal(38, 9) COMMENT 'devices: devices by the basis; storage, backup: GB, weighted by time; api_calls: billed calls; flat, one_off: units. Before 0.5.0: devices with a sample, GB at the last report of the day or the 7 days before, all calls',
    COMMENT COLUMN kind 'devices, storage, backup, api_calls, flat or one_off',
    COMMENT COLUMN unit 'device-days, GB, calls, months or units',
    COMMENT COLUMN cost 'What the quantity costs on the day, taken alone and not rounded: the day''s share of a month at the price in use, less the discount; included units, minimums and tiers of calls by the day, too. Null in days computed before 0.4.0, and where the amount is too large',
    COMMENT COLUMN completeness 'devices: registered 1, reporting the share of the day''s hours that have been rolled up; api_calls: that share, too; storage, backup: share of the day that reports cover; flat, one_off: 1. Before 0.5.0 the share of hours for all',
    MODIFY COMMENT 'Billable quantities. Grain: agreement, local day and item; before 0.5.0 organization, local day and kind. Versions: by local_day.';

-- The shares of a month's days add up to exactly 1: the day's 18 places are the difference between two days' cumulated ones.
CREATE OR REPLACE VIEW billing_events (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    event_date Date COMMENT 'The day in the time zone of each of its agreements: agreements in several zones have the day of this date in the same row',
    device_count Decimal(38, 24) COMMENT 'The day''s share of a month: devices / days of the month, so that the sum over a month''s days is what a monthly price multiplies. The plain number is devices',
    api_calls UInt64 COMMENT 'Billed calls of the day. Agreements with several rules: by the rule that bills most',
    storage_gb Decimal(38, 24) COMMENT 'The day''s share of a month: GB / days of the month, as device_count. The plain number is storage_gb_stored',
    backup_gb Decimal(38, 24) COMMENT 'The day''s share of a month: GB / days of the month, as device_count. The plain number is backup_gb_stored',
    cost_usd Nullable(Decimal(38, 24)) COMMENT 'cost, where its currency is USD; null where any of it is in another one: no rate is known',
    devices UInt32 COMMENT 'Devices by the basis of each item, over all items: a device that two items count is there twice',
    storage_gb_stored Decimal(38, 6) COMMENT 'GB (10^9 bytes) in use, weighted by time; in days computed before 0.5.0 at the last report of the day or the 7 days before',
    backup_gb_stored Decimal(38, 6) COMMENT 'GB (10^9 bytes) of backups, likewise',
    cost Nullable(Decimal(38, 24)) COMMENT 'What the day costs by all agreements, not rounded: a month''s sum is the total of its documents before tax, but for the cents of lines, and for included units, minimums and tiers of calls, which count by the day here and by the month there. Null where they are in several currencies, in days computed before 0.4.0, and where an amount is too large',
    currency LowCardinality(String) COMMENT 'ISO 4217 code of cost; empty where agreements have several, and in days computed before 0.4.0',
    agreements UInt64 COMMENT 'Agreements that are in the row; 1 in days computed before 0.5.0',
    window_start DateTime('UTC') COMMENT 'Start of the local day, UTC; with several time zones the earliest',
    window_end DateTime('UTC') COMMENT 'End of the local day, UTC, exclusive; with several time zones the latest',
    completeness Float64 COMMENT 'The lowest of its products; billing_quantities has each',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT
    organization_id, local_day AS event_date, devices * share AS device_count, api_calls, storage_gb_stored * share AS storage_gb,
    backup_gb_stored * share AS backup_gb, if(currency = 'USD', cost, NULL) AS cost_usd, toUInt32(devices) AS devices,
    storage_gb_stored, backup_gb_stored, cost, currency, agreements, window_start, window_end, completeness, as_of
FROM (
    SELECT
        organization_id, local_day,
        toDecimal128(
            intDiv(toInt128(toDayOfMonth(local_day)) * 1000000000000000000, toDayOfMonth(toLastDayOfMonth(local_day)))
            - intDiv(toInt128(toDayOfMonth(local_day) - 1) * 1000000000000000000, toDayOfMonth(toLastDayOfMonth(local_day))), 0
        ) * toDecimal128('0.000000000000000001', 18) AS share,
        toDecimal128(sumIf(quantity, kind = 'devices'), 6) AS devices,
        toUInt64(maxIf(quantity, kind = 'api_calls')) AS api_calls,
        toDecimal128(maxIf(quantity, kind = 'storage'), 6) AS storage_gb_stored,
        toDecimal128(maxIf(quantity, kind = 'backup'), 6) AS backup_gb_stored,
        uniqExact(q.currency) AS currencies,
        if(countIf(q.cost IS NULL) > 0 OR currencies > 1, NULL, sum(q.cost) + ifNull(any(q.base_fee), 0)) AS cost,
        if(currencies > 1, '', any(q.currency)) AS currency,
        uniqExact(q.agreement_id) AS agreements, min(q.window_start) AS window_start, max(q.window_end) AS window_end,
        min(q.completeness) AS completeness, max(q.as_of) AS as_of
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
-- A call moves its id's later calls of the 7 days after it, and a report holds on for as many days as are agreed: these follow,
-- too. A day that is not over is none of these: it is computed again with each hour. Nor is what came within its own hour: that
-- hour brings it along.
SELECT 'billing_events' AS asset, t.day AS day, uniqExact(t.organization_id) AS organizations, max(t.touched_at) AS touched_at, any(b.as_of) AS as_of
FROM (
    SELECT
        e.organization_id AS organization_id, e.hour AS hour, e.touched_at AS touched_at,
        if(e.kind = 'api_calls', 7, greatest(7, r.carried)) AS reach, toDate(e.hour) + arrayJoin(range(0, reach + 3)) - 1 AS day
    FROM (
        SELECT organization_id, kind, hour, max(touched_events.touched_at) AS touched_at
        FROM touched_events
        WHERE kind IN ('api_calls', 'usage_reports') AND touched_events.touched_at > hour + INTERVAL 1 HOUR
        GROUP BY organization_id, kind, hour
    ) AS e
    LEFT JOIN (
        SELECT organization_id, max(toUInt32OrZero(toString(rule))) AS carried
        FROM usage_days WHERE kind IN ('storage', 'backup') GROUP BY organization_id
    ) AS r ON r.organization_id = e.organization_id
) AS t
INNER JOIN (
    SELECT DISTINCT organization_id, local_day, window_start, window_end, billing_quantities.as_of AS as_of FROM billing_quantities
) AS b ON b.organization_id = t.organization_id AND b.local_day = t.day
WHERE t.touched_at > b.as_of AND b.window_end < now() AND t.hour < b.window_end
    AND t.hour + INTERVAL 1 HOUR > b.window_start - toIntervalDay(t.reach)
GROUP BY day
UNION ALL
-- Days computed before 0.5.0 have no detail by agreement. Older ones than these are a person's decision, as after a correction.
SELECT 'billing_events' AS asset, local_day AS day, uniqExact(q.organization_id) AS organizations, max(q.as_of) AS touched_at, min(q.as_of) AS as_of
FROM billing_quantities AS q
WHERE q.item = '' AND q.local_day >= today() - 62 AND q.window_end < now()
GROUP BY day
COMMENT 'Days that were computed before their last events came: they are computed again within minutes.';

-- migrate: down
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

-- Wherever `up` was stopped, what the statements below take away is there.
ALTER TABLE billing_quantities_versions
    ADD COLUMN IF NOT EXISTS item String,
    MODIFY COLUMN contract_id UUID DEFAULT toUUID('00000000-0000-0000-0000-000000000000'),
    MODIFY COLUMN price_plan_id UUID DEFAULT toUUID('00000000-0000-0000-0000-000000000000'),
    MODIFY COLUMN price_plan_version UInt32 DEFAULT 0,
    MODIFY COLUMN base_fee Nullable(Decimal(38, 24)) DEFAULT NULL;

-- Days that were computed by agreement have no contract, and are not what 0.4.0 reads: it computes them again.
DELETE FROM billing_quantities_versions WHERE item != '';

ALTER TABLE billing_quantities_versions MODIFY ORDER BY (organization_id, local_day, kind);

ALTER TABLE billing_quantities_versions
    DROP COLUMN IF EXISTS agreement_id, DROP COLUMN IF EXISTS item, DROP COLUMN IF EXISTS product, DROP COLUMN IF EXISTS basis,
    DROP COLUMN IF EXISTS time_zone, DROP COLUMN IF EXISTS price_version, DROP COLUMN IF EXISTS inputs_hash,
    DROP COLUMN IF EXISTS frozen,
    MODIFY COLUMN quantity Decimal(20, 6);

ALTER TABLE billing_quantities_versions
    MODIFY COLUMN contract_id REMOVE DEFAULT, MODIFY COLUMN price_plan_id REMOVE DEFAULT,
    MODIFY COLUMN price_plan_version REMOVE DEFAULT, MODIFY COLUMN base_fee REMOVE DEFAULT;

ALTER TABLE billing_quantities_versions
    COMMENT COLUMN kind 'devices, storage, backup or api_calls',
    COMMENT COLUMN quantity 'devices: devices with a sample on the day; storage, backup: GB at the last report of the day or the 7 days before; api_calls: calls',
    COMMENT COLUMN unit 'device-days, GB or calls',
    COMMENT COLUMN cost 'What the quantity costs on the day: the price of the plan for a month times the day''s share of the month; of calls, those beyond the day''s share of what is included. Null in days computed before 0.4.0, and where the plan''s prices give no amount',
    COMMENT COLUMN base_fee 'The day''s share of the contract''s base fee: once a day, on each of its kinds; null likewise',
    COMMENT COLUMN completeness 'Share of the day''s hours that had been rolled up',
    COMMENT COLUMN contract_id 'The contract in force on the day',
    COMMENT COLUMN price_plan_id 'Its price plan',
    COMMENT COLUMN price_plan_version 'Its version of the plan',
    MODIFY COMMENT 'Billable quantities. Grain: organization, local day and kind. Versions: by local_day.';
