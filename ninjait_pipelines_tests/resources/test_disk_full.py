"""A full disk is named for what it is, in every store's own words."""

import errno
from typing import Any

import psycopg
import pymongo.errors
import pytest
import redis.exceptions
from botocore.exceptions import ClientError
from clickhouse_connect.driver.exceptions import DatabaseError
from influxdb_client.rest import ApiException

from ninjait_pipelines.resources.archive.bucket import Bucket
from ninjait_pipelines.resources.archive.resource import arrow_errors
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.influxdb.resource import InfluxDB
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import OutOfSpace, StoreFailed, StoreUnavailable

CLICKHOUSE = ClickHouse(url="http://h:1", user="u", password="p", database="d")
INFLUXDB = InfluxDB(url="http://h:1", token="t", organization="o", bucket="b")
DRAGONFLY = Dragonfly(url="redis://h:1")
MONGODB = MongoDB(url="mongodb://h:1/d")
POSTGRES = Postgres(url="postgresql://u@h:1/d")


def api_error(status: int, words: str) -> ApiException:
    error = ApiException(status=status, reason="Internal Server Error")
    error.body = words
    return error


def bucket() -> Any:
    return Bucket(
        "s3://b/p", "b", "p", 5, 1 << 20, 60, endpoint_url="http://h:1", aws_access_key_id="k",
        aws_secret_access_key="s", region_name="r",
    )  # fmt: skip


def said_by_s3(code: str, status: int, words: str) -> ClientError:
    answer = {"Error": {"Code": code, "Message": words}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "PutObject")  # type: ignore[arg-type]


BULK = {"writeErrors": [{"code": 14031, "errmsg": "available disk space of 0 bytes is less than required minimum"}]}
FULL: dict[str, tuple[Any, Exception]] = {
    "ClickHouse 243": (CLICKHOUSE.errors, DatabaseError("Code: 243. DB::Exception: Cannot reserve 1.00 MiB")),
    "ClickHouse's own disk": (CLICKHOUSE.errors, DatabaseError("Code: 75. errno: 28, No space left on device")),
    "InfluxDB": (INFLUXDB.errors, api_error(500, '{"message": "write /wal/1: no space left on device"}')),
    "PostgreSQL": (POSTGRES.errors, psycopg.errors.DiskFull("could not extend file")),
    "MongoDB": (MONGODB.errors, pymongo.errors.OperationFailure("no", 14031, {"code": 14031})),
    "MongoDB, a bulk write": (MONGODB.errors, pymongo.errors.BulkWriteError(BULK)),
    "the local MongoDB": (MONGODB.errors, pymongo.errors.OperationFailure("database or disk is full", 8)),
    "Redis's log": (
        DRAGONFLY.errors,
        redis.exceptions.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"),
    ),
    "S3": (lambda: bucket()._errors("key"), said_by_s3("XMinioStorageFull", 507, "Storage backend has reached its")),
    "S3 from a file system": (
        lambda: bucket()._errors("key"),
        said_by_s3("InternalError", 500, "no space left on device"),
    ),
    "a folder": (lambda: arrow_errors("file:///x", "key"), OSError(errno.ENOSPC, "No space left on device")),
}


@pytest.mark.parametrize("store", FULL)
def test_it_is_called_that_and_is_waited_for(store: str) -> None:
    """A full disk was a request that is wrong, an internal error or a refused message: a person looked elsewhere."""
    turned, error = FULL[store]
    with pytest.raises(OutOfSpace, match=r"out of disk space: .*Free space") as raised, turned():
        raise error
    assert isinstance(raised.value, StoreUnavailable)


def test_other_words_are_not_taken_for_it() -> None:
    with pytest.raises(StoreFailed), CLICKHOUSE.errors():
        raise DatabaseError("Code: 62. DB::Exception: Syntax error")
    with pytest.raises(StoreUnavailable) as raised, CLICKHOUSE.errors():
        raise DatabaseError("Code: 241. DB::Exception: (total) memory limit exceeded")
    assert not isinstance(raised.value, OutOfSpace)


DUPLICATE = {"writeErrors": [{"code": 11000, "errmsg": 'E11000 duplicate key error dup key: { _id: "StorageFull" }'}]}
NOT_FULL: dict[str, tuple[Any, Exception]] = {
    "ClickHouse": (
        CLICKHOUSE.errors,
        DatabaseError("Code: 26. DB::Exception: Cannot parse 'no space left on device'"),
    ),
    "InfluxDB": (INFLUXDB.errors, api_error(422, '{"message": "partial write: oldest point x,host=StorageFull"}')),
    "InfluxDB, a bad line": (INFLUXDB.errors, api_error(400, '{"message": "unable to parse: OutOfDiskSpace"}')),
    "MongoDB": (MONGODB.errors, pymongo.errors.BulkWriteError({**DUPLICATE, "writeConcernErrors": []})),
    "Redis": (
        DRAGONFLY.errors,
        redis.exceptions.ResponseError(
            "Command # 1 (XADD q * body no space left of pipeline caused error: x) of pipeline caused error: WRONGTYPE"
        ),
    ),
    "S3": (lambda: bucket()._errors("disk full"), said_by_s3("InvalidArgument", 400, "disk full is no valid key")),
}


@pytest.mark.parametrize("store", NOT_FULL)
def test_what_somebody_sent_is_not_taken_for_it(store: str) -> None:
    """A host that was called like a full disk, in a message that a store refused, stopped everybody's drains."""
    turned, error = NOT_FULL[store]
    with pytest.raises(StoreFailed), turned():
        raise error
