-- ClickHouse. Grain: contract and kind, of the contracts in the four parallel arrays: its local days [first, end).
-- By organization and day, not by the contract that billing_quantities names: after a contract was corrected each day's usage
-- belongs to the contract that is in force on it now. billing_quantities is ordered by organization and day.
WITH terms AS (
    SELECT t.1 AS contract_id, t.2 AS organization_id, t.3 AS first_day, t.4 AS end_day
    FROM (
        SELECT arrayJoin(arrayZip(
            {contracts:Array(UUID)}, {organizations:Array(UUID)}, {firsts:Array(Date)}, {ends:Array(Date)}
        )) AS t
    )
)
SELECT terms.contract_id AS contract_id, kind, sum(quantity) AS quantity, countIf(completeness = 1) AS days_covered
FROM (
    SELECT organization_id, local_day, kind, quantity, completeness FROM billing_quantities
    WHERE local_day >= {month:Date} AND local_day < {next_month:Date}
) AS e
INNER JOIN terms ON terms.organization_id = e.organization_id
WHERE local_day >= first_day AND local_day < end_day
GROUP BY contract_id, kind
