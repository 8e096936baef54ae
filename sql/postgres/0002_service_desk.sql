-- Tickets, their history, and the targets they are measured against.

-- migrate: up
CREATE TABLE sla_targets (
    organization_id uuid NOT NULL REFERENCES organizations (id),
    priority text NOT NULL CHECK (priority IN ('low', 'normal', 'high', 'urgent')),
    first_response_minutes integer NOT NULL CHECK (first_response_minutes > 0),
    resolution_minutes integer NOT NULL CHECK (resolution_minutes > 0),
    PRIMARY KEY (organization_id, priority)
);
COMMENT ON TABLE sla_targets IS 'Promised times per priority, in minutes of wall clock.';

CREATE TABLE tickets (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations (id),
    number integer NOT NULL,
    device_id uuid REFERENCES devices (id),
    requester_id uuid NOT NULL REFERENCES users (id),
    assignee_id uuid REFERENCES users (id),
    subject text NOT NULL,
    priority text NOT NULL CHECK (priority IN ('low', 'normal', 'high', 'urgent')),
    status text NOT NULL CHECK (status IN ('new', 'open', 'pending', 'resolved', 'closed')),
    created_at timestamptz NOT NULL,
    UNIQUE (organization_id, number)
);
COMMENT ON TABLE tickets IS 'The current state of each ticket; how it came about is in ticket_history.';

CREATE TABLE ticket_history (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations (id),
    ticket_id uuid NOT NULL REFERENCES tickets (id),
    actor_id uuid NOT NULL REFERENCES users (id),
    event text NOT NULL CHECK (event IN ('created', 'assigned', 'responded', 'status_changed', 'priority_changed', 'commented')),
    old_value text,
    new_value text,
    occurred_at timestamptz NOT NULL
);
COMMENT ON TABLE ticket_history IS 'Append only: what happened to a ticket. new_value is the assignee id, status or priority.';
-- The daily assets read a day of all tickets, then the whole history of those tickets.
CREATE INDEX ticket_history_by_time ON ticket_history (occurred_at);
CREATE INDEX ticket_history_by_ticket ON ticket_history (ticket_id, occurred_at);

-- migrate: down
DROP TABLE ticket_history;
DROP TABLE tickets;
DROP TABLE sla_targets;
