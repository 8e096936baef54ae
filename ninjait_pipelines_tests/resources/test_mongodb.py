"""MongoDB: inserts that may be repeated, ids in many queries, and what its errors mean."""

import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pymongo.errors
import pytest

from ninjait_pipelines.resources.mongodb import IDS_PER_QUERY, MAX_CHARACTERS, MAX_MESSAGES, MongoDB
from ninjait_pipelines.resources.store import StoreError, StoreFailed, StoreRefused, StoreUnavailable

MONGODB = MongoDB(url="mongodb://h:1/d")


@pytest.mark.parametrize("inside", ["writeErrors", "writeConcernErrors"])
def test_what_a_document_says_is_not_what_the_store_says(inside: str) -> None:
    """An application's log of a full disk, refused for another reason, was the store's full disk: its drain waited and
    waited, and the whole log stood in the error."""
    refused = {"index": 0, "code": 121, "errmsg": "Document failed validation"}
    log = {"message": "write failed: No space left on device", "password": "canary"}
    details: dict[str, Any] = {"writeErrors": [{**refused, "op": log}], "writeConcernErrors": []}
    if inside == "writeConcernErrors":
        duplicate = {"index": 0, "code": 11000, "errmsg": "E11000 duplicate key", "op": log}
        details = {"writeErrors": [duplicate], "writeConcernErrors": [{"code": 100, "errmsg": "failed validation"}]}
    with pytest.raises(StoreFailed, match="failed validation") as raised, MONGODB.errors():
        raise pymongo.errors.BulkWriteError(details)
    assert "No space" not in str(raised.value) + str(raised.value.__cause__)
    with pytest.raises(StoreFailed, match="failed validation") as raised, MONGODB.errors():
        raise pymongo.errors.WriteError("Document failed validation", 121, {**refused, "op": log})
    assert "No space" not in str(raised.value) + str(raised.value.__cause__)


def failure(code: int, message: str = "no") -> pymongo.errors.OperationFailure:
    return pymongo.errors.OperationFailure(f"{message}, full error: {{'secret': 1}}", code, {"code": code})


def bulk(*codes: int, concern: int | None = None) -> pymongo.errors.BulkWriteError:
    errors = [{"index": at, "code": code, "errmsg": f"error {code}"} for at, code in enumerate(codes)]
    concerns = [{"code": concern, "errmsg": "waiting for replication timed out"}] if concern else []
    return pymongo.errors.BulkWriteError({"writeErrors": errors, "writeConcernErrors": concerns})


ERRORS: dict[str, tuple[Exception, type[StoreError], str]] = {
    "a password": (failure(18, "Authentication failed."), StoreRefused, "Authentication failed. Check MONGODB_URL."),
    "rights": (failure(13, "not authorized"), StoreRefused, "not authorized. Check MONGODB_URL."),
    "no primary": (failure(10107, "not primary"), StoreUnavailable, "ninjait status"),
    "a time limit": (failure(50, "operation exceeded time limit"), StoreUnavailable, "ninjait status"),
    "a query": (failure(2, "bad value"), StoreFailed, "See MongoDB's message above."),
    "a bulk write, on a node that steps down": (bulk(11000, 11600), StoreUnavailable, "error 11000"),
    "a bulk write without rights": (bulk(13), StoreRefused, "error 13"),
    "a write concern": (bulk(concern=91), StoreUnavailable, "waiting for replication"),
    "no server": (
        pymongo.errors.ServerSelectionTimeoutError("h:1: refused (configured timeouts: socketTimeoutMS: 1.0ms)"),
        StoreUnavailable,
        "h:1: refused. Check what is running",
    ),
    "a client's own": (pymongo.errors.InvalidOperation("closed"), StoreFailed, "closed. See the message above."),
}


@pytest.mark.parametrize("what", ERRORS)
def test_what_an_error_means(what: str) -> None:
    error, kind, words = ERRORS[what]
    with pytest.raises(kind) as raised, MONGODB.errors():
        raise error
    assert type(raised.value) is kind
    assert words in str(raised.value)
    assert "secret" not in str(raised.value), "the full error may quote the query"


def test_the_errors_of_a_large_write_are_bounded() -> None:
    """One insert of thousands of log entries fails with an error for each."""
    with pytest.raises(StoreFailed) as raised, MONGODB.errors():
        raise bulk(*range(1000, 3000))
    assert str(raised.value).count("error 1") == MAX_MESSAGES
    assert len(str(raised.value)) < MAX_CHARACTERS + 200


def test_an_error_that_is_not_mongodb_s_stays_what_it_is() -> None:
    with pytest.raises(KeyError), MONGODB.errors():
        raise KeyError("x")


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("mongodb://user:secret@h:27017/mine?tls=true", "mine"),
        ("mongodb://h:1", "ninjait"),
        ("mongodb://h:1/", "ninjait"),
        ("mongodb://a:1,b:2/other?replicaSet=r", "other"),
    ],
)
def test_each_database_has_a_spool_of_its_own(url: str, folder: str, tmp_path: Path) -> None:
    """Drains of two installations may share the folder; neither may replay the other's messages."""
    assert MongoDB(url=url, spool_folder=str(tmp_path)).spool == tmp_path / folder


@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        ("h:99999/ninjait", "Port must be an integer"),
        ("h:1,i:2/ninjait?directConnection=true", "multiple hosts with directConnection"),
        ("h:1/ninjait?tls=true&tlsCAFile=/nowhere", "No such file or directory: '/nowhere'"),
    ],
)
def test_a_url_that_pymongo_does_not_take_is_a_failure_without_its_password(rest: str, problem: str) -> None:
    """`ninjait status` ended with a traceback, and said nothing of the other stores."""
    status = MongoDB(url=f"mongodb://user:canary@{rest}").status()
    assert not status.ok
    assert problem in status.problem
    assert status.problem.endswith("Check MONGODB_URL.")
    assert "canary" not in status.problem


@pytest.fixture
def mongodb(stack: dict[str, str]) -> Iterator[MongoDB]:
    """A database of its own, dropped at the end."""
    url, _, query = stack["MONGODB_URL"].partition("?")
    name = f"mongodb_{uuid.uuid4().hex[:12]}"
    with MongoDB(url=f"{url.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")).open() as store:
        yield store
        store.database.client.drop_database(name)


def documents(*ids: str, n: int = 0) -> list[dict[str, Any]]:
    return [{"_id": id_, "n": n} for id_ in ids]


def test_what_is_inserted_again_stays_as_it_was_and_the_others_go_in(mongodb: MongoDB) -> None:
    """A drain that died before it acknowledged inserts its batch once more, among other messages."""
    mongodb.insert_new("logs", documents("a", "c"))
    mongodb.insert_new("logs", documents("a", "b", "c", "d", n=9))
    mongodb.insert_new("logs", [])
    assert {one["_id"]: one["n"] for one in mongodb.database.logs.find()} == {"a": 0, "b": 9, "c": 0, "d": 9}


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (bulk(11000, 11000), None),
        (bulk(11000, 121), StoreFailed),
        (bulk(11000, concern=91), StoreUnavailable),
    ],
)
def test_only_duplicates_are_no_error(error: Exception, raised: type[StoreError] | None) -> None:
    """A document that was refused for another reason would be lost: its message would be acknowledged."""

    def insert_many(*_: Any, **__: Any) -> None:
        raise error

    store = MongoDB(url="mongodb://h:1/d")
    store._client = SimpleNamespace(  # type: ignore[assignment]
        get_default_database=lambda _: {"logs": SimpleNamespace(insert_many=insert_many)}
    )
    with pytest.raises(raised) if raised else nullcontext():
        store.insert_new("logs", documents("a", "b"))


def test_ids_are_looked_up_in_as_many_queries_as_it_takes(mongodb: MongoDB) -> None:
    ids = [f"id-{number}" for number in range(2 * IDS_PER_QUERY + 1)]
    mongodb.insert_new("logs", documents(ids[0], ids[IDS_PER_QUERY], ids[-1], "other"))
    assert mongodb.which_ids("logs", ids) == {ids[0], ids[IDS_PER_QUERY], ids[-1]}
    assert mongodb.count_ids("logs", [*ids, ids[0]]) == 3, "an id that is asked for twice counts once"
    assert mongodb.which_ids("logs", []) == set()


def test_times_come_back_with_their_zone(mongodb: MongoDB) -> None:
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    mongodb.database.logs.insert_one({"_id": "a", "at": moment})
    [found] = mongodb.database.logs.find()
    assert (found["at"], found["at"].utcoffset()) == (moment, timedelta(0))


def test_a_probe_writes_one_document_however_often(mongodb: MongoDB) -> None:
    for _ in range(2):
        mongodb.probe()
    assert mongodb.database.write_probes.count_documents({}) == 1
