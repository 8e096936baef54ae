-- Copies of the system of record, so that an analyst can join names.

-- migrate: up
-- ORDER BY: joined and looked up by id. No PARTITION BY: small tables.
CREATE TABLE organizations_versions (
    id UUID COMMENT 'The organization',
    name String COMMENT 'Its name',
    slug String COMMENT 'Its short name',
    time_zone LowCardinality(String) COMMENT 'IANA time zone; billing days are local to it',
    created_at DateTime64(3, 'UTC') COMMENT 'Since when',
    deactivated_at Nullable(DateTime64(3, 'UTC')) COMMENT 'Until when',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
ENGINE = ReplacingMergeTree(as_of)
ORDER BY id
COMMENT 'Storage of organizations: read that view instead, here stand replaced versions too.';

CREATE VIEW organizations (
    id UUID COMMENT 'The organization',
    name String COMMENT 'Its name',
    slug String COMMENT 'Its short name',
    time_zone LowCardinality(String) COMMENT 'IANA time zone; billing days are local to it',
    created_at DateTime64(3, 'UTC') COMMENT 'Since when',
    deactivated_at Nullable(DateTime64(3, 'UTC')) COMMENT 'Until when',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT id, name, slug, time_zone, created_at, deactivated_at, as_of
FROM organizations_versions FINAL
COMMENT 'Copy of PostgreSQL''s organizations. Grain: one organization.';

-- ORDER BY: joined and looked up by id. No PARTITION BY: small tables.
CREATE TABLE users_versions (
    id UUID COMMENT 'The user',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    full_name String COMMENT 'Name; no e-mail address is copied',
    role LowCardinality(String) COMMENT 'owner, admin, technician or customer',
    created_at DateTime64(3, 'UTC') COMMENT 'Since when',
    deactivated_at Nullable(DateTime64(3, 'UTC')) COMMENT 'Until when',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
ENGINE = ReplacingMergeTree(as_of)
ORDER BY id
COMMENT 'Storage of users: read that view instead, here stand replaced versions too.';

CREATE VIEW users (
    id UUID COMMENT 'The user',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    full_name String COMMENT 'Name; no e-mail address is copied',
    role LowCardinality(String) COMMENT 'owner, admin, technician or customer',
    created_at DateTime64(3, 'UTC') COMMENT 'Since when',
    deactivated_at Nullable(DateTime64(3, 'UTC')) COMMENT 'Until when',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT id, organization_id, full_name, role, created_at, deactivated_at, as_of
FROM users_versions FINAL
COMMENT 'Copy of PostgreSQL''s users. Grain: one user.';

-- ORDER BY: joined and looked up by id. No PARTITION BY: small tables.
CREATE TABLE devices_versions (
    id UUID COMMENT 'The device',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    hostname String COMMENT 'Its name in the organization',
    kind LowCardinality(String) COMMENT 'server, workstation or laptop',
    operating_system LowCardinality(String) COMMENT 'As registered',
    registered_at DateTime64(3, 'UTC') COMMENT 'Since when',
    retired_at Nullable(DateTime64(3, 'UTC')) COMMENT 'Until when',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
ENGINE = ReplacingMergeTree(as_of)
ORDER BY id
COMMENT 'Storage of devices: read that view instead, here stand replaced versions too.';

CREATE VIEW devices (
    id UUID COMMENT 'The device',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    hostname String COMMENT 'Its name in the organization',
    kind LowCardinality(String) COMMENT 'server, workstation or laptop',
    operating_system LowCardinality(String) COMMENT 'As registered',
    registered_at DateTime64(3, 'UTC') COMMENT 'Since when',
    retired_at Nullable(DateTime64(3, 'UTC')) COMMENT 'Until when',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT id, organization_id, hostname, kind, operating_system, registered_at, retired_at, as_of
FROM devices_versions FINAL
COMMENT 'Copy of PostgreSQL''s devices. Grain: one device.';

-- ORDER BY: joined and looked up by id. No PARTITION BY: small tables.
CREATE TABLE contracts_versions (
    id UUID COMMENT 'The contract',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    price_plan_id UUID COMMENT 'Its price plan',
    price_plan_version UInt32 COMMENT 'The version of the plan that it was signed for',
    price_plan_name String COMMENT 'The plan''s name',
    currency LowCardinality(String) COMMENT 'ISO 4217 code',
    starts_on Date COMMENT 'First local day',
    ends_on Nullable(Date) COMMENT 'First local day after it, null while open',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
ENGINE = ReplacingMergeTree(as_of)
ORDER BY id
COMMENT 'Storage of contracts: read that view instead, here stand replaced versions too.';

CREATE VIEW contracts (
    id UUID COMMENT 'The contract',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    price_plan_id UUID COMMENT 'Its price plan',
    price_plan_version UInt32 COMMENT 'The version of the plan that it was signed for',
    price_plan_name String COMMENT 'The plan''s name',
    currency LowCardinality(String) COMMENT 'ISO 4217 code',
    starts_on Date COMMENT 'First local day',
    ends_on Nullable(Date) COMMENT 'First local day after it, null while open',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT id, organization_id, price_plan_id, price_plan_version, price_plan_name, currency, starts_on, ends_on, as_of
FROM contracts_versions FINAL
COMMENT 'Copy of PostgreSQL''s contracts with their plan. Grain: one contract.';

-- migrate: down
DROP VIEW IF EXISTS contracts;
DROP TABLE IF EXISTS contracts_versions;
DROP VIEW IF EXISTS devices;
DROP TABLE IF EXISTS devices_versions;
DROP VIEW IF EXISTS users;
DROP TABLE IF EXISTS users_versions;
DROP VIEW IF EXISTS organizations;
DROP TABLE IF EXISTS organizations_versions;
