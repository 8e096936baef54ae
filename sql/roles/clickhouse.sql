-- ClickHouse's users, run once by an administrator: clickhouse-client --multiquery < sql/roles/clickhouse.sql
-- Replace the passwords; none is ever the same as another store's.

CREATE DATABASE IF NOT EXISTS ninjait;

-- `ninjait migrate up`
CREATE USER IF NOT EXISTS ninjait_owner IDENTIFIED WITH sha256_password BY 'change me';
GRANT ALL ON ninjait.* TO ninjait_owner;

-- CLICKHOUSE_USER of the webserver, the daemon and the runs
CREATE USER IF NOT EXISTS ninjait_pipelines IDENTIFIED WITH sha256_password BY 'change me';
GRANT SELECT, INSERT, ALTER DELETE ON ninjait.* TO ninjait_pipelines;

-- Analysts, dashboards, the platform's API. readonly = 2: may choose settings, and writes nothing.
CREATE USER IF NOT EXISTS ninjait_reader IDENTIFIED WITH sha256_password BY 'change me'
    SETTINGS readonly = 2, max_execution_time = 60, max_memory_usage = 4000000000;
GRANT SELECT ON ninjait.* TO ninjait_reader;
