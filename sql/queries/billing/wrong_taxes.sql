-- PostgreSQL. Grain: document of the month whose taxes are not those of its lines. A credit note gives back a cent less where
-- earlier ones, rounded each, have given back more. Half up, away from zero, is how numeric rounds.
SELECT i.id, 'tax of its lines ' || sum(t.tax) || ', tax ' || i.tax_total AS problem
FROM billing.invoices AS i
JOIN billing.agreements AS a ON a.id = i.agreement_id
JOIN billing.currencies AS c ON c.code = i.currency
CROSS JOIN LATERAL (
    SELECT round(sum(l.amount) * l.tax_rate / 100, c.exponent) AS tax
    FROM billing.invoice_lines AS l WHERE l.invoice_id = i.id GROUP BY l.tax_category, l.tax_rate
) AS t
WHERE i.period_starts_on = %(month)s AND i.kind = 'invoice'
GROUP BY i.id
HAVING sum(t.tax) <> i.tax_total
