-- Versions of a slice are fenced: readers see the newest whole one, and an older run that writes late changes nothing.
--
-- `replace_slice` writes, in one block with a slice's rows, a marker: a row of no organization (all zeros; of the table
-- organizations, one whose slug no organization can have) that says which version of which slice this is. A view shows
-- no markers, and no rows of a version whose slice has a newer marker. Rows without a marker, of before this migration,
-- are seen until the next version of their slice.
--
-- With each query a view reads the markers of all slices: a short range at the front of the sort key. Where no slice has
-- two, which is nearly always, the rest of the condition is constant, and the read is a FINAL and no more.

-- migrate: up
CREATE OR REPLACE VIEW organizations (
    id UUID COMMENT 'The organization',
    name String COMMENT 'Its name',
    slug String COMMENT 'Its short name',
    time_zone LowCardinality(String) COMMENT 'IANA time zone; billing days are local to it',
    created_at DateTime64(3, 'UTC') COMMENT 'Since when',
    deactivated_at Nullable(DateTime64(3, 'UTC')) COMMENT 'Until when',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT id, name, slug, time_zone, created_at, deactivated_at, as_of
FROM organizations_versions FINAL
WHERE NOT startsWith(slug, 'version of ') AND (
    ifNull((SELECT max(n) FROM (SELECT uniqExact(as_of) AS n FROM organizations_versions WHERE startsWith(slug, 'version of '))), 0) <= 1
    OR as_of NOT IN (
        SELECT arrayJoin(arrayPopBack(arraySort(groupUniqArray(as_of))))
        FROM organizations_versions WHERE startsWith(slug, 'version of ')
    )
)
COMMENT 'Copy of PostgreSQL''s organizations. Grain: one organization.';

CREATE OR REPLACE VIEW users (
    id UUID COMMENT 'The user',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    full_name String COMMENT 'Name; no e-mail address is copied',
    role LowCardinality(String) COMMENT 'owner, admin, technician or customer',
    created_at DateTime64(3, 'UTC') COMMENT 'Since when',
    deactivated_at Nullable(DateTime64(3, 'UTC')) COMMENT 'Until when',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT id, organization_id, full_name, role, created_at, deactivated_at, as_of
FROM users_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000') AND (
    ifNull((SELECT max(n) FROM (SELECT uniqExact(as_of) AS n FROM users_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000'))), 0) <= 1
    OR as_of NOT IN (
        SELECT arrayJoin(arrayPopBack(arraySort(groupUniqArray(as_of))))
        FROM users_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000')
    )
)
COMMENT 'Copy of PostgreSQL''s users. Grain: one user.';

CREATE OR REPLACE VIEW devices (
    id UUID COMMENT 'The device',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    hostname String COMMENT 'Its name in the organization',
    kind LowCardinality(String) COMMENT 'server, workstation or laptop',
    operating_system LowCardinality(String) COMMENT 'As registered',
    registered_at DateTime64(3, 'UTC') COMMENT 'Since when',
    retired_at Nullable(DateTime64(3, 'UTC')) COMMENT 'Until when',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT id, organization_id, hostname, kind, operating_system, registered_at, retired_at, as_of
FROM devices_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000') AND (
    ifNull((SELECT max(n) FROM (SELECT uniqExact(as_of) AS n FROM devices_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000'))), 0) <= 1
    OR as_of NOT IN (
        SELECT arrayJoin(arrayPopBack(arraySort(groupUniqArray(as_of))))
        FROM devices_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000')
    )
)
COMMENT 'Copy of PostgreSQL''s devices. Grain: one device.';

CREATE OR REPLACE VIEW contracts (
    id UUID COMMENT 'The contract',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    price_plan_id UUID COMMENT 'Its price plan',
    price_plan_version UInt32 COMMENT 'The version of the plan that it was signed for',
    price_plan_name String COMMENT 'The plan''s name',
    currency LowCardinality(String) COMMENT 'ISO 4217 code',
    starts_on Date COMMENT 'First local day',
    ends_on Nullable(Date) COMMENT 'First local day after it, null while open',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT id, organization_id, price_plan_id, price_plan_version, price_plan_name, currency, starts_on, ends_on, as_of
FROM contracts_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000') AND (
    ifNull((SELECT max(n) FROM (SELECT uniqExact(as_of) AS n FROM contracts_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000'))), 0) <= 1
    OR as_of NOT IN (
        SELECT arrayJoin(arrayPopBack(arraySort(groupUniqArray(as_of))))
        FROM contracts_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000')
    )
)
COMMENT 'Copy of PostgreSQL''s contracts with their plan. Grain: one contract.';

CREATE OR REPLACE VIEW device_metrics_hourly (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    hour DateTime('UTC') COMMENT 'Start of the hour, UTC',
    cpu_avg Nullable(Float64) COMMENT 'Mean CPU use, percent of all cores',
    cpu_max Nullable(Float64) COMMENT 'Greatest CPU use, percent of all cores',
    cpu_count Nullable(UInt32) COMMENT 'Samples that carry cpu: the weight of cpu_avg in means over devices or hours; null in rows computed before 0.4.0',
    memory_avg Nullable(Float64) COMMENT 'Mean memory in use, MiB',
    memory_max Nullable(Float64) COMMENT 'Greatest memory in use, MiB',
    memory_count Nullable(UInt32) COMMENT 'Samples that carry memory: the weight of memory_avg; null in rows computed before 0.4.0',
    memory_total Nullable(Float64) COMMENT 'Memory that the device has, at the last sample that says so, MiB',
    disk_usage Nullable(Float64) COMMENT 'In use on all fixed local volumes at the last sample, each counted once, MiB',
    disk_total Nullable(Float64) COMMENT 'Size of all fixed local volumes at the last sample, MiB; null where no sender says',
    disk_free Nullable(Float64) COMMENT 'Free on all fixed local volumes at the last sample, MiB; null where no sender says',
    network_in Nullable(Float64) COMMENT 'Bytes received in the hour, by one sender''s readings',
    network_out Nullable(Float64) COMMENT 'Bytes sent in the hour, by one sender''s readings',
    uptime Nullable(Float64) COMMENT 'Seconds since boot at the last sample',
    sample_count UInt32 COMMENT 'Samples that the hour has; readings of counters and of volumes count apart',
    sample_share Float64 COMMENT 'Share of the hour that its samples cover, 0 to 1: minutes with a sample, each counted as long as the sender''s interval, of 60',
    several_senders Nullable(Bool) COMMENT 'Whether several machines or agents write as this device; null in rows computed before 0.4.0',
    source_tier LowCardinality(String) COMMENT 'The tier that the row was made from',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT organization_id, device_id, hour, cpu_avg, cpu_max, cpu_count, memory_avg, memory_max, memory_count, memory_total, disk_usage, disk_total, disk_free, network_in, network_out, uptime, sample_count, sample_share, several_senders, source_tier, as_of
FROM device_metrics_hourly_versions FINAL
WHERE sample_count > 0 AND (
    ifNull((SELECT max(n) FROM (SELECT uniqExact(as_of) AS n FROM device_metrics_hourly_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY hour)), 0) <= 1
    OR (hour, as_of) NOT IN (
        SELECT hour, arrayJoin(arrayPopBack(arraySort(groupUniqArray(as_of))))
        FROM device_metrics_hourly_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY hour
    )
)
COMMENT 'Device metrics by the hour. Grain: one device and hour in which it sent at least one sample.';

CREATE OR REPLACE VIEW ticket_events (
    event_id UUID COMMENT 'Row of PostgreSQL''s ticket_history',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    ticket_id UUID COMMENT 'The ticket',
    actor_id UUID COMMENT 'Who did it',
    event LowCardinality(String) COMMENT 'created, assigned, responded, status_changed, priority_changed or commented',
    old_value Nullable(String) COMMENT 'Value before',
    new_value Nullable(String) COMMENT 'Value after',
    occurred_at DateTime64(3, 'UTC') COMMENT 'When, UTC',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT event_id, organization_id, ticket_id, actor_id, event, old_value, new_value, occurred_at, as_of
FROM ticket_events_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000') AND (
    ifNull((SELECT max(n) FROM (SELECT uniqExact(as_of) AS n FROM ticket_events_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY toDate(occurred_at))), 0) <= 1
    OR (toDate(occurred_at), as_of) NOT IN (
        SELECT toDate(occurred_at), arrayJoin(arrayPopBack(arraySort(groupUniqArray(as_of))))
        FROM ticket_events_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY toDate(occurred_at)
    )
)
COMMENT 'What happened to tickets. Grain: one event.';

CREATE OR REPLACE VIEW ticket_facts (
    day Date COMMENT 'A UTC day on which something happened to the ticket',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    ticket_id UUID COMMENT 'The ticket',
    number UInt32 COMMENT 'Its number in the organization',
    assignee_id Nullable(UUID) COMMENT 'Assignee at the end of the day',
    priority LowCardinality(String) COMMENT 'Priority at the end of the day',
    status LowCardinality(String) COMMENT 'Status at the end of the day',
    created_at DateTime64(3, 'UTC') COMMENT 'When it was created',
    first_responded_at Nullable(DateTime64(3, 'UTC')) COMMENT 'First response by somebody other than the requester, by the end of the day',
    closed_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When it was last closed, null while it is not',
    closed_assignee_id Nullable(UUID) COMMENT 'Assignee when it was last closed, null while it is not closed or where nobody had it',
    first_response_minutes Nullable(Float64) COMMENT 'Wall-clock minutes from creation to first response',
    hours_to_close Nullable(Float64) COMMENT 'Wall-clock hours from creation to closing',
    first_response_target_minutes Nullable(UInt32) COMMENT 'Target for the priority, null where none is agreed',
    resolution_target_minutes Nullable(UInt32) COMMENT 'Target for the priority, null where none is agreed',
    first_response_breached Bool COMMENT 'The first response, or without one the closing, or without one the end of the day, came after the target',
    resolution_breached Bool COMMENT 'The closing, or without one the end of the day, came after the target',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT day, organization_id, ticket_id, number, assignee_id, priority, status, created_at, first_responded_at, closed_at, closed_assignee_id, first_response_minutes, hours_to_close, first_response_target_minutes, resolution_target_minutes, first_response_breached, resolution_breached, as_of
FROM ticket_facts_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000') AND (
    ifNull((SELECT max(n) FROM (SELECT uniqExact(as_of) AS n FROM ticket_facts_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY day)), 0) <= 1
    OR (day, as_of) NOT IN (
        SELECT day, arrayJoin(arrayPopBack(arraySort(groupUniqArray(as_of))))
        FROM ticket_facts_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY day
    )
)
COMMENT 'Tickets as they stood at the end of each day on which something happened to them. Grain: ticket and day.';

CREATE OR REPLACE VIEW technician_performance (
    day Date COMMENT 'The UTC day of the closings',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    technician_id UUID COMMENT 'Assignee of the tickets when they were closed',
    tickets_closed UInt32 COMMENT 'Tickets closed on the day',
    mean_hours_to_close Float64 COMMENT 'Mean wall-clock hours from creation to closing',
    median_hours_to_close Float64 COMMENT 'Median of the same',
    mean_first_response_minutes Nullable(Float64) COMMENT 'Mean wall-clock minutes to first response, of those that had one',
    first_response_breaches UInt32 COMMENT 'Of them, with a late first response',
    resolution_breaches UInt32 COMMENT 'Of them, closed late',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT day, organization_id, technician_id, tickets_closed, mean_hours_to_close, median_hours_to_close, mean_first_response_minutes, first_response_breaches, resolution_breaches, as_of
FROM technician_performance_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000') AND (
    ifNull((SELECT max(n) FROM (SELECT uniqExact(as_of) AS n FROM technician_performance_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY day)), 0) <= 1
    OR (day, as_of) NOT IN (
        SELECT day, arrayJoin(arrayPopBack(arraySort(groupUniqArray(as_of))))
        FROM technician_performance_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY day
    )
)
COMMENT 'Closed tickets by technician. Grain: technician and UTC day with at least one closing.';

CREATE OR REPLACE VIEW billing_events (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    local_day Date COMMENT 'The day in the organization''s time zone',
    kind LowCardinality(String) COMMENT 'devices, storage, backup or api_calls',
    quantity Decimal(20, 6) COMMENT 'devices: devices with a sample on the day; storage, backup: GB at the last report of the day or the 7 days before; api_calls: calls',
    unit LowCardinality(String) COMMENT 'device-days, GB or calls',
    contract_id UUID COMMENT 'The contract in force on the day',
    price_plan_id UUID COMMENT 'Its price plan',
    price_plan_version UInt32 COMMENT 'Its version of the plan',
    window_start DateTime('UTC') COMMENT 'Start of the local day, UTC',
    window_end DateTime('UTC') COMMENT 'End of the local day, UTC, exclusive',
    completeness Float64 COMMENT 'Share of the day''s hours that had been rolled up',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT organization_id, local_day, kind, quantity, unit, contract_id, price_plan_id, price_plan_version, window_start, window_end, completeness, as_of
FROM billing_events_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000') AND (
    ifNull((SELECT max(n) FROM (SELECT uniqExact(as_of) AS n FROM billing_events_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY local_day)), 0) <= 1
    OR (local_day, as_of) NOT IN (
        SELECT local_day, arrayJoin(arrayPopBack(arraySort(groupUniqArray(as_of))))
        FROM billing_events_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY local_day
    )
)
COMMENT 'Billable quantities. Grain: organization, local day and kind.';

CREATE OR REPLACE VIEW invoices (
    id UUID COMMENT 'The invoice',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    contract_id UUID COMMENT 'The contract',
    price_plan_id UUID COMMENT 'Its price plan',
    price_plan_version UInt32 COMMENT 'Its version of the plan',
    period_starts_on Date COMMENT 'First local day',
    period_ends_on Date COMMENT 'First local day after it',
    period_start DateTime64(3, 'UTC') COMMENT 'The same, UTC',
    period_end DateTime64(3, 'UTC') COMMENT 'The same, UTC, exclusive',
    status LowCardinality(String) COMMENT 'draft',
    currency LowCardinality(String) COMMENT 'ISO 4217 code',
    total Decimal(14, 2) COMMENT 'Sum of the lines',
    days_covered UInt16 COMMENT 'Of those, days with complete billing events',
    days_in_period UInt16 COMMENT 'Days of the period on which the contract was in force',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT id, organization_id, contract_id, price_plan_id, price_plan_version, period_starts_on, period_ends_on, period_start, period_end, status, currency, total, days_covered, days_in_period, as_of
FROM invoices_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000') AND (
    ifNull((SELECT max(n) FROM (SELECT uniqExact(as_of) AS n FROM invoices_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY period_starts_on)), 0) <= 1
    OR (period_starts_on, as_of) NOT IN (
        SELECT period_starts_on, arrayJoin(arrayPopBack(arraySort(groupUniqArray(as_of))))
        FROM invoices_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY period_starts_on
    )
)
COMMENT 'Invoices, as in PostgreSQL''s billing.invoices. Grain: contract and local month.';

CREATE OR REPLACE VIEW invoice_lines (
    invoice_id UUID COMMENT 'The invoice',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    period_starts_on Date COMMENT 'First local day of the invoice',
    line_number UInt16 COMMENT 'From 1',
    kind LowCardinality(String) COMMENT 'base_fee, devices, storage, backup or api_calls',
    description String COMMENT 'For people',
    quantity Decimal(20, 6) COMMENT 'In the unit',
    unit LowCardinality(String) COMMENT 'Of the quantity',
    unit_price Decimal(12, 4) COMMENT 'Of the price plan',
    amount Decimal(14, 2) COMMENT 'Rounded half up, once',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT invoice_id, organization_id, period_starts_on, line_number, kind, description, quantity, unit, unit_price, amount, as_of
FROM invoice_lines_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000') AND (
    ifNull((SELECT max(n) FROM (SELECT uniqExact(as_of) AS n FROM invoice_lines_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY period_starts_on)), 0) <= 1
    OR (period_starts_on, as_of) NOT IN (
        SELECT period_starts_on, arrayJoin(arrayPopBack(arraySort(groupUniqArray(as_of))))
        FROM invoice_lines_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY period_starts_on
    )
)
COMMENT 'Lines of the invoices. Grain: one line.';

-- migrate: down
-- The views go on hiding the markers that are there; of the largest table they are deleted.
CREATE OR REPLACE VIEW organizations (
    id UUID COMMENT 'The organization',
    name String COMMENT 'Its name',
    slug String COMMENT 'Its short name',
    time_zone LowCardinality(String) COMMENT 'IANA time zone; billing days are local to it',
    created_at DateTime64(3, 'UTC') COMMENT 'Since when',
    deactivated_at Nullable(DateTime64(3, 'UTC')) COMMENT 'Until when',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT id, name, slug, time_zone, created_at, deactivated_at, as_of
FROM organizations_versions FINAL
WHERE NOT startsWith(slug, 'version of ')
COMMENT 'Copy of PostgreSQL''s organizations. Grain: one organization.';

CREATE OR REPLACE VIEW users (
    id UUID COMMENT 'The user',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    full_name String COMMENT 'Name; no e-mail address is copied',
    role LowCardinality(String) COMMENT 'owner, admin, technician or customer',
    created_at DateTime64(3, 'UTC') COMMENT 'Since when',
    deactivated_at Nullable(DateTime64(3, 'UTC')) COMMENT 'Until when',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT id, organization_id, full_name, role, created_at, deactivated_at, as_of
FROM users_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000')
COMMENT 'Copy of PostgreSQL''s users. Grain: one user.';

CREATE OR REPLACE VIEW devices (
    id UUID COMMENT 'The device',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    hostname String COMMENT 'Its name in the organization',
    kind LowCardinality(String) COMMENT 'server, workstation or laptop',
    operating_system LowCardinality(String) COMMENT 'As registered',
    registered_at DateTime64(3, 'UTC') COMMENT 'Since when',
    retired_at Nullable(DateTime64(3, 'UTC')) COMMENT 'Until when',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT id, organization_id, hostname, kind, operating_system, registered_at, retired_at, as_of
FROM devices_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000')
COMMENT 'Copy of PostgreSQL''s devices. Grain: one device.';

CREATE OR REPLACE VIEW contracts (
    id UUID COMMENT 'The contract',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    price_plan_id UUID COMMENT 'Its price plan',
    price_plan_version UInt32 COMMENT 'The version of the plan that it was signed for',
    price_plan_name String COMMENT 'The plan''s name',
    currency LowCardinality(String) COMMENT 'ISO 4217 code',
    starts_on Date COMMENT 'First local day',
    ends_on Nullable(Date) COMMENT 'First local day after it, null while open',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT id, organization_id, price_plan_id, price_plan_version, price_plan_name, currency, starts_on, ends_on, as_of
FROM contracts_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000')
COMMENT 'Copy of PostgreSQL''s contracts with their plan. Grain: one contract.';

DELETE FROM device_metrics_hourly_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000');

CREATE OR REPLACE VIEW device_metrics_hourly (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    hour DateTime('UTC') COMMENT 'Start of the hour, UTC',
    cpu_avg Nullable(Float64) COMMENT 'Mean CPU use, percent of all cores',
    cpu_max Nullable(Float64) COMMENT 'Greatest CPU use, percent of all cores',
    cpu_count Nullable(UInt32) COMMENT 'Samples that carry cpu: the weight of cpu_avg in means over devices or hours; null in rows computed before 0.4.0',
    memory_avg Nullable(Float64) COMMENT 'Mean memory in use, MiB',
    memory_max Nullable(Float64) COMMENT 'Greatest memory in use, MiB',
    memory_count Nullable(UInt32) COMMENT 'Samples that carry memory: the weight of memory_avg; null in rows computed before 0.4.0',
    memory_total Nullable(Float64) COMMENT 'Memory that the device has, at the last sample that says so, MiB',
    disk_usage Nullable(Float64) COMMENT 'In use on all fixed local volumes at the last sample, each counted once, MiB',
    disk_total Nullable(Float64) COMMENT 'Size of all fixed local volumes at the last sample, MiB; null where no sender says',
    disk_free Nullable(Float64) COMMENT 'Free on all fixed local volumes at the last sample, MiB; null where no sender says',
    network_in Nullable(Float64) COMMENT 'Bytes received in the hour, by one sender''s readings',
    network_out Nullable(Float64) COMMENT 'Bytes sent in the hour, by one sender''s readings',
    uptime Nullable(Float64) COMMENT 'Seconds since boot at the last sample',
    sample_count UInt32 COMMENT 'Samples that the hour has; readings of counters and of volumes count apart',
    sample_share Float64 COMMENT 'Share of the hour that its samples cover, 0 to 1: minutes with a sample, each counted as long as the sender''s interval, of 60',
    several_senders Nullable(Bool) COMMENT 'Whether several machines or agents write as this device; null in rows computed before 0.4.0',
    source_tier LowCardinality(String) COMMENT 'The tier that the row was made from',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT organization_id, device_id, hour, cpu_avg, cpu_max, cpu_count, memory_avg, memory_max, memory_count, memory_total, disk_usage, disk_total, disk_free, network_in, network_out, uptime, sample_count, sample_share, several_senders, source_tier, as_of
FROM device_metrics_hourly_versions FINAL
COMMENT 'Device metrics by the hour. Grain: one device and hour in which it sent at least one sample.';

CREATE OR REPLACE VIEW ticket_events (
    event_id UUID COMMENT 'Row of PostgreSQL''s ticket_history',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    ticket_id UUID COMMENT 'The ticket',
    actor_id UUID COMMENT 'Who did it',
    event LowCardinality(String) COMMENT 'created, assigned, responded, status_changed, priority_changed or commented',
    old_value Nullable(String) COMMENT 'Value before',
    new_value Nullable(String) COMMENT 'Value after',
    occurred_at DateTime64(3, 'UTC') COMMENT 'When, UTC',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT event_id, organization_id, ticket_id, actor_id, event, old_value, new_value, occurred_at, as_of
FROM ticket_events_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000')
COMMENT 'What happened to tickets. Grain: one event.';

CREATE OR REPLACE VIEW ticket_facts (
    day Date COMMENT 'A UTC day on which something happened to the ticket',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    ticket_id UUID COMMENT 'The ticket',
    number UInt32 COMMENT 'Its number in the organization',
    assignee_id Nullable(UUID) COMMENT 'Assignee at the end of the day',
    priority LowCardinality(String) COMMENT 'Priority at the end of the day',
    status LowCardinality(String) COMMENT 'Status at the end of the day',
    created_at DateTime64(3, 'UTC') COMMENT 'When it was created',
    first_responded_at Nullable(DateTime64(3, 'UTC')) COMMENT 'First response by somebody other than the requester, by the end of the day',
    closed_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When it was last closed, null while it is not',
    closed_assignee_id Nullable(UUID) COMMENT 'Assignee when it was last closed, null while it is not closed or where nobody had it',
    first_response_minutes Nullable(Float64) COMMENT 'Wall-clock minutes from creation to first response',
    hours_to_close Nullable(Float64) COMMENT 'Wall-clock hours from creation to closing',
    first_response_target_minutes Nullable(UInt32) COMMENT 'Target for the priority, null where none is agreed',
    resolution_target_minutes Nullable(UInt32) COMMENT 'Target for the priority, null where none is agreed',
    first_response_breached Bool COMMENT 'The first response, or without one the closing, or without one the end of the day, came after the target',
    resolution_breached Bool COMMENT 'The closing, or without one the end of the day, came after the target',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT day, organization_id, ticket_id, number, assignee_id, priority, status, created_at, first_responded_at, closed_at, closed_assignee_id, first_response_minutes, hours_to_close, first_response_target_minutes, resolution_target_minutes, first_response_breached, resolution_breached, as_of
FROM ticket_facts_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000')
COMMENT 'Tickets as they stood at the end of each day on which something happened to them. Grain: ticket and day.';

CREATE OR REPLACE VIEW technician_performance (
    day Date COMMENT 'The UTC day of the closings',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    technician_id UUID COMMENT 'Assignee of the tickets when they were closed',
    tickets_closed UInt32 COMMENT 'Tickets closed on the day',
    mean_hours_to_close Float64 COMMENT 'Mean wall-clock hours from creation to closing',
    median_hours_to_close Float64 COMMENT 'Median of the same',
    mean_first_response_minutes Nullable(Float64) COMMENT 'Mean wall-clock minutes to first response, of those that had one',
    first_response_breaches UInt32 COMMENT 'Of them, with a late first response',
    resolution_breaches UInt32 COMMENT 'Of them, closed late',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT day, organization_id, technician_id, tickets_closed, mean_hours_to_close, median_hours_to_close, mean_first_response_minutes, first_response_breaches, resolution_breaches, as_of
FROM technician_performance_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000')
COMMENT 'Closed tickets by technician. Grain: technician and UTC day with at least one closing.';

CREATE OR REPLACE VIEW billing_events (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    local_day Date COMMENT 'The day in the organization''s time zone',
    kind LowCardinality(String) COMMENT 'devices, storage, backup or api_calls',
    quantity Decimal(20, 6) COMMENT 'devices: devices with a sample on the day; storage, backup: GB at the last report of the day or the 7 days before; api_calls: calls',
    unit LowCardinality(String) COMMENT 'device-days, GB or calls',
    contract_id UUID COMMENT 'The contract in force on the day',
    price_plan_id UUID COMMENT 'Its price plan',
    price_plan_version UInt32 COMMENT 'Its version of the plan',
    window_start DateTime('UTC') COMMENT 'Start of the local day, UTC',
    window_end DateTime('UTC') COMMENT 'End of the local day, UTC, exclusive',
    completeness Float64 COMMENT 'Share of the day''s hours that had been rolled up',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT organization_id, local_day, kind, quantity, unit, contract_id, price_plan_id, price_plan_version, window_start, window_end, completeness, as_of
FROM billing_events_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000')
COMMENT 'Billable quantities. Grain: organization, local day and kind.';

CREATE OR REPLACE VIEW invoices (
    id UUID COMMENT 'The invoice',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    contract_id UUID COMMENT 'The contract',
    price_plan_id UUID COMMENT 'Its price plan',
    price_plan_version UInt32 COMMENT 'Its version of the plan',
    period_starts_on Date COMMENT 'First local day',
    period_ends_on Date COMMENT 'First local day after it',
    period_start DateTime64(3, 'UTC') COMMENT 'The same, UTC',
    period_end DateTime64(3, 'UTC') COMMENT 'The same, UTC, exclusive',
    status LowCardinality(String) COMMENT 'draft',
    currency LowCardinality(String) COMMENT 'ISO 4217 code',
    total Decimal(14, 2) COMMENT 'Sum of the lines',
    days_covered UInt16 COMMENT 'Of those, days with complete billing events',
    days_in_period UInt16 COMMENT 'Days of the period on which the contract was in force',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT id, organization_id, contract_id, price_plan_id, price_plan_version, period_starts_on, period_ends_on, period_start, period_end, status, currency, total, days_covered, days_in_period, as_of
FROM invoices_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000')
COMMENT 'Invoices, as in PostgreSQL''s billing.invoices. Grain: contract and local month.';

CREATE OR REPLACE VIEW invoice_lines (
    invoice_id UUID COMMENT 'The invoice',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    period_starts_on Date COMMENT 'First local day of the invoice',
    line_number UInt16 COMMENT 'From 1',
    kind LowCardinality(String) COMMENT 'base_fee, devices, storage, backup or api_calls',
    description String COMMENT 'For people',
    quantity Decimal(20, 6) COMMENT 'In the unit',
    unit LowCardinality(String) COMMENT 'Of the quantity',
    unit_price Decimal(12, 4) COMMENT 'Of the price plan',
    amount Decimal(14, 2) COMMENT 'Rounded half up, once',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT invoice_id, organization_id, period_starts_on, line_number, kind, description, quantity, unit, unit_price, amount, as_of
FROM invoice_lines_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000')
COMMENT 'Lines of the invoices. Grain: one line.';
