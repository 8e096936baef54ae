-- Which of these messages were written in full before, by whatever copy. Grain: one message.
-- Served by ORDER BY (queue, message_id, delivery_id): one short range a message.
SELECT DISTINCT message_id
FROM message_deliveries
WHERE queue = {queue:String} AND message_id IN {message_ids:Array(UUID)} AND outcome = 'written'
