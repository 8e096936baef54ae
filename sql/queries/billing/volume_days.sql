-- ClickHouse. Grain: organization and local day of one time zone, of these organizations, for which a report is known. `starts`
-- are the first instants of consecutive local days and, last, the end of them; first64 and last64 enclose the reports that count.
-- A report holds until the organization's next one, at most `carried` milliseconds; of two of one instant the larger counts.
-- All arithmetic is exact: milliseconds are integers, GB decimals. Rows stored twice are one instant: no FINAL.
WITH
    arrayMap(start -> toInt64(toUInt32(start)) * 1000, {starts:Array(DateTime('UTC'))}) AS bounds,
    reports AS (
        SELECT
            organization_id, toUnixTimestamp64Milli(u.timestamp) AS at, max(u.storage_gb) AS storage, max(u.backup_gb) AS backup
        FROM usage_reports_versions AS u
        WHERE u.organization_id IN {organizations:Array(UUID)}
            AND u.timestamp >= {first64:DateTime64(3, 'UTC')} AND u.timestamp < {last64:DateTime64(3, 'UTC')}
        GROUP BY organization_id, at
    ),
    spans AS (
        SELECT
            organization_id, storage, backup, at,
            least(
                at + {carried:Int64},
                leadInFrame(at, 1, bounds[-1]) OVER (
                    PARTITION BY organization_id ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
                )
            ) AS until
        FROM reports
    ),
    parts AS (
        SELECT
            organization_id, storage, backup, at, until,
            arrayJoin(arrayFilter(
                (number, start, end) -> at < end AND start < until,
                arrayEnumerate(arrayPopBack(bounds)), arrayPopBack(bounds), arrayPopFront(bounds)
            )) AS number,
            least(until, bounds[number + 1]) - greatest(at, bounds[number]) AS milliseconds
        FROM spans
        WHERE until > bounds[1]
    )
SELECT
    toString(organization_id) AS organization_id, {first_day:Date} + (number - 1) AS local_day,
    sum(toDecimal128(parts.storage, 6) * milliseconds) AS storage, sum(toDecimal128(parts.backup, 6) * milliseconds) AS backup,
    toUInt32(sum(milliseconds)) AS known_milliseconds,
    sum(cityHash64(at, parts.storage)) AS storage_hash, sum(cityHash64(at, parts.backup)) AS backup_hash
FROM parts
GROUP BY organization_id, number
