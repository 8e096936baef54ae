-- ClickHouse. Grain: one week (its Monday) that is over, and of which API calls came after its reports were computed. All else
-- in a report comes from marts, which the reports follow. Both tables are small.
SELECT c.day AS day
FROM (
    SELECT toMonday(hour) AS day, max(touched_events.touched_at) AS touched_at
    FROM touched_events WHERE kind = 'api_calls'
    GROUP BY day
) AS t
INNER JOIN (
    SELECT day, computed_days.as_of AS as_of FROM computed_days FINAL WHERE asset = 'weekly_reports'
) AS c ON c.day = t.day
WHERE t.touched_at > c.as_of AND c.day + 7 <= {today:Date}
ORDER BY day
