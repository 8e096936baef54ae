"""An archive in a folder and on S3, for tests that hold both to the same promises."""

import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ninjait_pipelines.local.stack.servers import S3Gateway
from ninjait_pipelines.resources.archive.resource import Archive
from ninjait_pipelines_tests import conftest
from ninjait_pipelines_tests.local.stack.standalone_engine import alone

SMALLEST_PART = 5 * 2**20
# A test's day of two organizations is two objects.
FEW_ROWS = 2


def on_s3(settings: Mapping[str, str], prefix: str, **fields: Any) -> Archive:
    """An archive below the one that the settings name."""
    names = ("endpoint_url", "access_key_id", "secret_access_key", "session_token", "region")
    given = {name: settings.get(f"AWS_{name.upper()}") for name in names}
    url = f"{settings['ARCHIVE_URL'].rstrip('/')}/{prefix}"
    return Archive(
        **{"url": url, "part_bytes": SMALLEST_PART, "object_rows": FEW_ROWS, "timeout_seconds": 10, **given, **fields}
    )


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """Settings of the S3 that the environment names, else of a gateway of our own."""
    if conftest.NAMED.get("ARCHIVE_URL", "").startswith("s3:"):
        yield conftest.NAMED
        return
    with alone(S3Gateway, tmp_path_factory.mktemp("s3") / "gateway") as gateway:
        yield gateway.settings


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.servers)])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    """An empty archive, removed at the end."""
    if request.param == "folder":
        found = Archive(url=tmp_path.as_uri(), object_rows=FEW_ROWS)
    else:
        found = on_s3(request.getfixturevalue("s3"), f"test_{uuid.uuid4().hex}")
    with found.open():
        yield found
        for key in found.list_keys(""):
            found.delete(key)
