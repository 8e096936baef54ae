-- ClickHouse. Grain: organization, device and local day of one time zone, of these organizations. `starts` are the first instants
-- of consecutive local days and, last, the end of them; `first` and `last` are those of the hours that they overlap.
-- A device reported on the day of its first and on that of its last sample of an hour: they differ only where midnight cuts
-- the hour. An hour without these times counts by its start. Midnight is at a quarter of an hour in each time zone there is.
-- device_metrics_hourly is ordered by organization and device: the groups are made in order, whatever the fleet's size.
WITH
    arrayMap(start -> intDiv(toUInt32(start), 900), {starts:Array(DateTime('UTC'))}) AS quarters,
    arrayFlatten(arrayMap((start, end) -> range(start, end), arrayPopBack(quarters), arrayPopFront(quarters))) AS known,
    arrayFlatten(arrayMap(
        (start, end, day) -> arrayWithConstant(end - start, toUInt16({first_day:Date}) + day - 1),
        arrayPopBack(quarters), arrayPopFront(quarters), arrayEnumerate(arrayPopBack(quarters))
    )) AS days,
    hours AS (
        SELECT
            organization_id, device_id, timestamp, sample_count,
            transform(intDiv(toUInt32(ifNull(first_sample, timestamp)), 900), known, days, 0) AS day,
            transform(intDiv(toUInt32(ifNull(last_sample, timestamp)), 900), known, days, 0) AS last_day
        FROM device_metrics_hourly
        WHERE organization_id IN {organizations:Array(UUID)}
            AND timestamp >= {first:DateTime('UTC')} AND timestamp < {last:DateTime('UTC')}
    )
SELECT
    toString(organization_id) AS organization_id, toString(device_id) AS device_id, toDate(day) AS local_day,
    toUInt8(count()) AS hours, toUInt32(sum(sample_count)) AS samples
FROM (
    SELECT organization_id, device_id, day, sample_count FROM hours WHERE day > 0
    UNION ALL
    SELECT h.organization_id, h.device_id, h.last_day AS day, h.sample_count FROM hours AS h
    WHERE h.timestamp IN {cut_hours:Array(DateTime('UTC'))} AND h.last_day > 0 AND h.last_day != h.day
) AS reported
GROUP BY organization_id, device_id, day
