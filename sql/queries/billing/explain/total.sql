-- PostgreSQL. The total of a document.
SELECT total FROM billing.invoices WHERE id = %(id)s
