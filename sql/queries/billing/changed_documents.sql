-- PostgreSQL. Grain: one problem of a document of the month that is issued or void: its bytes, its row or its lines were changed
-- by somebody who may disable triggers.
WITH documents AS (
    SELECT i.*, convert_from(i.document, 'UTF8')::jsonb AS json
    FROM billing.invoices AS i WHERE i.period_starts_on = %(month)s AND i.status <> 'draft'
)
SELECT number, 'its bytes do not have the hash' AS problem FROM documents WHERE sha256 <> encode(sha256(document), 'hex')
UNION ALL
SELECT number, 'its row does not say what its bytes say' FROM documents
WHERE (json ->> 'number', (json ->> 'total')::numeric, (json ->> 'net')::numeric, json ->> 'agreement_id', json ->> 'currency', json ->> 'kind')
    IS DISTINCT FROM (number, total, net, agreement_id::text, currency::text, kind)
UNION ALL
SELECT number, 'its lines are not those of its bytes' FROM documents AS d
WHERE ARRAY(SELECT (line ->> 'amount')::numeric FROM jsonb_array_elements(json -> 'lines') WITH ORDINALITY AS l (line, place) ORDER BY place)
    <> ARRAY(SELECT amount FROM billing.invoice_lines WHERE invoice_id = d.id ORDER BY line_number)
ORDER BY 1, 2
