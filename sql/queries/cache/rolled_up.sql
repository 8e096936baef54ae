-- ClickHouse. Grain: one rolled-up hour of the last `hours` hours up to the newest one.
SELECT hour, as_of FROM rolled_up_hours FINAL
WHERE hour > (SELECT max(hour) FROM rolled_up_hours) - toIntervalHour({hours:UInt32})
ORDER BY hour
