-- PostgreSQL. Grain: one contract in force on at least one local day of [first_day, end_day), with its organization's
-- time zone and the prices of the plan version that it was signed for. A contract ends on the day before ends_on, or
-- before its organization's next contract starts, whichever is first; ends_on here is the outcome, null while open.
-- The window function sees all contracts of the organization, so the period is applied after it.
WITH terms AS (
    SELECT
        id, organization_id, price_plan_id, price_plan_version, starts_on,
        -- an end that never comes is none
        nullif(least(ends_on, lead(starts_on) OVER (PARTITION BY organization_id ORDER BY starts_on)), 'infinity') AS ends_on
    FROM contracts
)
SELECT
    t.id, t.organization_id, o.time_zone, t.starts_on, t.ends_on, t.price_plan_id, t.price_plan_version, p.currency,
    p.base_fee, p.device_month_price, p.storage_gb_month_price, p.backup_gb_month_price,
    p.api_calls_included, p.api_calls_thousand_price
FROM terms AS t
JOIN organizations AS o ON o.id = t.organization_id
JOIN price_plans AS p ON p.id = t.price_plan_id AND p.version = t.price_plan_version
WHERE t.starts_on < %(end_day)s AND (t.ends_on IS NULL OR t.ends_on > %(first_day)s)
ORDER BY t.organization_id, t.starts_on
