"""PostgreSQL's roles as sql/roles/postgres.sql makes them: each can do its work, and nothing beyond it."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from ninjait_pipelines.billing import assets as billing
from ninjait_pipelines.billing.documents import invoices
from ninjait_pipelines.billing.export import export, record
from ninjait_pipelines.local.stack import engines
from ninjait_pipelines.migrations import migrate_up, status
from ninjait_pipelines.operations.audit_logs import delete_expired
from ninjait_pipelines.paths import ROOT, SQL
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import StoreRefused
from ninjait_pipelines_tests import conftest
from ninjait_pipelines_tests.local.stack.standalone_engine import alone
from ninjait_pipelines_tests.reference.rows import ALL, CHECKS, add_one_of_each
from ninjait_pipelines_tests.runs import passed, run

SCRIPT = (SQL / "roles" / "postgres.sql").read_text()
ROLES = ("ninjait_owner", "ninjait_pipelines", "ninjait_reader", "ninjait_dagster")
FORBIDDEN = [
    ("ninjait_pipelines", "UPDATE organizations SET name = 'x'"),
    ("ninjait_pipelines", "DELETE FROM tickets"),
    ("ninjait_pipelines", "CREATE TABLE mine (x int)"),
    ("ninjait_pipelines", "DROP TABLE billing.invoices"),
    ("ninjait_pipelines", "TRUNCATE billing.invoices"),
    ("ninjait_pipelines", "ALTER TABLE billing.invoices DISABLE TRIGGER ALL"),
    ("ninjait_pipelines", "SET session_replication_role = replica"),
    ("ninjait_pipelines", "DELETE FROM billing.series"),
    ("ninjait_pipelines", "UPDATE billing.sellers SET name = 'x'"),
    ("ninjait_pipelines", "DELETE FROM billing.changed_terms"),
    ("ninjait_pipelines", "DELETE FROM billing.exports"),
    ("ninjait_pipelines", "UPDATE billing.agreement_items SET included = 9"),
    ("ninjait_pipelines", "INSERT INTO billing.price_versions (price_id, version) SELECT id, 9 FROM billing.prices"),
    ("ninjait_pipelines", "SELECT * FROM pg_authid"),
    ("ninjait_pipelines", "SELECT pg_read_file('/etc/passwd')"),
    ("ninjait_pipelines", "COPY organizations TO PROGRAM 'cat'"),
    ("ninjait_owner", "COPY organizations TO PROGRAM 'cat'"),
    ("ninjait_owner", "CREATE ROLE another"),
    ("ninjait_reader", "DELETE FROM billing.invoices"),
    ("ninjait_reader", "INSERT INTO audit.audit_logs DEFAULT VALUES"),
    ("ninjait_pipelines", "DELETE FROM audit.audit_logs"),
    ("ninjait_reader", "SELECT audit.delete_expired(366, 1)"),
    ("ninjait_dagster", "SELECT * FROM organizations"),
    ("ninjait_pipelines", "SELECT password_hash FROM users"),
    ("ninjait_pipelines", "SELECT * FROM users"),
    ("ninjait_reader", "SELECT password_hash FROM users"),
]
As = Callable[[str], Postgres]


@pytest.fixture
def as_role(stack: dict[str, str], settings: dict[str, str]) -> Iterator[As]:
    """The test's PostgreSQL by one of the roles; the script is run twice, as it may be."""
    superuser = settings["DATABASE_URL"]
    with psycopg.connect(superuser, autocommit=True) as connection:
        for _ in range(2):
            connection.execute(SCRIPT.encode())
        for role in ROLES:
            connection.execute(f"ALTER ROLE {role} PASSWORD 'of-the-test'".encode())
    with ExitStack() as opened:

        def by(role: str) -> Postgres:
            parts = urlsplit(superuser)
            host = parts.netloc.rpartition("@")[2]
            url = parts._replace(netloc=f"{role}:of-the-test@{host}").geturl()
            return opened.enter_context(Postgres(url=url).open())

        yield by
    with psycopg.connect(superuser, autocommit=True) as connection:
        for role in ROLES:
            connection.execute(
                f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}".encode()
            )


@pytest.fixture
def settings(stack: dict[str, str], tmp_path: Path) -> Iterator[dict[str, str]]:
    """Fresh databases, that nobody has migrated yet."""
    found = conftest.fresh(stack, f"roles_{next(conftest._numbers)}", tmp_path)
    yield found
    conftest.drop(stack, found)


@pytest.fixture
def stores(settings: dict[str, str], as_role: As) -> Iterator[Stores]:
    """The stores, migrated by the owner; PostgreSQL by the owner as well."""
    with open_stores(conftest.validate(settings)) as opened:
        owned = dataclasses.replace(opened, postgres=as_role("ninjait_owner"))
        migrate_up(owned.postgres, owned.clickhouse)
        yield owned


def test_the_pipeline_works_by_a_role_that_is_no_superuser(stores: Stores, as_role: As) -> None:
    """Documentation and compose gave it the superuser of the cluster."""
    pipelines = as_role("ninjait_pipelines")
    add_one_of_each(stores)
    stores = dataclasses.replace(stores, postgres=pipelines)
    assert pipelines.status().ok
    assert all(passed(run(stores, *ALL, *CHECKS)).values())
    run(stores, billing.billing_events, key="2026-02-01")
    run(stores, invoices, key="2026-02-01")
    assert pipelines.rows("SELECT count(*) AS n FROM billing.invoices")[0]["n"] == 1
    run(stores, invoices, key="2026-02-01")
    assert record(pipelines, export(pipelines, date(2026, 2, 1)))
    assert delete_expired(pipelines, 366) == 0
    assert {one.state for one in status(pipelines, stores.clickhouse)} == {"applied"}
    facts = pipelines.rows("SELECT rolsuper OR rolcreatedb OR rolcreaterole AS much FROM pg_roles WHERE rolname = user")
    assert not facts[0]["much"]


def test_what_a_role_may_not_do(stores: Stores, as_role: As) -> None:
    """And what later migrations make may be read, and written where a migration grants it."""
    for role, statement in FORBIDDEN:
        with pytest.raises(StoreRefused, match=r"permission denied|must be owner"):  # noqa: SIM117
            with as_role(role).transaction() as connection:
                connection.execute(statement.encode())
    with stores.postgres.transaction() as connection:
        connection.execute("CREATE TABLE later (x int); CREATE TABLE billing.later (x int)")
    assert as_role("ninjait_reader").rows("SELECT * FROM later, billing.later") == []
    for role in ("ninjait_reader", "ninjait_pipelines"):
        with pytest.raises(StoreRefused, match="permission denied"), as_role(role).transaction() as connection:
            connection.execute("INSERT INTO billing.later VALUES (1)")


def test_tables_that_a_superuser_has_made_are_handed_over(settings: dict[str, str], as_role: As) -> None:
    """An installation of an earlier version: `migrate up` ran as the superuser."""
    with open_stores(conftest.validate(settings)) as opened:
        migrate_up(opened.postgres, opened.clickhouse)
        with opened.postgres.transaction() as connection:
            connection.execute(SCRIPT.encode())
    with as_role("ninjait_owner").transaction() as connection:
        connection.execute("ALTER TABLE organizations ADD COLUMN later int; DROP TABLE billing.invoice_lines")
    with as_role("ninjait_pipelines").transaction() as connection:
        connection.execute("DELETE FROM billing.invoices")
    assert delete_expired(as_role("ninjait_pipelines"), 366) == 0
    owner = "SELECT pg_get_userbyid(proowner) AS owner FROM pg_proc WHERE proname = 'delete_expired'"
    assert as_role("ninjait_reader").rows(owner) == [{"owner": "ninjait_owner"}]
    assert as_role("ninjait_reader").rows("SELECT later FROM organizations") == []


class Granted(engines.ClickHouse):
    """The local ClickHouse whose user has a role's rights."""

    program = "ninjait_pipelines_tests.granted_clickhouse"
    role = "ninjait_owner"

    def environment(self) -> dict[str, str]:
        return super().environment() | {"ROLE": self.role, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def clickhouse_as(
    settings: dict[str, str], tmp_path: Path, clickhouse_version: str
) -> Iterator[Callable[[str], Stores]]:
    """The stores, ClickHouse's user with the rights of a role; of its own data, which stays."""
    with alone(Granted, tmp_path / "clickhouse") as server, ExitStack() as opened:

        def by(role: str) -> Stores:
            server.stop()
            server.engine.role = role  # type: ignore[attr-defined]
            server.start()
            return opened.enter_context(open_stores(conftest.validate({**settings, **server.settings})))

        yield by


OUR_CODE = [path for path in (ROOT / "ninjait_pipelines").rglob("*.py") if path.parent.name not in ("stack", "demo")]
FORBIDDEN_IN_CLICKHOUSE = [
    ("ninjait_pipelines", "CREATE TABLE mine (x Int8) ENGINE = Memory"),
    ("ninjait_pipelines", "DROP TABLE organizations_versions"),
    ("ninjait_pipelines", "TRUNCATE TABLE organizations_versions"),
    ("ninjait_pipelines", "ALTER TABLE organizations_versions ADD COLUMN x Int8"),
    ("ninjait_pipelines", "ALTER TABLE organizations_versions UPDATE name = '' WHERE 1"),
    ("ninjait_pipelines", "SELECT * FROM system.users"),
    ("ninjait_pipelines", "CREATE USER another"),
    ("ninjait_reader", "INSERT INTO touched_events (kind) VALUES ('x')"),
    ("ninjait_reader", "ALTER TABLE organizations_versions DELETE WHERE 1"),
    ("ninjait_owner", "CREATE USER another"),
    ("ninjait_owner", "SELECT * FROM system.users"),
]


def test_the_pipeline_works_by_the_rights_of_its_clickhouse_user(clickhouse_as: Callable[[str], Stores]) -> None:
    """Only ClickHouse's parser had read them. What the engine here does not do as a server does by default: refuse
    tables of `system` that the user has no right to; nothing asks any but tables and columns, which everybody may read.
    """
    owner = clickhouse_as("ninjait_owner")
    migrate_up(owner.postgres, owner.clickhouse)
    assert {one.state for one in status(owner.postgres, owner.clickhouse)} == {"applied"}
    add_one_of_each(owner)
    _refused(owner, "ninjait_owner")
    stores = clickhouse_as("ninjait_pipelines")
    assert stores.clickhouse.status().ok, stores.clickhouse.status().problem
    stores.clickhouse.probe()
    for _ in range(2):  # the second time there is something to replace
        assert all(passed(run(stores, *ALL, *CHECKS)).values())
        run(stores, billing.billing_events, key="2026-02-01")
        run(stores, invoices, key="2026-02-01")
    assert stores.clickhouse.scalar("SELECT count() FROM invoices") == 1
    _refused(stores, "ninjait_pipelines")
    asked = {path: set(re.findall(r"FROM system\.(\w+)", path.read_text())) for path in OUR_CODE}
    assert set.union(*asked.values()) == {"tables", "columns"}
    reader = clickhouse_as("ninjait_reader")
    assert reader.clickhouse.scalar("SELECT count() FROM invoices") == 1
    _refused(reader, "ninjait_reader")


def _refused(stores: Stores, role: str) -> None:
    for statement in (statement for whose, statement in FORBIDDEN_IN_CLICKHOUSE if whose == role):
        with pytest.raises(StoreRefused):
            stores.clickhouse.command(statement)
