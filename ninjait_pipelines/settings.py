"""The settings of the pipeline: environment variables, read and validated once. Nothing else reads the environment."""

import os
import ssl
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

from ninjait_pipelines.urls import Url, parse, remember

_PACKAGE = Path(__file__).resolve().parent
# The wheel has the SQL inside the package, and no folder of its own to write to: there it is the working directory.
_INSTALLED = (_PACKAGE / "sql").is_dir()
ROOT = Path.cwd() if _INSTALLED else _PACKAGE.parent
SQL = (_PACKAGE if _INSTALLED else ROOT) / "sql"
LOCAL_STACK = ROOT / ".ninjait"
# Where partitions begin unless PIPELINE_START says otherwise: where those of every installation before 0.4.0 began.
DEFAULT_START = date(2024, 1, 1)

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
# Without RABBITMQ_URL the queue is kept in Dragonfly's streams, without INFLUXDB_URL metrics are kept in ClickHouse.
# Without AWS_* S3's credentials come from the usual places: profile, instance, container.
OPTIONAL: dict[str, tuple[str, tuple[str, ...]]] = {
    "RABBITMQ_URL": ("RabbitMQ; the URL's path names the virtual host", ("amqp", "amqps")),
    "INFLUXDB_URL": ("InfluxDB 2's HTTP interface", ("http", "https")),
    "INFLUXDB_TOKEN": ("InfluxDB's token, which may read, write and delete in the buckets", ()),
    "INFLUXDB_ORG": ("InfluxDB's organization", ()),
    "INFLUXDB_BUCKET": (
        "the bucket of full resolution, `metrics` if unset; the other tiers' buckets end in _5m and _1h",
        (),
    ),
    "AWS_ENDPOINT_URL": ("S3's address, if it is not Amazon's", ("http", "https")),
    "AWS_ACCESS_KEY_ID": ("S3's access key", ()),
    "AWS_SECRET_ACCESS_KEY": ("S3's secret key", ()),
    "AWS_SESSION_TOKEN": ("S3's session token, for temporary keys", ()),
    "AWS_REGION": ("S3's region", ()),
    "QUARANTINE_SPOOL": ("the folder that holds the quarantine while MongoDB is away, .ninjait/spool if unset", ()),
    "QUARANTINE_LIMIT_MIB": ("the maximum size of the quarantine, MiB, 1024 if unset", ()),
    "HOSTS_WITHOUT_ORGANIZATION": (
        "on if routing keys of Telegraf and collectd need not name an organization, off if unset",
        (),
    ),
    "PIPELINE_START": (
        "the first day with partitions, YYYY-MM-DD, UTC, 2024-01-01 if unset; fixed by the first `ninjait migrate up`",
        (),
    ),
    "INTERFACES_LEFT_OUT": ("patterns of network interfaces whose traffic is not counted, separated by commas", ()),
    "CA_FILE": ("certificates (PEM) of the authorities that signed the stores' certificates", ()),
    "RABBITMQ_CA_FILE": ("the same for RabbitMQ only, in place of CA_FILE", ()),
    "INFLUXDB_CA_FILE": ("the same for InfluxDB only, in place of CA_FILE", ()),
    "DRAGONFLY_CA_FILE": ("the same for Dragonfly only, in place of CA_FILE", ()),
    "CLICKHOUSE_CA_FILE": ("the same for ClickHouse only, in place of CA_FILE", ()),
    "DATABASE_CA_FILE": ("the same for PostgreSQL only, in place of CA_FILE", ()),
    "MONGODB_CA_FILE": ("the same for MongoDB only, in place of CA_FILE", ()),
    "ARCHIVE_CA_FILE": ("the same for S3 only, in place of CA_FILE", ()),
}
NUMBERS = {"QUARANTINE_LIMIT_MIB"}
SWITCHES = {"HOSTS_WITHOUT_ORGANIZATION"}
# Values that are secret as a whole. Of a URL only the password is.
SECRETS = {"CLICKHOUSE_PASSWORD", "INFLUXDB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
# Settings whose URL may name several hosts: a replica set, or a primary with its standbys.
SEVERAL_HOSTS = {"DATABASE_URL", "MONGODB_URL"}
# Settings of which only scheme, host and port are used: anything else is refused rather than ignored.
ONLY_HOST = {"CLICKHOUSE_URL", "AWS_ENDPOINT_URL"}
# A store's own CA -> the URL whose scheme says whether there is TLS.
TLS_BY_SCHEME = {
    "RABBITMQ_CA_FILE": "RABBITMQ_URL",
    "INFLUXDB_CA_FILE": "INFLUXDB_URL",
    "DRAGONFLY_CA_FILE": "DRAGONFLY_URL",
    "CLICKHOUSE_CA_FILE": "CLICKHOUSE_URL",
    "ARCHIVE_CA_FILE": "AWS_ENDPOINT_URL",
}
# Settings that another one requires.
NEEDS = {"INFLUXDB_URL": ("INFLUXDB_TOKEN", "INFLUXDB_ORG"), "AWS_ACCESS_KEY_ID": ("AWS_SECRET_ACCESS_KEY",)}


class UserError(Exception):
    """An error whose message tells a person what to do: commands print it instead of a traceback."""


class SettingsError(UserError):
    """Settings that are missing or malformed; the message names each variable and what to do."""


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
    problems += _unused_authorities(values)
    if problems:
        advice = 'For the local stack: .venv/bin/ninjait up, then eval "$(.venv/bin/ninjait env)".'
        raise SettingsError("\n".join([*problems, advice]))
    found = Settings({name: values[name] for name in (*REQUIRED, *OPTIONAL) if values.get(name)})
    remember(*(value for name, value in found.items() if name in SECRETS or name.endswith("_URL")))
    return found


def _problem(name: str, value: str | None, what: str, schemes: tuple[str, ...]) -> str | None:
    if not value:
        return f"{name} is not set: {what}."
    if name in NUMBERS and not (value.isascii() and value.isdecimal() and int(value)):
        return f"{name} is not a whole number above 0 but {value!r}: {what}."
    if name in SWITCHES and value not in ("on", "off"):
        return f"{name} is neither on nor off but {value!r}: {what}."
    if name == "PIPELINE_START" and _date(value) is None:
        return f"{name} is not a date such as 2026-01-31 but {value!r}: {what}."
    if name.endswith("CA_FILE"):
        return _file_problem(name, value, what)
    if not schemes:
        return None
    expected = " or ".join(f"{scheme}://" for scheme in schemes)
    scheme, separator, _ = value.partition("://")
    if not separator or scheme.lower() not in schemes:
        return f"{name} starts with {scheme.lower() if separator else 'no scheme'!r}, not {expected}: {what}."
    parts = parse(value)
    if parts is None:
        advice = "a user or password with @ : / ? # % or blanks in it is percent-encoded (@ is %40)"
        return f"{name} is not a URL: {what}; it starts with {expected}, and {advice}."
    return _host_problem(name, parts, what)


def _host_problem(name: str, parts: Url, what: str) -> str | None:
    local = name == "DATABASE_URL" and "host=" in parts.query  # a socket's folder
    if parts.scheme != "file" and not parts.hosts and not local:
        return f"{name} names no host: {what}."
    if parts.scheme == "file" and parts.hosts not in ("", "localhost"):
        return (
            f"{name} names the host {parts.hosts}, and a folder is on this machine: file:///folder, with three slashes."
        )
    if name == "DRAGONFLY_URL" and (database := parts.path.strip("/")) and not database.isdecimal():
        return f"{name} names the database {database}, and they have numbers: {what}."
    if len(parts.host_names) > 1 and name not in SEVERAL_HOSTS:
        return f"{name} names several hosts, and may name one: {what}."
    if name in ONLY_HOST and (parts.user_info or parts.path.strip("/") or parts.query):
        return f"{name} has a user, path or query, which nothing would obey: write {parts.scheme}://host:port."
    return None


def _file_problem(name: str, path: str, what: str) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        return f"{name} names a file without a certificate (PEM): {what}."
    except OSError as error:
        return f"{name} names a file that cannot be read ({error.strerror}): {what}."
    return None


def _unused_authorities(values: Mapping[str, str]) -> Iterator[str]:
    for ca_file, name in TLS_BY_SCHEME.items():
        scheme, separator, _ = values.get(name, "").partition("://")
        if values.get(ca_file) and separator and scheme.lower() in ("http", "redis", "amqp"):
            yield f"{ca_file} is set, but {name} has no TLS: it starts with {scheme}://, not {scheme}s://."


def pipeline_start(environ: Mapping[str, str] = os.environ) -> date:
    """The first day that has partitions. A value that is no date is `validate`'s to report, with all other problems."""
    return _date(environ.get("PIPELINE_START", "")) or DEFAULT_START


def _date(text: str) -> date | None:
    try:
        found = date.fromisoformat(text)
    except ValueError:
        return None
    return found if found.isoformat() == text else None


def load(environ: Mapping[str, str] = os.environ, local_stack: Path = LOCAL_STACK) -> Settings:
    """The settings of the environment, or those of the local stack if the environment has none at all.

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
