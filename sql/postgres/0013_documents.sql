-- Documents of agreements: drafts, and issued ones, which nothing changes any more. A number is taken and its document issued
-- in one transaction, so that series have no gaps. Drafts of contracts stay until their month is drafted again.

-- migrate: up
CREATE TABLE billing.sellers (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL CONSTRAINT name_has_1_to_500_characters CHECK (length(name) BETWEEN 1 AND 500),
    address text[] NOT NULL DEFAULT '{}' CONSTRAINT address_is_a_list_of_texts CHECK (billing.are_texts(address)),
    tax_id text CONSTRAINT tax_id_has_at_most_100_characters CHECK (length(tax_id) <= 100),
    time_zone text NOT NULL DEFAULT 'UTC' REFERENCES time_zones (name),
    number_prefix text NOT NULL DEFAULT '' CONSTRAINT number_prefix_has_at_most_20_plain_characters CHECK (number_prefix ~ '^[A-Za-z0-9/._-]{0,20}$'),
    numbered_by_year boolean NOT NULL DEFAULT true,
    payment_days integer NOT NULL DEFAULT 14 CONSTRAINT payment_days_are_0_to_366 CHECK (payment_days BETWEEN 0 AND 366),
    is_default boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE billing.sellers IS 'Who issues documents. An issued document keeps what stood here then. Grain: seller.';
COMMENT ON COLUMN billing.sellers.id IS 'The seller.';
COMMENT ON COLUMN billing.sellers.name IS 'As printed.';
COMMENT ON COLUMN billing.sellers.address IS 'Lines of the address, as printed.';
COMMENT ON COLUMN billing.sellers.tax_id IS 'Tax or VAT number, as printed.';
COMMENT ON COLUMN billing.sellers.time_zone IS 'Decides the date, and the year, on which a document is issued.';
COMMENT ON COLUMN billing.sellers.number_prefix IS 'What numbers begin with.';
COMMENT ON COLUMN billing.sellers.numbered_by_year IS 'Numbers have the year in them and begin at 1 in each; otherwise one series runs on.';
COMMENT ON COLUMN billing.sellers.payment_days IS 'Days from the date of a document until it is due.';
COMMENT ON COLUMN billing.sellers.is_default IS 'Whether it issues the documents of agreements without a seller: one of them at most.';
CREATE UNIQUE INDEX one_seller_is_the_default ON billing.sellers (is_default) WHERE is_default;
ALTER TABLE billing.agreements ADD COLUMN seller_id uuid REFERENCES billing.sellers (id);
COMMENT ON COLUMN billing.agreements.seller_id IS 'Who issues its documents; null: the default seller.';

CREATE TABLE billing.series (
    seller_id uuid NOT NULL REFERENCES billing.sellers (id),
    year integer NOT NULL CONSTRAINT year_is_0_or_1970_to_2999 CHECK (year = 0 OR year BETWEEN 1970 AND 2999),
    last_number bigint NOT NULL DEFAULT 0 CONSTRAINT last_number_is_not_negative CHECK (last_number >= 0),
    PRIMARY KEY (seller_id, year)
);
COMMENT ON TABLE billing.series IS 'Numbers of documents: each is the one after the last. Grain: seller and year.';
COMMENT ON COLUMN billing.series.seller_id IS 'Who issues.';
COMMENT ON COLUMN billing.series.year IS 'In which; 0 where the seller''s numbers run on.';
COMMENT ON COLUMN billing.series.last_number IS 'The number that was taken last, in the transaction that issued its document; the row is locked until that ends.';
CREATE FUNCTION billing.count_up() RETURNS trigger LANGUAGE plpgsql AS $count$
BEGIN
    IF TG_OP = 'INSERT' AND NEW.last_number = 0 THEN RETURN NEW
    ; ELSIF TG_OP = 'UPDATE' AND (NEW.seller_id, NEW.year, NEW.last_number) = (OLD.seller_id, OLD.year, OLD.last_number + 1) THEN RETURN NEW
    ; END IF
    ; RAISE EXCEPTION 'series: % is refused; a series begins at 0 and counts up by one', lower(TG_OP)
        USING ERRCODE = 'restrict_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME
; END $count$;
COMMENT ON FUNCTION billing.count_up IS 'Refuses whatever could leave a gap in a series or give a number twice.';
CREATE TRIGGER count_up BEFORE INSERT OR UPDATE OR DELETE ON billing.series FOR EACH ROW EXECUTE FUNCTION billing.count_up();

-- Columns of 0.4.0 stay for the drafts that it wrote.
ALTER TABLE billing.invoices
    DROP CONSTRAINT invoices_status_check,
    ALTER COLUMN contract_id DROP NOT NULL,
    ALTER COLUMN price_plan_id DROP NOT NULL,
    ALTER COLUMN price_plan_version DROP NOT NULL,
    ALTER COLUMN total TYPE numeric,
    ADD COLUMN agreement_id uuid,
    ADD COLUMN kind text NOT NULL DEFAULT 'invoice' CONSTRAINT kind_is_known CHECK (kind IN ('invoice', 'credit_note')),
    ADD COLUMN net numeric,
    ADD COLUMN tax_total numeric NOT NULL DEFAULT 0,
    ADD COLUMN document bytea,
    ADD COLUMN seller_id uuid REFERENCES billing.sellers (id),
    ADD COLUMN series_year integer,
    ADD COLUMN series_number bigint CONSTRAINT series_number_is_above_0 CHECK (series_number > 0),
    ADD COLUMN number text,
    ADD COLUMN issued_at timestamptz,
    ADD COLUMN due_on date,
    ADD COLUMN sha256 text,
    ADD COLUMN agreement bytea,
    ADD COLUMN usage bytea,
    ADD COLUMN watermark timestamptz,
    ADD COLUMN fingerprints jsonb,
    ADD COLUMN credits uuid REFERENCES billing.invoices (id),
    ADD COLUMN reason text CONSTRAINT reason_has_1_to_500_characters CHECK (length(reason) BETWEEN 1 AND 500),
    ADD COLUMN voided_at timestamptz,
    ADD COLUMN void_reason text CONSTRAINT void_reason_has_1_to_500_characters CHECK (length(void_reason) BETWEEN 1 AND 500);
UPDATE billing.invoices AS i SET net = total, agreement_id = coalesce(
    (SELECT a.id FROM billing.agreements AS a WHERE a.organization_id = i.organization_id AND a.currency = i.currency ORDER BY a.id = i.contract_id DESC LIMIT 1),
    contract_id
);
ALTER TABLE billing.invoices
    ALTER COLUMN agreement_id SET NOT NULL,
    ALTER COLUMN net SET NOT NULL,
    ADD CONSTRAINT agreement_exists FOREIGN KEY (agreement_id) REFERENCES billing.agreements (id) NOT VALID,
    ADD CONSTRAINT status_is_known CHECK (status IN ('draft', 'issued', 'void')),
    ADD CONSTRAINT net_and_tax_make_the_total CHECK (net + tax_total = total),
    ADD CONSTRAINT sha256_is_the_documents CHECK (sha256 = encode(sha256(document), 'hex')),
    ADD CONSTRAINT what_is_issued_is_whole CHECK (status = 'draft' OR (
        num_nulls(document, seller_id, series_year, series_number, number, issued_at, due_on, sha256) = 0
        AND num_nulls(agreement, usage, watermark, fingerprints) = CASE kind WHEN 'invoice' THEN 0 ELSE 4 END
        AND (kind = 'credit_note') = (credits IS NOT NULL) AND (kind <> 'credit_note' OR reason IS NOT NULL)
    )),
    ADD CONSTRAINT a_draft_has_no_number CHECK (status <> 'draft' OR num_nonnulls(series_number, number, issued_at, sha256) = 0),
    ADD CONSTRAINT what_is_void_has_a_reason CHECK ((status = 'void') = (void_reason IS NOT NULL) AND (status = 'void') = (voided_at IS NOT NULL)),
    ADD CONSTRAINT a_number_is_taken_once UNIQUE (seller_id, series_year, series_number),
    ADD CONSTRAINT a_number_is_printed_once UNIQUE (seller_id, number);
CREATE UNIQUE INDEX one_issued_invoice_of_an_agreement_and_period ON billing.invoices (agreement_id, period_starts_on)
    WHERE status = 'issued' AND kind = 'invoice';
CREATE INDEX invoices_by_period ON billing.invoices (period_starts_on);
CREATE INDEX invoices_by_credited ON billing.invoices (credits) WHERE credits IS NOT NULL;
COMMENT ON TABLE billing.invoices IS 'Documents: drafts, which each run replaces, and issued ones, which stay as they are. Grain: one document; one invoice of an agreement and local month is a draft or issued, besides those that are void.';
COMMENT ON COLUMN billing.invoices.contract_id IS 'Of drafts of 0.4.0: the contract.';
COMMENT ON COLUMN billing.invoices.price_plan_id IS 'Of drafts of 0.4.0: the price plan.';
COMMENT ON COLUMN billing.invoices.price_plan_version IS 'Of drafts of 0.4.0: its version.';
COMMENT ON COLUMN billing.invoices.status IS 'draft, issued or void.';
COMMENT ON COLUMN billing.invoices.total IS 'net + tax_total, in the currency.';
COMMENT ON COLUMN billing.invoices.days_covered IS 'Of days_in_period, those that are measured completely.';
COMMENT ON COLUMN billing.invoices.days_in_period IS 'Days of the month on which the agreement is in force.';
COMMENT ON COLUMN billing.invoices.agreement_id IS 'The agreement that it is drawn up from.';
COMMENT ON COLUMN billing.invoices.kind IS 'invoice or credit_note.';
COMMENT ON COLUMN billing.invoices.net IS 'Sum of the lines.';
COMMENT ON COLUMN billing.invoices.tax_total IS 'Tax, by category and rate on the sum of their lines.';
COMMENT ON COLUMN billing.invoices.document IS 'The document as canonical JSON (RFC 8785; docs/schemas/invoice.json); null in drafts of 0.4.0.';
COMMENT ON COLUMN billing.invoices.seller_id IS 'Who issued it.';
COMMENT ON COLUMN billing.invoices.series_year IS 'The series that its number is of; 0 where the seller''s numbers run on.';
COMMENT ON COLUMN billing.invoices.series_number IS 'Its place in the series, without gaps.';
COMMENT ON COLUMN billing.invoices.number IS 'As printed.';
COMMENT ON COLUMN billing.invoices.issued_at IS 'When it was issued.';
COMMENT ON COLUMN billing.invoices.due_on IS 'When it is due.';
COMMENT ON COLUMN billing.invoices.sha256 IS 'SHA-256 of document, in hexadecimal.';
COMMENT ON COLUMN billing.invoices.agreement IS 'The agreement as it was when the document was issued, as JSON: what ninjait billing rate takes.';
COMMENT ON COLUMN billing.invoices.usage IS 'The usage that it was drawn up from, as JSON: what ninjait billing rate takes.';
COMMENT ON COLUMN billing.invoices.watermark IS 'ClickHouse''s clock before the usage was read: what changed later may be missing.';
COMMENT ON COLUMN billing.invoices.fingerprints IS 'By first day of a month, its own and earlier ones that it was compared with: a hash of what was measured.';
COMMENT ON COLUMN billing.invoices.credits IS 'Of a credit note: the invoice that it credits.';
COMMENT ON COLUMN billing.invoices.reason IS 'Why it was credited, or issued before its time.';
COMMENT ON COLUMN billing.invoices.voided_at IS 'When it was voided. It keeps its number and its bytes.';
COMMENT ON COLUMN billing.invoices.void_reason IS 'Why it was voided.';

ALTER TABLE billing.invoice_lines
    DROP CONSTRAINT invoice_lines_kind_check,
    ALTER COLUMN quantity TYPE numeric,
    ALTER COLUMN unit_price TYPE numeric,
    ALTER COLUMN unit_price DROP NOT NULL,
    ALTER COLUMN amount TYPE numeric,
    ADD COLUMN product text,
    ADD COLUMN item text NOT NULL DEFAULT '',
    ADD COLUMN starts_on date,
    ADD COLUMN ends_on date,
    ADD COLUMN basis text NOT NULL DEFAULT '',
    ADD COLUMN price_version integer,
    ADD COLUMN price_model text,
    ADD COLUMN discount_percent numeric NOT NULL DEFAULT 0,
    ADD COLUMN completeness numeric NOT NULL DEFAULT 1,
    ADD COLUMN tax_category text NOT NULL DEFAULT 'O',
    ADD COLUMN tax_rate numeric NOT NULL DEFAULT 0,
    ADD COLUMN corrects text,
    ADD COLUMN credits_line integer;
UPDATE billing.invoice_lines AS l SET product = l.kind, kind = 'charge', starts_on = i.period_starts_on, ends_on = i.period_ends_on
FROM billing.invoices AS i WHERE i.id = l.invoice_id;
ALTER TABLE billing.invoice_lines
    ALTER COLUMN product SET NOT NULL,
    ALTER COLUMN starts_on SET NOT NULL,
    ALTER COLUMN ends_on SET NOT NULL,
    ADD CONSTRAINT kind_is_known CHECK (kind IN ('charge', 'minimum', 'correction', 'credit'));
COMMENT ON TABLE billing.invoice_lines IS 'Lines of the documents. Grain: one line.';
COMMENT ON COLUMN billing.invoice_lines.kind IS 'charge, minimum (what an item lacks of it), correction (of a period that was issued before) or credit.';
COMMENT ON COLUMN billing.invoice_lines.amount IS 'Rounded once, half up, to the currency''s smallest unit; the document''s net is the sum of these.';
COMMENT ON COLUMN billing.invoice_lines.quantity IS 'In the unit, rounded to a millionth for people.';
COMMENT ON COLUMN billing.invoice_lines.unit_price IS 'Per unit and month; null where units have tiers.';
COMMENT ON COLUMN billing.invoice_lines.product IS 'The product.';
COMMENT ON COLUMN billing.invoice_lines.item IS 'The item of the agreement; empty in drafts of 0.4.0.';
COMMENT ON COLUMN billing.invoice_lines.starts_on IS 'The first local day that is charged.';
COMMENT ON COLUMN billing.invoice_lines.ends_on IS 'The first local day after the last one.';
COMMENT ON COLUMN billing.invoice_lines.basis IS 'How devices or volumes are counted; empty for everything else.';
COMMENT ON COLUMN billing.invoice_lines.price_version IS 'The version of the price; null in drafts of 0.4.0.';
COMMENT ON COLUMN billing.invoice_lines.price_model IS 'flat, per_unit, graduated, volume or package; null in drafts of 0.4.0.';
COMMENT ON COLUMN billing.invoice_lines.discount_percent IS 'The discount that the amount is less.';
COMMENT ON COLUMN billing.invoice_lines.completeness IS 'The share of the line''s time for which the usage is known.';
COMMENT ON COLUMN billing.invoice_lines.tax_category IS 'UNCL5305, as in EN 16931.';
COMMENT ON COLUMN billing.invoice_lines.tax_rate IS 'In percent.';
COMMENT ON COLUMN billing.invoice_lines.corrects IS 'Of a correction, or a credit: the number of the invoice whose period it is of.';
COMMENT ON COLUMN billing.invoice_lines.credits_line IS 'Of a credit: the line of the credited invoice.';

-- What is issued stays. Drafts come and go.
CREATE FUNCTION billing.keep_issued() RETURNS trigger LANGUAGE plpgsql AS $keep$
DECLARE after billing.invoices
; BEGIN
    IF OLD.status = 'draft' THEN
        RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END
    ; END IF
    ; IF TG_OP = 'UPDATE' AND OLD.status = 'issued' AND NEW.status = 'void' THEN
        after := NEW
        ; after.status := OLD.status
        ; after.voided_at := OLD.voided_at
        ; after.void_reason := OLD.void_reason
        ; IF after IS NOT DISTINCT FROM OLD THEN RETURN NEW
        ; END IF
    ; END IF
    ; RAISE EXCEPTION 'document % is %: % is refused; void it (ninjait billing void) or credit it (ninjait billing credit)', OLD.number, OLD.status, lower(TG_OP)
        USING ERRCODE = 'restrict_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME
; END $keep$;
COMMENT ON FUNCTION billing.keep_issued IS 'Refuses any change of an issued document, but that it becomes void.';
CREATE TRIGGER keep_issued BEFORE UPDATE OR DELETE ON billing.invoices FOR EACH ROW EXECUTE FUNCTION billing.keep_issued();

CREATE FUNCTION billing.keep_issued_lines() RETURNS trigger LANGUAGE plpgsql AS $keep$
DECLARE named text
; BEGIN
    SELECT string_agg(i.number, ', ') INTO named FROM billing.invoices AS i
    WHERE i.status <> 'draft' AND i.id IN (CASE WHEN TG_OP <> 'INSERT' THEN OLD.invoice_id END, CASE WHEN TG_OP <> 'DELETE' THEN NEW.invoice_id END)
    ; IF named IS NOT NULL THEN
        RAISE EXCEPTION 'document % is issued: % of a line is refused; void it (ninjait billing void) or credit it (ninjait billing credit)', named, lower(TG_OP)
            USING ERRCODE = 'restrict_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME
    ; END IF
    ; RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END
; END $keep$;
COMMENT ON FUNCTION billing.keep_issued_lines IS 'Refuses any change of the lines of an issued document.';
CREATE TRIGGER keep_issued_lines BEFORE INSERT OR UPDATE OR DELETE ON billing.invoice_lines
    FOR EACH ROW EXECUTE FUNCTION billing.keep_issued_lines();

CREATE FUNCTION billing.keep_all_issued() RETURNS trigger LANGUAGE plpgsql AS $keep$
DECLARE named text
; BEGIN
    SELECT min(number) INTO named FROM billing.invoices WHERE status <> 'draft'
    ; IF named IS NOT NULL THEN
        RAISE EXCEPTION '%: truncate is refused, because documents are issued, such as %', TG_TABLE_NAME, named
            USING ERRCODE = 'restrict_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME
    ; END IF
    ; RETURN NULL
; END $keep$;
COMMENT ON FUNCTION billing.keep_all_issued IS 'Refuses to empty a table that issued documents need.';
CREATE TRIGGER keep_all_issued BEFORE TRUNCATE ON billing.invoices EXECUTE FUNCTION billing.keep_all_issued();
CREATE TRIGGER keep_all_issued BEFORE TRUNCATE ON billing.invoice_lines EXECUTE FUNCTION billing.keep_all_issued();
CREATE TRIGGER keep_all_issued BEFORE TRUNCATE ON billing.series EXECUTE FUNCTION billing.keep_all_issued();

-- Terms of devices that change after a period was issued make its usage late: who changes one leaves a note of the days.
CREATE TABLE billing.changed_terms (
    organization_id uuid NOT NULL,
    days tstzrange NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE billing.changed_terms IS 'Which time of an organization''s devices changed, and when: issued periods within it are computed again. Grain: one change. Append only.';
COMMENT ON COLUMN billing.changed_terms.organization_id IS 'Whose device it is or was.';
COMMENT ON COLUMN billing.changed_terms.days IS 'The time for which the term changed: of a new end from the earlier of both ends to the later, of anything else all of it.';
COMMENT ON COLUMN billing.changed_terms.changed_at IS 'When, within the transaction that changed it.';
CREATE INDEX changed_terms_by_organization ON billing.changed_terms (organization_id, changed_at);
CREATE FUNCTION billing.note_changed_term() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $note$
BEGIN
    IF TG_OP = 'UPDATE' AND to_jsonb(OLD) - 'term' = to_jsonb(NEW) - 'term' AND lower(OLD.term) = lower(NEW.term) THEN
        INSERT INTO billing.changed_terms (organization_id, days)
        SELECT NEW.organization_id, tstzrange(least(upper(OLD.term), upper(NEW.term)), nullif(greatest(coalesce(upper(OLD.term), 'infinity'), coalesce(upper(NEW.term), 'infinity')), 'infinity'))
        WHERE upper(OLD.term) IS DISTINCT FROM upper(NEW.term)
    ; ELSE
        INSERT INTO billing.changed_terms (organization_id, days)
        SELECT organization_id, term
        FROM (VALUES (CASE WHEN TG_OP <> 'INSERT' THEN OLD.organization_id END, CASE WHEN TG_OP <> 'INSERT' THEN OLD.term END), (CASE WHEN TG_OP <> 'DELETE' THEN NEW.organization_id END, CASE WHEN TG_OP <> 'DELETE' THEN NEW.term END)) AS t (organization_id, term)
        WHERE organization_id IS NOT NULL
    ; END IF
    ; RETURN NULL
; END $note$;
COMMENT ON FUNCTION billing.note_changed_term IS 'Leaves a note of the time for which a device''s term changed.';
CREATE TRIGGER note_changed_term AFTER INSERT OR UPDATE OR DELETE ON billing.device_terms
    FOR EACH ROW EXECUTE FUNCTION billing.note_changed_term();

DO $rights$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'ninjait_pipelines') THEN
        GRANT INSERT, UPDATE ON billing.series TO ninjait_pipelines
    ; END IF
; END $rights$;

-- migrate: down
DO $issued$ BEGIN
    IF EXISTS (SELECT FROM billing.invoices WHERE status <> 'draft') THEN
        RAISE EXCEPTION 'billing.invoices has issued documents, for which 0.4.0 has no place; nothing was changed'
    ; END IF
; END $issued$;
DROP TRIGGER note_changed_term ON billing.device_terms;
DROP FUNCTION billing.note_changed_term;
DROP TABLE billing.changed_terms;
DROP TRIGGER keep_all_issued ON billing.series;
DROP TRIGGER keep_all_issued ON billing.invoice_lines;
DROP TRIGGER keep_all_issued ON billing.invoices;
DROP FUNCTION billing.keep_all_issued;
DROP TRIGGER keep_issued_lines ON billing.invoice_lines;
DROP FUNCTION billing.keep_issued_lines;
DROP TRIGGER keep_issued ON billing.invoices;
DROP FUNCTION billing.keep_issued;
-- Drafts of agreements are computed again.
DELETE FROM billing.invoices WHERE contract_id IS NULL;
ALTER TABLE billing.invoice_lines DROP CONSTRAINT kind_is_known;
UPDATE billing.invoice_lines SET kind = product;
ALTER TABLE billing.invoice_lines
    DROP COLUMN product, DROP COLUMN item, DROP COLUMN starts_on, DROP COLUMN ends_on, DROP COLUMN basis, DROP COLUMN price_version,
    DROP COLUMN price_model, DROP COLUMN discount_percent, DROP COLUMN completeness, DROP COLUMN tax_category, DROP COLUMN tax_rate,
    DROP COLUMN corrects, DROP COLUMN credits_line,
    ALTER COLUMN quantity TYPE numeric(20, 6),
    ALTER COLUMN unit_price TYPE numeric(12, 4),
    ALTER COLUMN unit_price SET NOT NULL,
    ALTER COLUMN amount TYPE numeric(14, 2),
    ADD CONSTRAINT invoice_lines_kind_check CHECK (kind IN ('base_fee', 'devices', 'storage', 'backup', 'api_calls'));
ALTER TABLE billing.invoices
    DROP CONSTRAINT agreement_exists, DROP CONSTRAINT status_is_known, DROP CONSTRAINT net_and_tax_make_the_total,
    DROP CONSTRAINT sha256_is_the_documents, DROP CONSTRAINT what_is_issued_is_whole, DROP CONSTRAINT a_draft_has_no_number,
    DROP CONSTRAINT what_is_void_has_a_reason, DROP CONSTRAINT a_number_is_taken_once, DROP CONSTRAINT a_number_is_printed_once;
DROP INDEX billing.invoices_by_period;
ALTER TABLE billing.invoices
    DROP COLUMN agreement_id, DROP COLUMN kind, DROP COLUMN net, DROP COLUMN tax_total, DROP COLUMN document, DROP COLUMN seller_id,
    DROP COLUMN series_year, DROP COLUMN series_number, DROP COLUMN number, DROP COLUMN issued_at, DROP COLUMN due_on,
    DROP COLUMN sha256, DROP COLUMN agreement, DROP COLUMN usage, DROP COLUMN watermark, DROP COLUMN fingerprints, DROP COLUMN credits, DROP COLUMN reason,
    DROP COLUMN voided_at, DROP COLUMN void_reason,
    ALTER COLUMN contract_id SET NOT NULL,
    ALTER COLUMN price_plan_id SET NOT NULL,
    ALTER COLUMN price_plan_version SET NOT NULL,
    ALTER COLUMN total TYPE numeric(14, 2),
    ADD CONSTRAINT invoices_status_check CHECK (status IN ('draft'));
DROP TABLE billing.series;
DROP FUNCTION billing.count_up;
ALTER TABLE billing.agreements DROP COLUMN seller_id;
DROP TABLE billing.sellers;
