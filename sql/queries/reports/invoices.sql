-- Grain: one document, void ones excepted, whose period has a day of the week in it: the bill so far.
SELECT organization_id, period_starts_on, currency, total, status, kind, number, days_covered, days_in_period
FROM invoices
WHERE status != 'void' AND period_starts_on < toDate({stop:DateTime('UTC')}, 'UTC') AND period_ends_on > toDate({start:DateTime('UTC')}, 'UTC')
ORDER BY organization_id, period_starts_on, number
