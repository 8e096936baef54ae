"""Puts older engines of ClickHouse into .servers, for the tests: each a wheel of chDB, unpacked into a folder.

`make servers` runs it, after build.py and with the same Python. What `servers/clickhouse-VERSION.txt` names is
installed into `.servers/clickhouse-VERSION`; what is there already is left alone. Run the tests on one of them with
`pytest --clickhouse VERSION`.
"""

# ruff: noqa: T201 -- printing is what it does
from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
import venv
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / ".servers"


def main() -> int:
    for requirements in sorted(HERE.glob("clickhouse-*.txt")):
        if missing(requirements) and not install(requirements):
            return 1
    return 0


def missing(requirements: Path) -> bool:
    """Whether the folder is not there, or was made from other requirements."""
    made_from = FOLDER / requirements.stem / requirements.name
    return not made_from.exists() or made_from.read_bytes() != requirements.read_bytes()


def install(requirements: Path) -> bool:
    """Unpacks beside the folder first: killed on the way, there is no folder, and the next run does it again."""
    began, folder = time.monotonic(), FOLDER / requirements.stem
    print(f"{requirements.stem}, 150 MB to fetch, 500 MB on disk ...", flush=True)
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as draft:
        python = sys.executable
        if find_spec("pip") is None:
            venv.create(f"{draft}/venv", with_pip=True)
            python = f"{draft}/venv/bin/python"
        command = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
        command += ["--only-binary=:all:", "--require-hashes", "-r", str(requirements), "--target", f"{draft}/packages"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            advice = "Is there a network, and does pip reach its index?"
            print(f"{requirements.stem} could not be installed. {advice}\n{done.stderr.strip()}", file=sys.stderr)
            return False
        shutil.copy(requirements, f"{draft}/packages")
        shutil.rmtree(folder, ignore_errors=True)
        Path(draft, "packages").rename(folder)
    print(f"  {requirements.stem}: done, {time.monotonic() - began:.0f} s", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
