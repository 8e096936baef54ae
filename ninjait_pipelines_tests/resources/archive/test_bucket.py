"""The archive on a real S3 gateway: killed, cut off, damaged, refused; what the gateway itself is told and answers."""

import hashlib
import io
import random
import re
import signal
import threading
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ninjait_pipelines.archive.days import read_day, read_manifest, verify_day, write_day
from ninjait_pipelines.archive.objects import Manifest, ObjectDiffers, ObjectVanished, manifest_key
from ninjait_pipelines.local.stack.servers import S3Gateway
from ninjait_pipelines.resources.archive.errors import ObjectChanged, ObjectCorrupt, TransferDamaged
from ninjait_pipelines.resources.archive.resource import Archive
from ninjait_pipelines.resources.store import StoreFailed, StoreRefused, StoreUnavailable
from ninjait_pipelines_tests.archive.archive_backends import SMALLEST_PART, on_s3
from ninjait_pipelines_tests.local.stack.standalone_engine import Alone, alone
from ninjait_pipelines_tests.proxy import FROM_ENGINE, TO_ENGINE, Proxy

pytestmark = pytest.mark.servers

DATASET, DAY = "device_metrics_hourly", date(2026, 3, 1)
EARLIER, LATER = datetime(2026, 3, 2, 1, tzinfo=UTC), datetime(2026, 3, 2, 2, tzinfo=UTC)
LARGE = bytes(range(256)) * (11 * 4096)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    with alone(S3Gateway, tmp_path_factory.mktemp("s3") / "gateway") as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return f"test_{uuid.uuid4().hex}"


@pytest.fixture
def store(gateway: Alone, prefix: str) -> Iterator[Archive]:
    with on_s3(gateway.settings, prefix).open() as archive:
        yield archive


def client(archive: Archive) -> Any:
    """The archive's own boto3 client, to look at what is on S3 and to step between its requests."""
    return archive._objects._client


def at(archive: Archive, key: str = "") -> dict[str, str]:
    bucket, _, prefix = archive.url.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": f"{prefix}/{key}"}


def uploads(archive: Archive) -> list[dict[str, Any]]:
    where = at(archive)
    listed = client(archive).list_multipart_uploads(Bucket=where["Bucket"], Prefix=where["Key"])
    found: list[dict[str, Any]] = listed.get("Uploads", [])
    return found


def on_disk(gateway: Alone, archive: Archive, key: str) -> Path:
    where = at(archive, key)
    return Path(gateway.engine.folder) / "buckets" / where["Bucket"] / where["Key"]


def before(archive: Archive, operation: str, call: int, happens: Callable[[], Any]) -> None:
    """Right before the archive's `call`-th request of this kind, something happens, once."""
    left = iter(range(1, call + 1))

    def step(**_: Any) -> None:
        if next(left, None) == call:
            happens()

    client(archive).meta.events.register(f"before-call.s3.{operation}", step)


def rows(late: bool = False) -> pa.Table:
    return pa.table({"organization_id": ["a", "a", "b"], "cpu": [1.0, 2.0, 3.0 + late]})


def archived(archive: Archive, late: bool = False) -> Manifest:
    return write_day(archive, DATASET, DAY, rows(late), LATER if late else EARLIER, 1.0, lambda: LATER)


def content(archive: Archive) -> dict[str, bytes]:
    return {key: archive.read(key) for key in archive.list_keys("")}


class TestUploadsInParts:
    def test_parts_become_one_object_with_its_hash(self, store: Archive) -> None:
        store.write("large", LARGE)
        head = client(store).head_object(**at(store, "large"), ChecksumMode="ENABLED")
        assert head["Metadata"] == {"sha256": hashlib.sha256(LARGE).hexdigest()}
        assert head["ETag"].endswith('-3"'), "three parts"
        assert (head["ChecksumType"], head["ChecksumSHA256"][-2:]) == ("COMPOSITE", "-3")
        assert store.read("large") == LARGE
        assert uploads(store) == []

    def test_a_part_is_as_large_as_an_object_in_one_piece(self, store: Archive) -> None:
        store.write("one", LARGE[:SMALLEST_PART])
        store.write("two", LARGE[: SMALLEST_PART + 1])
        etags = [client(store).head_object(**at(store, key))["ETag"][-3:] for key in ("one", "two")]
        assert etags[1] == '-2"'
        assert "-" not in etags[0]

    def test_a_failed_upload_leaves_no_parts(self, store: Archive) -> None:
        """The second part is damaged on its way, every time: S3 finds another hash."""

        def damaged(request: Any, **_: Any) -> None:
            if "partNumber=2" in request.url:
                request.data = io.BytesIO(b"?" + request.data.read()[1:])

        client(store).meta.events.register("before-sign.s3.UploadPart", damaged)
        with pytest.raises(TransferDamaged, match="BadDigest"):
            store.write("large", LARGE)
        assert uploads(store) == []
        assert not store.exists("large")

    def test_an_interrupted_upload_leaves_no_parts(self, store: Archive) -> None:
        """Ctrl-C."""

        def interrupt() -> None:
            raise KeyboardInterrupt

        before(store, "UploadPart", 2, interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.write("large", LARGE)
        assert uploads(store) == []

    def test_a_condition_that_does_not_hold_leaves_no_parts(self, store: Archive) -> None:
        store.write("large", b"small")
        with pytest.raises(ObjectChanged):
            store.write("large", LARGE, over=None)
        assert (uploads(store), store.read("large")) == ([], b"small")

    def test_what_a_killed_writer_left_goes_with_a_later_upload(self, gateway: Alone, store: Archive) -> None:
        for key in ("large", "large.too"):
            client(store).create_multipart_upload(**at(store, key))
        store.write("large", LARGE)
        assert len(uploads(store)) == 2, "it may be at work"
        time.sleep(1)  # the age is by the server's Date, which has whole seconds
        with on_s3(gateway.settings, store.url.rsplit("/", 1)[1], stale_upload_seconds=0).open() as later:
            later.write("large", LARGE)
        [left] = uploads(store)
        assert left["Key"].endswith("/large.too"), "another object's is not ours to end"


class TestKilledGateway:
    """kill -9 of the gateway while a day is being archived. Until the manifest is replaced the old one counts; a rerun
    gives what an undisturbed run gives."""

    @pytest.fixture
    def gateway(self, tmp_path: Path) -> Iterator[Alone]:
        """One of its own: it is killed."""
        with alone(S3Gateway, tmp_path / "gateway") as server:
            yield server

    @pytest.mark.parametrize(
        ("operation", "call", "switched"),
        [
            ("PutObject", 1, False),  # the first object
            ("PutObject", 2, False),  # between the objects
            ("GetObject", 3, False),  # the read-back of the second object; the first GetObject is that of the manifest
            ("PutObject", 3, False),  # the manifest
            ("GetObject", 4, True),  # the read-back of the manifest
            ("DeleteObject", 1, True),  # the objects of before
        ],
    )
    def test_between_any_two_steps(
        self, gateway: Alone, store: Archive, operation: str, call: int, switched: bool
    ) -> None:
        old = write_day(
            store, DATASET, DAY, rows().slice(0, 2).append_column("x", pa.array([1, 2])), EARLIER, 1.0, lambda: LATER
        )
        before_it = content(store)
        with on_s3(gateway.settings, store.url.rsplit("/", 1)[1]).open() as run:
            before(run, operation, call, gateway.kill)
            with pytest.raises(StoreUnavailable):
                archived(run, late=True)
        gateway.start()
        assert uploads(store) == []
        assert before_it.items() <= content(store).items() or switched
        manifest = verify_day(store, DATASET, DAY)
        assert (manifest == old) is not switched
        self.as_if_undisturbed(gateway, store)

    def as_if_undisturbed(self, gateway: Alone, store: Archive) -> None:
        rerun = archived(store, late=True)
        with on_s3(gateway.settings, "undisturbed").open() as tuned_interpreter:
            assert archived(tuned_interpreter, late=True) == rerun
            named = {key: tuned_interpreter.read(key) for key in tuned_interpreter.list_keys("")}
            for key, data in named.items():
                assert store.read(key) == data
            assert len(named) == 3
        assert verify_day(store, DATASET, DAY) == rerun

    @pytest.mark.parametrize(
        ("operation", "call"), [("UploadPart", 1), ("UploadPart", 2), ("CompleteMultipartUpload", 1)]
    )
    def test_in_the_middle_of_an_upload_in_parts(
        self, gateway: Alone, store: Archive, operation: str, call: int
    ) -> None:
        with on_s3(gateway.settings, store.url.rsplit("/", 1)[1]).open() as run:
            before(run, operation, call, gateway.kill)
            with pytest.raises(StoreUnavailable):
                run.write("large", LARGE, over=None)
        gateway.start()
        assert not store.exists("large")
        assert uploads(store), "nobody could end it"
        with on_s3(gateway.settings, store.url.rsplit("/", 1)[1], stale_upload_seconds=0).open() as rerun:
            rerun.write("large", LARGE, over=None)
        assert (store.read("large"), uploads(store)) == (LARGE, [])

    @pytest.mark.parametrize("operation", ["HeadObject", "PutObject", "GetObject", "DeleteObject"])
    def test_a_gateway_that_comes_back_costs_the_run_nothing(
        self, gateway: Alone, store: Archive, operation: str
    ) -> None:
        archived(store)
        with on_s3(gateway.settings, store.url.rsplit("/", 1)[1]).open() as run:
            before(run, operation, 1, lambda: (gateway.kill(), threading.Timer(0.3, gateway.start).start()))
            assert archived(run, late=True).rows == 3
        assert verify_day(store, DATASET, DAY).as_of == LATER
        assert len(store.list_keys("")) == 3

    def test_a_gateway_that_hangs_is_a_time_out(self, gateway: Alone, prefix: str) -> None:
        with on_s3(gateway.settings, prefix, timeout_seconds=0.3).open() as archive:
            archive.write("k", b"1")
            gateway._process.send_signal(signal.SIGSTOP)
            try:
                started = time.monotonic()
                with pytest.raises(StoreUnavailable, match="timeout"):
                    archive.read("k")
                assert time.monotonic() - started < 20
            finally:
                gateway._process.send_signal(signal.SIGCONT)
            assert archive.read("k") == b"1"


class TestCutConnections:
    @pytest.fixture
    def proxy(self, gateway: Alone) -> Iterator[Proxy]:
        with Proxy(gateway.settings["AWS_ENDPOINT_URL"]) as proxy:
            yield proxy

    @pytest.fixture
    def cut_off(self, gateway: Alone, prefix: str, proxy: Proxy) -> Iterator[Archive]:
        """The archive of `store`, by way of the proxy."""
        with on_s3(gateway.settings, prefix, endpoint_url=proxy.url).open() as archive:
            yield archive

    def every_time(self, archive: Archive, proxy: Proxy, operation: str, count: int, direction: str) -> None:
        def arm(**_: Any) -> None:
            proxy.cut_after(count, direction)

        client(archive).meta.events.register(f"before-send.s3.{operation}", arm)

    @pytest.mark.parametrize(("operation", "data"), [("PutObject", LARGE[:1_000_000]), ("UploadPart", LARGE)])
    def test_a_truncated_upload_is_no_object(
        self, store: Archive, cut_off: Archive, proxy: Proxy, operation: str, data: bytes
    ) -> None:
        self.every_time(cut_off, proxy, operation, 600_000, TO_ENGINE)
        with pytest.raises(StoreUnavailable):
            cut_off.write("k", data)
        assert proxy.cuts >= 4, "it was tried again"
        assert (store.exists("k"), uploads(store)) == (False, [])

    def test_an_upload_that_is_cut_once_is_sent_again(self, store: Archive, cut_off: Archive, proxy: Proxy) -> None:
        proxy.cut_after(600_000, TO_ENGINE)
        cut_off.write("k", LARGE)
        assert (proxy.cuts, store.read("k"), uploads(store)) == (1, LARGE, [])

    def test_a_truncated_download_is_a_named_error(self, store: Archive, cut_off: Archive, proxy: Proxy) -> None:
        store.write("k", LARGE)
        self.every_time(cut_off, proxy, "GetObject", 600_000, FROM_ENGINE)
        with pytest.raises(TransferDamaged, match="'k' was cut short in transfer"):
            cut_off.read("k")

    def test_a_download_that_is_cut_once_is_read_again(self, store: Archive, cut_off: Archive, proxy: Proxy) -> None:
        store.write("k", LARGE)
        proxy.cut_after(600_000, FROM_ENGINE)
        assert cut_off.read("k") == LARGE
        assert proxy.cuts == 1

    def test_a_scan_that_is_cut_is_no_shorter_table(self, store: Archive, cut_off: Archive, proxy: Proxy) -> None:
        archived(store)
        proxy.cut_after(900, FROM_ENGINE)
        try:
            assert read_day(cut_off, DATASET, DAY).num_rows == 3
        except StoreUnavailable:
            assert proxy.cuts == 1

    @pytest.mark.parametrize("call", [1, 2, 3])
    def test_a_lost_answer_does_not_stop_the_run(
        self, store: Archive, cut_off: Archive, proxy: Proxy, call: int
    ) -> None:
        """The object was written, but its answer was cut off; sent again, the same write is refused by its condition.
        Of the two objects and the manifest each in turn."""
        before(cut_off, "PutObject", call, lambda: proxy.cut_after(1, FROM_ENGINE))
        assert archived(cut_off).rows == 3
        assert proxy.cuts == 1
        assert verify_day(store, DATASET, DAY) == read_manifest(store, DATASET, DAY)
        assert len(store.list_keys("")) == 3

    @pytest.mark.parametrize("seed", range(8))
    def test_a_day_is_whole_wherever_the_connection_is_cut(
        self, store: Archive, cut_off: Archive, proxy: Proxy, seed: int
    ) -> None:
        archived(store)
        chance = random.Random(seed)
        for _ in range(3):
            proxy.cut_after(chance.randrange(1, 6_000), chance.choice([TO_ENGINE, FROM_ENGINE]))
            try:
                archived(cut_off, late=True)
            except StoreUnavailable:
                assert verify_day(store, DATASET, DAY).rows == 3
        proxy.cut_after(10**9)
        assert archived(cut_off, late=True) == verify_day(store, DATASET, DAY)


class TestDamage:
    """What happens to an object behind the gateway's back."""

    @pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "in parts"])
    @pytest.mark.parametrize("how", ["one bit", "truncated"])
    def test_a_damaged_object_is_a_named_error(self, gateway: Alone, store: Archive, data: bytes, how: str) -> None:
        store.write("k", data)
        with on_disk(gateway, store, "k").open("r+b") as file:
            file.write(bytes([data[0] ^ 1])) if how == "one bit" else file.truncate(len(data) - 1)
        with pytest.raises(ObjectCorrupt, match="'k' does not have the hash of what was written"):
            store.read("k")
        store.write("k", data, over=store.version("k"))
        assert store.read("k") == data

    @pytest.mark.parametrize("key", ["object", "manifest"])
    def test_the_check_names_it_and_a_rerun_heals_it(self, gateway: Alone, store: Archive, key: str) -> None:
        manifest = archived(store)
        damaged = manifest.objects[0].key if key == "object" else manifest_key(DATASET, DAY)
        with on_disk(gateway, store, damaged).open("r+b") as file:
            file.write(b"?")
        with pytest.raises(ObjectDiffers, match=re.escape(damaged)):
            verify_day(store, DATASET, DAY)
        assert archived(store) == manifest == verify_day(store, DATASET, DAY)

    def test_an_object_that_vanished_is_named_and_comes_back(self, gateway: Alone, store: Archive) -> None:
        manifest = archived(store)
        on_disk(gateway, store, manifest.objects[1].key).unlink()
        for look in (verify_day, read_day):
            with pytest.raises(ObjectVanished, match=re.escape(manifest.objects[1].key)):
                look(store, DATASET, DAY)
        assert archived(store) == verify_day(store, DATASET, DAY)

    def test_nothing_is_deleted_when_what_was_written_reads_back_otherwise(
        self, gateway: Alone, store: Archive
    ) -> None:
        """The new object is damaged between its write and its read-back: the old day stays whole."""
        archived(store)
        before_it = content(store)
        damaged: list[Path] = []

        def damage() -> None:
            [path] = {on_disk(gateway, store, key) for key in store.list_keys("")} - {
                on_disk(gateway, store, key) for key in before_it
            }
            path.write_bytes(b"?")
            damaged.append(path)

        with on_s3(gateway.settings, store.url.rsplit("/", 1)[1]).open() as run:
            before(run, "GetObject", 3, damage)  # the manifest's, the first organization's, the new one's
            with pytest.raises(ObjectDiffers):
                archived(run, late=True)
        assert damaged
        assert before_it.items() <= content_without(store, damaged[0].name).items()
        assert verify_day(store, DATASET, DAY).as_of == EARLIER

    def test_a_bucket_that_vanished_is_not_an_empty_one(self, tmp_path: Path) -> None:
        """Asked by HEAD, S3 says 404 to both; a day would have been taken for never archived."""
        with alone(S3Gateway, tmp_path / "gateway") as gateway, on_s3(gateway.settings, "x").open() as archive:
            archived(archive)
            where = Path(gateway.engine.folder) / "buckets" / at(archive)["Bucket"]
            where.rename(where.with_name("elsewhere"))
            looks: list[Callable[[], Any]] = [
                lambda: archive.exists("k"),
                lambda: archive.read("k"),
                lambda: archive.list_keys(""),
                lambda: archive.write("k", b""),
                lambda: archive.write("k", LARGE),
                lambda: read_manifest(archive, DATASET, DAY),
            ]
            for look in looks:
                with pytest.raises(StoreFailed, match="there is no bucket"):
                    look()
            assert "there is no bucket" in archive.status().problem


def content_without(archive: Archive, name: str) -> dict[str, bytes]:
    return {key: archive.read(key) for key in archive.list_keys("") if not key.endswith(name)}


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"access_key_id": "nobody"}, "No user exists"),
            ({"secret_access_key": "a-wrong-secret"}, "SignatureDoesNotMatch"),
            ({"session_token": "a-stale-token"}, "InvalidToken"),
        ],
    )
    def test_wrong_keys_are_refused_everywhere(
        self, gateway: Alone, prefix: str, given: dict[str, str], says: str
    ) -> None:
        with on_s3(gateway.settings, prefix, **given).open() as archive:
            looks: list[Callable[[], Any]] = [
                lambda: archive.exists("k"),
                lambda: archive.read("k"),
                lambda: archive.list_keys(""),
                lambda: archive.write("k", b""),
                lambda: archive.write("k", LARGE),
                lambda: archive.delete("k"),
                lambda: archived(archive),
            ]
            for look in looks:
                with pytest.raises(StoreRefused, match=says) as caught:
                    look()
                assert "secret" not in str(caught.value)
            assert says in archive.status().problem
            with pytest.raises((StoreRefused, StoreUnavailable)):  # Arrow gives an OSError without a reason
                archive.scan(["k"])

    def test_no_keys_at_all(self, gateway: Alone, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        keyless = on_s3(gateway.settings, prefix, access_key_id=None, secret_access_key=None)
        with keyless.open(), pytest.raises(StoreRefused, match=r"Unable to locate credentials\. Set AWS_ACCESS_KEY_ID"):
            keyless.read("k")

    def test_keys_of_the_usual_chain(
        self, gateway: Alone, store: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A profile's keys, for boto3 and for Arrow's scans."""
        archived(store)
        profile = tmp_path / "credentials"
        keys = {name.lower(): gateway.settings[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        profile.write_text("[cold]\n" + "".join(f"{name} = {value}\n" for name, value in keys.items()))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
        monkeypatch.setenv("AWS_PROFILE", "cold")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        chain = on_s3(gateway.settings, store.url.rsplit("/", 1)[1], access_key_id=None, secret_access_key=None)
        with chain.open():
            assert chain.read(manifest_key(DATASET, DAY)) == store.read(manifest_key(DATASET, DAY))
            assert read_day(chain, DATASET, DAY).num_rows == 3


class Answers:
    """A server that gives one and the same answer, and remembers what it was asked: for what our gateway never says."""

    def __init__(self, status: int, code: str = "", body: bytes | None = None) -> None:
        text = body if body is not None else f"<Error><Code>{code}</Code><Message>so</Message></Error>".encode()
        self.headers: list[dict[str, str]] = []
        seen = self.headers

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                seen.append({name.lower(): value for name, value in self.headers.items()})
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

            def log_message(self, *_: Any) -> None:
                """Keeps the terminal quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def archive(self, **fields: Any) -> Iterator[Archive]:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        keys = {"access_key_id": "key", "secret_access_key": "the-hidden-one"}
        try:
            with Archive(
                url="s3://cold/x", endpoint_url=self.url, region="eu-central-1", **keys, **fields
            ).open() as one:
                yield one
        finally:
            self._server.shutdown()
            self._server.server_close()


class TestAnswers:
    @pytest.mark.parametrize(
        ("status", "code", "error"),
        [
            (503, "SlowDown", StoreUnavailable),
            (500, "InternalError", StoreUnavailable),
            (429, "TooManyRequests", StoreUnavailable),
            (400, "RequestTimeout", StoreUnavailable),
            (400, "ExpiredToken", StoreRefused),
            (403, "AccessDenied", StoreRefused),
            (403, "InvalidAccessKeyId", StoreRefused),
            (403, "RequestTimeTooSkewed", StoreRefused),
            (409, "ConditionalRequestConflict", ObjectChanged),
            (412, "PreconditionFailed", ObjectChanged),
            (501, "NotImplemented", StoreFailed),
            (404, "NoSuchBucket", StoreFailed),
            (400, "InvalidRequest", StoreFailed),
        ],
    )
    def test_each_answer_is_its_error(
        self, status: int, code: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with Answers(status, code).archive() as archive:
            with pytest.raises(error) as caught:
                archive.write("k", b"1", over=None)
            assert type(caught.value) is error
            if error not in (ObjectChanged, StoreUnavailable):
                with pytest.raises(error, match=code if code != "NoSuchBucket" else "no bucket"):
                    archive.exists("k")

    def test_an_answer_that_is_not_of_s3(self) -> None:
        """AWS_ENDPOINT_URL leads to some web server."""
        with Answers(200, body=b"<html>hello").archive() as archive:
            assert not archive.status().ok
            with pytest.raises((StoreFailed, StoreUnavailable)):
                archive.list_keys("")

    def test_the_session_token_is_sent_by_both_clients(self) -> None:
        server = Answers(403, "AccessDenied")
        with server.archive(session_token="temporary") as archive:
            with pytest.raises(StoreRefused):
                archive.read("k")
            by_boto3 = len(server.headers)
            with pytest.raises((StoreRefused, StoreUnavailable)):
                archive.scan(["k"])
        assert len(server.headers) > by_boto3
        assert {one["x-amz-security-token"] for one in server.headers} == {"temporary"}
        assert all("x-amz-security-token" in one["authorization"] for one in server.headers), "and signed"

    def test_what_a_write_says(self) -> None:
        """The checksum is S3's to compare; the condition is S3's to keep."""
        server = Answers(200, body=b"")
        with server.archive() as archive:
            archive.write("k", b"1", over=None)
            archive.write("k", b"1", over='"etag"')
            archive.write("k", b"1")
        checksum = b64encode(hashlib.sha256(b"1").digest()).decode()
        assert {one["x-amz-checksum-sha256"] for one in server.headers} == {checksum}
        assert {one["x-amz-meta-sha256"] for one in server.headers} == {hashlib.sha256(b"1").hexdigest()}
        conditions = [(one.get("if-none-match"), one.get("if-match")) for one in server.headers]
        assert conditions == [("*", None), (None, '"etag"'), (None, None)]


class TestClient:
    @pytest.mark.parametrize(
        ("given", "address"),
        [
            ({}, "https://cold.s3.eu-central-1.amazonaws.com/x/k"),
            ({"url": "s3://cold.data/x"}, "https://s3.eu-central-1.amazonaws.com/cold.data/x/k"),
            ({"endpoint_url": "http://127.0.0.1:9000"}, "http://127.0.0.1:9000/cold/x/k"),
            ({"endpoint_url": "https://s3.example.com"}, "https://s3.example.com/cold/x/k"),
        ],
    )
    def test_the_bucket_is_in_the_host_name_at_amazon_and_in_the_path_elsewhere(
        self, given: dict[str, str], address: str
    ) -> None:
        """A bucket with a dot is in the path too: no certificate is for such a name."""
        archive = Archive(
            **{"url": "s3://cold/x", "region": "eu-central-1", "access_key_id": "k", "secret_access_key": "s", **given}
        )
        with archive.open():
            asked: list[str] = []

            def look(request: Any, **_: Any) -> None:
                asked.append(request.url)
                raise InterruptedError

            client(archive).meta.events.register("before-send.s3", look)
            with pytest.raises(InterruptedError):
                archive.read("k")
            assert asked == [address]

    def test_the_retry_mode_is_the_usual_setting(self, store: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
        assert client(store).meta.config.retries["mode"] == "standard"
        monkeypatch.setenv("AWS_RETRY_MODE", "adaptive")
        store.close()
        assert client(store).meta.config.retries["mode"] == "adaptive"
        store.write("k", b"1")
        assert store.read("k") == b"1"

    def test_a_listing_is_longer_than_a_page(self, store: Archive) -> None:
        keys = [f"many/{number:04}" for number in range(1_005)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda key: store.write(key, b""), keys))
        assert store.list_keys("many") == keys

    def test_no_secret_is_shown(self, gateway: Alone, store: Archive) -> None:
        secret = gateway.settings["AWS_SECRET_ACCESS_KEY"]
        assert secret not in store.address + str(store.status()) + str(client(store))
