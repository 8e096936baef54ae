-- Grain: organization and kind, over the local days whose dates lie in the week. quantity is the sum (device-days, GB-days,
-- calls), latest the quantity of the last day. Items of one kind add up for devices alone, as in billing_events: everything
-- else is the organization's, whichever of its agreements counts it.
SELECT
    organization_id, kind, sum(of_day) AS quantity, argMax(of_day, local_day) AS latest, countIf(complete) AS complete_days
FROM (
    SELECT
        organization_id, local_day, billing_quantities.kind AS kind,
        toDecimal128(
            if(kind = 'devices', sum(billing_quantities.quantity), toDecimal128(max(billing_quantities.quantity), 9)), 6
        ) AS of_day,
        min(billing_quantities.completeness) = 1 AS complete
    FROM billing_quantities
    WHERE local_day >= toDate({start:DateTime('UTC')}, 'UTC') AND local_day < toDate({stop:DateTime('UTC')}, 'UTC')
        AND billing_quantities.kind IN ('devices', 'storage', 'backup', 'api_calls')
    GROUP BY organization_id, local_day, kind
)
GROUP BY organization_id, kind
ORDER BY organization_id, kind
