"""The wheel is all that a code location needs: the SQL is in it, the tests are not, and an empty folder will do."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ninjait_pipelines.paths import ROOT
from ninjait_pipelines_tests.nowhere import NOWHERE


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    build = [sys.executable, "-m", "pip", "wheel", *options, str(ROOT)]
    subprocess.run(build, check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_all_sql_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sql = {f"ninjait_pipelines/{path.relative_to(ROOT)}" for path in (ROOT / "sql").rglob("*.*")}
    assert any(name.endswith("schema.json") for name in sql)
    assert sql <= names
    assert {f"ninjait_pipelines/billing/paper/paper.{kind}" for kind in ("html", "typ")} <= names
    assert not [name for name in names if "tests" in name]


def test_the_wheel_alone_loads_the_definitions_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """0.3.0 read the SQL from the checkout, so an installed wheel failed with KeyError: 'metrics'."""
    site, empty = tmp_path / "site", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(site)
    empty.mkdir()
    script = (
        "import ninjait_pipelines, ninjait_pipelines.definitions as d;"
        "print(ninjait_pipelines.__file__, len(d.defs.resolve_asset_graph().materializable_asset_keys))"
    )
    environment = {**NOWHERE, "PYTHONPATH": str(site), "HOME": str(empty)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=empty, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    place, assets = done.stdout.split()
    assert Path(place).is_relative_to(site)
    assert int(assets) > 15
    assert not list(empty.iterdir())
