-- Documents of agreements: what PostgreSQL's billing.invoices has since drafts can be issued. Money has up to four decimal places,
-- because currencies do. Columns of price plans stay for drafts that 0.4.0 drew up.

-- migrate: up
ALTER TABLE invoices_versions
    MODIFY COLUMN total Decimal(38, 4) COMMENT 'net + tax_total, in the currency',
    MODIFY COLUMN status LowCardinality(String) COMMENT 'draft, issued or void',
    MODIFY COLUMN contract_id UUID COMMENT 'The agreement; in drafts of 0.4.0 the contract',
    MODIFY COLUMN price_plan_id UUID COMMENT 'In drafts of 0.4.0: the price plan; else zero: lines have the version of their price',
    MODIFY COLUMN price_plan_version UInt32 COMMENT 'In drafts of 0.4.0: the version of the plan; else 0',
    MODIFY COLUMN days_covered UInt16 COMMENT 'Of days_in_period, those that are measured completely',
    MODIFY COLUMN days_in_period UInt16 COMMENT 'Days of the month on which the agreement is in force',
    ADD COLUMN IF NOT EXISTS agreement_id UUID DEFAULT contract_id COMMENT 'The agreement that the document is drawn up from' AFTER contract_id,
    ADD COLUMN IF NOT EXISTS kind LowCardinality(String) DEFAULT 'invoice' COMMENT 'invoice or credit_note' AFTER status,
    ADD COLUMN IF NOT EXISTS number String COMMENT 'As printed; empty in drafts' AFTER kind,
    ADD COLUMN IF NOT EXISTS issued_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When it was issued; null in drafts' AFTER number,
    ADD COLUMN IF NOT EXISTS due_on Nullable(Date) COMMENT 'When it is due; null in drafts' AFTER issued_at,
    ADD COLUMN IF NOT EXISTS net Decimal(38, 4) DEFAULT total COMMENT 'Sum of the lines' AFTER currency,
    ADD COLUMN IF NOT EXISTS tax_total Decimal(38, 4) COMMENT 'Tax, by category and rate on the sum of their lines' AFTER net,
    ADD COLUMN IF NOT EXISTS sha256 String COMMENT 'SHA-256 of the document''s canonical JSON in PostgreSQL, in hexadecimal; empty in drafts' AFTER days_in_period,
    ADD COLUMN IF NOT EXISTS credits Nullable(UUID) COMMENT 'For a credit note: the invoice that it credits' AFTER sha256,
    MODIFY COMMENT 'Documents, as in PostgreSQL''s billing.invoices. Grain: one document; one invoice per agreement and local month is a draft or issued. Versions: by period_starts_on.';
ALTER TABLE invoice_lines_versions
    MODIFY COLUMN kind LowCardinality(String) COMMENT 'charge, minimum, correction or credit; in drafts of 0.4.0 the product',
    MODIFY COLUMN quantity Decimal(38, 6) COMMENT 'In the unit, rounded to a millionth for people',
    MODIFY COLUMN unit_price Decimal(38, 18) COMMENT 'Per unit and month; 0 where units have tiers (price_model)',
    MODIFY COLUMN amount Decimal(38, 4) COMMENT 'Rounded half up, once, to the currency''s smallest unit',
    ADD COLUMN IF NOT EXISTS product LowCardinality(String) DEFAULT kind COMMENT 'The product' AFTER kind,
    ADD COLUMN IF NOT EXISTS item String COMMENT 'The item of the agreement; empty in drafts of 0.4.0' AFTER product,
    ADD COLUMN IF NOT EXISTS starts_on Date DEFAULT period_starts_on COMMENT 'The first local day that is charged' AFTER item,
    ADD COLUMN IF NOT EXISTS ends_on Date DEFAULT addMonths(period_starts_on, 1) COMMENT 'The first local day after the last one' AFTER starts_on,
    ADD COLUMN IF NOT EXISTS basis LowCardinality(String) COMMENT 'How devices or volumes are counted; empty for everything else' AFTER ends_on,
    ADD COLUMN IF NOT EXISTS price_version UInt32 COMMENT 'The version of the price; 0 in drafts of 0.4.0' AFTER unit_price,
    ADD COLUMN IF NOT EXISTS price_model LowCardinality(String) COMMENT 'flat, per_unit, graduated, volume or package' AFTER price_version,
    ADD COLUMN IF NOT EXISTS discount_percent Decimal(38, 18) COMMENT 'The discount that the amount is less' AFTER price_model,
    ADD COLUMN IF NOT EXISTS completeness Decimal(18, 6) DEFAULT 1 COMMENT 'The share of the line''s time for which the usage is known' AFTER discount_percent,
    ADD COLUMN IF NOT EXISTS tax_category LowCardinality(String) DEFAULT 'O' COMMENT 'UNCL5305, as in EN 16931' AFTER amount,
    ADD COLUMN IF NOT EXISTS tax_rate Decimal(38, 18) COMMENT 'In percent' AFTER tax_category,
    ADD COLUMN IF NOT EXISTS corrects String COMMENT 'For a correction or credit: the number of the invoice whose period it is of' AFTER tax_rate,
    ADD COLUMN IF NOT EXISTS credits_line Nullable(UInt16) COMMENT 'For a credit: the line of the credited invoice' AFTER corrects,
    MODIFY COMMENT 'Lines of the documents. Grain: one line. Versions: by period_starts_on.';

-- migrate: down
ALTER TABLE invoice_lines_versions
    DROP COLUMN IF EXISTS credits_line, DROP COLUMN IF EXISTS corrects, DROP COLUMN IF EXISTS tax_rate, DROP COLUMN IF EXISTS tax_category,
    DROP COLUMN IF EXISTS completeness, DROP COLUMN IF EXISTS discount_percent, DROP COLUMN IF EXISTS price_model,
    DROP COLUMN IF EXISTS price_version, DROP COLUMN IF EXISTS basis, DROP COLUMN IF EXISTS ends_on, DROP COLUMN IF EXISTS starts_on,
    DROP COLUMN IF EXISTS item, DROP COLUMN IF EXISTS product,
    MODIFY COLUMN kind LowCardinality(String) COMMENT 'base_fee, devices, storage, backup or api_calls',
    MODIFY COLUMN quantity Decimal(20, 6) COMMENT 'In the unit',
    MODIFY COLUMN unit_price Decimal(12, 4) COMMENT 'Of the price plan',
    MODIFY COLUMN amount Decimal(14, 2) COMMENT 'Rounded half up, once',
    MODIFY COMMENT 'Lines of the invoices. Grain: one line. Versions: by period_starts_on.';
ALTER TABLE invoices_versions
    DROP COLUMN IF EXISTS credits, DROP COLUMN IF EXISTS sha256, DROP COLUMN IF EXISTS tax_total, DROP COLUMN IF EXISTS net,
    DROP COLUMN IF EXISTS due_on, DROP COLUMN IF EXISTS issued_at, DROP COLUMN IF EXISTS number, DROP COLUMN IF EXISTS kind,
    DROP COLUMN IF EXISTS agreement_id,
    MODIFY COLUMN total Decimal(14, 2) COMMENT 'Sum of the lines',
    MODIFY COLUMN status LowCardinality(String) COMMENT 'draft',
    MODIFY COLUMN contract_id UUID COMMENT 'The contract',
    MODIFY COLUMN price_plan_id UUID COMMENT 'Its price plan',
    MODIFY COLUMN price_plan_version UInt32 COMMENT 'Its version of the plan',
    MODIFY COLUMN days_covered UInt16 COMMENT 'Of those, days with complete billing events',
    MODIFY COLUMN days_in_period UInt16 COMMENT 'Days of the period on which the contract was in force',
    MODIFY COMMENT 'Invoices, as in PostgreSQL''s billing.invoices. Grain: contract and local month. Versions: by period_starts_on.';
