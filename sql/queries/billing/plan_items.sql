-- PostgreSQL. Grain: an item of the plan %(plan)s (a plan per currency), as JSON of an agreement's item (docs/schemas/agreement.json)
-- whose `from` is any day: whoever takes it says from when on it holds. Without prices that are not published yet.
SELECT p.currency, jsonb_strip_nulls(jsonb_build_object(
    'product', o.name, 'kind', i.kind, 'description', i.description, 'from', '1970-01-01',
    'quantity', i.quantity::text, 'basis', i.basis, 'included', i.included::text,
    'minimum_quantity', i.minimum_quantity::text, 'minimum_amount', i.minimum_amount::text,
    'proration', i.proration, 'billed', i.billed,
    'not_billed_statuses', o.not_billed_statuses, 'carried_forward_days', o.carried_forward_days,
    'prices', (
        SELECT jsonb_agg(jsonb_build_object(
            'version', v.version, 'from', v.used_from, 'model', v.model, 'amount', v.amount::text, 'size', v.size::text,
            'published_at', v.published_at,
            'tiers', coalesce((
                SELECT jsonb_agg(jsonb_build_object('price', price::text, 'up_to', v.tier_limits[number]::text) ORDER BY number)
                FROM unnest(v.tier_prices) WITH ORDINALITY AS t (price, number)
            ), '[]')
        ) ORDER BY v.version)
        FROM billing.price_versions AS v WHERE v.price_id = i.price_id AND v.published_at <= now()
    )
))::text AS item
FROM billing.plans AS p
LEFT JOIN billing.plan_items AS i ON i.plan_id = p.id
LEFT JOIN billing.products AS o ON o.id = i.product_id
WHERE p.name = %(plan)s
ORDER BY p.currency, o.name
