-- Grain: one of these hours that another run filled the tier of, too, and ended since this one (`as_of`) began.
SELECT hour
FROM rolled_up_tiers FINAL
WHERE hour IN {hours:Array(DateTime('UTC'))} AND tier = {tier:String}
GROUP BY hour
HAVING countIf(as_of != {as_of:DateTime64(6, 'UTC')} AND done_at > {as_of:DateTime64(6, 'UTC')}) > 0
ORDER BY hour
