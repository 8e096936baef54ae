-- PostgreSQL. What the other lines of an item in a document charge. Grain: line.
SELECT line_number, amount FROM billing.invoice_lines
WHERE invoice_id = %(id)s AND item = %(item)s AND kind = 'charge' AND starts_on >= %(first)s AND ends_on <= %(end)s
ORDER BY line_number
