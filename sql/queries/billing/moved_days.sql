-- ClickHouse. Grain: device, of those that an organization has or had and another one, too, with the local days [first_day, end_day)
-- of one time zone on which it reported, for any organization; counted from 1970-01-01.
SELECT toString(d.device_id) AS device_id, arraySort(groupUniqArray(toUInt16(local_day))) AS days
FROM device_days AS d
WHERE d.device_id IN {devices:Array(UUID)} AND time_zone = {time_zone:String}
    AND local_day >= {first_day:Date} AND local_day < {end_day:Date}
GROUP BY d.device_id
ORDER BY device_id
