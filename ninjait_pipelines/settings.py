"""The settings of the pipeline: environment variables, read and validated once. Nothing else reads the environment."""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
SQL = ROOT / "sql"
LOCAL_STACK = ROOT / ".ninjait"

# name -> (what it is, the URL schemes it may have; none where it is not a URL)
REQUIRED: dict[str, tuple[str, tuple[str, ...]]] = {
    "DRAGONFLY_URL": ("Dragonfly (or Redis): latest values, caches, reports", ("redis", "rediss")),
    "CLICKHOUSE_URL": ("ClickHouse's HTTP interface", ("http", "https")),
    "CLICKHOUSE_USER": ("ClickHouse's user", ()),
    "CLICKHOUSE_PASSWORD": ("ClickHouse's password", ()),
    "CLICKHOUSE_DATABASE": ("ClickHouse's database", ()),
    "DATABASE_URL": ("PostgreSQL, the system of record", ("postgresql", "postgres")),
    "MONGODB_URL": ("MongoDB: logs, audit trail, quarantine; the URL names the database", ("mongodb", "mongodb+srv")),
    "ARCHIVE_URL": ("the cold archive, s3://bucket/prefix or file:///folder", ("s3", "file")),
}
# What may be unset. Without RABBITMQ_URL the queue is kept in Dragonfly's streams, without INFLUXDB_URL the metrics in
# ClickHouse; without AWS_* S3's credentials come from where they usually do (profile, instance, container).
OPTIONAL: dict[str, tuple[str, tuple[str, ...]]] = {
    "RABBITMQ_URL": ("RabbitMQ; the URL's path names the virtual host", ("amqp", "amqps")),
    "INFLUXDB_URL": ("InfluxDB 2's HTTP interface", ("http", "https")),
    "INFLUXDB_TOKEN": ("InfluxDB's token, which may read, write and delete in the buckets", ()),
    "INFLUXDB_ORG": ("InfluxDB's organization", ()),
    "INFLUXDB_BUCKET": (
        "the bucket of full resolution, else `metrics`; the other tiers add _5m and _1h to it",
        (),
    ),
    "AWS_ENDPOINT_URL": ("S3's address, where it is not Amazon's", ("http", "https")),
    "AWS_ACCESS_KEY_ID": ("S3's access key", ()),
    "AWS_SECRET_ACCESS_KEY": ("S3's secret key", ()),
    "AWS_SESSION_TOKEN": ("S3's session token, with temporary keys", ()),
    "AWS_REGION": ("S3's region", ()),
    "QUARANTINE_SPOOL": ("the folder where quarantine waits while MongoDB is away, else .ninjait/spool", ()),
    "QUARANTINE_LIMIT_MIB": ("what the quarantine holds at most before ingest stops, MiB, else 1024", ()),
}
NUMBERS = {"QUARANTINE_LIMIT_MIB"}
# What another setting makes necessary.
NEEDS = {"INFLUXDB_URL": ("INFLUXDB_TOKEN", "INFLUXDB_ORG"), "AWS_ACCESS_KEY_ID": ("AWS_SECRET_ACCESS_KEY",)}


class MendableError(Exception):
    """An error whose message is all that a person needs to mend it: a command prints it instead of a traceback."""


class SettingsError(MendableError):
    """A setting that is missing or cannot be right; the message names the variable and what to do."""


class Settings(dict[str, str]):
    """The validated settings: variable name -> value. Its repr shows no value, because some are secrets."""

    def __repr__(self) -> str:
        return f"Settings({', '.join(sorted(self))})"


def validate(values: Mapping[str, str]) -> Settings:
    """The settings found in `values`, checked.

    Raises SettingsError, naming every variable that is missing or malformed, without its value.
    """
    problems = [
        problem
        for name, (what, schemes) in REQUIRED.items()
        if (problem := _problem(name, values.get(name), what, schemes))
    ]
    problems += [
        problem
        for name, (what, schemes) in OPTIONAL.items()
        if values.get(name) and (problem := _problem(name, values[name], what, schemes))
    ]
    problems += [
        f"{name} is not set, and {because} needs it: {OPTIONAL[name][0]}."
        for because, needed in NEEDS.items()
        if values.get(because)
        for name in needed
        if not values.get(name)
    ]
    if problems:
        advice = 'For the local stack: .venv/bin/ninjait up, then eval "$(.venv/bin/ninjait env)".'
        raise SettingsError("\n".join([*problems, advice]))
    return Settings({name: values[name] for name in (*REQUIRED, *OPTIONAL) if values.get(name)})


def _problem(name: str, value: str | None, what: str, schemes: tuple[str, ...]) -> str | None:
    if not value:
        return f"{name} is not set: {what}."
    if name in NUMBERS and not (value.isascii() and value.isdecimal() and int(value)):
        return f"{name} is not a whole number above 0: {what}."
    if not schemes:
        return None
    expected = " or ".join(f"{scheme}://" for scheme in schemes)
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 -- a port that is no number is only refused when it is read
    except ValueError:
        return f"{name} is not a URL: {what}; it starts with {expected}"
    if parts.scheme not in schemes:
        return f"{name} starts with {parts.scheme or 'no scheme'!r}, not {expected}: {what}."
    if parts.scheme != "file" and not parts.hostname:
        return f"{name} names no host: {what}."
    return None


def load(environ: Mapping[str, str] = os.environ, local_stack: Path = LOCAL_STACK) -> Settings:
    """The settings of the environment; where it has none of them at all, those of the local stack.

    Never a mixture: a staging URL together with a local password would be worse than an error.
    """
    env_file = local_stack / "settings.env"
    ours = [name for name in (*REQUIRED, *OPTIONAL) if not name.startswith("AWS_")]
    if env_file.exists() and not any(environ.get(name) for name in ours):
        return validate(read_env_file(env_file))
    return validate(environ)


def read_env_file(path: Path) -> dict[str, str]:
    """The KEY=VALUE lines of a file that `ninjait up` wrote."""
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)


def without_password(url: str) -> str:
    """`url` as it may be shown: scheme, host, port and path."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
