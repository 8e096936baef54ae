"""Checks of the drains: how much input was bad, whether every message is accounted for, which devices lack readings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import dagster as dg
from pydantic import Field

from ninjait_pipelines.ingest.assets import BY_QUEUE
from ninjait_pipelines.ingest.decode.model import NOBODY
from ninjait_pipelines.ingest.quarantine.hold import count_held
from ninjait_pipelines.ingest.sinks import MetricsSink
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import StoreError
from ninjait_pipelines.settings import THRESHOLDS

# Senders and devices that a check names; it counts the rest.
NAMED = 20


class DrainChecksConfig(dg.Config):
    """When the checks of a drain fail."""

    warn_share: float = Field(
        default=THRESHOLDS.bad_messages_warn_percent / 100,
        gt=0,
        lt=1,
        description="Share (0 to 1) of messages quarantined, of all or of one sender's, above which there is a warning",
    )
    error_share: float = Field(
        default=0.5, gt=0, le=1, description="Share (0 to 1) of all messages quarantined above which it is an error"
    )
    reading_hours: int = Field(
        default=3,
        ge=1,
        description="Hours in which a device that sends data must have cpu, memory and disk readings",
    )


DEFAULT = DrainChecksConfig()


def quarantine_share(
    key: dg.AssetKey,
    messages: int,
    quarantined: int,
    senders: Sequence[Mapping[str, Any]] = (),
    config: DrainChecksConfig = DEFAULT,
) -> dg.AssetCheckResult:
    """Warns above `warn_share` of all messages, or of one sender's, so that a loud healthy sender hides no broken one.

    Above `error_share` of all messages it is an error, because then the cause is here, not at the senders.

    senders: the rows of ingest/senders_of_run.sql with their `name`.
    """
    share = quarantined / messages if messages else 0.0
    broken = [sender for sender in senders if sender["broken"]]
    count = senders[0]["all_broken"] if senders else 0
    said = f"{quarantined} of {messages} messages were quarantined wholly or in part ({share:.1%})."
    if broken:
        said += f" Senders with more than {config.warn_share:.0%} of their own messages quarantined: {count}, such as "
        said += "; ".join(map(_said_of, broken[:NAMED])) + "."
    return dg.AssetCheckResult(
        asset_key=key,
        check_name="quarantine_share",
        passed=share <= config.warn_share and not broken,
        severity=dg.AssetCheckSeverity.ERROR if share > config.error_share else dg.AssetCheckSeverity.WARN,
        description=f"{said} See: ninjait quarantine list",
        metadata={
            "messages": messages,
            "messages_quarantined": quarantined,
            "share": share,
            "broken_senders": count,
            "broken": _table(broken),
            "loudest": _table(sorted(senders, key=lambda sender: -sender["messages"])[:5]),
        },
    )


def _said_of(sender: Mapping[str, Any]) -> str:
    return f"{sender['name']} ({sender['bad']} of {sender['messages']}: {', '.join(sender['reasons'])})"


def _table(senders: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue:
    columns = ("organization_id", "name", "messages", "bad")
    records = [
        dg.TableRecord(
            {name: str(one[name]) if name == "organization_id" else one[name] for name in columns}
            | {"reasons": ", ".join(one["reasons"])}
        )
        for one in senders
    ]
    names = [dg.TableColumn(name) for name in (*columns, "reasons")]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(names))


def devices_are_understood(
    key: dg.AssetKey, devices: Sequence[Mapping[str, Any]], config: DrainChecksConfig = DEFAULT
) -> dg.AssetCheckResult:
    """Warns if a registered device sends data but no cpu, memory or disk: nothing else would show that.

    devices: the rows of ingest/devices_without.sql with their `name`.
    """
    shown = [f"{device['name']} (no {', '.join(device['missing'])})" for device in devices[:NAMED]]
    said = f"{len(devices)} devices send data but lacked readings for {config.reading_hours} hours: "
    said += f"{'; '.join(shown)}. See: left_out"
    return dg.AssetCheckResult(
        asset_key=key,
        check_name="devices_are_understood",
        passed=not devices,
        severity=dg.AssetCheckSeverity.WARN,
        description=said if devices else "Every device that sends data has readings of cpu, memory and disk.",
        metadata={"devices": len(devices), "named": shown},
    )


def named(postgres: Postgres, rows: Sequence[dict[str, Any]], only_active: bool = False) -> list[dict[str, Any]]:
    """The rows with a `name`: their device's host name, or what else identifies the sender; or active devices only."""
    ids = [row["device_id"] for row in rows]
    found = postgres.rows(sql("ingest/host_names"), {"ids": ids}) if ids else []
    devices = {device["id"]: device for device in found}
    active = {id_ for id_, device in devices.items() if device["active"]}
    return [
        row | {"name": devices[id_]["hostname"] if (id_ := row["device_id"]) in devices else _unregistered(row)}
        for row in rows
        if not only_active or row["device_id"] in active
    ]


def _unregistered(row: Mapping[str, Any]) -> str:
    device = str(row["device_id"])
    return row.get("host") or (device if device != NOBODY else f"an unnamed {row.get('agent') or 'sender'}")


def conservation(key: dg.AssetKey, drained: dict[str, Any], ledger: dict[str, int], held: int) -> dg.AssetCheckResult:
    """The drain's counts equal the ledger's, point by point; what the ledger calls quarantined is in quarantine."""
    pairs = {
        "messages": (drained["messages"] + drained["dead_letters"], ledger["messages"]),
        "points": (ledger["points"], ledger["points_written"] + ledger["points_quarantined"]),
        "points written": (drained["points_written"], ledger["points_written"]),
        "quarantined messages": (ledger["quarantined"], held),
    }
    wrong = [f"{name}: {left} against {right}" for name, (left, right) in pairs.items() if left != right]
    return dg.AssetCheckResult(
        asset_key=key,
        check_name="conservation",
        passed=not wrong,
        description="; ".join(wrong) or f"All {ledger['messages']} messages of the last drain are accounted for.",
        metadata={**ledger, "held": held},
    )


def _not_looked_up(key: dg.AssetKey, error: StoreError) -> dg.AssetCheckResult:
    """A warning: the spool does not have all quarantined messages, and MongoDB, which has the rest, is down."""
    return dg.AssetCheckResult(
        asset_key=key,
        check_name="conservation",
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"The quarantine could not be read: {error}",
    )


_UNDERSTOOD = partial(
    dg.AssetCheckSpec,
    "devices_are_understood",
    description="Every registered device that sent anything in the last "
    f"{DEFAULT.reading_hours} hours (`reading_hours`) has readings of cpu, memory and disk; a warning names those "
    "without. The view left_out shows what they send instead.",
)


def drain_checks(queue: str, asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """The checks of one asset: two of its last drain and, for the metrics queue, one of all devices."""
    name = asset.key.to_user_string()
    of_metrics = queue == MetricsSink.queue

    @dg.multi_asset_check(
        name=f"{name}_checks",
        specs=[
            dg.AssetCheckSpec(
                "quarantine_share",
                asset=asset,
                description="Share of the last drain's messages that were quarantined wholly or in part: a warning "
                f"above {DEFAULT.warn_share:.0%} of all messages or of one sender's (`warn_share`), an error above "
                f"{DEFAULT.error_share:.0%} of all (`error_share`).",
            ),
            dg.AssetCheckSpec(
                "conservation",
                asset=asset,
                description="The ledger has every message of the last drain, with every point written or quarantined, "
                "and the quarantine or its spool has every message that the ledger calls quarantined.",
            ),
            *([_UNDERSTOOD(asset=asset)] if of_metrics else []),
        ],
    )
    def check(
        context: dg.AssetCheckExecutionContext,
        config: DrainChecksConfig,
        clickhouse: ClickHouse,
        mongodb: MongoDB,
        postgres: Postgres,
    ) -> Iterator[dg.AssetCheckResult]:
        last = last_drain(context.instance, asset.key)
        of_run = {
            "queue": queue,
            "run_id": last["drained_by"],
            "since": datetime.fromtimestamp(last["started_at"], UTC),
        }
        senders = clickhouse.rows(sql("ingest/senders_of_run"), share=config.warn_share, **of_run)
        yield quarantine_share(
            asset.key, last["messages"], last["messages_quarantined"], named(postgres, senders), config
        )
        if of_metrics:
            since = clickhouse.now() - timedelta(hours=config.reading_hours)
            without = clickhouse.rows(sql("ingest/devices_without"), since=since, hours=config.reading_hours)
            yield devices_are_understood(asset.key, named(postgres, without, only_active=True), config)
        ledger = clickhouse.rows(sql("ingest/ledger_of_run"), **of_run)[0]
        ids = [f"{queue}/{delivery_id}" for delivery_id in ledger.pop("quarantined_ids")]
        try:
            held = count_held(mongodb, ids, last["drained_by"])
        except StoreError as error:
            yield _not_looked_up(asset.key, error)
        else:
            yield conservation(asset.key, last, ledger | {"quarantined": len(ids)}, held)

    return check


def last_drain(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, Any]:
    """The metadata of the asset's last materialization. Raises dg.Failure if there is none."""
    event = instance.get_latest_materialization_event(key)
    if event is None or event.asset_materialization is None:
        raise dg.Failure(f"{key.to_user_string()} has never been materialized: there is no drain to check.")
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


all_checks = [drain_checks(queue, asset) for queue, asset in BY_QUEUE.items()]
