"""RabbitMQ, InfluxDB and S3 as engines of the local stack: each alone, then all beside the engines from wheels."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pika
import psutil
import pytest

from ninjait_pipelines.local.stack.engines import StackError
from ninjait_pipelines.local.stack.local import LocalStack, find
from ninjait_pipelines.local.stack.servers import SERVER_ENGINES, SERVERS, InfluxDB, RabbitMQ, S3Gateway, Server, call
from ninjait_pipelines.settings import read_env_file, validate
from ninjait_pipelines_tests.local.stack.standalone_engine import Alone, alone
from ninjait_pipelines_tests.resources.queue_contract import eventually

WHEELS = {"postgres", "clickhouse", "dragonfly", "mongodb"}
ALL = WHEELS | {"rabbitmq", "influxdb", "s3"}
Settings = dict[str, str]


# RabbitMQ 3.10 loses a quorum queue whose node is killed in the second after the queue was declared.
DECLARED_SECONDS = 4.0


def write_message(settings: Settings) -> None:
    with pika.BlockingConnection(pika.URLParameters(settings["RABBITMQ_URL"])) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("kept", durable=True, arguments={"x-queue-type": "quorum"})
        channel.basic_publish("", "kept", b"7", pika.BasicProperties(delivery_mode=2), mandatory=True)
    time.sleep(DECLARED_SECONDS)


def read_message(settings: Settings) -> bytes:
    with pika.BlockingConnection(pika.URLParameters(settings["RABBITMQ_URL"])) as connection:
        channel = connection.channel()
        _, _, body = channel.basic_get("kept")
        return bytes(body)


def write_point(settings: Settings) -> None:
    address = f"{settings['INFLUXDB_URL']}/api/v2/write?org={settings['INFLUXDB_ORG']}&bucket=metrics&precision=s"
    line = f"kept n=7 {int(time.time())}".encode()
    assert call(address, f"Token {settings['INFLUXDB_TOKEN']}", line) == (204, b"")


def read_point(settings: Settings) -> bytes:
    address = f"{settings['INFLUXDB_URL']}/query?db=metrics&q=SELECT+n+FROM+kept"
    return call(address, f"Token {settings['INFLUXDB_TOKEN']}")[1].rsplit(b",", 1)[1][:1]


def bucket(settings: Settings) -> boto3.client:
    return boto3.client(
        "s3",
        endpoint_url=settings["AWS_ENDPOINT_URL"],
        aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
        region_name=settings["AWS_REGION"],
    )


def write_object(settings: Settings) -> None:
    bucket(settings).put_object(Bucket="ninjait", Key="archive/kept", Body=b"7")


def read_object(settings: Settings) -> bytes:
    return bytes(bucket(settings).get_object(Bucket="ninjait", Key="archive/kept")["Body"].read())


DATA: dict[type[Server], tuple[Callable[[Settings], None], Callable[[Settings], bytes]]] = {
    RabbitMQ: (write_message, read_message),
    InfluxDB: (write_point, read_point),
    S3Gateway: (write_object, read_object),
}


def mappers(folder: Path) -> list[psutil.Process]:
    """The living Erlang port mappers of RabbitMQ nodes below `folder`."""
    found = []
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.info["name"] == "epmd" and process.environ().get("HOME", "").startswith(str(folder)):
                found.append(process)
    return found


def processes(folder: Path) -> list[list[str]]:
    """The command lines of whatever works on `folder` or below it."""
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    mapped = [["epmd"] for _ in mappers(folder)]
    return [line for line in lines if any(word.startswith(str(folder)) for word in line)] + mapped


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home for a stack, in a folder with a space in its name; deleted with all that runs in it."""
    home = tmp_path / "a folder" / "home"
    yield home
    LocalStack(home).delete()


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder that looks as `make servers` leaves it; nothing in it is ever started."""
    for kind in SERVER_ENGINES:
        program = tmp_path / "servers" / "bin" / kind.program
        program.parent.mkdir(parents=True, exist_ok=True)
        program.touch(mode=0o755)
    return tmp_path / "servers"


@pytest.mark.servers
@pytest.mark.parametrize("kind", SERVER_ENGINES)
def test_what_was_acknowledged_survives_a_kill_and_a_clean_stop(kind: type[Server], tmp_path: Path) -> None:
    """influxd does not know SIGTERM: it was killed by every `down`, and only its log of writes saved the data."""
    write, read = DATA[kind]
    with alone(kind, tmp_path / kind.name) as server:
        write(server.settings)
        server.crash()
        assert read(server.settings) == b"7"
        assert find(server.engine) is not None
        server.stop()
        assert server.exit_code == 0
        server.start()
        # Taken but never acknowledged, a message is there again.
        assert read(server.settings) == b"7"


@pytest.mark.servers
@pytest.mark.parametrize("seconds", [0.3, 1.5, 2.5])
def test_a_first_start_of_rabbitmq_that_was_killed_is_made_anew(seconds: float, tmp_path: Path) -> None:
    server = Alone(RabbitMQ, tmp_path / "rabbitmq")
    server.spawn()
    time.sleep(seconds)
    server.kill()
    try:
        server.start()
        write_message(server.settings)
        assert read_message(server.settings) == b"7"
    finally:
        server.kill()
        server.engine.clean_up()


@pytest.mark.servers
def test_a_first_setup_of_influxdb_that_was_killed_is_made_anew(tmp_path: Path) -> None:
    """The user is made before its token: killed in between, nobody could ever log in again."""
    server = Alone(InfluxDB, tmp_path / "influxdb")
    server.spawn()
    half = InfluxDB(server.engine.folder, server.engine.port, "a token that nobody knows")
    try:
        assert eventually(lambda: answered(half))
        server.kill()
        (server.engine.folder / "first-start-completed").unlink()
        server.start()
        write_point(server.settings)
        assert read_point(server.settings) == b"7"
    finally:
        server.kill()


def answered(engine: Server) -> bool:
    try:
        return engine.ready()
    except OSError:
        return False


@pytest.mark.servers
@pytest.mark.parametrize("kind", [RabbitMQ, InfluxDB])
def test_a_lost_password_is_said_and_nothing_is_deleted(kind: type[Server], tmp_path: Path) -> None:
    write, read = DATA[kind]
    with alone(kind, tmp_path / kind.name) as server:
        write(server.settings)
        engine = server.engine
        other = kind(engine.folder, engine.port, "another", engine.more_ports)
        with pytest.raises(
            StackError, match=f"^{kind.name}: the password of .* is no longer known; restore stack.json"
        ):
            other.ready()
        assert read(server.settings) == b"7"


@pytest.mark.servers
def test_rabbitmq_takes_more_lines_of_configuration(tmp_path: Path) -> None:
    with alone(RabbitMQ, tmp_path / "rabbitmq", extra_config="channel_max = 7") as server:
        with pika.BlockingConnection(pika.URLParameters(server.settings["RABBITMQ_URL"])) as connection:
            assert connection._impl.params.channel_max == 7
        status, _ = call(f"http://127.0.0.1:{server.engine.more_ports[1]}/api/overview")
        assert status == 401


@pytest.mark.servers
def test_the_metrics_bucket_is_kept_a_day_longer_than_points_are_taken(tmp_path: Path) -> None:
    with alone(InfluxDB, tmp_path / "influxdb") as server:
        address = f"{server.settings['INFLUXDB_URL']}/api/v2/buckets?name=metrics"
        _, answer = call(address, f"Token {server.settings['INFLUXDB_TOKEN']}")
        assert b'"everySeconds": 691200' in answer


@pytest.mark.servers
def test_the_whole_stack_with_servers(home: Path) -> None:
    """Up, killed, healed, down, up and deleted; the settings stay, nothing stays behind."""
    stack = LocalStack(home, SERVERS)
    settings = stack.up()
    assert {name for name, up in stack.running().items() if up} == ALL
    assert settings["ARCHIVE_URL"] == "s3://ninjait/archive"
    assert set(validate(settings)) < set(settings)
    assert read_env_file(home / "settings.env") == settings == LocalStack(home).settings()
    for write, _ in DATA.values():
        write(settings)

    before = pids(stack)
    began = time.monotonic()
    assert stack.up() == settings
    assert time.monotonic() - began < 10
    assert pids(stack) == before

    for name in ("rabbitmq", "influxdb", "s3"):
        psutil.Process(before[name]).kill()
    # A binary that is gone meanwhile is needed for no other command than `up`.
    assert {name for name, up in LocalStack(home).running().items() if up} == WHEELS
    assert stack.up() == settings
    assert [read(settings) for _, read in DATA.values()] == [b"7", b"7", b"7"]
    assert len(mappers(home)) == 1

    LocalStack(home).down()
    assert eventually(lambda: processes(home) == [])
    assert stack.up() == settings
    assert read_point(settings) == read_object(settings) == b"7"
    stack.delete()
    assert eventually(lambda: processes(home) == [])
    assert {path.name for path in home.iterdir()} == {"command.lock"}


def pids(stack: LocalStack) -> dict[str, int | None]:
    found = {engine.name: find(engine) for engine in stack._engines(stack._recorded())}
    return {name: process and process.pid for name, process in found.items()}


@pytest.mark.servers
def test_two_stacks_side_by_side_and_no_password_is_seen(home: Path, tmp_path: Path) -> None:
    first, second = LocalStack(home, SERVERS), LocalStack(tmp_path / "second", SERVERS)
    try:
        for number, stack in enumerate((first, second)):
            settings = stack.up()
            write_message(settings)
            write_point(settings)
            write_object(settings)
            assert set(pids(stack)) == ALL, number
        passwords = {place.password for stack in (first, second) for place in stack._recorded().values()}
        for process in psutil.process_iter(["cmdline"]):
            assert not any(word in part for part in process.info["cmdline"] or [] for word in passwords)
        for stack in (first, second):
            logs = "".join(path.read_text(errors="replace") for path in (stack.home / "logs").iterdir())
            assert not any(word in logs for word in passwords)
            assert stat.S_IMODE((stack.home / "rabbitmq" / "rabbitmq.conf").stat().st_mode) == 0o600
        second.delete()
        assert {name for name, up in first.running().items() if up} == ALL
        assert read_message(first.settings() or {}) == b"7"
    finally:
        second.delete()


@pytest.mark.servers
def test_a_port_that_somebody_took_changes_the_settings_and_keeps_the_data(tmp_path: Path) -> None:
    """RabbitMQ finds its data by the node's name, which was made from the port."""
    with alone(RabbitMQ, tmp_path / "rabbitmq") as server:
        write_message(server.settings)
    moved = Alone(RabbitMQ, tmp_path / "rabbitmq", password=server.engine.password)
    assert moved.engine.port != server.engine.port
    try:
        moved.start()
        assert read_message(moved.settings) == b"7"
    finally:
        moved.kill()
        moved.engine.clean_up()


def test_rabbitmq_refuses_a_folder_in_which_it_would_hang(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"cannot run in .*: it hangs where a folder's name has an apostrophe"):
        RabbitMQ(tmp_path / "an engineer's", 0, "", (0, 0, 0)).prepare()


def test_a_stack_from_wheels_does_not_change_its_stores_by_itself(home: Path, programs: Path) -> None:
    """What the queue and the metrics tables held would be left behind, and the roll-ups would find too little."""
    settings = LocalStack(home).up()
    stack = LocalStack(home, programs)
    with pytest.raises(StackError, match=r"`ninjait down --delete` and `ninjait up`, or .* by `ninjait up --wheels`"):
        stack.up()
    assert stack.settings() == settings
    assert stack.up(wheels=True) == settings
    assert stack.up() == settings, "asked once, it keeps to it"
    assert set(stack.running()) == WHEELS
    stack.delete()
    assert set(stack.running()) == ALL, "a new stack takes what is there"


def test_a_stack_with_servers_says_what_brings_them_back(home: Path) -> None:
    home.mkdir(parents=True)
    (home / "stack.json").write_text('{"rabbitmq": {"port": 1, "password": "p", "more_ports": [2, 3, 4]}}')
    with pytest.raises(StackError, match="whose programs are gone: `make servers` goes on with them"):
        LocalStack(home).up()
    with pytest.raises(StackError, match="`ninjait up` without --wheels goes on with them"):
        LocalStack(home).up(wheels=True)
    assert LocalStack(home).running()["rabbitmq"] is False
    LocalStack(home).down()


def test_a_state_written_before_there_were_servers_is_read(home: Path) -> None:
    home.mkdir(parents=True)
    (home / "stack.json").write_text('{"postgres": {"port": 1, "password": "p"}}')
    assert (LocalStack(home).settings() or {})["DATABASE_URL"] == "postgresql://ninjait:p@127.0.0.1:1/ninjait"


def test_the_port_mapper_of_another_folder_is_left_alone(tmp_path: Path) -> None:
    """Every stack's port mapper has the same command line."""
    fake = tmp_path / "epmd"
    fake.symlink_to("/bin/sleep")
    ours, other = tmp_path / "ours", tmp_path / "other"
    sleeping = [subprocess.Popen([fake, "60"], env=os.environ | {"HOME": str(home)}) for home in (ours, other)]
    try:
        assert eventually(lambda: len(mappers(tmp_path)) == 2)
        RabbitMQ(ours, 0, "").clean_up()
        assert sleeping[0].wait(10) == -signal.SIGKILL
        assert sleeping[1].poll() is None
    finally:
        for process in sleeping:
            process.kill()
            process.wait()
