-- What is agreed with whom, at which prices, for which devices. Terms are ranges that cannot overlap; prices are versions that
-- cannot change; what cannot be right is refused where it is entered, by field and value. Plans and contracts are taken over.
--
-- The rules are those of ninjait_pipelines/billing/rating/agreement.py, which reads the rows through billing.agreement_documents.

-- migrate: up
CREATE EXTENSION IF NOT EXISTS btree_gist;

CREATE TABLE billing.currencies (
    code char(3) PRIMARY KEY,
    exponent smallint NOT NULL CHECK (exponent BETWEEN 0 AND 4)
);
COMMENT ON TABLE billing.currencies IS 'Currencies of ISO 4217 that have a smallest unit. Grain: currency.';
COMMENT ON COLUMN billing.currencies.exponent IS 'Decimal places of the smallest unit: 0 for JPY, 2 for EUR, 3 for KWD.';
INSERT INTO billing.currencies
SELECT code, 0 FROM unnest(string_to_array('BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF', ' ')) AS code
UNION ALL
SELECT code, 2 FROM unnest(string_to_array(
    'AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW CNY COP COU CRC '
    'CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR '
    'KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN '
    'PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS '
    'UAH USD USN UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG', ' '
)) AS code
UNION ALL
SELECT code, 3 FROM unnest(string_to_array('BHD IQD JOD KWD LYD OMR TND', ' ')) AS code
UNION ALL
SELECT code, 4 FROM unnest(string_to_array('CLF UYW', ' ')) AS code;

CREATE FUNCTION billing.check_numbers() RETURNS trigger LANGUAGE plpgsql AS $check$
DECLARE field text; value numeric
; BEGIN
    FOREACH field IN ARRAY TG_ARGV LOOP
        value := (to_jsonb(NEW) ->> field)::numeric
        ; IF value < 0 OR value >= 1e15 OR value = 'NaN' OR scale(trim_scale(value)) > 18 THEN
            RAISE EXCEPTION '%.%: %; it must be from 0 to below 10^15, with at most 18 decimal places', TG_TABLE_NAME, field, value
                USING ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = field
        ; END IF
    ; END LOOP
    ; RETURN NEW
; END $check$;
COMMENT ON FUNCTION billing.check_numbers IS 'Refuses a column, of those named, that is negative, NaN, too large or too fine.';

CREATE FUNCTION billing.check_term() RETURNS trigger LANGUAGE plpgsql AS $check$
BEGIN
    IF isempty(NEW.term) OR lower(NEW.term) IS NULL OR NOT isfinite(lower(NEW.term)) OR NOT isfinite(coalesce(upper(NEW.term), '1970-01-01'))
        OR lower(NEW.term) < '1970-01-01' OR coalesce(upper(NEW.term), '1970-01-01') > '2149-06-06'
    THEN
        RAISE EXCEPTION '%.term: %; it must begin on 1970-01-01 or later, end after it began and before 2149-06-06, or be open: [2026-01-01,)', TG_TABLE_NAME, NEW.term
            USING ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = 'term'
    ; END IF
    ; RETURN NEW
; END $check$;
COMMENT ON FUNCTION billing.check_term IS 'Refuses a range of days that is empty, has no beginning, or lies outside the calendar of the stores.';

CREATE FUNCTION billing.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $refuse$
BEGIN
    RAISE EXCEPTION '%: % is refused: %', TG_TABLE_NAME, lower(TG_OP), TG_ARGV[0]
        USING ERRCODE = 'restrict_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME
; END $refuse$;
COMMENT ON FUNCTION billing.refuse_change IS 'Refuses whatever its trigger fires for, with the advice of the trigger.';

CREATE FUNCTION billing.are_texts(texts text[]) RETURNS boolean LANGUAGE sql IMMUTABLE AS $check$
    SELECT texts = '{}' OR (
        array_ndims(texts) = 1 AND array_lower(texts, 1) = 1 AND array_position(texts, NULL) IS NULL
        AND (SELECT bool_and(length(one) <= 500) FROM unnest(texts) AS one)
    )
$check$;
COMMENT ON FUNCTION billing.are_texts IS 'Whether it is a plain list of texts, none of them null or longer than 500 characters.';

CREATE TABLE billing.parties (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES organizations (id),
    name text NOT NULL CONSTRAINT name_has_1_to_500_characters CHECK (length(name) BETWEEN 1 AND 500),
    address text[] NOT NULL DEFAULT '{}' CONSTRAINT address_is_a_list_of_texts CHECK (billing.are_texts(address)),
    tax_id text CONSTRAINT tax_id_has_at_most_100_characters CHECK (length(tax_id) <= 100),
    UNIQUE (id, organization_id)
);
COMMENT ON TABLE billing.parties IS 'Who pays: an organization itself or somebody else on its behalf. An issued document keeps what stood here then. Grain: party.';
COMMENT ON COLUMN billing.parties.organization_id IS 'The organization whose agreements it pays.';
COMMENT ON COLUMN billing.parties.address IS 'Lines of the address, as printed.';
COMMENT ON COLUMN billing.parties.tax_id IS 'Tax or VAT number, as printed.';

CREATE TABLE billing.products (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE CONSTRAINT name_has_1_to_500_characters CHECK (length(name) BETWEEN 1 AND 500),
    kind text NOT NULL CONSTRAINT kind_is_known CHECK (kind IN ('device', 'api_calls', 'storage', 'backup', 'flat', 'one_off')),
    not_billed_statuses text[] NOT NULL DEFAULT '{401,403,5xx}'
        CONSTRAINT not_billed_statuses_are_like_404_or_5xx CHECK ('' || array_to_string(not_billed_statuses, ',', '?') ~ '^([1-5]([0-9]{2}|xx)(,[1-5]([0-9]{2}|xx))*)?$'),
    carried_forward_days integer NOT NULL DEFAULT 7
        CONSTRAINT carried_forward_days_are_0_to_366 CHECK (carried_forward_days BETWEEN 0 AND 366),
    UNIQUE (id, kind)
);
COMMENT ON TABLE billing.products IS 'What can be billed. Grain: product.';
COMMENT ON COLUMN billing.products.name IS 'Its name on lines, in detail tables and in the JSON of an agreement.';
COMMENT ON COLUMN billing.products.not_billed_statuses IS 'For api_calls: answers that cost nothing, as a status (404) or a class (5xx).';
COMMENT ON COLUMN billing.products.carried_forward_days IS 'For storage and backup: how long a measurement holds when its source falls silent; after that the level is missing.';

CREATE TABLE billing.prices (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    product_id uuid NOT NULL REFERENCES billing.products (id),
    name text NOT NULL,
    currency char(3) NOT NULL REFERENCES billing.currencies (code),
    UNIQUE (product_id, name, currency),
    UNIQUE (id, product_id, currency)
);
COMMENT ON TABLE billing.prices IS 'A price of a product, which has versions. Grain: price.';
COMMENT ON COLUMN billing.prices.name IS 'For people: the price list, plan or customer that it is of.';

CREATE FUNCTION billing.tiers_ascend(limits numeric[], prices numeric[]) RETURNS boolean LANGUAGE sql IMMUTABLE AS $check$
    SELECT cardinality(prices) = cardinality(limits) + 1 AND array_position(prices, NULL) IS NULL AND array_position(limits, NULL) IS NULL
        AND array_ndims(prices) = 1 AND array_lower(prices, 1) = 1 AND coalesce(array_ndims(limits) = 1 AND array_lower(limits, 1) = 1, true)
        AND coalesce(bool_and(tier > before AND tier < 1e15 AND scale(trim_scale(tier)) <= 18), true)
        AND (SELECT bool_and(price >= 0 AND price < 1e15 AND scale(trim_scale(price)) <= 18) FROM unnest(prices) AS price)
    FROM (SELECT tier, lag(tier, 1, 0.0) OVER (ORDER BY number) AS before FROM unnest(limits) WITH ORDINALITY AS t (tier, number)) AS tiers
$check$;
COMMENT ON FUNCTION billing.tiers_ascend IS 'Whether each tier ends above the one before and has a price that can be; there is one price more than limits.';

CREATE TABLE billing.price_versions (
    price_id uuid NOT NULL REFERENCES billing.prices (id),
    version integer NOT NULL CONSTRAINT version_is_above_0 CHECK (version > 0),
    used_from date NOT NULL CONSTRAINT used_from_is_1970_to_2149 CHECK (used_from BETWEEN '1970-01-01' AND '2149-06-06'),
    published_at timestamptz NOT NULL DEFAULT now()
        CONSTRAINT published_at_is_1900_to_2299 CHECK (published_at >= '1900-01-01Z' AND published_at < '2299-12-31Z'),
    model text NOT NULL DEFAULT 'per_unit'
        CONSTRAINT model_is_known CHECK (model IN ('flat', 'per_unit', 'graduated', 'volume', 'package')),
    amount numeric,
    size numeric,
    tier_limits numeric[],
    tier_prices numeric[],
    PRIMARY KEY (price_id, version),
    CONSTRAINT tiers_are_for_graduated_and_volume CHECK ((model IN ('graduated', 'volume')) = (tier_prices IS NOT NULL)),
    CONSTRAINT amount_is_for_all_other_models CHECK ((model IN ('graduated', 'volume')) = (amount IS NULL)),
    CONSTRAINT size_is_for_packages CHECK ((model = 'package') = (size IS NOT NULL)),
    CONSTRAINT size_is_above_0 CHECK (size > 0),
    CONSTRAINT tiers_ascend CHECK (tier_prices IS NULL OR billing.tiers_ascend(coalesce(tier_limits, '{}'), tier_prices)),
    CONSTRAINT tier_limits_need_prices CHECK (tier_limits IS NULL OR tier_prices IS NOT NULL)
);
COMMENT ON TABLE billing.price_versions IS 'A published version never changes: a new price is a new version, used from a day on. Grain: version of a price.';
COMMENT ON COLUMN billing.price_versions.used_from IS 'The first local day on which it is used, until the next version''s.';
COMMENT ON COLUMN billing.price_versions.published_at IS 'When it was published; documents issued before do not know it.';
COMMENT ON COLUMN billing.price_versions.model IS 'flat: amount whatever the quantity. per_unit: amount per unit. package: amount per begun size units. graduated: each unit at its tier''s price. volume: all units at the price of the tier in which the quantity lies.';
COMMENT ON COLUMN billing.price_versions.amount IS 'Per month, in the price''s currency, as exact as it was entered.';
COMMENT ON COLUMN billing.price_versions.tier_limits IS 'Up to and including how many units each tier but the last one goes.';
COMMENT ON COLUMN billing.price_versions.tier_prices IS 'The price of a unit in each tier: one more than tier_limits.';
CREATE TRIGGER check_numbers BEFORE INSERT ON billing.price_versions
    FOR EACH ROW EXECUTE FUNCTION billing.check_numbers('amount', 'size');
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON billing.price_versions
    FOR EACH ROW EXECUTE FUNCTION billing.refuse_change('a published price never changes; insert a new version');
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON billing.price_versions
    EXECUTE FUNCTION billing.refuse_change('a published price never changes; insert a new version');

CREATE TABLE billing.plans (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL,
    currency char(3) NOT NULL REFERENCES billing.currencies (code),
    UNIQUE (name, currency),
    UNIQUE (id, currency)
);
COMMENT ON TABLE billing.plans IS 'A set of items that agreements begin with. Grain: plan.';

CREATE TABLE billing.agreements (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES organizations (id),
    bill_to uuid,
    currency char(3) NOT NULL REFERENCES billing.currencies (code),
    time_zone text NOT NULL REFERENCES time_zones (name),
    purchase_order text CONSTRAINT purchase_order_has_at_most_500_characters CHECK (length(purchase_order) <= 500),
    term daterange NOT NULL,
    tax_category text NOT NULL DEFAULT 'O'
        CONSTRAINT tax_category_is_of_en_16931 CHECK (tax_category IN ('S', 'Z', 'E', 'AE', 'K', 'G', 'O', 'L', 'M', 'B')),
    tax_rate numeric NOT NULL DEFAULT 0,
    FOREIGN KEY (bill_to, organization_id) REFERENCES billing.parties (id, organization_id),
    UNIQUE (id, organization_id, currency),
    CONSTRAINT tax_rate_is_0_to_100_and_0_where_nothing_is_due CHECK (
        tax_rate <= 100 AND (tax_rate = 0 OR tax_category NOT IN ('Z', 'E', 'AE', 'O', 'G', 'K'))
    )
);
COMMENT ON TABLE billing.agreements IS 'Who gets what, in which currency and time zone, from when to when. Several of one organization stand side by side. Grain: agreement.';
COMMENT ON COLUMN billing.agreements.bill_to IS 'Who pays; null: the organization under its own name.';
COMMENT ON COLUMN billing.agreements.time_zone IS 'Its days and months are local to it, for its whole life: a customer who moves does not move past calls.';
COMMENT ON COLUMN billing.agreements.term IS 'Local days, the end exclusive.';
COMMENT ON COLUMN billing.agreements.tax_category IS 'Of items without one of their own (UNCL5305 as in EN 16931): S standard, Z zero, E exempt, AE reverse charge, O out of scope ...';
COMMENT ON COLUMN billing.agreements.tax_rate IS 'In percent.';
CREATE TRIGGER check_numbers BEFORE INSERT OR UPDATE ON billing.agreements
    FOR EACH ROW EXECUTE FUNCTION billing.check_numbers('tax_rate');
CREATE TRIGGER check_term BEFORE INSERT OR UPDATE ON billing.agreements FOR EACH ROW EXECUTE FUNCTION billing.check_term();
CREATE TRIGGER refuse_change BEFORE UPDATE ON billing.agreements FOR EACH ROW
    WHEN ((OLD.organization_id, OLD.currency, OLD.time_zone) IS DISTINCT FROM (NEW.organization_id, NEW.currency, NEW.time_zone))
    EXECUTE FUNCTION billing.refuse_change('organization, currency and time zone stay for its life; end it and enter a new one');
CREATE INDEX agreements_by_organization ON billing.agreements (organization_id);

CREATE TABLE billing.agreement_items (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    agreement_id uuid NOT NULL,
    organization_id uuid NOT NULL,
    currency char(3) NOT NULL,
    product_id uuid NOT NULL,
    kind text NOT NULL,
    price_id uuid NOT NULL,
    plan_id uuid,
    description text NOT NULL DEFAULT '' CONSTRAINT description_has_at_most_500_characters CHECK (length(description) <= 500),
    term daterange NOT NULL,
    quantity numeric NOT NULL DEFAULT 1,
    basis text,
    classes text[] NOT NULL DEFAULT '{}' CONSTRAINT classes_are_a_list_of_texts CHECK (billing.are_texts(classes)),
    sites text[] NOT NULL DEFAULT '{}' CONSTRAINT sites_are_a_list_of_texts CHECK (billing.are_texts(sites)),
    tags text[] NOT NULL DEFAULT '{}' CONSTRAINT tags_are_a_list_of_texts CHECK (billing.are_texts(tags)),
    without_tags text[] NOT NULL DEFAULT '{}' CONSTRAINT without_tags_are_a_list_of_texts CHECK (billing.are_texts(without_tags)),
    included numeric NOT NULL DEFAULT 0,
    minimum_quantity numeric NOT NULL DEFAULT 0,
    minimum_amount numeric NOT NULL DEFAULT 0,
    proration text NOT NULL DEFAULT 'daily' CONSTRAINT proration_is_daily_or_full CHECK (proration IN ('daily', 'full')),
    billed text NOT NULL DEFAULT 'arrears' CONSTRAINT billed_is_arrears_or_advance CHECK (billed IN ('arrears', 'advance')),
    tax_category text CONSTRAINT tax_category_is_of_en_16931 CHECK (tax_category IN ('S', 'Z', 'E', 'AE', 'K', 'G', 'O', 'L', 'M', 'B')),
    tax_rate numeric,
    FOREIGN KEY (agreement_id, organization_id, currency) REFERENCES billing.agreements (id, organization_id, currency),
    FOREIGN KEY (product_id, kind) REFERENCES billing.products (id, kind),
    FOREIGN KEY (price_id, product_id, currency) REFERENCES billing.prices (id, product_id, currency),
    FOREIGN KEY (plan_id, currency) REFERENCES billing.plans (id, currency),
    UNIQUE (id, organization_id),
    CONSTRAINT a_product_of_an_agreement_does_not_overlap
        EXCLUDE USING gist (agreement_id WITH =, product_id WITH =, term WITH &&) WHERE (kind <> 'one_off'),
    CONSTRAINT quantity_is_measured_unless_flat_or_one_off CHECK (quantity = 1 OR kind IN ('flat', 'one_off')),
    CONSTRAINT basis_fits_the_kind CHECK (
        basis IS NULL OR CASE
            WHEN kind = 'device' THEN basis IN ('registered', 'reporting', 'last_day', 'peak')
            WHEN kind IN ('storage', 'backup') THEN basis IN ('average', 'last_day', 'peak')
            ELSE false
        END
    ),
    CONSTRAINT a_filter_is_for_devices CHECK (kind = 'device' OR cardinality(classes || sites || tags || without_tags) = 0),
    CONSTRAINT proration_full_is_for_devices_and_fees CHECK (proration = 'daily' OR kind IN ('device', 'flat')),
    CONSTRAINT advance_is_for_fees_and_registered_devices CHECK (
        billed = 'arrears' OR kind = 'flat' OR (kind = 'device' AND coalesce(basis, 'registered') = 'registered')
    ),
    CONSTRAINT tax_category_and_rate_come_together CHECK ((tax_category IS NULL) = (tax_rate IS NULL)),
    CONSTRAINT tax_rate_is_0_to_100_and_0_where_nothing_is_due CHECK (
        tax_rate IS NULL OR (tax_rate <= 100 AND (tax_rate = 0 OR tax_category NOT IN ('Z', 'E', 'AE', 'O', 'G', 'K')))
    )
);
COMMENT ON TABLE billing.agreement_items IS 'What an agreement has, from when to when. Items of one product follow one another; only one-offs may overlap. Grain: item.';
COMMENT ON COLUMN billing.agreement_items.currency IS 'The agreement''s, which the price must have.';
COMMENT ON COLUMN billing.agreement_items.kind IS 'The product''s.';
COMMENT ON COLUMN billing.agreement_items.plan_id IS 'The plan that it came with; null for one of its own.';
COMMENT ON COLUMN billing.agreement_items.term IS 'Local days, the end exclusive. A one-off is billed in the month in which it begins.';
COMMENT ON COLUMN billing.agreement_items.quantity IS 'Units of a flat fee or a one-off; everything else is measured.';
COMMENT ON COLUMN billing.agreement_items.basis IS 'device: registered (default), reporting, last_day or peak. storage, backup: average (default), last_day or peak.';
COMMENT ON COLUMN billing.agreement_items.classes IS 'Devices of one of these classes; empty: of any. sites and tags likewise; of without_tags, devices with none.';
COMMENT ON COLUMN billing.agreement_items.included IS 'Units free of charge in a whole month, pooled over all items of the product in the month.';
COMMENT ON COLUMN billing.agreement_items.minimum_quantity IS 'Units that are charged at least in a whole month, beyond the included ones.';
COMMENT ON COLUMN billing.agreement_items.minimum_amount IS 'What the item costs at least in a whole month, after its discount.';
COMMENT ON COLUMN billing.agreement_items.proration IS 'daily: the share of the month''s days on which it holds. full: the whole month as soon as it holds on one.';
COMMENT ON COLUMN billing.agreement_items.billed IS 'In arrears on the document of its own month, in advance on that of the month before.';
CREATE TRIGGER check_numbers BEFORE INSERT OR UPDATE ON billing.agreement_items FOR EACH ROW
    EXECUTE FUNCTION billing.check_numbers('quantity', 'included', 'minimum_quantity', 'minimum_amount', 'tax_rate');
CREATE TRIGGER check_term BEFORE INSERT OR UPDATE ON billing.agreement_items FOR EACH ROW EXECUTE FUNCTION billing.check_term();
CREATE FUNCTION billing.check_item() RETURNS trigger LANGUAGE plpgsql AS $check$
DECLARE whole daterange; first date
; BEGIN
    SELECT term INTO whole FROM billing.agreements WHERE id = NEW.agreement_id
    ; IF NEW.kind = 'one_off' AND NOT lower(NEW.term) <@ whole OR NOT NEW.term && whole THEN
        RAISE EXCEPTION 'agreement_items.term: % lies outside the agreement''s term, %', NEW.term, whole
            USING ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = 'term'
    ; END IF
    ; SELECT min(used_from) INTO first FROM billing.price_versions WHERE price_id = NEW.price_id AND published_at <= now()
    ; IF first IS NULL OR first > lower(NEW.term * whole) THEN
        RAISE EXCEPTION 'agreement_items.price_id: no published version of price % is in use on %; publish one that is used from that day or earlier',
            NEW.price_id, lower(NEW.term * whole)
            USING ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = 'price_id'
    ; END IF
    ; RETURN NEW
; END $check$;
COMMENT ON FUNCTION billing.check_item IS 'Refuses an item outside its agreement''s term, and one whose price is not published or not in use on its first day.';
-- After the foreign keys of the row were looked at, so that their messages come first.
CREATE CONSTRAINT TRIGGER refuse_wrong_item AFTER INSERT OR UPDATE ON billing.agreement_items FOR EACH ROW EXECUTE FUNCTION billing.check_item();
CREATE INDEX agreement_items_by_agreement ON billing.agreement_items (agreement_id);

CREATE TABLE billing.discounts (
    item_id uuid NOT NULL,
    organization_id uuid NOT NULL,
    term daterange NOT NULL,
    percent numeric NOT NULL CONSTRAINT percent_is_at_most_100 CHECK (percent <= 100),
    FOREIGN KEY (item_id, organization_id) REFERENCES billing.agreement_items (id, organization_id) ON DELETE CASCADE,
    CONSTRAINT discounts_of_an_item_do_not_overlap EXCLUDE USING gist (item_id WITH =, term WITH &&)
);
COMMENT ON TABLE billing.discounts IS 'Percent off an item on the local days of the term. Grain: discount.';
CREATE TRIGGER check_numbers BEFORE INSERT OR UPDATE ON billing.discounts FOR EACH ROW EXECUTE FUNCTION billing.check_numbers('percent');
CREATE TRIGGER check_term BEFORE INSERT OR UPDATE ON billing.discounts FOR EACH ROW EXECUTE FUNCTION billing.check_term();

CREATE TABLE billing.plan_items (
    plan_id uuid NOT NULL,
    currency char(3) NOT NULL,
    product_id uuid NOT NULL,
    kind text NOT NULL,
    price_id uuid NOT NULL,
    description text NOT NULL DEFAULT '',
    quantity numeric NOT NULL DEFAULT 1,
    basis text,
    included numeric NOT NULL DEFAULT 0,
    minimum_quantity numeric NOT NULL DEFAULT 0,
    minimum_amount numeric NOT NULL DEFAULT 0,
    proration text NOT NULL DEFAULT 'daily',
    billed text NOT NULL DEFAULT 'arrears',
    PRIMARY KEY (plan_id, product_id),
    FOREIGN KEY (plan_id, currency) REFERENCES billing.plans (id, currency),
    FOREIGN KEY (product_id, kind) REFERENCES billing.products (id, kind),
    FOREIGN KEY (price_id, product_id, currency) REFERENCES billing.prices (id, product_id, currency)
);
COMMENT ON TABLE billing.plan_items IS 'What a plan consists of; columns as in agreement_items, which has the rules. Grain: product of a plan.';
CREATE TRIGGER check_numbers BEFORE INSERT OR UPDATE ON billing.plan_items FOR EACH ROW
    EXECUTE FUNCTION billing.check_numbers('quantity', 'included', 'minimum_quantity', 'minimum_amount');

CREATE FUNCTION billing.subscribe(agreement uuid, plan text, term daterange) RETURNS bigint LANGUAGE plpgsql AS $subscribe$
DECLARE agreed billing.agreements; added bigint
; BEGIN
    SELECT * INTO agreed FROM billing.agreements WHERE id = subscribe.agreement
    ; IF agreed.id IS NULL THEN
        RAISE EXCEPTION 'agreement: % is not in billing.agreements; enter it first', subscribe.agreement USING ERRCODE = 'foreign_key_violation'
    ; END IF
    ; INSERT INTO billing.agreement_items (
        agreement_id, organization_id, currency, product_id, kind, price_id, plan_id, description, term, quantity, basis,
        included, minimum_quantity, minimum_amount, proration, billed
    )
    SELECT
        agreed.id, agreed.organization_id, agreed.currency, i.product_id, i.kind, i.price_id, i.plan_id, i.description, subscribe.term,
        i.quantity, i.basis, i.included, i.minimum_quantity, i.minimum_amount, i.proration, i.billed
    FROM billing.plan_items AS i JOIN billing.plans AS p ON p.id = i.plan_id
    WHERE p.name = subscribe.plan AND p.currency = agreed.currency
    ; GET DIAGNOSTICS added = ROW_COUNT
    ; IF added = 0 THEN
        RAISE EXCEPTION 'plan: % has no items in %, the currency of the agreement; billing.plans and billing.plan_items have those that there are',
            subscribe.plan, agreed.currency USING ERRCODE = 'foreign_key_violation'
    ; END IF
    ; RETURN added
; END $subscribe$;
COMMENT ON FUNCTION billing.subscribe IS 'Gives an agreement the items of the plan of this name in its currency, on the days of a term; returns how many.';

CREATE TABLE billing.device_terms (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES organizations (id),
    device_id uuid NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    term tstzrange NOT NULL CONSTRAINT term_has_a_beginning_and_is_not_empty CHECK (
        NOT isempty(term) AND lower(term) >= '1900-01-01Z' AND coalesce(upper(term), '1970-01-01Z') < '2299-12-31Z' AND lower_inc(term)
    ),
    class text NOT NULL DEFAULT '',
    site text NOT NULL DEFAULT '',
    tags text[] NOT NULL DEFAULT '{}' CONSTRAINT tags_are_a_list_of_texts CHECK (billing.are_texts(tags)),
    billable boolean NOT NULL DEFAULT true,
    CONSTRAINT terms_of_a_device_do_not_overlap EXCLUDE USING gist (device_id WITH =, term WITH &&)
);
COMMENT ON TABLE billing.device_terms IS 'Whose a device was, where and of which class, from when to when. devices keeps the newest one up to date; corrections are made here. Grain: term of a device.';
COMMENT ON COLUMN billing.device_terms.term IS 'From and to, the end exclusive. A local day is the organization''s that has the device at its end.';
COMMENT ON COLUMN billing.device_terms.class IS 'devices.kind, unless corrected: server, workstation, laptop ...';
COMMENT ON COLUMN billing.device_terms.tags IS 'What items filter by, such as spare or co-managed.';
COMMENT ON COLUMN billing.device_terms.billable IS 'False: no item counts it, whatever its filter.';
CREATE INDEX device_terms_by_organization ON billing.device_terms (organization_id);

CREATE FUNCTION billing.follow_device() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $follow$
DECLARE newest billing.device_terms
; BEGIN
    SELECT * INTO newest FROM billing.device_terms WHERE device_id = NEW.id ORDER BY lower(term) DESC LIMIT 1
    ; IF newest.id IS NULL THEN
        INSERT INTO billing.device_terms (organization_id, device_id, term, class)
        SELECT NEW.organization_id, NEW.id, tstzrange(NEW.created_at, NEW.retired_at), NEW.kind
        WHERE coalesce(NEW.retired_at > NEW.created_at, true)
    ; ELSIF (newest.organization_id, newest.class) IS DISTINCT FROM (NEW.organization_id, NEW.kind)
        AND (OLD.organization_id, OLD.kind) IS DISTINCT FROM (NEW.organization_id, NEW.kind) AND lower(newest.term) < now()
    THEN
        UPDATE billing.device_terms SET term = tstzrange(lower(term), least(upper(term), now())) WHERE id = newest.id
        ; INSERT INTO billing.device_terms (organization_id, device_id, term, class, site, tags, billable)
        SELECT NEW.organization_id, NEW.id, tstzrange(now(), NEW.retired_at), NEW.kind,
            CASE WHEN newest.organization_id = NEW.organization_id THEN newest.site ELSE '' END,
            CASE WHEN newest.organization_id = NEW.organization_id THEN newest.tags ELSE '{}' END, newest.billable
        WHERE coalesce(NEW.retired_at > now(), true)
    ; ELSIF OLD.retired_at IS DISTINCT FROM NEW.retired_at AND NEW.retired_at <= lower(newest.term) THEN
        DELETE FROM billing.device_terms WHERE id = newest.id
    ; ELSIF OLD.retired_at IS DISTINCT FROM NEW.retired_at THEN
        UPDATE billing.device_terms SET term = tstzrange(lower(term), NEW.retired_at) WHERE id = newest.id
    ; END IF
    ; RETURN NULL
; END $follow$;
COMMENT ON FUNCTION billing.follow_device IS 'Keeps the newest term of a device in step with devices: registered, retired, moved to another organization or class.';
CREATE TRIGGER follow_device AFTER INSERT OR UPDATE OF organization_id, kind, retired_at ON devices
    FOR EACH ROW EXECUTE FUNCTION billing.follow_device();
-- A device whose times break the constraint devices_times has no term until they are mended; reference checks name it.
INSERT INTO billing.device_terms (organization_id, device_id, term, class)
SELECT organization_id, id, tstzrange(created_at, retired_at), kind FROM devices
WHERE created_at >= '1900-01-01Z' AND created_at < '2299-12-31Z'
    AND (retired_at IS NULL OR (retired_at > created_at AND retired_at < '2299-12-31Z'));

INSERT INTO billing.products (id, name, kind)
SELECT md5('product ' || name)::uuid, name, kind
FROM (VALUES ('base_fee', 'flat'), ('devices', 'device'), ('storage', 'storage'), ('backup', 'backup'), ('api_calls', 'api_calls')) AS p (name, kind);

-- The plan whose prices the platform publishes: 5 per device and month, 0.001 per call, 0.10 per GB and month.
INSERT INTO billing.plans (id, name, currency) VALUES (md5('plan standard')::uuid, 'standard', 'USD');
INSERT INTO billing.prices (id, product_id, name, currency)
SELECT md5('standard ' || name)::uuid, id, 'standard', 'USD' FROM billing.products WHERE name IN ('devices', 'storage', 'api_calls');
INSERT INTO billing.price_versions (price_id, version, used_from, published_at, amount)
SELECT md5('standard ' || name)::uuid, 1, '1970-01-01', '1970-01-01Z', price
FROM (VALUES ('devices', 5), ('storage', 0.10), ('api_calls', 0.001)) AS p (name, price);
INSERT INTO billing.plan_items (plan_id, currency, product_id, kind, price_id, basis)
SELECT md5('plan standard')::uuid, 'USD', id, kind, md5('standard ' || name)::uuid, CASE WHEN kind = 'device' THEN 'reporting' END
FROM billing.products WHERE name IN ('devices', 'storage', 'api_calls');

-- Contracts of one organization and currency are one agreement, with the first one's id, and an item per contract and
-- product. What cannot be taken over (a currency or zone that there is not, a price that is no number) has no agreement, and
-- the check every_organization_has_an_agreement names the organization.
CREATE TEMPORARY TABLE taken_over ON COMMIT DROP AS
WITH terms AS (
    SELECT *, nullif(least(ends_on, lead(starts_on) OVER (PARTITION BY organization_id ORDER BY starts_on)), 'infinity') AS until
    FROM contracts
)
SELECT
    t.id, t.organization_id, o.time_zone, upper(p.currency)::char(3) AS currency, p.id AS plan_id, p.version, p.name AS plan, p.published_at,
    t.starts_on, t.until, daterange(t.starts_on, t.until) AS term,
    first_value(t.id) OVER (PARTITION BY t.organization_id, upper(p.currency) ORDER BY t.starts_on) AS agreement_id,
    ARRAY[p.base_fee, p.device_month_price, p.storage_gb_month_price, p.backup_gb_month_price, trim_scale(p.api_calls_thousand_price / 1000)] AS prices,
    p.api_calls_included
FROM terms AS t
JOIN organizations AS o ON o.id = t.organization_id
JOIN time_zones AS z ON z.name = o.time_zone
JOIN price_plans AS p ON p.id = t.price_plan_id AND p.version = t.price_plan_version
JOIN billing.currencies AS c ON c.code = upper(p.currency)
WHERE t.starts_on BETWEEN '1970-01-01' AND '2149-06-05' AND (t.until IS NULL OR t.until BETWEEN t.starts_on + 1 AND '2149-06-06')
    AND p.published_at >= '1900-01-01Z' AND p.published_at <= now()
    AND 'NaN' NOT IN (p.base_fee, p.device_month_price, p.storage_gb_month_price, p.backup_gb_month_price, p.api_calls_thousand_price);
INSERT INTO billing.plans (id, name, currency)
SELECT DISTINCT ON (plan, currency) plan_id, plan, currency FROM taken_over ORDER BY plan, currency, plan_id ON CONFLICT DO NOTHING;
CREATE TEMPORARY TABLE taken_over_prices ON COMMIT DROP AS
SELECT DISTINCT
    md5(t.plan_id::text || t.version || n.name)::uuid AS id, n.id AS product_id, n.name AS product, n.kind, t.plan_id, t.version,
    t.plan || ' ' || t.version || ' ' || t.plan_id AS name, t.currency, t.published_at, t.prices[n.number] AS price
FROM taken_over AS t, (
    SELECT p.id, p.name, p.kind, number
    FROM unnest('{base_fee,devices,storage,backup,api_calls}'::text[]) WITH ORDINALITY AS o (name, number) JOIN billing.products AS p USING (name)
) AS n;
INSERT INTO billing.prices (id, product_id, name, currency) SELECT id, product_id, name, currency FROM taken_over_prices;
INSERT INTO billing.price_versions (price_id, version, used_from, published_at, amount)
SELECT id, version, '1970-01-01', published_at, trim_scale(price) FROM taken_over_prices;
INSERT INTO billing.agreements (id, organization_id, currency, time_zone, term)
SELECT agreement_id, organization_id, currency, time_zone, daterange(min(starts_on), CASE WHEN count(*) = count(until) THEN max(until) END)
FROM taken_over GROUP BY agreement_id, organization_id, currency, time_zone;
INSERT INTO billing.agreement_items (
    id, agreement_id, organization_id, currency, product_id, kind, price_id, plan_id, term, basis, included
)
SELECT
    md5(t.id::text || p.product)::uuid, t.agreement_id, t.organization_id, t.currency, p.product_id, p.kind, p.id,
    (SELECT id FROM billing.plans WHERE id = t.plan_id), t.term, CASE WHEN p.kind = 'device' THEN 'reporting' END,
    CASE WHEN p.kind = 'api_calls' THEN t.api_calls_included ELSE 0 END
FROM taken_over AS t JOIN taken_over_prices AS p USING (plan_id, version);

CREATE VIEW billing.agreement_documents AS
SELECT a.id, a.organization_id, a.term, jsonb_strip_nulls(jsonb_build_object(
    'id', a.id, 'organization_id', a.organization_id, 'currency', a.currency, 'time_zone', a.time_zone,
    'purchase_order', a.purchase_order,
    'term', jsonb_build_object('from', lower(a.term), 'to', upper(a.term)),
    'tax', jsonb_build_object('category', a.tax_category, 'rate', a.tax_rate::text),
    'bill_to', (
        SELECT jsonb_build_object('name', p.name, 'address', p.address, 'tax_id', p.tax_id)
        FROM billing.parties AS p WHERE p.id = a.bill_to
    ),
    'items', coalesce(i.items, '[]')
)) AS document
FROM billing.agreements AS a
LEFT JOIN (
    SELECT i.agreement_id, jsonb_agg(jsonb_build_object(
        'id', i.id, 'product', p.name, 'kind', i.kind, 'description', i.description, 'from', lower(i.term), 'to', upper(i.term),
        'quantity', i.quantity::text, 'basis', i.basis, 'included', i.included::text,
        'filter', CASE WHEN i.kind = 'device' THEN
            jsonb_build_object('classes', i.classes, 'sites', i.sites, 'tags', i.tags, 'without_tags', i.without_tags) END,
        'minimum_quantity', i.minimum_quantity::text, 'minimum_amount', i.minimum_amount::text,
        'proration', i.proration, 'billed', i.billed,
        'not_billed_statuses', p.not_billed_statuses, 'carried_forward_days', p.carried_forward_days,
        'tax', CASE WHEN i.tax_category IS NOT NULL THEN jsonb_build_object('category', i.tax_category, 'rate', i.tax_rate::text) END,
        'prices', v.prices, 'discounts', coalesce(d.discounts, '[]')
    ) ORDER BY p.name, lower(i.term), i.id) AS items
    FROM billing.agreement_items AS i
    JOIN billing.products AS p ON p.id = i.product_id
    JOIN (
        SELECT price_id, jsonb_agg(jsonb_build_object(
            'version', version, 'from', used_from, 'model', model, 'amount', amount::text, 'size', size::text, 'published_at', published_at,
            'tiers', coalesce((
                SELECT jsonb_agg(jsonb_build_object('price', price::text, 'up_to', tier_limits[number]::text) ORDER BY number)
                FROM unnest(tier_prices) WITH ORDINALITY AS t (price, number)
            ), '[]')
        ) ORDER BY version) AS prices
        FROM billing.price_versions GROUP BY price_id
    ) AS v ON v.price_id = i.price_id
    LEFT JOIN (
        SELECT item_id, jsonb_agg(jsonb_build_object('from', lower(term), 'to', upper(term), 'percent', percent::text) ORDER BY term) AS discounts
        FROM billing.discounts GROUP BY item_id
    ) AS d ON d.item_id = i.id
    GROUP BY i.agreement_id
) AS i ON i.agreement_id = a.id;
COMMENT ON VIEW billing.agreement_documents IS 'Each agreement as the JSON that ninjait billing rate takes (docs/schemas/agreement.json). Grain: agreement.';

-- The pipeline reads what is agreed, and writes invoices alone.
DO $rights$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'ninjait_pipelines') THEN
        REVOKE INSERT, UPDATE, DELETE ON
            billing.currencies, billing.parties, billing.products, billing.prices, billing.price_versions, billing.plans,
            billing.plan_items, billing.agreements, billing.agreement_items, billing.discounts, billing.device_terms,
            billing.agreement_documents
            FROM ninjait_pipelines
        ; ALTER DEFAULT PRIVILEGES IN SCHEMA billing REVOKE INSERT, UPDATE, DELETE ON TABLES FROM ninjait_pipelines
    ; END IF
; END $rights$;

-- migrate: down
DO $rights$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'ninjait_pipelines') THEN
        ALTER DEFAULT PRIVILEGES IN SCHEMA billing GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO ninjait_pipelines
    ; END IF
; END $rights$;
DROP VIEW IF EXISTS billing.agreement_documents;
DROP TRIGGER IF EXISTS follow_device ON devices;
DROP FUNCTION IF EXISTS billing.follow_device;
DROP TABLE IF EXISTS billing.device_terms;
DROP FUNCTION IF EXISTS billing.subscribe;
DROP TABLE IF EXISTS billing.plan_items;
DROP TABLE IF EXISTS billing.discounts;
DROP TABLE IF EXISTS billing.agreement_items;
DROP FUNCTION IF EXISTS billing.check_item;
DROP TABLE IF EXISTS billing.agreements;
DROP TABLE IF EXISTS billing.plans;
DROP TABLE IF EXISTS billing.price_versions;
DROP FUNCTION IF EXISTS billing.tiers_ascend;
DROP TABLE IF EXISTS billing.prices;
DROP TABLE IF EXISTS billing.products;
DROP TABLE IF EXISTS billing.parties;
DROP FUNCTION IF EXISTS billing.are_texts;
DROP FUNCTION IF EXISTS billing.refuse_change;
DROP FUNCTION IF EXISTS billing.check_term;
DROP FUNCTION IF EXISTS billing.check_numbers;
DROP TABLE IF EXISTS billing.currencies;
