-- PostgreSQL. Grain: seller and year whose numbers are not all of 1 to the last, each once.
SELECT s.seller_id, s.year, count(i.id) || ' documents, numbers ' || min(i.series_number) || ' to ' || max(i.series_number)
    || ', the last that was taken is ' || s.last_number AS problem
FROM billing.series AS s
LEFT JOIN billing.invoices AS i ON i.seller_id = s.seller_id AND i.series_year = s.year
GROUP BY s.seller_id, s.year, s.last_number
HAVING s.last_number <> count(DISTINCT i.series_number) OR s.last_number <> coalesce(max(i.series_number), 0)
