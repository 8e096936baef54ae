-- What became of a message since a copy of it was replayed, that copy itself left out. Grain: one copy drained since.
-- Served by ORDER BY (queue, message_id, delivery_id): one short range.
SELECT outcome, points, points_written, run_id, delivery_id
FROM message_deliveries FINAL
WHERE queue = {queue:String} AND message_id = {message_id:UUID} AND delivery_id != {own:String}
    AND recorded_at >= {since:DateTime64(6, 'UTC')}
ORDER BY recorded_at
