"""The cold archive: a day of a mart as Parquet objects, one an organization, named by a manifest."""
