-- Grain: organization and kind, over the local days whose dates lie in the week. quantity is the sum (device-days,
-- GB-days, calls), latest the quantity of the last day.
SELECT
    organization_id,
    billing_quantities.kind AS kind,
    sum(billing_quantities.quantity) AS quantity,
    argMax(billing_quantities.quantity, local_day) AS latest,
    countIf(billing_quantities.completeness = 1) AS complete_days
FROM billing_quantities
WHERE local_day >= toDate({start:DateTime('UTC')}, 'UTC') AND local_day < toDate({stop:DateTime('UTC')}, 'UTC')
GROUP BY organization_id, kind
ORDER BY organization_id, kind
