-- PostgreSQL. Devices whose term holds at the end of any local day of [first, end), of those that an item counts.
SELECT count(DISTINCT t.device_id) AS devices
FROM generate_series(%(first)s::date, %(end)s::date - 1, '1 day') AS d (day)
JOIN billing.device_terms AS t ON t.organization_id = %(organization_id)s AND t.billable
    AND (lower(t.term) AT TIME ZONE %(time_zone)s)::date <= d.day
    AND (upper(t.term) IS NULL OR d.day < (upper(t.term) AT TIME ZONE %(time_zone)s)::date)
    {part}
