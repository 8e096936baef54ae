"""Hourly roll-ups: from each tier of the metrics store to the next, and from the metrics store to ClickHouse."""
