-- ClickHouse. Grain: finding and currency of the month.
SELECT finding, currency, count() AS findings, uniqExact(device_id) AS devices, sum(r.days) AS days, sum(r.amount) AS amount
FROM billing_reconciliation AS r
WHERE month = {month:Date}
GROUP BY finding, currency
ORDER BY finding, currency
