-- PostgreSQL. Grain: one line, of a draft whose lines have been removed in the same transaction.
INSERT INTO billing.invoice_lines (
    invoice_id, organization_id, line_number, kind, product, item, description, starts_on, ends_on, quantity, unit, basis,
    unit_price, price_version, price_model, discount_percent, completeness, amount, tax_category, tax_rate, corrects, credits_line
) VALUES (
    %(invoice_id)s, %(organization_id)s, %(line_number)s, %(kind)s, %(product)s, %(item)s, %(description)s, %(starts_on)s,
    %(ends_on)s, %(quantity)s, %(unit)s, %(basis)s, %(unit_price)s, %(price_version)s, %(price_model)s, %(discount_percent)s,
    %(completeness)s, %(amount)s, %(tax_category)s, %(tax_rate)s, %(corrects)s, %(credits_line)s
)
