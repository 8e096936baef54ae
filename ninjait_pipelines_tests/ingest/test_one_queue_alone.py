"""One queue that is not as declared stops its own drain only."""

import dagster as dg
import pytest

from ninjait_pipelines.ingest import assets, sensors
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.dragonfly_queue import stream_key
from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ
from ninjait_pipelines.resources.store import StoreError
from ninjait_pipelines_tests.ingest.samples import metrics, outgoing, register, sample
from ninjait_pipelines_tests.runs import run
from ninjait_pipelines_tests.truncated_stores import rabbitmq_channel

OTHER = "platform.logs"


def spoil(stores: Stores) -> None:
    """Somebody has declared OTHER with arguments, or as a kind, of their own."""
    if isinstance(stores.message_queue, RabbitMQ):
        with rabbitmq_channel(stores.message_queue) as channel:
            channel.queue_delete(OTHER)
            channel.queue_declare(OTHER, durable=True)
    else:
        stores.dragonfly.client.set(stream_key(OTHER), "not a stream")


def mend(stores: Stores) -> None:
    if isinstance(stores.message_queue, RabbitMQ):
        with rabbitmq_channel(stores.message_queue) as channel:
            channel.queue_delete(OTHER)
    else:
        stores.dragonfly.client.delete(stream_key(OTHER))
    stores.message_queue.declare()


def test_one_queue_that_is_declared_otherwise_stops_its_own_drain_only(shared_stores: Stores) -> None:
    """One queue with other arguments stopped all drains, and the sensors of all queues."""
    register(shared_stores.postgres)
    shared_stores.message_queue.publish([outgoing("agent.metrics", metrics(sample(60)))])
    spoil(shared_stores)
    try:
        resources = {"message_queue": shared_stores.message_queue}
        by_depth = sensors.drains_sensor(wait_seconds=0)
        with (
            dg.DagsterInstance.ephemeral() as instance,
            dg.build_sensor_context(instance, resources=resources) as context,
        ):
            [request] = by_depth.evaluate_tick(context).run_requests or ()
            assert request.job_name == "drain_agent_metrics"
            run(shared_stores, assets.agent_metrics)
            with pytest.raises(StoreError):
                by_depth.evaluate_tick(context)
        assert shared_stores.clickhouse.scalar("SELECT count() FROM message_deliveries WHERE outcome = 'written'") == 1
        with pytest.raises(StoreError):
            shared_stores.message_queue.declare()
        with pytest.raises(StoreError):
            run(shared_stores, assets.application_logs)
    finally:
        mend(shared_stores)
