-- What was sent to the tools in which a provider keeps its customers' agreements, so that a later export has only what changed.

-- migrate: up
CREATE SEQUENCE billing.export_batches;
COMMENT ON SEQUENCE billing.export_batches IS 'A number for each export, in the order in which they were recorded.';
CREATE TABLE billing.exports (
    batch bigint NOT NULL,
    key uuid NOT NULL,
    organization_id uuid NOT NULL REFERENCES organizations (id),
    period date NOT NULL,
    hash text NOT NULL CONSTRAINT hash_is_a_sha256 CHECK (hash ~ '^[0-9a-f]{64}$'),
    sent jsonb NOT NULL,
    sent_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (batch, key)
);
COMMENT ON TABLE billing.exports IS 'Rows of ninjait billing export that were sent. Of each key the newest batch says what the receiver has. Grain: batch and row.';
COMMENT ON COLUMN billing.exports.batch IS 'The export.';
COMMENT ON COLUMN billing.exports.key IS 'The row, the same in every export: agreement, month, item, first day, price version and kind of line.';
COMMENT ON COLUMN billing.exports.organization_id IS 'The organization that the row belongs to.';
COMMENT ON COLUMN billing.exports.period IS 'The first day of the month.';
COMMENT ON COLUMN billing.exports.hash IS 'SHA-256 of what the row says, in hexadecimal.';
COMMENT ON COLUMN billing.exports.sent IS 'The row as it was sent.';
COMMENT ON COLUMN billing.exports.sent_at IS 'When it was recorded, right after the file was written.';
ALTER SEQUENCE billing.export_batches OWNED BY billing.exports.batch;
CREATE INDEX exports_by_period ON billing.exports (period, key, batch DESC);
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON billing.exports
    FOR EACH ROW EXECUTE FUNCTION billing.refuse_change('what was sent stays recorded; export again');

DO $rights$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'ninjait_pipelines') THEN
        GRANT SELECT, INSERT ON billing.exports TO ninjait_pipelines
        ; GRANT USAGE ON SEQUENCE billing.export_batches TO ninjait_pipelines
    ; END IF
; END $rights$;

-- migrate: down
DROP TABLE IF EXISTS billing.exports;
