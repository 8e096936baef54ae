-- Devices and bills that do not fit together, as a mart: a month's findings are replaced as a whole.

-- migrate: up
-- ORDER BY: asked by organization. PARTITION BY: month, of the sort key.
CREATE TABLE billing_reconciliation_versions (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    month Date COMMENT 'The first day of the local month',
    agreement_id UUID COMMENT 'The agreement; zeros where the organization has none',
    finding LowCardinality(String) COMMENT 'silent_but_billed: billed for days on which it did not report. retired_and_sending: reports after its last term. reporting_unbilled: reports without a billable term, or no item counts it. deactivated_but_billed: days after the organization was deactivated. billed_twice: for the same product by another agreement. without_agreement: reports, and the organization has no agreement in the month',
    device_id UUID COMMENT 'The device; zeros where a product is meant as a whole',
    product LowCardinality(String) COMMENT 'The product that is billed; empty where none is',
    days UInt16 COMMENT 'On how many days of the month, in the agreement''s time zone',
    amount Decimal(38, 4) COMMENT 'What these days cost, without tax; 0 where they are not billed',
    currency LowCardinality(String) COMMENT 'ISO 4217 code of amount; empty without an agreement',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
ENGINE = ReplacingMergeTree(as_of)
PARTITION BY toYear(month)
ORDER BY (organization_id, month, agreement_id, finding, device_id, product)
SETTINGS non_replicated_deduplication_window = 1000
COMMENT 'Devices that are billed and silent, that report and are not billed, or that are billed twice. Grain: organization, month, agreement, finding, device and product. Versions: by month.';

-- migrate: down
DROP VIEW IF EXISTS billing_reconciliation;
DROP TABLE IF EXISTS billing_reconciliation_versions;
