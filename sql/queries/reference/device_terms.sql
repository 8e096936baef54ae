-- PostgreSQL. Grain: one term of a device.
SELECT
    id, organization_id, device_id, lower(term) AS starts_at, upper(term) AS ends_at, class, site,
    (SELECT coalesce(string_agg(tag, ',' ORDER BY tag), '') FROM unnest(tags) AS tag) AS tags, billable
FROM billing.device_terms
