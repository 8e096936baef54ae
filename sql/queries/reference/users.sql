-- PostgreSQL. Grain: one user, without the e-mail address, which analytics has no use for.
SELECT id, organization_id, full_name, role, created_at, deactivated_at
FROM users
