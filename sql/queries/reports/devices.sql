-- Grain: one organization with samples in [start, stop). Means are weighted by samples; an hour counts with at most the
-- 120 samples that are expected of it.
SELECT
    organization_id,
    uniqExact(device_id) AS reporting,
    sum(cpu_avg * sample_count) / nullIf(sumIf(sample_count, cpu_avg IS NOT NULL), 0) AS cpu_avg,
    max(cpu_max) AS cpu_max,
    sum(memory_avg * sample_count) / nullIf(sumIf(sample_count, memory_avg IS NOT NULL), 0) AS memory_avg,
    max(memory_max) AS memory_max,
    sum(least(sample_count, 120)) AS samples
FROM device_metrics_hourly
WHERE hour >= {start:DateTime('UTC')} AND hour < {stop:DateTime('UTC')}
GROUP BY organization_id
