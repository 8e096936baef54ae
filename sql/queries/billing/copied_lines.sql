-- PostgreSQL. Grain: one line of a document of the month, as ClickHouse has it.
SELECT
    l.invoice_id, l.organization_id, i.period_starts_on, l.line_number, l.kind, l.product, l.item, l.starts_on, l.ends_on, l.basis,
    l.description, l.quantity, l.unit, coalesce(l.unit_price, 0) AS unit_price, coalesce(l.price_version, 0) AS price_version,
    coalesce(l.price_model, '') AS price_model, l.discount_percent, l.completeness, l.amount, l.tax_category, l.tax_rate,
    coalesce(l.corrects, '') AS corrects, l.credits_line
FROM billing.invoice_lines AS l
JOIN billing.invoices AS i ON i.id = l.invoice_id
WHERE i.period_starts_on = %(month)s
ORDER BY l.organization_id, l.invoice_id, l.line_number
