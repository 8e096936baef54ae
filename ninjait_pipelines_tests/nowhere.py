"""Settings with which everything loads and nothing is reached."""

NOWHERE = {
    "DRAGONFLY_URL": "redis://:x@127.0.0.1:1/0",
    "CLICKHOUSE_URL": "http://127.0.0.1:1",
    "CLICKHOUSE_USER": "x",
    "CLICKHOUSE_PASSWORD": "x",
    "CLICKHOUSE_DATABASE": "x",
    "DATABASE_URL": "postgresql://x:secret-of-the-test@127.0.0.1:1/x",
    "MONGODB_URL": "mongodb://127.0.0.1:1/x",
    "ARCHIVE_URL": "file:///nowhere",
}
