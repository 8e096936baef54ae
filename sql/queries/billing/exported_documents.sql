-- PostgreSQL. Grain: the invoice of an agreement and the month %(period)s, a draft or issued; of %(organization_id)s, or of all.
-- Ordered, so that the same documents give the same file. Drafts of 0.4.0 have no document.
SELECT i.document, i.agreement, d.document::text AS agreement_now, o.name AS organization
FROM billing.invoices AS i
JOIN organizations AS o ON o.id = i.organization_id
LEFT JOIN billing.agreement_documents AS d ON d.id = i.agreement_id
WHERE i.period_starts_on = %(period)s AND i.kind = 'invoice' AND i.status IN ('draft', 'issued') AND i.document IS NOT NULL
    AND (%(organization_id)s::uuid IS NULL OR i.organization_id = %(organization_id)s)
ORDER BY i.organization_id, i.agreement_id
