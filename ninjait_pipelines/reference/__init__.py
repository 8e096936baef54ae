"""Copies of the system of record in ClickHouse, so that an analyst can join names."""
