-- PostgreSQL. Host names of devices. Grain: device. Served by the primary key.
SELECT id, name AS hostname, retired_at IS NULL AS active FROM devices WHERE id = ANY(%(ids)s)
