-- PostgreSQL. Grain: one agreement, with a hash of its whole document: a new price changes the row, too.
SELECT
    a.id, a.organization_id, a.currency, a.time_zone, a.purchase_order, lower(a.term) AS starts_on, upper(a.term) AS ends_on,
    jsonb_array_length(d.document -> 'items') AS items, md5(d.document::text) AS agreed_hash
FROM billing.agreements AS a
JOIN billing.agreement_documents AS d ON d.id = a.id
