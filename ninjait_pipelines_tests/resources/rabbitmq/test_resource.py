"""`RabbitMQ` keeps the queue's contract on a real broker."""

import pytest

from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ
from ninjait_pipelines.resources.store import StoreUnavailable
from ninjait_pipelines_tests.resources.queue_contract import (
    QUEUE,
    Broker,
    QueueContract,
    drain,
    eventually,
    outgoing,
)
from ninjait_pipelines_tests.resources.rabbitmq.node import Node

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]


class TestContract(QueueContract):
    @pytest.fixture
    def broker(self, broker: Broker) -> Broker:
        return broker


def test_a_queue_that_only_looks_empty_is_an_error(node: Node, url: str, queue: RabbitMQ) -> None:
    """After a full disk a queue's leader was gone: the broker ran, said that the queue was empty, and 1,251 messages
    were in it. The sensor saw nothing to do, and everything was green."""
    queue.publish(outgoing(number) for number in range(20))
    assert eventually(lambda: queue.depth(QUEUE).ready == 20)
    vhost = url.rpartition("/")[2]
    leader = f'{{binary_to_atom(<<"{vhost}_{QUEUE}">>), node()}}'
    node.control("eval", f"ra:stop_server(quorum_queues, {leader}).")
    gone = f'ets:delete(queue_coarse_metrics, rabbit_misc:r(<<"{vhost}">>, queue, <<"{QUEUE}">>)).'
    node.control("eval", gone)
    try:
        with pytest.raises(StoreUnavailable, match=r"agent\.metrics looks empty, and gives no answer"):
            queue.depth(QUEUE)
        status = queue.status()
        assert (status.ok, "looks empty" in status.problem) == (False, True)
        assert queue.depth("platform.logs").ready == 0
    finally:
        node.control("eval", f"ra:restart_server(quorum_queues, {leader}).")
    assert eventually(lambda: queue.depth(QUEUE).ready == 20, seconds=20)
    assert {message.deliveries for message in drain(queue)} == {1}


def test_status_has_the_version(queue: RabbitMQ) -> None:
    status = queue.status()
    assert (status.ok, status.version.split(".")[0].isdigit(), status.problem) == (True, True, "")
    assert "secret" not in status.address + repr(status)
