-- PostgreSQL. Grain: one issued document that credits an invoice, or has a correction of its period.
SELECT DISTINCT i.number
FROM billing.invoices AS i
JOIN billing.invoice_lines AS l ON l.invoice_id = i.id
WHERE i.status = 'issued' AND i.agreement_id = (SELECT agreement_id FROM billing.invoices WHERE id = %(id)s)
    AND (i.credits = %(id)s OR l.corrects = %(number)s) AND i.id <> %(id)s
ORDER BY i.number
