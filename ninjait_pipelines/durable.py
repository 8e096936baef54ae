"""Files that only their owner may read, and that appear complete or not at all."""

import os
import uuid
from pathlib import Path

# What a writer that was killed leaves: PART at the end of a name.
PART = ".part"


def write_whole(path: Path, content: bytes, survives_power_cut: bool = True) -> None:
    """Writes a file, over one that is there. Raises OSError if it cannot, and leaves nothing behind then.

    1. Write it beside, under a name of its own. Dying here: an unfinished file, whose name ends in PART.
    2. Rename it. Dying before the folder is synchronized: the file may be gone after a power cut, or be there.
    """
    part = path.with_name(f"{path.name}.{uuid.uuid4()}{PART}")
    try:
        with open(part, "xb", opener=private) as file:
            file.write(content)
            if survives_power_cut:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    if survives_power_cut:
        _sync(path.parent)


def make_folder(folder: Path) -> None:
    """Creates a folder with those above it, each recorded on the disk in the one that contains it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    _sync(folder.parent)


def private(path: str, flags: int) -> int:
    """An opener for `open`: a new file is its owner's alone."""
    return os.open(path, flags, 0o600)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
