-- PostgreSQL. Grain: the documents of a number or id (several sellers may have a number), and what they were drawn up from.
SELECT id, status, number, agreement_id, issued_at, sha256, document, agreement, usage
FROM billing.invoices
WHERE (number = %(name)s OR id::text = %(name)s) AND document IS NOT NULL
