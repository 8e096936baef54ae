-- PostgreSQL. Grain: one contract, with the name and currency of the plan version that it was signed for.
SELECT
    c.id, c.organization_id, c.price_plan_id, c.price_plan_version,
    p.name AS price_plan_name, p.currency, c.starts_on, c.ends_on
FROM contracts AS c
JOIN price_plans AS p ON p.id = c.price_plan_id AND p.version = c.price_plan_version
