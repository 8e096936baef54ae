-- Which of these messages were written in full before, by whatever copy. Grain: one message of one organization, because
-- ids are the senders' own, and another's message of the same id is another message.
-- Served by ORDER BY (queue, message_id, delivery_id): one short range a message.
SELECT DISTINCT organization_id, message_id
FROM message_deliveries
WHERE queue = {queue:String} AND message_id IN {message_ids:Array(UUID)} AND outcome = 'written'
