-- PostgreSQL. Grain: agreement with an invoice of the month, issued or draft: its total. Drafts of 0.4.0 may be several.
SELECT agreement_id, sum(total) AS total
FROM billing.invoices
WHERE period_starts_on = %(month)s AND status <> 'void' AND kind = 'invoice'
GROUP BY agreement_id
