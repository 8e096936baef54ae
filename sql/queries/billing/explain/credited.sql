-- PostgreSQL. The amount of the line that a credit note gives back, in whole or part.
SELECT l.amount
FROM billing.invoice_lines AS l JOIN billing.invoices AS c ON c.credits = l.invoice_id
WHERE c.id = %(id)s AND l.line_number = %(line)s
