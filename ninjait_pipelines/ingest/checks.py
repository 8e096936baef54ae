"""Checks of the drains: how much of what came was bad, and whether every message is accounted for."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from ninjait_pipelines.ingest.assets import BY_QUEUE
from ninjait_pipelines.ingest.quarantine import count_held
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.store import StoreError

WARN_SHARE = 0.05
ERROR_SHARE = 0.50


def quarantine_share(key: dg.AssetKey, messages: int, quarantined: int) -> dg.AssetCheckResult:
    """Fails above 5 % of the messages as a warning; above 50 % as an error, because then it is us, not the senders."""
    share = quarantined / messages if messages else 0.0
    return dg.AssetCheckResult(
        asset_key=key,
        check_name="quarantine_share",
        passed=share <= WARN_SHARE,
        severity=dg.AssetCheckSeverity.ERROR if share > ERROR_SHARE else dg.AssetCheckSeverity.WARN,
        description=f"{quarantined} of {messages} messages had something for the quarantine ({share:.1%}). "
        "See: ninjait quarantine list",
        metadata={"messages": messages, "messages_quarantined": quarantined, "share": share},
    )


def conservation(key: dg.AssetKey, drained: dict[str, Any], ledger: dict[str, int], held: int) -> dg.AssetCheckResult:
    """What the drain took = what the ledger has of it, point by point; what the ledger calls bad = what is held."""
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
    """A warning: not all that is held could be seen in the spool, and MongoDB, which has the rest, is away."""
    return dg.AssetCheckResult(
        asset_key=key,
        check_name="conservation",
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"The quarantine could not be looked at: {error}",
    )


def drain_checks(queue: str, asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """The two checks of one asset, both of its last drain."""
    name = asset.key.to_user_string()

    @dg.multi_asset_check(
        name=f"{name}_checks",
        specs=[
            dg.AssetCheckSpec(
                "quarantine_share",
                asset=asset,
                description="Share of the last drain's messages that went to quarantine, wholly or in part: "
                "above 5 % a warning, above 50 % an error.",
            ),
            dg.AssetCheckSpec(
                "conservation",
                asset=asset,
                description="The ledger has every message of the last drain, with every point written or quarantined, "
                "and the quarantine, or its spool, holds every one that the ledger says it does.",
            ),
        ],
    )
    def check(
        context: dg.AssetCheckExecutionContext, clickhouse: ClickHouse, mongodb: MongoDB
    ) -> Iterator[dg.AssetCheckResult]:
        last = last_drain(context.instance, asset.key)
        yield quarantine_share(asset.key, last["messages"], last["messages_quarantined"])
        since = datetime.fromtimestamp(last["started_at"], UTC)
        ledger = clickhouse.rows(sql("ingest/ledger_of_run"), queue=queue, run_id=last["drained_by"], since=since)[0]
        ids = [f"{queue}/{delivery_id}" for delivery_id in ledger.pop("quarantined_ids")]
        try:
            held = count_held(mongodb, ids, last["drained_by"])
        except StoreError as error:
            yield _not_looked_up(asset.key, error)
        else:
            yield conservation(asset.key, last, ledger | {"quarantined": len(ids)}, held)

    return check


def last_drain(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, Any]:
    """The metadata of the asset's last materialization. Raises dg.Failure where there is none."""
    event = instance.get_latest_materialization_event(key)
    if event is None or event.asset_materialization is None:
        raise dg.Failure(f"{key.to_user_string()} has never been materialized: there is no drain to check.")
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


all_checks = [drain_checks(queue, asset) for queue, asset in BY_QUEUE.items()]
