-- PostgreSQL. The net of a document, by its lines. Grain: line.
SELECT line_number, description, amount FROM billing.invoice_lines WHERE invoice_id = %(id)s ORDER BY line_number
