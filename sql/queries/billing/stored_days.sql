-- ClickHouse. Grain: as usage_days, of these organizations and the local days [first_day, end_day) of one time zone.
-- usage_days is ordered by organization, zone and day.
SELECT
    toString(u.organization_id) AS organization_id, local_day, kind, rule, quantity, gb_milliseconds, known_milliseconds,
    day_milliseconds
FROM usage_days AS u
WHERE u.organization_id IN {organizations:Array(UUID)} AND time_zone = {time_zone:String}
    AND local_day >= {first_day:Date} AND local_day < {end_day:Date}
ORDER BY organization_id, local_day, kind, rule
