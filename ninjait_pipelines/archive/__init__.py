"""The cold archive: a day of a mart as Parquet objects, one per organization, listed in a manifest."""
