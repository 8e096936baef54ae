"""RabbitMQ: the resource, its connections, and what the broker says."""
