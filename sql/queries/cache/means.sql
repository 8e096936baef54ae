-- ClickHouse. Grain: one organization with samples in `hours`. Means are weighted by the samples of each row.
SELECT
    organization_id,
    sum(cpu_avg * sample_count) / nullIf(sumIf(sample_count, cpu_avg IS NOT NULL), 0) AS cpu_avg,
    sum(memory_avg * sample_count) / nullIf(sumIf(sample_count, memory_avg IS NOT NULL), 0) AS memory_avg
FROM device_metrics_hourly
WHERE hour IN {hours:Array(DateTime('UTC'))}
GROUP BY organization_id
