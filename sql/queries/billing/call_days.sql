-- ClickHouse. Grain: organization and local day of one time zone with a billed call, of these organizations. `starts` are the
-- first instants of consecutive local days and, last, the end of them, `first_day` the first of them; the first 7 days are read
-- for retries alone. They come as DateTime64 too: compared with a DateTime, the index of a DateTime64 column leaves out the last
-- second (ClickHouse 26.9).
-- An id is billed on a day on which it has a billed answer, unless it has one on any of the 7 days before: of each id a bit for
-- each day says whether it has one. So a day's calls are the same whichever other days are read with it, at most 56 in all,
-- and an id that is sent a million times takes no more memory than another one. Rows stored twice set the same bit: no FINAL.
WITH
    arrayMap(start -> intDiv(toUInt32(start), 900), {starts:Array(DateTime('UTC'))}) AS quarters,
    arrayFlatten(arrayMap((start, end) -> range(start, end), arrayPopBack(quarters), arrayPopFront(quarters))) AS known,
    arrayFlatten(arrayMap(
        (start, end, day) -> arrayWithConstant(end - start, toUInt8(day - 1)),
        arrayPopBack(quarters), arrayPopFront(quarters), arrayEnumerate(arrayPopBack(quarters))
    )) AS numbers
SELECT
    toString(organization_id) AS organization_id, {first_day:Date} + number AS local_day, toInt64(count()) AS calls,
    sum(cityHash64(message_id)) AS inputs_hash
FROM (
    SELECT organization_id, message_id, bitOr(bitShiftLeft(days, 1), bitShiftLeft(days, 2)) AS of_two,
        bitOr(of_two, bitShiftLeft(of_two, 2)) AS of_four, bitOr(of_four, bitShiftLeft(of_four, 3)) AS of_seven,
        arrayJoin(bitPositionsToArray(bitAnd(days, bitNot(of_seven)))) AS number
    FROM (
        SELECT organization_id, message_id, groupBitOr(bitShiftLeft(toUInt64(1), transform(
            intDiv(toUInt32(timestamp), 900), known, numbers, toUInt8(63)
        ))) AS days
        FROM api_calls_versions
        WHERE organization_id IN {organizations:Array(UUID)}
            AND timestamp >= {first64:DateTime64(3, 'UTC')} AND timestamp < {last64:DateTime64(3, 'UTC')}
            AND status_code NOT IN {not_billed:Array(UInt16)}
        GROUP BY organization_id, message_id
    )
)
WHERE number >= 7 AND number < 63
GROUP BY organization_id, number
SETTINGS max_bytes_before_external_group_by = 1000000000
