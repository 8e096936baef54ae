-- Grain: one hour of [start, stop) that has rows. `wrong_shares` counts rows whose share their count cannot give: a sample
-- covers at most 22 minutes, one and a half of the longest interval (LONGEST_INTERVAL in metrics/coverage.py).
-- Read by hour across all devices, which the order by device serves badly: at most one month's partition is scanned.
SELECT
    timestamp AS hour,
    sum(sample_count) AS samples,
    avg(sample_share) AS mean_share,
    countIf(NOT (sample_share > 0 AND sample_share <= 1 AND sample_share <= sample_count * 22 / 60 + 1e-9)) AS wrong_shares
FROM device_metrics_hourly
WHERE timestamp >= {start:DateTime('UTC')} AND timestamp < {stop:DateTime('UTC')}
GROUP BY hour
