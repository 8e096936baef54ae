-- What the ledger has of one drain. Grain: one row.
-- Served by ORDER BY (queue, ...), and by the index of recorded_at, which leaves out all that is older than the run.
SELECT
    count() AS messages,
    sum(points) AS points,
    sum(points_written) AS points_written,
    sum(points_quarantined) AS points_quarantined,
    groupArrayIf(
        delivery_id,
        outcome NOT IN ('written', 'not_understood') AND NOT hasAny(reasons, ['body_not_kept', 'kept_once_a_day'])
    ) AS quarantined_ids
FROM message_deliveries FINAL
WHERE queue = {queue:String} AND run_id = {run_id:String} AND recorded_at >= {since:DateTime64(6, 'UTC')}
