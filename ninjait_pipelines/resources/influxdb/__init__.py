"""The metrics store on InfluxDB, one module per concern; `resource` is the one that the pipeline uses."""
