"""Connecting, TLS, time-outs, and closing."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ
from ninjait_pipelines.resources.store import StoreFailed, StoreRefused, StoreUnavailable
from ninjait_pipelines_tests.proxy import Proxy
from ninjait_pipelines_tests.resources.queue_contract import (
    QUEUE,
    bodies,
    drain,
    eventually,
    outgoing,
)
from ninjait_pipelines_tests.resources.rabbitmq.node import Node, held, make, threads

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]


def test_a_broker_that_falls_silent_is_not_waited_for_longer_than_told(url: str, queue: RabbitMQ) -> None:
    with Proxy(url) as proxy, make(proxy.url, timeout_seconds=1).open() as slow:
        slow.publish([outgoing(1)])
        proxy.pause()
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match="no answer within 1 seconds"):
            slow.publish([outgoing(2)])
        with pytest.raises(StoreUnavailable):
            slow.depth(QUEUE)
        assert not slow.status().ok
        assert time.monotonic() - started < 20
        proxy.resume()
        assert slow.publish([outgoing(3)]) == 1
    assert {1, 3} <= set(bodies(drain(queue)))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, although the shell started us in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_run_that_is_ended_in_a_call_ends(url: str, queue: RabbitMQ, interruptible: None) -> None:
    """Dagster ends a run by an exception in its main thread, wherever that is; no StoreError must take its place."""
    with Proxy(url) as proxy, make(proxy.url).open() as slow, slow.consume(QUEUE, 5) as consumer:
        slow.publish([outgoing(1)])
        messages = held(consumer, 1)
        waits: list[Callable[[], object]] = [
            lambda: slow.publish(outgoing(number) for number in range(1_000)),
            lambda: consumer.requeue(messages),
            lambda: consumer.receive(5, wait_seconds=8),
            lambda: slow.dead_letters(QUEUE),
        ]
        proxy.pause()
        for wait in waits:
            interrupting = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
            interrupting.start()
            started = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                wait()
            assert time.monotonic() - started < 3
            interrupting.join()
        started = time.monotonic()
        slow.close()
        assert time.monotonic() - started < 6
        proxy.resume()
        assert slow.publish([outgoing(2)]) == 1
    assert {1, 2} <= set(bodies(drain(queue)))


def test_a_refused_password_is_not_retried_nor_shown(url: str) -> None:
    started = time.monotonic()
    with make(url.replace("secret", "wrong-one")).open() as queue:
        with pytest.raises(StoreRefused, match=r"refuses the user or the password.*RABBITMQ_URL") as refused:
            queue.publish([outgoing(1)])
        assert "wrong-one" not in str(refused.value)
        with pytest.raises(StoreRefused), queue.consume(QUEUE, 1):
            pass
        assert not queue.status().ok
    assert time.monotonic() - started < 5


def test_a_virtual_host_that_is_not_there_is_named(node: Node) -> None:
    with make(node.url.replace("%2F", "nowhere")).open() as queue, pytest.raises(StoreRefused, match="vhost nowhere"):
        queue.declare()


def test_nobody_listens(url: str) -> None:
    with Proxy(url) as proxy:
        gone = proxy.url
    with make(gone, timeout_seconds=1).open() as queue:
        status = queue.status()
        assert (status.ok, "refused" in status.problem) == (False, True)
        with pytest.raises(StoreUnavailable):
            queue.publish([outgoing(1)])


def test_a_url_that_cannot_be_right(url: str) -> None:
    for wrong in (f"{url}?colour=red", url.replace("amqp://", "amqps://") + "?cafile=/nowhere.pem"):
        with make(wrong).open() as queue, pytest.raises(StoreFailed, match="Check RABBITMQ_URL"):
            queue.declare()


def test_tls_with_a_certificate_that_is_verified(node: Node, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = urllib.parse.urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    secure = parts._replace(scheme="amqps", netloc=f"{user}@localhost:{node.tls_port}").geturl()
    with make(f"{secure}?cafile={node.cafile}").open() as queue:
        queue.declare()
        queue.publish([outgoing(1)])
        assert bodies(drain(queue)) == [1]
    with make(secure).open() as queue, pytest.raises(StoreFailed, match=r"not trusted.*RABBITMQ_CA_FILE"):
        queue.declare()
    with make(secure, ca_file=str(node.cafile)).open() as queue:
        assert queue.status().ok
    stranger = f"{secure}?cafile={node.strangers_cafile}"
    with make(stranger).open() as queue, pytest.raises(StoreFailed, match="certificate is not trusted"):
        queue.declare()
    by_address = secure.replace("@localhost", "@127.0.0.1") + f"?cafile={node.cafile}"
    with make(by_address).open() as queue, pytest.raises(StoreFailed, match=r"certificate is not trusted.*127"):
        queue.declare()
    monkeypatch.setenv("SSL_CERT_FILE", str(node.cafile))
    with make(secure).open() as queue:
        queue.declare()


def test_closing_ends_every_thread_at_once(url: str, queue: RabbitMQ) -> None:
    queue.close()
    assert eventually(lambda: threads() == [], seconds=5)
    started = time.monotonic()
    with make(url).open() as other:
        other.publish([outgoing(1)])
        other.depth(QUEUE)
        with other.consume(QUEUE, 1) as consumer:
            held(consumer, 1)
            assert len(threads()) == 2
        other.close()
        assert other.depth(QUEUE).dead == 0  # opens again
    assert threads() == []
    assert time.monotonic() - started < 5


def test_a_process_that_does_not_close_ends_all_the_same(url: str, queue: RabbitMQ, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ\n"
        "queue = RabbitMQ(url=sys.argv[1])\n"
        "queue.depth('agent.metrics')\n"
        "queue.consume('agent.metrics', 1).__enter__()\n"
    )
    finished = subprocess.run([sys.executable, "-c", script, url], timeout=60, capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")
