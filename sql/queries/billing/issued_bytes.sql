-- PostgreSQL. Grain: one issued document of these agreements, and the agreement that it was drawn up from; null of a credit note.
SELECT id, agreement_id, number, document, agreement FROM billing.invoices
WHERE status = 'issued' AND agreement_id = ANY(%(agreements)s)
ORDER BY agreement_id, period_starts_on, id
