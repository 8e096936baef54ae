"""The message queue on RabbitMQ, one module per concern; `resource` is the one that the pipeline uses."""
