-- Does ClickHouse take a write? Every drain asks before it takes a message: a full disk still answers every question.

-- migrate: up
CREATE TABLE IF NOT EXISTS write_probes (
    probed_by LowCardinality(String) COMMENT 'Who asked',
    probed_at DateTime('UTC') DEFAULT now() COMMENT 'When, UTC'
)
ENGINE = ReplacingMergeTree(probed_at)
ORDER BY probed_by
TTL probed_at + INTERVAL 1 DAY
COMMENT 'Rows that are written to see whether they can be; they mean nothing else, and go after a day. Grain: who asks.';

-- migrate: down
DROP TABLE IF EXISTS write_probes;
