-- PostgreSQL. Devices whose term holds at the end of a local day, of those that an item counts. Grain: day of [first, end).
SELECT d.day::date AS day, count(t.device_id) AS devices, (array_agg(t.device_id ORDER BY t.device_id))[1:10] AS some
FROM generate_series(%(first)s::date, %(end)s::date - 1, '1 day') AS d (day)
LEFT JOIN billing.device_terms AS t ON t.organization_id = %(organization_id)s AND t.billable
    AND (lower(t.term) AT TIME ZONE %(time_zone)s)::date <= d.day
    AND (upper(t.term) IS NULL OR d.day < (upper(t.term) AT TIME ZONE %(time_zone)s)::date)
    {part}
GROUP BY d.day
ORDER BY d.day
