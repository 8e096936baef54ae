-- Price plans, contracts, and the invoices that the pipeline writes. Money is numeric, never floating point.

-- migrate: up
CREATE SCHEMA billing;

CREATE TABLE price_plans (
    id uuid NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    name text NOT NULL,
    currency char(3) NOT NULL,
    base_fee numeric(12, 4) NOT NULL CHECK (base_fee >= 0),
    device_month_price numeric(12, 4) NOT NULL CHECK (device_month_price >= 0),
    storage_gb_month_price numeric(12, 4) NOT NULL CHECK (storage_gb_month_price >= 0),
    backup_gb_month_price numeric(12, 4) NOT NULL CHECK (backup_gb_month_price >= 0),
    api_calls_included bigint NOT NULL CHECK (api_calls_included >= 0),
    api_calls_thousand_price numeric(12, 4) NOT NULL CHECK (api_calls_thousand_price >= 0),
    published_at timestamptz NOT NULL,
    PRIMARY KEY (id, version)
);
COMMENT ON TABLE price_plans IS 'A published version never changes: a new price is a new version.';

CREATE TABLE contracts (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations (id),
    price_plan_id uuid NOT NULL,
    price_plan_version integer NOT NULL,
    starts_on date NOT NULL,
    ends_on date CHECK (ends_on > starts_on),
    FOREIGN KEY (price_plan_id, price_plan_version) REFERENCES price_plans (id, version),
    UNIQUE (organization_id, starts_on)
);
COMMENT ON TABLE contracts IS 'In force on local days from starts_on until ends_on (exclusive) or the next contract, whichever is first.';

CREATE TABLE billing.invoices (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations (id),
    contract_id uuid NOT NULL REFERENCES contracts (id),
    price_plan_id uuid NOT NULL,
    price_plan_version integer NOT NULL,
    period_starts_on date NOT NULL,
    period_ends_on date NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    status text NOT NULL CHECK (status IN ('draft')),
    currency char(3) NOT NULL,
    total numeric(14, 2) NOT NULL,
    days_covered integer NOT NULL,
    days_in_period integer NOT NULL,
    as_of timestamptz NOT NULL,
    UNIQUE (contract_id, period_starts_on)
);
COMMENT ON TABLE billing.invoices IS 'One contract and local month, the end exclusive; days_covered says how complete a draft is.';

CREATE TABLE billing.invoice_lines (
    invoice_id uuid NOT NULL REFERENCES billing.invoices (id) ON DELETE CASCADE,
    organization_id uuid NOT NULL REFERENCES organizations (id),
    line_number integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('base_fee', 'devices', 'storage', 'backup', 'api_calls')),
    description text NOT NULL,
    quantity numeric(20, 6) NOT NULL,
    unit text NOT NULL,
    unit_price numeric(12, 4) NOT NULL,
    amount numeric(14, 2) NOT NULL,
    PRIMARY KEY (invoice_id, line_number)
);
COMMENT ON COLUMN billing.invoice_lines.amount IS 'Rounded once, half up, to two places; the invoice total is the sum of these.';

-- migrate: down
DROP TABLE billing.invoice_lines;
DROP TABLE billing.invoices;
DROP TABLE contracts;
DROP TABLE price_plans;
DROP SCHEMA billing;
