-- The names that the platform publishes are the names of the columns: device_metrics_hourly.timestamp; event_type, timestamp,
-- duration_seconds, sla_breached and technician_id of ticket_events.
--
-- A column of a sort key cannot be renamed, so the rows are copied into a table that has the new names, and the two change
-- places in one step. Runs that write meanwhile would write to the old one: stop the daemon first. Each table needs the
-- space of its rows once more until its old one is dropped.

-- migrate: up
-- ORDER BY: dashboards and billing read an organization or a device over time. PARTITION BY: month, of the sort key; an hour's
-- rerun touches one partition.
CREATE TABLE device_metrics_hourly_renamed (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    timestamp DateTime('UTC') COMMENT 'Start of the hour, UTC',
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
ENGINE = ReplacingMergeTree(as_of)
PARTITION BY toYYYYMM(timestamp)
ORDER BY (organization_id, device_id, timestamp)
COMMENT 'Storage of device_metrics_hourly: read that view instead, here stand replaced versions too.';

INSERT INTO device_metrics_hourly_renamed (organization_id, device_id, timestamp, cpu_avg, cpu_max, cpu_count, memory_avg, memory_max, memory_count, memory_total, disk_usage, disk_total, disk_free, network_in, network_out, uptime, sample_count, sample_share, several_senders, source_tier, as_of)
SELECT organization_id, device_id, hour, cpu_avg, cpu_max, cpu_count, memory_avg, memory_max, memory_count, memory_total, disk_usage, disk_total, disk_free, network_in, network_out, uptime, sample_count, sample_share, several_senders, source_tier, as_of
FROM device_metrics_hourly_versions;

EXCHANGE TABLES device_metrics_hourly_versions AND device_metrics_hourly_renamed;

CREATE OR REPLACE VIEW device_metrics_hourly (
    organization_id UUID COMMENT 'The organization that the row belongs to',
    device_id UUID COMMENT 'The device',
    timestamp DateTime('UTC') COMMENT 'Start of the hour, UTC',
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
AS SELECT organization_id, device_id, timestamp, cpu_avg, cpu_max, cpu_count, memory_avg, memory_max, memory_count, memory_total, disk_usage, disk_total, disk_free, network_in, network_out, uptime, sample_count, sample_share, several_senders, source_tier, as_of
FROM device_metrics_hourly_versions FINAL
WHERE sample_count > 0 AND (
    ifNull((SELECT max(n) FROM (SELECT uniqExact(as_of) AS n FROM device_metrics_hourly_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY timestamp)), 0) <= 1
    OR (timestamp, as_of) NOT IN (
        SELECT timestamp, arrayJoin(arrayPopBack(arraySort(groupUniqArray(as_of))))
        FROM device_metrics_hourly_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY timestamp
    )
)
COMMENT 'Device metrics by the hour. Grain: one device and hour in which it sent at least one sample.';

DROP TABLE device_metrics_hourly_renamed;

-- ORDER BY: the story of one ticket is one read. PARTITION BY: month, of the sort key.
CREATE TABLE ticket_events_renamed (
    event_id UUID COMMENT 'Row of PostgreSQL''s ticket_history',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    ticket_id UUID COMMENT 'The ticket',
    event_type LowCardinality(String) COMMENT 'created, assigned, responded, status_changed, priority_changed or commented; closed for the change of status by which the ticket was closed, and still was at the end of the UTC day',
    timestamp DateTime64(3, 'UTC') COMMENT 'When, UTC',
    duration_seconds UInt32 COMMENT 'Wall-clock seconds from the creation of the ticket to the event: of closed, how long it took',
    sla_breached UInt8 COMMENT '1 on the event at which a promise was broken: the first response, or the closing, that came after its target; else 0. A ticket that is overdue and waits has no such event yet: ticket_facts has it',
    technician_id Nullable(UUID) COMMENT 'Of closed the technician who is credited: the assignee when it was closed. Of others the assignee after the event (in days computed before 0.4.0, at the end of the day). Null: nobody had it',
    actor_id UUID COMMENT 'Who did it',
    old_value Nullable(String) COMMENT 'Value before',
    new_value Nullable(String) COMMENT 'Value after',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
ENGINE = ReplacingMergeTree(as_of)
PARTITION BY toYYYYMM(timestamp)
ORDER BY (organization_id, ticket_id, timestamp, event_id)
COMMENT 'Storage of ticket_events: read that view instead, here stand replaced versions too.';

-- What is new follows from the facts of the event's day, by the rules of tickets/facts.py.
INSERT INTO ticket_events_renamed (event_id, organization_id, ticket_id, event_type, timestamp, duration_seconds, sla_breached, technician_id, actor_id, old_value, new_value, as_of)
WITH ifNull(event = 'status_changed' AND new_value = 'closed' AND occurred_at = closed_at, false) AS closing
SELECT
    event_id, organization_id, e.ticket_id, if(closing, 'closed', event) AS event_type, occurred_at AS timestamp,
    if(known, toUInt32(greatest(0, least(dateDiff('second', created_at, occurred_at), 4294967295))), 0) AS duration_seconds,
    multiIf(
        closing, resolution_breached OR (first_responded_at IS NULL AND first_response_breached),
        event = 'responded' AND ifNull(occurred_at = first_responded_at, false), first_response_breached,
        false
    ) AS sla_breached,
    if(closing, closed_assignee_id, assignee_id) AS technician_id, actor_id, old_value, new_value, as_of
FROM (SELECT *, toDate(occurred_at) AS day FROM ticket_events_versions) AS e
LEFT JOIN (
    SELECT day, ticket_id, created_at, first_responded_at, closed_at, assignee_id, closed_assignee_id, first_response_breached, resolution_breached, true AS known
    FROM ticket_facts
) AS f ON f.day = e.day AND f.ticket_id = e.ticket_id;

EXCHANGE TABLES ticket_events_versions AND ticket_events_renamed;

CREATE OR REPLACE VIEW ticket_events (
    event_id UUID COMMENT 'Row of PostgreSQL''s ticket_history',
    organization_id UUID COMMENT 'The organization that the row belongs to',
    ticket_id UUID COMMENT 'The ticket',
    event_type LowCardinality(String) COMMENT 'created, assigned, responded, status_changed, priority_changed or commented; closed for the change of status by which the ticket was closed, and still was at the end of the UTC day',
    timestamp DateTime64(3, 'UTC') COMMENT 'When, UTC',
    duration_seconds UInt32 COMMENT 'Wall-clock seconds from the creation of the ticket to the event: of closed, how long it took',
    sla_breached UInt8 COMMENT '1 on the event at which a promise was broken: the first response, or the closing, that came after its target; else 0. A ticket that is overdue and waits has no such event yet: ticket_facts has it',
    technician_id Nullable(UUID) COMMENT 'Of closed the technician who is credited: the assignee when it was closed. Of others the assignee after the event (in days computed before 0.4.0, at the end of the day). Null: nobody had it',
    actor_id UUID COMMENT 'Who did it',
    old_value Nullable(String) COMMENT 'Value before',
    new_value Nullable(String) COMMENT 'Value after',
    as_of DateTime64(6, 'UTC') COMMENT 'When the row was computed, by ClickHouse''s clock, before its sources were read; the newest version counts'
)
AS SELECT event_id, organization_id, ticket_id, event_type, timestamp, duration_seconds, sla_breached, technician_id, actor_id, old_value, new_value, as_of
FROM ticket_events_versions FINAL
WHERE organization_id != toUUID('00000000-0000-0000-0000-000000000000') AND (
    ifNull((SELECT max(n) FROM (SELECT uniqExact(as_of) AS n FROM ticket_events_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY toDate(timestamp))), 0) <= 1
    OR (toDate(timestamp), as_of) NOT IN (
        SELECT toDate(timestamp), arrayJoin(arrayPopBack(arraySort(groupUniqArray(as_of))))
        FROM ticket_events_versions WHERE organization_id = toUUID('00000000-0000-0000-0000-000000000000') GROUP BY toDate(timestamp)
    )
)
COMMENT 'What happened to tickets. Grain: one event.';

DROP TABLE ticket_events_renamed;

-- migrate: down
-- Wherever `up` was stopped, the table that is called `..._versions` has all rows, under the old names or under the new ones:
-- an alias, which does nothing where the column is there, lets both be read by the old names.
DROP TABLE IF EXISTS ticket_events_renamed;
ALTER TABLE ticket_events_versions
    ADD COLUMN IF NOT EXISTS event LowCardinality(String) ALIAS if(event_type = 'closed', 'status_changed', event_type),
    ADD COLUMN IF NOT EXISTS occurred_at DateTime64(3, 'UTC') ALIAS timestamp;
-- As in 0006.
CREATE TABLE ticket_events_renamed (
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
ENGINE = ReplacingMergeTree(as_of)
PARTITION BY toYYYYMM(occurred_at)
ORDER BY (organization_id, ticket_id, occurred_at, event_id)
COMMENT 'Storage of ticket_events: read that view instead, here stand replaced versions too.';

INSERT INTO ticket_events_renamed (event_id, organization_id, ticket_id, actor_id, event, old_value, new_value, occurred_at, as_of)
SELECT event_id, organization_id, ticket_id, actor_id, event, old_value, new_value, occurred_at, as_of
FROM ticket_events_versions;
EXCHANGE TABLES ticket_events_renamed AND ticket_events_versions;
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

DROP TABLE IF EXISTS ticket_events_renamed;

DROP TABLE IF EXISTS device_metrics_hourly_renamed;
ALTER TABLE device_metrics_hourly_versions ADD COLUMN IF NOT EXISTS hour DateTime('UTC') ALIAS timestamp;
-- As in 0005.
CREATE TABLE device_metrics_hourly_renamed (
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
ENGINE = ReplacingMergeTree(as_of)
PARTITION BY toYYYYMM(hour)
ORDER BY (organization_id, device_id, hour)
COMMENT 'Storage of device_metrics_hourly: read that view instead, here stand replaced versions too.';

INSERT INTO device_metrics_hourly_renamed (organization_id, device_id, hour, cpu_avg, cpu_max, cpu_count, memory_avg, memory_max, memory_count, memory_total, disk_usage, disk_total, disk_free, network_in, network_out, uptime, sample_count, sample_share, several_senders, source_tier, as_of)
SELECT organization_id, device_id, hour, cpu_avg, cpu_max, cpu_count, memory_avg, memory_max, memory_count, memory_total, disk_usage, disk_total, disk_free, network_in, network_out, uptime, sample_count, sample_share, several_senders, source_tier, as_of
FROM device_metrics_hourly_versions;
EXCHANGE TABLES device_metrics_hourly_renamed AND device_metrics_hourly_versions;
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

DROP TABLE IF EXISTS device_metrics_hourly_renamed;
