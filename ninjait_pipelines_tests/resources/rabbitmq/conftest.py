"""Fixtures of the RabbitMQ tests: one node, and a virtual host per test."""

import functools
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import pika
import pytest

from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ
from ninjait_pipelines_tests.resources.queue_contract import (
    Broker,
)
from ninjait_pipelines_tests.resources.rabbitmq.node import Node, make


@pytest.fixture(scope="package")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("rabbitmq"))
    try:
        yield node
    finally:
        node.stop()


@pytest.fixture
def url(node: Node) -> Iterator[str]:
    """A virtual host of the test's own."""
    name = uuid.uuid4().hex
    node.ask("PUT", f"vhosts/{name}")
    user = urllib.parse.urlsplit(node.url).username
    node.ask("PUT", f"permissions/{name}/{user}", {"configure": ".*", "write": ".*", "read": ".*"})
    yield node.url.replace("%2F", name)
    node.ask("DELETE", f"vhosts/{name}")


@pytest.fixture
def broker(node: Node, url: str, request: pytest.FixtureRequest) -> Broker:
    if "crash" in request.node.name:
        with make(url).open() as queue:
            queue.declare()
        node.remember_queues()
    return Broker(functools.partial(make, url), node.crash)


@pytest.fixture
def queue(url: str) -> Iterator[RabbitMQ]:
    with make(url).open() as queue:
        queue.declare()
        yield queue


@pytest.fixture
def raw(url: str) -> Iterator[Any]:
    """A channel of pika's own, as any other program has it."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    yield connection.channel()
    if connection.is_open:
        connection.close()
