-- Grain: one organization with samples in [start, stop). Means are weighted by the samples of each row that carry the field
-- (rows that were computed before 0.4.0 know only all their samples); `share` is how many device-hours samples cover.
SELECT
    organization_id,
    uniqExact(device_id) AS reporting,
    sum(cpu_avg * ifNull(cpu_count, sample_count)) / nullIf(sumIf(ifNull(cpu_count, sample_count), cpu_avg IS NOT NULL), 0) AS cpu_avg,
    max(cpu_max) AS cpu_max,
    sum(memory_avg * ifNull(memory_count, sample_count))
        / nullIf(sumIf(ifNull(memory_count, sample_count), memory_avg IS NOT NULL), 0) AS memory_avg,
    max(memory_max) AS memory_max,
    sum(sample_share) AS share
FROM device_metrics_hourly
WHERE timestamp >= {start:DateTime('UTC')} AND timestamp < {stop:DateTime('UTC')}
GROUP BY organization_id
