-- PostgreSQL. Grain: one document of the month, its totals beside the sum of its lines.
SELECT i.id, i.status, coalesce(i.number, '') AS number, i.net, i.total, coalesce(sum(l.amount), 0) AS lines
FROM billing.invoices AS i
LEFT JOIN billing.invoice_lines AS l ON l.invoice_id = i.id
WHERE i.period_starts_on = %(month)s
GROUP BY i.id
