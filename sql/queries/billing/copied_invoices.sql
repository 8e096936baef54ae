-- PostgreSQL. Grain: one document of the month, as ClickHouse has it: what is null there by another name has its default.
SELECT
    id, organization_id, coalesce(contract_id, agreement_id) AS contract_id, agreement_id,
    coalesce(price_plan_id, '00000000-0000-0000-0000-000000000000') AS price_plan_id,
    coalesce(price_plan_version, 0) AS price_plan_version, period_starts_on, period_ends_on, period_start, period_end, status,
    kind, coalesce(number, '') AS number, issued_at, due_on, currency, net, tax_total, total, days_covered, days_in_period,
    coalesce(sha256, '') AS sha256, credits
FROM billing.invoices
WHERE period_starts_on = %(month)s
ORDER BY organization_id, agreement_id, id
