-- An organization's time zone is one that there is: `Europe/Zurch` stopped everybody's billing.

-- migrate: up
CREATE TABLE time_zones (
    name text PRIMARY KEY
);
COMMENT ON TABLE time_zones IS 'The time zones that an organization may have. After an update of the time zone data: INSERT INTO time_zones SELECT name FROM pg_timezone_names ON CONFLICT DO NOTHING.';
COMMENT ON COLUMN time_zones.name IS 'IANA name, in its own capitals.';
INSERT INTO time_zones
SELECT name FROM pg_timezone_names
WHERE name NOT LIKE 'posix%' AND name NOT LIKE 'right/%' AND name NOT IN ('localtime', 'Factory');
-- Not of the rows that are there: a wrong one must not stop the migration. The pipeline leaves it out, and names it.
ALTER TABLE organizations
    ADD CONSTRAINT organizations_time_zone_fkey FOREIGN KEY (time_zone) REFERENCES time_zones (name) NOT VALID;

-- migrate: down
ALTER TABLE organizations DROP CONSTRAINT IF EXISTS organizations_time_zone_fkey;
DROP TABLE IF EXISTS time_zones;
