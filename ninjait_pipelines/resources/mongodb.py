"""MongoDB: application logs, the operators' audit trail, quarantined messages."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pymongo
import pymongo.errors
from pydantic import Field, PrivateAttr
from pymongo.database import Database

from ninjait_pipelines.resources.store import (
    OutOfSpace,
    Store,
    StoreFailed,
    StoreRefused,
    StoreUnavailable,
    is_out_of_space,
    tls_failure,
)
from ninjait_pipelines.settings import LOCAL_STACK
from ninjait_pipelines.urls import options_of, without_password

DATABASE = "ninjait"
IDS_A_QUERY = 1000
PROBES = "write_probes"
OUT_OF_DISK_SPACE = 14031
DUPLICATE_KEY = 11000
# Codes of errors that are about a document or a query, and quote it: a duplicate key, a failed validation, a bad value.
QUOTING = {2, 9, 14, 121, DUPLICATE_KEY}
# What an error says at most of a write of thousands of documents.
MAX_WORDS, MAX_CHARACTERS = 5, 2_000
# Codes of what passes: no primary for now, shutting down, a time limit.
PASSING = {50, 89, 91, 133, 189, 262, 9001, 10107, 11600, 11602, 13388, 13435, 13436}


class MongoDB(Store):
    """MongoDB through pymongo; wrap what you do with `database` in `errors()`.

    with MongoDB(url="mongodb://user:password@host/ninjait").open() as store, store.errors():
        store.database.quarantine.find_one({"_id": key})
    """

    title = "MongoDB"
    oldest = "7.0"

    url: str = Field(description="mongodb://user:password@host:port/database")
    timeout_seconds: int = Field(default=10, description="Longest wait for a server or an answer, seconds")

    spool_folder: str | None = Field(
        default=None,
        description="Folder where what is for the quarantine waits while MongoDB is away; must outlive the process. "
        "None: .ninjait/spool beside the package",
    )

    quarantine_limit_mib: str = Field(
        default="1024", description="What the quarantine holds at most, MiB; text, as a variable is"
    )

    _client: pymongo.MongoClient[dict[str, Any]] | None = PrivateAttr(default=None)

    @property
    def spool(self) -> Path:
        """The spool of this database: never of another one, whose drains may share the folder."""
        name = without_password(self.url).partition("://")[2].partition("/")[2].strip("/") or DATABASE
        return Path(self.spool_folder or LOCAL_STACK / "spool").absolute() / name

    @property
    def database(self) -> Database[dict[str, Any]]:
        """The database that the URL names. pymongo itself retries what is safe to retry."""
        if self._client is None:
            self._client = self._connect()
        return self._client.get_default_database(DATABASE)

    def _connect(self) -> pymongo.MongoClient[dict[str, Any]]:
        milliseconds = self.timeout_seconds * 1000
        try:
            return pymongo.MongoClient(
                self.url,
                tz_aware=True,
                serverSelectionTimeoutMS=milliseconds,
                connectTimeoutMS=milliseconds,
                socketTimeoutMS=milliseconds * 2,
                appname="ninjait-pipelines",
                **_tls(self.url, self.ca_file),
            )
        except ValueError as error:
            raise StoreFailed(self.title, self.url, error, "Check MONGODB_URL.") from error

    def _ping(self) -> tuple[str, int | None]:
        with self.errors():
            version = self.database.command("buildInfo")["version"]
            size = self.database.command("dbStats").get("storageSize")
        return str(version), None if size is None else int(size)

    def probe(self) -> None:
        with self.errors():
            now = {"$set": {"at": datetime.now(UTC)}}
            self.database[PROBES].update_one({"_id": "pipeline"}, now, upsert=True)

    def which_ids(self, collection: str, ids: Collection[str]) -> set[str]:
        """Which of these ids a collection has."""
        wanted = list(ids)
        with self.errors():
            return {
                document["_id"]
                for at in range(0, len(wanted), IDS_A_QUERY)
                for document in self.database[collection].find(
                    {"_id": {"$in": wanted[at : at + IDS_A_QUERY]}}, {"_id": 1}
                )
            }

    def insert_new(self, collection: str, documents: Sequence[dict[str, Any]]) -> None:
        """Inserts documents with the write concern of the URL; one whose `_id` exists already is left as it is."""
        if not documents:
            return
        with self.errors():
            try:
                self.database[collection].insert_many(documents, ordered=False)
            except pymongo.errors.BulkWriteError as error:
                exist = all(problem["code"] == DUPLICATE_KEY for problem in error.details["writeErrors"])
                # a write concern's error: written, but possibly rolled back later
                if not exist or error.details.get("writeConcernErrors"):
                    raise

    def count_ids(self, collection: str, ids: Sequence[str]) -> int:
        """How many documents with one of these ids a collection has."""
        return len(self.which_ids(collection, ids))

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns pymongo's errors into ours."""
        try:
            yield
        except pymongo.errors.OperationFailure as error:
            codes, said = _codes(error), _said(error)
            error.args = (said,)
            if OUT_OF_DISK_SPACE in codes or (codes.isdisjoint(QUOTING) and is_out_of_space(said)):
                raise OutOfSpace(self.title, self.url, said) from error
            if codes & {13, 18}:
                raise StoreRefused(self.title, self.url, said, "Check MONGODB_URL.") from error
            if codes & PASSING:
                raise StoreUnavailable(self.title, self.url, said, "See what runs with: ninjait status.") from error
            raise StoreFailed(self.title, self.url, said, "Read MongoDB's words above.") from error
        except pymongo.errors.ConnectionFailure as error:
            if failed := tls_failure(self.title, self.url, error, "MONGODB_URL", "MONGODB_CA_FILE"):
                raise failed from error
            problem = str(error).partition(" (configured timeouts")[0]
            raise StoreUnavailable(self.title, self.url, problem, "See what runs with: ninjait status.") from error
        except pymongo.errors.PyMongoError as error:
            raise StoreFailed(self.title, self.url, error, "Read the words above.") from error


def _tls(url: str, ca_file: str | None) -> dict[str, Any]:
    """TLS with this authority, unless the URL says tls=false; without one what the URL says."""
    options = {name.lower(): value.lower() for name, value in options_of(url).items()}
    if ca_file is None or options.get("tls", options.get("ssl")) == "false":
        return {}
    return {"tlsCAFile": ca_file}


def _codes(error: pymongo.errors.OperationFailure) -> set[int | None]:
    """The server's codes: of a bulk write, those of its single writes."""
    return {error.code, *(one.get("code") for one in _problems(error))}


def _said(error: pymongo.errors.OperationFailure) -> str:
    """The server's words. Of a bulk write those of its single writes: pymongo adds the documents, which are somebody's
    logs and messages, and may say of themselves that a disk is full."""
    if not isinstance(error, pymongo.errors.BulkWriteError):
        return str(error).partition(", full error: ")[0]
    words = dict.fromkeys(f"{one.get('errmsg')} (code {one.get('code')})" for one in _problems(error))
    return "; ".join(list(words)[:MAX_WORDS])[:MAX_CHARACTERS]


def _problems(error: pymongo.errors.OperationFailure) -> list[Mapping[str, Any]]:
    details = error.details or {}
    concerns = [*details.get("writeConcernErrors", ()), details.get("writeConcernError") or {}]
    return [*details.get("writeErrors", ()), *concerns]
