-- Times and prices that can be computed with: psycopg raises for infinity and for years BC, ClickHouse's copies begin in
-- 1900 (dates in 1970) and end in 2299 (dates in 2149), and NaN passes for a number that is not negative.

-- migrate: up
ALTER TABLE organizations ADD CONSTRAINT organizations_times CHECK (
    created_at >= '1900-01-01Z' AND created_at < '2299-12-31Z'
    AND deactivated_at >= '1900-01-01Z' AND deactivated_at < '2299-12-31Z'
) NOT VALID;
ALTER TABLE users ADD CONSTRAINT users_times CHECK (
    created_at >= '1900-01-01Z' AND created_at < '2299-12-31Z'
    AND deactivated_at >= '1900-01-01Z' AND deactivated_at < '2299-12-31Z'
) NOT VALID;
ALTER TABLE devices ADD CONSTRAINT devices_times CHECK (
    registered_at >= '1900-01-01Z' AND registered_at < '2299-12-31Z'
    AND retired_at >= '1900-01-01Z' AND retired_at < '2299-12-31Z'
) NOT VALID;
ALTER TABLE tickets ADD CONSTRAINT tickets_times CHECK (
    created_at >= '1900-01-01Z' AND created_at < '2299-12-31Z'
) NOT VALID;
ALTER TABLE ticket_history ADD CONSTRAINT ticket_history_times CHECK (
    occurred_at >= '1900-01-01Z' AND occurred_at < '2299-12-31Z'
) NOT VALID;
-- A contract without an end has null, not a far day.
ALTER TABLE contracts ADD CONSTRAINT contracts_times CHECK (
    starts_on >= '1970-01-01' AND starts_on <= '2149-06-06' AND ends_on >= '1970-01-01' AND ends_on <= '2149-06-06'
) NOT VALID;
ALTER TABLE price_plans ADD CONSTRAINT price_plans_numbers CHECK (
    'NaN' NOT IN (
        base_fee, device_month_price, storage_gb_month_price, backup_gb_month_price, api_calls_thousand_price
    )
) NOT VALID;
-- Rows that are there and wrong must not stop the migration. Where there are any the constraint stays NOT VALID, which
-- refuses new ones only, and the check rows_keep_the_constraints names the old ones.
DO $validate$
DECLARE one record
; BEGIN
    FOR one IN
        SELECT conrelid::regclass AS relation, conname AS name FROM pg_constraint
        WHERE conname IN (
            'organizations_times', 'users_times', 'devices_times', 'tickets_times', 'ticket_history_times',
            'contracts_times', 'price_plans_numbers'
        ) AND connamespace = current_schema()::regnamespace
    LOOP
        BEGIN
            EXECUTE format('ALTER TABLE %s VALIDATE CONSTRAINT %I', one.relation, one.name)
        ; EXCEPTION WHEN check_violation THEN NULL
        ; END
    ; END LOOP
; END $validate$;

-- migrate: down
ALTER TABLE price_plans DROP CONSTRAINT IF EXISTS price_plans_numbers;
ALTER TABLE contracts DROP CONSTRAINT IF EXISTS contracts_times;
ALTER TABLE ticket_history DROP CONSTRAINT IF EXISTS ticket_history_times;
ALTER TABLE tickets DROP CONSTRAINT IF EXISTS tickets_times;
ALTER TABLE devices DROP CONSTRAINT IF EXISTS devices_times;
ALTER TABLE users DROP CONSTRAINT IF EXISTS users_times;
ALTER TABLE organizations DROP CONSTRAINT IF EXISTS organizations_times;
