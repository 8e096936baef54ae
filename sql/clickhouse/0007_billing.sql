-- Billable quantities and invoices. Money is Decimal.

-- migrate: up
-- ORDER BY: an invoice reads an organization's month. PARTITION BY: month, of the sort key.
CREATE TABLE billing_events_versions (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    local_day Date COMMENT 'The day in the organization''s time zone',
    kind LowCardinality(String) COMMENT 'devices, storage, backup or api_calls',
    quantity Decimal(20, 6) COMMENT 'devices: devices with a sample on the day; storage, backup: GB at the last report of the day or the 7 days before; api_calls: calls',
    unit LowCardinality(String) COMMENT 'device-days, GB or calls',
    contract_id UUID COMMENT 'The contract in force on the day',
    price_plan_id UUID COMMENT 'Its price plan',
    price_plan_version UInt32 COMMENT 'Its version of the plan',
    window_start DateTime('UTC') COMMENT 'Start of the local day, UTC',
    window_end DateTime('UTC') COMMENT 'End of the local day, UTC, exclusive',
    completeness Float64 COMMENT 'Share of the day''s hours that had been rolled up',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
ENGINE = ReplacingMergeTree(as_of)
PARTITION BY toYYYYMM(local_day)
ORDER BY (organization_id, local_day, kind)
COMMENT 'Storage of billing_events: read that view instead, here stand replaced versions too.';

CREATE VIEW billing_events (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    local_day Date COMMENT 'The day in the organization''s time zone',
    kind LowCardinality(String) COMMENT 'devices, storage, backup or api_calls',
    quantity Decimal(20, 6) COMMENT 'devices: devices with a sample on the day; storage, backup: GB at the last report of the day or the 7 days before; api_calls: calls',
    unit LowCardinality(String) COMMENT 'device-days, GB or calls',
    contract_id UUID COMMENT 'The contract in force on the day',
    price_plan_id UUID COMMENT 'Its price plan',
    price_plan_version UInt32 COMMENT 'Its version of the plan',
    window_start DateTime('UTC') COMMENT 'Start of the local day, UTC',
    window_end DateTime('UTC') COMMENT 'End of the local day, UTC, exclusive',
    completeness Float64 COMMENT 'Share of the day''s hours that had been rolled up',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT organization_id, local_day, kind, quantity, unit, contract_id, price_plan_id, price_plan_version, window_start, window_end, completeness, as_of
FROM billing_events_versions FINAL
COMMENT 'Billable quantities. Grain: organization, local day and kind.';

-- ORDER BY: a month is written and replaced whole. PARTITION BY: few rows.
CREATE TABLE invoices_versions (
    id UUID COMMENT 'The invoice',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    contract_id UUID COMMENT 'The contract',
    price_plan_id UUID COMMENT 'Its price plan',
    price_plan_version UInt32 COMMENT 'Its version of the plan',
    period_starts_on Date COMMENT 'First local day',
    period_ends_on Date COMMENT 'First local day after it',
    period_start DateTime64(3, 'UTC') COMMENT 'The same, UTC',
    period_end DateTime64(3, 'UTC') COMMENT 'The same, UTC, exclusive',
    status LowCardinality(String) COMMENT 'draft',
    currency LowCardinality(String) COMMENT 'ISO 4217 code',
    total Decimal(14, 2) COMMENT 'Sum of the lines',
    days_covered UInt16 COMMENT 'Of those, days with complete billing events',
    days_in_period UInt16 COMMENT 'Days of the period on which the contract was in force',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
ENGINE = ReplacingMergeTree(as_of)
PARTITION BY toYear(period_starts_on)
ORDER BY (period_starts_on, organization_id, contract_id, id)
COMMENT 'Storage of invoices: read that view instead, here stand replaced versions too.';

CREATE VIEW invoices (
    id UUID COMMENT 'The invoice',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    contract_id UUID COMMENT 'The contract',
    price_plan_id UUID COMMENT 'Its price plan',
    price_plan_version UInt32 COMMENT 'Its version of the plan',
    period_starts_on Date COMMENT 'First local day',
    period_ends_on Date COMMENT 'First local day after it',
    period_start DateTime64(3, 'UTC') COMMENT 'The same, UTC',
    period_end DateTime64(3, 'UTC') COMMENT 'The same, UTC, exclusive',
    status LowCardinality(String) COMMENT 'draft',
    currency LowCardinality(String) COMMENT 'ISO 4217 code',
    total Decimal(14, 2) COMMENT 'Sum of the lines',
    days_covered UInt16 COMMENT 'Of those, days with complete billing events',
    days_in_period UInt16 COMMENT 'Days of the period on which the contract was in force',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT id, organization_id, contract_id, price_plan_id, price_plan_version, period_starts_on, period_ends_on, period_start, period_end, status, currency, total, days_covered, days_in_period, as_of
FROM invoices_versions FINAL
COMMENT 'Invoices, as in PostgreSQL''s billing.invoices. Grain: contract and local month.';

-- As invoices.
CREATE TABLE invoice_lines_versions (
    invoice_id UUID COMMENT 'The invoice',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    period_starts_on Date COMMENT 'First local day of the invoice',
    line_number UInt16 COMMENT 'From 1',
    kind LowCardinality(String) COMMENT 'base_fee, devices, storage, backup or api_calls',
    description String COMMENT 'For people',
    quantity Decimal(20, 6) COMMENT 'In the unit',
    unit LowCardinality(String) COMMENT 'Of the quantity',
    unit_price Decimal(12, 4) COMMENT 'Of the price plan',
    amount Decimal(14, 2) COMMENT 'Rounded half up, once',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
ENGINE = ReplacingMergeTree(as_of)
PARTITION BY toYear(period_starts_on)
ORDER BY (period_starts_on, organization_id, invoice_id, line_number)
COMMENT 'Storage of invoice_lines: read that view instead, here stand replaced versions too.';

CREATE VIEW invoice_lines (
    invoice_id UUID COMMENT 'The invoice',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    period_starts_on Date COMMENT 'First local day of the invoice',
    line_number UInt16 COMMENT 'From 1',
    kind LowCardinality(String) COMMENT 'base_fee, devices, storage, backup or api_calls',
    description String COMMENT 'For people',
    quantity Decimal(20, 6) COMMENT 'In the unit',
    unit LowCardinality(String) COMMENT 'Of the quantity',
    unit_price Decimal(12, 4) COMMENT 'Of the price plan',
    amount Decimal(14, 2) COMMENT 'Rounded half up, once',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT invoice_id, organization_id, period_starts_on, line_number, kind, description, quantity, unit, unit_price, amount, as_of
FROM invoice_lines_versions FINAL
COMMENT 'Lines of the invoices. Grain: one line.';

-- migrate: down
DROP VIEW IF EXISTS invoice_lines;
DROP TABLE IF EXISTS invoice_lines_versions;
DROP VIEW IF EXISTS invoices;
DROP TABLE IF EXISTS invoices_versions;
DROP VIEW IF EXISTS billing_events;
DROP TABLE IF EXISTS billing_events_versions;
