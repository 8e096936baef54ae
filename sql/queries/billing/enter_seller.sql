-- PostgreSQL. Grain: one seller, inserted, or changed where there is one of this name; the first one is the default.
WITH known AS (SELECT id FROM billing.sellers WHERE name = %(name)s ORDER BY id LIMIT 1)
INSERT INTO billing.sellers (id, name, address, tax_id, time_zone, number_prefix, numbered_by_year, payment_days, is_default)
SELECT
    coalesce((SELECT id FROM known), gen_random_uuid()), %(name)s, %(address)s, %(tax_id)s, %(time_zone)s, %(number_prefix)s,
    %(numbered_by_year)s, %(payment_days)s, NOT EXISTS (SELECT FROM billing.sellers WHERE is_default)
ON CONFLICT (id) DO UPDATE SET
    address = excluded.address, tax_id = excluded.tax_id, time_zone = excluded.time_zone,
    number_prefix = excluded.number_prefix, numbered_by_year = excluded.numbered_by_year, payment_days = excluded.payment_days
RETURNING id
