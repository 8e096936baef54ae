-- Grain: one organization with devices. 120 samples for each rolled-up hour of [start, stop) that began while the device
-- was registered: what was never rolled up is no device's fault, and completeness says it.
SELECT organization_id, 120 * count() AS expected
FROM devices
CROSS JOIN (
    SELECT hour FROM rolled_up_hours FINAL WHERE hour >= {start:DateTime('UTC')} AND hour < {stop:DateTime('UTC')}
) AS rolled
WHERE hour >= registered_at AND (retired_at IS NULL OR hour < retired_at)
GROUP BY organization_id
