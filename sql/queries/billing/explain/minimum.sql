-- PostgreSQL. What an item costs at least in a whole month.
SELECT minimum_amount FROM billing.agreement_items WHERE id = %(item)s
