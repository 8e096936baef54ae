"""MongoDB: application logs, the operators' audit trail, quarantined messages."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pymongo
import pymongo.errors
from pydantic import Field, PrivateAttr
from pymongo.database import Database

from ninjait_pipelines.paths import LOCAL_STACK
from ninjait_pipelines.resources.store import (
    SEE_STATUS,
    OutOfSpace,
    Store,
    StoreError,
    StoreFailed,
    StoreRefused,
    StoreUnavailable,
    is_out_of_space,
    tls_failure,
)
from ninjait_pipelines.urls import options_of, without_password

DATABASE = "ninjait"
IDS_PER_QUERY = 1000
PROBES = "write_probes"
OUT_OF_DISK_SPACE = 14031
DUPLICATE_KEY = 11000
# Codes of errors that quote the document or the query: duplicate key, failed validation, bad value.
QUOTING = {2, 9, 14, 121, DUPLICATE_KEY}
# Limits for the error message of a write of thousands of documents.
MAX_MESSAGES, MAX_CHARACTERS = 5, 2_000
# Codes of temporary failures: no primary at the moment, shutting down, a time limit.
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
        description="Folder where quarantined messages wait while MongoDB is unavailable; must outlive the process. "
        "None: .ninjait/spool beside the package",
    )

    quarantine_limit_mib: int = Field(default=1024, description="Size limit of the quarantine, MiB")

    _client: pymongo.MongoClient[dict[str, Any]] | None = PrivateAttr(default=None)

    @property
    def spool(self) -> Path:
        """The spool of this database alone: other databases' drains may share the folder."""
        name = without_password(self.url).partition("://")[2].partition("/")[2].strip("/") or DATABASE
        return Path(self.spool_folder or LOCAL_STACK / "spool").absolute() / name

    @property
    def database(self) -> Database[dict[str, Any]]:
        """The database named in the URL. pymongo retries what is safe to retry."""
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
        except (ValueError, OSError, pymongo.errors.ConfigurationError) as error:  # OSError: an option names a file
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
        """Those of the ids that exist in a collection."""
        wanted = list(ids)
        with self.errors():
            return {
                document["_id"]
                for at in range(0, len(wanted), IDS_PER_QUERY)
                for document in self.database[collection].find(
                    {"_id": {"$in": wanted[at : at + IDS_PER_QUERY]}}, {"_id": 1}
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
        """How many of the ids exist in a collection."""
        return len(self.which_ids(collection, ids))

    def _translate(self, error: Exception) -> StoreError | None:
        match error:
            case pymongo.errors.OperationFailure():
                return self._server_error(error)
            case pymongo.errors.ConnectionFailure():
                if untrusted := tls_failure(self.title, self.url, error, "MONGODB_URL", "MONGODB_CA_FILE"):
                    return untrusted
                problem = str(error).partition(" (configured timeouts")[0]
                return StoreUnavailable(self.title, self.url, problem, SEE_STATUS)
            case pymongo.errors.PyMongoError():
                return StoreFailed(self.title, self.url, error, "See the message above.")
        return None

    def _server_error(self, error: pymongo.errors.OperationFailure) -> StoreError:
        codes, message = _codes(error), _message(error)
        error.args = (message,)
        if OUT_OF_DISK_SPACE in codes or (codes.isdisjoint(QUOTING) and is_out_of_space(message)):
            return OutOfSpace(self.title, self.url, message)
        if codes & {13, 18}:
            return StoreRefused(self.title, self.url, message, "Check MONGODB_URL.")
        if codes & PASSING:
            return StoreUnavailable(self.title, self.url, message, SEE_STATUS)
        return StoreFailed(self.title, self.url, message, "See MongoDB's message above.")


def _tls(url: str, ca_file: str | None) -> dict[str, Any]:
    """TLS with this authority, unless the URL has tls=false; without an authority, whatever the URL has."""
    options = {name.lower(): value.lower() for name, value in options_of(url).items()}
    if ca_file is None or options.get("tls", options.get("ssl")) == "false":
        return {}
    return {"tlsCAFile": ca_file}


def _codes(error: pymongo.errors.OperationFailure) -> set[int | None]:
    """The server's codes; for a bulk write, also those of its single writes."""
    return {error.code, *(problem.get("code") for problem in _problems(error))}


def _message(error: pymongo.errors.OperationFailure) -> str:
    """The server's message; for a bulk write, those of its single writes, without the documents that pymongo adds:
    those are logs and messages, whose text may mention a full disk."""
    if not isinstance(error, pymongo.errors.BulkWriteError):
        return str(error).partition(", full error: ")[0]
    messages = dict.fromkeys(f"{problem.get('errmsg')} (code {problem.get('code')})" for problem in _problems(error))
    return "; ".join(list(messages)[:MAX_MESSAGES])[:MAX_CHARACTERS]


def _problems(error: pymongo.errors.OperationFailure) -> list[Mapping[str, Any]]:
    details = error.details or {}
    concerns = [*details.get("writeConcernErrors", ()), details.get("writeConcernError") or {}]
    return [*details.get("writeErrors", ()), *concerns]
