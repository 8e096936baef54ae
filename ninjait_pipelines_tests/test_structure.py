"""Which module may import which (the stages are the data's way: nothing runs back up), and which test file is whose."""

import ast
import functools
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ninjait_pipelines.paths import ROOT

PACKAGE = "ninjait_pipelines"
STAGES = ("ingest", "reference", "rollup", "tickets", "billing", "cache", "archive", "reports", "operations")
# What the domain is made of: these rooms know no store and no stage.
METRICS_MAY_IMPORT = {"metrics", "keys"}
# What later stages may import of a stage.
INTERFACE = {"assets"}
# A stage and the inside of another one that it may import all the same, each with its reason.
EXCEPTIONS = {("operations", "ingest.quarantine")}  # `store_health` tidies the quarantine and says how full it is

# Modules without a test file of their own, each kind with its reason.
EXEMPT = {
    # It lists what Dagster loads; test_definitions.py names what is missing there.
    *(f"{stage}.definitions" for stage in STAGES),
    "errors",  # one class without a body
    "paths",  # two constants
    # Interfaces: the contract's tests run on each implementation.
    "resources.message_queue",
    "resources.metrics_store",
}
# Calls of `setattr` in tests
MAX_REPLACED = 53
# Test files that are of no single module.
TOPICS = {
    # one way through many modules, or one promise of many
    "billing.test_automation",
    "billing.test_late_usage",
    "billing.test_taken_over",
    "billing.test_cases",
    "billing.test_second_computation",
    "cache.test_one_bad_row",
    "cache.test_unchanged",
    "faults.test_faults",
    "faults.test_random_cuts",
    "ingest.test_degraded",
    "ingest.test_drain_dies",
    "ingest.test_field_cases",
    "ingest.test_field_formats",
    "ingest.test_field_variants",
    "ingest.test_one_queue_alone",
    "ingest.test_repaired_ids",
    "ingest.test_round_trip",
    "ingest.test_third_party_agents",
    "ingest.test_third_party_servers",
    "operations.test_failed_checks",
    "operations.test_run_queue",
    "reports.test_weekly_edges",
    "rollup.test_tiers",
    # what every store must do
    "resources.test_disk_full",
    "resources.test_fences",
    "resources.test_hangs",
    "resources.test_named_servers",
    "resources.test_rights",
    "resources.test_secrets",
    "resources.test_tls",
    # what is no Python of the package: SQL, documents, the wheel, the tests themselves
    "test_databases",
    "test_docs",
    "test_migrations_stopped",
    "test_orphans",
    "test_platform_contract",
    "test_roles",
    "test_structure",
    "test_upgrade",
    "test_wheel",
    "test_words",
    # programs beside the package: .ci/audit.py, benchmarks/, servers/
    "test_audit",
    "benchmarks.test_figure",
    "benchmarks.test_page",
    "benchmarks.test_soak_accounts",
    "servers.test_build",
    "servers.test_engines",
}


def _modules() -> dict[str, Path]:
    """Name without the package's (`rollup.hours`) -> file."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


@functools.cache
def _imported(path: Path) -> tuple[str, ...]:
    """Everything that a file imports, at its top or in a function: modules, and names in them."""
    return tuple(_imports(ast.parse(path.read_text()), path))


def _imports(tree: ast.AST, path: Path) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _module_of(name: str) -> str | None:
    """The module of ours that an imported name is, or is in."""
    first, _, rest = name.partition(".")
    if first != PACKAGE:
        return None
    parts = rest.split(".")
    return next(".".join(parts[:end]) for end in range(len(parts), -1, -1) if ".".join(parts[:end]) in MODULES)


@functools.cache  # not while tests are collected: each worker would wait for it
def graph() -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports."""
    return {name: {found for one in _imported(path) if (found := _module_of(one))} for name, path in MODULES.items()}


def edges() -> list[tuple[str, str]]:
    return sorted((name, other) for name, others in graph().items() for other in others)


def _room(module: str) -> str:
    return module.partition(".")[0]


def test_modules_are_found() -> None:
    """An empty graph would pass every other test here."""
    assert {_room(name) for name in MODULES} > set(STAGES)
    assert ("archive.assets", "partitions") in edges()


def test_no_modules_import_each_other() -> None:
    try:
        graphlib.TopologicalSorter(graph()).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_product_does_not_need_the_local_stack() -> None:
    """Embedded engines, fleets and the demo are not in the image; commands import them when they are typed."""
    assert [edge for edge in edges() if _room(edge[1]) == "local" and _room(edge[0]) not in ("local", "cli")] == []


def test_stores_know_no_stage() -> None:
    assert [edge for edge in edges() if _room(edge[0]) == "resources" and _room(edge[1]) in STAGES] == []


def test_metrics_know_no_store_and_no_stage() -> None:
    assert [edge for edge in edges() if _room(edge[0]) == "metrics" and _room(edge[1]) not in METRICS_MAY_IMPORT] == []


def test_no_common_room_knows_a_stage() -> None:
    """Only what puts everything together does."""
    outside = {*STAGES, "resources", "local", "cli", "build", "definitions"}
    assert [edge for edge in edges() if _room(edge[0]) not in outside and _room(edge[1]) in STAGES] == []


def test_a_stage_knows_only_the_assets_of_earlier_stages() -> None:
    crossing = [(one, other) for one, other in edges() if {_room(one), _room(other)} <= {*STAGES}]
    crossing = [(one, other) for one, other in crossing if _room(one) != _room(other)]
    later = [edge for edge in crossing if STAGES.index(_room(edge[0])) < STAGES.index(_room(edge[1]))]
    inside = {(_room(one), ".".join(other.split(".")[:2])) for one, other in crossing}
    inside = {edge for edge in inside if edge[1].partition(".")[2] not in INTERFACE}
    assert later == []
    assert inside == EXCEPTIONS, "an exception that is no longer needed goes"


@pytest.mark.engines
def test_no_module_loads_polars_with_itself() -> None:
    """It costs a process 0.2 s and 37 MiB: commands and drains, which have no use for it, must not pay for it."""
    tops = {name: ast.parse(path.read_text()).body for name, path in MODULES.items()}
    imports = {
        (name, alias.name.partition(".")[0])
        for name, body in tops.items()
        for node in body
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert ("metrics.windows", "pyarrow") in imports
    assert [name for name, package in sorted(imports) if package == "polars"] == []


def test_private_names_of_dagster_are_in_one_module() -> None:
    private = {name for name, path in MODULES.items() if any(one.startswith("dagster._") for one in _imported(path))}
    assert private == {"dagster_compat"}


def test_no_test_file_imports_another_one() -> None:
    """What several need is in a module of its own: a helper that moves with its tests breaks tests elsewhere."""
    files = [*(ROOT / f"{PACKAGE}_tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    imports = {path: [name.split(".") for name in _imported(path)] for path in files}
    wrong = [
        f"{path.relative_to(ROOT)}: {'.'.join(parts)}"
        for path, found in imports.items()
        for parts in found
        if parts[0] == f"{PACKAGE}_tests" and any(part.startswith("test_") for part in parts[1:])
    ]
    assert len(files) > 100
    assert wrong == []


def test_tests_hand_faults_in() -> None:
    """A test that replaces a function or constant of a module passes where the product no longer uses it. What is left
    are clocks, third parties' functions, and what a command or asset makes for itself; there should be fewer of them,
    not more: a parameter, a field, or a store of a changed class (`runs.changed`) does it in the open."""
    calls = [
        node
        for path in TESTS.rglob("*.py")
        if "setattr" in (text := path.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "setattr"
    ]
    assert 10 < len(calls) <= MAX_REPLACED


TESTS = ROOT / f"{PACKAGE}_tests"
TEST_FILES = {".".join(path.relative_to(TESTS).with_suffix("").parts) for path in TESTS.rglob("test_*.py")}


def _test_of(module: str) -> str:
    """`ingest.sinks` -> `ingest.test_sinks`, `cli.__main__` -> `cli.test_main`."""
    *rooms, name = module.split(".")
    return ".".join([*rooms, f"test_{name.strip('_')}"])


def test_every_module_has_its_test_file() -> None:
    """Whoever changes a module finds its tests by its name."""
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    without = {name for name in MODULES.keys() - packages if _test_of(name) not in TEST_FILES}
    assert without == EXEMPT, "and a module that has its file needs no exemption"


def test_every_test_file_is_named_after_its_module_or_topic() -> None:
    """A file that keeps the name of a module that was renamed or removed is found by nobody."""
    assert TEST_FILES - {_test_of(name) for name in MODULES} == TOPICS
