"""One resource per store. `stores_from` is the only place where settings become their fields.

The clients of optional stores are imported only if a setting names one: imports slow down every command.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any

from ninjait_pipelines import without_pandas
from ninjait_pipelines.resources.archive.resource import Archive
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.clickhouse_metrics import ClickHouseMetrics
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.dragonfly_queue import DragonflyQueue
from ninjait_pipelines.resources.message_queue import MessageQueue
from ninjait_pipelines.resources.metrics_store import MetricsStore
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import Store
from ninjait_pipelines.settings import Settings

without_pandas.decide()


@dataclass(frozen=True)
class Stores:
    """All stores; the field names are Dagster's resource keys."""

    message_queue: MessageQueue
    metrics_store: MetricsStore
    dragonfly: Dragonfly
    clickhouse: ClickHouse
    postgres: Postgres
    mongodb: MongoDB
    archive: Archive

    def all(self) -> dict[str, Store]:
        """Resource key -> store."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def stores_from(value: Callable[[str], Any], settings: Settings) -> Stores:
    """The stores, unopened. `value` returns a setting by the name of its variable: for Dagster an EnvVar, so that no
    secret gets into a snapshot. Numbers and switches are no secrets: they come from `settings`, typed."""

    def optional(name: str) -> Any:
        return value(name) if name in settings else None

    def authority(store: str) -> Any:
        return optional(f"{store}_CA_FILE") or optional("CA_FILE")

    clickhouse = {
        "url": value("CLICKHOUSE_URL"),
        "user": value("CLICKHOUSE_USER"),
        "password": value("CLICKHOUSE_PASSWORD"),
        "database": value("CLICKHOUSE_DATABASE"),
        "ca_file": authority("CLICKHOUSE"),
    }
    left_out = optional("INTERFACES_LEFT_OUT")
    queue: MessageQueue = DragonflyQueue(url=value("DRAGONFLY_URL"), ca_file=authority("DRAGONFLY"))
    if settings.rabbitmq_url:
        from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ

        queue = RabbitMQ(url=value("RABBITMQ_URL"), ca_file=authority("RABBITMQ"))
    metrics: MetricsStore = ClickHouseMetrics(**clickhouse, interfaces_left_out=left_out)
    if settings.influxdb_url:
        from ninjait_pipelines.resources.influxdb.resource import InfluxDB

        metrics = InfluxDB(
            url=value("INFLUXDB_URL"),
            token=value("INFLUXDB_TOKEN"),
            organization=value("INFLUXDB_ORG"),
            bucket=optional("INFLUXDB_BUCKET") or settings.influxdb_bucket,
            ca_file=authority("INFLUXDB"),
            interfaces_left_out=left_out,
        )
    return Stores(
        message_queue=queue,
        metrics_store=metrics,
        dragonfly=Dragonfly(url=value("DRAGONFLY_URL"), ca_file=authority("DRAGONFLY")),
        clickhouse=ClickHouse(**clickhouse),
        postgres=Postgres(
            url=value("DATABASE_URL"),
            ca_file=authority("DATABASE"),
            hosts_without_organization=settings.hosts_without_organization,
            interfaces_left_out=left_out,
        ),
        mongodb=MongoDB(
            url=value("MONGODB_URL"),
            ca_file=authority("MONGODB"),
            spool_folder=optional("QUARANTINE_SPOOL"),
            quarantine_limit_mib=settings.quarantine_limit_mib,
        ),
        archive=Archive(
            url=value("ARCHIVE_URL"),
            ca_file=authority("ARCHIVE"),
            endpoint_url=optional("AWS_ENDPOINT_URL"),
            access_key_id=optional("AWS_ACCESS_KEY_ID"),
            secret_access_key=optional("AWS_SECRET_ACCESS_KEY"),
            session_token=optional("AWS_SESSION_TOKEN"),
            region=optional("AWS_REGION"),
        ),
    )


@contextmanager
def open_stores(settings: Settings) -> Iterator[Stores]:
    """The stores for a command or a test: each connects at first use, all are closed at the end."""
    stores = stores_from(settings.__getitem__, settings)
    with ExitStack() as stack:
        for store in stores.all().values():
            stack.enter_context(store.open())
        yield stores
