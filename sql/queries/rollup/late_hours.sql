-- Grain: one hour that something arrived for which its roll-up does not have: rolled up before the arrival, or so old
-- that nothing rolls it up for the first time by itself (before `known_since`).
SELECT hour, touched_at FROM late_hours WHERE hour >= {oldest:DateTime('UTC')}
UNION ALL
SELECT hour, max(touched_at) AS touched_at
FROM touched_hours
WHERE hour >= {oldest:DateTime('UTC')} AND hour < {known_since:DateTime('UTC')}
    AND hour NOT IN (SELECT hour FROM rolled_up_hours)
GROUP BY hour
