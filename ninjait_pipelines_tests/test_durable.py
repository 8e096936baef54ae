"""A file is there whole or not at all, for its owner only, and what a failed writer began is gone."""

import resource
from pathlib import Path

import pytest

from ninjait_pipelines.durable import make_folder, write_whole


@pytest.mark.parametrize("survives_power_cut", [True, False])
def test_a_file_is_replaced_whole_and_is_its_owner_s(tmp_path: Path, survives_power_cut: bool) -> None:
    path = tmp_path / "file"
    for content in (b"one", b"two"):
        write_whole(path, content, survives_power_cut)
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (content, 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_up_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_whole(path, b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (list(tmp_path.iterdir()), path.read_bytes()) == ([path], b"before")


def test_folders_are_made_with_those_above_them(tmp_path: Path) -> None:
    for _ in range(2):
        make_folder(tmp_path / "one" / "two")
    assert (tmp_path / "one" / "two").stat().st_mode & 0o777 == 0o700
