-- Grain: one organization with API calls in [start, stop). An error is an answer of the server's own fault (5xx).
SELECT organization_id, count() AS calls, countIf(status_code >= 500) / count() AS error_share
FROM api_calls
WHERE timestamp >= {start:DateTime64(3, 'UTC')} AND timestamp < {stop:DateTime64(3, 'UTC')}
GROUP BY organization_id
