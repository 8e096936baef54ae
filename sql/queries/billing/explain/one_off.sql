-- PostgreSQL. How many units a one-off is.
SELECT quantity FROM billing.agreement_items WHERE id = %(item)s
