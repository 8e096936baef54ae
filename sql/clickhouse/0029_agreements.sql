-- Copies of what is agreed and of whose each device is, so that an analyst can follow a document without PostgreSQL.

-- migrate: up
-- ORDER BY: looked up by organization. PARTITION BY: few rows.
CREATE TABLE agreements_versions (
    id UUID COMMENT 'The agreement',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    currency LowCardinality(String) COMMENT 'ISO 4217 code',
    time_zone LowCardinality(String) COMMENT 'IANA name: its days and months are local to it, for its whole life',
    purchase_order Nullable(String) COMMENT 'As printed on its documents; null without one',
    starts_on Date COMMENT 'First local day',
    ends_on Nullable(Date) COMMENT 'First local day after the last one; null while open',
    items UInt32 COMMENT 'Items that it has or had',
    agreed_hash String COMMENT 'Of all that is agreed, items, prices and discounts included: another one where any of it changed. PostgreSQL''s billing.agreement_documents has it in full',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
ENGINE = ReplacingMergeTree(as_of)
ORDER BY (organization_id, id)
SETTINGS non_replicated_deduplication_window = 1000
COMMENT 'Copy of PostgreSQL''s agreements. Grain: one agreement. Versions: whole.';

-- ORDER BY: looked up by organization and device. PARTITION BY: of one device rows must meet.
CREATE TABLE device_terms_versions (
    id UUID COMMENT 'The term',
    organization_id UUID COMMENT 'The organization that the row belongs to: whose the device is in the term',
    device_id UUID COMMENT 'The device',
    starts_at DateTime64(3, 'UTC') COMMENT 'The first instant, UTC. A device-day is that of the organization that has the device at the end of the local day',
    ends_at Nullable(DateTime64(3, 'UTC')) COMMENT 'The first instant after it, UTC; null while it goes on',
    class LowCardinality(String) COMMENT 'The class that items filter by: server, workstation, laptop or another one',
    site String COMMENT 'Where it stands; empty: unknown',
    tags String COMMENT 'Its tags, in order, separated by commas',
    billable Bool COMMENT 'Whether any item may count it',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
ENGINE = ReplacingMergeTree(as_of)
ORDER BY (organization_id, device_id, starts_at, id)
SETTINGS non_replicated_deduplication_window = 1000
COMMENT 'Copy of PostgreSQL''s terms of devices. Grain: one term of one device. Versions: whole.';

-- migrate: down
DROP VIEW IF EXISTS device_terms;
DROP VIEW IF EXISTS agreements;
DROP TABLE IF EXISTS device_terms_versions;
DROP TABLE IF EXISTS agreements_versions;
