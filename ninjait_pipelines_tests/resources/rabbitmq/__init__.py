"""Tests of the RabbitMQ modules."""
