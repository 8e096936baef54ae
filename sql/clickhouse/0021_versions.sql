-- Each mart is described once, at its storage: what it is, its grain, and what a version of it replaces. `migrate up` makes
-- the views from that and from the storage's columns (resources/clickhouse_versions.py); no migration writes one again.

-- migrate: up
ALTER TABLE device_heartbeats_versions MODIFY COMMENT 'Heartbeats of the agents. Grain: one message. Versions: by row.';
ALTER TABLE api_calls_versions MODIFY COMMENT 'Calls of the platform''s API. Grain: one call. Versions: by row.';
ALTER TABLE usage_reports_versions MODIFY COMMENT 'Storage and backups as measured. Grain: one measurement. Versions: by row.';
ALTER TABLE organizations_versions MODIFY COMMENT 'Copy of PostgreSQL''s organizations. Grain: one organization. Versions: whole.';
ALTER TABLE users_versions MODIFY COMMENT 'Copy of PostgreSQL''s users. Grain: one user. Versions: whole.';
ALTER TABLE devices_versions MODIFY COMMENT 'Copy of PostgreSQL''s devices. Grain: one device. Versions: whole.';
ALTER TABLE contracts_versions MODIFY COMMENT 'Copy of PostgreSQL''s contracts with their plan. Grain: one contract. Versions: whole.';
ALTER TABLE device_metrics_hourly_versions MODIFY COMMENT 'Device metrics by the hour. Grain: one device and hour in which it sent at least one sample. Versions: by timestamp where sample_count > 0.';
ALTER TABLE ticket_events_versions MODIFY COMMENT 'What happened to tickets. Grain: one event. Versions: by toDate(timestamp).';
ALTER TABLE ticket_facts_versions MODIFY COMMENT 'Tickets as they stood at the end of each day on which something happened to them. Grain: ticket and day. Versions: by day.';
ALTER TABLE technician_performance_versions MODIFY COMMENT 'Closed tickets by technician. Grain: technician and UTC day with at least one closing. Versions: by day.';
ALTER TABLE billing_quantities_versions MODIFY COMMENT 'Billable quantities. Grain: organization, local day and kind. Versions: by local_day.';
ALTER TABLE invoices_versions MODIFY COMMENT 'Invoices, as in PostgreSQL''s billing.invoices. Grain: contract and local month. Versions: by period_starts_on.';
ALTER TABLE invoice_lines_versions MODIFY COMMENT 'Lines of the invoices. Grain: one line. Versions: by period_starts_on.';

-- migrate: down
-- The views stay: they read what those that migrations wrote read.
ALTER TABLE invoice_lines_versions MODIFY COMMENT 'Storage of invoice_lines: read that view instead, here stand replaced versions too.';
ALTER TABLE invoices_versions MODIFY COMMENT 'Storage of invoices: read that view instead, here stand replaced versions too.';
ALTER TABLE billing_quantities_versions MODIFY COMMENT 'Storage of billing_quantities: read that view instead, here stand replaced versions too.';
ALTER TABLE technician_performance_versions MODIFY COMMENT 'Storage of technician_performance: read that view instead, here stand replaced versions too.';
ALTER TABLE ticket_facts_versions MODIFY COMMENT 'Storage of ticket_facts: read that view instead, here stand replaced versions too.';
ALTER TABLE ticket_events_versions MODIFY COMMENT 'Storage of ticket_events: read that view instead, here stand replaced versions too.';
ALTER TABLE device_metrics_hourly_versions MODIFY COMMENT 'Storage of device_metrics_hourly: read that view instead, here stand replaced versions too.';
ALTER TABLE contracts_versions MODIFY COMMENT 'Storage of contracts: read that view instead, here stand replaced versions too.';
ALTER TABLE devices_versions MODIFY COMMENT 'Storage of devices: read that view instead, here stand replaced versions too.';
ALTER TABLE users_versions MODIFY COMMENT 'Storage of users: read that view instead, here stand replaced versions too.';
ALTER TABLE organizations_versions MODIFY COMMENT 'Storage of organizations: read that view instead, here stand replaced versions too.';
ALTER TABLE usage_reports_versions MODIFY COMMENT 'Storage of usage_reports: read that view instead, here stand replaced versions too.';
ALTER TABLE api_calls_versions MODIFY COMMENT 'Storage of api_calls: read that view instead, here stand replaced versions too.';
ALTER TABLE device_heartbeats_versions MODIFY COMMENT 'Storage of device_heartbeats: read that view instead, here stand replaced versions too.';
