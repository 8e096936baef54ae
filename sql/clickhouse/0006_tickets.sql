-- Service desk analytics.

-- migrate: up
-- ORDER BY: the story of one ticket is one read. PARTITION BY: month, of the sort key.
CREATE TABLE ticket_events_versions (
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

CREATE VIEW ticket_events (
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
COMMENT 'What happened to tickets. Grain: one event.';

-- ORDER BY: marts read and replace a day. PARTITION BY: month, of the sort key.
CREATE TABLE ticket_facts_versions (
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
ENGINE = ReplacingMergeTree(as_of)
PARTITION BY toYYYYMM(day)
ORDER BY (day, organization_id, ticket_id)
COMMENT 'Storage of ticket_facts: read that view instead, here stand replaced versions too.';

CREATE VIEW ticket_facts (
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
COMMENT 'Tickets as they stood at the end of each day on which something happened to them. Grain: ticket and day.';

-- As ticket_facts.
CREATE TABLE technician_performance_versions (
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
ENGINE = ReplacingMergeTree(as_of)
PARTITION BY toYYYYMM(day)
ORDER BY (day, organization_id, technician_id)
COMMENT 'Storage of technician_performance: read that view instead, here stand replaced versions too.';

CREATE VIEW technician_performance (
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
COMMENT 'Closed tickets by technician. Grain: technician and UTC day with at least one closing.';

-- migrate: down
DROP VIEW IF EXISTS technician_performance;
DROP TABLE IF EXISTS technician_performance_versions;
DROP VIEW IF EXISTS ticket_facts;
DROP TABLE IF EXISTS ticket_facts_versions;
DROP VIEW IF EXISTS ticket_events;
DROP TABLE IF EXISTS ticket_events_versions;
