-- PostgreSQL. The days of [first, end) on which an item and its agreement hold.
SELECT upper(held) - lower(held) AS days
FROM (
    SELECT i.term * a.term * daterange(%(first)s, %(end)s) AS held
    FROM billing.agreement_items AS i JOIN billing.agreements AS a ON a.id = i.agreement_id
    WHERE i.id = %(item)s
) AS one
