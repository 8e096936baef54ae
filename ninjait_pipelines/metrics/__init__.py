"""The domain of metrics: fields, tiers, and the arithmetic of windows. Pure: tables in, tables out, no store."""
