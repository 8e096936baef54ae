-- Marts are read without FINAL: each version is inserted once, whatever is repeated; rows that 0.3.0 replaced and did not
-- delete are merged away here, once; and each slice that 0.3.0 wrote gets a marker, so that its next version hides it.
-- OPTIMIZE rewrites each table, a partition at a time: minutes, and the space of its largest partition. A device's hours are
-- found by its id alone: the index tells which granules have it.

-- migrate: up
ALTER TABLE device_metrics_hourly_versions ADD INDEX IF NOT EXISTS device device_id TYPE bloom_filter(0.01) GRANULARITY 1;
ALTER TABLE organizations_versions MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE users_versions MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE devices_versions MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE contracts_versions MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE device_metrics_hourly_versions MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE ticket_events_versions MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE ticket_facts_versions MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE technician_performance_versions MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE billing_quantities_versions MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE invoices_versions MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE invoice_lines_versions MODIFY SETTING non_replicated_deduplication_window = 1000;

OPTIMIZE TABLE organizations_versions FINAL SETTINGS optimize_throw_if_noop = 1;
OPTIMIZE TABLE users_versions FINAL SETTINGS optimize_throw_if_noop = 1;
OPTIMIZE TABLE devices_versions FINAL SETTINGS optimize_throw_if_noop = 1;
OPTIMIZE TABLE contracts_versions FINAL SETTINGS optimize_throw_if_noop = 1;
OPTIMIZE TABLE device_metrics_hourly_versions FINAL SETTINGS optimize_throw_if_noop = 1;
OPTIMIZE TABLE ticket_events_versions FINAL SETTINGS optimize_throw_if_noop = 1;
OPTIMIZE TABLE ticket_facts_versions FINAL SETTINGS optimize_throw_if_noop = 1;
OPTIMIZE TABLE technician_performance_versions FINAL SETTINGS optimize_throw_if_noop = 1;
OPTIMIZE TABLE billing_quantities_versions FINAL SETTINGS optimize_throw_if_noop = 1;
OPTIMIZE TABLE invoices_versions FINAL SETTINGS optimize_throw_if_noop = 1;
OPTIMIZE TABLE invoice_lines_versions FINAL SETTINGS optimize_throw_if_noop = 1;

INSERT INTO organizations_versions (id, slug, as_of)
SELECT generateUUIDv4(), concat('version of ', toString(max(as_of))), max(as_of)
FROM organizations_versions
HAVING count() > 0 AND countIf(startsWith(slug, 'version of ')) = 0;

INSERT INTO users_versions (id, as_of)
SELECT generateUUIDv4(), max(as_of)
FROM users_versions
HAVING count() > 0 AND countIf(organization_id = toUUID('00000000-0000-0000-0000-000000000000')) = 0;

INSERT INTO devices_versions (id, as_of)
SELECT generateUUIDv4(), max(as_of)
FROM devices_versions
HAVING count() > 0 AND countIf(organization_id = toUUID('00000000-0000-0000-0000-000000000000')) = 0;

INSERT INTO contracts_versions (id, as_of)
SELECT generateUUIDv4(), max(as_of)
FROM contracts_versions
HAVING count() > 0 AND countIf(organization_id = toUUID('00000000-0000-0000-0000-000000000000')) = 0;

INSERT INTO device_metrics_hourly_versions (device_id, timestamp, as_of)
SELECT generateUUIDv4(), timestamp, max(as_of)
FROM device_metrics_hourly_versions
GROUP BY timestamp HAVING countIf(organization_id = toUUID('00000000-0000-0000-0000-000000000000')) = 0;

INSERT INTO ticket_events_versions (event_id, timestamp, as_of)
SELECT generateUUIDv4(), toDate(timestamp), max(as_of)
FROM ticket_events_versions
GROUP BY toDate(timestamp) HAVING countIf(organization_id = toUUID('00000000-0000-0000-0000-000000000000')) = 0;

INSERT INTO ticket_facts_versions (ticket_id, day, as_of)
SELECT generateUUIDv4(), day, max(as_of)
FROM ticket_facts_versions
GROUP BY day HAVING countIf(organization_id = toUUID('00000000-0000-0000-0000-000000000000')) = 0;

INSERT INTO technician_performance_versions (technician_id, day, as_of)
SELECT generateUUIDv4(), day, max(as_of)
FROM technician_performance_versions
GROUP BY day HAVING countIf(organization_id = toUUID('00000000-0000-0000-0000-000000000000')) = 0;

INSERT INTO billing_quantities_versions (kind, local_day, as_of)
SELECT concat('version of ', toString(max(as_of))), local_day, max(as_of)
FROM billing_quantities_versions
GROUP BY local_day HAVING countIf(organization_id = toUUID('00000000-0000-0000-0000-000000000000')) = 0;

INSERT INTO invoices_versions (id, period_starts_on, as_of)
SELECT generateUUIDv4(), period_starts_on, max(as_of)
FROM invoices_versions
GROUP BY period_starts_on HAVING countIf(organization_id = toUUID('00000000-0000-0000-0000-000000000000')) = 0;

INSERT INTO invoice_lines_versions (invoice_id, period_starts_on, as_of)
SELECT generateUUIDv4(), period_starts_on, max(as_of)
FROM invoice_lines_versions
GROUP BY period_starts_on HAVING countIf(organization_id = toUUID('00000000-0000-0000-0000-000000000000')) = 0;

-- migrate: down
-- What was merged stays so, and the markers stay: no reader sees either.
ALTER TABLE invoice_lines_versions RESET SETTING non_replicated_deduplication_window;
ALTER TABLE invoices_versions RESET SETTING non_replicated_deduplication_window;
ALTER TABLE billing_quantities_versions RESET SETTING non_replicated_deduplication_window;
ALTER TABLE technician_performance_versions RESET SETTING non_replicated_deduplication_window;
ALTER TABLE ticket_facts_versions RESET SETTING non_replicated_deduplication_window;
ALTER TABLE ticket_events_versions RESET SETTING non_replicated_deduplication_window;
ALTER TABLE device_metrics_hourly_versions RESET SETTING non_replicated_deduplication_window;
ALTER TABLE contracts_versions RESET SETTING non_replicated_deduplication_window;
ALTER TABLE devices_versions RESET SETTING non_replicated_deduplication_window;
ALTER TABLE users_versions RESET SETTING non_replicated_deduplication_window;
ALTER TABLE organizations_versions RESET SETTING non_replicated_deduplication_window;
ALTER TABLE device_metrics_hourly_versions DROP INDEX IF EXISTS device;
