-- PostgreSQL. Grain: one invoice of the month, its total beside the sum of its lines.
SELECT i.id, i.total, coalesce(sum(l.amount), 0) AS lines
FROM billing.invoices AS i
LEFT JOIN billing.invoice_lines AS l ON l.invoice_id = i.id
WHERE i.period_starts_on = %(month)s
GROUP BY i.id, i.total
