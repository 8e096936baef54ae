-- ClickHouse. Calls with a billed answer on a local day and none on the 7 days before, by id.
SELECT count() AS calls, arraySlice(arraySort(groupArray(message_id)), 1, 10) AS some
FROM (
    SELECT message_id
    FROM api_calls
    WHERE organization_id = %(organization_id)s AND status_code NOT IN %(not_billed)s
        AND timestamp >= toDateTime64(%(retried_since)s, 3, 'UTC') AND timestamp < toDateTime64(%(stop)s, 3, 'UTC')
    GROUP BY message_id
    HAVING min(timestamp) >= toDateTime64(%(start)s, 3, 'UTC')
)
