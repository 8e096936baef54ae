-- PostgreSQL. The version of the price of an agreement's item: its amount, or its tiers.
SELECT v.amount, v.model, v.size, v.tier_limits, v.tier_prices, v.used_from, v.published_at
FROM billing.agreement_items AS i
JOIN billing.price_versions AS v ON v.price_id = i.price_id
WHERE i.id = %(item)s AND v.version = %(version)s
