"""A RabbitMQ of the tests' own, and what several of their files use."""

import json
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import trustme

from ninjait_pipelines.local.stack.local import clean_environment, free_port
from ninjait_pipelines.local.stack.servers import RabbitMQ as Engine
from ninjait_pipelines.messages import Message
from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ
from ninjait_pipelines.resources.rabbitmq.topology import EVENTS, dead_queue
from ninjait_pipelines.streams import QUEUES
from ninjait_pipelines_tests.resources.queue_contract import (
    DELIVERY_LIMIT,
    MAX_LENGTH,
    QUEUE,
    eventually,
)


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


def make(url: str, **settings: Any) -> RabbitMQ:
    return RabbitMQ(url=url, **{"delivery_limit": DELIVERY_LIMIT, "max_length": MAX_LENGTH, **settings})


def held(consumer: Any, limit: int) -> list[Message]:
    """`limit` messages."""
    messages: list[Message] = []
    while len(messages) < limit:
        got = consumer.receive(limit - len(messages), wait_seconds=5)
        assert got
        messages += got
    return messages


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("rabbitmq")]


def assert_declared(node: Node, url: str) -> None:
    """The broker has all that is declared, and nothing else."""
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


# Headers with which a publisher pretends to be the broker.
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
