-- PostgreSQL. Grain: one agreement that holds on at least one local day of [first_day, end_day), as JSON.
SELECT id, organization_id, document::text AS document
FROM billing.agreement_documents
WHERE term && daterange(%(first_day)s, %(end_day)s)
ORDER BY organization_id, id
