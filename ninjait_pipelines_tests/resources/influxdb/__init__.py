"""Tests of the InfluxDB modules."""
