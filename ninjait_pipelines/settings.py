"""The settings of the pipeline: environment variables, read and validated once. Nothing else reads the environment.

A new variable is a new field of `Settings`. What needs only the folders imports paths.py: pydantic-settings costs a
process a tenth of a second, and `ninjait --help` has no use for it.
"""

import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ninjait_pipelines.errors import UserError
from ninjait_pipelines.paths import LOCAL_STACK
from ninjait_pipelines.urls import Url, parse, remember

# Where partitions begin unless PIPELINE_START says otherwise: where those of every installation before 0.4.0 began.
DEFAULT_START = date(2024, 1, 1)
# Those that ClickHouse's DateTime has; Dagster fails at the ends of Python's calendar.
YEARS = range(1970, 2100)
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


class SettingsError(UserError):
    """Settings that are missing or malformed; the message names each variable and what to do."""


# --- kinds of values. What a validator raises stands behind the variable's name; {what} becomes its description.


@dataclass(frozen=True)
class StoreUrl:
    """The URLs that a variable may have.

    several_hosts: a replica set, or a primary with its standbys; only_host: scheme, host and port are all that is used,
    so anything else is refused rather than ignored; numbered: databases have numbers; socket: ?host= may name a folder.
    """

    schemes: tuple[str, ...]
    several_hosts: bool = False
    only_host: bool = False
    numbered: bool = False
    socket: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def check(self, value: str) -> str:
        """Raises ValueError for a URL that cannot be right; its message shows no password."""
        expected = " or ".join(f"{scheme}://" for scheme in self.schemes)
        scheme, separator, _ = value.partition("://")
        if not separator or scheme.lower() not in self.schemes:
            found = scheme.lower() if separator else "no scheme"
            raise ValueError(f"starts with {found!r}, not {expected}: {{what}}.")
        parts = parse(value)
        if parts is None:
            advice = "a user or password with @ : / ? # % or blanks in it is percent-encoded (@ is %40)"
            if scheme.lower() in ("s3", "file"):
                advice = "has no user, password or options: S3's keys are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            raise ValueError(f"is not a URL: {{what}}; it starts with {expected}, and {advice}.")
        if problem := self._host_problem(parts):
            raise ValueError(problem)
        return value

    def _host_problem(self, parts: Url) -> str | None:
        local = self.socket and "host=" in parts.query
        if parts.scheme != "file" and not parts.hosts and not local:
            return "names no host: {what}."
        if parts.scheme == "file" and parts.hosts not in ("", "localhost"):
            return f"names the host {parts.hosts}, and a folder is on this machine: file:///folder, with three slashes."
        if self.numbered and (database := parts.path.strip("/")) and not database.isdecimal():
            return f"names the database {database}, and they have numbers: {{what}}."
        if len(parts.host_names) > 1 and not self.several_hosts:
            return "names several hosts, and may name one: {what}."
        if self.only_host and (parts.user_info or parts.path.strip("/") or parts.query):
            return f"has a user, path or query, which nothing would obey: write {parts.scheme}://host:port."
        return None


def _certificates(path: str) -> str:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise ValueError("names a file without a certificate (PEM): {what}.") from None
    except OSError as error:
        raise ValueError(f"names a file that cannot be read ({error.strerror}): {{what}}.") from None
    return path


@dataclass(frozen=True)
class Between:
    """The whole numbers that a variable may have, both ends included."""

    lowest: int
    highest: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.check, handler(source))

    def check(self, text: str) -> int:
        """Raises ValueError for anything else."""
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and self.lowest <= int(text) <= self.highest):
            raise ValueError(f"is not a whole number from {self.lowest} to {self.highest} but {text!r}: {{what}}.")
        return int(text)


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise ValueError(f"is not a whole number above 0 but {text!r}: {{what}}.")
    return int(text)


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError(f"is neither on nor off but {text!r}: {{what}}.")
    return text == "on"


def _day(text: str) -> date:
    found = _date(text)
    if found is None:
        raise ValueError(f"is not a date such as 2026-01-31 but {text!r}: {{what}}.")
    return found


def _executor(name: str) -> str:
    from dagster import ExecutorDefinition  # what the name stands for imports it in any case

    try:
        found = resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"names nothing that can be imported ({error}): {{what}}.") from None
    if not isinstance(found, ExecutorDefinition):
        raise ValueError(f"names no executor but a {type(found).__name__}: {{what}}.")
    return name


def _date(text: str) -> date | None:
    try:
        found = date.fromisoformat(text)
    except ValueError:
        return None
    return found if found.isoformat() == text and found.year in YEARS else None


HTTP = ("http", "https")
CaFile = Annotated[str, AfterValidator(_certificates)]
WholeNumber = Annotated[int, BeforeValidator(_whole_number)]
Switch = Annotated[bool, BeforeValidator(_switch)]
Day = Annotated[date, BeforeValidator(_day)]
ExecutorName = Annotated[str, AfterValidator(_executor)]


class Thresholds(BaseModel):
    """What a person on call may turn without a release, and what each value is without it.

    For what sensors, schedules, automation, checks and `store_health` do in every run; what one run may do differently
    is the config of its asset or check. `THRESHOLDS` is what this process uses.
    """

    # Defaults are not validated: what the validators take is text.
    model_config = ConfigDict(alias_generator=str.upper, frozen=True, extra="ignore", validate_default=False)

    drain_retry_seconds: Annotated[int, Between(5, 300)] = Field(
        60, description="seconds between a failed drain and the next one; each further failure doubles them, up to 300"
    )
    late_hours_max_runs: Annotated[int, Between(1, 100)] = Field(
        10, description="runs of `roll_up_late_hours` that are queued or active at the same time"
    )
    repair_retry_minutes: Annotated[int, Between(1, 1440)] = Field(
        15, description="minutes after which late hours or days that are still late are computed again"
    )
    rollup_grace_minutes: Annotated[int, Between(1, 30)] = Field(
        5, description="minutes after the end of an hour before it is rolled up: its last samples are under way"
    )
    fill_lookback_days: Annotated[int, Between(14, 366)] = Field(
        14,
        description="days back for which missing days and weeks of tickets, billing, the archive and reports are "
        "filled automatically; longer after a longer stop",
    )
    compared_days: Annotated[int, Between(14, 366)] = Field(
        35, description="days back for which days and weeks are compared with their source every morning"
    )
    invoice_grace_days: Annotated[int, Between(0, 60)] = Field(
        3, description="days after the end of a month before its documents are issued: what is late comes in"
    )
    outage_lookback_hours: Annotated[int, Between(1, 168)] = Field(
        6,
        description="hours before a dead letter was quarantined in which a drain that failed because of a store "
        "explains it; longer where Dagster stood still during the outage",
    )
    outage_replays: Annotated[int, Between(0, 10)] = Field(
        2, description="times that a dead letter of an outage is replayed automatically; 0 leaves all to a person"
    )
    replay_max_messages: Annotated[int, Between(10, 10_000)] = Field(
        2500,
        description="quarantined messages that a tick of `after_outage` or `registered_hosts` replays, a tenth of them "
        "from the same organization, at a few milliseconds each",
    )
    bad_messages_warn_percent: Annotated[int, Between(1, 99)] = Field(
        5,
        description="percent of a drain's messages, or of one sender's, that may be quarantined before "
        "`quarantine_share` warns: the default of `warn_share`",
    )
    audit_kept_days: Annotated[int, Between(366, 36_600)] = Field(
        36_600,
        description="days that `audit.audit_logs` is kept: at least the year that the platform publishes. By default "
        "none is deleted, because no other store has them",
    )
    quarantine_warn_percent: Annotated[int, Between(1, 99)] = Field(
        80, description="percent of its limit, or of an organization's share, from which `store_health` warns"
    )


class Settings(Thresholds, BaseSettings, Mapping[str, str]):
    """The validated settings: a field for each variable, typed. `validate` and `load` make them.

    As a mapping they are the variables that are set, as text, for other processes: settings["DATABASE_URL"]. Their repr
    shows no value, because some are secrets.
    """

    # Defaults are not validated: what the validators of numbers, switches and days take is text.
    model_config = SettingsConfigDict(alias_generator=str.upper, frozen=True, extra="ignore", validate_default=False)

    dragonfly_url: Annotated[str, StoreUrl(("redis", "rediss"), numbered=True)] = Field(
        description="Dragonfly (or Redis): latest values, caches, reports"
    )
    clickhouse_url: Annotated[str, StoreUrl(HTTP, only_host=True)] = Field(description="ClickHouse's HTTP interface")
    clickhouse_user: str = Field(description="ClickHouse's user")
    clickhouse_password: SecretStr = Field(description="ClickHouse's password")
    clickhouse_database: str = Field(description="ClickHouse's database")
    database_url: Annotated[str, StoreUrl(("postgresql", "postgres"), several_hosts=True, socket=True)] = Field(
        description="PostgreSQL, the system of record"
    )
    mongodb_url: Annotated[str, StoreUrl(("mongodb", "mongodb+srv"), several_hosts=True)] = Field(
        description="MongoDB: logs, audit trail, quarantine; the URL names the database"
    )
    archive_url: Annotated[str, StoreUrl(("s3", "file"))] = Field(
        description="the cold archive, s3://bucket/prefix or file:///folder"
    )
    # Without RABBITMQ_URL the queue is kept in Dragonfly's streams, without INFLUXDB_URL metrics in ClickHouse.
    rabbitmq_url: Annotated[str | None, StoreUrl(("amqp", "amqps"))] = Field(
        None, description="RabbitMQ; the URL's path names the virtual host"
    )
    influxdb_url: Annotated[str | None, StoreUrl(HTTP)] = Field(None, description="InfluxDB 2's HTTP interface")
    influxdb_token: SecretStr | None = Field(
        None, description="InfluxDB's token, which may read, write and delete in the buckets"
    )
    influxdb_org: str | None = Field(None, description="InfluxDB's organization")
    influxdb_bucket: str = Field(
        "metrics",
        description="the bucket of full resolution, `metrics` if unset; the other tiers' buckets end in _5m and _1h",
    )
    # Without AWS_* S3's credentials come from the usual places: profile, instance, container.
    aws_endpoint_url: Annotated[str | None, StoreUrl(HTTP, only_host=True)] = Field(
        None, description="S3's address, if it is not Amazon's"
    )
    aws_access_key_id: str | None = Field(None, description="S3's access key")
    aws_secret_access_key: SecretStr | None = Field(None, description="S3's secret key")
    aws_session_token: SecretStr | None = Field(None, description="S3's session token, for temporary keys")
    aws_region: str | None = Field(None, description="S3's region")
    quarantine_spool: str | None = Field(
        None, description="the folder that holds the quarantine while MongoDB is away, .ninjait/spool if unset"
    )
    quarantine_limit_mib: WholeNumber = Field(
        1024, description="the maximum size of the quarantine, MiB, 1024 if unset"
    )
    hosts_without_organization: Switch = Field(
        False,
        description="on if routing keys of Telegraf and collectd need not name an organization, off if unset",
    )
    pipeline_start: Day = Field(
        DEFAULT_START,
        description="the first day with partitions, YYYY-MM-DD, UTC, 2024-01-01 if unset; fixed by the first "
        "`ninjait migrate up`",
    )
    run_executor: ExecutorName | None = Field(
        None,
        description="what executes the steps of a run, a name to import such as dagster_k8s.k8s_job_executor; one "
        "process for all of them if unset",
    )
    interfaces_left_out: str | None = Field(
        None, description="patterns of network interfaces whose traffic is not counted, separated by commas"
    )
    ca_file: CaFile | None = Field(
        None, description="certificates (PEM) of the authorities that signed the stores' certificates"
    )
    rabbitmq_ca_file: CaFile | None = Field(None, description="the same for RabbitMQ only, in place of CA_FILE")
    influxdb_ca_file: CaFile | None = Field(None, description="the same for InfluxDB only, in place of CA_FILE")
    dragonfly_ca_file: CaFile | None = Field(None, description="the same for Dragonfly only, in place of CA_FILE")
    clickhouse_ca_file: CaFile | None = Field(None, description="the same for ClickHouse only, in place of CA_FILE")
    database_ca_file: CaFile | None = Field(None, description="the same for PostgreSQL only, in place of CA_FILE")
    mongodb_ca_file: CaFile | None = Field(None, description="the same for MongoDB only, in place of CA_FILE")
    archive_ca_file: CaFile | None = Field(None, description="the same for S3 only, in place of CA_FILE")

    _variables: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `validate` is given: never a mixture of that and the environment."""
        return (init_settings,)

    @model_validator(mode="wrap")
    @classmethod
    def _name_every_problem(cls, values: dict[str, str], validated: ModelWrapValidatorHandler[Self]) -> Self:
        settings, problems = None, []
        try:
            settings = validated(values)
        except ValidationError as error:
            problems = [_words(one["loc"][0], one["type"], one.get("ctx")) for one in error.errors()]
        problems += [*_missing_partners(values), *_unused_authorities(values)]
        if problems or settings is None:
            advice = 'For the local stack: .venv/bin/ninjait up, then eval "$(.venv/bin/ninjait env)".'
            raise SettingsError("\n".join([*problems, advice]))
        settings._variables = dict(values)
        return settings

    def __getitem__(self, name: str) -> str:
        return self._variables[name]

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def __repr_args__(self) -> Iterator[tuple[None, str]]:
        return ((None, name) for name in sorted(self))


# variable name -> what it is
DESCRIPTIONS = {name.upper(): field.description or "" for name, field in Settings.model_fields.items()}
REQUIRED = tuple(name.upper() for name, field in Settings.model_fields.items() if field.is_required())


def _words(name: Any, kind: str, context: dict[str, Any] | None) -> str:
    problem = "is not set: {what}." if kind == "missing" or context is None else str(context["error"])
    return f"{name} {problem}".replace("{what}", DESCRIPTIONS[name])


def _missing_partners(values: Mapping[str, str]) -> Iterator[str]:
    for because, needed in NEEDS.items():
        for name in needed if because in values else ():
            if name not in values:
                yield f"{name} is not set, and {because} needs it: {DESCRIPTIONS[name]}."


def _unused_authorities(values: Mapping[str, str]) -> Iterator[str]:
    for ca_file, name in TLS_BY_SCHEME.items():
        scheme, separator, _ = values.get(name, "").partition("://")
        if ca_file in values and separator and scheme.lower() in ("http", "redis", "amqp"):
            yield f"{ca_file} is set, but {name} has no TLS: it starts with {scheme}://, not {scheme}s://."


def validate(values: Mapping[str, str]) -> Settings:
    """The settings found in `values`, checked; an empty one is not set.

    Raises SettingsError, naming every variable that is missing or malformed, without a secret's value.
    """
    settings = Settings.model_validate({name: values[name] for name in DESCRIPTIONS if values.get(name)})
    secret = {name for name in settings if isinstance(getattr(settings, name.lower()), SecretStr)}
    remember(*(text for name, text in settings.items() if name in secret or name.endswith("_URL")))
    return settings


def pipeline_start(environ: Mapping[str, str] = os.environ) -> date:
    """The first day that has partitions. A value that is no date is `validate`'s to report, with all other problems."""
    return _date(environ.get("PIPELINE_START", "")) or DEFAULT_START


def thresholds(environ: Mapping[str, str] = os.environ) -> Thresholds:
    """The thresholds of the environment. If one cannot be right, `validate` reports it before anything runs."""
    try:
        return Thresholds.model_validate({name: value for name, value in environ.items() if value})
    except ValidationError:
        return Thresholds()


THRESHOLDS = thresholds()


def load(environ: Mapping[str, str] = os.environ, local_stack: Path = LOCAL_STACK) -> Settings:
    """The settings of the environment, or those of the local stack if the environment has none at all.

    Never a mixture: a staging URL together with a local password would be worse than an error.
    """
    env_file = local_stack / "settings.env"
    ours = [name for name in DESCRIPTIONS if not name.startswith("AWS_")]
    if env_file.exists() and not any(environ.get(name) for name in ours):
        return validate(read_env_file(env_file))
    return validate(environ)


def read_env_file(path: Path) -> dict[str, str]:
    """The KEY=VALUE lines of a file that `ninjait up` wrote."""
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
