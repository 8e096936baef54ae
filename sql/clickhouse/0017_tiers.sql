-- Each tier's own watermark: points that came between two steps of one roll-up were in neither tier, and nobody knew.

-- migrate: up
-- ORDER BY: asked by hour and tier; the version last, so that two runs of one hour have a row each. PARTITION BY: few rows.
CREATE TABLE rolled_up_tiers (
    hour DateTime('UTC') COMMENT 'The hour, UTC',
    tier LowCardinality(String) COMMENT 'The tier that was filled: metrics_5m or metrics_1h',
    as_of DateTime64(6, 'UTC') COMMENT 'Taken before the run read the tier above: points of a later touch may be missing',
    done_at DateTime64(6, 'UTC') COMMENT 'When it had written all; 1970 while it runs, and for good where it died'
)
ENGINE = ReplacingMergeTree(done_at)
PARTITION BY toYear(hour)
ORDER BY (hour, tier, as_of)
TTL hour + INTERVAL 731 DAY DELETE
COMMENT 'Runs that filled a tier. Grain: hour, tier and run. Read with FINAL.';

-- Hours that were rolled up before there were watermarks of tiers: nobody knows of what moment their tiers are. Those that
-- full resolution still has are late until they have been rolled up once more, which happens by itself.
INSERT INTO rolled_up_tiers
SELECT DISTINCT hour, tier, toDateTime64('1970-01-01 00:00:01', 6, 'UTC') AS as_of, as_of AS done_at
FROM rolled_up_hours
ARRAY JOIN ['metrics_5m', 'metrics_1h'] AS tier
WHERE hour > now() - INTERVAL 8 DAY;

CREATE VIEW tier_watermarks (
    hour DateTime('UTC') COMMENT 'The hour, UTC',
    tier LowCardinality(String) COMMENT 'metrics_5m or metrics_1h',
    as_of DateTime64(6, 'UTC') COMMENT 'The tier has all points that were touched before; 1970 where runs disturbed each other',
    done_at DateTime64(6, 'UTC') COMMENT 'When it was last written to'
)
AS SELECT
    hour, tier,
    -- The newest run that ended counts, unless an older one may have written over it: it ended, or died within a quarter
    -- of an hour, after the newest began to read.
    if(arrayExists(r -> r.1 < newest AND (r.2 > newest OR (r.2 = never AND r.1 > newest - INTERVAL 15 MINUTE)), runs), never, newest) AS as_of,
    arrayMax(r -> r.2, runs) AS done_at
FROM (
    SELECT
        hour, tier, toDateTime64(0, 6, 'UTC') AS never, groupArray((rolled_up_tiers.as_of, rolled_up_tiers.done_at)) AS runs,
        arrayMax(r -> if(r.2 = never, never, r.1), runs) AS newest
    FROM rolled_up_tiers FINAL
    GROUP BY hour, tier
) AS ended -- ClickHouse 25.8 would take COMMENT for the name
COMMENT 'What each tier is sure to have. Grain: hour and tier.';

CREATE OR REPLACE VIEW late_hours (
    hour DateTime('UTC') COMMENT 'The hour, UTC',
    organizations UInt64 COMMENT 'Organizations that it was touched for since',
    points UInt64 COMMENT 'Points that arrived since',
    touched_at DateTime64(6, 'UTC') COMMENT 'The last touch',
    as_of DateTime64(6, 'UTC') COMMENT 'The watermark that is too old: of the roll-up, or of the tier that is furthest behind'
)
AS SELECT touched.hour, uniqExact(organization_id) AS organizations, sum(touched.points) AS points,
    max(touched.touched_at) AS touched_at, any(rolled.as_of) AS as_of
FROM touched_hours AS touched
INNER JOIN (
    -- A tier is no newer than the one that it was made from: written to since, it has to be made again.
    SELECT
        h.hour AS hour, toDateTime64(0, 6, 'UTC') AS never,
        if(h.as_of < multiIf(source_tier = 'metrics_5m', five_done, source_tier = 'metrics_1h', one_done, never), never, h.as_of) AS hourly,
        if(one < five_done, never, one) AS one_hour,
        least(hourly, if(has_five > 0, five, hourly), if(has_one > 0, one_hour, hourly)) AS as_of
    FROM (SELECT hour, rolled_up_hours.as_of AS as_of, source_tier FROM rolled_up_hours FINAL) AS h
    LEFT JOIN (
        SELECT
            hour, countIf(tier = 'metrics_5m') AS has_five, countIf(tier = 'metrics_1h') AS has_one,
            anyIf(tier_watermarks.as_of, tier = 'metrics_5m') AS five, anyIf(tier_watermarks.as_of, tier = 'metrics_1h') AS one,
            anyIf(done_at, tier = 'metrics_5m') AS five_done, anyIf(done_at, tier = 'metrics_1h') AS one_done
        FROM tier_watermarks
        GROUP BY hour
    ) AS t ON t.hour = h.hour
) AS rolled ON rolled.hour = touched.hour
WHERE touched.touched_at > rolled.as_of
GROUP BY touched.hour
COMMENT 'Hours of which ClickHouse or a tier was made before their last points came: they repair themselves within minutes.';

-- migrate: down
CREATE OR REPLACE VIEW late_hours (
    hour DateTime('UTC') COMMENT 'The hour, UTC',
    organizations UInt64 COMMENT 'Organizations that it was touched for since',
    points UInt64 COMMENT 'Points that arrived since',
    touched_at DateTime64(6, 'UTC') COMMENT 'The last touch',
    as_of DateTime64(6, 'UTC') COMMENT 'The roll-up that is too old'
)
AS SELECT touched.hour, uniqExact(organization_id) AS organizations, sum(touched.points) AS points,
    max(touched.touched_at) AS touched_at, any(rolled.as_of) AS as_of
FROM touched_hours AS touched
INNER JOIN (SELECT hour, as_of FROM rolled_up_hours FINAL) AS rolled ON rolled.hour = touched.hour
WHERE touched.touched_at > rolled.as_of
GROUP BY touched.hour
COMMENT 'Hours that were rolled up before their last points came: they repair themselves within minutes.';

DROP VIEW IF EXISTS tier_watermarks;

DROP TABLE IF EXISTS rolled_up_tiers;
