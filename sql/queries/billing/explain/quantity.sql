-- PostgreSQL. The quantity of a line.
SELECT quantity FROM billing.invoice_lines WHERE invoice_id = %(id)s AND line_number = %(line)s
