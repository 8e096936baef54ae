-- PostgreSQL. Grain: one document of these agreements (null: of all) that is issued or void, credit notes included, without its
-- bytes, which are large. terms_changed_at: when a device's term changed last within its period, or within the month after it,
-- where it charges for that in advance. Ordered by watermark: a later document has corrected what had changed until then.
SELECT
    i.id, i.agreement_id, i.organization_id, a.time_zone, i.kind, i.status, i.period_starts_on, i.watermark, i.fingerprints,
    (
        SELECT max(c.changed_at) FROM billing.changed_terms AS c
        WHERE c.organization_id = i.organization_id AND c.days && tstzrange(
            i.period_start,
            CASE WHEN EXISTS (SELECT FROM billing.invoice_lines AS l WHERE l.invoice_id = i.id AND l.starts_on >= i.period_ends_on)
                THEN i.period_end + interval '32 days' ELSE i.period_end END
        )
    ) AS terms_changed_at
FROM billing.invoices AS i
JOIN billing.agreements AS a ON a.id = i.agreement_id
WHERE i.status <> 'draft' AND (%(agreements)s::uuid[] IS NULL OR i.agreement_id = ANY(%(agreements)s))
ORDER BY i.agreement_id, i.watermark, i.id
