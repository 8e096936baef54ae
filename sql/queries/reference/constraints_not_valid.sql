-- PostgreSQL. Grain: one check constraint that rows of before it may break, with the condition that a row must meet.
SELECT conrelid::regclass::text AS relation, conname AS name, pg_get_expr(conbin, conrelid) AS condition
FROM pg_constraint
WHERE contype = 'c' AND NOT convalidated
ORDER BY conrelid::regclass::text, conname
