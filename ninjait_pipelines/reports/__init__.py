"""Reports to the customers of the platform, from ClickHouse's marts."""
