-- PostgreSQL. Grain: one organization that is active and has no contract in force on the local day %(day)s.
-- Of its contracts the one that started last decides: one that has ended does not bring an older one back.
SELECT o.name
FROM organizations AS o
WHERE o.created_at < %(end)s
    AND (o.deactivated_at IS NULL OR o.deactivated_at >= %(end)s)
    AND NOT coalesce(
        (
            SELECT c.ends_on IS NULL OR c.ends_on > %(day)s
            FROM contracts AS c
            WHERE c.organization_id = o.id AND c.starts_on <= %(day)s
            ORDER BY c.starts_on DESC
            LIMIT 1
        ),
        false
    )
ORDER BY o.name
