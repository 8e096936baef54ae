-- PostgreSQL. What was billed for an item's days of a closed month before a later document corrects it. Grain: line.
SELECT i.number, l.line_number, l.kind, l.amount
FROM billing.invoice_lines AS l
JOIN billing.invoices AS i ON i.id = l.invoice_id
WHERE i.agreement_id = %(agreement_id)s AND i.status = 'issued' AND i.id <> %(id)s
    AND (l.item, l.starts_on, l.price_version) = (%(item)s, %(first)s, %(version)s)
    AND (
        (i.number = %(corrects)s AND l.kind <> 'correction')
        OR (l.corrects = %(corrects)s AND l.kind = 'correction' AND (%(issued_at)s::timestamptz IS NULL OR i.issued_at < %(issued_at)s))
    )
ORDER BY i.issued_at, l.line_number
