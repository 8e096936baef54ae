"""The ingest assets as Dagster runs them: metadata, checks that can fail, and the sensors that start them."""

import dagster as dg

from ninjait_pipelines.ingest import assets
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.ingest.materialized import drain, outcomes
from ninjait_pipelines_tests.ingest.samples import (
    EVENTS,
    metrics,
    outgoing,
    sample,
)


def test_every_queue_has_its_asset_job_sensor_and_checks(fleet: Stores) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for queue, asset in assets.BY_QUEUE.items():
            good = EVENTS.get(queue, metrics(sample(60), sample(30)))
            fleet.message_queue.publish([outgoing(queue, good), outgoing(queue, good)])
            result = drain(fleet, instance, asset.key.to_user_string())
            assert result.success
            seen = {"devices_are_understood": True} if queue == "agent.metrics" else {}
            assert outcomes(result) == {"quarantine_share": True, "conservation": True, **seen}
            (event,) = result.asset_materializations_for_node(asset.key.to_user_string())
            metadata = {name: value.value for name, value in event.metadata.items()}
            points = 4 if queue == "agent.metrics" else 2
            assert (metadata["messages"], metadata["points_written"], metadata["dagster/row_count"]) == (
                2,
                points,
                points,
            )
            assert (metadata["remaining_messages"], metadata["points_quarantined"]) == (0, 0)
            assert metadata["drained_by"] == result.run_id
            assert metadata["bytes"] > 0
            assert metadata["duration_seconds"] > 0
