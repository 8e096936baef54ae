-- ClickHouse. GB of a local day: each report holds until the next one, at most for the days that it is carried forward.
SELECT
    round(sum(toDecimal256(gb, 15) * (least(until, stop) - greatest(at, start))) / greatest(any(stop) - any(start), 1), 9) AS gb,
    count() AS reports
FROM (
    SELECT
        gb, at, toUnixTimestamp64Milli(toDateTime64(%(start)s, 3, 'UTC')) AS start,
        toUnixTimestamp64Milli(toDateTime64(%(stop)s, 3, 'UTC')) AS stop,
        least(at + %(carried_days)s * 86400000, leadInFrame(at, 1, stop) OVER (ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)) AS until
    FROM (
        SELECT toUnixTimestamp64Milli(timestamp) AS at, max({part}) AS gb
        FROM usage_reports
        WHERE organization_id = %(organization_id)s AND timestamp < toDateTime64(%(stop)s, 3, 'UTC')
            AND timestamp >= toDateTime64(%(start)s, 3, 'UTC') - toIntervalDay(%(carried_days)s)
        GROUP BY at
    )
)
WHERE until > start
