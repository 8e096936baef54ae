-- Grain: one organization with devices. The device-hours of [start, stop): rolled-up hours that began while the device was
-- registered: what was never rolled up is no device's fault, and completeness says it.
SELECT organization_id, count() AS expected
FROM devices
CROSS JOIN (
    SELECT hour FROM rolled_up_hours FINAL WHERE hour >= {start:DateTime('UTC')} AND hour < {stop:DateTime('UTC')}
) AS rolled
WHERE hour >= registered_at AND (retired_at IS NULL OR hour < retired_at)
GROUP BY organization_id
