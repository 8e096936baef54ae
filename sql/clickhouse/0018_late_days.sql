-- Lateness of days: whoever writes events notes which hours it touched, and days that were computed before follow.

-- migrate: up
-- ORDER BY: asked by kind and hour, whether anything came after a day was computed. PARTITION BY: by month, for the TTL.
CREATE TABLE touched_events (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    kind LowCardinality(String) COMMENT 'api_calls, usage_reports or ticket_history',
    hour DateTime('UTC') COMMENT 'The hour in which the events happened, UTC; of ticket_history the first one of the day',
    events UInt32 COMMENT 'How many came for it',
    run_id String COMMENT 'The Dagster run that brought or found them',
    touched_at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'After they were written to their store'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (kind, hour, organization_id)
TTL hour + INTERVAL 731 DAY DELETE
COMMENT 'Which hours events came for, and when. Grain: one batch, kind, organization and hour. Append only.';

-- ORDER BY: one row a mart and day, looked up by it. PARTITION BY: few rows.
CREATE TABLE computed_days (
    asset LowCardinality(String) COMMENT 'The mart',
    day Date COMMENT 'The day, UTC',
    as_of DateTime64(6, 'UTC') COMMENT 'Taken before its sources were read: what came later may be missing from it'
)
ENGINE = ReplacingMergeTree(as_of)
PARTITION BY toYear(day)
ORDER BY (asset, day)
COMMENT 'When each day of the service desk''s marts was last computed. Grain: mart and day. Read with FINAL.';

-- Days that were computed by earlier versions: of what moment they are is unknown, so whatever is found missing is late.
INSERT INTO computed_days
SELECT asset, today() - number AS day, toDateTime64('1970-01-01 00:00:01', 6, 'UTC') AS as_of
FROM numbers(1, 400)
ARRAY JOIN ['ticket_events', 'ticket_facts'] AS asset
WHERE (SELECT count() FROM ticket_events_versions) > 0;

CREATE VIEW late_days (
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

-- migrate: down
DROP VIEW IF EXISTS late_days;
DROP TABLE IF EXISTS computed_days;
DROP TABLE IF EXISTS touched_events;
