-- PostgreSQL. What each line of a month's documents costs, computed again: day by day in numbers of 60 places, by sets and
-- windows, from what is agreed (billing.*) and raw usage (raw_reports, raw_calls, raw_measurements). Nothing of rating is used.
-- Grain: line, as (agreement, item, kind, first day) -> amount. Parameters: month, next_month. Items in arrears, one discount
-- or none on a day; full proration of fees only.
WITH
months AS (
    SELECT %(month)s::date AS month, %(next_month)s::date AS next_month, (%(next_month)s::date - %(month)s::date) AS month_days
),
items AS (
    SELECT
        i.*, a.time_zone, c.exponent, m.month_days, p.not_billed_statuses, p.carried_forward_days,
        greatest(lower(i.term), lower(a.term), m.month) AS first,
        least(upper(i.term), upper(a.term), m.next_month) AS until
    FROM billing.agreement_items AS i
    JOIN billing.agreements AS a ON a.id = i.agreement_id
    JOIN billing.currencies AS c ON c.code = a.currency
    JOIN billing.products AS p ON p.id = i.product_id
    CROSS JOIN months AS m
),
days AS (
    SELECT
        i.id AS item_id, i.agreement_id, i.organization_id, i.product_id, i.kind, i.time_zone, i.exponent, i.month_days,
        i.quantity, coalesce(i.basis, '') AS basis, i.proration, i.included, i.minimum_quantity, i.minimum_amount,
        i.classes, i.sites, i.tags, i.without_tags, i.not_billed_statuses, i.carried_forward_days, day::date AS day,
        day::timestamp AT TIME ZONE i.time_zone AS starts, (day + interval '1 day')::timestamp AT TIME ZONE i.time_zone AS ends,
        row_number() OVER (PARTITION BY i.agreement_id, i.product_id ORDER BY i.first, i.id, day) AS number
    FROM items AS i
    CROSS JOIN LATERAL generate_series(i.first, i.until - 1, interval '1 day') AS day
    WHERE i.kind != 'one_off' OR (lower(i.term) = i.first AND day = i.first)
),
terms AS (
    SELECT
        t.organization_id, t.device_id, t.class, t.site, t.tags, z.time_zone,
        (lower(t.term) AT TIME ZONE z.time_zone)::date AS first,
        coalesce((upper(t.term) AT TIME ZONE z.time_zone)::date, '9999-01-01') AS until
    FROM billing.device_terms AS t
    JOIN (SELECT DISTINCT organization_id, time_zone FROM items) AS z USING (organization_id)
    WHERE t.billable
),
heard AS (
    SELECT DISTINCT z.organization_id, r.device_id, (r.at AT TIME ZONE z.time_zone)::date AS day
    FROM raw_reports AS r
    JOIN billing.device_terms AS t USING (device_id)
    JOIN (SELECT DISTINCT organization_id, time_zone FROM items) AS z USING (organization_id)
),
devices AS (
    SELECT d.item_id, d.day, count(*) AS held, count(h.device_id) AS reported
    FROM days AS d
    JOIN terms AS t ON t.organization_id = d.organization_id AND t.time_zone = d.time_zone AND t.first <= d.day AND d.day < t.until
        AND (d.classes = '{}' OR t.class = ANY(d.classes)) AND (d.sites = '{}' OR t.site = ANY(d.sites))
        AND (d.tags = '{}' OR t.tags && d.tags) AND NOT t.tags && d.without_tags
    LEFT JOIN heard AS h ON h.organization_id = d.organization_id AND h.device_id = t.device_id AND h.day = d.day
    WHERE d.kind = 'device'
    GROUP BY d.item_id, d.day
),
calls AS (
    SELECT item_id, day, count(*) AS calls
    FROM (
        SELECT i.id AS item_id, r.id, (min(r.at) AT TIME ZONE i.time_zone)::date AS day
        FROM items AS i
        JOIN raw_calls AS r USING (organization_id)
        WHERE i.kind = 'api_calls' AND i.first < i.until
            AND NOT r.status::text = ANY(i.not_billed_statuses) AND NOT left(r.status::text, 1) || 'xx' = ANY(i.not_billed_statuses)
        GROUP BY i.id, i.time_zone, r.id
    ) AS firsts
    GROUP BY item_id, day
),
spans AS (
    SELECT organization_id, kind, at, gb, lead(at, 1, 'infinity') OVER (PARTITION BY organization_id, kind ORDER BY at) AS next
    FROM (SELECT organization_id, kind, at, max(gb) AS gb FROM raw_measurements GROUP BY organization_id, kind, at) AS m
),
volumes AS (
    SELECT
        d.item_id, d.day,
        sum(s.gb * extract(epoch FROM least(s.next, s.at + d.carried_forward_days * interval '24 hours', d.ends) - greatest(s.at, d.starts)))::numeric(200, 60)
            / extract(epoch FROM d.ends - d.starts)::numeric AS gb
    FROM days AS d
    JOIN spans AS s ON s.organization_id = d.organization_id AND s.kind = d.kind
        AND s.at < d.ends AND least(s.next, s.at + d.carried_forward_days * interval '24 hours') > d.starts
    WHERE d.kind IN ('storage', 'backup')
    GROUP BY d.item_id, d.day, d.ends, d.starts
),
measured AS (
    SELECT
        d.*,
        CASE d.kind
            WHEN 'flat' THEN d.quantity
            WHEN 'one_off' THEN d.quantity
            WHEN 'device' THEN CASE WHEN d.basis = 'reporting' THEN coalesce(v.reported, 0) ELSE coalesce(v.held, 0) END
            WHEN 'api_calls' THEN coalesce(c.calls, 0)
            ELSE coalesce(s.gb, 0)
        END::numeric(200, 60) AS amount,
        CASE WHEN d.kind = 'one_off' THEN 1 ELSE 1::numeric(200, 60) / d.month_days END AS share
    FROM days AS d
    LEFT JOIN devices AS v ON v.item_id = d.item_id AND v.day = d.day
    LEFT JOIN calls AS c ON c.item_id = d.item_id AND c.day = d.day
    LEFT JOIN volumes AS s ON s.item_id = d.item_id AND s.day = d.day
),
-- of an item by its basis: the product's last day, or its highest one, as this item counts
leveled AS (
    SELECT
        m.item_id, m.agreement_id, m.product_id, m.kind, m.exponent, m.day, m.number, m.share, m.included, m.minimum_quantity,
        m.minimum_amount, m.proration,
        CASE
            WHEN m.basis = 'last_day' THEN first_value(m.amount) OVER (PARTITION BY m.agreement_id, m.product_id ORDER BY m.day DESC)
            WHEN m.basis = 'peak' THEN max(m.amount) OVER (PARTITION BY m.agreement_id, m.product_id)
            ELSE m.amount
        END AS level
    FROM measured AS m
),
-- a fee that is charged in full has what the product's items before it leave of the month, all on its first day
shares AS (
    SELECT
        l.*,
        CASE
            WHEN l.proration = 'daily' THEN l.share
            WHEN l.number = l.first_number AND NOT coalesce(l.full_before, false) THEN 1 - coalesce(l.share_before, 0)
            ELSE 0
        END AS charged_share
    FROM (
        SELECT
            l.*, min(l.number) OVER (PARTITION BY l.item_id) AS first_number,
            bool_or(l.proration = 'full') OVER earlier AS full_before, sum(l.share) OVER earlier AS share_before
        FROM leveled AS l
        WINDOW earlier AS (
            PARTITION BY l.agreement_id, l.product_id ORDER BY l.number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )
    ) AS l
),
pooled AS (
    SELECT
        s.*,
        greatest(s.level - s.included, 0) * s.share AS over,
        sum(CASE WHEN s.included > 0 THEN greatest(s.included - s.level, 0) * s.share ELSE 0 END) OVER product AS unused,
        sum(s.included * s.share) OVER product AS included_calls,
        sum(greatest(s.level - s.included, 0) * s.share) OVER so_far AS over_so_far,
        sum(s.level) OVER so_far AS calls_so_far
    FROM shares AS s
    WINDOW product AS (PARTITION BY s.agreement_id, s.product_id),
        so_far AS (PARTITION BY s.agreement_id, s.product_id ORDER BY s.number)
),
beyond AS (
    SELECT
        p.*,
        round(CASE
            WHEN p.kind = 'api_calls' THEN
                greatest(p.calls_so_far - p.included_calls, 0) - greatest(p.calls_so_far - p.level - p.included_calls, 0)
            WHEN p.proration = 'full' THEN p.level
            ELSE (greatest(p.over_so_far - p.unused, 0) - greatest(p.over_so_far - p.over - p.unused, 0)) / p.share
        END, 45) AS charged
    FROM pooled AS p
),
at_least AS (
    SELECT
        b.*,
        CASE
            WHEN b.kind != 'api_calls' THEN greatest(b.charged, b.minimum_quantity)
            WHEN b.day = max(b.day) OVER (PARTITION BY b.item_id) THEN b.charged + greatest(
                round(b.minimum_quantity * sum(b.share) OVER (PARTITION BY b.item_id) - sum(b.charged) OVER (PARTITION BY b.item_id), 45), 0
            )
            ELSE b.charged
        END AS units
    FROM beyond AS b
),
running AS (
    SELECT
        a.*, sum(a.units) OVER (PARTITION BY a.agreement_id, a.product_id ORDER BY a.number) - a.units AS before,
        sum(a.units) OVER (PARTITION BY a.agreement_id, a.product_id) AS total,
        coalesce((SELECT d.percent FROM billing.discounts AS d WHERE d.item_id = a.item_id AND d.term @> a.day), 0) AS percent,
        (
            SELECT v FROM billing.price_versions AS v JOIN billing.agreement_items AS i ON i.price_id = v.price_id
            WHERE i.id = a.item_id AND v.used_from <= a.day ORDER BY v.used_from DESC, v.version DESC LIMIT 1
        ) AS price
    FROM at_least AS a
),
-- of calls, tiers and packages are filled in the order of the days; of levels, each day's are priced alone
priced AS (
    SELECT
        r.*, CASE WHEN r.kind = 'api_calls' THEN r.before ELSE 0 END AS bottom, CASE WHEN r.kind = 'api_calls' THEN r.total ELSE r.units END AS decides,
        CASE WHEN r.kind = 'api_calls' AND (r.price).model != 'flat' THEN 1 ELSE r.charged_share END AS scale
    FROM running AS r
),
costs AS (
    SELECT
        p.*,
        p.scale * (100 - p.percent) / 100 * CASE (p.price).model
            WHEN 'flat' THEN (p.price).amount
            WHEN 'per_unit' THEN p.units * (p.price).amount
            WHEN 'package' THEN (ceil(round((p.bottom + p.units) / (p.price).size, 40)) - ceil(round(p.bottom / (p.price).size, 40))) * (p.price).amount
            WHEN 'graduated' THEN (
                SELECT sum(greatest(least(p.bottom + p.units, coalesce(t.up_to, 1e30)) - greatest(p.bottom, t.low), 0) * t.price)
                FROM (
                    SELECT price, (p.price).tier_limits[n] AS up_to, coalesce((p.price).tier_limits[n - 1], 0) AS low
                    FROM unnest((p.price).tier_prices) WITH ORDINALITY AS u (price, n)
                ) AS t
            )
            WHEN 'volume' THEN p.units * (
                SELECT price FROM unnest((p.price).tier_prices) WITH ORDINALITY AS u (price, n)
                WHERE (p.price).tier_limits[n] IS NULL OR round(p.decides, 40) <= (p.price).tier_limits[n] ORDER BY n LIMIT 1
            )
        END AS cost
    FROM priced AS p
),
segments AS (
    SELECT
        c.*, sum(CASE WHEN (c.price).version = c.last_version AND c.percent = c.last_percent THEN 0 ELSE 1 END)
            OVER (PARTITION BY c.item_id ORDER BY c.day) AS segment
    FROM (
        SELECT
            c.*, lag((c.price).version) OVER item AS last_version, lag(c.percent) OVER item AS last_percent
        FROM costs AS c
        WHERE c.proration = 'daily' OR round(c.charged_share, 40) > 0
        WINDOW item AS (PARTITION BY c.item_id ORDER BY c.day)
    ) AS c
),
lines AS (
    SELECT agreement_id, item_id, 'charge' AS kind, min(day) AS first, sum(cost) AS amount, max(exponent) AS exponent
    FROM segments GROUP BY agreement_id, item_id, segment
    UNION ALL
    SELECT
        agreement_id, item_id, 'minimum', min(day),
        max(minimum_amount) * sum(charged_share) - sum(cost), max(exponent)
    FROM segments GROUP BY agreement_id, item_id HAVING round(max(minimum_amount) * sum(charged_share) - sum(cost), 40) > 0
)
SELECT agreement_id::text, item_id::text, kind, first, round(round(amount, 40), exponent) AS amount
FROM lines
ORDER BY agreement_id, item_id, kind, first
