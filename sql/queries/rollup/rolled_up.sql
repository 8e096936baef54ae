-- Grain: one number, the hours of [start, stop) that were rolled up: what completeness is made from.
SELECT count() FROM rolled_up_hours FINAL WHERE hour >= {start:DateTime('UTC')} AND hour < {stop:DateTime('UTC')}
