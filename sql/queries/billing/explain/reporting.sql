-- ClickHouse. Devices that reported on a local day, of those that an item counts. Grain: day of [first, end) with one.
SELECT local_day AS day, count() AS devices, arraySlice(arraySort(groupArray(device_id)), 1, 10) AS some
FROM device_days
WHERE organization_id = %(organization_id)s AND time_zone = %(time_zone)s
    AND local_day >= %(first)s AND local_day < %(end)s AND {part}
GROUP BY local_day
ORDER BY local_day
