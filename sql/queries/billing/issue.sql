-- PostgreSQL. Grain: one draft, which becomes an issued document; written in the same transaction.
UPDATE billing.invoices SET
    status = 'issued', seller_id = %(seller_id)s, series_year = %(series_year)s, series_number = %(series_number)s,
    number = %(number)s, issued_at = %(issued_at)s, due_on = %(due_on)s, sha256 = %(sha256)s, agreement = %(agreement)s,
    usage = %(usage)s, credits = %(credits)s, reason = %(reason)s
WHERE id = %(id)s
