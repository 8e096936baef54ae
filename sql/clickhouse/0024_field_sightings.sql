-- When each field of a device was last read: so that the caches know whose latest reading lacks something, and ask the
-- metrics store for no others.

-- migrate: up
ALTER TABLE device_sightings
    ADD COLUMN IF NOT EXISTS network_in_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'Time of the newest reading of network_in' AFTER disk_used_at,
    ADD COLUMN IF NOT EXISTS network_out_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'Time of the newest reading of network_out' AFTER network_in_at,
    ADD COLUMN IF NOT EXISTS uptime_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'Time of the newest reading of uptime' AFTER network_out_at,
    ADD COLUMN IF NOT EXISTS memory_total_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'Time of the newest reading of memory_total' AFTER uptime_at,
    ADD COLUMN IF NOT EXISTS disk_total_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'Time of the newest reading of disk_total' AFTER memory_total_at,
    ADD COLUMN IF NOT EXISTS disk_free_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'Time of the newest reading of disk_free' AFTER disk_total_at;

-- migrate: down
ALTER TABLE device_sightings
    DROP COLUMN IF EXISTS disk_free_at,
    DROP COLUMN IF EXISTS disk_total_at,
    DROP COLUMN IF EXISTS memory_total_at,
    DROP COLUMN IF EXISTS uptime_at,
    DROP COLUMN IF EXISTS network_out_at,
    DROP COLUMN IF EXISTS network_in_at;
