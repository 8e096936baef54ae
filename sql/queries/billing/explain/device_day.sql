-- ClickHouse. Hours of a local day in which a device sent samples, as they were measured.
SELECT sum(hours) AS hours, sum(samples) AS samples
FROM device_days
WHERE organization_id = %(organization_id)s AND time_zone = %(time_zone)s
    AND device_id = %(device_id)s AND local_day = %(day)s
