-- The senders of one drain that have a bad message, and the loudest ones. Grain: one sender, which is a device, of other
-- agents a host; at most 20 of the broken ones, those with most bad messages first, and 5 of the loudest. A sender is
-- broken where more than `share` of its messages are bad, and more than one is, or more than half are: one bad message
-- of ten is no broken agent yet.
-- Served as ledger_of_run is.
SELECT organization_id, device_id, agent, host, messages, bad, reasons, broken, all_broken
FROM (
    SELECT
        *, bad > {share:Float64} * messages AND (bad > 1 OR bad * 2 > messages) AS broken,
        sum(broken) OVER () AS all_broken,
        row_number() OVER (ORDER BY broken DESC, bad DESC, messages, organization_id, device_id, host) AS badness,
        row_number() OVER (ORDER BY messages DESC, organization_id, device_id, host) AS loudness
    FROM (
        SELECT
            organization_id, device_id, agent, host, count() AS messages,
            countIf(outcome NOT IN ('written', 'not_understood')) AS bad,
            groupUniqArrayArray(5)(message_deliveries.reasons) AS reasons
        FROM message_deliveries FINAL
        WHERE queue = {queue:String} AND run_id = {run_id:String} AND recorded_at >= {since:DateTime64(6, 'UTC')}
            AND outcome != 'dead_lettered'
        GROUP BY organization_id, device_id, agent, host
    )
)
WHERE loudness <= 5 OR (broken AND badness <= 20)
ORDER BY badness
