-- PostgreSQL. Grain: one invoice, inserted, or brought up to date where the contract's month has one already.
INSERT INTO billing.invoices (
    id, organization_id, contract_id, price_plan_id, price_plan_version, period_starts_on, period_ends_on,
    period_start, period_end, status, currency, total, days_covered, days_in_period, as_of
) VALUES (
    %(id)s, %(organization_id)s, %(contract_id)s, %(price_plan_id)s, %(price_plan_version)s, %(period_starts_on)s,
    %(period_ends_on)s, %(period_start)s, %(period_end)s, %(status)s, %(currency)s, %(total)s, %(days_covered)s,
    %(days_in_period)s, %(as_of)s
)
ON CONFLICT (id) DO UPDATE SET
    price_plan_id = excluded.price_plan_id, price_plan_version = excluded.price_plan_version,
    period_start = excluded.period_start, period_end = excluded.period_end, status = excluded.status,
    currency = excluded.currency, total = excluded.total, days_covered = excluded.days_covered,
    days_in_period = excluded.days_in_period, as_of = excluded.as_of
