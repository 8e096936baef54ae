"""`RabbitMQ` keeps the queue's contract on a real broker; then what is its own, and what goes wrong with brokers."""

import functools
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pika
import pytest
import trustme
import typer
from typer.testing import CliRunner

from ninjait_pipelines.cli.migrate import register
from ninjait_pipelines.ingest import drain as drain_module
from ninjait_pipelines.local.stack.local import clean_environment, free_port
from ninjait_pipelines.local.stack.servers import RabbitMQ as Engine
from ninjait_pipelines.messages import QUEUES, Message, Outgoing, fits
from ninjait_pipelines.resources.rabbitmq import resource as rabbitmq
from ninjait_pipelines.resources.rabbitmq import upgrade as rabbitmq_upgrade
from ninjait_pipelines.resources.rabbitmq.resource import EVENTS, RabbitMQ, dead_queue
from ninjait_pipelines.resources.store import OutOfSpace, StoreFailed, StoreRefused, StoreUnavailable
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.proxy import FROM_ENGINE, TO_ENGINE, Proxy
from ninjait_pipelines_tests.resources.queue_contract import (
    DELIVERY_LIMIT,
    MAX_LENGTH,
    QUEUE,
    WRITTEN_SECONDS,
    Broker,
    QueueContract,
    bodies,
    drain,
    eventually,
    outgoing,
)

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]


class Node:
    """The engine of the local stack, alone, so that a test may kill it; it speaks TLS on a port of its own as well."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.authority, self.stranger = trustme.CA(), trustme.CA()
        self.cafile, self.strangers_cafile = folder / "ca.pem", folder / "stranger.pem"
        self.authority.cert_pem.write_to_path(str(self.cafile))
        self.stranger.cert_pem.write_to_path(str(self.strangers_cafile))
        certificate = self.authority.issue_cert("localhost")  # not for 127.0.0.1
        certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
        for part in certificate.cert_chain_pems:
            part.write_to_path(str(folder / "cert.pem"), append=True)
        with ExitStack() as held:
            port, self.tls_port, *more = (free_port(held, 0) for _ in range(2 + Engine.ports_needed))
            lines = [
                f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}",
                f"ssl_options.cacertfile = {self.cafile}",
                f"ssl_options.certfile = {folder / 'cert.pem'}",
                f"ssl_options.keyfile = {folder / 'key.pem'}",
            ]
            self._engine = Engine(
                folder / "node", port, "secret", more_ports=tuple(more), extra_config="\n".join(lines)
            )
        self.url = self._engine.settings()["RABBITMQ_URL"]
        self.management = self._engine.settings()["RABBITMQ_MANAGEMENT_URL"]
        self.start()

    def start(self) -> None:
        self._engine.prepare()
        with (self._folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                self._engine.command(), env=self._environment(), stdout=output, stderr=output
            )
        assert eventually(self._ready, seconds=60), (self._folder / "output").read_text()[-3000:]

    def _environment(self) -> dict[str, str]:
        return clean_environment() | self._engine.environment()

    def _ready(self) -> bool:
        assert self._process.poll() is None
        try:
            return self._engine.ready()
        except OSError:
            return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def crash(self) -> None:
        self.kill()
        self.start()

    def stop(self) -> None:
        self.kill()
        self._engine.clean_up()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The management plugin's answer."""
        parts = urllib.parse.urlsplit(self.management)
        request = urllib.request.Request(
            f"http://{parts.hostname}:{parts.port}/api/{path}", method=method, data=json.dumps(body or {}).encode()
        )
        passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
        passwords.add_password(
            None, request.full_url, parts.username or "", parts.password or "", is_authenticated=True
        )
        request.add_header("Content-Type", "application/json")
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
        with opener.open(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    @contextmanager
    def set(self, values: dict[str, int]) -> Iterator[None]:
        """Settings of the running broker, put back at the end."""
        names = ",".join(values)
        before = self.control("eval", f"[{{N, V}} || N <- [{names}], {{ok, V}} <- [application:get_env(rabbit, N)]].")
        ours = ",".join(f"{{{name}, {value}}}" for name, value in values.items())
        try:
            self.control("eval", f"[application:set_env(rabbit, N, V) || {{N, V}} <- [{ours}]].")
            yield
        finally:
            self.control("eval", f"[application:set_env(rabbit, N, V) || {{N, V}} <- {before.strip()}].")

    def remember_queues(self) -> None:
        """Writes the node's list of its queues, which it does some seconds late: a queue that was declared just before
        the node was killed comes back without a leader, and no client can do anything about it."""
        self.control("eval", "[dets:sync(Table) || Table <- dets:all()].")

    def control(self, *arguments: str) -> str:
        """rabbitmqctl, which knows the node by the same environment."""
        command = [str(self._engine.binary().parent / "rabbitmqctl"), "-n", "ninjait@localhost", *arguments]
        return subprocess.run(command, env=self._environment(), check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
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


def make(url: str, **settings: Any) -> RabbitMQ:
    return RabbitMQ(url=url, **{"delivery_limit": DELIVERY_LIMIT, "max_length": MAX_LENGTH, **settings})


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


class TestContract(QueueContract):
    @pytest.fixture
    def broker(self, broker: Broker) -> Broker:
        return broker


def held(consumer: Any, limit: int) -> list[Message]:
    """`most` messages."""
    messages: list[Message] = []
    while len(messages) < limit:
        got = consumer.receive(limit - len(messages), wait_seconds=5)
        assert got
        messages += got
    return messages


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("rabbitmq")]


# --- topology ---


def test_what_is_declared_is_what_the_broker_has(node: Node, url: str, queue: RabbitMQ) -> None:
    queue.declare()
    vhost = urllib.parse.urlsplit(url).path[1:]
    found = {one["name"]: one for one in node.ask("GET", f"queues/{vhost}")}
    assert sorted(found) == sorted([*QUEUES, *map(dead_queue, QUEUES)])
    assert {(one["type"], one["durable"]) for one in found.values()} == {("quorum", True)}
    assert found[QUEUE]["arguments"] == {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-max-length": MAX_LENGTH,
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": dead_queue(QUEUE),
        "x-dead-letter-strategy": "at-least-once",
    }
    bindings = {(one["source"], one["destination"], one["routing_key"]) for one in node.ask("GET", f"bindings/{vhost}")}
    expected = {(EVENTS, name, key) for name, keys in QUEUES.items() for key in keys}
    expected |= {(dead_queue(name), dead_queue(name), "") for name in QUEUES}
    assert {one for one in bindings if one[0]} == expected


def test_a_queue_with_other_arguments_is_named_with_both_and_left_alone(url: str, queue: RabbitMQ) -> None:
    queue.publish([outgoing(1)])
    with make(url, max_length=5).open() as other:
        with pytest.raises(StoreFailed, match=r"queue agent\.metrics .*x-max-length.*2000.*ours.*5.*left as it is"):
            other.declare()
        assert other.depth(QUEUE).ready == 1
    with make(url, delivery_limit=9).open() as other, pytest.raises(StoreFailed, match=r"x-delivery-limit.*3.*ours.*9"):
        other.declare()
    queue.declare()
    assert bodies(drain(queue)) == [1]


def test_a_queue_and_an_exchange_of_another_type_are_named(url: str, raw: Any) -> None:
    raw.queue_declare("platform.logs", durable=True)
    with (
        make(url).open() as queue,
        pytest.raises(StoreFailed, match=r"queue platform\.logs .*: it has none, and ours is"),
    ):
        queue.declare()
    raw.queue_delete("platform.logs")
    raw.exchange_delete(EVENTS)
    raw.exchange_declare(EVENTS, "fanout")
    with make(url).open() as queue, pytest.raises(StoreFailed, match=rf"exchange {EVENTS} .*fanout.*topic"):
        queue.declare()


def test_the_migrations_declare_it_and_say_what_differs(url: str, raw: Any, settings: Settings) -> None:
    app, runner = typer.Typer(), CliRunner(env={**settings, "RABBITMQ_URL": url})
    app.callback()(lambda: None)
    register(app)
    assert runner.invoke(app, ["migrate", "up"]).exit_code == 0
    assert raw.queue_declare("platform.logs.dead", passive=True).method.message_count == 0
    assert runner.invoke(app, ["migrate", "status"]).exit_code == 0
    raw.queue_delete("platform.logs")
    raw.queue_declare("platform.logs", durable=True)
    listed = runner.invoke(app, ["migrate", "status", "--json"])
    assert listed.exit_code == 1
    (queue,) = (row for row in json.loads(listed.output) if row["store"] == "message_queue")
    assert re.match(r"differs: .*the queue platform\.logs was declared with another x-", queue["state"])
    failed = runner.invoke(app, ["migrate", "up"])
    assert isinstance(failed.exception, StoreFailed)


def test_dead_letters_may_be_looked_at_for_ever(queue: RabbitMQ) -> None:
    """RabbitMQ 4 drops a message that was given back 20 times."""
    queue.publish([outgoing(1), outgoing(2)])
    with queue.consume(QUEUE, 2) as consumer:
        for message in held(consumer, 2):
            consumer.reject(message, "why")
    first = queue.dead_letters(QUEUE)
    for _ in range(60):
        assert queue.dead_letters(QUEUE) == first
    assert [message.body for message, _ in first] == [b"body 1", b"body 2"]


# --- from 0.3.0 ---


def declare_as_0_3_0(raw: Any) -> None:
    raw.exchange_declare(EVENTS, "topic", durable=True)
    raw.exchange_declare("ninjait.dead", "direct", durable=True)
    for name, keys in QUEUES.items():
        raw.queue_declare(
            dead_queue(name),
            durable=True,
            arguments={"x-queue-type": "quorum", "x-delivery-limit": rabbitmq.DEAD_LETTER_DELIVERY_LIMIT},
        )
        raw.queue_bind(dead_queue(name), "ninjait.dead", name)
        arguments = {
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-max-length": MAX_LENGTH,
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": "ninjait.dead",
            "x-dead-letter-routing-key": name,
            "x-dead-letter-strategy": "at-least-once",
        }
        raw.queue_declare(name, durable=True, arguments=arguments)
        for key in keys:
            raw.queue_bind(name, EVENTS, key)


ODD = pika.BasicProperties("text/plain", message_id="m", headers={"a": [1, "b"]}, timestamp=1_795_257_771)


def test_queues_of_0_3_0_are_made_anew_with_all_that_they_hold(node: Node, url: str, raw: Any) -> None:
    declare_as_0_3_0(raw)
    with make(url).open() as queue:
        with pytest.raises(StoreFailed, match=r"another x-dead-letter-\S+: .*keeps what it holds: ninjait migrate up"):
            queue.declare()
        queue.publish(outgoing(number) for number in range(20))
        raw.basic_publish(EVENTS, "metrics.telegraf.a", b"body 20", ODD)
        raw.basic_publish(EVENTS, "metrics.a", b"body 21", pika.BasicProperties(headers=FORGED))
        raw.basic_publish("ninjait.dead", QUEUE, b"body 22", pika.BasicProperties(headers=FORGED))
        lines = list(queue.upgrade())
        assert [line.partition(" ")[0] for line in lines] == list(QUEUES)
        assert list(queue.upgrade()) == []
        test_what_is_declared_is_what_the_broker_has(node, url, queue)
        messages = drain(queue)
        assert bodies(messages) == list(range(22))
        assert {message.routing_key for message in messages} == {"metrics.a", "metrics.telegraf.a"}
        assert (messages[20].message_id, messages[20].published_at) == ("m", 1_795_257_771_000)
        ((letter, _),) = queue.dead_letters(QUEUE)
        assert (letter.body, letter.routing_key) == (b"body 22", "")  # what its header claims is not believed
        names = {one["name"] for one in node.ask("GET", f"exchanges/{urllib.parse.urlsplit(url).path[1:]}")}
        assert {name for name in names if name and not name.startswith("amq.")} == {EVENTS, *map(dead_queue, QUEUES)}


def test_queues_of_0_3_0_with_other_limits_are_made_anew_too(url: str, raw: Any) -> None:
    """They were compared with the limits of today: with others the upgrade left them, and no drain could begin."""
    declare_as_0_3_0(raw)
    limits = {"delivery_limit": DELIVERY_LIMIT + 4, "max_length": MAX_LENGTH + 1}
    with make(url).model_copy(update=limits).open() as queue:
        raw.basic_publish(EVENTS, "metrics.a", b"body 1", ODD)
        assert [line.partition(" ")[0] for line in queue.upgrade()] == list(QUEUES)
        assert bodies(drain(queue)) == [1]


def test_what_another_user_signed_moves_too_and_expires_nowhere(node: Node, url: str, raw: Any) -> None:
    """A message with its publisher's user_id stopped the move at its place, for ever: the broker took it from nobody
    else. Here by TLS with an authority of our own, which the move did not know."""
    declare_as_0_3_0(raw)
    name = urllib.parse.urlsplit(url).path[1:]
    node.ask("PUT", "users/tenant", {"password": "p", "tags": ""})
    node.ask("PUT", f"permissions/{name}/tenant", {"configure": "", "write": ".*", "read": ""})
    parameters = pika.URLParameters(url)
    parameters.credentials = pika.PlainCredentials("tenant", "p")
    with pika.BlockingConnection(parameters) as connection:
        signed = pika.BasicProperties(user_id="tenant", expiration="600000")
        connection.channel().basic_publish(EVENTS, "metrics.a", b"body 1", signed)
    parts = urllib.parse.urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    secure = parts._replace(scheme="amqps", netloc=f"{user}@localhost:{node.tls_port}").geturl()
    with make(secure, ca_file=str(node.cafile)).open() as queue:
        list(queue.upgrade())
    _, properties, body = raw.basic_get(QUEUE)
    assert (body, properties.user_id, properties.expiration) == (b"body 1", None, None)


def test_what_is_settled_is_not_kept_for_another_chance(queue: RabbitMQ) -> None:
    """After an outage thousands come for the last time: a drain kept all their bodies until its end."""
    queue.publish([outgoing(1), outgoing(2)])
    for _ in range(DELIVERY_LIMIT):
        with queue.consume(QUEUE, 2) as consumer:
            held(consumer, 2)
    with queue.consume(QUEUE, 2) as consumer:
        messages = held(consumer, 2)
        session = consumer.session()  # type: ignore[attr-defined]
        assert {message.deliveries for message in messages} == {DELIVERY_LIMIT + 1}
        assert len(session.last_chances()) == 2
        consumer.acknowledge(messages)
        assert not session._last


def test_a_queue_that_is_read_is_not_made_anew(url: str, raw: Any) -> None:
    """What an old drain holds would be given back to a queue that is not there any more."""
    declare_as_0_3_0(raw)
    with make(url).open() as queue:
        queue.publish([outgoing(1)])
        with queue.consume(QUEUE, 1) as consumer:
            held(consumer, 1)
            with pytest.raises(StoreFailed, match=r"1 consumers read the queue agent\.metrics.*migrate up"):
                list(queue.upgrade())
        list(queue.upgrade())
        assert bodies(drain(queue)) == [1]


STEPS = [
    "queue_declare",
    "exchange_declare",
    "queue_bind",
    "queue_unbind",
    "basic_publish",
    "basic_ack",
    "queue_delete",
]


class Killed(BaseException):
    """The process dies."""


def dies_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """In the upgrade's step of this number: before it reaches the broker, or after, in turns."""
    channel: Any = pika.adapters.blocking_connection.BlockingChannel
    calls = itertools.count(1)

    def dying(real: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            call_number = next(calls)
            if call_number == number and number % 2:
                raise Killed
            result = real(*arguments, **more)
            if call_number == number:
                raise Killed
            return result

        return call

    for name in STEPS:
        patch.setattr(channel, name, dying(getattr(channel, name)))


def test_an_upgrade_that_is_killed_anywhere_is_ended_by_the_next(
    url: str, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody publishes in between; every message is there at last."""
    monkeypatch.setattr(rabbitmq_upgrade, "SETTLE_SECONDS", 0.0)
    for module in (rabbitmq, rabbitmq_upgrade, sys.modules[__name__]):
        monkeypatch.setattr(module, "QUEUES", {QUEUE: QUEUES[QUEUE]})
    declare_as_0_3_0(raw)
    with make(url).open() as queue:
        queue.publish(outgoing(number) for number in range(3))
        for kill_at in itertools.count(1):
            with monkeypatch.context() as patch:
                dies_at(patch, kill_at)
                try:
                    list(queue.upgrade())
                    break
                except Killed:
                    pass
            queue.publish([outgoing(2 + kill_at)])
        assert kill_at > 15
        assert sorted(set(bodies(drain(queue)))) == list(range(2 + kill_at))
        queue.declare()


# --- publishing ---


def test_nothing_wants_the_message_is_the_publishers_error(queue: RabbitMQ) -> None:
    with pytest.raises(StoreFailed, match=r"routing key elsewhere\.a .*NO_ROUTE.*migrate up"):
        queue.publish([outgoing(1), outgoing(2, key="elsewhere.a"), outgoing(3)])
    assert queue.publish([outgoing(4)]) == 1
    assert {1, 4} <= set(bodies(drain(queue)))


def test_nothing_is_declared_is_the_publishers_error(url: str) -> None:
    with make(url).open() as queue:
        with pytest.raises(StoreFailed, match=r"no exchange 'ninjait\.events'.*migrate up"):
            queue.publish([outgoing(1)])
        with pytest.raises(StoreFailed, match=r"no queue 'agent\.metrics'.*migrate up"):
            queue.depth(QUEUE)
        with pytest.raises(StoreFailed, match=r"no queue 'agent\.metrics'"), queue.consume(QUEUE, 1):
            pass
        queue.declare()
        assert queue.publish([outgoing(1)]) == 1


def test_a_routing_key_that_is_too_long_harms_no_other(queue: RabbitMQ) -> None:
    with pytest.raises(StoreFailed, match="longer than 255 bytes"):
        queue.publish([outgoing(1), outgoing(2, key="metrics." + "a" * 300)])
    assert queue.publish([outgoing(3)]) == 1
    assert bodies(drain(queue))[-1] == 3


def test_several_threads_publish(queue: RabbitMQ) -> None:
    def publish(start: int) -> None:
        queue.publish(outgoing(number) for number in range(start, start + 300))

    workers = [threading.Thread(target=publish, args=(start,)) for start in range(0, 1_200, 300)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert sorted(bodies(drain(queue))) == list(range(1_200))


def test_an_alarm_blocks_publishers_and_nobody_else(node: Node, url: str, queue: RabbitMQ) -> None:
    queue.publish(outgoing(number) for number in range(10))
    with make(url, timeout_seconds=2).open() as publisher, queue.consume(QUEUE, 20) as consumer:
        publisher.publish([outgoing(10)])
        node.control("set_vm_memory_high_watermark", "0.00001")
        try:
            started = time.monotonic()
            with pytest.raises(StoreUnavailable, match="alarm on the broker blocks its publishers"):
                publisher.publish([outgoing(11)])
            assert 1.5 < time.monotonic() - started < 8
            # what drains the broker goes on
            messages = held(consumer, 11)
            consumer.acknowledge(messages[:5])
            assert publisher.depth(QUEUE).ready == 0
            status = publisher.status()
            assert (status.ok, "an alarm on the broker blocks its publishers (low on memory)" in status.problem) == (
                False,
                True,
            )
            later = threading.Timer(1, lambda: node.control("set_vm_memory_high_watermark", "0.4"))
            later.start()
            waiting = make(url, timeout_seconds=30)
            assert waiting.publish([outgoing(12)]) == 1
            waiting.close()
            later.join()
        finally:
            node.control("set_vm_memory_high_watermark", "0.4")
        consumer.acknowledge(messages[5:])
    assert publisher.publish([outgoing(13)]) == 1
    publisher.close()
    assert set(bodies(drain(queue))) - {11} == {12, 13}


def test_a_full_disk_is_called_that(node: Node, url: str, queue: RabbitMQ) -> None:
    node.control("set_disk_free_limit", "999999GB")
    try:
        with make(url, timeout_seconds=2).open() as publisher, pytest.raises(OutOfSpace, match="low on disk"):
            publisher.publish([outgoing(1)])
        assert "out of disk space" in queue.status().problem
    finally:
        node.control("set_disk_free_limit", "50MB")


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


@pytest.mark.parametrize("count", [1, 7, 50, 4_097, 100_001, 300_000])
def test_a_connection_cut_in_a_frame_loses_nothing_that_was_confirmed(url: str, queue: RabbitMQ, count: int) -> None:
    confirmed: list[int] = []
    with Proxy(url) as proxy, make(proxy.url).open() as publisher:
        publisher.publish([outgoing(-1)])
        proxy.cut_after(count, TO_ENGINE)
        for number in range(0, 400, 20):
            batch = [
                Outgoing(QUEUE, "metrics.a", f"body {one} ".encode() + b"x" * 3000)
                for one in range(number, number + 20)
            ]
            try:
                publisher.publish(batch)
            except StoreUnavailable:
                continue
            confirmed += range(number, number + 20)
        assert proxy.cuts == 1
    assert 340 <= len(confirmed) < 400
    assert set(confirmed) <= set(bodies(drain(queue)))


# --- consuming ---


def test_foreign_messages_have_an_identity_of_their_content(queue: RabbitMQ, raw: Any) -> None:
    def send(body: bytes, **properties: Any) -> None:
        raw.basic_publish(EVENTS, "metrics.telegraf.a", body, pika.BasicProperties(**properties))

    send(b"cpu 1", content_type="text/plain", headers={"database": "telegraf"})
    send(b"cpu 1", content_type="text/plain")
    send(b"cpu 2", timestamp=1_795_257_771)
    send(b"cpu 2", message_id="m")
    with queue.consume(QUEUE, 10) as consumer:
        first = held(consumer, 4)
        consumer.requeue(first)
        again = held(consumer, 4)
    assert [message.delivery_id for message in first] == [message.delivery_id for message in again]
    assert len({message.delivery_id for message in first}) == 3
    assert [(one.content_type, one.message_id, one.published_at) for one in first] == [
        ("text/plain", None, 0),
        ("text/plain", None, 0),
        ("", None, 1_795_257_771_000),
        ("", "m", 0),
    ]
    with queue.consume(QUEUE, 10) as consumer:
        consumer.reject(held(consumer, 4)[0], "why")
    ((letter, _),) = queue.dead_letters(QUEUE)
    assert (letter.delivery_id, letter.routing_key) == (first[0].delivery_id, "metrics.telegraf.a")


def test_ten_messages_with_one_delivery_id_are_ten_copies(queue: RabbitMQ, raw: Any) -> None:
    """Ten messages with one `ninjait-delivery-id`, eight of them bad, left two ledger rows and one quarantined body."""
    ours = {"ninjait-delivery-id": "f" * 32, "ninjait-published-ms": 1_795_257_771_000}
    for number in range(8):
        raw.basic_publish(EVENTS, "metrics.a", b"bad %d" % number, pika.BasicProperties(headers=ours))
    raw.basic_publish(EVENTS, "metrics.b", b"bad 7", pika.BasicProperties(headers=ours))
    raw.basic_publish(EVENTS, "metrics.b", b"bad 7", pika.BasicProperties(headers=ours, message_id="other"))
    for _ in range(2):  # the same in all: one copy, and nobody can tell
        raw.basic_publish(EVENTS, "metrics.b", b"bad 7", pika.BasicProperties("text/plain", headers=ours))
    with queue.consume(QUEUE, 12) as consumer:
        first = held(consumer, 12)
        consumer.requeue(first)
        again = held(consumer, 12)
        for message in again:
            consumer.reject(message, "why")
    assert len({message.delivery_id for message in first}) == 11
    assert {message.delivery_id for message in first} == {message.delivery_id for message in again}
    letters = [letter for letter, _ in queue.dead_letters(QUEUE)]
    assert {(one.delivery_id, one.routing_key, one.body) for one in letters} == {
        (one.delivery_id, one.routing_key, one.body) for one in first
    }


def test_our_own_copies_are_told_apart_by_their_bytes_too(queue: RabbitMQ, raw: Any) -> None:
    """Somebody who saw a copy's headers sends other bytes under them, or as another organization."""
    queue.publish([Outgoing(QUEUE, "metrics.a", b"body 1")])
    _, properties, body = raw.basic_get(QUEUE, auto_ack=True)
    for key, content in (("metrics.a", body), ("metrics.b", body), ("metrics.a", b"body 2")):
        raw.basic_publish(EVENTS, key, content, properties)
    with queue.consume(QUEUE, 3) as consumer:
        first = held(consumer, 3)
        consumer.requeue(first)
        again = held(consumer, 3)
    assert len({message.delivery_id for message in first}) == 3
    assert {message.delivery_id for message in first} == {message.delivery_id for message in again}


FORGED = {
    "x-death": [
        {"queue": QUEUE, "reason": "rejected", "count": 1, "exchange": EVENTS, "routing-keys": ["metrics.victim"]},
        {"queue": QUEUE, "reason": "delivery_limit", "count": -1, "exchange": "", "routing-keys": ["metrics.victim"]},
    ],
    "x-first-death-queue": QUEUE,
    "x-first-death-reason": "rejected",
    "ninjait-reason": "an outage",
    "ninjait-routing-key": "metrics.victim",
    "ninjait-deliveries": -5,
    "CC": ["metrics.victim", "metrics.other"],
    "BCC": ["metrics.victim"],
}


@pytest.mark.parametrize("way", ["rejected by us", "given back too often"])
def test_a_dead_letter_is_of_whom_the_broker_let_publish_it(queue: RabbitMQ, raw: Any, way: str) -> None:
    """A forged `x-death` named another tenant's routing key, and the operator's replay wrote into that one's device."""
    raw.basic_publish(EVENTS, "metrics.attacker", b"body 1", pika.BasicProperties(headers=FORGED))
    with queue.consume(QUEUE, 1) as consumer:
        if way == "rejected by us":
            consumer.reject(held(consumer, 1)[0], "too much")
        while way != "rejected by us" and (got := consumer.receive(1, wait_seconds=1)):
            consumer.requeue(got)
    assert eventually(lambda: queue.depth(QUEUE).dead == 1)
    ((letter, reason),) = queue.dead_letters(QUEUE)
    assert letter.routing_key == "metrics.attacker"
    assert reason == "too much" if way == "rejected by us" else reason.startswith("delivered 4 times")
    queue.discard_dead_letters([letter])
    assert queue.depth(QUEUE).dead == 0


def test_dead_letters_that_are_one_copy_go_together(queue: RabbitMQ, raw: Any) -> None:
    """Equal to the last byte and header: one by one they kept the others waiting."""
    for _ in range(10):
        raw.basic_publish(EVENTS, "metrics.a", b"body 1")
    with queue.consume(QUEUE, 10) as consumer:
        for message in held(consumer, 10):
            consumer.reject(message, "why")
    queue.discard_dead_letters([letter for letter, _ in queue.dead_letters(QUEUE)])
    assert queue.dead_letters(QUEUE) == []


def test_whatever_its_routing_key_a_dead_letter_has_a_place(queue: RabbitMQ, raw: Any) -> None:
    """Somebody's own binding, or the default exchange: a dead letter that no queue takes would stay for ever."""
    raw.queue_bind(QUEUE, EVENTS, "legacy.#")
    raw.basic_publish(EVENTS, "legacy.of.a", b"body 1")
    raw.basic_publish("", QUEUE, b"body 2")
    raw.basic_publish(EVENTS, b"metrics." + b"\xff" * 240, b"body 3")
    with queue.consume(QUEUE, 3) as consumer:
        for message in held(consumer, 3):
            consumer.reject(message, "why")
    keys = [letter.routing_key[:20] for letter, _ in queue.dead_letters(QUEUE)]
    assert keys == ["legacy.of.a", "", "metrics." + "\ufffd" * 12]


def test_text_that_is_not_utf8_does_not_stop_it(queue: RabbitMQ, raw: Any) -> None:
    raw.basic_publish(EVENTS, b"metrics.\xff", b"x", pika.BasicProperties(content_type=b"\xfe", headers={"a": b"\xff"}))
    (message,) = drain(queue)
    assert (message.routing_key, message.content_type) == ("metrics.\ufffd", "\ufffd")


@pytest.mark.parametrize("prefetch", [1, 7, drain_module.BATCH_MESSAGES])
def test_a_prefetch_below_the_drains_batch_does_not_stop_it(queue: RabbitMQ, prefetch: int) -> None:
    queue.publish(outgoing(number) for number in range(30))
    got: list[Message] = []
    with queue.consume(QUEUE, prefetch) as consumer:
        while batch := drain_module._receive(consumer, 1_000, idle_seconds=1):
            assert len(batch) == min(prefetch, 30 - len(got))
            consumer.acknowledge(batch)
            got += batch
    assert bodies(got) == list(range(30))


def test_a_batch_is_what_is_there(queue: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliveries trickle in; a drain that took the first few for all would write in crumbs."""
    for name in ("LINGER_SECONDS", "MAX_LINGER_SECONDS"):  # on a busy machine they trickle as much more slowly
        monkeypatch.setattr(rabbitmq, name, 100 * getattr(rabbitmq, name))
    queue.publish(outgoing(number) for number in range(1_500))
    with queue.consume(QUEUE, 1_000) as consumer:
        assert len(drain_module._receive(consumer, 1_000, idle_seconds=1)) == 1_000


def test_acknowledging_some_in_any_order_settles_just_these(url: str, queue: RabbitMQ) -> None:
    queue.publish(outgoing(number) for number in range(10))
    with queue.consume(QUEUE, 10) as consumer:
        messages = held(consumer, 10)
        consumer.acknowledge([messages[7], messages[1], messages[0], messages[4]])
        consumer.acknowledge([messages[1], messages[7]])  # once more: nothing
        consumer.requeue([messages[2]])
        consumer.acknowledge([messages[3]])
    assert sorted(bodies(drain(queue))) == [2, 5, 6, 8, 9]


def test_heartbeats_are_answered_while_a_write_takes_long(node: Node, url: str, queue: RabbitMQ) -> None:
    queue.publish(outgoing(number) for number in range(3))
    with make(url, heartbeat_seconds=2).open() as slow, slow.consume(QUEUE, 3) as consumer:
        messages = held(consumer, 3)
        time.sleep(8)
        consumer.acknowledge(messages)
    assert drain(queue) == []


def test_the_broker_is_restarted_under_a_consumer(node: Node, queue: RabbitMQ) -> None:
    """What was acknowledged stays away, what was held comes again, and the consumer goes on by itself."""
    queue.publish(outgoing(number) for number in range(30))
    node.remember_queues()
    with queue.consume(QUEUE, 10) as consumer:
        messages = held(consumer, 10)
        consumer.acknowledge(messages[:5])
        time.sleep(WRITTEN_SECONDS)
        node.crash()
        with pytest.raises(StoreUnavailable, match=r"lost.*delivers again"):
            consumer.acknowledge(messages[5:])
        with pytest.raises(StoreUnavailable, match="lost"):
            consumer.reject(messages[5], "why")
        consumer.requeue(messages[5:])
        again: list[Message] = []
        while got := consumer.receive(10, wait_seconds=2):
            with pytest.raises(StoreUnavailable, match="lost"):  # void on the new connection too
                consumer.acknowledge([*messages[5:], *got[:1]])  # but for its own
            consumer.acknowledge(got[1:])
            again += got
    assert sorted(bodies(again)) == list(range(5, 30))
    came_before = {message.delivery_id for message in messages[5:]}
    assert {message.deliveries for message in again if message.delivery_id in came_before} == {2}
    assert sum(message.delivery_id in came_before for message in again) == 5
    assert drain(queue) == []
    assert queue.depth(QUEUE).dead == 0


@pytest.mark.parametrize("count", [1, 30, 1_000, 10_007, 50_003])
def test_a_connection_cut_in_a_frame_gives_every_message_in_the_end(url: str, queue: RabbitMQ, count: int) -> None:
    queue.publish(Outgoing(QUEUE, "metrics.a", f"body {number} ".encode() + b"x" * 3_000) for number in range(300))
    seen: set[int] = set()
    settled: set[int] = set()
    with Proxy(url) as proxy, make(proxy.url).open() as through, through.consume(QUEUE, 50) as consumer:
        for cut in range(4):
            proxy.cut_after(count + cut, FROM_ENGINE)
            got = consumer.receive(50, wait_seconds=1)
            assert not settled & set(bodies(got))
            seen |= set(bodies(got))
            try:
                consumer.acknowledge(got)
            except StoreUnavailable:
                continue
            settled |= set(bodies(got))
        assert proxy.cuts >= 1
        while got := consumer.receive(50, wait_seconds=1):
            assert not settled & set(bodies(got))
            seen |= set(bodies(got))
            try:
                consumer.acknowledge(got)
            except StoreUnavailable:  # the last cut
                continue
            settled |= set(bodies(got))
    assert seen == set(range(300))
    assert eventually(lambda: queue.depth(QUEUE).ready == 0)


def test_a_broker_that_stays_away_is_given_up(url: str, queue: RabbitMQ) -> None:
    queue.publish([outgoing(1)])
    with (
        Proxy(url) as proxy,
        make(proxy.url, timeout_seconds=1).open() as through,
        through.consume(QUEUE, 5) as consumer,
    ):
        held(consumer, 1)
        proxy.refuse()
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            consumer.receive(5, wait_seconds=1)
        assert 1 <= time.monotonic() - started < 5
        proxy.admit()
        assert [message.deliveries for message in held(consumer, 1)] == [2]
    assert eventually(lambda: queue.depth(QUEUE).ready == 1)


def test_a_connection_that_breaks_again_and_again_is_given_up(url: str, queue: RabbitMQ) -> None:
    over = threading.Event()
    with (
        Proxy(url) as proxy,
        make(proxy.url, timeout_seconds=1).open() as through,
        through.consume(QUEUE, 5) as consumer,
    ):

        def break_it() -> None:
            while not over.wait(0.05):
                proxy.cut()

        breaking = threading.Thread(target=break_it)
        breaking.start()
        try:
            started = time.monotonic()
            with pytest.raises(StoreUnavailable):
                consumer.receive(5, wait_seconds=1)
            assert time.monotonic() - started < 10
        finally:
            over.set()
            breaking.join()
        queue.publish([outgoing(1)])
        assert bodies(held(consumer, 1)) == [1]


def test_a_queue_deleted_under_its_consumer_is_named(queue: RabbitMQ, raw: Any) -> None:
    queue.publish([outgoing(1)])
    with queue.consume(QUEUE, 5) as consumer:
        messages = held(consumer, 1)
        raw.queue_delete(QUEUE)
        with pytest.raises(StoreFailed, match=r"no queue 'agent\.metrics'.*migrate up"):
            consumer.receive(5, wait_seconds=5)
        with pytest.raises(StoreUnavailable):
            consumer.acknowledge(messages)
        queue.declare()
        queue.publish([outgoing(2)])
        assert bodies(held(consumer, 1)) == [2]


def test_a_channel_that_the_broker_closes_is_opened_anew(queue: RabbitMQ) -> None:
    """As after consumer_timeout, or an operator's hand."""
    queue.publish([outgoing(1), outgoing(2)])
    with queue.consume(QUEUE, 1) as consumer:
        (first,) = held(consumer, 1)
        session: Any = consumer._session
        session.start(lambda _: session.channel.basic_ack(12345))
        assert eventually(lambda: session.lost is not None)
        with pytest.raises(StoreUnavailable, match="unknown delivery tag 12345"):
            consumer.acknowledge([first])
        (again,) = held(consumer, 1)
        assert (again.delivery_id, again.deliveries) == (first.delivery_id, 2)
        consumer.acknowledge([again])


def test_a_delivery_held_beyond_the_brokers_limit_comes_again(node: Node, queue: RabbitMQ) -> None:
    with node.set({"consumer_timeout": 1_000, "channel_tick_interval": 500}):
        queue.publish([outgoing(1)])
        with queue.consume(QUEUE, 1) as consumer:
            (first,) = held(consumer, 1)
            time.sleep(3)
            with pytest.raises(StoreUnavailable, match=r"delivery acknowledgement .* timed out"):
                consumer.acknowledge([first])
            consumer.acknowledge(held(consumer, 1))


def test_dying_between_dead_letter_and_acknowledgement_leaves_both_with_one_identity(queue: RabbitMQ) -> None:
    queue.publish([outgoing(1)])
    with queue.consume(QUEUE, 1) as consumer:
        (first,) = held(consumer, 1)
        queue.publish_dead_letter(first, "why")  # the first half of `reject`; the process dies
    ((letter, reason),) = queue.dead_letters(QUEUE)
    (again,) = drain(queue)
    assert (letter.delivery_id, reason) == (again.delivery_id, "why") == (first.delivery_id, "why")
    queue.discard_dead_letters([letter])
    assert queue.dead_letters(QUEUE) == []


def test_a_message_that_kills_its_consumers_is_a_dead_letter(url: str, queue: RabbitMQ) -> None:
    """To the broker a killed process is a connection that is cut."""
    queue.publish([outgoing(1)])
    with Proxy(url) as proxy:
        for _ in range(DELIVERY_LIMIT + 1):
            with make(proxy.url).open() as dying, dying.consume(QUEUE, 1) as consumer:
                held(consumer, 1)
                proxy.cut()
    assert eventually(lambda: queue.depth(QUEUE).dead == 1)
    ((letter, reason),) = queue.dead_letters(QUEUE)
    assert (letter.body, letter.deliveries) == (b"body 1", DELIVERY_LIMIT + 1)
    assert reason == f"delivered {DELIVERY_LIMIT + 1} times and never settled; the limit is {DELIVERY_LIMIT}"


# --- what others send, and what happens at the worst moment ---

_FAR = b"T" + (2**63).to_bytes(8, "big")  # a time that no calendar has


def _nested(levels: int) -> bytes:
    """A table in a table in a table."""
    inner = bytes(4)
    for _ in range(levels):
        inner = (len(inner) + 3).to_bytes(4, "big") + b"\1xF" + inner
    return b"F" + inner


@pytest.mark.parametrize(
    "key",
    [
        "metrics.a",
        "metrics",
        "metrics.",
        "metrics.a.b",
        "metrics.telegraf",
        "metrics.telegraf.a.b",
        "metricsXa",
        "",
        "#",
    ],
)
def test_the_broker_routes_as_fits_says(queue: RabbitMQ, key: str) -> None:
    routed = True
    try:
        queue.publish([Outgoing(QUEUE, key, b"body")])
    except StoreFailed:
        routed = False
    assert fits(QUEUE, key) == queue.takes(Outgoing(QUEUE, key, b"")) == routed


class Encoded(pika.BasicProperties):
    """Properties with one header, `when`, whose value is encoded already."""

    def __init__(self, value: bytes, **properties: Any) -> None:
        super().__init__(headers={}, **properties)
        self._table = b"\4when" + value

    def encode(self) -> list[bytes]:
        pieces: list[bytes] = super().encode()
        at = pieces.index(bytes(4))
        pieces[at] = len(self._table).to_bytes(4, "big") + self._table
        return pieces


@pytest.mark.parametrize("value", [_FAR, _nested(4_000)], ids=["far", "nested"])
def test_a_header_that_pika_cannot_read_is_left_out(queue: RabbitMQ, raw: Any, value: bytes) -> None:
    """It lost the connection at each delivery; as a dead letter then, it stopped every drain of its queue for ever."""
    properties = {"content_type": "text/plain", "message_id": "m", "timestamp": 1_795_257_771}
    raw.basic_publish(EVENTS, "metrics.a", b"body 1", Encoded(value, **properties))
    counted = []
    with queue.consume(QUEUE, 1) as consumer:
        while got := consumer.receive(1, wait_seconds=1):
            assert (got[0].body, got[0].content_type, got[0].message_id) == (b"body 1", "text/plain", "m")
            assert got[0].published_at == 1_795_257_771_000
            counted.append(got[0].deliveries)
            consumer.requeue(got)
    assert counted == [1, 3, 3, 3]
    assert eventually(lambda: queue.depth(QUEUE).dead == 1)
    ((letter, reason),) = queue.dead_letters(QUEUE)
    assert (letter.body, letter.routing_key, "cannot be read" in reason) == (b"body 1", "metrics.a", True)
    queue.discard_dead_letters([letter])
    assert queue.dead_letters(QUEUE) == []


ODD_HEADERS: list[dict[str, Any]] = [
    {"ninjait-delivery-id": 5, "ninjait-published-ms": "x", "x-delivery-count": 99, "x-death": "x"},
    {"ninjait-delivery-id": "", "ninjait-published-ms": 2**62, "x-delivery-count": -7, "x-death": ["x"]},
    {"ninjait-delivery-id": b"\xff", "ninjait-published-ms": -1, "x-death": [{"reason": 5, "routing-keys": 5}]},
    {"ninjait-reason": {"a": [1]}, "ninjait-routing-key": b"\xff", "ninjait-deliveries": "x"},
]


def test_headers_of_ours_with_any_value_stop_nothing(queue: RabbitMQ, raw: Any) -> None:
    """A time of publication that no store takes stopped the drain; a strange x-death every drain of its queue."""
    for headers in ODD_HEADERS:
        for exchange, key in ((EVENTS, "metrics.a"), (dead_queue(QUEUE), "metrics.a")):
            raw.basic_publish(exchange, key, b"body 1", pika.BasicProperties(headers=headers, timestamp=2**63))
    messages = drain(queue)
    assert {(one.deliveries, one.published_at, len(one.delivery_id)) for one in messages} == {(1, 0, 32)}
    assert eventually(lambda: queue.depth(QUEUE).dead == len(ODD_HEADERS))
    letters = [message for message, _ in queue.dead_letters(QUEUE)]
    assert {letter.published_at for letter in letters} == {0}
    for letter in letters:
        queue.discard_dead_letters([letter])
    assert queue.dead_letters(QUEUE) == []


def test_whatever_came_can_be_rejected_for_whatever_reason(queue: RabbitMQ, raw: Any) -> None:
    """255 bytes that are no UTF-8 are 765 as text; a lone surrogate comes out of a decoder's error."""
    raw.basic_publish(EVENTS, "metrics.a", b"x", pika.BasicProperties(content_type=b"\xff" * 255, message_id="m" * 255))
    with queue.consume(QUEUE, 1) as consumer:
        consumer.reject(held(consumer, 1)[0], "not_json: \ud83d" + "x" * 10_000)
    ((letter, reason),) = queue.dead_letters(QUEUE)
    assert (letter.body, letter.message_id, reason[:12]) == (b"x", "m" * 255, "not_json: ?x")
    assert drain(queue) == []


def test_a_message_above_the_brokers_size_is_named(node: Node, queue: RabbitMQ) -> None:
    with node.set({"max_message_size": 1_000}):
        queue.publish([outgoing(1)])
        with make(queue.url).open() as other:  # the broker reads the setting once for each channel
            with pytest.raises(StoreFailed, match=r"message size.*1000.*max_message_size"):
                other.publish([outgoing(2), Outgoing(QUEUE, "metrics.a", b"x" * 1_001)])
            assert other.publish([outgoing(3)]) == 1
    assert {1, 3} <= set(bodies(drain(queue)))


def test_what_the_callers_iterator_raises_stays_what_it_is(queue: RabbitMQ) -> None:
    def reading() -> Iterator[Outgoing]:
        yield outgoing(1)
        raise FileNotFoundError("events.jsonl")

    with pytest.raises(FileNotFoundError, match=r"events\.jsonl"):
        queue.publish(reading())
    assert queue.publish([outgoing(2)]) == 1


def test_a_lone_surrogate_is_the_publishers_error(queue: RabbitMQ) -> None:
    with pytest.raises(StoreFailed, match="surrogates"):
        queue.publish([outgoing(1, key="metrics.\ud83d")])
    assert queue.publish([outgoing(2)]) == 1


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


@pytest.mark.parametrize(("size", "came_before", "ahead"), [(10, False, 280), (250_000, False, 250), (10, True, 250)])
def test_small_messages_are_sent_further_ahead_unless_they_came_before(
    queue: RabbitMQ, size: int, came_before: bool, ahead: int
) -> None:
    """What is sent to one consumer is kept from the others, and counts as delivered if the stores then refuse it."""
    queue.publish(Outgoing(QUEUE, "metrics.a", bytes([n % 256]) * size) for n in range(300))
    if came_before:
        with queue.consume(QUEUE, prefetch=280) as consumer:
            held(consumer, 250)
        assert eventually(lambda: queue.depth(QUEUE).ready == 300)  # what it gave back is there again
    with queue.consume(QUEUE, prefetch=280) as consumer:
        given = held(consumer, ahead)
        assert consumer.receive(300, wait_seconds=0.3) == []
        consumer.acknowledge(given)
        while more := consumer.receive(300, wait_seconds=0.5):
            consumer.acknowledge(more)
            given += more
    got, sent = [message.body[0] for message in given], [n % 256 for n in range(300)]
    # Given back at once, the broker has them in any order.
    assert sorted(got) == sorted(sent) if came_before else got == sent


def test_closing_ends_a_publish_that_waits(url: str, queue: RabbitMQ) -> None:
    with Proxy(url) as proxy, make(proxy.url, timeout_seconds=30).open() as slow:
        slow.publish([outgoing(1)])
        proxy.pause()
        ended: list[BaseException] = []

        def publish() -> None:
            try:
                slow.publish([outgoing(2)])
            except StoreUnavailable as error:
                ended.append(error)

        publishing = threading.Thread(target=publish)
        publishing.start()
        time.sleep(0.3)
        slow.close()
        publishing.join(5)
        assert ["connection was closed" in str(error) for error in ended] == [True]


def test_rights_and_virtual_host_go_while_it_runs(node: Node, url: str, queue: RabbitMQ) -> None:
    vhost = urllib.parse.urlsplit(url).path[1:]
    user = urllib.parse.urlsplit(url).username
    queue.publish([outgoing(1)])
    with queue.consume(QUEUE, 5) as consumer:
        messages = held(consumer, 1)
        node.ask("PUT", f"permissions/{vhost}/{user}", {"configure": "", "write": "", "read": ""})

        def refused() -> bool:  # the broker remembers for some seconds whom it let in
            try:
                return not make(url).publish([outgoing(2)])
            except StoreRefused:
                return True

        assert eventually(refused)
        with pytest.raises(StoreRefused, match=r"(?i)access.*refused.*permissions"), queue.consume(QUEUE, 1):
            pass
        consumer.acknowledge(messages)
        node.ask("DELETE", f"vhosts/{vhost}")
        with pytest.raises(StoreRefused, match="vhost"):
            consumer.receive(5, wait_seconds=5)
        with pytest.raises(StoreRefused, match="vhost"):
            queue.depth(QUEUE)
    node.ask("PUT", f"vhosts/{vhost}")


def test_big_messages_wait_in_the_broker_while_the_caller_is_slow(
    url: str, queue: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prefetch of 1,000 messages of 1 MiB took a gigabyte. What is slowed down still answers broker and caller."""
    monkeypatch.setattr(rabbitmq, "MAX_WAITING_BYTES", 4_000_000)
    queue.publish(Outgoing(QUEUE, "metrics.a", f"body {number} ".encode() + b"x" * 1_000_000) for number in range(60))
    with make(url, heartbeat_seconds=2).open() as slow, slow.consume(QUEUE, 60) as consumer:
        messages = consumer.receive(1, wait_seconds=5)
        time.sleep(7)
        session: Any = slow and consumer._session
        assert 4_000_000 < session._bytes < 30_000_000
        started = time.monotonic()
        consumer.acknowledge(messages)
        assert time.monotonic() - started < 1
        started = time.monotonic()
        while len(messages) < 60:
            messages += held(consumer, 1)
        assert time.monotonic() - started < 10
        consumer.acknowledge(messages)
        assert [message.deliveries for message in messages] == [1] * 60
    assert bodies(messages) == list(range(60))
    assert drain(queue) == []


# --- connecting ---


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


def test_a_user_who_may_not_declare_is_told(node: Node, url: str, queue: RabbitMQ) -> None:
    vhost = urllib.parse.urlsplit(url).path[1:]
    node.ask("PUT", "users/reader", {"password": "pass", "tags": ""})
    node.ask("PUT", f"permissions/{vhost}/reader", {"configure": "", "write": "", "read": ".*"})
    parts = urllib.parse.urlsplit(url)
    theirs = parts._replace(netloc=f"reader:pass@127.0.0.1:{parts.port}").geturl()
    with make(theirs).open() as reader:
        reader.declare()  # what the owner declared is there
        with pytest.raises(StoreRefused, match=r"(?i)access.*refused"):
            reader.publish([outgoing(1)])
        assert reader.depth(QUEUE).ready == 0
        node.ask("DELETE", f"queues/{vhost}/{QUEUE}.dead")
        with pytest.raises(StoreFailed, match=r"no queue.*ninjait migrate up"):
            reader.declare()


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


def test_status_has_the_version(queue: RabbitMQ) -> None:
    status = queue.status()
    assert (status.ok, status.version.split(".")[0].isdigit(), status.problem) == (True, True, "")
    assert "secret" not in status.address + repr(status)


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
