-- PostgreSQL. The amount of a line.
SELECT amount FROM billing.invoice_lines WHERE invoice_id = %(id)s AND line_number = %(line)s
