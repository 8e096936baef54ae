-- ClickHouse. Grain: organization and device that reported, of these organizations, with its local days of one time zone, and the
-- hours and samples of each. `starts` are the first instants of consecutive local days (at most 31) and, last, the end of them; `first` and `last` are those of the hours that they overlap.
-- A device reported on the day of its first and on that of its last sample of an hour: they differ only where midnight cuts the
-- hour. An hour without these times counts by its start. Midnight is at a quarter of an hour in each time zone there is.
-- device_metrics_hourly is ordered by organization and device: a device's days are counted in one array, in the order of reading,
-- which takes half the time of a group per day.
WITH
    arrayMap(start -> intDiv(toUInt32(start), 900), {starts:Array(DateTime('UTC'))}) AS quarters,
    arrayFlatten(arrayMap((start, end) -> range(start, end), arrayPopBack(quarters), arrayPopFront(quarters))) AS known,
    arrayFlatten(arrayMap(
        (start, end, day) -> arrayWithConstant(end - start, toUInt8(day)),
        arrayPopBack(quarters), arrayPopFront(quarters), arrayEnumerate(arrayPopBack(quarters))
    )) AS numbers
SELECT
    organization_id, device_id, arrayMap(number -> toUInt16({first_day:Date} + (number - 1)), present) AS days,
    arrayMap(number -> toUInt8(hours_of_first[number] + hours_of_other[number]), present) AS hours,
    arrayMap(number -> toUInt32(samples_of_first[number] + samples_of_other[number]), present) AS samples
FROM (
    SELECT
        toString(r.organization_id) AS organization_id, toString(r.device_id) AS device_id,
        countResample(1, 32, 1)(sample_count, first_number) AS hours_of_first,
        countResample(1, 32, 1)(sample_count, other_number) AS hours_of_other,
        sumResample(1, 32, 1)(sample_count, first_number) AS samples_of_first,
        sumResample(1, 32, 1)(sample_count, other_number) AS samples_of_other,
        arrayFilter((number, a, b) -> a + b > 0, arrayEnumerate(hours_of_first), hours_of_first, hours_of_other) AS present
    FROM (
        SELECT
            h.organization_id, h.device_id, h.sample_count,
            transform(intDiv(toUInt32(ifNull(h.first_sample, h.timestamp)), 900), known, numbers, 0) AS first_number,
            if(
                h.timestamp IN {cut_hours:Array(DateTime('UTC'))},
                transform(intDiv(toUInt32(ifNull(h.last_sample, h.timestamp)), 900), known, numbers, 0),
                first_number
            ) AS last_number,
            if(last_number = first_number, 0, last_number) AS other_number
        FROM device_metrics_hourly AS h
        WHERE h.organization_id IN {organizations:Array(UUID)}
            AND h.timestamp >= {first:DateTime('UTC')} AND h.timestamp < {last:DateTime('UTC')}
    ) AS r
    GROUP BY r.organization_id, r.device_id
)
WHERE notEmpty(present)
SETTINGS optimize_aggregation_in_order = 1
