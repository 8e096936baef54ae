-- PostgreSQL. Grain: one organization. A small table, read whole.
SELECT id, name, slug, time_zone, created_at, deactivated_at
FROM organizations
