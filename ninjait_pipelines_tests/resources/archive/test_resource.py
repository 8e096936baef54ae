"""What the archive promises, in a folder as on S3."""

import io
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ninjait_pipelines.resources.archive.errors import ObjectChanged, ObjectMissing
from ninjait_pipelines.resources.archive.resource import Archive
from ninjait_pipelines.resources.store import StoreFailed
from ninjait_pipelines_tests.archive import archive_backends

archive, s3 = archive_backends.archive, archive_backends.s3


def parquet(**columns: list[object]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


class TestArchive:
    """Each test on an empty archive in a folder, and with the marker `servers` on S3."""

    def test_an_object_is_there_once_it_is_written_and_gone_once_it_is_deleted(self, archive: Archive) -> None:
        assert (archive.list_keys("a"), archive.list_keys("")) == ([], [])
        assert not archive.exists("a/day=2026-01-01/b c+ü%41.json")
        archive.write("a/day=2026-01-01/b c+ü%41.json", b"1")
        archive.write("a/day=2026-01-01/b c+ü%41.json", b"22")
        archive.write("ab/empty", b"")
        assert archive.list_keys("a") == archive.list_keys("a/day=2026-01-01") == ["a/day=2026-01-01/b c+ü%41.json"]
        assert archive.list_keys("") == ["a/day=2026-01-01/b c+ü%41.json", "ab/empty"]
        assert (archive.read("a/day=2026-01-01/b c+ü%41.json"), archive.read("ab/empty")) == (b"22", b"")
        for _ in range(2):
            archive.delete("a/day=2026-01-01/b c+ü%41.json")
        assert archive.list_keys("") == ["ab/empty"]
        assert archive.status().ok

    def test_what_is_missing_is_a_named_error(self, archive: Archive) -> None:
        with pytest.raises(ObjectMissing, match="no object 'a/none'"):
            archive.read("a/none")
        with pytest.raises(ObjectMissing, match="no object 'a/none'"):
            archive.scan(["a/none"])

    def test_a_folder_of_objects_is_no_object(self, archive: Archive) -> None:
        archive.write("a/b/c", b"1")
        assert not archive.exists("a/b")

    def test_a_new_object_replaces_none(self, archive: Archive) -> None:
        archive.write("a/new", b"first", over=None)
        with pytest.raises(ObjectChanged, match="another run"):
            archive.write("a/new", b"second", over=None)
        assert archive.read("a/new") == b"first"
        assert archive.list_keys("") == ["a/new"], "nothing is left of the refused one"

    def test_a_version_is_replaced_once(self, archive: Archive) -> None:
        archive.write("a/one", b"1")
        seen = archive.version("a/one")
        archive.write("a/one", b"2", over=seen)
        with pytest.raises(ObjectChanged):
            archive.write("a/one", b"3", over=seen)
        assert archive.read("a/one") == b"2"
        archive.delete("a/one")
        with pytest.raises(ObjectChanged):
            archive.write("a/one", b"4", over=seen)
        assert not archive.exists("a/one")

    def test_a_large_object_comes_back_byte_for_byte(self, archive: Archive) -> None:
        data = bytes(range(256)) * (11 * 4096)
        archive.write("a/large", data, over=None)
        assert archive.read("a/large") == data
        with pytest.raises(ObjectChanged):
            archive.write("a/large", data[1:], over=None)
        seen = archive.version("a/large")
        archive.write("a/large", data[1:], over=seen)
        assert archive.read("a/large") == data[1:]

    def test_a_reader_sees_one_of_the_written_objects_whole(self, archive: Archive) -> None:
        contents = [bytes([number]) * 300_000 for number in range(4)]
        archive.write("a/shared", contents[0])
        with ThreadPoolExecutor(4) as pool:
            for writing in [pool.submit(archive.write, "a/shared", content) for content in contents * 3]:
                assert archive.read("a/shared") in contents
                writing.result()
        assert archive.list_keys("") == ["a/shared"]

    def test_a_scan_reads_columns_and_rows_of_many_objects(self, archive: Archive) -> None:
        archive.write("t/day=1/x=a/1.parquet", parquet(n=[1, 2], s=["a", "b"]))
        archive.write("t/day=1/x=b/2.parquet", parquet(n=[3], s=["c"]))
        keys = ["t/day=1/x=a/1.parquet", "t/day=1/x=b/2.parquet"]
        assert archive.scan(keys).to_pydict() == {"n": [1, 2, 3], "s": ["a", "b", "c"]}
        assert archive.scan(keys, ["s"]).to_pydict() == {"s": ["a", "b", "c"]}

    @pytest.mark.parametrize("key", ["../outside", "/etc/hostname", "a//b", "a/./b", "", "a\\b"])
    def test_a_key_never_leads_out_of_it(self, archive: Archive, key: str) -> None:
        """In a folder `..` and a leading slash are what they say."""
        for act in (
            lambda: archive.read(key),
            lambda: archive.write(key, b""),
            lambda: archive.delete(key),
            lambda: archive.version(key),
            lambda: archive.scan([key]),
        ):
            with pytest.raises(StoreFailed, match="is not a valid key"):
                act()


FILL = """
import resource, signal, sys
from ninjait_pipelines.resources.archive.resource import Archive
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
Archive(url=sys.argv[1]).write("reports/week.json", bytes(100_000))
"""


def test_a_full_disk_leaves_the_archive_as_it_was(tmp_path: Path) -> None:
    """A limit of the process stands for the disk: the same failed write, without a disk to fill."""
    archive = Archive(url=tmp_path.as_uri())
    archive.write("reports/week.json", b"old")
    done = subprocess.run([sys.executable, "-c", FILL, archive.url], capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(
        r"OutOfSpace: Archive at file:///.*: it is out of disk space: no room for 'reports/week.json'.*Free space", last
    )
    assert archive.read("reports/week.json") == b"old"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["week.json"]


def test_an_archive_without_its_folder_says_so(tmp_path: Path) -> None:
    with Archive(url=(tmp_path / "missing").as_uri()).open() as archive:
        status = archive.status()
        assert (status.ok, "Check ARCHIVE_URL" in status.problem) == (False, True)


def test_an_archive_in_a_folder_with_any_name(tmp_path: Path) -> None:
    """In a folder with a space the archive looked for one called "a%20folder"."""
    folder = tmp_path / "a folder's ü %41"
    folder.mkdir()
    with Archive(url=folder.as_uri()).open() as archive:
        archive.write("a/b", b"1")
        assert (archive.status().ok, archive.list_keys("a"), (folder / "a" / "b").read_bytes()) == (True, ["a/b"], b"1")


def test_an_archive_object_is_whole_or_not_there(tmp_path: Path) -> None:
    with Archive(url=tmp_path.as_uri()).open() as archive:
        assert archive.list_keys("a") == []
        archive.write("a/day=2026-01-01/b.parquet", b"1")
        archive.write("a/day=2026-01-01/b.parquet", b"22")
        (tmp_path / "a" / "killed.1.unfinished").write_bytes(b"half of")
        assert archive.list_keys("a") == ["a/day=2026-01-01/b.parquet"]
        assert archive.read("a/day=2026-01-01/b.parquet") == b"22"
        assert (archive.exists("a/day=2026-01-01/b.parquet"), archive.exists("a/none")) == (True, False)
        with pytest.raises(StoreFailed, match=r"no object 'a/none'"):
            archive.read("a/none")
        archive.delete("a/day=2026-01-01/b.parquet")
        archive.delete("a/day=2026-01-01/b.parquet")
        assert archive.list_keys("a") == []
        assert archive.status().size_bytes == len(b"half of")
