-- PostgreSQL. The invoice that a line corrects, with its agreement as it was then.
SELECT issued_at, agreement FROM billing.invoices WHERE agreement_id = %(agreement_id)s AND number = %(corrects)s
