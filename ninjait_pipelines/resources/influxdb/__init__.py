"""InfluxDB: the resource, and the line protocol that it writes."""
