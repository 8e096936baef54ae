-- Which series each device may make.

-- migrate: up
-- ORDER BY: the names of a device are one short range, and a name that is recorded again is one row.
CREATE TABLE device_series (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    kind LowCardinality(String) COMMENT 'counters: a network interface; volumes: a volume',
    name String COMMENT 'The agent, and the interface''s name, or the disk''s and the volume''s; tabs between',
    seen_on Date COMMENT 'The day, UTC, on which a reading of it was last recorded'
)
ENGINE = ReplacingMergeTree(seen_on)
ORDER BY (organization_id, device_id, kind, name)
TTL seen_on + INTERVAL 30 DAY DELETE
COMMENT 'The interfaces and volumes that devices have let in: 64 of each in any 7 days, and those beyond are refused. Grain: device and name. Read with FINAL.';

-- migrate: down
DROP TABLE IF EXISTS device_series;
