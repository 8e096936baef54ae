-- Marts are read without FINAL: each version is inserted once, whatever is repeated, and rows that 0.3.0 replaced and did not
-- delete are merged away here, once. OPTIMIZE rewrites each table, a partition at a time: minutes, and the space of its largest
-- partition. A device's hours are found by its id alone: the index tells which granules have it.

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

-- migrate: down
-- What was merged stays so: no reader saw it.
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
