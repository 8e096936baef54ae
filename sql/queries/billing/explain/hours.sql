-- ClickHouse. The same hours in the roll-up: of an hour that midnight cuts, the first or the last sample is of the day.
SELECT count() AS hours, sum(sample_count) AS samples
FROM device_metrics_hourly
WHERE organization_id = %(organization_id)s AND device_id = %(device_id)s
    AND timestamp > toDateTime(%(start)s, 'UTC') - 3600 AND timestamp < toDateTime(%(stop)s, 'UTC')
    AND %(day)s IN (
        toString(toDate(ifNull(first_sample, timestamp), %(time_zone)s)),
        toString(toDate(ifNull(last_sample, timestamp), %(time_zone)s))
    )
