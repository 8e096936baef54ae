-- PostgreSQL. Grain: one agreement, by the columns of a contract: the plan is that of its newest item, the zero id and '' where
-- that has none; the version is the newest of that item's price.
SELECT
    a.id, a.organization_id, coalesce(i.plan_id, '00000000-0000-0000-0000-000000000000') AS price_plan_id,
    coalesce((SELECT max(v.version) FROM billing.price_versions AS v WHERE v.price_id = i.price_id), 0) AS price_plan_version,
    coalesce(p.name, '') AS price_plan_name, a.currency, lower(a.term) AS starts_on, upper(a.term) AS ends_on
FROM billing.agreements AS a
LEFT JOIN LATERAL (
    SELECT plan_id, price_id FROM billing.agreement_items WHERE agreement_id = a.id ORDER BY lower(term) DESC, id LIMIT 1
) AS i ON true
LEFT JOIN billing.plans AS p ON p.id = i.plan_id
