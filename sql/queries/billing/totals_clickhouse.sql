-- ClickHouse. Grain: one document of the month, its totals beside the sum of its lines; also lines that have no document.
-- The month is the first column of both tables' sort keys.
SELECT ifNull(i.id, l.invoice_id) AS id, i.status AS status, i.number AS number, i.net AS net, i.total AS total, l.amount AS lines
FROM (SELECT toNullable(id) AS id, status, number, net, total FROM invoices WHERE period_starts_on = {month:Date}) AS i
FULL JOIN (
    SELECT invoice_id, sum(amount) AS amount FROM invoice_lines WHERE period_starts_on = {month:Date} GROUP BY invoice_id
) AS l ON i.id = l.invoice_id
