-- PostgreSQL. Grain: one line, of an invoice whose lines have been removed in the same transaction.
INSERT INTO billing.invoice_lines (
    invoice_id, organization_id, line_number, kind, description, quantity, unit, unit_price, amount
) VALUES (
    %(invoice_id)s, %(organization_id)s, %(line_number)s, %(kind)s, %(description)s, %(quantity)s, %(unit)s,
    %(unit_price)s, %(amount)s
)
