-- ClickHouse. Grain: organization and device that reported on any of the local days [first_day, end_day) of one time zone; `days`
-- are those on which it did, in order, counted from 1970-01-01. device_days is ordered by organization, zone and device.
SELECT
    toString(d.organization_id) AS organization_id, toString(d.device_id) AS device_id,
    arraySort(groupArray(toUInt16(local_day))) AS days
FROM device_days AS d
WHERE d.organization_id IN {organizations:Array(UUID)} AND time_zone = {time_zone:String}
    AND local_day >= {first_day:Date} AND local_day < {end_day:Date}
GROUP BY d.organization_id, d.device_id
ORDER BY organization_id, device_id
