-- Bad messages since `since` whose bodies were not kept, because the share of who sent them was full. Grain: organization
-- (all zeros: of none that is known), those who lost most first.
-- Served by the index of recorded_at, which leaves out all that is older.
SELECT organization_id, count() AS messages, sum(bytes) AS bytes
FROM message_deliveries FINAL
WHERE recorded_at >= {since:DateTime64(6, 'UTC')} AND has(reasons, 'body_not_kept')
GROUP BY organization_id
ORDER BY messages DESC, organization_id
