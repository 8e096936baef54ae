-- Grain: one organization that was a customer in [start, stop).
SELECT id AS organization_id, name
FROM organizations
WHERE created_at < {stop:DateTime64(3, 'UTC')} AND (deactivated_at IS NULL OR deactivated_at > {start:DateTime64(3, 'UTC')})
ORDER BY id
