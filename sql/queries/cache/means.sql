-- ClickHouse. Grain: one organization with samples in `hours`. Means are weighted by the samples of each row that carry the
-- field; rows that were computed before 0.4.0 know only all their samples.
SELECT
    organization_id,
    sum(cpu_avg * ifNull(cpu_count, sample_count)) / nullIf(sumIf(ifNull(cpu_count, sample_count), cpu_avg IS NOT NULL), 0) AS cpu_avg,
    sum(memory_avg * ifNull(memory_count, sample_count))
        / nullIf(sumIf(ifNull(memory_count, sample_count), memory_avg IS NOT NULL), 0) AS memory_avg
FROM device_metrics_hourly
WHERE timestamp IN {hours:Array(DateTime('UTC'))}
GROUP BY organization_id
