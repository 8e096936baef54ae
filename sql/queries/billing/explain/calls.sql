-- ClickHouse. Billed calls. Grain: local day of [first, end).
SELECT local_day AS day, toInt64(quantity) AS calls
FROM usage_days
WHERE organization_id = %(organization_id)s AND time_zone = %(time_zone)s AND kind = 'api_calls' AND rule = %(rule)s
    AND local_day >= %(first)s AND local_day < %(end)s
ORDER BY local_day
