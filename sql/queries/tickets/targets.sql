-- PostgreSQL. Grain: organization and priority.
SELECT organization_id, priority, first_response_minutes, resolution_minutes
FROM sla_targets
