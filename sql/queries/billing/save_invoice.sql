-- PostgreSQL. Grain: one draft, inserted, or brought up to date where there is one that nobody has issued since.
INSERT INTO billing.invoices AS i (
    id, organization_id, agreement_id, kind, period_starts_on, period_ends_on, period_start, period_end, status, currency,
    net, tax_total, total, document, days_covered, days_in_period, as_of, watermark, fingerprints
) VALUES (
    %(id)s, %(organization_id)s, %(agreement_id)s, %(kind)s, %(period_starts_on)s, %(period_ends_on)s, %(period_start)s,
    %(period_end)s, 'draft', %(currency)s, %(net)s, %(tax_total)s, %(total)s, %(document)s, %(days_covered)s,
    %(days_in_period)s, %(as_of)s, %(watermark)s, %(fingerprints)s
)
ON CONFLICT (id) DO UPDATE SET
    organization_id = excluded.organization_id, agreement_id = excluded.agreement_id, contract_id = NULL, price_plan_id = NULL,
    price_plan_version = NULL, period_start = excluded.period_start, period_end = excluded.period_end,
    currency = excluded.currency, net = excluded.net, tax_total = excluded.tax_total, total = excluded.total,
    document = excluded.document, days_covered = excluded.days_covered, days_in_period = excluded.days_in_period,
    as_of = excluded.as_of, watermark = excluded.watermark, fingerprints = excluded.fingerprints
WHERE i.status = 'draft'
