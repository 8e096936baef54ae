"""The documents are true: what they name exists, and what exists is named."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from ninjait_pipelines.build import build_defs
from ninjait_pipelines.cli import app
from ninjait_pipelines.resources.message_queue import QUEUES
from ninjait_pipelines.resources.metrics_store import FIELDS
from ninjait_pipelines.settings import OPTIONAL, REQUIRED, ROOT
from ninjait_pipelines_tests.test_definitions import NOWHERE

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page.name: page.read_text() for page in PAGES}
ALL = "\n".join(TEXT.values())
CONTRACTS = TEXT["contracts.md"]
OTHER_VARIABLES = {"DAGSTER_HOME", "DAGSTER_DATABASE_URL", "PYTHON"}


def commands() -> set[str]:
    """Every command as it is typed: "migrate up"."""

    return set(_help_by_command())


def _help_by_command() -> dict[str, str]:
    def walk(command: Any, *words: str) -> Iterator[tuple[str, str]]:
        if not hasattr(command, "commands"):
            yield " ".join(words), command.help or ""
        for name, sub in getattr(command, "commands", {}).items():
            yield from walk(sub, *words, name)

    found = dict(walk(typer.main.get_command(app)))
    assert len(found) > 10
    return found


def test_every_command_is_documented() -> None:
    missing = [command for command in commands() if f"ninjait {command}" not in ALL]
    assert not missing


def test_documented_commands_exist() -> None:
    known = commands()
    first_words = {command.split()[0] for command in known}
    typed = re.findall(r"(?:^|[`/( ])ninjait ([a-z]+)((?: [a-z]+)?)", ALL, re.M)
    assert typed
    for first, second in typed:
        assert first in first_words, f"the documents name `ninjait {first}`, which does not exist"
        if f"{first}{second}" not in known:
            assert first in known or not second, f"the documents name `ninjait {first}{second}`, which does not exist"


def test_every_command_has_help_with_an_example() -> None:
    for name, text in _help_by_command().items():
        assert f"ninjait {name}" in text, f"`ninjait {name} --help` shows no example"


def test_variables() -> None:
    known = set(REQUIRED) | set(OPTIONAL) | OTHER_VARIABLES
    missing = [name for name in known - {"PYTHON"} if f"`{name}`" not in CONTRACTS]
    assert not missing
    named = set(re.findall(r"`([A-Z]+_(?:URL|USER|PASSWORD|DATABASE|HOME))`", ALL))
    assert named <= known


def test_queues_and_fields() -> None:
    for name in (*QUEUES, *FIELDS):
        assert f"`{name}`" in CONTRACTS


def test_reasons_of_quarantine() -> None:
    source = "".join(path.read_text() for path in (ROOT / "ninjait_pipelines" / "ingest").glob("*.py"))
    raised = r'Refused\((?:"\w+" if \w+ else )?"(\w+)"'
    reasons = {*re.findall(raised, source), *re.findall(r'Refused\("(\w+)"', source)} - {"not_one_of_"}
    assert len(reasons) > 30
    assert not [reason for reason in reasons if f"`{reason}`" not in CONTRACTS]


def test_assets() -> None:
    assets = {key.to_user_string() for key in build_defs(NOWHERE).resolve_asset_graph().materializable_asset_keys}
    section = CONTRACTS.split("## Assets")[1]
    named = {name for row in section.splitlines() if row.startswith("|") for name in re.findall(r"`(\w+)`", row)}
    assert named == assets


@pytest.mark.parametrize("store", ["clickhouse", "postgres"])
def test_tables(store: str) -> None:
    files = sorted((ROOT / "sql" / store).glob("*.sql"))
    ddl = "\n".join(path.read_text().split("-- migrate: down")[0] for path in files)
    made = re.findall(r"^CREATE (?:TABLE|VIEW) (?:IF NOT EXISTS )?([\w.]+)", ddl, re.M)
    tables = set(made) - set(re.findall(r"^DROP (?:TABLE|VIEW) (?:IF EXISTS )?([\w.]+)", ddl, re.M))
    missing = [table for table in tables if not table.endswith("_versions") and f"`{table}`" not in CONTRACTS]
    assert tables
    assert not missing


def test_linked_files_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)\b", "\n".join(re.findall(r"`[^`\n]+`|^    .+$", ALL, re.M)))):
        assert re.search(rf"^{target}:", makefile, re.M), f"the documents name `make {target}`"


def test_every_dependency_has_its_line() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    names = {re.match(r"[A-Za-z0-9_.-]+", line)[0] for line in wanted}  # type: ignore[index]
    missing = [name for name in names if not name.startswith("types-") and name not in TEXT["dependencies.md"]]
    assert not missing


def test_compose_pins_checks_and_keeps() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert {"rabbitmq", "influxdb", "dragonfly", "clickhouse", "postgres", "mongodb", "minio"} < set(services)
    for name, service in services.items():
        assert re.search(r":\D*\d+\.\d+|:RELEASE\.\d{4}", service["image"]), f"{name}'s image has no exact version"
        if name != "migrate":
            assert "healthcheck" in service, f"{name} has no health check"
        if "build" not in service:
            assert service["volumes"], f"{name} keeps nothing over a restart"


def test_no_file_names_a_package_index_or_a_machine() -> None:
    """A clone of this repository works wherever packages come from."""
    pattern = re.compile(r"https?://[^\s\"']*(?:pypi|pythonhosted|npmjs|debian\.org)|/(?:root|home)/\w")
    folders = ["ninjait_pipelines", "ninjait_pipelines_tests", "sql", "docs", "benchmarks", ".ci"]
    found = [*ROOT.iterdir(), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    texts = [path for path in found if path.is_file() and path.suffix not in {".png", ".pyc"}]
    assert len(texts) > 100
    for path in texts:
        assert path == Path(__file__) or not pattern.search(path.read_text()), path
