-- PostgreSQL. Grain: one organization. A small table, read whole; ordered so that its data version is stable.
SELECT id, name, slug, time_zone, created_at, deactivated_at
FROM organizations
ORDER BY id
