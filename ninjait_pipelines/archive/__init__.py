"""The cold archive: a day of a mart as Parquet objects, each of some organizations, listed in a manifest."""
