-- ClickHouse. Devices that reported on any local day of [first, end), of those that an item counts.
SELECT uniqExact(device_id) AS devices
FROM device_days
WHERE organization_id = %(organization_id)s AND time_zone = %(time_zone)s
    AND local_day >= %(first)s AND local_day < %(end)s AND {part}
